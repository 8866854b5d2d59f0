#!/usr/bin/env python3
"""train_moe.py - does a model still learn when its MoE layers exchange fewer bytes?

A small MoE language model over bytes is trained on text of installed packages, by 4 ranks that are 4 hosts to crosspress. From one
checkpoint, trained with plain rows, every way of exchanging rows goes on for the same steps over the same data; the table shows
what became of the validation loss, beside the bytes sent and the work of the experts.

usage: perf/train_moe.py [--cases all|WORD,...] [--warmup N] [--steps N] [--out FOLDER] [--lib FILE]
  --cases     'all' for the whole grid of folded mode; or words: the cases of these names, or whose names hold one (default: a choice)
  --warmup    steps to the checkpoint (300)       --steps  steps of each case (100)
  --batch     sequences of 128 bytes a rank and step (4)
  --seed      of the data behind the checkpoint (1)
  --out       folder for train_moe.json, train_moe.txt and (with matplotlib) train_moe.png; default: the current one
  --lib       libcrosspress.so (default: CROSSPRESS_LIB, else build/ of this tree)

Columns. loss: nats a byte on text kept back, rows exchanged plainly. change: to the plain run over the same data. in mode: loss with
rows exchanged as in training; far below `loss`, it shows a model that reads the future. wire: bytes sent, to those of raw mode.
link: the milliseconds that the busiest rank's bytes of one step take on a 1 Gbit/s link (computed). code: milliseconds of coding and
decoding a step, measured here, one thread a rank. experts: rows the experts worked on, to those of raw mode. error: mean relative error of a row, or of the expert outputs as
folded mode's probes tell.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
RANKS, LINK = 4, 1e9 / 8
LEARNING_RATE, AUX = 1e-3, 0.01


def grid():
    """name -> (options of the plans, part of the default choice). Folded: leaders, as the model is causal, unless `mean` is told."""
    cases = {'raw': ({'mode': 'raw'}, True), 'raw, other data order': ({'mode': 'raw'}, True)}
    # Directions cost time and spare bytes, which is what is compared here.
    bounded = {'mode': 'bounded', 'codec': 'book+directions'}
    for eps in (0.03, 0.1, 0.25):
        cases[f'bounded {eps:.0%}'] = {**bounded, 'eps': eps}, True
    # Gradients are dithered unless `dither` is told.
    cases['bounded 25%, no dither'] = {**bounded, 'eps': 0.25, 'dither': False}, True
    cases['bounded 25%, all dithered'] = {**bounded, 'eps': 0.25, 'dither': True}, True
    cases['bounded 25%, gradients 10%'] = {**bounded, 'eps': 0.25, 'eps_grad': 0.1}, False
    for codec in ('quant',):
        cases[f'bounded 10% {codec}'] = {'mode': 'bounded', 'eps': 0.1, 'codec': codec}, False
    # A bound that no row misses: every row has 4 bits a value, whatever comes of it.
    cases['int4'] = {'mode': 'bounded', 'eps': 0.99, 'codec': 'int4'}, True
    for rate in (0.5, 0.2, 0.1):
        for alpha in ('fit', 0.0, 1.0):
            name = f'folded {rate} ' + (alpha if alpha == 'fit' else f'alpha {alpha:.0f}')
            folded = {'mode': 'folded', 'rate': rate, 'alpha': alpha}
            cases[name] = {**folded, 'centroid': 'leader'}, alpha == 'fit' or rate == 0.2
            # Refinement is for means: leaders are not moved.
            for refine in (None, 0):
                cases[f'{name} mean' + (' unrefined' if refine == 0 else '')] = (
                    {**folded, 'centroid': 'mean', 'refine': refine}, alpha == 'fit' and rate == 0.2)
    cases['folded paper'] = {'mode': 'folded', 'preset': 'paper', 'centroid': 'leader'}, False
    return cases


def chosen(words):
    cases = grid()
    if words == 'all':
        return {name: options for name, (options, _) in cases.items()}
    if not words:
        return {name: options for name, (options, default) in cases.items() if default}
    words = [w.strip() for w in words.split(',')]
    found = {name: options for name, (options, _) in cases.items()
             if name == 'raw' or any(w == name if w in cases else w in name for w in words)}
    if len(found) < 2:
        raise SystemExit(f'train_moe.py: no case is called {", ".join(words)}; there are: {", ".join(cases)}')
    return found


# ---- one rank --------------------------------------------------------------------------------------------------------

class Rank:
    """The model of one rank, its data, and what it takes to train and to measure."""

    def __init__(self, args):
        global torch, dist, crosspress
        import torch
        import torch.distributed as dist
        import crosspress.torch
        from moe_model import Model, load_text
        torch.set_num_threads(1)
        dist.init_process_group('crosspress')
        self.args, self.rank = args, dist.get_rank()
        self.comm = crosspress.torch.comm(node=f'host{self.rank}')
        self.train_text, self.valid_text, self.source = load_text()
        torch.manual_seed(1)
        self.model = Model(self.comm)
        self.valid_batches = self.windows(self.valid_text, torch.Generator().manual_seed(77 + self.rank), 12)
        self.start = None

    @staticmethod
    def speed():
        """GFLOP/s of one matrix product: Debian's torch with the reference BLAS takes minutes where others take seconds."""
        a, b, best = torch.ones(512, 256), torch.ones(256, 256), 1e9
        for _ in range(3):
            began = time.monotonic()
            a @ b
            best = min(best, time.monotonic() - began)
        return 2 * 512 * 256 * 256 / best / 1e9

    def windows(self, text, generator, batches):
        """(input, target) windows of 128 bytes at random places."""
        size = self.args.batch * batches
        at = torch.randint(0, len(text) - 129, (size,), generator=generator)
        rows = torch.stack([text[a:a + 129] for a in at.tolist()]).long().view(batches, self.args.batch, 129)
        return [(w[:, :-1], w[:, 1:]) for w in rows]

    def loss(self, ids, target):
        return torch.nn.functional.cross_entropy(self.model(ids).reshape(-1, 256), target.reshape(-1))

    def average(self, values):
        """In place, over the ranks: one all_reduce of everything."""
        flat = torch.cat([v.reshape(-1) for v in values])
        dist.all_reduce(flat)
        flat /= RANKS
        for v, part in zip(values, flat.split([v.numel() for v in values])):
            v.copy_(part.view(v.shape))

    def step(self, optimiser, ids, target):
        loss = self.loss(ids, target)
        total = loss + AUX * sum(m.aux_loss for m in self.model.moes())
        optimiser.zero_grad()
        total.backward()
        self.average([p.grad for p in self.model.shared_parameters()])
        for p in self.model.expert_parameters():  # the tokens of all ranks are in there already
            if p.grad is not None:
                p.grad /= RANKS
        optimiser.step()
        return loss.item()

    def train(self, steps, seed, say):
        """Trains on; the data depends on the seed and the rank only."""
        generator = torch.Generator().manual_seed(1000 * seed + self.rank)
        optimiser = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, betas=(0.9, 0.98))
        if self.start:
            optimiser.load_state_dict(self.start[1])
        began = time.monotonic()
        for n in range(steps):
            (ids, target), = self.windows(self.train_text, generator, 1)
            loss = self.step(optimiser, ids, target)
            if n % 25 == 24 or n == steps - 1:
                say(f'{n + 1:4} of {steps} steps, loss {loss:.3f}, {(time.monotonic() - began) / (n + 1) * 1e3:.0f} ms a step')
        return optimiser

    def validate(self):
        with torch.no_grad():
            loss = torch.stack([self.loss(*batch) for batch in self.valid_batches]).mean().reshape(1)
        self.average([loss])
        return loss.item()

    def checkpoint(self, optimiser):
        import copy
        self.start = copy.deepcopy(self.model.state_dict()), copy.deepcopy(optimiser.state_dict())

    def figures(self, steps):
        """Bytes and times of one step from the plans' statistics; sums and maxima over the ranks."""
        stats = [m.plan.stats() for m in self.model.moes()]
        mine = [sum(s.wire_bytes_slow for s in stats) / steps, sum(s.seconds_encode + s.seconds_decode for s in stats) / steps,
                sum(e.rows for m in self.model.moes() for e in m.experts) / steps, max(s.err_mean for s in stats),
                max(s.fold_err for s in stats), sum(s.rate for s in stats) / len(stats)]
        everyones = [struct.unpack('<6d', b) for b in self.comm.allgather(struct.pack('<6d', *mine))]
        columns = list(zip(*everyones))
        return {'wire_bytes': sum(columns[0]), 'link_ms': max(columns[0]) / LINK * 1e3, 'code_ms': max(columns[1]) * 1e3,
                'expert_rows': sum(columns[2]), 'err_mean': max(columns[3]), 'fold_err': max(columns[4]),
                'rate': sum(columns[5]) / RANKS, 'codec': stats[0].codec}

    def case(self, name, options, say):
        import copy
        self.model.load_state_dict(copy.deepcopy(self.start[0]))
        self.model.exchange(algo='flat', **options)
        for m in self.model.moes():
            for e in m.experts:
                e.rows = 0
        began = time.monotonic()
        self.train(self.args.steps, self.args.seed + ('other' in name), say)
        result = {'name': name, **options, 'seconds': time.monotonic() - began, **self.figures(self.args.steps)}
        result['loss_in_mode'] = self.validate()
        self.model.exchange(mode='raw', algo='flat')
        result['loss'] = self.validate()
        return result

    def run(self):
        def say(text):
            if self.rank == 0:
                print(json.dumps({'progress': text}), flush=True)
        if self.rank == 0 and self.speed() < 10:
            say(f'this torch multiplies matrices at {self.speed():.1f} GFLOP/s: libopenblas0-pthread makes it 10 to 50 times faster')
        say(f'text: {self.source}; model of {sum(p.numel() for p in self.model.shared_parameters()) / 1e6:.2f} M shared and '
            f'{RANKS * sum(p.numel() for p in self.model.expert_parameters()) / 1e6:.2f} M expert parameters, torch {torch.__version__}')
        optimiser = self.train(self.args.warmup, 0, lambda text: say('checkpoint: ' + text))
        self.checkpoint(optimiser)
        say(f'checkpoint: validation loss {self.validate():.4f}')
        for name, options in chosen(self.args.cases).items():
            try:
                result = self.case(name, options, lambda text: say(f'{name}: {text}'))
            except crosspress.CallerError as e:
                if e.name != 'XP_ERR_UNSUPPORTED':
                    raise
                result = {'name': name, **options, 'unsupported': e.text}
            if self.rank == 0:
                print(json.dumps(result), flush=True)
        dist.destroy_process_group()


# ---- all ranks, the table --------------------------------------------------------------------------------------------

def spawn(lib):
    """Starts the ranks the way torchrun does. Returns the processes; rank 0's stdout is a pipe."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    started = []
    for rank in range(RANKS):
        env = dict(os.environ, RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_RANK=str(rank), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port),
                   OMP_NUM_THREADS='1', GLOO_SOCKET_IFNAME='lo', CROSSPRESS_LIB=lib,
                   PYTHONPATH=os.pathsep.join([os.path.join(ROOT, 'lib/python'), HERE, os.environ.get('PYTHONPATH', '')]))
        started.append(subprocess.Popen([sys.executable, os.path.abspath(__file__), *sys.argv[1:], '--rank'], env=env, text=True,
                                        stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL))
    return started


def collect(started, path):
    """Results of the cases as rank 0 tells them, kept in a file as they come; progress goes to stderr. Ends all ranks when one fails."""
    results = []
    try:
        for line in started[0].stdout:
            told = json.loads(line)
            if 'progress' in told:
                print(told['progress'], file=sys.stderr, flush=True)
            else:
                results.append(told)
                open(path, 'w').write(json.dumps(results, indent=1))
        codes = [p.wait(60) for p in started]
    finally:
        for p in started:
            if p.poll() is None:
                p.kill()
    if any(codes):
        raise SystemExit(f'train_moe.py: ranks ended with {codes}')
    return results


def table(results, args):
    raw = results[0]
    lines = [f'{RANKS} ranks (4 hosts), {args.batch * 128} tokens a rank and step, d=256, 8 experts, top-2, bf16 rows; '
             f'{args.warmup} steps to the checkpoint, {args.steps} steps each',
             f'{"rows exchanged as":28} {"loss":>7} {"change":>8} {"in mode":>8} {"wire":>6} {"MB/step":>8} {"link":>8} {"code":>8} {"experts":>8}  error']
    for r in results:
        if 'unsupported' in r:
            lines.append(f'{r["name"]:28} not in this build: {r["unsupported"]}')
            continue
        error = f'outputs {r["fold_err"]:.2f}' if r['fold_err'] else f'rows {r["err_mean"]:.3f}' if r['err_mean'] else ''
        lines.append(f'{r["name"]:28} {r["loss"]:7.4f} {r["loss"] - raw["loss"]:+8.4f} {r["loss_in_mode"]:8.4f} '
                     f'{r["wire_bytes"] / raw["wire_bytes"]:6.3f} {r["wire_bytes"] / 1e6:8.2f} {r["link_ms"]:5.1f} ms {r["code_ms"]:5.1f} ms '
                     f'{r["expert_rows"] / raw["expert_rows"]:8.2f}  {error}')
    return '\n'.join(lines)


def plot(results, path):
    try:
        import matplotlib
        matplotlib.use('Agg')
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    raw = results[0]
    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    colours = {'raw': 'black', 'bounded': 'tab:blue', 'folded': 'tab:orange'}
    for r in (r for r in results if 'loss' in r):
        for axis, x in ((left, r['wire_bytes'] / raw['wire_bytes']), (right, r['link_ms'])):
            axis.scatter(x, r['loss'] - raw['loss'], color=colours[r['mode']], marker='s' if 'int4' in r['name'] else 'o')
            axis.annotate(r['name'], (x, r['loss'] - raw['loss']), fontsize=7, xytext=(4, 3), textcoords='offset points')
    left.set_xlabel('bytes sent, to raw mode')
    right.set_xlabel('ms a step on a 1 Gbit/s link (bytes only)')
    left.set_ylabel('validation loss, to raw mode (nats a byte)')
    for axis in (left, right):
        axis.margins(x=0.2)
        if 'other' in results[1]['name']:  # what training spreads anyway
            spread = abs(results[1]['loss'] - raw['loss'])
            axis.axhspan(-spread, spread, color='0.92', zorder=0)
    fig.tight_layout()
    fig.savefig(path, dpi=120)
    return True


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split('usage: ')[1].split('\n')[0])
    parser.add_argument('--cases', default='')
    parser.add_argument('--warmup', type=int, default=300)
    parser.add_argument('--steps', type=int, default=100)
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--out', default='.')
    parser.add_argument('--lib', default=os.environ.get('CROSSPRESS_LIB', os.path.join(ROOT, 'build/collectives/libcrosspress.so')))
    parser.add_argument('--rank', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.warmup, args.steps, args.batch) < 1:
        parser.error('--warmup, --steps and --batch are at least 1')
    if args.rank:
        Rank(args).run()
        return
    chosen(args.cases)
    base = os.path.join(args.out, 'train_moe')
    results = collect(spawn(os.path.abspath(args.lib)), base + '.json')
    text = table(results, args)
    print(text)
    open(base + '.txt', 'w').write(text + '\n')
    if plot(results, base + '.png'):
        print(f'plot: {base}.png')


if __name__ == '__main__':
    main()
