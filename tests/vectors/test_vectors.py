#!/usr/bin/env python3
"""test_vectors.py - golden vectors: the library reads them, writes them again to the byte, and decode.py agrees

usage: test_vectors.py XP_CODEC

SPDX-License-Identifier: Apache-2.0
"""
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
import decode
from make import HERE, npy, vectors
from tap import case, done, run

xp_codec = sys.argv[1]


def get(*parts):
    with open(os.path.join(*parts), 'rb') as f:
        return f.read()


with tempfile.TemporaryDirectory() as folder:
    out = os.path.join(folder, 'out')
    for name, source, options, env in vectors():
        frame, rows = get(HERE, name + '.xpf'), get(HERE, name + '.npy')
        for isa in ('c', 'avx2', 'avx512', 'auto'):
            env['CROSSPRESS_ISA'] = isa
            rc, _, err = run([xp_codec, 'decode', os.path.join(HERE, name + '.xpf'), out], env=env)
            if rc and 'CPU has no' in err:
                continue
            case(f'{name}, {isa}: decodes to the same rows', rc == 0 and get(out) == rows, err)
            rc, _, err = run([xp_codec, 'encode', *options, os.path.join(HERE, f'input_{source}.npy'), out], env=env)
            case(f'{name}, {isa}: encodes to the same bytes', rc == 0 and get(out) == frame, err)
        case(f'{name}: decode.py reads the same rows', decode.npy(*decode.read_file(frame)) == rows)
    # Real rows: 48 of the file that the demo sends.
    data = get(HERE, '..', 'data', 'smollm2_L15_x.npy')
    start, dim = 10 + int.from_bytes(data[8:10], 'little'), 576
    real, out_npy = os.path.join(folder, 'real.npy'), os.path.join(folder, 'real_out.npy')
    with open(real, 'wb') as f:
        f.write(npy('<u2', 48, dim, data[start:start + 48 * dim * 2]))
    for codec, eps in (('quant', '0.01'), ('quant', '0.03'), ('quant', '0.1'), ('lsh', '0.1'), ('fp8', '0.1')):
        a = run([xp_codec, 'encode', '--mode', 'bounded', '--eps', eps, '--codec', codec, real, out])
        b = run([xp_codec, 'decode', out, out_npy])
        case(f'real rows, {codec} at eps {eps}: decode.py reads the same rows', a[0] == b[0] == 0 and
             decode.npy(*decode.read_file(get(out))) == get(out_npy), f'{a} {b}')
everything = {decode.RAW, decode.FP8, decode.ZERO, decode.BASE, *decode.LEVELS}
case('the vectors hold every row format', decode.formats_seen == everything, f'missing {everything - decode.formats_seen}')
done()
