#!/usr/bin/env python3
"""perf_device.py - xp_perf --memory device on the doubles of CUDA and NCCL, and where there is no GPU

usage: perf_device.py XP_PERF_ON_DOUBLES XP_PERF NCCL_FOLDER

SPDX-License-Identifier: Apache-2.0
"""
import os
import sys

from perf_case import lossless, measured
from tap import case, done, run

on_doubles, xp_perf, nccl = sys.argv[1:4]
os.environ['LD_LIBRARY_PATH'] = nccl + ':' + os.environ.get('LD_LIBRARY_PATH', '')
GROUP = ['--spawn', '4', '--nodes', '2', '--memory', 'device']
SHM = {'CROSSPRESS_TRANSPORT': 'shm'}  # also between the pretended nodes: a build without UCX has nothing else


def within(eps):
    return lambda c: c['rel_err_max'] <= eps * 1.000001


def device(name, command, *args, check=lossless):
    return measured([on_doubles, command], ['memory', 'median_ms', 'wire_bytes', 'transport'], name, [*GROUP, *args],
                    lambda c: check(c) and c['memory'] == 'device', env=SHM)


os.environ['CUEMU_DEVICES'] = '4'
for transport in ('shm', 'nccl'):
    rows = ['--rows', '40', '--dim', '64', '--transport', transport]
    device(f'alltoallv, raw, {transport}', 'alltoallv', *rows, '--mode', 'raw', check=lambda c, t=transport: lossless(c) and t in c['transport'])
    device(f'alltoallv, exact, {transport}', 'alltoallv', *rows, '--mode', 'exact')
    device(f'alltoallv, bounded, {transport}', 'alltoallv', *rows, '--mode', 'bounded', '--eps', '0.1', check=within(0.1))
    device(f'alltoallv, bounded and dithered, {transport}', 'alltoallv', *rows, '--mode', 'bounded', '--eps', '0.1', '--dither', 'on', check=within(0.1))
    device(f'moe, exact, {transport}', 'moe', *rows, '--experts', '8')
    device(f'moe, bounded, gradients too, {transport}', 'moe', *rows, '--experts', '8', '--mode', 'bounded', '--eps', '0.1', '--backward', '--algo', 'hier',
           check=within(0.25))

device('moe, folded, gradients too', 'moe', '--rows', '40', '--dim', '64', '--experts', '8', '--mode', 'folded', '--backward', '--algo', 'hier',
       check=lambda c: c['rel_err_max'] < 0.02)

# ranks that share a GPU
os.environ['CUEMU_DEVICES'] = '1'
args = [on_doubles, 'alltoallv', *GROUP, '--transport', 'nccl', '--rows', '40', '--dim', '64', '--iters', '1']
code, out, err = run(args, env=SHM)
case('ranks that share a GPU are hosts of their own for NCCL', code == 0 and '4 ranks share GPUs' in err and 'NCCL_HOSTID' in err, out + err)
code, out, err = run(args, env={**SHM, 'FAKE_NCCL_FAULTS': 'ncclCommInitRank=5'})
case('what NCCL refuses is said', code == 1 and 'share a GPU' in err and 'transport nccl' in err, f'{code}\n{out}{err}')

# not here, and not so
code, out, err = run([on_doubles, 'alltoallv', *GROUP, '--rows', '8'], env={**SHM, 'CUEMU_DEVICES': '0'})
case('no device', code == 1 and err.count('\n') == 1 and '--memory device: no CUDA device' in err, f'{code}\n{out}{err}')
code, out, err = run([xp_perf, 'alltoallv', '--spawn', '2', '--memory', 'device', '--rows', '8', '--dim', '8'], env=SHM)
case('a machine without a GPU, or a build without CUDA', code in (0, 1) and (code == 0 or (err.count('\n') == 1 and 'CUDA' in err)), f'{code}\n{out}{err}')
for args, word in ((['codec', '--memory', 'device'], 'alltoallv and moe'), (['alltoallv', '--transport', 'nccl'], '--memory device'),
                   (['moe', '--memory', 'device', '--mode', 'folded', '--transport', 'nccl'], 'NCCL'), (['moe', '--memory', 'gpu'], 'gpu')):
    code, out, err = run([xp_perf, *args])
    case('refused: ' + ' '.join(args), code == 2 and err.count('\n') == 1 and word in err, f'{code}\n{out}{err}')
done()
