#!/usr/bin/env python3
"""demo_smoke.py - the demo with tiny sizes: all its rows, exit code 0, no namespace left behind, also when it is stopped

usage: demo_smoke.py BUILD_FOLDER

SPDX-License-Identifier: Apache-2.0
"""
import os
import signal
import subprocess
import sys
import time

from tap import ROOT, case, done, run, skip

demo = [os.path.join(ROOT, 'perf', 'demo.sh'), '--build', os.path.abspath(sys.argv[1])]
small = ['--hosts', '2', '--rows', '512', '--iters', '2']


def namespaces():
    return set(line.split()[0] for line in run(['ip', 'netns', 'list'])[1].splitlines())


before = namespaces()
code, out, err = run([*demo, *small], timeout=120)
case('exit code 0', code == 0, f'{code}\n{out}\n{err}')
for row in ('Open MPI, default', 'Open MPI, tuned', 'raw', 'exact', 'bounded 1 %', 'bounded 3 %', 'bounded 10 %', 'best choice', 'without loss', 'within 3 %'):
    case(f'the table has "{row}"', any(line.strip().startswith(row) for line in out.splitlines()), out)

if 'not permitted' in out:
    skip('namespaces are removed', 'not permitted here')
else:
    case('namespaces are removed', namespaces() <= before, namespaces() - before)
    p = subprocess.Popen([*demo, '--hosts', '2', '--rows', '4096', '--iters', '1000'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
                         start_new_session=True)
    time.sleep(2.5)
    os.killpg(p.pid, signal.SIGTERM)
    try:
        p.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
    case('stopped half-way: namespaces are removed', namespaces() <= before, namespaces() - before)

for name, args in {'an unknown option': ['--frob', '1'], 'no hosts': ['--hosts', '0'], 'a rate that is none': ['--rate', 'fast'], 'a missing file': ['--input', 'none.npy']}.items():
    code, out, err = run([*demo, *args], timeout=20)
    case(f'{name}: one line and exit code 2', code == 2 and len(err.strip().splitlines()) == 1, f'{code} {out} {err}')
done()
