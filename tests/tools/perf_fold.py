#!/usr/bin/env python3
"""perf_fold.py - xp_perf fold on real rows: the figures are there and make sense

usage: perf_fold.py XP_PERF ROWS.npy

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import struct
import sys
import tempfile

from tap import case, done, run

xp_perf, rows = sys.argv[1:]
folder = tempfile.TemporaryDirectory()
out = os.path.join(folder.name, 'fold.json')

code, stdout, stderr = run([xp_perf, 'fold', '--input', rows, '--experts', '4', '--k', '1', '--iters', '3', '--check', '--json', out])
case('the tables are printed', code == 0 and 'hash functions' in stdout and 'not folded' in stdout, stderr)
case('no error of identity experts, no ratio of it', 'nan' not in stdout and any(line.split()[-2:] == ['-', '-'] for line in stdout.splitlines()), stdout)
figures = [json.loads(line) for line in open(out)] if code == 0 else []
plain = [f for f in figures if f['refine'] == 0]
refined = [f for f in figures if f['refine'] > 0]
case('five numbers of hash functions and five rates, plain and refined', len(plain) == len(refined) == 10, len(figures))
functions = [f['rate'] for f in plain[:5]]
case('more hash functions, more centroids', functions == sorted(functions) and functions[0] < functions[-1], functions)
case('refinement lowers the error', all(r['err_alpha0'] < p['err_alpha0'] for p, r in zip(plain, refined)))
case('alpha 1 gives the identity back', all(f['err_alpha1'] < 1e-2 for f in figures), [f['err_alpha1'] for f in figures])
zeros = os.path.join(folder.name, 'zeros.npy')
with open(zeros, 'wb') as f:
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (64, 128), }"
    f.write(b'\x93NUMPY\x01\x00' + struct.pack('<H', 118) + head.ljust(117).encode() + b'\n' + bytes(4 * 64 * 128))
code, stdout, stderr = run([xp_perf, 'fold', '--input', zeros, '--experts', '4', '--k', '1', '--iters', '1', '--json', out])
case('rows of zeros have no error', code == 0 and 'nan' not in stdout and all(json.loads(line)['err_alpha0'] == 0 for line in open(out)), stdout + stderr)
code, stdout, stderr = run([xp_perf, 'fold', '--spawn', '2'])
case('no ranks', code == 2 and len(stderr.splitlines()) == 1, stderr)
code, stdout, stderr = run([xp_perf, 'fold', '--input', rows, '--codec', 'book', '--rows', '64'])
case('a codec without a fixed format', code == 1 and len(stderr.splitlines()) == 1, stderr)
done()
