#!/usr/bin/env python3
"""closing_line.py - the count that ends tests/run.sh adds up, and never turns a failure into a pass

SPDX-License-Identifier: Apache-2.0
"""
import os
import sys
import tempfile

from tap import ROOT, case, done, run

script = os.path.join(ROOT, 'tests', 'closing_line.py')
folder = tempfile.TemporaryDirectory()
JUNIT = '''<testsuites><testsuite name="a"><testcase name="1"/><testcase name="2"><failure/></testcase><testcase name="3"><skipped/></testcase>
</testsuite><testsuite name="b"><testcase name="4"/><testcase name="5"><error/></testcase><testcase name="6"/></testsuite></testsuites>'''


def build(name, junit):
    path = os.path.join(folder.name, name, 'meson-logs')
    os.makedirs(path)
    if junit:
        open(os.path.join(path, 'testlog.junit.xml'), 'w').write(junit)
    return os.path.dirname(path)


def text(name, content):
    path = os.path.join(folder.name, name)
    open(path, 'w').write(content)
    return path


def expect(name, args, line, code):
    got, out, err = run([sys.executable, script, *args])
    case(name, out.strip() == line and got == code, f'exit code {got}\n{out}{err}')


mixed = build('mixed', JUNIT)
good = build('good', '<testsuites><testsuite><testcase name="1"/></testsuite></testsuites>')
expect('cases of all suites are counted', [mixed + ':2'], '3 passed, 2 failed, 1 skipped', 1)
expect('all passed', [good + ':0'], '1 passed, 0 failed, 0 skipped', 0)
expect('a program that broke after its last case counts', [good + ':1'], '1 passed, 1 failed, 0 skipped', 1)
expect('no JUnit file is a failure', [build('none', None) + ':0'], '0 passed, 1 failed, 0 skipped', 1)
expect('folders, builds and closing lines add up', [good + ':0', 'build-x=ok', text('check', 'ok a\n4 passed, 0 failed\n')], '6 passed, 0 failed, 0 skipped', 0)
expect('a text without a closing line is a failure', [text('cut', 'ok a\nTraceback\n')], '0 passed, 1 failed, 0 skipped', 1)
expect('a failed build is a failure', [good + ':0', 'build-x=failed'], '1 passed, 1 failed, 0 skipped', 1)
done()
