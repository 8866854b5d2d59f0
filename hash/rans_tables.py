#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes hash/rans_tables.c: the entropy coder's frequencies (FORMAT.md, "Entropy coding").

usage: hash/rans_tables.py > hash/rans_tables.c

The output is part of the wire format: run again only to change the format. A distribution is that of an integer q =
quantised value of standard deviation s (in steps), 85 % Gaussian and 15 % Laplace of the same deviation: measured on
activations, where it costs 0.1 to 0.4 % more than each row batch's own histogram.
"""
import math

SYMBOLS, UNITS, SHARE = 32, 4096, 0.85
PLAIN = 20          # scale classes whose integers are coded whole; higher ones send low bits as they are
ORDER = [*range(0, SYMBOLS, 2), *range(1, SYMBOLS, 2)]
UNIT_CLASS = 12     # s = 2 ** ((class - 12) / 4)


def dead_zone(s):
    """How much the quantiser widens the cell of zero, by scale: what lowered bits at equal error."""
    return 0.0 if s >= 2.8 else 0.02 if s >= 2.0 else 0.05 if s >= 1.4 else 0.08


def below(x, s):
    gauss = 0.5 * (1 + math.erf(x / s / math.sqrt(2)))
    b = s / math.sqrt(2)
    laplace = 0.5 * math.exp(x / b) if x < 0 else 1 - 0.5 * math.exp(-x / b)
    return SHARE * gauss + (1 - SHARE) * laplace


def cell(k, s, low):
    """Probability of symbol k when `low` bits are cut off."""
    if low:
        first, last = k * 2 ** low - 2 ** (low - 1), k * 2 ** low + 2 ** (low - 1) - 1
        return below(last + 0.5, s) - below(first - 0.5, s)
    d = dead_zone(s)
    lo = k - 0.5 + (d if k > 0 else -d)
    hi = k + 0.5 + (d if k >= 0 else -d)
    return below(hi, s) - below(lo, s)


def frequencies(s, low):
    """Index 0 is the escape, index k + 16 the integer k; the sum is UNITS. Unlikely integers get 0: they escape."""
    p = [0.0] + [cell(i - 16, s, low) for i in range(1, SYMBOLS)]
    f = [0] + [max(1, round(v * UNITS)) if v * UNITS > 0.1 else 0 for v in p[1:]]
    rest = 1 - sum(v for v, n in zip(p, f) if n)
    f[0] = max(1, round(rest * UNITS))
    while sum(f) != UNITS:     # change the entry where it costs least
        step = 1 if sum(f) < UNITS else -1
        able = [i for i in range(1, SYMBOLS) if f[i] + step > 0 and f[i]]
        cost = lambda i: p[i] * (math.log2(f[i]) - math.log2(f[i] + step))
        f[min(able, key=lambda i: (cost(i), i))] += step
    assert max(f) < UNITS and all(f[i] for i in range(1, SYMBOLS) if any(f[1:i]) and any(f[i + 1:]))
    return f


def distributions():
    for c in range(PLAIN):
        yield 2 ** ((c - UNIT_CLASS) / 4), 0
    for low in (1, 2, 3):
        for c in range(4):
            yield 2 ** ((PLAIN + 4 * (low - 1) + c - UNIT_CLASS) / 4), low


def search_tree(begin):
    """Entry i has the children 2i and 2i + 1: those that begin after it, as the path of a binary search. Entry 0 is not used."""
    tree = [0] * SYMBOLS
    for depth in range(SYMBOLS.bit_length() - 1):
        for i in range(2 ** depth):
            tree[2 ** depth + i] = begin[(2 * i + 1) * SYMBOLS // 2 ** (depth + 1)]
    return tree


def buckets(begin):
    """By bucket of slots the symbol of the last one; others may have the symbol before, no other."""
    bucket = lambda slot: max(min(slot, 32 + (slot + 40) // 64), slot - UNITS + 128)
    symbol = [max(s for s in range(SYMBOLS) if begin[s] <= slot) for slot in range(UNITS)]
    of = {bucket(slot): symbol[slot] for slot in range(UNITS)}
    assert all(of[bucket(slot)] - symbol[slot] in (0, 1) for slot in range(UNITS))
    return [of.get(b, 0) for b in range(128)]


def rows(values, show):
    for i in range(0, len(values), 8):
        print('         ' + ' '.join(show(v) + ',' for v in values[i:i + 8]))


def main():
    print('/*\n * rans_tables.c - written by rans_tables.py; part of the wire format\n *\n'
          ' * SPDX-License-Identifier: Apache-2.0\n */\n#include "hash/rans.h"\n')
    print('/* Cumulated frequency << 16 | frequency, even symbols first; reciprocals a little too small; beginnings as a search tree;\n   by symbol: frequencies and beginnings; symbols by bucket; cumulated\n   frequency << 20 | frequency, even symbols first; places of symbols; symbols in use. */')
    print('const struct xp_rans_table xp_rans_tables[XP_RANS_DISTRIBUTIONS] = {')
    for s, low in distributions():
        f = frequencies(s, low)
        used = [i for i in range(1, SYMBOLS) if f[i]]
        print(f'    {{ /* s = {s:.3f} steps, {low} low bits */\n        {{')
        rows([sum(f[:i]) << 16 | f[i] for i in ORDER], lambda v: f'0x{v:07x}')
        print('        },\n        {')
        rows([(1 - 2 ** -22) / f[i] if f[i] else 0.0 for i in ORDER], lambda v: f'{v:.9e}f')
        print('        },\n        {')
        rows(search_tree([sum(f[:i]) for i in range(SYMBOLS)]), str)
        print('        },\n        {')
        rows(f, str)
        print('        },\n        {')
        rows([sum(f[:i]) for i in range(SYMBOLS)], str)
        print('        },\n        {')
        rows(buckets([sum(f[:i]) for i in range(SYMBOLS)]), str)
        print('        },\n        {')
        rows([sum(f[:i]) << 20 | f[i] if f[i] else 0 for i in ORDER], lambda v: f'{v}u')
        print('        },\n        {')
        rows([i // 2 | i % 2 * 16 if i < SYMBOLS and f[i] else 0 for i in range(2 * SYMBOLS)], str)
        print(f'        }},\n        {used[0]}, {used[-1]}, {dead_zone(s) if not low else 0.0}f }},')
    print('};')


main()
