"""test_moe.py - route, dispatch, combine and their backward passes from NumPy

SPDX-License-Identifier: Apache-2.0
"""
import unittest

import crosspress
import numpy as np

import ranks
from moe_reference import combined, layout, step


def open_plan(comm, s, **options):
    return comm.moe_plan(s.dim, 'f32', experts=s.experts, topk=s.topk, max_tokens=s.tokens[comm.rank], **options)


def forward(comm, s, plan):
    """(routing, rows, y) of one step with experts that scale."""
    me = comm.rank
    routing = plan.route(s.expert[me], s.weight[me], s.expert_rank)
    rows = routing.dispatch(s.x[me])
    results = rows * np.repeat(s.scale[routing.expert_ids], np.diff(routing.offsets))[:, None]
    return routing, rows, results, routing.combine(results)


class Step(unittest.TestCase):
    def check(self, s, nodes=None, close=0, **options):
        """Layout, rows and sums against the reference; `close`: relative error allowed (0: rows bit for bit)."""
        def body(comm):
            me = comm.rank
            with open_plan(comm, s, **options) as plan:
                routing, rows, _, y = forward(comm, s, plan)
                mine, order = layout(s, me)
                self.assertEqual(list(routing.expert_ids), mine)
                self.assertEqual(list(routing.offsets), list(np.cumsum([0] + [sum(o[0] == e for o in order) for e in mine])))
                want = np.array([s.x[r][t] for _, r, t in order], np.float32).reshape(-1, s.dim)
                reference = combined(s, me, lambda e, x: s.scale[e] * x)
                if close:
                    norm = np.linalg.norm(want, axis=1)
                    self.assertLessEqual((np.linalg.norm(rows - want, axis=1) / np.where(norm > 0, norm, 1)).max(initial=0), close)
                    bound = combined(s, me, lambda e, x: s.scale[e] * np.linalg.norm(x) + 0 * x)[:, 0]
                    self.assertLessEqual((np.linalg.norm(y - reference, axis=1) - 2.2 * close * bound).max(initial=-1), 1e-6)
                else:
                    np.testing.assert_array_equal(rows, want)
                    np.testing.assert_allclose(y, reference, rtol=1e-6, atol=1e-6)
                routing.close()
                return plan.stats()
        return ranks.threads(s.size, body, nodes=nodes)

    def test_sizes(self):
        for size in (1, 2, 3):
            self.check(step(size, experts=5, topk=2, dim=24, seed=size), mode='raw')

    def test_modes_algorithms_and_maps(self):
        for mode in ('raw', 'exact'):
            for algo in ('flat', 'hier', 'leader'):
                with self.subTest(mode=mode, algo=algo):
                    self.check(step(4, experts=8, topk=3, dim=64, seed=7, moved=True), nodes='aabb', mode=mode, algo=algo)

    def test_bounded(self):
        for stats in self.check(step(4, experts=4, topk=2, dim=256, seed=9, tokens=[64] * 4), nodes='aabb', close=0.1, mode='bounded',
                                eps=0.1, codec='quant', algo='hier'):
            self.assertGreater(stats.hop_rows_slow, 0)

    def test_requests_and_several_steps(self):
        s = step(2, experts=4, topk=2, dim=16, seed=3)

        def body(comm):
            with open_plan(comm, s, mode='raw') as plan:
                me = comm.rank
                first, second = (plan.route(s.expert[me], s.weight[me]) for _ in range(2))
                rows = [r.dispatch(s.x[me], wait=False).wait() for r in (first, second)]
                np.testing.assert_array_equal(*rows)
                out = np.empty_like(s.x[me])
                self.assertIs(first.combine(rows[0], out=out, wait=False).wait(), out)
                np.testing.assert_allclose(out, combined(s, me), rtol=1e-6, atol=1e-6)
        ranks.threads(2, body)

    def test_bf16(self):
        s = step(2, experts=2, topk=1, dim=8, seed=1)

        def body(comm):
            me = comm.rank
            with comm.moe_plan(8, 'bf16', experts=2, topk=1, max_tokens=s.tokens[me], mode='exact') as plan:
                routing = plan.route(s.expert[me])
                bits = crosspress.bf16_from_f32(s.x[me])
                y = routing.combine(routing.dispatch(bits))
                np.testing.assert_array_equal(y, np.where(s.expert[me] >= 0, bits, 0))
        ranks.threads(2, body)


class Backward(unittest.TestCase):
    def test_against_the_formulas(self):
        for mode in ('raw', 'exact'):
            s = step(3, experts=6, topk=2, dim=32, seed=11, tokens=[9, 0, 14], moved=True)
            rng = np.random.default_rng(2)
            grad = [rng.standard_normal(x.shape).astype(np.float32) for x in s.x]

            def body(comm):
                me = comm.rank
                with open_plan(comm, s, mode=mode, algo='hier') as plan:
                    routing, _, results, _ = forward(comm, s, plan)
                    grad_rows, grad_weight = routing.combine_backward(grad[me], results)
                    _, order = layout(s, me)
                    want = [s.weight[r][t, list(s.expert[r][t]).index(e)] * grad[r][t] for e, r, t in order]
                    np.testing.assert_allclose(grad_rows, np.array(want, np.float32).reshape(-1, s.dim), rtol=1e-6)
                    for t in range(s.tokens[me]):
                        for k, e in enumerate(s.expert[me][t]):
                            w = float(grad[me][t].astype(np.float64) @ (s.scale[e] * s.x[me][t])) if e >= 0 else 0.0
                            self.assertAlmostEqual(grad_weight[t, k], w, delta=1e-4)
                    scaled = grad_rows * np.repeat(s.scale[routing.expert_ids], np.diff(routing.offsets))[:, None]
                    grad_x = routing.dispatch_backward(scaled)
                    chain = np.array([sum((s.scale[e] * s.weight[me][t, k] * grad[me][t] for k, e in enumerate(s.expert[me][t]) if e >= 0),
                                          np.zeros(s.dim)) for t in range(s.tokens[me])]).reshape(-1, s.dim)
                    np.testing.assert_allclose(grad_x, chain, rtol=1e-5, atol=1e-5)
                    self.assertIsNone(routing.combine_backward(grad[me])[1])
            ranks.threads(3, body, nodes='aab')


class Folded(unittest.TestCase):
    """Against the formulas of the header, from the library's own clusters."""

    def check(self, s, **options):
        grad = [np.random.default_rng(r).standard_normal(x.shape).astype(np.float32) for r, x in enumerate(s.x)]

        def body(comm):
            me = comm.rank
            with open_plan(comm, s, mode='folded', codec='raw', **options) as plan:
                routing = plan.route(s.expert[me], s.weight[me], sequence=np.arange(s.tokens[me]) // 8)
                bound = routing.rows
                rows = routing.dispatch(s.x[me])
                self.assertEqual(len(rows), routing.rows)
                self.assertLessEqual(len(rows), bound)
                scale = np.repeat(s.scale[routing.expert_ids], np.diff(routing.offsets))[:, None]
                y = routing.combine(rows * scale, s.x[me])
                c = routing.clusters()
                grad_rows, grad_weight = routing.combine_backward(grad[me], rows * scale)
                grad_x = routing.dispatch_backward(grad_rows * scale, grad[me])
                self.formulas(s, me, c, grad[me], y, grad_weight, grad_x, options.get('centroid') != 'leader')
                return plan.stats(), c
        return ranks.threads(s.size, body, nodes='aab')

    def formulas(self, s, me, c, grad, y, grad_weight, grad_x, mean):
        x, w = s.x[me], s.weight[me]
        slots = [(t, k) for t in range(s.tokens[me]) for k in range(s.topk) if s.expert[me][t, k] >= 0]
        members = {}
        for t, k in slots:
            members.setdefault(c.cluster[t, k], []).append((t, k))
        self.assertEqual(sorted(members), list(range(len(c.centroid))))
        want_y, want_x, want_w = np.zeros_like(x), np.zeros_like(x), np.zeros_like(w)
        for j, inside in members.items():
            e = {s.expert[me][t, k] for t, k in inside}
            self.assertEqual(len(e), 1, 'a cluster belongs to one expert')
            scale, alpha = s.scale[e.pop()], c.alpha[inside[0]]
            first = min(t for t, _ in inside)
            centroid = np.mean([x[t] for t, _ in inside], axis=0) if mean else x[first]
            np.testing.assert_allclose(c.centroid[j], centroid, rtol=1e-5, atol=1e-5)
            sums = sum(w[t, k] * grad[t] for t, k in inside)
            for t, k in inside:
                result = scale * c.centroid[j] + alpha * (x[t] - c.centroid[j])
                want_y[t] += w[t, k] * result
                want_w[t, k] = grad[t] @ result
                part = 1 / len(inside) if mean else float(t == first)
                want_x[t] += alpha * w[t, k] * grad[t] + part * (scale * sums - alpha * sums)
        np.testing.assert_allclose(y, want_y, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(grad_weight, want_w, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(grad_x, want_x, rtol=1e-4, atol=1e-4)

    def test_formulas(self):
        s = step(3, experts=3, topk=2, dim=32, seed=31, tokens=[80, 0, 60])
        for options in ({'alpha': 1.0}, {'alpha': 0.0, 'refine': 0}, {'alpha': 'fit'}, {'alpha': 0.5, 'centroid': 'leader'}):
            with self.subTest(**options):
                got = self.check(s, rate=0.3, **options)
                self.assertLess(got[0][0].rate, 0.6)
                self.assertGreater(got[0][0].clusters, 0)
                if options['alpha'] != 'fit':
                    for _, c in got:
                        self.assertTrue(((c.alpha == options['alpha']) | (c.cluster < 0)).all())

    def test_sequences_and_preset(self):
        s = step(3, experts=2, topk=1, dim=32, seed=5, tokens=[64, 48, 32])
        for _, c in self.check(s, rate=0.5, alpha=1.0, centroid='sequences'):
            pairs = [(j, t // 8) for t, (j,) in enumerate(c.cluster) if j >= 0]
            self.assertEqual(len(pairs), len(set(pairs)), 'a cluster holds one row of a sequence')
        self.check(s, preset='paper')

    def test_before_dispatch(self):
        def body(comm):
            with comm.moe_plan(8, 'f32', experts=2, topk=1, max_tokens=4, mode='folded') as plan:
                routing = plan.route(np.zeros((4, 1), np.int32))
                with self.assertRaises(crosspress.CallerError) as caught:
                    routing.clusters()
                self.assertEqual(caught.exception.name, 'XP_ERR_STATE')
        ranks.threads(1, body)


class Errors(unittest.TestCase):
    def test_arguments(self):
        def body(comm):
            with comm.moe_plan(4, 'f32', experts=2, topk=2, max_tokens=3) as plan:
                for args, what in (((np.zeros(3, np.int32),), 'not .tokens..k.'), ((np.zeros((3, 2)),), 'not whole numbers'),
                                   ((np.zeros((3, 1), np.int32), np.zeros((3, 2), np.float32)), 'weight has shape'),
                                   ((np.zeros((3, 1), np.int32), None, np.zeros(3, np.int32)), 'expert_rank has shape')):
                    with self.assertRaisesRegex((TypeError, ValueError), what):
                        plan.route(*args)
                with self.assertRaises(crosspress.CallerError):
                    plan.route(np.full((3, 1), 7))
                with self.assertRaises(crosspress.CallerError):
                    plan.route(np.zeros((4, 1), np.int64))
                routing = plan.route(np.array([[0, 1], [1, -1], [-1, -1]]))
                self.assertEqual(routing.rows, 3)
                with self.assertRaisesRegex(ValueError, 'room for 2 rows, 3'):
                    routing.dispatch(np.zeros((2, 4), np.float32))
                plan.close()
                with self.assertRaisesRegex(ValueError, 'closed'):
                    routing.dispatch(np.zeros((3, 4), np.float32))
        ranks.threads(1, body)

    def test_one_ranks_error_is_everyones(self):
        def body(comm):
            with comm.moe_plan(4, 'f32', experts=2, topk=1, max_tokens=3) as plan:
                with self.assertRaises(crosspress.Error) as caught:
                    plan.route(np.full((3, 1), 9 if comm.rank else 0))
                plan.route(np.zeros((3, 1), np.int32)).close()
                return str(caught.exception)
        for text in ranks.threads(2, body):
            self.assertIn('rank 1', text)
