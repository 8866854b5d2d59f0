/*
 * emu_warp.cpp - what lanes of a warp do together: shuffles, votes, matches, reductions, __syncwarp
 *
 * Lanes meet by operation and mask. The last of them to arrive computes the results of all. Lanes that have exited may be named
 * in a mask, as PTX allows for .sync operations.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "emu_state.h"

#include <algorithm>

namespace cuemu
{

const char *op_name(Op op)
{
    static const char *const names[] = {"__syncwarp", "shuffle", "ballot", "match_any", "reduce_add", "reduce_min", "reduce_max",
                                        "reduce_min", "reduce_max", "reduce_and", "reduce_or", "reduce_xor"};
    return names[op];
}

namespace
{

struct Lanes {
    Fiber *of[32]; /* NULL: takes no part */
    unsigned arrived, mask;
};

/* Afterwards what any of them wrote before is ordered before what any of them does next. */
void join_clocks(const Lanes &l)
{
    unsigned joined[32] = {};

    for (unsigned i = 0; i < 32; i++)
        if (l.of[i]) {
            l.of[i]->seen[i] = l.of[i]->warp_clock;
            for (unsigned k = 0; k < 32; k++)
                joined[k] = std::max(joined[k], l.of[i]->seen[k]);
        }
    for (unsigned i = 0; i < 32; i++)
        if (l.of[i]) {
            std::copy(joined, joined + 32, l.of[i]->seen);
            l.of[i]->warp_clock++;
        }
}

int source_lane(const Fiber *f)
{
    const int lane = (int)f->lane, arg = (int)f->arg;

    switch (f->kind) {
    case SHUFFLE_INDEX: return arg & 31;
    case SHUFFLE_UP: return lane - arg >= 0 ? lane - arg : lane;
    case SHUFFLE_DOWN: return lane + arg < 32 ? lane + arg : lane;
    default: return (lane ^ arg) & 31;
    }
}

void shuffle(const Lanes &l)
{
    for (Fiber *f : l.of)
        if (f) {
            const int from = source_lane(f);
            if (!l.of[from])
                abandon(Kind::mask, format("%s:%d: lane %u reads lane %d, which takes no part (mask %08x, arrived %08x), %s", f->file, f->line,
                                           f->lane, from, l.mask, l.arrived, place_of(f).c_str()));
            f->out = l.of[from]->in;
        }
}

void match(const Lanes &l)
{
    for (Fiber *f : l.of)
        if (f) {
            f->out = 0;
            for (unsigned k = 0; k < 32; k++)
                if (l.of[k] && l.of[k]->in == f->in)
                    f->out |= 1u << k;
        }
}

uint32_t combine(Op op, uint32_t a, uint32_t b)
{
    switch (op) {
    case ADD: return a + b;
    case MIN_U: return std::min(a, b);
    case MAX_U: return std::max(a, b);
    case MIN_S: return (uint32_t)std::min((int32_t)a, (int32_t)b);
    case MAX_S: return (uint32_t)std::max((int32_t)a, (int32_t)b);
    case AND: return a & b;
    case XOR: return a ^ b;
    default: return a | b; /* OR, and BALLOT with shifted bits */
    }
}

void reduce(Op op, const Lanes &l)
{
    bool first = true;
    uint32_t all = 0;

    for (unsigned i = 0; i < 32; i++)
        if (l.of[i]) {
            const uint32_t v = op == BALLOT ? (uint32_t)l.of[i]->in << i : (uint32_t)l.of[i]->in;
            all = first ? v : combine(op, all, v);
            first = false;
        }
    for (Fiber *f : l.of)
        if (f)
            f->out = all;
}

/* All but __syncwarp must be one instruction for all its lanes. */
void same_place(const Lanes &l)
{
    const Fiber *first = nullptr;

    for (Fiber *f : l.of) {
        if (f && !first)
            first = f;
        if (f && (f->line != first->line || strcmp(f->file, first->file)))
            abandon(Kind::divergence, format("one %s of a warp at %s:%d and at %s:%d, %s", op_name(f->op), first->file, first->line, f->file,
                                             f->line, place_of(f).c_str()));
    }
}

void complete(Block *b, unsigned warp, const Pending &p)
{
    Lanes l{{}, p.arrived, p.mask};

    for (unsigned i = 0; i < 32; i++)
        l.of[i] = p.arrived >> i & 1 ? b->fibers[warp * 32 + i] : nullptr;
    if (p.op != SYNCWARP)
        same_place(l);
    if (p.op == SYNCWARP)
        join_clocks(l);
    else if (p.op == SHUFFLE)
        shuffle(l);
    else if (p.op == MATCH_ANY)
        match(l);
    else
        reduce(p.op, l);
    for (Fiber *f : l.of)
        if (f)
            make_ready(f);
    progress();
}

} // namespace

/* Completes every operation of the warp whose living members have all arrived. */
void warp_check(Block *b, unsigned warp)
{
    Warp &w = b->warps[warp];

    for (size_t i = 0; i < w.pending.size();) {
        const Pending p = w.pending[i];
        if (p.arrived != (p.mask & w.alive)) {
            i++;
            continue;
        }
        w.pending[i] = w.pending.back();
        w.pending.pop_back();
        complete(b, warp, p);
    }
}

uint64_t warp_op(Op op, unsigned mask, uint64_t value, unsigned arg, unsigned kind, const char *file, int line)
{
    Fiber *f = current;
    Warp &w = f->block->warps[f->number / 32];
    size_t i = 0;

    if (!(mask >> f->lane & 1))
        abandon(Kind::mask, format("%s:%d: %s by lane %u, which is not in its own mask %08x, %s", file, line, op_name(op), f->lane, mask,
                                   place_of(f).c_str()));
    f->op = op;
    f->mask = mask;
    f->in = value;
    f->arg = arg;
    f->kind = kind;
    f->file = file;
    f->line = line;
    f->state = Fiber::IN_WARP_OP;
    while (i < w.pending.size() && (w.pending[i].op != op || w.pending[i].mask != mask))
        i++;
    if (i == w.pending.size())
        w.pending.push_back({op, mask, 0});
    w.pending[i].arrived |= 1u << f->lane;
    if (w.pending[i].arrived == (mask & w.alive))
        warp_check(f->block, f->number / 32);
    wait_here();
    return f->out;
}

} // namespace cuemu
