#!/usr/bin/env python3
"""rate_error.py - a rate-error plot of what xp_codec stats --json wrote

usage: rate_error.py STATS.json OUT.png        exit code 3: there is no matplotlib

SPDX-License-Identifier: Apache-2.0
"""
import json
import sys

try:
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit(3)

report = json.load(open(sys.argv[1]))
curves = {}
for c in report['codecs']:
    if c['rel_err_max'] > 0:
        fixed = c['codec'].startswith('int')
        curves.setdefault('int8 ... int2' if fixed else c['codec'], []).append((c['ratio'], c['rel_err_max']))

figure, axes = plt.subplots(figsize=(7, 5))
for name, points in sorted(curves.items()):
    points.sort()
    axes.plot([p[0] for p in points], [100 * p[1] for p in points], 'o-', label=name, markersize=4)
axes.set_yscale('log')
axes.set_xlabel('bytes sent / bytes of the rows')
axes.set_ylabel('worst relative error of a row, %')
axes.set_title(f"{report['input'].rsplit('/', 1)[-1]}: {report['rows']} x {report['dim']}")
axes.grid(True, which='both', alpha=0.3)
axes.legend()
figure.tight_layout()
figure.savefig(sys.argv[2], dpi=120)
