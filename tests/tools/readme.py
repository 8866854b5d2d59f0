#!/usr/bin/env python3
"""readme.py - README's example compiles and runs on two ranks; its table of settings is the library's; its links lead somewhere

usage: readme.py XP_INFO LIBRARY_FOLDER CC...

SPDX-License-Identifier: Apache-2.0
"""
import os
import re
import subprocess
import sys
import tempfile

from launch import torchrun
from tap import ROOT, case, done, run

xp_info, library, compiler = sys.argv[1], sys.argv[2], sys.argv[3:]
readme = open(os.path.join(ROOT, 'README.md')).read()

example = re.findall(r'```c\n(.*?)```', readme, re.S)
case('there are an example and a fragment', len(example) == 2, len(example))
with tempfile.TemporaryDirectory() as folder:
    source, program = os.path.join(folder, 'example.c'), os.path.join(folder, 'example')
    open(source, 'w').write(example[0])
    code, _, err = run([*compiler, '-std=c11', '-Wall', '-Wextra', '-Werror', '-I', os.path.join(ROOT, 'lib/include'), source, '-o', program,
                        '-L', library, '-lcrosspress', '-Wl,-rpath,' + os.path.abspath(library)])
    if case('the example compiles without a warning', code == 0, err):
        got = torchrun(2, [program])
        case('the example runs on two ranks', all(c == 0 for c, _, _ in got), got)
    # The fragment stands inside a function of a program that has a plan's description and rows.
    fragment = os.path.join(folder, 'fragment.c')
    head = ('void layer(xp_comm *comm, xp_plan_desc d, size_t tokens, const int32_t *topk_idx, const float *topk_weight, const void *x, void *rows, '
            'void *results, void *y)')
    open(fragment, 'w').write(f'#include <crosspress/crosspress.h>\n{head};\n{head}\n{{\nxp_plan *plan = NULL; xp_routing *routing = NULL;\n{example[-1]}}}\n')
    code, _, err = run([*compiler, '-std=c11', '-Wall', '-Wextra', '-Werror', '-fsyntax-only', '-I', os.path.join(ROOT, 'lib/include'), fragment])
    case('the fragment compiles without a warning', code == 0, err)
case('the example is short', len([line for line in example[0].splitlines() if line.strip()]) <= 20, example[0])


def cells(line):
    return [c.strip().replace('\\|', '|').strip('`') for c in re.split(r'(?<!\\)\|', line.strip())[1:-1]]


told = {c[0]: c[1:] for c in map(cells, re.findall(r'^\| `CROSSPRESS_.*$', readme, re.M))}
code, out, err = run([xp_info])
case('xp_info runs', code == 0, err)
real = sorted(set(re.findall(r'\bCROSSPRESS_[A-Z_]+\b', out)))
case('README lists the settings of xp_info', sorted(told) == real, f'only README: {set(told) - set(real)}; only xp_info: {set(real) - set(told)}')
for name in real:
    lines = [line for line in out.splitlines() if re.search(rf'\b{name}\b', line)]
    case(f'{name}: the same help text', name in told and any(told[name][2] in line for line in lines), f'{told.get(name)}\n{lines}')

broken = [link for doc in ('README.md', 'lib/README.md', 'perf/README.md', 'tests/README.md', 'hash/README.md')
          if os.path.exists(os.path.join(ROOT, doc))
          for link in re.findall(r'\]\(([^)#:]+)\)', open(os.path.join(ROOT, doc)).read())
          if not os.path.exists(os.path.join(ROOT, os.path.dirname(doc), link))]
case('every link of the READMEs leads somewhere', broken == [], broken)
done()
