"""crosspress.torch - a torch.distributed backend whose all-to-alls run over crosspress, and MoE layers

    import crosspress.torch
    torch.distributed.init_process_group('crosspress')

SPDX-License-Identifier: Apache-2.0
"""
from .backend import ProcessGroupCrosspress, configure
from .functional import combine, dispatch, route
from .group import comm
from .layer import MoELayer

__all__ = ['ProcessGroupCrosspress', 'configure', 'comm', 'MoELayer', 'route', 'dispatch', 'combine']
