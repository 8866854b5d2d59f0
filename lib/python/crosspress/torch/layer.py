"""layer.py - MoELayer: a gate, the experts of this rank, and crosspress between them

SPDX-License-Identifier: Apache-2.0
"""
import struct

import numpy as np
import torch

from .. import errors
from ..moe import MoePlan
from . import functional, group

PLAN_TYPES = {torch.bfloat16: 'bf16', torch.float16: 'f16', torch.float32: 'f32'}


class MoELayer(torch.nn.Module):
    """
    y = sum over the k chosen experts of weight * expert(x), with the experts spread over the ranks.

    gate     module: x [tokens][dim] -> logits [tokens][experts], or -> (expert [tokens][k], weight [tokens][k]).
    experts  the modules of this rank; rank r's numbers follow those of rank r - 1. Numbers of modules may differ between ranks.
    topk     experts per token, for a gate that returns logits; weights are the softmax of the logits, over the chosen ones when
             normalise is set.
    comm     a crosspress.Comm (None: crosspress.torch.comm(group), made at the first call; layers may share one).
    dtype    type of the rows that travel (None: that of x).   max_tokens: most of a step (grows by itself when it is too small).
    options  those of crosspress.MoePlan: mode, eps, rate, ...

    After a call `aux_loss` is the load balancing loss of Switch Transformer (only with logits), and `plan.stats()` has the figures.
    All ranks call it together, forward and backward.
    """

    def __init__(self, gate, experts, topk=2, *, comm=None, group=None, dtype=None, max_tokens=0, normalise=True, **options):
        super().__init__()
        self.gate, self.experts, self.topk = gate, torch.nn.ModuleList(experts), topk
        self.normalise, self.options, self.dtype = normalise, options, dtype
        self.plan, self.aux_loss, self.expert_rank = None, None, None
        self._comm, self._group, self._max_tokens = comm, group, max_tokens

    def forward(self, x, sequence=None):
        flat = x.reshape(-1, x.shape[-1])
        expert, weight = self._choose(flat)
        sent = flat.to(self.dtype) if self.dtype else flat
        routing = self._route(sent, expert, weight, sequence)
        rows = functional.dispatch(sent, routing)
        y = functional.combine(self._experts(rows, routing).to(sent.dtype), routing, sent)
        return y.to(x.dtype).reshape(x.shape)

    def _choose(self, flat):
        answer = self.gate(flat)
        if isinstance(answer, tuple):
            return answer
        probability = torch.softmax(answer.float(), dim=-1)
        weight, expert = probability.topk(self.topk, dim=-1)
        share = torch.bincount(expert.reshape(-1), minlength=answer.shape[-1]).float() / max(1, expert.numel())
        self.aux_loss = answer.shape[-1] * (share * probability.mean(dim=0)).sum() if flat.shape[0] else probability.sum()
        return expert, weight / weight.sum(dim=-1, keepdim=True) if self.normalise else weight

    def _experts(self, rows, routing):
        """Each expert on its rows. The result depends on `rows` also when there are none: every rank must enter the backward passes."""
        offsets = routing.offsets
        parts = [expert(rows[a:b]) for expert, a, b in zip(self.experts, offsets, offsets[1:]) if b > a]
        return torch.cat(parts) if parts else rows * 1

    # ---- plan: made at the first call, made anew when a step has more tokens than it has room for --------------------

    def _route(self, sent, expert, weight, sequence):
        if self.plan is None:
            self._open(sent, expert)
        try:
            return functional.route(self.plan, expert, weight, self.expert_rank, sequence)
        except errors.Error:
            # All ranks fail together; all find out together whether one of them had outgrown the plan.
            if not self._grow(sent, expert):
                raise
        return functional.route(self.plan, expert, weight, self.expert_rank, sequence)

    def _open(self, sent, expert):
        if self._comm is None:
            self._comm = group.comm(self._group)
        local = [struct.unpack('<I', b)[0] for b in self._comm.allgather(struct.pack('<I', len(self.experts)))]
        self.expert_rank = np.repeat(np.arange(self._comm.size, dtype=np.int32), local)
        self._max_tokens = max(self._max_tokens, sent.shape[0], 1)
        # A plan before this one lives on until the last of its routings has gone.
        self.plan = MoePlan(self._comm, sent.shape[1], PLAN_TYPES[sent.dtype], experts=sum(local), topk=max(expert.shape[1], 1),
                            max_tokens=self._max_tokens, **self.options)

    def _grow(self, sent, expert):
        small = sent.shape[0] > self._max_tokens
        if not any(b != b'\0' for b in self._comm.allgather(bytes([small]))):
            return False
        if small:
            self._max_tokens = 1 << (sent.shape[0] - 1).bit_length()
        self._open(sent, expert)
        return True
