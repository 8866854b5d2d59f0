/*
 * divert.c - whether an all-to-all of a group leaves NCCL
 *
 * Everything that decides is known to all ranks: the kind of call, data type, settings, node map; for ncclAlltoAll also the size.
 * What only one rank knows (the messages of its set, how well its rows coded) is gathered before it decides anything.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/divert.h"

#include <stdlib.h>
#include <string.h>

#include "lib/interpose/options.h"

#define TRIAL 4       /* exchanges before the first verdict, and before each later one after a bypass */
#define BYPASS 500    /* exchanges that then go straight through; the most that are diverted until the next verdict */
#define MUST_SAVE 0.15 /* of the bytes: what staging through host memory costs beside sending them */
#define UNIT_MIN 64
#define UNIT_MAX ((size_t)64 << 10)

static size_t message_bytes(const struct xp_call *c)
{
    return c->count * xp_nccl_type_size(c->type);
}

static enum xp_rule_mode rule(const struct xp_side *s, int type, size_t bytes)
{
    const struct xp_options *o = xp_options();
    return xp_rules_find(&o->rules, s->size, type, bytes, o->mode);
}

/* A stream that captures, or will not say: NCCL's own business. */
static int captured(const struct xp_divert *d)
{
    const struct xp_gpu *g = xp_gpu();
    cudaStream_t last = NULL;
    int known = 0;

    for (size_t i = d->first; i < d->ncalls; i++) {
        int status = 0;
        if (d->calls[i].op != d->op || (known && d->calls[i].stream == last))
            continue;
        last = d->calls[i].stream;
        known = 1;
        if (g->cudaStreamIsCapturing(last, &status) != xp_cudaSuccess || status != 0)
            return 1;
    }
    return 0;
}

int xp_divert_possible(const struct xp_divert *d)
{
    const struct xp_call *c = &d->calls[d->first];
    size_t bytes;

    if (!xp_gpu() || xp_side_is(d->side, XP_SIDE_STRAIGHT))
        return 0;
    if (d->collective) {
        if (__builtin_mul_overflow(c->count, xp_nccl_type_size(c->type), &bytes) || bytes > SIZE_MAX / 4 / (size_t)d->side->size)
            return 0;
        if (bytes < xp_options()->params.min_size || bytes == 0 || rule(d->side, c->type, bytes) == XP_RULE_OFF)
            return 0;
    } else if (!xp_rules_allow(&xp_options()->rules, d->side->size, c->type, xp_options()->mode)) {
        return 0;
    }
    if (captured(d)) {
        d->side->captured++;
        return 0;
    }
    return 1;
}

int xp_divert_takes(const struct xp_divert *d, int peer, size_t bytes)
{
    const struct xp_side *s = d->side;
    return s->node_of[peer] != s->node_of[s->rank] && bytes > 0 && bytes >= xp_options()->params.min_size &&
           rule(s, d->calls[d->first].type, bytes) != XP_RULE_OFF;
}

/* ---- the length of a row ------------------------------------------------------------------------------------------ */

static size_t gcd(size_t a, size_t b)
{
    while (b) {
        size_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* Uneven messages are multiples of a row: their common divisor is the row, or some rows. */
static size_t unit_of(size_t divisor)
{
    if (divisor >= UNIT_MIN && divisor <= UNIT_MAX)
        return divisor;
    return divisor % 1024 == 0 ? 1024 : divisor % 512 == 0 ? 512 : 1024;
}

static int declared(int type)
{
    const struct xp_options *o = xp_options();
    return o->row_type >= 0 && (type == o->row_type || xp_nccl_type_size(type) == 1);
}

static int settle_unit(struct xp_divert *d, struct xp_class *k)
{
    int type = d->calls[d->first].type;
    uint64_t mine = 0, *all;
    xp_status st;

    if (declared(type)) {
        k->unit = xp_options()->row_bytes;
        return 1;
    }
    if (d->collective) {
        k->unit = unit_of(message_bytes(&d->calls[d->first]));
        return 1;
    }
    for (size_t i = d->first; i < d->ncalls; i++)
        if (d->calls[i].op == d->op && xp_divert_takes(d, d->calls[i].peer, message_bytes(&d->calls[i])))
            mine = gcd(mine, message_bytes(&d->calls[i]));
    all = calloc((size_t)d->side->size, sizeof *all);
    st = all ? xp_proxy_gather(d->side->proxy, &mine, all, sizeof mine) : XP_ERR_NO_MEMORY;
    for (int i = 0; st == XP_OK && i < d->side->size; i++)
        mine = gcd(mine, all[i]);
    free(all);
    if (st == XP_OK)
        k->unit = unit_of(mine);
    return st == XP_OK;
}

/* ---- whether it pays ---------------------------------------------------------------------------------------------- */

/* The ranks add up what the exchanges since the last verdict were and what crossed to other nodes. */
static void judge(struct xp_divert *d, struct xp_class *k, int klass)
{
    struct xp_proxy *p = d->side->proxy;
    struct xp_traffic sum = {0}, mine, *all = calloc((size_t)d->side->size, sizeof *all);
    xp_status st;

    xp_proxy_drain(p); /* then the figures are those of all exchanges issued */
    xp_proxy_take_traffic(p, klass, &mine);
    st = all ? xp_proxy_gather(p, &mine, all, sizeof mine) : XP_ERR_NO_MEMORY;
    for (int i = 0; st == XP_OK && i < d->side->size; i++) {
        sum.exchanges += all[i].exchanges;
        sum.raw += all[i].raw;
        sum.wire += all[i].wire;
    }
    free(all);
    if (st != XP_OK)
        return;
    k->ratio = sum.raw ? (double)sum.wire / (double)sum.raw : 1;
    k->pays = k->ratio <= 1 - MUST_SAVE && sum.raw >= sum.exchanges * xp_options()->params.min_size;
    k->bypass_until = k->pays ? 0 : k->issued + BYPASS;
    if (!k->pays)
        k->trial_end = k->issued + BYPASS + TRIAL;
    else /* soon again: the first exchanges may be coded otherwise than the later ones */
        k->trial_end = k->issued + (2 * k->issued < BYPASS ? 2 * k->issued : BYPASS);
    xp_say(XP_LOG_INFO, "communicator %p, rank %d of %d: %s of type %d: %.3f of the bytes cross to other nodes: %s", (void *)d->side->handle,
           d->side->rank, d->side->size, klass % 2 ? "ncclAlltoAll" : "sends and receives", klass / 2, k->ratio,
           k->pays ? "goes on" : "the next ones go straight through");
}

int xp_divert_wanted(struct xp_divert *d)
{
    int klass = 2 * d->calls[d->first].type + d->collective;
    struct xp_class *k = &d->side->classes[klass];

    if (!k->unit && !settle_unit(d, k))
        return 0;
    if (k->trial_end == 0)
        k->trial_end = TRIAL;
    if (k->issued == k->trial_end)
        judge(d, k, klass);
    if (k->issued++ < k->bypass_until || xp_side_is(d->side, XP_SIDE_FAILED)) {
        d->side->bypassed++;
        return 0;
    }
    d->side->diverted++;
    return 1;
}
