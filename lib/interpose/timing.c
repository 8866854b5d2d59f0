/*
 * timing.c - how long exchanges take on the program's streams
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/timing.h"

#include <string.h>

static struct xp_timer *timer_of(const struct xp_divert *d)
{
    return &d->side->classes[2 * d->calls[d->first].type + d->collective].timer[d->diverted];
}

/* Bytes of this rank that go to other nodes and come from there. */
static double crossing_bytes(const struct xp_divert *d)
{
    const struct xp_call *c = &d->calls[d->first];
    double sum = 0;

    for (int p = 0; p < d->side->size && d->collective; p++)
        if (xp_divert_takes(d, p, c->count * xp_nccl_type_size(c->type)))
            sum += 2 * (double)c->count * (double)xp_nccl_type_size(c->type);
    for (size_t i = d->first; i < d->ncalls && !d->collective; i++) {
        c = &d->calls[i];
        if (c->op == d->op && xp_divert_takes(d, c->peer, c->count * xp_nccl_type_size(c->type)))
            sum += (double)c->count * (double)xp_nccl_type_size(c->type);
    }
    return sum;
}

/* Events of the communicator's device. */
static int make_events(struct xp_timer *t, int device)
{
    const struct xp_gpu *g = xp_gpu();
    int before = -1, ok;

    if (t->end)
        return 1;
    if (g->cudaGetDevice(&before) != xp_cudaSuccess || g->cudaSetDevice(device) != xp_cudaSuccess)
        return 0;
    ok = (t->begin || g->cudaEventCreateWithFlags(&t->begin, 0) == xp_cudaSuccess) && g->cudaEventCreateWithFlags(&t->end, 0) == xp_cudaSuccess;
    g->cudaSetDevice(before);
    return ok;
}

/* What the exchange timed last took, once it is over. */
static void collect(struct xp_timer *t)
{
    const struct xp_gpu *g = xp_gpu();
    float ms;

    if (!t->running || xp_gpu_is_over(g, t->end) != 1)
        return;
    t->running = 0;
    if (g->cudaEventElapsedTime(&ms, t->begin, t->end) == xp_cudaSuccess && t->bytes > 0 && ms > 0) {
        double pace = 1e-3 * (double)ms / t->bytes;
        t->pace = t->pace > 0 && t->pace < pace ? t->pace : pace;
    }
}

void xp_timing_begin(struct xp_divert *d)
{
    struct xp_timer *t = timer_of(d);

    collect(t);
    d->timed = !t->running && make_events(t, d->side->device) &&
               xp_gpu()->cudaEventRecord(t->begin, d->calls[d->first].stream) == xp_cudaSuccess;
    t->bytes = d->timed ? crossing_bytes(d) : t->bytes;
}

void xp_timing_end(struct xp_divert *d)
{
    struct xp_timer *t = timer_of(d);
    t->running = xp_gpu()->cudaEventRecord(t->end, d->calls[d->first].stream) == xp_cudaSuccess;
}

void xp_timing_take(struct xp_class *k, double pace[2])
{
    for (int i = 0; i < 2; i++) {
        collect(&k->timer[i]);
        pace[i] = k->timer[i].pace;
        k->timer[i].pace = 0;
    }
}

void xp_timing_free(struct xp_side *s)
{
    for (int c = 0; c < 2 * XP_CLASSES; c++) {
        struct xp_timer *t = &s->classes[c / 2].timer[c % 2];
        if (t->begin)
            xp_gpu()->cudaEventDestroy(t->begin);
        if (t->end)
            xp_gpu()->cudaEventDestroy(t->end);
        memset(t, 0, sizeof *t);
    }
}
