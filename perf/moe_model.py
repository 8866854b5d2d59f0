"""moe_model.py - what train_moe.py trains: text of installed Debian packages, and a small MoE language model over bytes

SPDX-License-Identifier: Apache-2.0
"""
import glob
import gzip
import math
import shutil
import subprocess

import torch
from torch import nn

from crosspress.torch import MoELayer

BLOCK = 8192          # bytes; every VALIDATION-th block of the text is kept back
VALIDATION = 16

# ---- text ----------------------------------------------------------------------------------------------------------


def _bible():
    """bible-kjv: the King James Bible."""
    if not shutil.which('bible'):
        return b''
    return subprocess.run(['bible', '-f', 'gen1:1-rev22:21'], capture_output=True, timeout=60).stdout


def _files(*patterns):
    def read(limit):
        text, names = [], sorted({name for p in patterns for name in glob.glob(p, recursive=True)})
        for name in names:
            try:
                text.append(gzip.open(name).read() if name.endswith('.gz') else open(name, 'rb').read())
            except OSError:
                continue
            if sum(map(len, text)) > limit:
                break
        return b'\n'.join(text)
    return read


SOURCES = [  # the first that gives enough; packages in the order of preference
    ('bible-kjv and python3-doc', lambda limit: _bible()[:limit] + _files('/usr/share/doc/python3*/html/_sources/**/*.rst.txt')(limit)),
    ('/usr/share/doc', _files('/usr/share/doc/**/*.md', '/usr/share/doc/**/*.txt', '/usr/share/doc/**/README*', '/usr/share/doc/**/NEWS*.gz',
                              '/usr/share/doc/**/changelog*.gz')),
    ('Python\'s own sources', _files('/usr/lib/python3*/**/*.py')),
]


def load_text(megabytes=6, least=1 << 20):
    """(training bytes, validation bytes, where they are from) as tensors."""
    limit = megabytes << 20
    for name, read in SOURCES:
        text = read(limit)[:2 * limit]
        if len(text) >= least:
            break
    else:
        raise SystemExit('train_moe.py: no text found; as root: apt-get install bible-kjv python3-doc')
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    blocks = data[:len(data) // BLOCK * BLOCK].view(-1, BLOCK)
    kept = torch.arange(len(blocks)) % VALIDATION == VALIDATION - 1
    return blocks[~kept].reshape(-1), blocks[kept].reshape(-1), f'{name}, {len(data) / 1e6:.1f} MB'


# ---- model -----------------------------------------------------------------------------------------------------------

class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        score = q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)
        later = torch.ones(t, t, dtype=torch.bool).triu(1)
        score = score.masked_fill(later, float('-inf'))
        return self.out((torch.softmax(score, -1) @ v).transpose(1, 2).reshape(b, t, d))


class Expert(nn.Module):
    """Two layers; counts the rows it has worked on."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.up, self.down, self.rows = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False), 0

    def forward(self, x):
        self.rows += x.shape[0]
        x = x.float()
        return self.down(nn.functional.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self, dim, heads, experts, comm):
        super().__init__()
        local = experts // comm.size
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(dim), Attention(dim, heads), nn.LayerNorm(dim)
        # Rows travel as bf16, the skip connection lies outside of the experts.
        self.moe = MoELayer(nn.Linear(dim, experts, bias=False), [Expert(dim, dim) for _ in range(local)], topk=2, comm=comm,
                            dtype=torch.bfloat16, mode='raw', algo='flat')

    def forward(self, x):
        b, t, _ = x.shape
        x = x + self.attention(self.norm1(x))
        sequence = torch.arange(b).repeat_interleave(t)
        return x + self.moe(self.norm2(x), sequence=sequence)


class Model(nn.Module):
    def __init__(self, comm, dim=256, heads=4, layers=2, experts=8, context=128):
        super().__init__()
        self.token, self.place = nn.Embedding(256, dim), nn.Embedding(context, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, experts, comm) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, 256, bias=False)
        for p in [self.token.weight, self.place.weight]:
            nn.init.normal_(p, std=0.02)

    def forward(self, ids):
        x = self.token(ids) + self.place(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))

    def moes(self):
        return [b.moe for b in self.blocks]

    def expert_parameters(self):
        return [p for m in self.moes() for p in m.experts.parameters()]

    def shared_parameters(self):
        mine = {id(p) for p in self.expert_parameters()}
        return [p for p in self.parameters() if id(p) not in mine]

    def exchange(self, **options):
        """From now on all layers exchange rows in this way, through plans of their own."""
        for m in self.moes():
            m.options, m.plan = options, None
