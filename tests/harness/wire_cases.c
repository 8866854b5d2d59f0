/*
 * wire_cases.c - what every transport owes, as cases to run over one
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/harness/clock.h"
#include "tests/harness/random.h"
#include "tests/harness/wire_cases.h"
#include "tests/harness/wire_message.h"

static const size_t sizes[] = {0,    1,     3,      63,     64,     65,      4095,     4096,      4097,     32767,   32768, 32769,
                               65000, 65536, 262144, 524223, 524224, 524225, 1048448, 1048576, 1048577, 3145728, 5242893};
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))

/* Every size, receives posted first, everybody to everybody. */
static int all_sizes(struct wire *w, void *arg)
{
    for (size_t i = 0; i < N_SIZES; i++) {
        enum xp_lane lane = sizes[i] <= XP_CTRL_MAX && i % 2 == 1 ? XP_LANE_CTRL : XP_LANE_BULK;
        struct area in[WIRES_MAX];
        struct xp_op op[WIRES_MAX];
        int bad = 0;

        for (int p = 0; p < w->size; p++) {
            if (p == w->rank)
                continue;
            in[p] = area_take(sizes[i]);
            w->ops->recv(w->t, p, lane, 100 + i, in[p].at, sizes[i], &op[p]);
        }
        bad |= wire_meet(w, 1000 + i);
        /* ranks send in turn or at once */
        for (int p = 0; p < w->size && !bad; p++) {
            if (p != w->rank)
                bad |= wire_send_filled(w, p, lane, 100 + i, sizes[i]);
        }
        for (int p = 0; p < w->size; p++) {
            if (p == w->rank)
                continue;
            if (!bad)
                bad |= wire_check(w, &op[p], &in[p], p, 100 + i, sizes[i]);
            w->ops->cancel(w->t, &op[p]);
            area_give_back(&in[p]);
        }
        if (bad)
            return 1;
    }
    return wire_meet(w, 1);
}

static void shuffle(struct random *r, int *order, int n)
{
    for (int i = 0; i < n; i++)
        order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)random_below(r, (size_t)i + 1), x = order[i];

        order[i] = order[j];
        order[j] = x;
    }
}

/* Sent in one order, received in another, on both lanes, with sizes that tell which is which. */
static int permuted_tags(struct wire *w, void *arg)
{
    enum { N = 40 };
    struct random r = random_start("permuted_tags");
    int order[N], peer = 1 - w->rank;
    struct area out[N], in[N];
    struct xp_op sent[N], got[N];
    int bad = 0;

    shuffle(&r, order, N);
    for (int i = 0; i < N; i++) {
        int k = order[i];

        in[k] = area_take((size_t)k * 3001);
        w->ops->recv(w->t, peer, k % 2 && k < 2 ? XP_LANE_CTRL : XP_LANE_BULK, (uint64_t)k << 40 | 7, in[k].at, in[k].n, &got[k]);
    }
    bad = wire_meet(w, 1);
    shuffle(&r, order, N);
    for (int i = 0; i < N; i++) {
        int k = order[i];

        out[k] = area_take((size_t)k * 3001);
        area_fill(&out[k], wire_key(w->rank, peer, (uint64_t)k << 40 | 7));
        w->ops->send(w->t, peer, k % 2 && k < 2 ? XP_LANE_CTRL : XP_LANE_BULK, (uint64_t)k << 40 | 7, out[k].at, out[k].n, &sent[k]);
    }
    for (int k = 0; k < N && !bad; k++) {
        bad |= wire_check(w, &got[k], &in[k], peer, (uint64_t)k << 40 | 7, (size_t)k * 3001);
        if (wire_wait(w, &sent[k], WIRE_WAIT) != XP_OK)
            bad = wire_fail(w, "send %d: %s", k, xp_status_string(sent[k].status));
    }
    return bad || wire_meet(w, 2);
}

/* Messages that come before their receives, which are then posted in the opposite order. */
static int early(struct wire *w, void *arg)
{
    enum { N = 300, BULK = 12 };
    int bad = 0, peer = 1 - w->rank;

    if (w->rank == 0) {
        for (int i = 0; i < N && !bad; i++)
            bad |= wire_send_filled(w, peer, XP_LANE_CTRL, 10 + (uint64_t)i, (size_t)(i * 13 % 4097));
        bad |= wire_send_filled(w, peer, XP_LANE_CTRL, 9, 1);
        struct area out[BULK];
        struct xp_op op[BULK];
        for (int i = 0; i < BULK; i++) {
            out[i] = area_take((size_t)i * 50001);
            area_fill(&out[i], wire_key(0, 1, 5000 + (uint64_t)i));
            w->ops->send(w->t, peer, XP_LANE_BULK, 5000 + (uint64_t)i, out[i].at, out[i].n, &op[i]);
        }
        atomic_store(wire_flag(w, 0), 1);
        for (int i = 0; i < BULK && !bad; i++) {
            if (wire_wait(w, &op[i], WIRE_WAIT) != XP_OK)
                bad = wire_fail(w, "bulk %d: %s", i, xp_status_string(op[i].status));
        }
        return bad || wire_meet(w, 1);
    }
    for (double end = clock_now() + WIRE_WAIT; atomic_load(wire_flag(w, 0)) == 0 && clock_now() < end;)
        w->ops->progress(w->t);
    wire_run_for(w, 0.05);
    for (int i = N - 1; i >= 0 && !bad; i--)
        bad |= wire_recv_filled(w, peer, XP_LANE_CTRL, 10 + (uint64_t)i, (size_t)(i * 13 % 4097), 4096);
    bad |= bad || wire_recv_filled(w, peer, XP_LANE_CTRL, 9, 1, 1);
    for (int i = BULK - 1; i >= 0 && !bad; i--)
        bad |= wire_recv_filled(w, peer, XP_LANE_BULK, 5000 + (uint64_t)i, (size_t)i * 50001, (size_t)i * 50001 + 77);
    return bad || wire_meet(w, 1);
}

/* Less than there is room for: the length that came, and nothing behind it is touched. */
static int short_receives(struct wire *w, void *arg)
{
    int bad = 0, peer = 1 - w->rank;

    for (size_t i = 0; i < N_SIZES && !bad; i++) {
        size_t cap = i % 3 == 0 ? sizes[i] + 1 : i % 3 == 1 ? sizes[i] + 300000 : 4 * MIB + sizes[i];
        struct area a = area_take(cap);
        struct xp_op op;

        memset(a.at, 0xa5, cap);
        w->ops->recv(w->t, peer, XP_LANE_BULK, i, a.at, cap, &op);
        bad |= wire_meet(w, 100 + i) || wire_send_filled(w, peer, XP_LANE_BULK, i, sizes[i]) || wire_check(w, &op, &a, peer, i, sizes[i]);
        for (size_t k = sizes[i]; k < cap && !bad; k++) {
            if (a.at[k] != 0xa5)
                bad = wire_fail(w, "byte %zu behind a message of %zu was written", k - sizes[i], sizes[i]);
        }
        w->ops->cancel(w->t, &op);
        area_give_back(&a);
    }
    return bad || wire_meet(w, 1);
}

/* More than there is room for: an error, no byte too far (the guard page), and the lane goes on. */
static int long_messages(struct wire *w, void *arg)
{
    static const size_t len[] = {1, 100, 40000, 300000, 1048576, 1000001, 4096};
    static const size_t cap[] = {0, 99, 39999, 262080, 524224, 10, 4095};
    int bad = 0, peer = 1 - w->rank;

    for (size_t i = 0; i < sizeof(len) / sizeof(len[0]) && !bad; i++) {
        enum xp_lane lane = len[i] <= 4096 && i > 1 ? XP_LANE_CTRL : XP_LANE_BULK;
        struct area a = area_take(cap[i]);
        struct xp_op op;

        w->ops->recv(w->t, peer, lane, 10 * i, a.at, cap[i], &op);
        bad |= wire_meet(w, 100 + i) || wire_send_filled(w, peer, lane, 10 * i, len[i]);
        if (!bad && wire_wait(w, &op, WIRE_WAIT) != XP_ERR_MISMATCH)
            bad = wire_fail(w, "%zu bytes for %zu: %s", len[i], cap[i], xp_status_string(op.status));
        w->ops->cancel(w->t, &op);
        area_give_back(&a);
        if (bad)
            return 1;
        struct area b = area_take(len[i]);
        w->ops->recv(w->t, peer, lane, 10 * i + 1, b.at, len[i], &op);
        bad |= wire_meet(w, 200 + i) || wire_send_filled(w, peer, lane, 10 * i + 1, len[i]) || wire_check(w, &op, &b, peer, 10 * i + 1, len[i]);
        area_give_back(&b);
    }
    return bad || wire_meet(w, 1);
}

/* A cancelled receive lets the message go to the next one; buffers of cancelled operations vanish and are not missed. */
static int cancelled(struct wire *w, void *arg)
{
    int bad = 0, peer = 1 - w->rank;
    struct area a = area_take(MIB), b = area_take(MIB);
    struct xp_op op, again;

    w->ops->recv(w->t, peer, XP_LANE_BULK, 5, a.at, MIB, &op);
    w->ops->cancel(w->t, &op);
    if (op.status != XP_ERR_STATE)
        return wire_fail(w, "after cancel: %s", xp_status_string(op.status));
    area_give_back(&a);
    w->ops->recv(w->t, peer, XP_LANE_BULK, 5, b.at, MIB, &again);
    bad = wire_meet(w, 1) || wire_send_filled(w, peer, XP_LANE_BULK, 5, MIB) || wire_check(w, &again, &b, peer, 5, MIB) || wire_meet(w, 2);
    w->ops->cancel(w->t, &again);
    area_give_back(&b);
    return bad;
}

/* One side takes back a large message halfway; a while later the other does. Nobody touches the memory that is gone. */
static int cancelled_halfway(struct wire *w, void *arg)
{
    size_t n = 48 * MIB;
    int peer = 1 - w->rank;
    struct area a = area_take(n);
    struct xp_op op;

    if (w->rank == 0)
        area_fill(&a, 1);
    else
        w->ops->recv(w->t, peer, XP_LANE_BULK, 5, a.at, n, &op);
    if (wire_meet(w, 1))
        return 1;
    if (w->rank == 0)
        w->ops->send(w->t, peer, XP_LANE_BULK, 5, a.at, n, &op);
    for (int i = 0; i < 20; i++)
        w->ops->progress(w->t);
    int first = arg != NULL ? 1 : 0;
    if (w->rank != first)
        wire_run_for(w, 0.02);
    double start = clock_now();
    w->ops->cancel(w->t, &op);
    if (op.status == XP_IN_PROGRESS || clock_now() - start > 2.5)
        return wire_fail(w, "cancel took %.1f s and left %s", clock_now() - start, xp_status_string(op.status));
    area_give_back(&a);
    wire_run_for(w, 0.2);
    wire_barrier(w);
    return 0;
}

static int cancelled_by_receiver(struct wire *w, void *arg)
{
    return cancelled_halfway(w, w);
}

static int cancelled_by_sender(struct wire *w, void *arg)
{
    return cancelled_halfway(w, NULL);
}

/* A peer that does not look at all: cancel ends, and the memory can go. */
static int cancelled_while_peer_sleeps(struct wire *w, void *arg)
{
    enum { N = 6 };

    if (wire_meet(w, 1))
        return 1;
    if (w->rank == 0) {
        struct area a[N];
        struct xp_op op[N];

        for (int i = 0; i < N; i++) {
            a[i] = area_take(20 * MIB);
            memset(a[i].at, i, a[i].n);
            w->ops->send(w->t, 1, XP_LANE_BULK, (uint64_t)i, a[i].at, a[i].n, &op[i]);
        }
        wire_run_for(w, 0.05);
        double start = clock_now();
        for (int i = 0; i < N; i++) {
            w->ops->cancel(w->t, &op[i]);
            if (op[i].status == XP_IN_PROGRESS)
                return wire_fail(w, "operation %d not ended by cancel", i);
            area_give_back(&a[i]);
        }
        if (clock_now() - start > 2.5)
            return wire_fail(w, "cancelling took %.1f s", clock_now() - start);
    }
    wire_barrier(w);
    wire_run_for(w, 0.2);
    wire_barrier(w);
    return 0;
}

/* A bulk message nobody receives yet does not hold up small ones, nor the other direction. */
static int blocked_bulk(struct wire *w, void *arg)
{
    size_t n = 80 * MIB;
    int bad = 0, peer = 1 - w->rank;
    struct area a = area_take(n);
    struct xp_op op;

    bad = wire_meet(w, 1);
    if (w->rank == 0) {
        area_fill(&a, wire_key(0, 1, 9));
        w->ops->send(w->t, peer, XP_LANE_BULK, 9, a.at, n, &op);
    }
    for (uint64_t i = 0; i < 200 && !bad; i++) {
        if (w->rank == 0)
            bad = wire_send_filled(w, peer, XP_LANE_CTRL, 100 + i, 1000) || wire_recv_filled(w, peer, XP_LANE_CTRL, 100 + i, 1000, 1000);
        else
            bad = wire_recv_filled(w, peer, XP_LANE_CTRL, 100 + i, 1000, 1000) || wire_send_filled(w, peer, XP_LANE_CTRL, 100 + i, 1000);
    }
    if (!bad && w->rank == 1)
        bad = wire_send_filled(w, peer, XP_LANE_BULK, 10, MIB);
    else if (!bad)
        bad = wire_recv_filled(w, peer, XP_LANE_BULK, 10, MIB, MIB);
    if (!bad && w->rank == 1)
        w->ops->recv(w->t, peer, XP_LANE_BULK, 9, a.at, n, &op);
    if (!bad && w->rank == 1)
        bad = wire_check(w, &op, &a, 0, 9, n);
    else if (!bad && wire_wait(w, &op, WIRE_WAIT) != XP_OK)
        bad = wire_fail(w, "blocked message: %s", xp_status_string(op.status));
    bad = bad || wire_meet(w, 2);
    w->ops->cancel(w->t, &op);
    area_give_back(&a);
    return bad;
}

int wire_storm(struct wire *w, void *arg)
{
    enum { ROUNDS = 25 };
    struct random r = random_seeded(77 + (uint64_t)w->rank);
    struct random shared = random_seeded(4711); /* equal on all ranks: lengths */

    for (uint64_t round = 1; round <= ROUNDS; round++) {
        struct area in[WIRES_MAX], out[WIRES_MAX];
        struct xp_op got[WIRES_MAX], sent[WIRES_MAX], unused[WIRES_MAX];
        size_t len[WIRES_MAX][WIRES_MAX];
        char word[WIRES_MAX];
        int bad = 0;

        for (int a = 0; a < w->size; a++) {
            for (int b = 0; b < w->size; b++)
                len[a][b] = random_below(&shared, random_below(&shared, 3) == 0 ? 600000 : 5000);
        }
        for (int p = 0; p < w->size; p++) {
            if (p == w->rank)
                continue;
            in[p] = area_take(len[p][w->rank]);
            w->ops->recv(w->t, p, XP_LANE_BULK, round, in[p].at, in[p].n, &got[p]);
            w->ops->recv(w->t, p, XP_LANE_CTRL, 1u << 20 | round, &word[p], 1, &unused[p]);
        }
        bad |= wire_meet(w, round);
        for (int i = 1; i < w->size; i++) {
            int p = (w->rank + i) % w->size;

            out[p] = area_take(len[w->rank][p]);
            area_fill(&out[p], wire_key(w->rank, p, round));
            w->ops->send(w->t, p, XP_LANE_BULK, round, out[p].at, out[p].n, &sent[p]);
            if (random_below(&r, 2))
                w->ops->progress(w->t);
        }
        for (int p = 0; p < w->size; p++) {
            if (p == w->rank)
                continue;
            w->ops->cancel(w->t, &unused[p]);
            if (!bad)
                bad |= wire_check(w, &got[p], &in[p], p, round, len[p][w->rank]);
            if (!bad && wire_wait(w, &sent[p], WIRE_WAIT) != XP_OK)
                bad = wire_fail(w, "send to %d: %s", p, xp_status_string(sent[p].status));
            w->ops->cancel(w->t, &sent[p]);
            w->ops->cancel(w->t, &got[p]);
            area_give_back(&in[p]);
            area_give_back(&out[p]);
        }
        if (bad)
            return 1;
    }
    return wire_meet(w, 1u << 21);
}

/* More than 2^31 bytes in one message. Takes long and 5 GB. */
static int huge(struct wire *w, void *arg)
{
    size_t n = ((size_t)1 << 31) + 12345;
    int bad;

    if (w->rank == 0)
        return wire_meet(w, 1) || wire_send_filled(w, 1, XP_LANE_BULK, 1, n) || wire_meet(w, 2);
    struct area a = area_take(n);
    struct xp_op op;
    w->ops->recv(w->t, 0, XP_LANE_BULK, 1, a.at, n, &op);
    bad = wire_meet(w, 1) || wire_wait(w, &op, 120) != XP_OK || wire_check(w, &op, &a, 0, 1, n) || wire_meet(w, 2);
    area_give_back(&a);
    return bad;
}

const struct wire_case wire_cases[] = {
    {"all_sizes", all_sizes, 3, 0, 60},
    {"permuted_tags", permuted_tags, 2, 0, 30},
    {"early", early, 2, 0, 30},
    {"short_receives", short_receives, 2, 0, 30},
    {"long_messages", long_messages, 2, 0, 30},
    {"cancelled", cancelled, 2, 0, 30},
    {"cancelled_by_receiver", cancelled_by_receiver, 2, 0, 30},
    {"cancelled_by_sender", cancelled_by_sender, 2, 0, 30},
    {"cancelled_while_peer_sleeps", cancelled_while_peer_sleeps, 2, 0, 30},
    {"blocked_bulk", blocked_bulk, 2, 0, 30},
    {"sender_leaves", wire_sender_leaves, 2, 0, 30},
    {"late_receiver", wire_late_receiver, 2, 0, 30},
    {"late_receiver_small", wire_late_receiver_small, 2, 0, 30},
    {"peer_killed", wire_peer_killed, 2, 1, 30},
    {"peer_stopped", wire_peer_stopped, 2, 1, 30},
    {"close_after_kill", wire_close_after_kill, 2, 1, 30},
    {"close_after_stop", wire_close_after_stop, 2, 1, 30},
    {"storm_of_eight", wire_storm, 8, 0, 60},
    {"huge", huge, 2, 0, 300},
    {NULL, NULL, 0, 0, 0},
};

const char *wire_case_run(const struct xp_transport_ops *ops, int number, int threads, void (*before)(int rank))
{
    const struct wire_case *c = &wire_cases[number];
    struct wires all = {ops, c->size, threads, before, NULL};

    if (threads && c->processes)
        return NULL;
    alarm((unsigned)c->seconds + 20);
    return wires_run(&all, c->fn, NULL, c->seconds);
}
