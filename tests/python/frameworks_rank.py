"""frameworks_rank.py - one rank of test_frameworks.py: other people's dispatchers over our backend, compared with gloo bit for bit

usage: frameworks_rank.py megatron|deepspeed|tutel

SPDX-License-Identifier: Apache-2.0
"""
import contextlib
import logging
import sys
import types
import warnings

import torch
import torch.distributed as dist

import crosspress.torch

warnings.simplefilter('ignore')
logging.disable(logging.WARNING)
TOKENS, DIM, EXPERTS = 12, 128, 6


def megatron_on_the_host():
    """Megatron-Core asks for CUDA streams and the current device by name; on a machine without, they are nothing and the host."""
    if torch.cuda.is_available():
        return
    stream = types.SimpleNamespace(wait_stream=lambda other: None, record_event=lambda: types.SimpleNamespace(synchronize=lambda: None))
    torch.cuda.Stream, torch.cuda.current_stream = lambda *a, **k: stream, lambda *a: stream
    torch.cuda.stream, torch.cuda.current_device = lambda s: contextlib.nullcontext(), lambda: 'cpu'
    from megatron.core.transformer.moe import token_dispatcher
    # Split sizes become NumPy arrays on their way from a device; here they do so at once.
    token_dispatcher.maybe_move_tensor_to_cpu = lambda t, as_numpy=False, record_stream=False: t.numpy() if as_numpy and torch.is_tensor(t) else t


def megatron(group, alone):
    megatron_on_the_host()
    from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
    from megatron.core.transformer.transformer_config import TransformerConfig
    config = TransformerConfig(num_layers=1, hidden_size=DIM, num_attention_heads=4, num_moe_experts=EXPERTS, moe_router_topk=2,
                               expert_model_parallel_size=dist.get_world_size(), moe_token_dispatcher_type='alltoall')
    local = EXPERTS // dist.get_world_size()
    mine = list(range(dist.get_rank() * local, (dist.get_rank() + 1) * local))
    groups = types.SimpleNamespace(ep=group, expt_tp=alone, tp_ep=group)
    dispatcher = MoEAlltoAllTokenDispatcher(local, mine, config, groups)
    generator = torch.Generator().manual_seed(dist.get_rank())
    x = torch.randn(TOKENS, 1, DIM, generator=generator, requires_grad=True)
    probability = torch.softmax(torch.randn(TOKENS, EXPERTS, generator=generator), -1).requires_grad_()
    chosen = torch.zeros(TOKENS, EXPERTS, dtype=torch.bool).scatter(1, probability.topk(2).indices, True)
    hidden, routed = dispatcher.dispatch_preprocess(x, chosen, probability * chosen)
    hidden, routed = dispatcher.token_dispatch(hidden, routed)
    hidden, counts, routed = dispatcher.dispatch_postprocess(hidden, routed)
    scale = torch.repeat_interleave(torch.tensor(mine) + 1.0, torch.as_tensor(counts))[:, None]
    hidden = dispatcher.combine_preprocess(hidden * scale * routed[:, None])
    y = dispatcher.combine_postprocess(dispatcher.token_combine(hidden))
    y.square().sum().backward()
    want = ((probability * chosen) @ (torch.arange(EXPERTS) + 1.0))[:, None, None] * x
    assert torch.allclose(y, want, atol=1e-5), (y - want).abs().max()
    return y.detach(), x.grad, probability.grad


def deepspeed(group, alone):
    import deepspeed.comm
    from deepspeed.moe.sharded_moe import MOELayer, TopKGate
    if not deepspeed.comm.is_initialized():
        deepspeed.comm.init_distributed(dist_backend='crosspress', verbose=False)
    torch.manual_seed(3)
    gate = TopKGate(DIM, EXPERTS, k=1, capacity_factor=2.0, min_capacity=4, use_rts=False)
    local = EXPERTS // dist.get_world_size()
    weight = torch.nn.Parameter(torch.randn(local, DIM, DIM) / DIM ** 0.5)
    layer = MOELayer(gate, Experts(weight), 'ours', dist.get_world_size(), local)
    layer._set_ep_group(group)
    x = torch.randn(TOKENS, 1, DIM, generator=torch.Generator().manual_seed(dist.get_rank()), requires_grad=True)
    y = layer(x, None)
    y.square().sum().backward()
    assert y.abs().sum() > 0
    return y.detach(), x.grad, weight.grad


def tutel(group, alone):
    from tutel import moe
    layer = moe.moe_layer(gate_type={'type': 'top', 'k': 2, 'capacity_factor': 0}, model_dim=DIM, group=group, seeds=(3, dist.get_rank(), 3),
                          experts={'type': 'ffn', 'num_experts_per_device': EXPERTS // dist.get_world_size(), 'hidden_size_per_expert': DIM,
                                   'activation_fn': torch.relu})
    x = torch.randn(1, TOKENS, DIM, generator=torch.Generator().manual_seed(dist.get_rank()), requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    assert y.abs().sum() > 0
    return y.detach(), x.grad, *(p.grad for p in layer.parameters())


class Experts(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):  # [ranks][local][capacity][dim]
        return torch.einsum('rlcd,lde->rlce', x, self.weight)


def main():
    torch.set_num_threads(1)
    dist.init_process_group('crosspress')
    everyone = list(range(dist.get_world_size()))
    gloo = dist.new_group(everyone, backend='gloo')
    alone = [dist.new_group([r], backend='gloo') for r in everyone][dist.get_rank()]
    case = globals()[sys.argv[1]]
    over_gloo = case(gloo, alone)
    before = dist.distributed_c10d._get_default_group().stats()['bytes'].calls
    ours = case(dist.group.WORLD, alone)
    stats = dist.distributed_c10d._get_default_group().stats()
    for a, b in zip(ours, over_gloo):
        assert torch.equal(a, b)
    print('ok, exchanges:', sum(s.calls for s in stats.values()) - before)


main()
