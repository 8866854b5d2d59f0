"""crosspress - cheap all-to-all for Mixture-of-Experts on ordinary networks

    import crosspress
    comm = crosspress.Comm()                       # ranks from the launcher's environment
    plan = comm.plan(4096, 'bf16', max_send_rows=8192, max_recv_rows=8192, mode='bounded', eps=0.03)
    rows = plan.alltoallv(x, send_rows, recv_rows)

The C header crosspress.h is the manual; names and meanings are the same here. crosspress.torch has the torch parts.

SPDX-License-Identifier: Apache-2.0
"""
from ._lib import lib as _library
from .comm import Comm, ThreadGroup
from .errors import CallerError, CorruptError, Error, GroupError, InternalError, MachineError
from .moe import MoePlan, Routing
from .plan import Plan, Request
from .rows import BFloat16, bf16_from_f32, f32_from_bf16

__version__ = _library.xp_version().decode()
__all__ = ['Comm', 'ThreadGroup', 'Plan', 'Request', 'MoePlan', 'Routing', 'BFloat16', 'bf16_from_f32', 'f32_from_bf16',
           'Error', 'CallerError', 'MachineError', 'GroupError', 'CorruptError', 'InternalError']
