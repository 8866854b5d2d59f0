"""moe.py - MoE: routing, dispatch, combine and their backward passes

SPDX-License-Identifier: Apache-2.0
"""
import ctypes
import struct
import types
import weakref
from ctypes import byref

import numpy as np

from . import _lib, rows
from ._lib import lib
from .handle import Handle
from .plan import Plan


def _none_is_default(value):
    """The header's 0 is the default and -1 none; here None is the default and 0 none."""
    return 0 if value is None else value or -1


def _moe_desc(experts, topk, combine, eps_combine, eps_grad, preset, rate, alpha, centroid, hashes, width, rounds, refine, probes,
              outlier, error_limit):
    m = _lib.MoeDesc()
    lib.xp_moe_desc_init(byref(m))
    m.experts, m.max_topk = experts, topk
    m.combine = _lib.choice(combine, _lib.COMBINE, 'XP_COMBINE_', 'combine')
    m.eps_combine, m.eps_grad, m.preset, m.rate = eps_combine, eps_grad, _lib.text(preset), rate
    if alpha is not None and alpha != 'fit':
        m.alpha_rule, m.alpha = _lib.ALPHA['XP_ALPHA_FIXED'], alpha
    m.centroid = _lib.choice(centroid, _lib.CENTROID, 'XP_CENTROID_', 'centroid')
    m.hashes, m.width, m.rounds = hashes, width, rounds
    m.refine, m.probes = _none_is_default(refine), _none_is_default(probes)
    m.outlier, m.error_limit = outlier, error_limit
    return m


class MoePlan(Plan):
    """
    A plan of one MoE layer. Each step: `routing = plan.route(expert, weight)`, `routing.dispatch(x)`, the experts, `routing.combine(rows)`.

    experts, topk: of the layer; max_tokens: most of this rank in a step; max_rows: most rows for the experts of this rank (None:
    enough for every routing). mode: None, 'raw', 'exact', 'bounded' (eps, eps_combine, eps_grad, dither), 'folded' (rate, alpha: 'fit' or
    a number, centroid: 'mean', 'leader', 'sequences', hashes, width, rounds, refine: None or rounds, probes: None or a number, outlier,
    error_limit, preset: 'paper'). The header's section 11 says what they mean. Creation is collective.
    """

    def __init__(self, comm, dim, dtype='bf16', *, experts, topk, max_tokens, max_rows=None, mode=None, eps=0.0, eps_combine=0.0,
                 eps_grad=0.0, eps_ref=None, dither=None, codec=None, algo=None, seed=0, combine=None, preset=None, rate=0.0, alpha='fit',
                 centroid=None, hashes=0, width=0, rounds=0, refine=None, probes=None, outlier=0.0, error_limit=0.0):
        self._routings = weakref.WeakSet()
        everyones = sum(struct.unpack('<Q', b)[0] for b in comm.allgather(struct.pack('<Q', max_tokens)))
        if max_rows is None:
            max_rows = everyones * min(topk, experts)
        desc = self._describe(comm, dim, dtype, max_tokens, max_rows, mode, eps, eps_ref, dither, codec, algo, seed)
        self.experts, self.topk, self.max_tokens = experts, topk, max_tokens
        moe = _moe_desc(experts, topk, combine, eps_combine, eps_grad, preset, rate, alpha, centroid, hashes, width, rounds, refine,
                        probes, outlier, error_limit)
        desc.moe = ctypes.pointer(moe)
        self._create(desc)

    def route(self, expert, weight=None, expert_rank=None, sequence=None):
        """Agrees on one step's routing; collective. See Routing."""
        return Routing(self, expert, weight, expert_rank, sequence)

    def close(self):
        for routing in list(self._routings):
            routing.close()
        super().close()


class Routing(Handle):
    """
    One step's routing: `expert` [tokens][k] (-1 = none), `weight` [tokens][k] (None = 1), `expert_rank` [experts] (None: blocks),
    `sequence` [tokens]. All calls are collective and return arrays of the kind of their input, or a Request when wait is False.

    rows: rows that the experts of this rank get; expert_ids: their numbers; offsets: expert i's rows are offsets[i] .. offsets[i + 1] - 1
    (folded mode: after dispatch).
    """

    _name = 'routing'

    def __init__(self, plan, expert, weight=None, expert_rank=None, sequence=None):
        self.plan = plan
        expert = rows.table(expert, np.int32, 'expert')
        if expert.ndim != 2:
            raise ValueError(f'crosspress: expert has shape {expert.shape}, not [tokens][k]')
        self.tokens, self.topk = expert.shape
        weight = None if weight is None else rows.table(weight, np.float32, 'weight', expert.shape)
        expert_rank = None if expert_rank is None else rows.table(expert_rank, np.int32, 'expert_rank', (plan.experts,))
        sequence = None if sequence is None else rows.table(sequence, np.int32, 'sequence', (self.tokens,))
        desc = _lib.RouteDesc()
        lib.xp_route_desc_init(byref(desc))
        desc.tokens, desc.topk = self.tokens, self.topk
        for name, array in (('expert', expert), ('weight', weight), ('expert_rank', expert_rank), ('sequence', sequence)):
            setattr(desc, name, None if array is None else array.ctypes.data)
        handle = ctypes.c_void_p()
        self._check(lib.xp_route(plan.handle, byref(desc), byref(handle)))
        self._handle = handle
        plan._routings.add(self)

    def _check(self, status):
        return _lib.check(status, self.plan.comm.handle)

    @property
    def rows(self):
        return lib.xp_routing_rows(self.handle)

    @property
    def expert_ids(self):
        return np.array(lib.xp_routing_expert_ids(self.handle)[:lib.xp_routing_local_experts(self.handle)], dtype=np.int32)

    @property
    def offsets(self):
        return np.array(lib.xp_routing_offsets(self.handle)[:lib.xp_routing_local_experts(self.handle) + 1], dtype=np.int64)

    def _in(self, obj, need, what):
        """Rows read by a call; None where the call may do without."""
        if obj is None:
            return None, None
        memory, _ = rows.rows_of(obj, self.plan.dtype, self.plan.dim, what, at_least=need)
        return memory, memory.pointer

    def _out(self, out, need, like):
        if out is None:
            out = self.plan.empty(need, like)
        memory, _ = rows.rows_of(out, self.plan.dtype, self.plan.dim, 'out', writable=True, at_least=need)
        return out, memory, memory.pointer

    def _run(self, function, arguments, result, keep, wait):
        plan, handle = self.plan.handle, self.handle
        return self.plan._start(lambda req: function(plan, handle, *arguments, req), result, (self, *keep), wait)

    def dispatch(self, x, out=None, wait=True):
        """Sends token rows x [tokens] to their experts. Returns the rows for this rank's experts, grouped by expert."""
        source, x_pointer = self._in(x, self.tokens, 'x')
        out, target, pointer = self._out(out, self.rows, x)
        return self._run(lib.xp_dispatch, (x_pointer, pointer), lambda: out[:self.rows], (source, target, x, out), wait)

    def combine(self, results, x=None, out=None, wait=True):
        """Brings expert results home: y[t] = sum of weight * result. Folded mode needs x as given to dispatch."""
        source, pointer = self._in(results, self.rows, 'results')
        home, x_pointer = self._in(x, self.tokens, 'x')
        out, target, y_pointer = self._out(out, self.tokens, results)
        return self._run(lib.xp_combine, (pointer, x_pointer, y_pointer), out, (source, home, target, results, x, out), wait)

    def combine_backward(self, grad_y, results=None, out=None, wait=True):
        """(grad_rows, grad_weight): gradients of the expert results and, when `results` is given on all ranks, of the gate weights (else None)."""
        source, pointer = self._in(grad_y, self.tokens, 'grad_y')
        kept, results_pointer = self._in(results, self.rows, 'results')
        out, target, rows_pointer = self._out(out, self.rows, grad_y)
        weights = None if results is None else rows.empty_table(self.tokens, self.topk, grad_y)
        weights_pointer = None if weights is None else rows.memory(weights, 'grad_weight').pointer
        return self._run(lib.xp_combine_backward, (pointer, results_pointer, rows_pointer, weights_pointer), lambda: (out, weights),
                         (source, kept, target, grad_y, results, out, weights), wait)

    def dispatch_backward(self, grad_rows, grad_y=None, out=None, wait=True):
        """Gradients of the token rows. Folded mode needs grad_y as given to combine_backward."""
        source, pointer = self._in(grad_rows, self.rows, 'grad_rows')
        home, y_pointer = self._in(grad_y, self.tokens, 'grad_y')
        out, target, x_pointer = self._out(out, self.tokens, grad_rows)
        return self._run(lib.xp_dispatch_backward, (pointer, y_pointer, x_pointer), out,
                         (source, home, target, grad_rows, grad_y, out), wait)

    def clusters(self):
        """Folded mode, after dispatch: cluster [tokens][k] (-1 = none), alpha [tokens][k] (after combine), centroid [clusters][dim]."""
        number = ctypes.c_size_t()
        cluster = np.empty((self.tokens, self.topk), dtype=np.int32)
        alpha = np.empty((self.tokens, self.topk), dtype=np.float32)
        self._check(lib.xp_routing_clusters(self.handle, cluster.ctypes.data, None, None, byref(number)))
        centroid = self.plan.empty(number.value)
        self._check(lib.xp_routing_clusters(self.handle, cluster.ctypes.data, alpha.ctypes.data, centroid.ctypes.data, byref(number)))
        return types.SimpleNamespace(cluster=cluster, alpha=alpha, centroid=centroid)

    def _destroy(self, handle):
        lib.xp_routing_destroy(handle)

    def __del__(self):
        if self.is_open and self.plan.is_open:
            self.close()
