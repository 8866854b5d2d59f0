#!/usr/bin/env python3
"""codec_files.py - xp_codec from outside: files there and back, and what is wrong with a file said in one line

usage: codec_files.py XP_CODEC

Needs nothing but Python: .npy files are written and read here by hand.

SPDX-License-Identifier: Apache-2.0
"""
import json
import math
import os
import random
import struct
import sys
import tempfile

from tap import case, done, run

xp_codec = sys.argv[1]
folder = tempfile.TemporaryDirectory()
rnd = random.Random(20241)


def path(name):
    return os.path.join(folder.name, name)


def put(name, data):
    with open(path(name), 'wb') as f:
        f.write(data)
    return path(name)


def get(name):
    with open(path(name), 'rb') as f:
        return f.read()


def npy(descr, shape, data, order='False', version=b'\x01\x00', head=None):
    head = (head or f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}").encode()
    head += b' ' * (-(len(head) + 11) % 64) + b'\n'
    return b'\x93NUMPY' + version + struct.pack('<H' if version[0] == 1 else '<I', len(head)) + head + data


def f32_rows(rows, dim):
    return struct.pack(f'<{rows * dim}f', *(rnd.gauss(0, 1) for _ in range(rows * dim)))


def bf16_rows(rows, dim):
    return b''.join(struct.pack('<f', rnd.gauss(0, 1))[2:] for _ in range(rows * dim))


def f16_rows(rows, dim):
    return struct.pack(f'<{rows * dim}e', *(rnd.gauss(0, 1) for _ in range(rows * dim)))


def clean(*names):
    for n in names:
        if os.path.exists(path(n)):
            os.remove(path(n))


def leftovers():
    return [f for f in os.listdir(folder.name) if f.startswith('out.')]


def refused(name, args, words=(), code=None, env=None):
    """One line on stderr that holds the words, an exit code of 1 or 2, no output file and no temporary one."""
    clean('out.xpf', 'out.npy', 'out.json')
    rc, out, err = run([xp_codec, *args], env=env)
    good = rc in ((1, 2) if code is None else (code,)) and len(err.strip().splitlines()) == 1 and not leftovers()
    return case(name, good and all(w in err for w in words), f'exit {rc}, files {leftovers()}, stderr: {err}')


# ---- there and back -------------------------------------------------------------------------------------------------
makers = {'<u2': (bf16_rows, 2), '<f2': (f16_rows, 2), '<f4': (f32_rows, 4)}
for descr, (make, size) in makers.items():
    for shape in ((0, 64), (1, 1), (3, 7), (200, 33)):
        data = make(*shape)
        put('in.npy', npy(descr, shape, data))
        for mode in (['--mode', 'raw'], ['--mode', 'exact'], [], ['--mode', 'bounded', '--eps', '0.05']):
            clean('out.xpf', 'out.npy')
            a = run([xp_codec, 'encode', *mode, path('in.npy'), path('out.xpf')])
            b = run([xp_codec, 'decode', path('out.xpf'), path('out.npy')])
            good = a[0] == 0 and b[0] == 0 and not a[2] and not b[2]
            if good:
                back = get('out.npy')
                head = npy(descr, shape, b'')
                good = back[:len(head)] == head and len(back) == len(head) + len(data)
                if 'bounded' not in mode:
                    good = good and back[len(head):] == data
            case(f'{descr} {shape} {" ".join(mode) or "default mode"}', good, f'{a} {b}')

rows = f32_rows(150, 96)
put('in.npy', npy('<f4', (150, 96), rows))
for codec in 'auto quant fp8 int8 int6 int5 int4 int3 int2 lsh lsh+int4 exact raw'.split():
    clean('out.xpf', 'out.npy', 'out.json')
    a = run([xp_codec, 'encode', '--mode', 'bounded', '--eps', '0.4', '--codec', codec, '--json', path('out.json'), path('in.npy'), path('out.xpf')])
    b = run([xp_codec, 'decode', path('out.xpf'), path('out.npy')])
    worst = math.inf
    if a[0] == 0 and b[0] == 0:
        x, y = struct.unpack(f'<{150 * 96}f', rows), struct.unpack(f'<{150 * 96}f', get('out.npy')[-len(rows):])
        worst = max(math.dist(x[r * 96:r * 96 + 96], y[r * 96:r * 96 + 96]) / math.hypot(*x[r * 96:r * 96 + 96]) for r in range(150))
        figures = json.loads(get('out.json'))
    case(f'codec {codec}: within eps', worst <= 0.4, f'{a} {b} worst {worst}')
    case(f'codec {codec}: --json tells the truth', worst <= 0.4 and abs(figures['rel_err_max'] - worst) <= 1e-4 * worst + 1e-9
         and figures['wire_bytes'] == os.path.getsize(path('out.xpf')) and figures['raw_bytes'] == len(rows)
         and abs(figures['wire_ratio'] - figures['wire_bytes'] / len(rows)) < 1e-5, f'{worst} {get("out.json") if a[0] == 0 else a}')

special = bytearray(bf16_rows(20, 64))
for row, bits in ((3, 0x7fc1), (5, 0x7f80), (7, 0xff80), (9, 0x7f81)):
    struct.pack_into('<H', special, row * 128 + 2 * row, bits)
special[11 * 128:12 * 128] = bytes(128)
put('in.npy', npy('<u2', (20, 64), bytes(special)))
run([xp_codec, 'encode', '--mode', 'bounded', '--eps', '0.1', path('in.npy'), path('out.xpf')])
run([xp_codec, 'decode', path('out.xpf'), path('out.npy')])
back = get('out.npy')[-len(special):]
case('NaN, Inf and zero rows come back bit for bit', all(back[r * 128:r * 128 + 128] == special[r * 128:r * 128 + 128] for r in (3, 5, 7, 9, 11)))

for name, args, env in (('options', ['--mode', 'bounded', '--eps', '0.2', '--codec', 'int3'], {}),
                        ('settings', [], {'CROSSPRESS_MODE': 'bounded', 'CROSSPRESS_EPS': '0.2', 'CROSSPRESS_CODEC': 'int3'}),
                        ('plain C', ['--mode', 'bounded', '--eps', '0.2', '--codec', 'int3'], {'CROSSPRESS_ISA': 'c'})):
    run([xp_codec, 'encode', *args, path('in.npy'), path(f'{name}.xpf')], env=env)
case('settings mean what options mean, and plain C gives the same file', get('options.xpf') == get('settings.xpf') == get('plain C.xpf'))
rc, out, err = run([xp_codec, 'encode', path('in.npy'), path('out.xpf')], env={'CROSSPRESS_EPZ': '1'})
case('a misspelt setting is warned about', rc == 0 and 'CROSSPRESS_EPS' in err, err)

# ---- outputs ----------------------------------------------------------------------------------------------------------
put('out.xpf', b'precious')
run([xp_codec, 'encode', '--mode', 'bounded', '--eps', '2', path('in.npy'), path('out.xpf')])
run([xp_codec, 'encode', '--codec', 'int4', path('in.npy'), path('out.xpf')])
case('a failed run leaves the old output alone', get('out.xpf') == b'precious')
put('target', b'')
clean('out.xpf')
os.symlink(path('target'), path('link'))
run([xp_codec, 'encode', path('in.npy'), path('link')])
case('a link is followed', os.path.islink(path('link')) and os.path.getsize(path('target')) > 100)
case('the null device stays a device', run([xp_codec, 'encode', path('in.npy'), '/dev/null'])[0] == 0 and not os.path.isfile('/dev/null'))
refused('an output folder that is not there', ['encode', path('in.npy'), path('no/out.xpf')], ['no/out.xpf', 'No such file'])
refused('an output that is a folder', ['encode', path('in.npy'), folder.name])
case('a full disk is an error', run([xp_codec, 'encode', path('in.npy'), '/dev/full'])[0] == 1 if os.path.exists('/dev/full') else True)

# ---- .npy files that are not -------------------------------------------------------------------------------------------
data = f32_rows(4, 6)
bad = {
    'empty': (b'', 'not a .npy'),
    'text': (b'hello, world, this is not an array', 'not a .npy'),
    'cut off in the header': (npy('<f4', (4, 6), data)[:40], 'not a .npy'),
    'short': (npy('<f4', (4, 6), data[:-1]), 'needs 96'),
    'no values at all': (npy('<f4', (4, 6), b''), 'needs 96'),
    'oversized': (npy('<f4', (4, 6), data + b'\0'), 'needs 96'),
    'Fortran order': (npy('<f4', (4, 6), data, order='True'), 'Fortran'),
    '3-D': (npy('<f4', (2, 2, 6), data), 'more than two dimensions'),
    '1-D': (npy('<f4', '(24,)', data), '1 dimensions'),
    '0-D': (npy('<f4', '()', data[:4]), '0 dimensions'),
    'double': (npy('<f8', (4, 3), data), '<f8'),
    'big endian': (npy('>f4', (4, 6), data), '>f4'),
    'integers': (npy('<i4', (4, 6), data), '<i4'),
    'bytes': (npy('|u1', (4, 24), data), '|u1'),
    'structured': (npy('', (4, 6), data, head="{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4, 6), }"), 'structured'),
    'rows of no values': (npy('<f4', (4, 0), b''), 'rows of 0 values'),
    'rows too long': (npy('<f4', (1, 1048577), bytes(4 * 1048577)), '1048577'),
    'impossible count': (npy('<f4', (1 << 62, 6), data), 'impossible'),
    'a count beyond 64 bits': (npy('<f4', ('9' * 30, 6), data), 'header'),
    'negative count': (npy('<f4', (-1, 6), data), 'header'),
    'unknown version': (npy('<f4', (4, 6), data, version=b'\x09\x00'), 'not a .npy'),
    'no shape': (npy('', '', data, head="{'descr': '<f4', 'fortran_order': False, }"), 'header'),
    'code in the header': (npy('', '', data, head="{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os'), }"), 'header'),
    'a line break in the type': (npy('', '', data, head="{'descr': '<u\n', 'fortran_order': False, 'shape': (4, 6), }"), 'header'),
    'an escape sequence in the type': (npy('', '', data, head="{'descr': '\x1b[2J', 'fortran_order': False, 'shape': (4, 6), }"), 'header'),
    'something behind the dict': (npy('', '', data, head="{'descr': '<f4', 'fortran_order': False, 'shape': (4, 6), } x"), 'header'),
}
for name, (content, word) in bad.items():
    put('bad.npy', content)
    refused(f'.npy: {name}', ['encode', path('bad.npy'), path('out.xpf')], ['bad.npy', word], code=1)
refused('.npy: missing', ['encode', path('none.npy'), path('out.xpf')], ['none.npy', 'No such file'], code=1)
refused('.npy: a folder', ['encode', folder.name, path('out.xpf')], code=1)
refused('stats of a bad file', ['stats', path('bad.npy')], ['bad.npy'], code=1)
put('v2.npy', npy('<f4', (4, 6), data, version=b'\x02\x00'))
case('a version 2 header is read', run([xp_codec, 'encode', path('v2.npy'), path('out.xpf')])[0] == 0)

# ---- options that are not -----------------------------------------------------------------------------------------------
good = [path('in.npy'), path('out.xpf')]
for name, args in {
        'no command': [], 'unknown command': ['frobnicate'], 'unknown option': ['encode', '--frob', *good], 'option of another command': ['decode', '--eps', '0.1', *good],
        'no value': ['encode', *good, '--eps'], 'no files': ['encode'], 'one file': ['encode', good[0]], 'three files': ['encode', *good, 'x'],
        'unknown mode': ['encode', '--mode', 'lossy', *good], 'k of 0': ['stats', '--k', '0', good[0]], 'width 5': ['stats', '--width', '5', good[0]],
        'rounds 9': ['stats', '--rounds', '9', good[0]], 'center 2': ['stats', '--center', '2', good[0]],
        **{f'eps {e}': ['encode', '--mode', 'bounded', '--eps', e, *good] for e in ('0', '1', '-0.1', 'nan', 'inf', '1e400', '', '0.1x', '1e-400')}}.items():
    refused(f'options: {name}', args, code=2)
refused('unknown codec', ['encode', '--codec', 'nope', *good], ['nope'])
refused('a lossy codec without mode bounded', ['encode', '--codec', 'int4', *good], ['int4', 'lossy'])
refused('a setting that does not parse', ['encode', *good], ['CROSSPRESS_EPS'], env={'CROSSPRESS_EPS': 'much'})
refused('hashes that do not fit', ['stats', '--k', '8', '--width', '512', good[0]])

# ---- .xpf files that are not ------------------------------------------------------------------------------------------
put('small.npy', npy('<u2', (6, 20), bf16_rows(6, 20)))
run([xp_codec, 'encode', '--mode', 'bounded', '--eps', '0.1', path('small.npy'), path('small.xpf')])
blob = get('small.xpf')


def decode_fails(content):
    clean('out.npy')
    put('bad.xpf', content)
    rc, out, err = run([xp_codec, 'decode', path('bad.xpf'), path('out.npy')])
    return rc == 1 and len(err.strip().splitlines()) == 1 and 'bad.xpf' in err and not leftovers_npy()


def leftovers_npy():
    return [f for f in os.listdir(folder.name) if f.startswith('out.npy')]


missed = [i for i in range(len(blob)) if not decode_fails(blob[:i] + bytes([blob[i] ^ (1 << i % 8)]) + blob[i + 1:])]
case(f'a flipped bit in each of the {len(blob)} bytes of a file is noticed', len(blob) > 150 and not missed, f'not noticed at {missed}')
missed = [n for n in range(0, len(blob), 3) if not decode_fails(blob[:n])]
case('a truncated file is noticed at every third length', not missed, f'not noticed: {missed}')
case('trailing bytes are noticed', decode_fails(blob + b'\0') and decode_fails(blob + blob))
case('a .npy is not a .xpf', decode_fails(get('small.npy')))

many = struct.pack('<140000H', *(i * 7 % 65521 for i in range(140000)))
put('many.npy', npy('<u2', (140000, 1), many))
a = run([xp_codec, 'encode', '--mode', 'raw', path('many.npy'), path('many.xpf')])
b = run([xp_codec, 'decode', path('many.xpf'), path('out.npy')])
blob = get('many.xpf')
one = 64 + 2 * 65536
frames = [blob[32:32 + one], blob[32 + one:32 + 2 * one], blob[32 + 2 * one:-24]]
case('140000 rows are three frames and come back', a[0] == b[0] == 0 and get('out.npy')[-len(many):] == many and
     all(f[:4] == b'XPF1' for f in frames) and blob[-24:-20] == b'XPFE', f'{a} {b}')
case('swapped frames are noticed', decode_fails(blob[:32] + frames[1] + frames[0] + frames[2] + blob[-24:]))
case('a doubled frame is noticed', decode_fails(blob[:32] + frames[0] + frames[0] + frames[2] + blob[-24:]))
case('a missing frame is noticed', decode_fails(blob[:32] + frames[0] + frames[2] + blob[-24:]))
case('a frame of another file is noticed', decode_fails(get('small.xpf')[:32] + frames[0] + blob[-24:]))

# ---- stats --------------------------------------------------------------------------------------------------------------
rc, out, err = run([xp_codec, 'stats', '--json', path('out.json'), path('in.npy')])
report = json.loads(get('out.json')) if rc == 0 else {}
case('stats: figures of a small file', rc == 0 and report['rows'] == 20 and report['rows_nonfinite'] == 4 and report['rows_distinct'] == 20 and
     {c['codec'] for c in report['codecs']} >= {'exact', 'fp8', 'int2', 'quant', 'lsh'} and 0 < report['clusters_lsh']['clusters'] <= 16, f'{out} {err}')
base = [rnd.gauss(0, 1) for _ in range(64)]
groups = b''.join(struct.pack('<64f', *(rnd.gauss(0, 0.05) + (base[i] if r % 2 else -base[i]) for i in range(64))) for r in range(100))
put('two.npy', npy('<f4', (100, 64), groups))
rc, out, err = run([xp_codec, 'stats', '--k', '1', '--width', '16', '--rounds', '3', '--center', '1', '--json', path('out.json'), path('two.npy')])
report = json.loads(get('out.json')) if rc == 0 else {}
case('stats: two clear groups are two clusters', rc == 0 and report['clusters_refined']['clusters'] == 2 and report['clusters_refined']['rho_centred'] < 0.02, f'{out} {err}')
# The table: what a sample predicts and what all rows give, books kept by both ends, and a plot where there is matplotlib.
base = [[rnd.gauss(0, 4) for _ in range(64)] for _ in range(8)]
put('books.npy', npy('<f4', (2000, 64), b''.join(struct.pack('<64f', *(v + rnd.gauss(0, 1) for v in base[rnd.randrange(8)])) for r in range(2000))))
rc, out, err = run([xp_codec, 'stats', '--json', path('out.json'), '--plot', path('out.png'), path('books.npy')], env={'CROSSPRESS_EPS_REF': 'row'})
report = json.loads(get('out.json')) if rc == 0 else {'codecs': []}
rows = {(c['codec'], c['eps']): c for c in report['codecs']}
kept, own = rows.get(('kept book', 0.1)), rows.get(('book', 0.1))
case('stats: a kept book saves bytes on rows it was not learned from', kept and own and kept['rows'] == 992 and kept['ratio'] < 0.9 * own['ratio'], f'{out} {err}')
case('stats: every codec within its eps, quant as predicted', rc == 0 and all(
     c['rel_err_max'] <= max(c['eps'], 1e-9) * 1.000001 and c['encode_gbs'] > 0 and
     (c['codec'] != 'quant' or abs(c['ratio'] / c['predicted_ratio'] - 1) < 0.15) for c in report['codecs'] if c['eps'] < 0.5), f'{out} {err}')
case('stats: a plot, or the notice that there is no matplotlib', rc == 0 and (os.path.exists(path('out.png')) or 'no plot' in err), f'{rc} {err}')
rc, out, err = run([xp_codec, 'stats', '--plot', path('nowhere/out.png'), path('books.npy')])
case('stats: a plot that cannot be written', rc == 1 and len(err.strip().splitlines()) == 1, f'{rc} {err}')
for shape in ((0, 8), (1, 1), (2, 300)):
    put('s.npy', npy('<f4', shape, f32_rows(*shape)))
    rc, out, err = run([xp_codec, 'stats', path('s.npy')])
    case(f'stats: shape {shape}', rc == 0 and 'nan' not in out.replace('NaN', ''), f'{out} {err}')
done()
