#!/usr/bin/env python3
"""decode.py - a second reader of .xpf files, slow and simple, written from hash/FORMAT.md alone

usage: decode.py IN.xpf OUT.npy

It checks every length, number and flag; the XXH3 checksums are left to the library. Codec book is not read here.
Arithmetic: Python's doubles hold sums and products of f32 values exactly enough that rounding them to f32 once gives the f32 result.

SPDX-License-Identifier: Apache-2.0
"""
import math
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


# ---- frames and files ----------------------------------------------------------------------------------------------------
def read_frame(data, kind, dim):
    """The rows of the frame that data begins with, their number, and the frame's length."""
    need(len(data) >= 64 and data[:5] == b'XPF1\x01', 'frame header')
    k, codec, d, zero1, rows, length, seed, _, zero2 = struct.unpack_from('<BHIIQQQQQ', data, 5)
    need((k, d) == (kind, dim) and zero1 == zero2 == 0, 'frame header')
    need(codec in (0, 1, 2, 3) and length <= len(data) - 64, 'frame header')
    return (raw, exact, quant, lsh)[codec](data[64:64 + length], rows, kind, dim, seed), rows, 64 + length


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
