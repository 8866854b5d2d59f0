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

#include "lib/interpose/agree.h"
#include "lib/interpose/options.h"

#define PROBES 2 /* exchanges left to NCCL before a verdict, to see how long they take there */

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

/* ---- the class of an exchange ---------------------------------------------------------------------------------------- */

static int declared(int type)
{
    const struct xp_options *o = xp_options();
    return o->row_type >= 0 && (type == o->row_type || xp_nccl_type_size(type) == 1);
}

/* What the messages of a set are multiples of. */
static uint64_t divisor_of(const struct xp_divert *d)
{
    uint64_t divisor = 0;
    for (size_t i = d->first; i < d->ncalls; i++)
        if (d->calls[i].op == d->op)
            divisor = xp_gcd(divisor, message_bytes(&d->calls[i]));
    return divisor;
}

/* The row of a class where all ranks know it: it is declared, or lies in a message that is the same for all. */
static void settle_unit(const struct xp_divert *d, struct xp_class *k)
{
    if (declared(d->calls[d->first].type))
        k->unit = xp_options()->row_bytes;
    else if (d->collective)
        k->unit = xp_agree_unit(message_bytes(&d->calls[d->first]));
}

/* Diverts, unless the last verdict was against it; asks for the next one in time, and has some of both kinds timed for it. */
static int worth_it(struct xp_divert *d, struct xp_class *k, int klass)
{
    uint64_t n, left;

    if (k->trial_end == 0)
        k->trial_end = XP_TRIAL;
    if (k->issued == k->trial_end && xp_agree_request(d->side->proxy, klass) != ncclSuccess)
        return 0;
    n = k->issued++;
    left = k->trial_end - n; /* counts down; huge while the verdict is on its way */
    if (n < k->bypass_until) {
        d->timed = k->bypass_until - n <= PROBES;
        return 0;
    }
    d->timed = left <= PROBES + XP_TRIAL;
    return !(k->pays && left <= PROBES);
}

int xp_divert_wanted(struct xp_divert *d)
{
    struct xp_side *s = d->side;
    int klass = 2 * d->calls[d->first].type + d->collective, yes = 0;
    struct xp_class *k = &s->classes[klass];
    uint64_t n;

    if (!k->unit)
        settle_unit(d, k);
    n = xp_agree_turn(s->proxy, klass, k->unit ? 0 : divisor_of(d));
    if (xp_side_is(s, XP_SIDE_JOINED) && n >= s->from) {
        if (k->unit)
            yes = worth_it(d, k, klass);
        else
            d->asks = xp_agree_request(s->proxy, klass) == ncclSuccess;
    }
    if (yes)
        s->diverted++;
    else
        s->bypassed++;
    return yes;
}
