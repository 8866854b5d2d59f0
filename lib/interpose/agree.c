/*
 * agree.c - what the ranks of a joined communicator settle among one another
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/agree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lib/interpose/options.h"
#include "lib/interpose/timing.h"

#define BYPASS 500     /* exchanges that go straight through after a verdict against; the most that are diverted until the next verdict */
#define MUST_SAVE 0.15 /* of the bytes: what staging through host memory costs beside sending them */
#define MAY_TAKE 1.1   /* of NCCL's time: what timing may be off by */
#define UNIT_MIN 64
#define UNIT_MAX ((size_t)64 << 10)

/* What a rank brings. */
struct proposal {
    uint64_t seen;                  /* exchanges it has issued */
    uint64_t divisor[ncclNumTypes]; /* of its sends and receives */
    struct xp_traffic traffic;      /* of the class, since the last verdict */
    double pace[2];                 /* seconds for a byte of it through NCCL, through this layer; 0: not known */
};

_Static_assert(sizeof(struct proposal) <= XP_RECORD, "a proposal fits into a record");

uint64_t xp_gcd(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* ---- the thread ------------------------------------------------------------------------------------------------------ */

static void propose(struct xp_proxy *p, int klass, const double pace[2], struct proposal *mine)
{
    memset(mine, 0, sizeof *mine);
    mine->seen = p->seen;
    for (int t = 0; t < ncclNumTypes; t++)
        mine->divisor[t] = p->side->classes[2 * t].divisor;
    if (klass != XP_AGREE_JOIN) {
        mine->traffic = p->traffic[klass];
        memset(&p->traffic[klass], 0, sizeof p->traffic[klass]);
        memcpy(mine->pace, pace, sizeof mine->pace);
    }
}

static uint64_t first_unissued(const struct proposal *all, int n)
{
    uint64_t from = 0;
    for (int i = 0; i < n; i++)
        if (all[i].seen > from)
            from = all[i].seen;
    return from;
}

static uint64_t common_divisor(const struct proposal *all, int n, int type)
{
    uint64_t d = 0;
    for (int i = 0; i < n; i++)
        d = xp_gcd(d, all[i].divisor[type]);
    return d;
}

/* Time of this layer / time of NCCL; 0 where a rank knows only one of them, or none. */
static double relative_pace(const struct proposal *all, int n)
{
    double sum[2] = {0, 0};

    for (int i = 0; i < n; i++) {
        if (!(all[i].pace[0] > 0 && all[i].pace[1] > 0))
            return 0;
        sum[0] += all[i].pace[0];
        sum[1] += all[i].pace[1];
    }
    return sum[1] / sum[0];
}

/* What the exchanges since the last verdict were, and what crossed to other nodes. */
static void judge(const struct xp_side *s, int klass, const struct proposal *all, struct xp_agreed *out)
{
    struct xp_traffic sum = {0};
    double ratio, slower = relative_pace(all, s->size);
    char time[40] = "";

    for (int i = 0; i < s->size; i++) {
        sum.exchanges += all[i].traffic.exchanges;
        sum.raw += all[i].traffic.raw;
        sum.wire += all[i].traffic.wire;
    }
    if (sum.exchanges == 0)
        return;
    ratio = sum.raw ? (double)sum.wire / (double)sum.raw : 1;
    out->judged = 1;
    out->pays = ratio <= 1 - MUST_SAVE && slower <= MAY_TAKE && sum.raw >= sum.exchanges * xp_options()->params.min_size;
    if (slower > 0)
        snprintf(time, sizeof time, ", in %.2f of NCCL's time", slower);
    xp_say(XP_LOG_INFO, "communicator %p, rank %d of %d: %s of type %d: %.3f of the bytes cross to other nodes%s: %s", (void *)s->handle, s->rank,
           s->size, klass % 2 ? "ncclAlltoAll" : "sends and receives", klass / 2, ratio, time,
           out->pays ? "goes on" : "the next ones go straight through");
}

static void decide(struct xp_side *s, int klass, const struct proposal *all)
{
    uint64_t from = first_unissued(all, s->size);

    for (int c = 0; c < XP_CLASSES; c++) {
        struct xp_agreed next = {.from = from, .divisor = c % 2 ? 0 : common_divisor(all, s->size, c / 2)};
        if (klass == XP_AGREE_JOIN ? next.divisor == 0 : c != klass)
            continue;
        if (klass != XP_AGREE_JOIN)
            judge(s, klass, all, &next);
        s->classes[c].next = next;
        s->classes[c].agreement = XP_AGREED;
    }
    if (klass == XP_AGREE_JOIN) {
        s->from = from;
        xp_side_change(s, XP_SIDE_JOINED, NULL);
    }
}

xp_status xp_agree(struct xp_proxy *p, int klass, const double pace[2])
{
    struct proposal mine, *all = p->gathered;
    xp_status st = xp_comm_barrier(p->comm); /* all are here: from now on it does not take long */

    if (st != XP_OK)
        return st;
    pthread_mutex_lock(&p->lock);
    propose(p, klass, pace, &mine);
    p->promise = mine.seen;
    pthread_mutex_unlock(&p->lock);
    st = xp_comm_allgather(p->comm, &mine, all, sizeof mine);
    pthread_mutex_lock(&p->lock);
    if (st == XP_OK)
        decide(p->side, klass, all);
    p->promise = XP_NO_PROMISE;
    pthread_cond_broadcast(&p->change);
    pthread_mutex_unlock(&p->lock);
    return st;
}

/* ---- the calling thread ---------------------------------------------------------------------------------------------- */

/* Uneven messages are multiples of a row: their common divisor is the row, or some rows. */
size_t xp_agree_unit(uint64_t divisor)
{
    if (divisor >= UNIT_MIN && divisor <= UNIT_MAX)
        return divisor;
    return divisor % 1024 == 0 ? 1024 : divisor % 512 == 0 ? 512 : 1024;
}

static void adopt(struct xp_class *k)
{
    if (!k->unit)
        k->unit = xp_agree_unit(k->next.divisor);
    k->agreement = XP_SETTLED;
    if (!k->next.judged) {
        if (k->trial_end) /* the messages were empty */
            k->trial_end = k->issued + XP_TRIAL;
        return;
    }
    k->pays = k->next.pays;
    k->bypass_until = k->next.pays ? 0 : k->issued + BYPASS;
    if (!k->next.pays)
        k->trial_end = k->issued + BYPASS + XP_TRIAL;
    else /* soon again: the first exchanges may be coded otherwise than the later ones */
        k->trial_end = k->issued + (2 * k->issued < BYPASS ? 2 * k->issued : BYPASS);
}

/* An agreement that the first exchanges of a communicator or of a class bring about. */
static int expects(const struct xp_proxy *p, const struct xp_class *k)
{
    return xp_side_is(p->side, XP_SIDE_JOINING) || (!k->unit && k->agreement == XP_AGREEING);
}

static int is_over(const struct xp_proxy *p)
{
    int mode = xp_gpu_relax(p->gpu), over = xp_gpu_is_over(p->gpu, p->over);
    xp_gpu_restore(p->gpu, mode);
    return over == 1;
}

void xp_agree_mark(struct xp_proxy *p, cudaStream_t stream)
{
    p->gpu->cudaEventRecord(p->over, stream);
}

/* For as long as this communicator's patience lasts: the ranks may be further apart than this rank can tell. The lock is held. */
static void await_agreement(struct xp_proxy *p, const struct xp_class *k)
{
    struct timespec until;
    int e = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += XP_PATIENCE_SECONDS;
    while (e == 0 && expects(p, k) && p->promise == XP_NO_PROMISE && !atomic_load(&p->abort))
        e = pthread_cond_timedwait(&p->change, &p->lock, &until);
    p->patient = e != ETIMEDOUT;
}

uint64_t xp_agree_turn(struct xp_proxy *p, int klass, uint64_t divisor)
{
    struct xp_class *k = &p->side->classes[klass];
    uint64_t n;

    pthread_mutex_lock(&p->lock);
    k->divisor = xp_gcd(k->divisor, divisor);
    if (p->patient && p->started > 0 && expects(p, k) && is_over(p))
        await_agreement(p, k);
    while (p->promise <= p->seen && !atomic_load(&p->abort))
        pthread_cond_wait(&p->change, &p->lock);
    n = p->seen++;
    if (k->agreement == XP_AGREED && n >= k->next.from)
        adopt(k);
    pthread_mutex_unlock(&p->lock);
    return n;
}

/* Whether it is this call that asks. */
static int ask(struct xp_proxy *p, struct xp_class *k)
{
    int first;
    pthread_mutex_lock(&p->lock);
    first = k->agreement == XP_SETTLED;
    k->agreement = first ? XP_AGREEING : k->agreement;
    pthread_mutex_unlock(&p->lock);
    return first;
}

ncclResult_t xp_agree_request(struct xp_proxy *p, int klass)
{
    struct xp_slot *s;

    if (!ask(p, &p->side->classes[klass]))
        return ncclSuccess;
    s = xp_proxy_next(p);
    if (!s)
        return ncclInternalError;
    s->klass = klass;
    s->agrees = 1;
    xp_timing_take(&p->side->classes[klass], s->pace);
    xp_proxy_submit(p, s);
    return ncclSuccess;
}
