"""exchange_rank.py - one rank of test_exchange.py: found through the environment, exchanges one row with each other rank

SPDX-License-Identifier: Apache-2.0
"""
import crosspress
import numpy as np

with crosspress.Comm() as comm, comm.plan(8, 'f32', max_send_rows=comm.size, max_recv_rows=comm.size) as plan:
    got = plan.alltoall(np.full((comm.size, 8), comm.rank, np.float32))
    print(f'rank {comm.rank} of {comm.size}:', *(int(v) for v in got[:, 0]))
