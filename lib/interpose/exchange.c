/*
 * exchange.c - one diverted exchange, on the proxy's thread
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/exchange.h"

#include <sched.h>
#include <string.h>
#include <time.h>

#include "lib/interpose/options.h"

void xp_exchange_idle(unsigned rounds)
{
    struct timespec t = {0, rounds < 300 ? 20000 : 100000};
    if (rounds < 64)
        return;
    if (rounds < 128)
        sched_yield();
    else
        nanosleep(&t, NULL);
}

/* Until the program's stream has come to the exchange and filled the first part of the send buffer: deadlines count from here on. */
static xp_status wait_packed(struct xp_proxy *p, const struct xp_slot *s)
{
    for (unsigned i = 0;; i++) {
        int packed = xp_gpu_is_over(p->gpu, s->packed[0]);
        if (packed)
            return packed > 0 ? XP_OK : XP_ERR_SYSTEM;
        if (atomic_load_explicit(&p->abort, memory_order_acquire))
            return XP_ERR_STATE;
        xp_exchange_idle(i);
    }
}

struct record { /* what a rank brings to the exchange of a set */
    uint64_t send, recv, bounded;
};

/* The most rows any rank sends or receives, and whether all messages may be lossy. */
static xp_status agree_on_set(struct xp_proxy *p, const struct xp_slot *s, size_t *max_rows, int *bounded)
{
    struct record mine = {s->total_send, s->total_recv, (uint64_t)s->bounded}, *all = p->gathered;
    xp_status st = xp_comm_allgather(p->comm, &mine, all, sizeof mine);

    *max_rows = 0;
    *bounded = 1;
    for (int i = 0; st == XP_OK && i < p->side->size; i++) {
        if (all[i].send > *max_rows)
            *max_rows = all[i].send;
        if (all[i].recv > *max_rows)
            *max_rows = all[i].recv;
        *bounded = *bounded && all[i].bounded;
    }
    return st;
}

/* Messages as rows: of the declared type where that is known, else values of the NCCL type, or bytes. */
static void describe_rows(xp_plan_desc *d, const struct xp_class *k, int type)
{
    const struct xp_options *o = xp_options();
    if (k->unit == o->row_bytes && o->row_type >= 0) {
        d->dtype = o->row_dtype;
        d->dim = o->row_dim;
        return;
    }
    d->dtype = type == ncclBfloat16 ? XP_BF16 : type == ncclFloat16 ? XP_F16 : type == ncclFloat32 ? XP_F32 : XP_BYTE;
    if (k->unit % xp_dtype_size(d->dtype) != 0)
        d->dtype = XP_BYTE;
    d->dim = k->unit / xp_dtype_size(d->dtype);
}

/* A plan with room for max_rows. Collective: all ranks come here with the same values. */
static xp_status plan_for(struct xp_proxy *p, int klass, int bounded, size_t max_rows, xp_plan **out)
{
    struct xp_proxy_plan *pp = &p->plan[klass][bounded];
    xp_plan_desc d;
    xp_status st;

    if (pp->plan && pp->max_rows >= max_rows) {
        *out = pp->plan;
        return XP_OK;
    }
    xp_plan_destroy(pp->plan);
    pp->plan = NULL;
    xp_plan_desc_init(&d);
    describe_rows(&d, &p->side->classes[klass], klass / 2);
    d.mode = bounded ? XP_MODE_BOUNDED : XP_MODE_EXACT;
    d.max_send_rows = d.max_recv_rows = pp->max_rows = max_rows + (klass % 2 ? 0 : max_rows / 4 + 16);
    st = xp_plan_create(&pp->plan, p->comm, &d);
    *out = st == XP_OK ? pp->plan : NULL;
    return st;
}

static void count(struct xp_proxy *p, int klass, xp_plan *plan)
{
    xp_stats st = {.size = sizeof st};
    struct xp_traffic *t[2] = {&p->traffic[klass], &p->total};

    if (xp_plan_stats(plan, &st) != XP_OK)
        return;
    xp_plan_stats_reset(plan);
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < 2; i++) {
        t[i]->exchanges++;
        t[i]->raw += st.raw_bytes;
        t[i]->wire += st.wire_bytes_slow;
        t[i]->fast += st.wire_bytes_fast;
    }
    pthread_mutex_unlock(&p->lock);
}

/* Lets the exchange have the rows that the program's stream has copied meanwhile; *part: the next part. */
static xp_status pass_on(struct xp_proxy *p, const struct xp_slot *s, xp_request *req, int *part)
{
    int size = p->side->size;

    for (; *part < s->out_parts; ++*part) {
        int packed = xp_gpu_is_over(p->gpu, s->packed[*part]);
        if (packed <= 0)
            return packed < 0 ? XP_ERR_SYSTEM : XP_OK;
        for (int i = *part ? s->part_end[*part - 1] : 0; i < s->part_end[*part]; i++)
            xp_request_ready(req, (p->side->rank + 1 + i) % size);
    }
    return XP_OK;
}

static int is_here(const struct xp_proxy *p, const struct xp_slot *s, const xp_request *req, int part)
{
    size_t end = (size_t)(part + 1) * s->part_rows;

    for (int i = 0; i < p->side->size; i++)
        if (xp_request_arrived(req, i) < (s->recv_rows[i] < end ? s->recv_rows[i] : end))
            return 0;
    return 1;
}

/* Lets the program's stream have the rows that are in their places; *part: the next part. The last one is here when all is over. */
static void hand_over(const struct xp_proxy *p, const struct xp_slot *s, const xp_request *req, int *part)
{
    int before = *part;

    while (*part < s->in_parts - 1 && is_here(p, s, req, *part))
        ++*part;
    if (*part > before)
        atomic_store_explicit(s->flag, s->number - (uint32_t)(s->in_parts - *part), memory_order_release);
}

static xp_status move(struct xp_proxy *p, const struct xp_slot *s, xp_plan *plan)
{
    xp_request *req = NULL;
    xp_status st = xp_alltoallv_early(plan, s->send, s->send_rows, s->recv, s->recv_rows, &req);
    int out = 0, in = 0;
    unsigned rests = 0;

    while (st == XP_OK || st == XP_IN_PROGRESS) {
        st = pass_on(p, s, req, &out);
        if (st != XP_OK)
            return st; /* the plan's end abandons the request, here and below */
        st = xp_request_test(req);
        if (st != XP_IN_PROGRESS)
            break;
        hand_over(p, s, req, &in);
        if (atomic_load_explicit(&p->abort, memory_order_acquire))
            return XP_ERR_STATE;
        if (xp_request_idle(req))
            xp_exchange_idle(rests++);
    }
    xp_request_free(req);
    return st;
}

xp_status xp_exchange_run(struct xp_proxy *p, const struct xp_slot *s)
{
    int bounded = s->bounded;
    size_t max_rows = s->rows * (size_t)p->side->size;
    xp_plan *plan;
    xp_status st = wait_packed(p, s);

    if (st == XP_OK && !s->collective)
        st = agree_on_set(p, s, &max_rows, &bounded);
    if (st == XP_OK && max_rows == 0)
        return XP_OK;
    if (st == XP_OK)
        st = plan_for(p, s->klass, bounded, max_rows, &plan);
    if (st == XP_OK)
        st = move(p, s, plan);
    if (st == XP_OK)
        count(p, s->klass, plan);
    return st;
}
