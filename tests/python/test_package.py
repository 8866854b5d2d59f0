"""test_package.py - the package as it is shipped, and README's Python example

SPDX-License-Identifier: Apache-2.0
"""
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import unittest
import zipfile

import crosspress

import ranks

ROOT = os.path.dirname(os.path.dirname(ranks.PACKAGE))
README = open(os.path.join(ROOT, 'README.md')).read()
PYPROJECT = open(os.path.join(ranks.PACKAGE, 'pyproject.toml')).read()


class Package(unittest.TestCase):
    def test_versions_agree(self):
        meson = re.search(r"version: '([\d.]+)'", open(os.path.join(ROOT, 'meson.build')).read()).group(1)
        self.assertEqual(re.search(r'^version = "(.*)"', PYPROJECT, re.M).group(1), meson)
        self.assertEqual(crosspress.__version__, meson)

    def test_every_folder_is_listed(self):
        listed = re.search(r'^packages = \[(.*)\]', PYPROJECT, re.M).group(1)
        have = [os.path.relpath(folder, ranks.PACKAGE).replace(os.sep, '.') for folder, _, files in os.walk(ranks.PACKAGE)
                if '__init__.py' in files and os.sep + 'build' not in folder]
        self.assertEqual(sorted(re.findall(r'"(.*?)"', listed)), sorted(have))

    @unittest.skipIf(importlib.util.find_spec('setuptools') is None, 'setuptools is not installed')
    def test_wheel_finds_the_library_beside_it(self):
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, 'source')
            subprocess.run(['cp', '-r', ranks.PACKAGE, source], check=True)
            subprocess.run(['cp', '-L', os.environ['CROSSPRESS_LIB'], os.path.join(source, 'crosspress', 'libcrosspress.so.0')], check=True)
            code = 'import os, setuptools.build_meta as b; print(b.build_wheel(os.environ["WHEELS"]))'
            built = subprocess.run([sys.executable, '-c', code], cwd=source, env=dict(os.environ, WHEELS=folder), capture_output=True,
                                   text=True)
            self.assertEqual(built.returncode, 0, built.stderr[-2000:])
            wheel = os.path.join(folder, built.stdout.split()[-1])
            unpacked = os.path.join(folder, 'unpacked')
            zipfile.ZipFile(wheel).extractall(unpacked)
            env = {k: v for k, v in os.environ.items() if k != 'CROSSPRESS_LIB'}
            code = 'import crosspress, crosspress._lib as l; print(l.lib._name, crosspress.__version__)'
            ran = subprocess.run([sys.executable, '-c', code], env=dict(env, PYTHONPATH=unpacked), capture_output=True, text=True, cwd=folder)
            self.assertEqual(ran.stdout.split(), [os.path.join(unpacked, 'crosspress', 'libcrosspress.so.0'), crosspress.__version__],
                             ran.stderr)


class Readme(unittest.TestCase):
    def test_example_is_short(self):
        examples = re.findall(r'```python\n(.*?)```', README, re.S)
        self.assertEqual(len(examples), 1)
        self.assertLessEqual(len(examples[0].strip().splitlines()), 15)

    @unittest.skipIf(importlib.util.find_spec('torch') is None, 'torch is not installed')
    def test_example_runs_on_two_ranks(self):
        example = re.search(r'```python\n(.*?)```', README, re.S).group(1)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'example.py')
            open(path, 'w').write(example)
            got = ranks.processes(2, path, env=lambda r: {'CROSSPRESS_NODE': 'ab'[r]})
        for code, out, err in got:
            self.assertEqual(code, 0, err[-3000:])
            self.assertGreater(int(re.fullmatch(r'sent (\d+) bytes to other nodes\n', out).group(1)), 0)
