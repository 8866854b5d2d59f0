"""plan.py - plans, exchanges, requests and statistics

SPDX-License-Identifier: Apache-2.0
"""
import ctypes
import types
from ctypes import byref

from . import _lib, rows
from ._lib import lib
from .handle import Handle


class Request:
    """An exchange under way. Holds its buffers until it has ended; freed (and first waited for) when it is dropped."""

    def __init__(self, plan, handle, result, keep):
        self._plan, self._handle, self._result, self._keep = plan, handle, result, keep
        self._error = None

    def _ended(self, status):
        self._free()
        try:
            _lib.check(status, self._plan.comm.handle)
        except _lib.errors.Error as e:
            self._error = e

    def _free(self):
        if self._handle is not None:
            handle, self._handle, self._keep = self._handle, None, None
            lib.xp_request_free(handle)

    def test(self):
        """Moves the exchange on. True when it is done; raises the error that ended it."""
        if self._handle is not None:
            status = lib.xp_request_test(self._handle)
            if status == _lib.IN_PROGRESS:
                return False
            self._ended(status)
        if self._error:
            raise self._error
        return True

    def wait(self):
        """Waits until it is done and returns what the call without a request returns."""
        if self._handle is not None:
            self._ended(lib.xp_request_wait(self._handle))
        if self._error:
            raise self._error
        return self._result() if callable(self._result) else self._result

    def __del__(self):
        if getattr(self, '_handle', None) is not None and self._plan.is_open:
            self._free()


def _counts(values, size, what):
    values = [int(v) for v in values]
    if len(values) != size:
        raise ValueError(f'crosspress: {what} has {len(values)} entries, the comm has {size} ranks')
    if any(v < 0 for v in values):
        raise ValueError(f'crosspress: {what} has a negative count')
    return (ctypes.c_size_t * size)(*values), sum(values)


class Plan(Handle):
    """
    Shape, mode and maxima of exchanges, and all their buffers. Creation is collective; everything but the maxima must be equal
    on all ranks.

    dtype: 'bf16' (uint16 arrays, torch.bfloat16), 'f16', 'f32', 'byte' (any type; `dim` counts bytes).
    mode:  None (CROSSPRESS_MODE, else exact), 'raw', 'exact', 'bounded'.   eps, eps_ref ('min', 'row'), dither: of bounded mode.
    dither: None (the gradients of MoE layers), True, False: whose errors are made random, so that sums over many rows do not gather them.
    """

    _name = 'plan'

    def __init__(self, comm, dim, dtype='bf16', *, max_send_rows=0, max_recv_rows=0, mode=None, eps=0.0, eps_ref=None,
                 dither=None, codec=None, algo=None, seed=0):
        self._create(self._describe(comm, dim, dtype, max_send_rows, max_recv_rows, mode, eps, eps_ref, dither, codec, algo, seed))

    def _describe(self, comm, dim, dtype, max_send_rows, max_recv_rows, mode, eps, eps_ref, dither, codec, algo, seed):
        self.comm, self.dim, self.dtype = comm, int(dim), dtype
        desc = _lib.PlanDesc()
        lib.xp_plan_desc_init(byref(desc))
        desc.dtype = _lib.choice(dtype, _lib.DTYPE, 'XP_', 'dtype')
        desc.dim, desc.max_send_rows, desc.max_recv_rows = self.dim, max_send_rows, max_recv_rows
        desc.mode = _lib.choice(mode, _lib.MODE, 'XP_MODE_', 'mode')
        desc.eps, desc.eps_ref = eps, _lib.choice(eps_ref, _lib.EPS_REF, 'XP_EPS_REF_', 'eps_ref')
        desc.dither = _lib.DITHER['XP_DITHER_DEFAULT' if dither is None else 'XP_DITHER_ON' if dither else 'XP_DITHER_OFF']
        desc.codec, desc.algo, desc.seed = _lib.text(codec), _lib.text(algo), seed
        return desc

    def _create(self, desc):
        handle = ctypes.c_void_p()
        _lib.check(lib.xp_plan_create(byref(handle), self.comm.handle, byref(desc)), self.comm.handle)
        self._handle = handle
        self.comm._plans.add(self)

    def empty(self, nrows, like=None):
        """Room for rows of this plan: of torch when `like` is a tensor, else NumPy."""
        return rows.empty(nrows, self.dim, self.dtype, like)

    def _start(self, call, result, keep, wait):
        """One call of the library: done on return, or a Request. `result` is a value, or a function for what is known at the end."""
        if wait:
            _lib.check(call(None), self.comm.handle)
            return result() if callable(result) else result
        handle = ctypes.c_void_p()
        _lib.check(call(byref(handle)), self.comm.handle)
        return Request(self, handle, result, keep)

    def alltoallv(self, send, send_rows, recv_rows, out=None, wait=True):
        """
        Sends rows to every rank and receives rows from every rank. `send_rows`, `recv_rows`: rows per rank. Returns the rows received
        (`out` if given, else a new array of send's kind), or a Request when wait is False.
        """
        counts_out, total_out = _counts(send_rows, self.comm.size, 'send_rows')
        counts_in, total_in = _counts(recv_rows, self.comm.size, 'recv_rows')
        source, _ = rows.rows_of(send, self.dtype, self.dim, 'send', at_least=total_out)
        if out is None:
            out = self.empty(total_in, like=send)
        target, _ = rows.rows_of(out, self.dtype, self.dim, 'out', writable=True, at_least=total_in)
        handle = self.handle
        return self._start(lambda req: lib.xp_alltoallv(handle, source.pointer, counts_out, target.pointer, counts_in, req),
                           out, (source, target, send, out), wait)

    def alltoall(self, send, out=None, wait=True):
        """alltoallv with equal parts: send holds size times as many rows as each rank gets."""
        source, total = rows.rows_of(send, self.dtype, self.dim, 'send')
        if total % self.comm.size:
            raise ValueError(f'crosspress: send has {total} rows, not a multiple of {self.comm.size} ranks')
        if out is None:
            out = self.empty(total, like=send)
        target, _ = rows.rows_of(out, self.dtype, self.dim, 'out', writable=True, at_least=total)
        handle, each = self.handle, total // self.comm.size
        return self._start(lambda req: lib.xp_alltoall(handle, source.pointer, target.pointer, each, req),
                           out, (source, target, send, out), wait)

    def stats(self):
        """Figures of this rank since creation or the last reset; the fields of xp_stats."""
        s = _lib.Stats()
        s.size = ctypes.sizeof(s)
        _lib.check(lib.xp_plan_stats(self.handle, byref(s)))
        values = {name: getattr(s, name) for name, _ in s._fields_ if name != 'size'}
        return types.SimpleNamespace(**{n: v.decode() if isinstance(v, bytes) else v for n, v in values.items()})

    def reset_stats(self):
        lib.xp_plan_stats_reset(self.handle)

    def _destroy(self, handle):
        """An exchange under way is given up."""
        lib.xp_plan_destroy(handle)
