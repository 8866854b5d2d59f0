"""test_frameworks.py - dispatchers of Megatron-Core, DeepSpeed and Tutel, unchanged, over the backend "crosspress"

SPDX-License-Identifier: Apache-2.0
"""
import importlib.util
import os
import re
import unittest

import ranks


def missing(name):
    return unittest.skipIf(importlib.util.find_spec('torch') is None or importlib.util.find_spec(name) is None, f'{name} is not installed')


class Frameworks(unittest.TestCase):
    def check(self, name):
        for nodes in ('aaa', 'aab'):
            got = ranks.processes(3, os.path.join(ranks.HERE, 'frameworks_rank.py'), name, timeout=200,
                                  env=lambda r: {'CROSSPRESS_NODE': nodes[r], 'DS_ACCELERATOR': 'cpu'})
            for code, out, err in got:
                self.assertEqual(code, 0, err[-3000:])
                self.assertGreaterEqual(int(re.search(r'ok, exchanges: (\d+)', out).group(1)), 4)  # there, home, and their gradients

    @missing('megatron')
    def test_megatron_core(self):
        self.check('megatron')

    @missing('deepspeed')
    def test_deepspeed(self):
        self.check('deepspeed')

    @missing('tutel')
    def test_tutel(self):
        self.check('tutel')
