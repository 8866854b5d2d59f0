"""test_exchange.py - communicator, plans and exchanges from NumPy, DLPack and plain buffers

SPDX-License-Identifier: Apache-2.0
"""
import os
import subprocess
import sys
import unittest

import crosspress
import numpy as np
from crosspress import rows

import ranks


def counts_of(source, size):
    """Rows that rank `source` sends to each rank: uneven, some zero."""
    return [(source * 3 + peer * 2) % 5 for peer in range(size)]


def row(source, peer, i, dim, dtype):
    """Row i of what `source` sends to `peer`."""
    values = np.arange(dim, dtype=np.float32) % 7 + source * 16 + peer * 4 + i % 4
    if dtype == 'bf16':
        return crosspress.bf16_from_f32(values)
    return values.astype({'f16': np.float16, 'f32': np.float32, 'byte': np.uint8}[dtype])


def exchange(comm, dim, dtype, **options):
    """Sends to every rank, compares with the rows that must arrive."""
    me, size = comm.rank, comm.size
    out_counts, in_counts = counts_of(me, size), [counts_of(peer, size)[me] for peer in range(size)]
    with comm.plan(dim, dtype, max_send_rows=sum(out_counts), max_recv_rows=sum(in_counts), **options) as plan:
        send = [row(me, peer, i, dim, dtype) for peer in range(size) for i in range(out_counts[peer])]
        send = np.array(send, dtype=rows.TYPES[dtype][0]).reshape(-1, dim)
        got = plan.alltoallv(send, out_counts, in_counts)
        want = [row(peer, me, i, dim, dtype) for peer in range(size) for i in range(in_counts[peer])]
        np.testing.assert_array_equal(got, np.array(want, dtype=got.dtype).reshape(-1, dim))
        return plan.stats()


class Exchange(unittest.TestCase):
    def test_every_type_and_size(self):
        for size in (1, 2, 3, 5):
            for dtype in rows.TYPES:
                with self.subTest(size=size, dtype=dtype):
                    for stats in ranks.threads(size, lambda c: exchange(c, 48, dtype)):
                        self.assertEqual(stats.calls, 1)

    def test_modes_and_nodes(self):
        for mode in ('raw', 'exact'):
            got = ranks.threads(4, lambda c: (c.nodes, exchange(c, 64, 'f32', mode=mode)), nodes='aabb')
            self.assertEqual([n for n, _ in got], [2] * 4)
            self.assertGreater(sum(s.wire_bytes_slow for _, s in got), 0)

    def test_bounded_keeps_its_promise(self):
        def body(comm):
            rng = np.random.default_rng(comm.rank)
            send = rng.standard_normal((512, 256), dtype=np.float32)
            with comm.plan(256, 'f32', max_send_rows=512, max_recv_rows=512, mode='bounded', eps=0.1, codec='quant') as plan:
                return send, plan.alltoall(send), plan.stats()
        got = ranks.threads(2, body, nodes='ab')
        for me in range(2):
            sent, received = got[1 - me][0][256 * me:256 * me + 256], got[me][1][256 * (1 - me):][:256]
            error = np.linalg.norm(received - sent, axis=1) / np.linalg.norm(sent, axis=1)
            self.assertLessEqual(error.max(), 0.1)
            self.assertGreater(error.max(), 0)
            self.assertLess(got[me][2].wire_bytes_slow, got[me][2].raw_bytes / 2)

    def test_dither(self):
        """The errors of alike rows add up where they are rounded, and cancel where they are dithered."""
        rng = np.random.default_rng(1)
        send = np.tile(rng.standard_normal((8, 256), dtype=np.float32), (128, 1)) + 0.01 * rng.standard_normal((1024, 256), dtype=np.float32)

        def body(comm, dither):
            with comm.plan(256, 'f32', max_send_rows=1024, max_recv_rows=1024, mode='bounded', eps=0.25, eps_ref='row', codec='book',
                           dither=dither) as plan:
                counts = [1024 * (peer != comm.rank) for peer in range(2)]
                return plan.alltoallv(send, counts, counts)
        size = {}
        for dither in (None, False, True):
            error = ranks.threads(2, lambda c: body(c, dither), nodes='ab')[0] - send
            self.assertLessEqual((np.linalg.norm(error, axis=1) / np.linalg.norm(send, axis=1)).max(), 0.25)
            size[dither] = np.linalg.norm(error.reshape(128, 8, 256).mean(0)) / np.linalg.norm(send[:8])
        self.assertEqual(size[None], size[False])
        self.assertLess(size[True], 0.25 * 1.2 / 128 ** 0.5)
        self.assertGreater(size[False], 4 * size[True])

    def test_request(self):
        def body(comm):
            with comm.plan(16, 'f32', max_send_rows=8, max_recv_rows=8) as plan:
                send = np.full((8, 16), comm.rank, np.float32)
                request = plan.alltoall(send, wait=False)
                with self.assertRaises(crosspress.CallerError) as caught:
                    plan.alltoall(send)
                self.assertEqual(caught.exception.name, 'XP_ERR_STATE')
                while not request.test():
                    pass
                np.testing.assert_array_equal(request.wait()[:, 0], [0] * 4 + [1] * 4)
                return plan.alltoall(send, wait=False).wait().sum()
        self.assertEqual(ranks.threads(2, body), [64, 64])

    def test_comm(self):
        def body(comm):
            comm.barrier()
            self.assertEqual([comm.node_of(r) for r in range(3)], [0, 0, 1])
            self.assertEqual(comm.node_of(3), -1)
            return comm.rank, comm.size, comm.allgather(b'rank%d' % comm.rank)
        got = ranks.threads(3, body, nodes='aab')
        self.assertEqual(got, [(r, 3, [b'rank0', b'rank1', b'rank2']) for r in range(3)])

    def test_environment_of_torchrun(self):
        got = ranks.processes(2, os.path.join(ranks.HERE, 'exchange_rank.py'))
        self.assertEqual([code for code, _, _ in got], [0, 0], got)
        self.assertEqual([out.strip() for _, out, _ in got], ['rank 0 of 2: 0 1', 'rank 1 of 2: 0 1'])

    def test_allgather_of_the_caller(self):
        import threading
        barrier, board = threading.Barrier(2), [None, None]

        def start(rank):
            def allgather(mine):
                board[rank] = mine
                barrier.wait(30)
                everyones = list(board)
                barrier.wait(30)
                return everyones
            with crosspress.Comm(allgather=allgather, rank=rank, nranks=2, timeout=30) as comm:
                sizes[rank] = comm.size
        sizes = [0, 0]
        started = [threading.Thread(target=start, args=(r,)) for r in range(2)]
        [t.start() for t in started]
        [t.join(60) for t in started]
        self.assertEqual(sizes, [2, 2])

    def test_closing_twice_and_in_any_order(self):
        def body(comm):
            plan = comm.plan(4, 'f32', max_send_rows=2, max_recv_rows=2)
            comm.close()
            comm.close()
            self.assertFalse(plan.is_open)
            with self.assertRaisesRegex(ValueError, 'plan is closed'):
                plan.alltoall(np.zeros((2, 4), np.float32))
            with self.assertRaisesRegex(ValueError, 'comm is closed'):
                comm.barrier()
        ranks.threads(1, body)


class Errors(unittest.TestCase):
    def test_text_names_the_ranks(self):
        def body(comm):
            with self.assertRaises(crosspress.GroupError) as caught:
                comm.plan(8 + comm.rank, 'f32')
            return caught.exception
        for e in ranks.threads(2, body):
            self.assertEqual((e.status, e.name), (-22, 'XP_ERR_MISMATCH'))
            self.assertIn('dim', e.text)
            self.assertIn('rank 1', str(e))

    def test_counts_that_differ(self):
        def body(comm):
            with comm.plan(4, 'f32', max_send_rows=4, max_recv_rows=4) as plan:
                with self.assertRaises(crosspress.GroupError) as caught:
                    plan.alltoallv(np.zeros((2, 4), np.float32), [1, 1], [1, 1 if comm.rank else 2])
                return caught.exception.name
        self.assertIn('XP_ERR_MISMATCH', ranks.threads(2, body))

    def test_maxima(self):
        def body(comm):
            with comm.plan(4, 'f32', max_send_rows=1, max_recv_rows=1) as plan:
                with self.assertRaisesRegex(crosspress.CallerError, 'max_send_rows is 1'):
                    plan.alltoall(np.zeros((2, 4), np.float32))
        ranks.threads(1, body)

    def test_wrong_buffers(self):
        def body(comm):
            with comm.plan(4, 'f32', max_send_rows=4, max_recv_rows=4) as plan:
                good = np.zeros((2, 4), np.float32)
                for send, what in ((np.zeros((2, 4)), 'holds float64'), (np.zeros((2, 3), np.float32), 'whole rows of 4'),
                                   (np.zeros((4, 4), np.float32)[::2], 'not contiguous'), ([1, 2], 'must be an array'),
                                   (good.astype('>f4'), 'big-endian')):
                    with self.assertRaisesRegex((TypeError, ValueError), what):
                        plan.alltoall(send)
                readonly = np.zeros((2, 4), np.float32)
                readonly.flags.writeable = False
                plan.alltoall(readonly)
                with self.assertRaisesRegex(ValueError, 'read-only'):
                    plan.alltoall(good, out=readonly)
                with self.assertRaisesRegex(ValueError, 'room for 1 rows, 2'):
                    plan.alltoall(good, out=np.zeros((1, 4), np.float32))
                with self.assertRaisesRegex(ValueError, 'has 2 entries'):
                    plan.alltoallv(good, [1, 1], [2])
                with self.assertRaisesRegex(ValueError, 'negative'):
                    plan.alltoallv(good, [-1], [2])
                with self.assertRaisesRegex(crosspress.CallerError, 'overlap'):
                    plan.alltoall(good, out=good)
        ranks.threads(1, body)

    def test_names(self):
        def body(comm):
            with self.assertRaisesRegex(ValueError, 'no mode is called .lossy.; there are default, raw'):
                comm.plan(4, 'f32', mode='lossy')
            with self.assertRaisesRegex(ValueError, 'no dtype'):
                comm.plan(4, 'f64')
            with self.assertRaisesRegex(crosspress.CallerError, 'no codec is called "zip"'):
                comm.plan(4, 'f32', codec='zip')
        ranks.threads(1, body)

    def test_what_a_callback_raised_is_the_cause(self):
        def allgather(mine):
            raise KeyError('the store is gone')
        with self.assertRaises(crosspress.Error) as caught:
            crosspress.Comm(allgather=allgather, rank=0, nranks=2, timeout=5)
        self.assertIsInstance(caught.exception.__cause__, KeyError)

    def test_missing_library(self):
        env = dict(os.environ, CROSSPRESS_LIB='/nowhere/libcrosspress.so', PYTHONPATH=ranks.PACKAGE)
        got = subprocess.run([sys.executable, '-c', 'import crosspress'], env=env, capture_output=True, text=True)
        self.assertEqual(got.returncode, 1)
        self.assertRegex(got.stderr, 'ImportError: crosspress: the C library was not found. Set CROSSPRESS_LIB.*/nowhere')


class Memory(unittest.TestCase):
    """DLPack with NumPy alone; tests of torch tensors are in test_torch.py."""

    def test_dlpack_of_numpy(self):
        class Foreign:
            def __init__(self, array):
                self.array = array

            def __dlpack__(self, **_):
                return self.array.__dlpack__()

        a = np.arange(24, dtype=np.float32).reshape(6, 4)
        m, n = rows.rows_of(Foreign(a), 'f32', 4, 'x')
        self.assertEqual((m.pointer, m.shape, m.type, n), (a.ctypes.data, (6, 4), 'float32', 6))
        m, _ = rows.rows_of(Foreign(a[2:]), 'f32', 4, 'x')
        self.assertEqual(m.pointer, a.ctypes.data + 32)
        with self.assertRaisesRegex(ValueError, 'not contiguous'):
            rows.rows_of(Foreign(a[::2]), 'f32', 4, 'x')
        with self.assertRaisesRegex(TypeError, 'holds float32'):
            rows.rows_of(Foreign(a), 'bf16', 4, 'x')
        bits = np.arange(8, dtype=np.uint16)
        m, _ = rows.rows_of(crosspress.BFloat16(bits), 'bf16', 4, 'x')
        self.assertEqual((m.type, m.itemsize, m.pointer), ('bfloat16', 2, bits.ctypes.data))

    def test_nothing_leaks(self):
        a = np.zeros((4, 4), np.float32)
        before = sys.getrefcount(a)
        for _ in range(10):
            rows.rows_of(a, 'f32', 4, 'x')
            capsule = crosspress.BFloat16(np.zeros(4, np.uint16)).__dlpack__()
            del capsule
        self.assertEqual(sys.getrefcount(a), before)

    def test_bytes(self):
        m, n = rows.rows_of(b'abcdefgh', 'byte', 4, 'x')
        self.assertEqual((n, m.readonly), (2, True))
        m, n = rows.rows_of(np.zeros((3, 2), np.int64), 'byte', 16, 'x')
        self.assertEqual(n, 3)

    def test_bf16_conversion(self):
        x = np.array([1.0, -2.5, 1.00390625, 1.01171875, np.inf, -np.inf, 1e-40, 3.4e38], np.float32)
        bits = crosspress.bf16_from_f32(x)
        self.assertEqual([hex(b) for b in bits[:6]], ['0x3f80', '0xc020', '0x3f80', '0x3f82', '0x7f80', '0xff80'])
        self.assertEqual(bits[7], 0x7f80)  # beyond the largest bf16: infinity, as IEEE rounding says
        self.assertTrue(np.isnan(crosspress.f32_from_bf16(crosspress.bf16_from_f32(np.float32([np.nan, -np.nan])))).all())
        every = np.arange(1 << 16, dtype=np.uint16)
        values = crosspress.f32_from_bf16(every)
        number = ~np.isnan(values)
        np.testing.assert_array_equal(crosspress.bf16_from_f32(values)[number], every[number])
