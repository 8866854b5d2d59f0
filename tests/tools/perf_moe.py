#!/usr/bin/env python3
"""perf_moe.py - xp_perf moe --check over shapes of groups, routings and modes

usage: perf_moe.py XP_PERF [TRANSPORT]     shm for a build that has nothing else: pretended nodes are joined by it, too

SPDX-License-Identifier: Apache-2.0
"""
import os
import sys

import numpy as np

from perf_case import folder, lossless, measured
from tap import ROOT, case, done, run

xp_perf, transport = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else 'auto'
DATA = os.path.join(ROOT, 'tests', 'data', 'moe_layer2')
REAL = ['--input', f'{DATA}_x.npy', '--topk', f'{DATA}_topk_idx.npy', '--experts', '16']
FIELDS = ('command shape dtype data routing k experts expert ranks nodes mode eps algo codec transport isa seed iters median_ms best_ms route_ms '
          'dispatch_ms combine_ms raw_bytes wire_bytes wire_bytes_slow wire_ratio hop_rows_slow hop_rows_fast rel_err_mean rel_err_max bypassed').split()


def save(name, a):
    path = os.path.join(folder.name, name + '.npy')
    np.save(path, a)
    return path


def layer(name, *args, check=lambda c: True):
    return measured([xp_perf, 'moe', '--transport', transport], FIELDS, name, args, check)


def pairs_between_nodes(topk, tokens, ranks, nodes, experts):
    """Distinct (token, node) pairs that cross, counted from the trace."""
    per = ranks // nodes
    n = 0
    for r in range(ranks):
        for row in topk[r * tokens:(r + 1) * tokens]:
            n += len({int(e) * ranks // experts // per for e in row} - {r // per})
    return n


for mode, eps in (('raw', None), ('exact', None), ('bounded', '0.05')):
    for algo in ('flat', 'hier', 'leader'):
        layer(f'4 ranks on 2 nodes, real routing, {mode}, {algo}', '--spawn', '4', '--nodes', '2', '--rows', '128', *REAL, '--mode', mode, '--algo', algo,
              *(['--eps', eps] if eps else []), check=lambda c, algo=algo, mode=mode: c['algo'] == algo and (mode == 'bounded' or lossless(c)))

# One copy of a token crosses for a node, whatever experts it has there; every result comes home by itself.
topk = np.load(f'{DATA}_topk_idx.npy')
once = pairs_between_nodes(topk, 128, 4, 2, 16)
each = sum(int(e * 4 // 16 // 2 != r // 2) for r in range(4) for row in topk[r * 128:(r + 1) * 128] for e in row)
for algo in ('hier', 'leader'):
    layer(f'{algo}: rows over the slow hop are the distinct (token, node) pairs', '--spawn', '4', '--nodes', '2', '--rows', '128', *REAL, '--mode', 'exact',
          '--algo', algo, check=lambda c: c['hop_rows_slow'] == once + each)

layer('sums come home', '--spawn', '4', '--nodes', '2', '--rows', '128', *REAL, '--mode', 'exact', '--algo', 'hier', '--combine', 'sum',
      check=lambda c: c['hop_rows_slow'] == 2 * once and c['rel_err_max'] < 2 ** -7)
layer('3 nodes: a token for two of them is coded once; how much of that shows', '--spawn', '3', '--nodes', '3', '--rows', '128', *REAL, '--mode', 'bounded',
      '--eps', '0.05', '--codec', 'quant', '--exposed', check=lambda c: c['encode_ms'] > 0 and c['plain_ms'] > 0 and 0 < c['plain_dim'] < 256 and 'exposed' in c)
for ranks, nodes in ((1, 1), (3, 1), (3, 3), (5, 2)):
    layer(f'{ranks} ranks on {nodes} nodes, zipf routing', '--spawn', str(ranks), '--nodes', str(nodes), '--rows', '100', '--dim', '96', '--routing', 'zipf',
          '--k', '3', '--experts', '7', '--mode', 'exact', check=lossless)
for k in (1, 8):
    layer(f'top-{k} of logits, f32, backward', '--spawn', '4', '--nodes', '2', '--rows', '60', '--dim', '40', '--dtype', 'f32', '--topk', f'{DATA}_gate_logits.npy',
          '--k', str(k), '--mode', 'exact', '--backward', check=lossless)
layer('no tokens', '--spawn', '4', '--nodes', '2', '--rows', '0', '--dim', '40', '--mode', 'exact')
layer('more tokens than the trace holds', '--spawn', '2', '--nodes', '2', '--rows', '1500', *REAL, '--mode', 'exact')

r = np.random.default_rng(3)
w1, w2 = save('w1', r.normal(size=(16, 256, 64)).astype('f2') / 16), save('w2', r.normal(size=(16, 64, 256)).astype('f2') / 8)
layer('a network for each expert', '--spawn', '4', '--nodes', '2', '--rows', '64', *REAL, '--expert', f'{w1},{w2}', '--mode', 'exact', check=lossless)
# Its row 0 is hundreds of times longer than others: a row in one cluster with it is small beside what was coded.
layer('a folded row that is small beside its centroid', '--spawn', '7', '--nodes', '7', '--rows', '64', '--input', os.path.join(ROOT, 'tests', 'data', 'smollm2_L15_x.npy'),
      '--experts', '1', '--k', '1', '--mode', 'folded', '--alpha', '1', '--refine', '0', '--seed', '181')
topk = np.array([[0, -1], [-1, -1], [15, 3]], dtype=np.int64)
layer('tokens without experts', '--spawn', '3', '--rows', '31', '--dim', '64', '--topk', save('holes', topk), '--mode', 'exact', check=lossless)

bad = {
    'an expert out of range': ['--topk', save('beyond', np.array([[0, 16]], dtype=np.int32))],
    'logits of another number of experts': ['--topk', f'{DATA}_gate_logits.npy', '--experts', '8'],
    'a routing that is not there': ['--topk', 'none.npy'],
    'weights without a trace': ['--weights', w1],
    'more slots than experts': ['--k', '9', '--experts', '8'],
    'a rate of nothing': ['--rate', '0'],
    'an expert of another shape': ['--expert', f'{w2},{w1}'],
    'an exposed codec without one': ['--mode', 'exact', '--exposed'],
    'an alpha that is none': ['--alpha', 'much'],
}
for name, args in bad.items():
    code, out, err = run([xp_perf, 'moe', '--spawn', '2', '--rows', '16', '--dim', '256', '--transport', transport, *args], timeout=30)
    case(f'{name}: one line', code in (1, 2) and len(err.strip().splitlines()) == 1, f'{code} {out} {err}')
done()
