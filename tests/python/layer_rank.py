"""layer_rank.py - one rank of test_torch.py: MoELayer finds its ranks through torch.distributed, with gloo and with our backend

SPDX-License-Identifier: Apache-2.0
"""
import torch
import torch.distributed as dist

import crosspress.torch as xt

torch.set_num_threads(1)
dist.init_process_group('gloo')
ours = dist.new_group([0, 1], backend='crosspress')
for group in (None, ours):
    torch.manual_seed(0)
    gate = torch.nn.Linear(8, 4)
    layer = xt.MoELayer(gate, [torch.nn.Linear(8, 8) for _ in range(2)], topk=1, group=group)
    y = layer(torch.randn(10, 8))
    y.sum().backward()
    assert layer.plan.comm.size == 2 and gate.weight.grad is not None
print('ok')
