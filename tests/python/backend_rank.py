"""backend_rank.py - one rank of test_backend.py: cases of the torch.distributed backend, each said to be ok on stdout

usage: backend_rank.py CASE...

SPDX-License-Identifier: Apache-2.0
"""
import sys
import traceback
import warnings

import numpy as np
import torch
import torch.distributed as dist

import crosspress
import crosspress.torch
from crosspress.torch import backend

TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool]


def tensor_of(source, peer, rows, tail, dtype):
    """What `source` sends to `peer`."""
    n = rows
    for t in tail:
        n *= t
    return ((torch.arange(n) * 3 + source * 17 + peer * 5) % 97).reshape(rows, *tail).to(dtype)


def splits_of(source, size):
    return [(source + 2 * peer) % 4 for peer in range(size)]


def check_single(tail, dtype, uneven, group=None):
    me, size = dist.get_rank(group), dist.get_world_size(group)
    out = splits_of(me, size) if uneven else [2] * size
    back = [splits_of(r, size)[me] if uneven else 2 for r in range(size)]
    sent = torch.cat([tensor_of(me, p, out[p], tail, dtype) for p in range(size)])
    got = torch.empty(sum(back), *tail, dtype=dtype)
    dist.all_to_all_single(got, sent, back if uneven else None, out if uneven else None, group=group)
    want = torch.cat([tensor_of(p, me, back[p], tail, dtype) for p in range(size)])
    assert torch.equal(got, want), (tail, dtype, uneven)


def single():
    for dtype in TYPES:
        for tail in ((), (5,), (3, 64), (256,)):
            for uneven in (False, True):
                check_single(tail, dtype, uneven)


def split_sizes():
    """Megatron-Core's are NumPy arrays."""
    me, size = dist.get_rank(), dist.get_world_size()
    pg = dist.distributed_c10d._get_default_group()
    for kind in (np.array, torch.tensor, tuple):
        out, back = splits_of(me, size), [splits_of(r, size)[me] for r in range(size)]
        got = torch.empty(sum(back), 3)
        pg.alltoall_base(got, torch.full((sum(out), 3), float(me)), kind(back), kind(out)).wait()
        assert got[:, 0].tolist() == [float(r) for r in range(size) for _ in range(back[r])]


def complex_and_strided():
    me, size = dist.get_rank(), dist.get_world_size()
    sent = torch.arange(2 * size) + me * (1 + 2j)
    got = torch.empty_like(sent)
    dist.all_to_all_single(got, sent)
    assert torch.equal(got, torch.cat([torch.arange(2 * me, 2 * me + 2) + p * (1 + 2j) for p in range(size)]))
    wide = torch.arange(4.0 * size).reshape(2 * size, 2) + me
    got = torch.empty(2, 2 * size).t()
    dist.all_to_all_single(got, torch.cat([wide, wide], 1)[:, 1:3].contiguous()[:, [1, 0]].t().contiguous().t())
    assert torch.equal(got, torch.cat([(torch.arange(4.0 * size).reshape(2 * size, 2) + p)[2 * me:2 * me + 2] for p in range(size)]))


def lists():
    me, size = dist.get_rank(), dist.get_world_size()
    for dtype in (torch.float32, torch.int64):
        sent = [tensor_of(me, p, me + p, (3,), dtype) for p in range(size)]
        got = [torch.empty(me + p, 3, dtype=dtype) for p in range(size)]
        dist.all_to_all(got, sent)
        for p in range(size):
            assert torch.equal(got[p], tensor_of(p, me, me + p, (3,), dtype)), p


def asynchronous():
    """One that is not waited for moves on while the others are in a collective of gloo."""
    me, size = dist.get_rank(), dist.get_world_size()
    sent = torch.full((size * 1024, 512), float(me))
    got = torch.empty_like(sent)
    work = dist.all_to_all_single(got, sent, async_op=True)
    if me == 0:
        dist.barrier()
        work.wait()
    else:
        work.wait()
        dist.barrier()
    assert work.is_completed()
    assert torch.equal(got[::1024, 0], torch.arange(float(size)))
    again = [dist.all_to_all_single(torch.empty_like(sent), sent, async_op=True) for _ in range(3)]
    for w in again:
        w.wait()
    future = dist.all_to_all_single(got, sent, async_op=True).get_future()
    assert torch.equal(future.wait()[0][::1024, 0], torch.arange(float(size)))


def delegated():
    me, size = dist.get_rank(), dist.get_world_size()
    t = torch.tensor([float(me)])
    dist.all_reduce(t)
    assert t.item() == size * (size - 1) / 2
    t = torch.tensor([me + 10])
    dist.broadcast(t, 1)
    assert t.item() == 11
    got = [torch.empty(2) for _ in range(size)]
    dist.all_gather(got, torch.full((2,), float(me)))
    assert [int(g[0]) for g in got] == list(range(size))
    objects = [None] * size
    dist.all_gather_object(objects, {'rank': me})
    assert objects == [{'rank': r} for r in range(size)]
    if me == 0:
        dist.send(torch.ones(3), 1)
    elif me == 1:
        t = torch.zeros(3)
        dist.recv(t, 0)
        assert t.sum() == 3
    t = torch.tensor([float(me)])
    dist.reduce(t, 0)
    dist.barrier()
    assert dist.get_backend() == 'crosspress'


def groups():
    pair = dist.new_group([0, 2], backend='crosspress')
    if dist.get_rank() in (0, 2):
        check_single((4,), torch.float32, True, pair)
    dist.barrier()


def data_parallel():
    """DistributedDataParallel over the backend: gradients are averaged by the delegated all_reduce."""
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2))
    model(torch.full((1, 4), float(dist.get_rank()))).sum().backward()
    mean = sum(range(dist.get_world_size())) / dist.get_world_size()
    assert torch.allclose(model.module.weight.grad, torch.full((2, 4), mean))


def gradient():
    """Autograd through an all-to-all as Megatron-Core and DeepSpeed write it."""
    class AllToAll(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = torch.empty_like(x)
            dist.all_to_all_single(y, x)
            return y

        @staticmethod
        def backward(ctx, g):
            return AllToAll.apply(g.contiguous())

    me, size = dist.get_rank(), dist.get_world_size()
    x = torch.randn(size, 8, requires_grad=True)
    (AllToAll.apply(x) * (me + 1)).sum().backward()
    assert torch.equal(x.grad, torch.arange(1.0, size + 1)[:, None].expand(size, 8))


def errors():
    size = dist.get_world_size()
    for call, what in ((lambda: dist.all_to_all_single(torch.empty(size + 1), torch.empty(size + 1)), 'not a multiple'),
                       (lambda: dist.all_to_all_single(torch.empty(size), torch.empty(size), [1] * size, [1]), 'do not fit')):
        try:
            call()
        except (ValueError, RuntimeError) as e:
            assert what in str(e) or 'split' in str(e), e
        else:
            raise AssertionError(what)
    counts = [1] * size
    counts[0] += dist.get_rank() == 1
    try:
        dist.all_to_all_single(torch.empty(sum(counts)), torch.empty(size), counts, [1] * size)
        wrong = False
    except crosspress.GroupError as e:
        assert 'rank' in e.text, e
        wrong = True
    assert wrong or dist.get_rank() not in (0, 1)
    check_single((4,), torch.float32, True)


def rows_between_nodes():
    """Two nodes: rows go through a plan of their type and length; what is not declared stays exact, the rest is within eps."""
    world = backend._get_world() if hasattr(backend, '_get_world') else dist.distributed_c10d._get_default_group()
    assert world.exchanger.comm.nodes == 2, world.exchanger.comm
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        check_single((256,), dtype, True)
        check_single((4, 256), dtype, False)
    check_single((2048, 256), torch.float32, False)  # more rows than the first plan had room for
    assert ('f32', 256) in world.exchanger.plans and world.exchanger.plans['f32', 256][1] > backend.ROWS_FIRST
    assert world.stats()['f32', 256].calls >= 1


def bounded():
    me, size = dist.get_rank(), dist.get_world_size()
    crosspress.torch.configure(mode='bounded', eps=0.1, row=(torch.float32, 512), codec='quant')
    group = dist.new_group(list(range(size)), backend='crosspress')
    crosspress.torch.configure(mode=None, eps=0.0, row=None, codec=None)
    torch.manual_seed(5)
    everything = torch.randn(size, size * 32, 512)
    got = torch.empty(size * 32, 512)
    dist.all_to_all_single(got, everything[me], group=group)
    want = torch.cat([everything[p, me * 32:me * 32 + 32] for p in range(size)])
    error = (got - want).norm(dim=1) / want.norm(dim=1)
    assert 0 < error.max() <= 0.1, error.max()
    check_single((256,), torch.float32, True, group)  # another length: exact
    check_single((512,), torch.bfloat16, True, group)  # another type: exact
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        crosspress.torch.configure(mode='bounded')
        undeclared = dist.new_group(list(range(size)), backend='crosspress')
        crosspress.torch.configure(mode=None)
    assert any('CROSSPRESS_ROW' in str(w.message) for w in caught), caught
    check_single((512,), torch.float32, True, undeclared)


def main():
    torch.set_num_threads(1)
    dist.init_process_group('crosspress')
    for name in sys.argv[1:]:
        try:
            globals()[name]()
            print('ok', name, flush=True)
        except BaseException:
            print('failed', name, flush=True)
            traceback.print_exc()
            sys.exit(1)
    dist.destroy_process_group()
    print('ok end', flush=True)


main()
