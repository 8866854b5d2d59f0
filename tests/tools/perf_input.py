#!/usr/bin/env python3
"""perf_input.py - xp_perf says what is wrong with its input: one line on stderr, a non-zero exit code, no output file

usage: perf_input.py XP_PERF

SPDX-License-Identifier: Apache-2.0
"""
import os
import sys
import tempfile

import numpy as np

from tap import case, done, run

xp_perf = sys.argv[1]
folder = tempfile.TemporaryDirectory()


def file(name, data):
    path = os.path.join(folder.name, name)
    if isinstance(data, bytes):
        open(path, 'wb').write(data)
    else:
        np.save(path, data)
    return path


rows = np.random.default_rng(3).normal(size=(40, 16)).astype(np.float32)
good = file('good.npy', rows)
bytes_of_good = open(good, 'rb').read()

wrong = {
    'no command': [],
    'an unknown command': ['all2all'],
    'an unknown option': ['alltoallv', '--frob'],
    'an option without its value': ['alltoallv', '--rows'],
    'a negative count': ['alltoallv', '--rows', '-4'],
    'a count that is no number': ['alltoallv', '--rows', '12x'],
    'a count beyond 2^64': ['alltoallv', '--rows', '99999999999999999999999'],
    'dim 0': ['alltoallv', '--dim', '0'],
    'dim beyond the limit': ['alltoallv', '--dim', '1048577'],
    'no iterations': ['alltoallv', '--iters', '0'],
    'no ranks': ['alltoallv', '--spawn', '0'],
    'more nodes than ranks': ['alltoallv', '--spawn', '2', '--nodes', '3'],
    'nodes without ranks': ['alltoallv', '--nodes', '2'],
    'eps NaN': ['alltoallv', '--spawn', '2', '--mode', 'bounded', '--eps', 'nan'],
    'eps 0': ['alltoallv', '--spawn', '2', '--mode', 'bounded', '--eps', '0'],
    'eps 1': ['alltoallv', '--spawn', '2', '--mode', 'bounded', '--eps', '1'],
    'eps below 0': ['alltoallv', '--spawn', '2', '--mode', 'bounded', '--eps', '-0.1'],
    'eps Inf': ['alltoallv', '--spawn', '2', '--mode', 'bounded', '--eps', 'inf'],
    'an unknown mode': ['alltoallv', '--spawn', '2', '--mode', 'lossy'],
    'folded mode': ['alltoallv', '--spawn', '2', '--mode', 'folded'],
    'an unknown type': ['alltoallv', '--spawn', '2', '--dtype', 'f64'],
    'unknown rows': ['alltoallv', '--spawn', '2', '--data', 'lorem'],
    'ranks for a kernel': ['hash', '--spawn', '2'],
    'a missing file': ['alltoallv', '--spawn', '2', '--input', os.path.join(folder.name, 'none.npy')],
    'a folder as input': ['alltoallv', '--spawn', '2', '--input', folder.name],
    'a file and a shape': ['alltoallv', '--spawn', '2', '--input', good, '--dim', '16'],
    'an empty file': ['alltoallv', '--spawn', '2', '--input', file('empty.npy', b'')],
    'not a .npy': ['alltoallv', '--spawn', '2', '--input', file('text.npy', b'hello, world\n' * 50)],
    'a short file': ['alltoallv', '--spawn', '2', '--input', file('short.npy', bytes_of_good[:-4])],
    'a long file': ['alltoallv', '--spawn', '2', '--input', file('long.npy', bytes_of_good + b'x')],
    'three dimensions': ['alltoallv', '--spawn', '2', '--input', file('three.npy', rows.reshape(4, 10, 16))],
    'Fortran order': ['alltoallv', '--spawn', '2', '--input', file('fortran.npy', np.asfortranarray(rows))],
    'a type that is no row type': ['alltoallv', '--spawn', '2', '--input', file('double.npy', rows.astype(np.float64))],
    'no rows': ['alltoallv', '--spawn', '2', '--input', file('norows.npy', rows[:0])],
    'an unknown codec': ['alltoallv', '--spawn', '2', '--rows', '64', '--dim', '64', '--mode', 'bounded', '--eps', '0.1', '--codec', 'zip'],
    'an unknown algorithm': ['alltoallv', '--spawn', '2', '--rows', '64', '--dim', '64', '--algo', 'ring'],
    'an unknown transport': ['alltoallv', '--spawn', '2', '--rows', '64', '--dim', '64', '--transport', 'pigeon'],
    'results that cannot be written': ['hash', '--rows', '16', '--dim', '64', '--json', os.path.join(folder.name, 'none', 'out.json')],
}

for name, args in wrong.items():
    out = os.path.join(folder.name, 'out.json')
    extra = [] if not args or '--json' in args or args[0] in ('all2all',) else ['--json', out]
    code, _, err = run([xp_perf, *args[:1], *extra, *args[1:]], timeout=30)
    lines = err.strip().splitlines()
    case(f'{name}: one line, exit code 1 or 2, no file', 0 < code < 3 and len(lines) == 1 and lines[0].startswith('xp_perf: ') and not os.path.exists(out),
         f'exit code {code}\n{err}')

for words in (['--help'], ['alltoallv', '--help']):
    code, out, err = run([xp_perf, *words])
    case(f'{" ".join(words)} explains', code == 0 and '--check' in out and err == '', err)
code, out, err = run([xp_perf, 'alltoallv', '--rows', '64', '--dim', '64'], unset=('RANK', 'WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'PMI_RANK', 'SLURM_PROCID'))
case('without a launcher: one line that says so', code == 1 and len(err.strip().splitlines()) == 1, f'{code} {err}')
left = [f for f in os.listdir(folder.name) if 'out.json' in f]
case('nothing is left behind', left == [], left)
done()
