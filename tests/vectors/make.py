#!/usr/bin/env python3
"""make.py - writes the golden vectors anew: the inputs, and what xp_codec makes of them

usage: make.py XP_CODEC [NAME ...]      only these vectors; without names all of them, and the inputs

Golden vectors change only together with the version in hash/FORMAT.md, or for a codec that no release has had yet.

SPDX-License-Identifier: Apache-2.0
"""
import os
import random
import struct
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def vectors():
    for line in open(os.path.join(HERE, 'vectors.txt')):
        if line.strip() and not line.startswith('#'):
            name, source, *options = line.split()
            env = {'CROSSPRESS_' + o.split('=')[0]: o.split('=')[1] for o in options if '=' in o}
            yield name, source, [o for o in options if '=' not in o], env


def npy(descr, rows, dim, data):
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {dim}), }}".encode()
    head += b' ' * (-(len(head) + 11) % 64) + b'\n'
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head + data


def pack(kind, values):
    if kind == 'f16':
        return b''.join(struct.pack('<e', max(-65504, min(65504, v))) for v in values)
    if kind == 'f32':
        return struct.pack(f'<{len(values)}f', *values)
    return b''.join(struct.pack('<f', v)[2:] for v in values)


def rows_of(kind, dim):
    """Rows of every sort that matters: ordinary, zeros, NaN, Inf, a spike, tiny, large, constant, five equal ones."""
    r = random.Random(dim)
    mean = [r.gauss(0, 1) for _ in range(dim)]
    rows = [[m + r.gauss(0, s) for m in mean] for s in (0.1, 0.3, 1, 3)]
    rows += [[0.0] * dim, [float('nan') if i == 3 else m for i, m in enumerate(mean)], [float('-inf') if i == 1 else m for i, m in enumerate(mean)]]
    rows += [[100.0 if i == dim // 2 else 0.01 * m for i, m in enumerate(mean)], [m * 1e-7 for m in mean], [m * 1e4 for m in mean], [1.5] * dim]
    rows += [rows[2]] * 5
    return pack(kind, [v for row in rows for v in row]), len(rows)


def clusters(dim):
    r = random.Random(7)
    centres = [[r.gauss(0, 1) for _ in range(dim)] for _ in range(3)]
    rows = [[c + r.gauss(0, 0.1) for c in centres[i * i % 3]] for i in range(48)]
    rows[9] = [float('inf')] * dim
    return pack('bf16', [v for row in rows for v in row]), len(rows)


def activations(dim, count):
    """A mean row, channels of different spread, a direction of much energy."""
    r = random.Random(dim + count)
    shape = [(r.gauss(0, 1), 2 ** r.gauss(0, 1), r.gauss(0, 2)) for _ in range(dim)]
    rows = []
    for _ in range(count):
        a = r.gauss(0, 1)
        rows += [m + s * r.gauss(0, 1) + a * d for m, s, d in shape]
    return pack('bf16', rows)


def write_inputs():
    for name, kind, dim in (('bf16', 'bf16', 140), ('f16', 'f16', 140), ('f32', 'f32', 140), ('narrow', 'bf16', 5)):
        data, rows = rows_of(kind, dim)
        open(os.path.join(HERE, f'input_{name}.npy'), 'wb').write(npy({'bf16': '<u2', 'f16': '<f2', 'f32': '<f4'}[kind], rows, dim, data))
    data, rows = clusters(72)
    open(os.path.join(HERE, 'input_clusters.npy'), 'wb').write(npy('<u2', rows, 72, data))
    for name, dim, count in (('long', 4100, 4), ('many', 64, 1024)):
        open(os.path.join(HERE, f'input_{name}.npy'), 'wb').write(npy('<u2', count, dim, activations(dim, count)))
    open(os.path.join(HERE, 'input_none.npy'), 'wb').write(npy('<f4', 0, 9, b''))


if __name__ == '__main__':
    tool, wanted = sys.argv[1], sys.argv[2:]
    if not wanted:
        write_inputs()
    for name, source, options, env in vectors():
        if wanted and name not in wanted:
            continue
        xpf, back = os.path.join(HERE, name + '.xpf'), os.path.join(HERE, name + '.npy')
        subprocess.run([tool, 'encode', *options, os.path.join(HERE, f'input_{source}.npy'), xpf], check=True, env={**os.environ, **env})
        subprocess.run([tool, 'decode', xpf, back], check=True)
