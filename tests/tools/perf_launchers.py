#!/usr/bin/env python3
"""perf_launchers.py - xp_perf alltoallv takes its rank from launchers, and ends when a rank never comes or dies

usage: perf_launchers.py XP_PERF

SPDX-License-Identifier: Apache-2.0
"""
import shutil
import sys
import tempfile
import time

from launch import SECRET, free_port, torchrun
from tap import case, done, run, skip

xp_perf = sys.argv[1]
small = [xp_perf, 'alltoallv', '--rows', '64', '--dim', '64', '--iters', '2', '--check']
secret = {'CROSSPRESS_SECRET': SECRET, 'OMPI_ALLOW_RUN_AS_ROOT': '1', 'OMPI_ALLOW_RUN_AS_ROOT_CONFIRM': '1'}


for ranks in (1, 3):
    got = torchrun(ranks, small)
    case(f"torchrun's variables, {ranks} ranks", all(c == 0 for c, _, _ in got), got)
    case(f'only rank 0 of {ranks} prints', sum(bool(out.strip()) for _, out, _ in got) == 1, got)

for name in ('mpirun.openmpi', 'mpirun.mpich'):
    if shutil.which(name) is None:
        skip(name, 'not installed')
        continue
    flags = ['--oversubscribe'] if 'openmpi' in name else []
    with tempfile.TemporaryDirectory() as own:  # two Open MPI jobs that make the common session directory at once fail
        code, out, err = run([name, *flags, '-np', '3', *small], env=dict(secret, TMPDIR=own), timeout=60)
    case(f'under {name}', code == 0 and '3 ranks' in out, f'{code}\n{out}\n{err}')

started = time.monotonic()
code, _, err = run(small, env=dict(secret, RANK='0', WORLD_SIZE='2', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), CROSSPRESS_TIMEOUT='2'),
                   timeout=30)
took = time.monotonic() - started
case('a rank that never comes: one line that names it, within the deadline', code == 1 and len(err.strip().splitlines()) == 1 and '1' in err and took < 10,
     f'{code} after {took:.1f} s: {err}')

code, _, err = run([*small, '--spawn', '2', '--transport', 'quic'], timeout=30)
case('a transport that there is not: one line', code == 1 and len(err.strip().splitlines()) == 1, f'{code} {err}')
code, _, err = run([*small, '--spawn', '2', '--transport', 'nccl'], timeout=30)
case('nccl for rows of the host: one line', code == 2 and len(err.strip().splitlines()) == 1 and '--memory' in err, f'{code} {err}')
done()
