#!/usr/bin/env python3
"""perf_kernels.py - xp_perf hash and codec: every instruction set of this machine has its line, and nothing differs from plain C

usage: perf_kernels.py XP_PERF XP_INFO

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sys
import tempfile

from tap import case, done, run

xp_perf, xp_info = sys.argv[1:]
folder = tempfile.TemporaryDirectory()
out = os.path.join(folder.name, 'out.json')

code, stdout, stderr = run([xp_info])
flags = next(line.split()[1:] for line in stdout.splitlines() if line.split()[:1] == ['flags'])

for dim in ('1', '200', '4096'):
    code, stdout, stderr = run([xp_perf, 'hash', '--dim', dim, '--rows', '130', '--iters', '2', '--check', '--json', out])
    case(f'hash, {dim} values: the ids of all instruction sets agree', code == 0, stderr or code)
    isas = [json.loads(line)['isa'] for line in open(out)] if code == 0 else []
    case(f'hash, {dim} values: a line for each of {", ".join(flags)}', isas == flags, isas)
    case(f'hash, {dim} values: and in the table', all(any(line.split()[2:3] == [f] for line in stdout.splitlines()) for f in flags), stdout)

for isa in flags:
    for codec in ('quant', 'int4', 'book', 'kept', 'pack'):
        mode = ['--mode', 'exact'] if codec == 'pack' else ['--mode', 'bounded', '--eps', '0.1']
        code, stdout, stderr = run([xp_perf, 'codec', '--codec', codec, *mode, '--dim', '192', '--rows', '300', '--iters', '1', '--json', out],
                                   env={'CROSSPRESS_ISA': isa})
        told = json.loads(open(out).readline()) if code == 0 else {}
        good = told.get('isa') == isa and 0 < told.get('wire_ratio', 0) <= 1.01 and told.get('rel_err_max', 1) <= (0 if codec == 'pack' else 0.1)
        case(f'codec {codec} with {isa}', good, stderr or told)
done()
