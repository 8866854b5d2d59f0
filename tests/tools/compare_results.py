#!/usr/bin/env python3
"""compare_results.py - perf/compare.py matches cases and sees what grew

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sys
import tempfile

from tap import ROOT, case, done, run

folder = tempfile.TemporaryDirectory()
script = os.path.join(ROOT, 'perf', 'compare.py')


def file(name, *cases):
    path = os.path.join(folder.name, name)
    open(path, 'w').write(''.join(json.dumps(c) + '\n' for c in cases))
    return path


one = {'command': 'alltoallv', 'shape': [64, 32], 'mode': 'raw', 'ranks': 2, 'best_ms': 10.0, 'wire_ratio': 1.0}
two = dict(one, mode='exact', best_ms=8.0)
old = file('old', one, two)
new = file('new', dict(two, best_ms=4.0, algo='hier'), dict(one, best_ms=10.5))

code, out, err = run([sys.executable, script, old, new])
case('ratios of the same cases, whatever their order', code == 0 and 'x 0.500' in out and 'x 1.050' in out and '2 cases' in out, out + err)
code, out, _ = run([sys.executable, script, old, new, '--limit', '10'])
case('within the limit', code == 0, out)
code, out, _ = run([sys.executable, script, old, new, '--limit', '3'])
case('beyond the limit', code == 1, out)
for name, args in {'no common case': [old, file('other', dict(one, ranks=4))], 'not JSON': [old, script], 'one file': [old], 'a missing file': [old, 'none']}.items():
    code, out, err = run([sys.executable, script, *args])
    case(f'{name}: one line', code == 1 and len(err.strip().splitlines()) == 1, f'{code} {out} {err}')
done()
