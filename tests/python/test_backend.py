"""test_backend.py - the torch.distributed backend "crosspress", by ranks that are processes

SPDX-License-Identifier: Apache-2.0
"""
import os
import unittest

import ranks

try:
    import torch
    import torch.distributed as dist
    missing = None if dist.is_available() and dist.is_gloo_available() else 'this torch has no gloo'
except ImportError:
    torch, missing = None, 'torch is not installed'
except AttributeError:
    missing = None  # before torch 2.0: no is_gloo_available

SCRIPT = os.path.join(ranks.HERE, 'backend_rank.py')
ONE_NODE = ['single', 'split_sizes', 'complex_and_strided', 'lists', 'asynchronous', 'delegated', 'groups', 'data_parallel', 'gradient', 'errors']
TWO_NODES = ['single', 'rows_between_nodes', 'lists', 'bounded']


@unittest.skipIf(missing, missing)
class Backend(unittest.TestCase):
    """Ranks are started once for a class of cases: loading torch takes seconds."""
    runs = {}

    def run_of(self, kind):
        if kind not in self.runs:
            if kind == 'one':
                self.runs[kind] = ranks.processes(3, SCRIPT, *ONE_NODE, timeout=100)
            else:
                self.runs[kind] = ranks.processes(3, SCRIPT, *TWO_NODES, timeout=100, env=lambda r: {'CROSSPRESS_NODE': 'ab'[r // 2]})
        return self.runs[kind]

    def ok(self, kind, case):
        for rank, (code, out, err) in enumerate(self.run_of(kind)):
            self.assertIn(f'ok {case}\n', out, f'rank {rank}, exit code {code}\n{err[-3000:]}')


def add(kind, case):
    def test(self):
        self.ok(kind, case)
    setattr(Backend, f'test_{kind}_{case}', test)


for case in [*ONE_NODE, 'end']:
    add('one', case)
for case in [*TWO_NODES, 'end']:
    add('two', case)
