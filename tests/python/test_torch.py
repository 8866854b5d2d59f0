"""test_torch.py - torch tensors as rows; dispatch, combine and MoELayer with gradients, against torch autograd of the same formulas

SPDX-License-Identifier: Apache-2.0
"""
import os
import unittest

import crosspress
import numpy as np
from crosspress import rows

import ranks
from moe_reference import step

try:
    import torch
    import crosspress.torch as xt
    torch.set_num_threads(1)
    missing = None
except ImportError:
    torch, missing = None, 'torch is not installed'


@unittest.skipIf(missing, missing)
class Tensors(unittest.TestCase):
    def test_dlpack_types(self):
        for dtype, kind in ((torch.float32, 'f32'), (torch.float16, 'f16'), (torch.bfloat16, 'bf16'), (torch.int64, 'byte')):
            t = torch.zeros(6, 8, dtype=dtype)
            m, n = rows.rows_of(t, kind, 8 * (t.element_size() if kind == 'byte' else 1), 'x')
            self.assertEqual((m.pointer, n), (t.data_ptr(), 6))
        with self.assertRaisesRegex(TypeError, 'holds bfloat16, the plan is for f32'):
            rows.rows_of(torch.zeros(2, 2, dtype=torch.bfloat16), 'f32', 2, 'x')
        with self.assertRaisesRegex(ValueError, 'not contiguous'):
            rows.rows_of(torch.zeros(4, 4).t()[1:], 'f32', 4, 'x')

    def test_tensors_in_tensors_out(self):
        def body(comm):
            with comm.plan(16, 'bf16', max_send_rows=4, max_recv_rows=4) as plan:
                send = torch.full((4, 16), float(comm.rank), dtype=torch.bfloat16)
                got = plan.alltoall(send)
                self.assertEqual((got.dtype, got.shape), (torch.bfloat16, send.shape))
                self.assertEqual(got[:, 0].tolist(), [0, 0, 1, 1])
                out = np.empty((4, 16), np.uint16)
                self.assertIs(plan.alltoall(send, out=out), out)
                shared = torch.from_dlpack(crosspress.BFloat16(out))
                self.assertTrue(torch.equal(shared, got))
                shared[0] = 5
                self.assertEqual(out[0, 0], 0x40a0)
        ranks.threads(2, body)


def experts_of(s, dim, kind=torch.float32):
    """The same two-layer experts on every rank; a rank trains those that it owns."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(s.experts, 2, dim, dim, generator=generator) / dim ** 0.5
    return weights.to(kind).requires_grad_()


def run_expert(w, x):
    return torch.tanh(x @ w[0]) @ w[1]


def reference(s, weights, xs, gates, grads):
    """Loss of all ranks in one graph; returns y of each rank. Gradients are left in the leaves."""
    ys = []
    for x, expert, gate, grad in zip(xs, s.expert, gates, grads):
        y = x * 0 + gate.sum(1, keepdim=True) * 0
        for k in range(s.topk):
            for e in range(s.experts):
                chosen = torch.tensor(expert[:, k] == e)
                if chosen.any():
                    part = gate[:, k:k + 1] * run_expert(weights[e], x)
                    y = y + torch.where(chosen[:, None], part, torch.zeros_like(part))
        ys.append(y)
    sum((y * g).sum() for y, g in zip(ys, grads)).backward()
    return ys


@unittest.skipIf(missing, missing)
class Autograd(unittest.TestCase):
    def compare(self, nodes, close, tokens=None, dim=16, **options):
        s = step(3, experts=6, topk=2, dim=dim, seed=21, tokens=tokens or [7, 0, 12])
        everyones = experts_of(s, dim)
        xs = [torch.tensor(x, requires_grad=True) for x in s.x]
        gates = [torch.tensor(w, requires_grad=True) for w in s.weight]
        grads = [torch.randn(x.shape, generator=torch.Generator().manual_seed(r)) for r, x in enumerate(xs)]
        ys = reference(s, everyones, xs, gates, grads)

        def near(a, b, what):
            scale = b.norm() + 1e-30
            self.assertLessEqual(((a - b).norm() / scale).item(), close, what)

        def body(comm):
            me = comm.rank
            weights = experts_of(s, dim)
            x = torch.tensor(s.x[me], requires_grad=True)
            gate = torch.tensor(s.weight[me], requires_grad=True)
            with comm.moe_plan(dim, 'f32', experts=s.experts, topk=s.topk, max_tokens=s.tokens[me], **options) as plan:
                routing = xt.route(plan, s.expert[me], gate)
                got = xt.dispatch(x, routing)
                parts = [run_expert(weights[e], got[a:b]) for e, a, b in zip(routing.expert_ids, routing.offsets, routing.offsets[1:])]
                y = xt.combine(torch.cat(parts), routing, x)
                (y * grads[me]).sum().backward()
                near(y, ys[me], 'y')
                near(x.grad, xs[me].grad, 'grad x')
                near(gate.grad, gates[me].grad, 'grad gate')
                for e in routing.expert_ids:
                    near(weights.grad[e], everyones.grad[e], f'grad of expert {e}')
        ranks.threads(3, body, nodes=nodes)

    def test_raw_and_exact(self):
        for mode in ('raw', 'exact'):
            for algo in ('flat', 'hier', 'leader'):
                with self.subTest(mode=mode, algo=algo):
                    self.compare('aab', 1e-6, mode=mode, algo=algo)

    def test_bounded(self):
        """Every transfer within 1 %: results and gradients within a few."""
        self.compare('abc', 0.04, tokens=[30, 20, 40], dim=64, mode='bounded', eps=0.01, codec='quant', algo='flat')

    def test_folded_is_the_gradient_of_its_formula(self):
        """With c_j the mean of its rows, autograd of E(c_j) + alpha (x - c_j) gives the header's backward formulas."""
        s = step(3, experts=3, topk=2, dim=16, seed=8, tokens=[40, 50, 30])
        grads = [torch.randn(x.shape, generator=torch.Generator().manual_seed(r)) for r, x in enumerate(s.x)]

        def body(comm):
            me, weights = comm.rank, experts_of(s, 16)
            x, gate = torch.tensor(s.x[me], requires_grad=True), torch.tensor(s.weight[me], requires_grad=True)
            with comm.moe_plan(16, 'f32', experts=3, topk=2, max_tokens=s.tokens[me], mode='folded', rate=0.3, alpha=0.7, codec='raw') as plan:
                routing = xt.route(plan, s.expert[me], gate)
                got = xt.dispatch(x, routing)
                parts = [run_expert(weights[e], got[a:b]) for e, a, b in zip(routing.expert_ids, routing.offsets, routing.offsets[1:])]
                y = xt.combine(torch.cat(parts), routing, x)
                cluster = torch.tensor(routing.clusters().cluster).long()
                (y * grads[me]).sum().backward()
                return cluster, y.detach(), x.grad, gate.grad, {int(e): weights.grad[e] for e in routing.expert_ids}
        results = ranks.threads(3, body, nodes='abc')

        weights = experts_of(s, 16)
        xs = [torch.tensor(x, requires_grad=True) for x in s.x]
        gates = [torch.tensor(w, requires_grad=True) for w in s.weight]
        ys = []
        for x, gate, expert, (cluster, *_) in zip(xs, gates, s.expert, results):
            t, k = (cluster >= 0).nonzero(as_tuple=True)
            j, number = cluster[t, k], int(cluster.max()) + 1
            centroid = torch.zeros(number, 16).index_add(0, j, x[t]) / torch.bincount(j, minlength=number)[:, None]
            expert_of = torch.zeros(number, dtype=torch.long).index_copy(0, j, torch.tensor(expert)[t, k].long())
            seen = torch.stack([run_expert(weights[e], c) for c, e in zip(centroid, expert_of.tolist())])
            ys.append(torch.zeros_like(x).index_add(0, t, gate[t, k][:, None] * (seen[j] + 0.7 * (x[t] - centroid[j]))))
        sum((y * g).sum() for y, g in zip(ys, grads)).backward()
        for me, (_, y, grad_x, grad_gate, grad_weights) in enumerate(results):
            for a, b, what in [(y, ys[me], 'y'), (grad_x, xs[me].grad, 'grad x'), (grad_gate, gates[me].grad, 'grad gate'),
                               *((g, weights.grad[e], f'grad of expert {e}') for e, g in grad_weights.items())]:
                self.assertLess(((a - b).norm() / b.norm()).item(), 1e-5, f'rank {me}: {what}')

    def test_gate_weights_without_gradient(self):
        s = step(2, experts=2, topk=1, dim=8, seed=4)

        def body(comm):
            x = torch.tensor(s.x[comm.rank], requires_grad=True)
            with comm.moe_plan(8, 'f32', experts=2, topk=1, max_tokens=s.tokens[comm.rank], mode='raw') as plan:
                routing = xt.route(plan, s.expert[comm.rank])
                xt.combine(xt.dispatch(x, routing) * 3, routing).sum().backward()
                want = np.where(s.expert[comm.rank] >= 0, 3.0, 0.0) * np.ones(8)
                np.testing.assert_array_equal(x.grad.numpy(), want)
        ranks.threads(2, body)


@unittest.skipIf(missing, missing)
class Layer(unittest.TestCase):
    def build(self, comm, experts=4, **options):
        torch_random = torch.Generator().manual_seed(1)
        everyones = torch.randn(experts, 12, 12, generator=torch_random) / 4
        gate = torch.nn.Linear(12, experts, bias=False)
        gate.weight.data = torch.randn(experts, 12, generator=torch_random)
        local = []
        for e in range(experts * comm.rank // comm.size, experts * (comm.rank + 1) // comm.size):
            linear = torch.nn.Linear(12, 12, bias=False)
            linear.weight.data = everyones[e].clone()
            local.append(linear)
        return xt.MoELayer(gate, local, topk=2, comm=comm, **options), everyones, gate

    def test_against_a_dense_layer(self):
        def body(comm):
            layer, everyones, gate = self.build(comm, mode='exact')
            x = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(comm.rank), requires_grad=True)
            y = layer(x)
            weight, expert = torch.softmax(gate(x), -1).topk(2, dim=-1)
            weight = weight / weight.sum(-1, keepdim=True)
            dense = torch.einsum('eoi,bti->bteo', everyones, x)
            want = (weight[..., None] * dense.gather(2, expert[..., None].expand(-1, -1, -1, 12))).sum(2)
            self.assertLess((y - want).abs().max().item(), 1e-5)
            got = torch.autograd.grad(y.sum(), [x, gate.weight], retain_graph=True)
            wanted = torch.autograd.grad(want.sum(), [x, gate.weight])
            for a, b in zip(got, wanted):
                self.assertLess((a - b).abs().max().item(), 1e-4)
            self.assertGreater(layer.aux_loss.item(), 0.9)
        ranks.threads(2, body)

    def test_grows_and_keeps_routings_alive(self):
        def body(comm):
            layer, _, _ = self.build(comm)
            layer.eval()
            few = torch.randn(2, 12, generator=torch.Generator().manual_seed(5))
            many = torch.randn(40 if comm.rank else 3, 12, generator=torch.Generator().manual_seed(6))
            first = layer(few)
            second = layer(many)
            (first.sum() + second.sum()).backward()
            self.assertEqual(layer(few).shape, few.shape)
            self.assertTrue(torch.equal(layer(few), first))
        ranks.threads(2, body)

    def test_ranks_without_tokens_or_gradients_of_x(self):
        def body(comm):
            layer, _, gate = self.build(comm)
            x = torch.ones(4 if comm.rank == 0 else 0, 12)
            layer(x).sum().backward()
            return [p.grad is not None for p in layer.experts.parameters()]
        got = ranks.threads(2, body)
        self.assertEqual(sum(sum(g) for g in got), 2)  # equal tokens: two experts were chosen

    def test_bf16_rows_and_a_gate_that_chooses(self):
        def body(comm):
            layer = xt.MoELayer(lambda x: (torch.zeros(len(x), 1, dtype=torch.int64), torch.ones(len(x), 1)), [torch.nn.Identity()], comm=comm,
                                dtype=torch.bfloat16)
            x = torch.randn(6, 8)
            y = layer(x)
            self.assertEqual(y.dtype, torch.float32)
            self.assertTrue(torch.equal(y, x.bfloat16().float()))
            self.assertIsNone(layer.aux_loss)
        ranks.threads(2, body)

    def test_training_lowers_the_loss(self):
        def body(comm):
            layer, _, _ = self.build(comm, mode='bounded', eps=0.05, codec='quant')
            x = torch.randn(64, 12, generator=torch.Generator().manual_seed(comm.rank))
            target, losses = torch.tanh(x @ torch.ones(12, 12)), []
            optimiser = torch.optim.SGD(layer.parameters(), 0.2)
            for _ in range(15):
                loss = (layer(x) - target).pow(2).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
            self.assertLess(losses[-1], 0.8 * losses[0])
        ranks.threads(2, body, nodes='ab')

    def test_folded_layer(self):
        def body(comm):
            layer, _, _ = self.build(comm, mode='folded', rate=0.4, centroid='sequences', experts=2)
            layer.topk = 1
            x = torch.randn(8, 6, 12, generator=torch.Generator().manual_seed(comm.rank), requires_grad=True)
            y = layer(x, sequence=torch.arange(8).repeat_interleave(6))
            y.sum().backward()
            self.assertTrue(x.grad.abs().sum() > 0 and torch.isfinite(y).all())
            return layer.plan.stats().rate
        for rate in ranks.threads(2, body, nodes='ab'):
            self.assertLess(rate, 1)

    def test_over_torch_distributed(self):
        got = ranks.processes(2, os.path.join(ranks.HERE, 'layer_rank.py'))
        self.assertEqual([code for code, _, _ in got], [0, 0], got)
        self.assertEqual([out.split()[-1] for _, out, _ in got], ['ok', 'ok'], got)
