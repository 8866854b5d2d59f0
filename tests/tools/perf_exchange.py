#!/usr/bin/env python3
"""perf_exchange.py - xp_perf alltoallv --check over shapes of groups, rows and modes

usage: perf_exchange.py XP_PERF [TRANSPORT]     shm for a build that has nothing else: pretended nodes are joined by it, too

SPDX-License-Identifier: Apache-2.0
"""
import os
import sys

import numpy as np

from perf_case import folder, lossless, measured
from tap import done

xp_perf, transport = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else 'auto'
FIELDS = ('command shape dtype data ranks nodes mode eps algo codec transport isa seed iters median_ms best_ms raw_bytes raw_bytes_slow '
          'wire_bytes wire_bytes_slow wire_bytes_fast wire_ratio rel_err_mean rel_err_max bypassed').split()


def exchange(name, *args, check=lambda c: True):
    return measured([xp_perf, 'alltoallv', '--transport', transport], FIELDS, name, args, check)


def within(eps):
    return lambda c: c['rel_err_max'] <= eps * 1.000001


# groups: one rank, one node, one rank a node, uneven nodes
for ranks, nodes in ((1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (4, 2), (5, 3)):
    group = ['--spawn', str(ranks), '--nodes', str(nodes)]
    for mode, good in (('raw', lossless), ('exact', lossless), ('bounded', within(0.05))):
        extra = ['--eps', '0.05'] if mode == 'bounded' else []
        exchange(f'{ranks} ranks on {nodes} nodes, {mode}', *group, '--rows', '96', '--dim', '256', '--mode', mode, *extra,
                 check=lambda c, good=good, ranks=ranks, nodes=nodes: good(c) and c['ranks'] == ranks and c['nodes'] == nodes)

# counts: none, fewer rows than ranks, uneven
two_nodes = ['--spawn', '4', '--nodes', '2']
for rows in (0, 1, 3, 97):
    for mode in ('exact', 'bounded'):
        exchange(f'{rows} rows a rank, {mode}', *two_nodes, '--rows', str(rows), '--dim', '40', '--mode', mode)

# rows: every type, dims that fill no block, rows longer than a chunk
for dtype in ('bf16', 'f16', 'f32'):
    for dim in (1, 7, 129, 1000):
        exchange(f'{dtype} dim {dim}, bounded', *two_nodes, '--rows', '50', '--dim', str(dim), '--dtype', dtype, '--mode', 'bounded', '--eps', '0.1',
                 check=within(0.1))
exchange('rows of 1 MiB', *two_nodes, '--rows', '8', '--dim', '524288', '--mode', 'bounded', '--eps', '0.1', check=within(0.1))

# every algorithm, by name
for algo in ('flat', 'hier', 'leader'):
    for mode in ('raw', 'exact', 'bounded'):
        exchange(f'{algo}, {mode}, clustered rows', *two_nodes, '--rows', '200', '--dim', '96', '--algo', algo, '--mode', mode, '--data', 'clustered',
                 check=lambda c, algo=algo: c['algo'] == algo)

exchange('eps changes nothing in a lossless mode', *two_nodes, '--rows', '96', '--dim', '64', '--mode', 'exact', '--eps', '0.1',
         check=lambda c: lossless(c) and c['mode'] == 'exact' and c['eps'] == 0)

# duplicates cross once: 1024 rows a pair of nodes drawn from 256
exchange('exact sends duplicates once', *two_nodes, '--rows', '2048', '--dim', '256', '--mode', 'exact', '--data', 'duplicates',
         check=lambda c: c['wire_ratio'] < 0.6 and lossless(c))

# a file: rows with NaN, Inf and zeros arrive bit for bit, and more rows than it holds
x = np.random.default_rng(5).normal(size=(60, 33)).astype(np.float32)
x[3, 4], x[5, 0], x[7] = np.nan, -np.inf, 0
np.save(os.path.join(folder.name, 'x.npy'), x)
exchange('a file with NaN, Inf and zero rows', *two_nodes, '--rows', '15', '--input', os.path.join(folder.name, 'x.npy'), '--mode', 'bounded', '--eps', '0.05',
         check=within(0.05))
exchange('a file met several times', *two_nodes, '--rows', '100', '--input', os.path.join(folder.name, 'x.npy'), '--mode', 'exact', check=lossless)

# what is counted
exchange('raw over two nodes sends what it says', '--spawn', '2', '--nodes', '2', '--rows', '256', '--dim', '512', '--mode', 'raw',
         check=lambda c: c['raw_bytes'] == 2 * 128 * 1024 and c['raw_bytes'] <= c['wire_bytes'] <= 1.05 * c['raw_bytes'])
exchange('bounded over two nodes sends less', '--spawn', '2', '--nodes', '2', '--rows', '2048', '--dim', '512', '--mode', 'bounded', '--eps', '0.1',
         '--codec', 'quant', check=lambda c: c['wire_ratio'] < 0.45 and c['rel_err_max'] > 0)
done()
