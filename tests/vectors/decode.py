#!/usr/bin/env python3
"""decode.py - a second reader of .xpf files, slow and simple, written from hash/FORMAT.md alone

usage: decode.py IN.xpf OUT.npy

It checks every length, number and flag; the XXH3 checksums are left to the library. The entropy coder's tables are read from
hash/rans_tables.c, which is part of the format.
Arithmetic: Python's doubles hold sums and products of f32 values exactly enough that rounding them to f32 once gives the f32 result.

SPDX-License-Identifier: Apache-2.0
"""
import math
import os
import re
import struct
import sys

BF16, F16, F32, BYTE = 1, 2, 3, 4
SIZE = {BF16: 2, F16: 2, F32: 4, BYTE: 1}
RAW, FP8, ZERO, BASE = 0, 9, 10, 16
#          format: (levels, bits of an element, two codes in an element)
LEVELS = {1: (181, 15, True), 2: (4, 2, False), 3: (8, 3, False), 4: (16, 4, False), 5: (32, 5, False), 6: (64, 6, False), 7: (128, 7, False),
          8: (256, 8, False), 11: (5, 5, True), 12: (11, 7, True), 13: (22, 9, True), 14: (45, 11, True), 15: (90, 13, True)}
formats_seen = set()


class Corrupt(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Corrupt(what)


# ---- numbers --------------------------------------------------------------------------------------------------------
def f32(x):
    try:
        return struct.unpack('<f', struct.pack('<f', x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def bf16_value(u):
    return struct.unpack('<f', struct.pack('<I', u << 16))[0]


def typed(x, kind):
    """The bytes of an f32 value rounded to a type, nearest even."""
    if kind == F32:
        return struct.pack('<f', x)
    if kind == F16:
        try:
            return struct.pack('<e', x)
        except OverflowError:
            return struct.pack('<e', math.copysign(math.inf, x))
    u = struct.unpack('<I', struct.pack('<f', x))[0]
    return struct.pack('<H', (u + 0x7fff + (u >> 16 & 1)) >> 16 & 0xffff)


def values(data, kind):
    n = len(data) // SIZE[kind]
    if kind == BF16:
        return [bf16_value(u) for u in struct.unpack(f'<{n}H', data)]
    return list(struct.unpack(f'<{n}{"e" if kind == F16 else "f"}', data))


def bits_for(n):
    return max(n - 1, 0).bit_length()


def packed(data, count, width):
    number = int.from_bytes(data, 'little')
    need(number >> (count * width) == 0, 'stray bits behind packed numbers')
    return [number >> (i * width) & ((1 << width) - 1) for i in range(count)]


# ---- random signs: Philox 4x32-10, words in cuRAND's order, stream 8 ----------------------------------------------------------
def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k[0], q & 0xffffffff, p >> 32 ^ c[3] ^ k[1], p & 0xffffffff]
        k = [(k[0] + 0x9E3779B9) & 0xffffffff, (k[1] + 0xBB67AE85) & 0xffffffff]
    return c


def signs(seed, count):
    out = []
    for word in range((count + 31) // 32):
        at = (8 << 28) + word
        block = at // 4
        step, subsequence = divmod(block, 65536)
        bits = philox((step & 0xffffffff, step >> 32, subsequence, 0), (seed & 0xffffffff, seed >> 32))[at % 4]
        out += [-1 if bits >> i & 1 else 1 for i in range(32)]
    return out


# ---- quantised rows ---------------------------------------------------------------------------------------------------
def block_sizes(dim):
    rest = dim % 128
    return [128] * (dim // 128) + ([max(8, 1 << bits_for(rest))] if rest else [])


def block_bytes(fmt, n):
    if fmt == FP8:
        return n
    _, bits, paired = LEVELS[fmt]
    elements = n // 2 if paired else n
    return sum(elements * w // 8 for w in (8, 4, 2) if bits & w) + ((elements + 7) // 8 if bits & 1 else 0)


def row_bytes(fmt, dim):
    return sum(2 + block_bytes(fmt, n) for n in block_sizes(dim))


def unpack(data, n, bits):
    """Elements of `bits` bits: the lowest 8, then 4, 2, 1 bits of all of them lie together."""
    out, at = [0] * n, 0
    for w in (8, 4, 2):
        if bits & w:
            size = n * w // 8
            for i in range(n):
                out[i] |= (data[i % size] >> (i // size * w) & ((1 << w) - 1)) << at
            data, at = data[size:], at + w
    if bits & 1:
        for i in range(n):
            out[i] |= (data[i // 8] >> (i % 8) & 1) << at
    return out


def position(j):
    """Where code j of a whole block stands."""
    return (j >> 3 & 1) | (j & 1) << 1 | (j >> 4 & 1) << 2 | (j >> 2 & 1) << 3 | (j >> 1 & 1) << 4 | (j & 0x60)


def hadamard(x):
    half = 1
    while half < len(x):
        for i in range(len(x)):
            if not i & half:
                x[i], x[i + half] = x[i] + x[i + half], x[i] - x[i + half]
        half *= 2
    return x


def fp8_units(c):
    e, m = c >> 3 & 15, c & 7
    v = (8 + m) << (e - 1) if e else m
    return -v if c & 0x80 else v


def block_codes(fmt, n, data):
    """Twice the values of the codes, in steps (FP8: in units of 2^-9)."""
    if fmt == FP8:
        return [2 * fp8_units(c) for c in data]
    levels, bits, paired = LEVELS[fmt]
    w = unpack(data, n // 2 if paired else n, bits)
    if paired:
        w = [e // levels for e in w] + [e % levels for e in w]
    if n == 128:
        w = [w[position(j)] for j in range(n)]
    return [2 * u - (levels - 1) for u in w]


def dequantise(fmt, data, dim, sign):
    sizes = block_sizes(dim)
    steps, at, out = data[:2 * len(sizes)], 2 * len(sizes), []
    for b, n in enumerate(sizes):
        wire = struct.unpack_from('<H', steps, 2 * b)[0]
        step = 0.0 if wire & 0x7f80 >= 227 << 7 else bf16_value(wire)
        size = block_bytes(fmt, n)
        for i, twice in enumerate(hadamard(block_codes(fmt, n, data[at:at + size]))):
            if len(out) < dim:
                out.append(f32(twice // 2 * sign[128 * b + i] * step))
        at += size
    return out


def read_row(fmt, data, base, kind, dim, sign):
    formats_seen.add(fmt)
    if fmt == RAW:
        return bytes(data)
    if fmt == ZERO:
        return bytes(dim * SIZE[kind])
    x = [0.0] * dim if fmt == BASE else dequantise(fmt, data, dim, sign)
    if base:
        x = [b if fmt == BASE else f32(v + b) for v, b in zip(x, base)]
    return b''.join(typed(v, kind) for v in x)


def read_rows(formats, data, bases, kind, dim, sign):
    out = []
    for fmt, base in zip(formats, bases):
        need(fmt in (RAW, FP8, ZERO) or fmt in LEVELS or (fmt == BASE and base), 'unknown row format')
        size = dim * SIZE[kind] if fmt == RAW else 0 if fmt in (ZERO, BASE) else row_bytes(fmt, dim)
        need(size <= len(data), 'rows cut off')
        out.append(read_row(fmt, data[:size], base, kind, dim, sign))
        data = data[size:]
    need(not data, 'bytes behind the rows')
    return b''.join(out)


# ---- codecs ------------------------------------------------------------------------------------------------------------
def raw(p, rows, kind, dim, seed):
    need(len(p) == rows * dim * SIZE[kind], 'length of raw rows')
    return p


def exact(p, rows, kind, dim, seed):
    distinct, width = struct.unpack_from('<II', p)
    need(distinct <= rows and width == bits_for(distinct), 'distinct rows')
    size, at = dim * SIZE[kind], 8 + (rows * width + 7) // 8
    need(len(p) == at + distinct * size, 'length of exact rows')
    numbers, seen = packed(p[8:at], rows, width), 0
    for n in numbers:
        need(n <= seen, 'order of distinct rows')
        seen += n == seen
    need(seen == distinct, 'unused distinct rows')
    return b''.join(p[at + n * size:at + (n + 1) * size] for n in numbers)


def quant(p, rows, kind, dim, seed):
    flags = struct.unpack_from('<I', p)[0]
    need(flags < 2, 'flags')
    at, base = 4, None
    if flags:
        base, at = values(p[4:4 + dim * SIZE[kind]], kind), 4 + dim * SIZE[kind]
        need(all(map(math.isfinite, base)), 'mean row')
    return read_rows(p[at:at + rows], p[at + rows:], [base] * rows, kind, dim, signs(seed, dim + 128))


def lsh(p, rows, kind, dim, seed):
    count, zero = struct.unpack_from('<II', p)
    need(zero == 0 and count <= rows and (count or not rows), 'number of centroids')
    sign, size, width = signs(seed, dim + 128), row_bytes(8, dim), bits_for(count)
    centroids = [dequantise(8, p[8 + k * size:8 + (k + 1) * size], dim, sign) for k in range(count)]
    at = 8 + count * size
    end = at + (rows * width + 7) // 8
    numbers = packed(p[at:end], rows, width)
    need(all(n < count for n in numbers), 'cluster of a row')
    return read_rows(p[end:end + rows], p[end + rows:], [centroids[n] for n in numbers], kind, dim, sign)


# ---- the entropy coder ------------------------------------------------------------------------------------------------------
def tables():
    """Per table the frequencies of symbols 0 to 31."""
    text = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../hash/rans_tables.c')).read()
    spans = [int(x, 16) & 0xffff for x in re.findall(r'0x[0-9a-f]{7,8}', text)]
    even_first = [spans[i:i + 32] for i in range(0, len(spans), 32)]
    return [[t[s // 2 + 16 * (s % 2)] for s in range(32)] for t in even_first]


TABLES = tables()


class Bits:
    """Lowest bits first."""
    def __init__(self, data):
        self.number, self.at, self.end = int.from_bytes(data, 'little'), 0, 8 * len(data)

    def take(self, n):
        need(self.at + n <= self.end, 'bits cut off')
        self.at += n
        return self.number >> (self.at - n) & ((1 << n) - 1)


def low_bits(c):
    return 0 if c < 20 else (c - 20) // 4 + 1


def table_of(c):
    return TABLES[c if c < 20 else 20 + (c - 20) % 4 + 4 * min(low_bits(c) - 1, 2)]


def entropy_decode(data, n, classes):
    lanes = max(k for k in (1, 2, 4, 8, 16) if k == 1 or 256 * k <= n)
    bits = Bits(data)
    state = []
    for _ in range(lanes):
        e = bits.take(4)
        state.append(1 << (16 + e) | bits.take(16 + e))
    at = (bits.at + 7) // 8
    planes = []
    for c in classes:
        planes.append([struct.unpack_from('<H', data, at + 2 * b)[0] for b in range(low_bits(c))])
        at += 2 * low_bits(c)
    steps = -(-n // lanes)
    tail, symbols = max(steps - 3, 0), []
    for i in range(tail * lanes):
        x, f = state[i % lanes], table_of(classes[i // 16])
        slot, s, below = x % 4096, 0, 0
        while below + f[s] <= slot:
            below, s = below + f[s], s + 1
        x = f[s] * (x // 4096) + slot - below
        if x < 65536:
            x, at = x << 16 | struct.unpack_from('<H', data, at)[0], at + 2
        state[i % lanes] = x
        symbols.append(s)
    for i in range(tail * lanes, (tail + 3) * lanes):
        symbols.append(state[i % lanes] % 32)
        state[i % lanes] //= 32
    need(all(x == 2 for x in state) and not any(symbols[n:]), 'states at the end of a row')
    q = []
    for i in range(n):
        b = low_bits(classes[i // 16])
        low = sum((planes[i // 16][j] >> (i % 16) & 1) << j for j in range(b))
        if symbols[i]:
            q.append((symbols[i] - 16) * (1 << b) + low - (1 << b >> 1 if b else 0))
        else:
            q.append(struct.unpack_from('<h', data, at)[0])
            at += 2
    need(at == len(data), 'bytes behind a row')
    return q


# ---- codec book -----------------------------------------------------------------------------------------------------------------
class Book:
    def __init__(self, p, dim):
        version, count, self.rank, flags, width, zero = struct.unpack_from('<IHBBBB', p)
        need(version == count == zero == 0 and self.rank in (0, 16, 32) and flags < 4 and width <= 6, 'head of a book')
        at, self.coordinate_classes = 10, []
        if self.rank:
            self.step = struct.unpack_from('<f', p, at)[0]
            self.coordinate_classes = list(p[at + 4:at + 4 + self.rank // 16])
            at += 4 + self.rank // 16
        spread = [0] * dim
        if flags & 2:
            spread = packed(p[at:at + (dim * width + 7) // 8], dim, width)
            at += (dim * width + 7) // 8
        self.mean = [0.0] * dim
        if flags & 1:
            self.mean, at = values(p[at:at + 2 * dim], BF16), at + 2 * dim
        self.directions = []
        for _ in range(self.rank):
            scale = struct.unpack_from('<f', p, at)[0]
            self.directions.append([f32(b * scale) for b in struct.unpack_from(f'<{dim}b', p, at + 4)])
            at += 4 + dim
        self.order = [c for w in range(0, dim, 256) for c in sorted(range(w, min(w + 256, dim)), key=lambda i: (spread[i], i))]
        groups = [[spread[c] for c in self.order[g:g + 16]] for g in range(0, dim, 16)]
        self.group_classes = [(2 * sum(g) + len(g)) // (2 * len(g)) for g in groups]
        self.length = at

    def row(self, data, number, offset, kind, dim, dither):
        groups = [min(max(c + offset, 0), 63) for c in self.group_classes]
        if dither:
            groups = [DITHERED[c] if c < len(DITHERED) else c for c in groups]
        classes = self.coordinate_classes + groups
        q = entropy_decode(data, self.rank + dim, classes)
        base = list(self.mean)
        for a, direction in zip(q, self.directions):
            if a:
                a = f32(a * self.step)
                base = [f32(b + f32(a * d)) for b, d in zip(base, direction)]
        step = f32(2 ** (number % 64 / 64)) * 2.0 ** (number // 64)
        row = [b''] * dim
        for i, channel in enumerate(self.order):
            v = q[self.rank + i] - (dither[i] if dither else 0)
            row[channel] = typed(f32(f32(v * step) + base[i]), kind)
        return b''.join(row)


DITHERED = [6, 6, 7, 7, 7, 8, 8, 9, 10, 10, 11, 12, 13, 13]


def dither_of(seed, row, dim):
    out, key = [], (seed & 0xffffffff, seed >> 32)
    for group in range((dim + 15) // 16):
        for word in philox((group, row & 0xffffffff, row >> 32, 1), key):
            out += [(2 * b - 255) / 512 for b in struct.pack('<I', word)]
    return out


def columns(p, rows, widths):
    out, at = [], 0
    for w in widths:
        out.append(packed(p[at:at + (rows * w + 7) // 8], rows, w))
        at += (rows * w + 7) // 8
    return out, p[at:]


def book(p, rows, kind, dim, seed):
    need(p[0] in (0, 2), 'kind of a book frame')
    dithered = p[0] == 2
    b = Book(p[1:], dim)
    p = p[1 + b.length:]
    s0, ws, o0, wo, wl, l0 = struct.unpack_from('<hBbBBI', p)
    (step, offset, _, length), p = columns(p[10:], rows, (ws, wo, 0, wl))
    out = []
    for r in range(rows):
        if step[r]:
            out.append(b.row(p[:l0 + length[r]], s0 + step[r] - 1, o0 + offset[r], kind, dim,
                             dither_of(seed, r, dim) if dithered else None))
            p = p[l0 + length[r]:]
        elif offset[r]:
            out.append(bytes(dim * SIZE[kind]))
        else:
            out.append(p[:dim * SIZE[kind]])
            p = p[dim * SIZE[kind]:]
    need(not p, 'bytes behind the rows')
    return b''.join(out)


# ---- codec pack -----------------------------------------------------------------------------------------------------------------
def pack_row(p, q, kind, dim):
    """q: the exponent fields."""
    if kind == BF16:
        return struct.pack(f'<{dim}H', *((r & 0x80) << 8 | (e & 0xff) << 7 | r & 0x7f for e, r in zip(q, p)))
    if kind == F32:
        return b''.join(struct.pack('<I', (h & 0x80) << 24 | (e & 0xff) << 23 | (h & 0x7f) << 16 | m << 8 | low)
                        for e, low, m, h in zip(q, p[::3], p[1::3], p[2::3]))
    out = b''
    for i, e in enumerate(q):
        bit = [struct.unpack_from('<H', p, dim + 6 * (i // 16) + 2 * b)[0] >> (i % 16) & 1 for b in range(3)]
        out += struct.pack('<H', p[i] | bit[0] << 8 | bit[1] << 9 | (e & 31) << 10 | bit[2] << 15)
    return out


def pack(p, rows, kind, dim, seed):
    distinct, width = struct.unpack_from('<II', p)
    need(distinct <= rows and width == bits_for(distinct), 'distinct rows')
    at = 8 + (rows * width + 7) // 8
    numbers = packed(p[8:at], rows, width)
    scale, ws, t0, wl, zero, l0 = struct.unpack_from('<BBhBBI', p, at)
    need(scale < 20 and zero == 0, 'head of packed rows')
    usual = p[at + 10:at + 10 + dim]
    (shift, length), p = columns(p[at + 10 + dim:], distinct, (ws, wl))
    rest, out = dim + 6 * -(-dim // 16) if kind == F16 else dim * (3 if kind == F32 else 1), []
    for u in range(distinct):
        if not shift[u]:
            out.append(p[:dim * SIZE[kind]])
            p = p[dim * SIZE[kind]:]
            continue
        q = entropy_decode(p[rest:rest + l0 + length[u]], dim, [scale] * -(-dim // 16))
        out.append(pack_row(p[:rest], [a + b + t0 + shift[u] - 1 for a, b in zip(q, usual)], kind, dim))
        p = p[rest + l0 + length[u]:]
    need(not p, 'bytes behind the rows')
    return b''.join(out[n] for n in numbers)


# ---- frames and files ----------------------------------------------------------------------------------------------------
def read_frame(data, kind, dim):
    """The rows of the frame that data begins with, their number, and the frame's length."""
    need(len(data) >= 64 and data[:5] == b'XPF1\x01', 'frame header')
    k, codec, d, zero1, rows, length, seed, _, zero2 = struct.unpack_from('<BHIIQQQQQ', data, 5)
    need((k, d) == (kind, dim) and zero1 == zero2 == 0, 'frame header')
    need(codec <= 5 and length <= len(data) - 64, 'frame header')
    return (raw, exact, quant, lsh, book, pack)[codec](data[64:64 + length], rows, kind, dim, seed), rows, 64 + length


def read_file(data):
    """Type, rows, dim and the bytes of the rows."""
    need(len(data) >= 56 and data[:5] == b'XPFF\x01', 'file header')
    kind, zero1, dim, zero2, rows = struct.unpack_from('<BHIIQ', data, 5)
    need(kind in SIZE and zero1 == zero2 == 0 and 1 <= dim <= 1 << 20, 'file header')
    at, seen, frames, out = 32, 0, 0, b''
    while seen < rows:
        part, n, length = read_frame(data[at:-24], kind, dim)
        need(1 <= n <= rows - seen, 'rows of a frame')
        out, seen, at, frames = out + part, seen + n, at + length, frames + 1
    need(len(data) - at == 24 and data[at:at + 8] == b'XPFE' + struct.pack('<I', frames), 'trailer')
    return kind, rows, dim, out


def npy(kind, rows, dim, data):
    head = f"{{'descr': '{ {BF16: '<u2', F16: '<f2', F32: '<f4'}[kind] }', 'fortran_order': False, 'shape': ({rows}, {dim}), }}".encode()
    head += b' ' * (-(len(head) + 11) % 64) + b'\n'
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(head)) + head + data


if __name__ == '__main__':
    open(sys.argv[2], 'wb').write(npy(*read_file(open(sys.argv[1], 'rb').read())))
