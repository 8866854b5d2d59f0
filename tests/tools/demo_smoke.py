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
small = ['--hosts', '2', '--rows', '512', '--iters', '2', '--tokens', '128']


def start(*args):
    return subprocess.Popen([*demo, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)


def prefix_of(p, wait=10.0):
    """How the namespaces of this demo begin, as perf/fabric.sh notes it; None when it has none (any more)."""
    path = f'{os.environ.get("XDG_RUNTIME_DIR", "/tmp")}/crosspress-fabric-{os.getuid()}/demo{p.pid}'
    end = time.monotonic() + wait
    while not os.path.exists(path) and time.monotonic() < end and p.poll() is None:
        time.sleep(0.02)
    return open(path).read().split()[0] if os.path.exists(path) else None


def namespaces(prefix):
    return [line for line in run(['ip', 'netns', 'list'])[1].splitlines() if line.startswith(prefix)]


def stop(p):
    """SIGTERM to the demo and what it started. Returns its exit code, None when it had to be killed."""
    os.killpg(p.pid, signal.SIGTERM)
    try:
        p.communicate(timeout=20)
        return p.returncode
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        p.communicate()
        return None


p = start(*small)
prefix = prefix_of(p)
out, err = p.communicate(timeout=120)
case('exit code 0', p.returncode == 0, f'{p.returncode}\n{out}\n{err}')
for row in ('Open MPI, default', 'Open MPI, tuned', 'raw', 'exact', 'bounded 1 %', 'bounded 3 %', 'bounded 10 %', 'best choice', 'without loss', 'within 3 %'):
    case(f'the table has "{row}"', any(line.strip().startswith(row) for line in out.split('a MoE layer')[0].splitlines()), out)
for row in ('Open MPI, default', 'Open MPI, tuned', 'raw, flat', 'exact', 'bounded 3 %', 'folded to 20 %', 'best choice'):
    case(f'the table of the MoE layer has "{row}"', any(line.strip().startswith(row) for line in out.split('a MoE layer')[-1].splitlines()), out)

if 'not permitted' in out:
    skip('namespaces are removed', 'not permitted here')
else:
    case('it had namespaces, and they are removed', prefix is not None and namespaces(prefix) == [], f'{prefix} {namespaces(prefix or "xpf")}')
    for moment in (0.5, 4.0):  # among Open MPI's runs, among ours
        p = start('--hosts', '2', '--rows', '16384', '--iters', '20')
        prefix = prefix_of(p)
        time.sleep(moment)
        code = stop(p)
        case(f'stopped after {moment} s: ended, namespaces are removed', code == 130 and prefix is not None and namespaces(prefix) == [],
             f'exit code {code} {prefix} {namespaces(prefix or "xpf")}')

for name, args in {'an unknown option': ['--frob', '1'], 'no hosts': ['--hosts', '0'], 'a rate that is none': ['--rate', 'fast'], 'a missing file': ['--input', 'none.npy']}.items():
    code, out, err = run([*demo, *args], timeout=20)
    case(f'{name}: one line and exit code 2', code == 2 and len(err.strip().splitlines()) == 1, f'{code} {out} {err}')
done()
