"""comm.py - a group of ranks

SPDX-License-Identifier: Apache-2.0
"""
import ctypes
import weakref
from ctypes import byref

from . import _lib
from ._lib import lib
from .handle import Handle


class ThreadGroup:
    """Threads of one process that each create one rank: `Comm(threads=group, rank=r)`."""

    def __init__(self, nranks):
        handle = ctypes.c_void_p()
        _lib.check(lib.xp_thread_group_create(byref(handle), nranks))
        self.handle, self.nranks = handle, nranks
        self._finalizer = weakref.finalize(self, lib.xp_thread_group_destroy, handle)


def _config(timeout, node, transport, interface, log):
    cfg = _lib.Config()
    lib.xp_config_init(byref(cfg))
    cfg.timeout_s = timeout or 0
    cfg.node, cfg.transport, cfg.interface_ = _lib.text(node), _lib.text(transport), _lib.text(interface)
    if log:
        cfg.log = _lib.LogFn(lambda _user, level, line: log(level, line.decode(errors='replace')))
    return cfg


class _Allgather:
    """A Python allgather (bytes -> all ranks' bytes, joined or as a list) as the C callback; remembers what it raised."""

    def __init__(self, function, nranks):
        self.function, self.nranks, self.raised = function, nranks, None
        self.callback = _lib.AllgatherFn(self.call)

    def call(self, _user, mine, everyones, length):
        try:
            answer = self.function(ctypes.string_at(mine, length))
            answer = bytes(answer) if isinstance(answer, (bytes, bytearray, memoryview)) else b''.join(answer)
            if len(answer) != self.nranks * length:
                raise ValueError(f'allgather returned {len(answer)} bytes, not {self.nranks} times {length}')
            ctypes.memmove(everyones, answer, len(answer))
            return 0
        except BaseException as e:
            self.raised = e
            return 1


class Comm(Handle):
    """
    One rank of a communicator. Without arguments the ranks come from the launcher's environment (torchrun, Open MPI,
    MPICH/PMI, Slurm); with `threads` and `rank` it is a thread of a group; with `allgather`, `rank` and `nranks` the caller's
    own allgather starts it. Creation is collective. One thread at a time may use it.
    """

    _name = 'comm'

    def __init__(self, *, threads=None, allgather=None, rank=None, nranks=None, timeout=None, node=None, transport=None,
                 interface=None, log=None):
        boot = _lib.Bootstrap()
        lib.xp_bootstrap_init(byref(boot))
        if threads is not None or allgather is not None:
            if rank is None:
                raise ValueError('crosspress: threads and allgather need a rank')
            boot.rank, boot.nranks = rank, threads.nranks if threads is not None else nranks or 0
        gather = _Allgather(allgather, boot.nranks) if allgather is not None else None
        if gather:
            boot.allgather = gather.callback
        if threads is not None:
            boot.threads = threads.handle
        self._config = _config(timeout, node, transport, interface, log)  # its log callback is used until the end
        handle = ctypes.c_void_p()
        try:
            _lib.check(lib.xp_comm_create(byref(handle), byref(boot), byref(self._config)))
        except Exception as e:
            raise e from (gather.raised if gather else None)
        self._handle = handle
        self._plans = weakref.WeakSet()
        self.rank, self.size = lib.xp_comm_rank(handle), lib.xp_comm_size(handle)
        self.nodes = lib.xp_comm_nodes(handle)

    def node_of(self, rank):
        return lib.xp_comm_node_of(self.handle, rank)

    def barrier(self):
        _lib.check(lib.xp_comm_barrier(self.handle), self.handle)

    def allgather(self, data):
        """bytes of every rank (equal lengths, at most 1 MiB), as a list in rank order. For set-up, not for bulk data."""
        data = bytes(data)
        room = ctypes.create_string_buffer(len(data) * self.size + 1)
        _lib.check(lib.xp_comm_allgather(self.handle, data, room, len(data)), self.handle)
        return [room.raw[r * len(data):(r + 1) * len(data)] for r in range(self.size)]

    def plan(self, dim, dtype='bf16', **options):
        """A plan of this comm; see Plan."""
        from .plan import Plan
        return Plan(self, dim, dtype, **options)

    def moe_plan(self, dim, dtype='bf16', **options):
        """A plan of an MoE layer; see MoePlan."""
        from .moe import MoePlan
        return MoePlan(self, dim, dtype, **options)

    def _destroy(self, handle):
        lib.xp_comm_destroy(handle)

    def close(self):
        """Closes the plans of the comm, then leaves the group. Not collective."""
        for plan in list(self._plans) if self.is_open else ():
            plan.close()
        super().close()

    def __repr__(self):
        return f'<crosspress.Comm rank {self.rank} of {self.size}, {self.nodes} nodes>' if self._handle else '<crosspress.Comm closed>'
