"""moe_reference.py - random MoE steps, and what dispatch and combine must give, in plain NumPy on everybody's data

SPDX-License-Identifier: Apache-2.0
"""
import types

import numpy as np


def step(size, experts, topk, dim, seed, moved=False, tokens=None):
    """One step of all ranks: x, expert, weight per rank; expert_rank. Tokens have 0 .. topk experts; a rank may be empty."""
    rng = np.random.default_rng(seed)
    counts = tokens or [0 if size > 2 and r == 1 else int(rng.integers(5, 30)) for r in range(size)]
    s = types.SimpleNamespace(size=size, experts=experts, topk=topk, dim=dim, tokens=counts)
    s.x = [rng.standard_normal((n, dim)).astype(np.float32) for n in counts]
    s.expert = [np.array([rng.permutation(experts)[:topk] for _ in range(n)], np.int32).reshape(n, topk) for n in counts]
    for e in s.expert:
        e[rng.random(e.shape) < 0.2] = -1
    s.weight = [rng.random((n, topk)).astype(np.float32) for n in counts]
    blocks = np.arange(experts, dtype=np.int32) * size // experts
    s.expert_rank = rng.permutation(blocks).astype(np.int32) if moved else blocks
    s.scale = 1 + np.arange(experts, dtype=np.float32) % 4  # expert e multiplies by this
    return s


def layout(s, rank):
    """[(expert, source, token)] in the order in which rank's experts see the rows."""
    mine = [e for e in range(s.experts) if s.expert_rank[e] == rank]
    return mine, [(e, r, t) for e in mine for r in range(s.size) for t in range(s.tokens[r]) if e in s.expert[r][t]]


def combined(s, rank, of=lambda e, x: x):
    """sum over slots of weight * of(expert, x), f32, slots ascending."""
    y = np.zeros_like(s.x[rank])
    for t in range(s.tokens[rank]):
        for k, e in enumerate(s.expert[rank][t]):
            if e >= 0:
                y[t] += s.weight[rank][t, k] * of(e, s.x[rank][t])
    return y
