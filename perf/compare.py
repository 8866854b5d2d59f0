#!/usr/bin/env python3
"""compare.py - two files of JSON lines from xp_perf, case by case, as ratios

usage: perf/compare.py OLD.json NEW.json [--limit PERCENT]

Cases are matched by what was asked for (command, shape, data, mode, eps, ranks ...), not by what came out. A ratio below 1 is
faster or smaller. With --limit the exit code is 1 when a case's best time grew by more than PERCENT.

SPDX-License-Identifier: Apache-2.0
"""
import json
import sys

KEY = ('command', 'link', 'shape', 'dtype', 'data', 'ranks', 'nodes', 'mode', 'eps', 'seed')
KEY_OF = {'alltoallv': KEY, 'codec': KEY + ('codec',), 'hash': KEY + ('isa',), 'links': KEY + ('transport',)}
SMALLER_IS_BETTER = ('best_ms', 'median_ms', 'encode_ms', 'decode_ms', 'latency_us', 'wire_ratio', 'rel_err_max')


def fail(text):
    sys.exit(f'compare.py: {text}')


def load(path):
    try:
        cases = [json.loads(line) for line in open(path) if line.strip()]
    except (OSError, ValueError) as e:
        fail(f'{path}: {e}')
    out = {}
    for c in cases:
        names = KEY_OF.get(c.get('command'), KEY)
        out.setdefault(tuple((k, str(c[k])) for k in names if k in c), c)
    return out


def ratio(new, old):
    return new / old if old else (1.0 if new == old else float('inf'))


def main(args):
    limit = None
    if '--limit' in args:
        i = args.index('--limit')
        try:
            limit = float(args[i + 1])
        except (IndexError, ValueError):
            fail('--limit needs a number')
        del args[i:i + 2]
    if len(args) != 2:
        fail('two files, please (see the top of this script)')
    old, new = load(args[0]), load(args[1])
    common, grown = [k for k in old if k in new], 0
    if not common:
        fail('no case is in both files')
    for key in common:
        a, b = old[key], new[key]
        fields = [f for f in SMALLER_IS_BETTER if isinstance(a.get(f), (int, float)) and isinstance(b.get(f), (int, float))]
        print(' '.join(v for _, v in key))
        for f in fields:
            print(f'    {f:14} {a[f]:12.4f} -> {b[f]:12.4f}   x {ratio(b[f], a[f]):.3f}')
        timing = 'best_ms' if 'best_ms' in fields else 'encode_ms' if 'encode_ms' in fields else None
        grown += bool(limit is not None and timing and ratio(b[timing], a[timing]) > 1 + limit / 100)
    print(f'{len(common)} cases compared, {len(old) - len(common)} only in the first file, {len(new) - len(common)} only in the second')
    sys.exit(grown > 0)


main(sys.argv[1:])
