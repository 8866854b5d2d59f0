"""backend.py - the torch.distributed backend "crosspress": all-to-all here, everything else by gloo

Dispatchers of other frameworks call torch.distributed.all_to_all_single (or all_to_all) and need not know about this.

Exchanges run one after the other on a thread of the process group, so that one that was started with async_op moves on while the
caller does something else, other collectives included.

SPDX-License-Identifier: Apache-2.0
"""
import concurrent.futures
import os
import struct
import warnings

import torch
import torch.distributed as dist

from .. import _lib
from ..comm import Comm
from .group import StoreAllgather

NAME = 'crosspress'
MOST_BYTES = 1 << 34      # of one exchange, each way: a plan of bytes needs a maximum, and its cost grows slowly with it
LEAST_ROW = 256           # bytes: shorter rows are not worth a coder's header
ROWS_FIRST = 1024         # least maximum of a plan for rows; maxima grow by doubling
ROW_TYPES = {torch.bfloat16: 'bf16', torch.float16: 'f16', torch.float32: 'f32'}

_settings = {'mode': None, 'eps': 0.0, 'eps_ref': None, 'dither': None, 'row': None, 'codec': None, 'algo': None}


def configure(**settings):
    """
    What the process groups created from now on do with rows between nodes; equal on all ranks.

    mode: None (CROSSPRESS_MODE, else exact), 'raw', 'exact', 'bounded'.   eps, eps_ref, dither, codec, algo: as in crosspress.Plan.
    row:  (torch.bfloat16, 4096): the rows that bounded mode may touch (None: CROSSPRESS_ROW, such as bf16:4096). Whatever else is
          exchanged (counts, gate weights, other tensors) arrives bit for bit.
    """
    unknown = set(settings) - set(_settings)
    if unknown:
        raise TypeError(f'crosspress: no setting is called {", ".join(sorted(unknown))}; there are {", ".join(_settings)}')
    _settings.update(settings)


def declared_row(text):
    """'bf16:4096' -> (torch.bfloat16, 4096); None for no text."""
    if not text:
        return None
    name, _, dim = text.partition(':')
    types = {v: k for k, v in ROW_TYPES.items()}
    if name not in types or not dim.isdigit():
        raise ValueError(f'crosspress: CROSSPRESS_ROW is {text!r}, not a type and a length such as bf16:4096')
    return types[name], int(dim)


class Work(torch._C._distributed_c10d.Work):
    """An exchange under way, as torch.distributed shows it."""

    def __init__(self, future, result):
        super().__init__()
        self.done, self.outputs = future, result

    def wait(self, timeout=None):
        seconds = timeout.total_seconds() if timeout else 0
        self.done.result(seconds if seconds > 0 else None)
        return True

    def is_completed(self):
        return self.done.done()

    def is_success(self):
        return self.done.done() and self.done.exception() is None

    def exception(self):
        return self.done.exception() if self.done.done() else None

    def synchronize(self):
        self.wait()

    def result(self):
        return self.outputs

    def get_future(self):
        future = torch.futures.Future()

        def settle(done):
            if done.exception() is None:
                future.set_result(self.outputs)
            else:
                future.set_exception(done.exception())
        self.done.add_done_callback(settle)
        return future


class Rows:
    """The rows of one exchange as all ranks see them: type, length, and how many go out and come in."""
    FORMAT = struct.Struct('<IIQQQ')  # type (0: opaque), unused, dim, rows out, rows in
    KINDS = {0: None, 1: 'bf16', 2: 'f16', 3: 'f32'}

    @classmethod
    def pack(cls, kind, dim, rows_out, rows_in):
        number = next(n for n, k in cls.KINDS.items() if k == kind)
        return cls.FORMAT.pack(number, 0, dim, rows_out, rows_in)

    @classmethod
    def agree(cls, records):
        """(type, dim, most rows) when all ranks have the same rows, else (None, 0, 0)."""
        seen = [cls.FORMAT.unpack(r) for r in records]
        if len({s[:3] for s in seen}) > 1 or seen[0][0] == 0:
            return None, 0, 0
        return cls.KINDS[seen[0][0]], seen[0][2], max(max(s[3:]) for s in seen)


class Exchanger:
    """All-to-alls of host tensors over one communicator. Methods are called by one thread."""

    def __init__(self, comm, settings):
        self.comm, self.settings = comm, settings
        self.raw = comm.plan(1, 'byte', max_send_rows=MOST_BYTES, max_recv_rows=MOST_BYTES, mode='raw', algo='flat')
        self.agreed = comm.plan(Rows.FORMAT.size, 'byte', max_send_rows=comm.size, max_recv_rows=comm.size, mode='raw', algo='flat')
        self.plans = {}  # (type, dim) -> (plan, its maximum)
        self.row = settings['row'] or declared_row(os.environ.get('CROSSPRESS_ROW'))
        mode = settings['mode'] or os.environ.get('CROSSPRESS_MODE', '').partition(':')[0] or 'exact'
        self.coding = mode != 'raw' and comm.nodes > 1  # inside a node rows travel plain in every mode
        self.lossy = mode == 'bounded'
        if self.lossy and not self.row:
            warnings.warn('crosspress: bounded mode needs the rows it may touch: CROSSPRESS_ROW=bf16:4096, or '
                          'crosspress.torch.configure(row=...). Until then everything travels exactly')

    def row_of(self, tensor, parts):
        """(type, dim) of the rows that a coder may look at, (None, 0) for bytes. `parts`: values for each rank."""
        kind = ROW_TYPES.get(tensor.dtype)
        if not kind:
            return None, 0
        if self.row and tensor.dtype == self.row[0] and all(p % self.row[1] == 0 for p in parts):
            return kind, self.row[1]
        if tensor.dim() >= 2 and tensor.shape[-1] * tensor.element_size() >= LEAST_ROW \
                and all(p % tensor.shape[-1] == 0 for p in parts):
            return kind, tensor.shape[-1]
        return None, 0

    def plan_for(self, kind, dim, most):
        """The plan for rows agreed on; made anew, on all ranks alike, when one of them has more rows than fit."""
        plan, room = self.plans.get((kind, dim), (None, 0))
        if most > room:
            if plan:
                plan.close()
            room = max(ROWS_FIRST, 1 << (most - 1).bit_length())
            lossy = self.lossy and self.row == (next(t for t, k in ROW_TYPES.items() if k == kind), dim)
            s = self.settings
            plan = self.comm.plan(dim, kind, max_send_rows=room, max_recv_rows=room, mode='bounded' if lossy else 'exact',
                                  eps=s['eps'] if lossy else 0, eps_ref=s['eps_ref'] if lossy else None, dither=s['dither'] if lossy else None,
                                  codec=s['codec'] if lossy else None, algo=s['algo'])
            self.plans[(kind, dim)] = plan, room
        return plan

    def exchange(self, output, input, out_parts, in_parts):
        """`in_parts` values of `input` go to each rank, `out_parts` values of each rank arrive in `output`. Contiguous."""
        kind, dim = None, 0
        if self.coding:
            kind, dim = self.row_of(input, [*in_parts, *out_parts])
            mine = Rows.pack(kind, dim, sum(in_parts) // dim if dim else 0, sum(out_parts) // dim if dim else 0)
            everyones = self.agreed.alltoall(mine * self.comm.size).tobytes()
            kind, dim, most = Rows.agree([everyones[i:i + len(mine)] for i in range(0, len(everyones), len(mine))])
        if kind:
            self.send(self.plan_for(kind, dim, most), output, input, [p // dim for p in out_parts], [p // dim for p in in_parts])
        else:
            width = input.element_size()
            self.send(self.raw, output, input, [p * width for p in out_parts], [p * width for p in in_parts])

    def send(self, plan, output, input, recv_rows, send_rows):
        size = self.comm.size
        counts = _lib.c_size_t * size
        _lib.check(_lib.lib.xp_alltoallv(plan.handle, input.data_ptr(), counts(*send_rows), output.data_ptr(),
                                         counts(*recv_rows), None), self.comm.handle)

    def close(self):
        self.comm.close()


def _even(total, size, what):
    if total % size:
        raise ValueError(f'crosspress: all_to_all_single: {what} has {total} rows, not a multiple of {size} ranks, and no split sizes')
    return [total // size] * size


def _parts(tensor, splits, size, what):
    """Values of a tensor for each rank, from split sizes along its first dimension."""
    length = tensor.shape[0] if tensor.dim() else 1
    splits = [int(s) for s in splits] if splits is not None and len(splits) else _even(length, size, what)  # lists, arrays, tensors
    if len(splits) != size or sum(splits) != length or min(splits) < 0:
        raise ValueError(f'crosspress: all_to_all_single: split sizes {splits} of {what} do not fit {length} rows and {size} ranks')
    each = tensor.numel() // length if length else 0
    return [s * each for s in splits]


class ProcessGroupCrosspress(dist.ProcessGroup):
    """alltoall, alltoall_base over crosspress; the other collectives are gloo's."""

    def __init__(self, store, rank, size, timeout):
        super().__init__(rank, size)
        self.gloo = dist.ProcessGroupGloo(dist.PrefixStore('gloo', store), rank, size, timeout=timeout)
        comm = Comm(allgather=StoreAllgather(dist.PrefixStore(NAME, store), rank, size), rank=rank, nranks=size,
                    timeout=timeout.total_seconds())
        self.exchanger = Exchanger(comm, dict(_settings))
        self.worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=NAME)

    # ---- all-to-all ----------------------------------------------------------------------------------------------

    def alltoall_base(self, output, input, output_split_sizes=(), input_split_sizes=(), opts=None):
        self._on_host([output, input])
        size = self.exchanger.comm.size
        out_parts = _parts(output, output_split_sizes, size, 'output')
        in_parts = _parts(input, input_split_sizes, size, 'input')
        sent, room = input.detach().contiguous(), output.detach()
        target = room if room.is_contiguous() else torch.empty_like(room, memory_format=torch.contiguous_format)

        def run():
            self.exchanger.exchange(target, sent, out_parts, in_parts)
            if target is not room:
                room.copy_(target)
        return Work(self.worker.submit(run), [output])

    def alltoall(self, output_tensors, input_tensors, opts=None):
        self._on_host([*output_tensors, *input_tensors])
        size = self.exchanger.comm.size
        if len(output_tensors) != size or len(input_tensors) != size:
            raise ValueError(f'crosspress: all_to_all: {len(output_tensors)} outputs and {len(input_tensors)} inputs for {size} ranks')
        width = next((t.shape[-1] for t in input_tensors if t.dim() > 1 and t.shape[-1]), 1)
        sent = torch.cat([t.detach().reshape(-1) for t in input_tensors])
        target = torch.empty(sum(t.numel() for t in output_tensors), dtype=output_tensors[0].dtype)
        if sent.numel() % width == 0:
            sent = sent.view(-1, width)

        def run():
            self.exchanger.exchange(target, sent, [t.numel() for t in output_tensors], [t.numel() for t in input_tensors])
            for tensor, part in zip(output_tensors, target.split([t.numel() for t in output_tensors])):
                tensor.detach().copy_(part.view(tensor.shape))
        return Work(self.worker.submit(run), list(output_tensors))

    # Newer torch has this name for alltoall_base as well.
    all_to_all_single = alltoall_base

    @staticmethod
    def _on_host(tensors):
        for t in tensors:
            if t.device.type != 'cpu' or t.layout != torch.strided:
                raise ValueError(f'crosspress: all_to_all takes dense tensors on the host, not on {t.device}')

    # ---- the rest ------------------------------------------------------------------------------------------------

    def stats(self):
        """{(type, dim): figures} of the plans for rows, and 'bytes' for all else; see crosspress.Plan.stats."""
        figures = {key: plan.stats() for key, (plan, _) in self.exchanger.plans.items()}
        figures['bytes'] = self.exchanger.raw.stats()
        return figures

    def shutdown(self):
        """Ends the worker and leaves the communicator."""
        self.worker.shutdown(wait=True)
        self.exchanger.close()

    abort = shutdown

    def name(self):
        return NAME

    def getBackendName(self):
        return NAME

    _get_backend_name = name

    def _get_backend(self, device=None):
        return self.gloo

    def _set_sequence_number_for_group(self):
        self.gloo._set_sequence_number_for_group()

    def _get_sequence_number_for_group(self):
        return self.gloo._get_sequence_number_for_group()

    def __del__(self):
        if getattr(self, 'worker', None):
            self.shutdown()


def _delegate(name):
    def call(self, *args, **kwargs):
        return getattr(self.gloo, name)(*args, **kwargs)
    call.__name__ = name
    return call


for _name in ('broadcast', 'allreduce', 'allreduce_coalesced', 'reduce', 'allgather', '_allgather_base', 'allgather_coalesced',
              'all_gather_single', 'all_gather_single_coalesced', 'gather', 'gather_single', 'scatter', 'reduce_scatter',
              '_reduce_scatter_base', 'reduce_scatter_single', 'reduce_scatter_single_coalesced', 'allgather_into_tensor_coalesced',
              'reduce_scatter_tensor_coalesced', 'send', 'recv', 'recv_anysource', 'barrier', 'monitored_barrier',
              '_start_coalescing', '_end_coalescing'):
    if hasattr(dist.ProcessGroupGloo, _name):
        setattr(ProcessGroupCrosspress, _name, _delegate(_name))


def _create(store, rank, size, timeout):
    return ProcessGroupCrosspress(store, rank, size, timeout)


def register():
    """Makes the name known to torch.distributed; importing crosspress.torch does it."""
    if NAME.upper() in dist.Backend._plugins:
        return
    try:
        dist.Backend.register_backend(NAME, _create, devices=['cpu'])
    except TypeError:  # before torch 2
        dist.Backend.register_backend(NAME, _create)


register()
