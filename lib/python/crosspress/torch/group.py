"""group.py - a communicator for a torch process group

SPDX-License-Identifier: Apache-2.0
"""
import torch
import torch.distributed as dist

from ..comm import Comm


class StoreAllgather:
    """An allgather over a torch store, for the few small messages that start a communicator."""

    def __init__(self, store, rank, size):
        self.store, self.rank, self.size, self.calls = store, rank, size, 0

    def __call__(self, mine):
        self.calls += 1
        key = f'crosspress/{self.calls}'
        self.store.set(f'{key}/{self.rank}', mine.hex())
        return [bytes.fromhex(self.store.get(f'{key}/{r}').decode()) for r in range(self.size)]


def _group_allgather(group, size):
    """The same over a process group."""
    def allgather(mine):
        sent = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
        got = [torch.empty_like(sent) for _ in range(size)]
        dist.all_gather(got, sent, group=group)
        return [t.numpy().tobytes() for t in got]
    return allgather


def comm(group=None, **options):
    """
    A new crosspress.Comm of the ranks of a process group (None: the default one), or of the launcher's environment where
    torch.distributed is not initialised. Collective. `options`: those of crosspress.Comm.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return Comm(**options)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    return Comm(allgather=_group_allgather(group, size), rank=rank, nranks=size, **options)
