#!/usr/bin/env python3
"""closing_line.py - adds up test results and prints 'N passed, N failed, N skipped'

usage: closing_line.py ARG...     each ARG is one of
    DIR:CODE            a build folder whose `meson test` ended with CODE: its JUnit file is counted
    NAME=ok|failed      one more case (a build, a grep of a log)
    FILE                a text whose last line is 'N passed, N failed[, N skipped]'

meson leaves out of the JUnit file a program that broke after its last TAP line, so CODE, the number of failed
programs, is the least number of failures counted. A folder in which no test ran counts as
one failure. Exit code 1 when anything failed.

SPDX-License-Identifier: Apache-2.0
"""
import os
import re
import sys
import xml.etree.ElementTree as et


def junit(folder, code):
    path = os.path.join(folder, 'meson-logs', 'testlog.junit.xml')
    passed = failed = skipped = 0
    for case in et.parse(path).iter('testcase') if os.path.exists(path) else ():
        kinds = {child.tag for child in case}
        if kinds & {'failure', 'error'}:
            failed += 1
        elif 'skipped' in kinds:
            skipped += 1
        else:
            passed += 1
    if passed + failed + skipped == 0:
        print(f'{folder}: no test ran', file=sys.stderr)
        failed = 1
    return passed, max(failed, code), skipped


def text(path):
    lines = open(path, errors='replace').read().strip().splitlines()
    found = re.fullmatch(r'(\d+) passed, (\d+) failed(?:, (\d+) skipped)?', lines[-1] if lines else '')
    return tuple(int(n or 0) for n in found.groups()) if found else (0, 1, 0)


def count(arg):
    if os.path.isfile(arg):
        return text(arg)
    if re.fullmatch(r'.+:\d+', arg):
        folder, code = arg.rsplit(':', 1)
        return junit(folder, int(code))
    name, _, verdict = arg.partition('=')
    if not name or verdict not in ('ok', 'failed'):
        sys.exit(f'closing_line.py: cannot read {arg!r}')
    return (1, 0, 0) if verdict == 'ok' else (0, 1, 0)


total = [sum(column) for column in zip(*(count(a) for a in sys.argv[1:]))] or [0, 0, 0]
print('{} passed, {} failed, {} skipped'.format(*total))
sys.exit(total[1] > 0)
