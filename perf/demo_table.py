#!/usr/bin/env python3
"""demo_table.py - the demo's results as one table, and what to choose

usage: demo_table.py FOLDER     FOLDER/<order>-<name>.json as perf/demo.sh leaves them

SPDX-License-Identifier: Apache-2.0
"""
import glob
import json
import os
import sys


def load(folder):
    """[(name, case)] in the order of the runs; a file's first line counts."""
    out = []
    for path in sorted(glob.glob(os.path.join(folder, '*.json'))):
        name = os.path.basename(path)[:-len('.json')].split('-', 1)[1].replace('_', ' ')
        out.append((name, json.loads(open(path).readline())))
    return out


def percent(x):
    return f'{100 * x:.2f} %' if x else '-'


def table(runs):
    peers = [c['median_ms'] for _, c in runs if c['mode'] == 'mpi']
    raw = next((c['median_ms'] for _, c in runs if c['mode'] == 'raw'), None)
    print(f'{"what":22} {"time":>10} {"vs Open MPI":>12} {"vs our raw":>11} {"wire":>6} {"mean error":>11} {"worst row":>10}  algorithm, codec')
    for name, c in runs:
        t = c['median_ms']
        peer = f'{min(peers) / t:.2f}x' if peers else '-'
        own = f'{raw / t:.2f}x' if raw else '-'
        how = c['algo'] if c['mode'] == 'mpi' else f'{c["algo"]}, {c["codec"]}' + (' (bypassed)' if c.get('bypassed') else '')
        print(f'{name:22} {t:7.1f} ms {peer:>12} {own:>11} {c["wire_ratio"]:6.3f} {percent(c["rel_err_mean"]):>11} {percent(c["rel_err_max"]):>10}  {how}')
    if len(peers) > 1:
        print(f'(vs Open MPI: the better of its {len(peers)} rows)')


def choices(runs):
    """The fastest way without loss, and within each error that was tried."""
    ours = [(name, c) for name, c in runs if c['mode'] not in ('mpi', 'folded')]  # folded promises nothing
    limits = [0.0] + sorted({c['eps'] for _, c in ours if c['mode'] == 'bounded'})
    print('\nbest choice for this link')
    for limit in limits:
        allowed = [(c['median_ms'], name) for name, c in ours if (c['eps'] if c['mode'] == 'bounded' else 0.0) <= limit]
        if allowed:
            t, name = min(allowed)
            what = 'without loss' if limit == 0 else f'within {100 * limit:g} % a row'
            print(f'  {what:20} {name} ({t:.1f} ms)')


def main():
    if len(sys.argv) != 2:
        sys.exit('usage: demo_table.py FOLDER')
    runs = load(sys.argv[1])
    if not runs:
        sys.exit('demo_table.py: no results')
    table(runs)
    choices(runs)


main()
