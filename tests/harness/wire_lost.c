/*
 * wire_lost.c - cases in which a peer leaves, is killed or stopped (wire_cases.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/harness/clock.h"
#include "tests/harness/wire_cases.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/harness/wire_message.h"

/* Sent, and gone: what the sender was told is done arrives although it has closed. */
int wire_sender_leaves(struct wire *w, void *arg)
{
    size_t n = 2 * MIB + 5;
    int bad = 0;

    if (w->rank == 1) {
        struct area a = area_take(n);
        struct xp_op op, small;
        char word[8];

        w->ops->recv(w->t, 0, XP_LANE_BULK, 3, a.at, n, &op);
        w->ops->recv(w->t, 0, XP_LANE_CTRL, 4, word, 8, &small);
        bad = wire_meet(w, 1) || wire_check(w, &op, &a, 0, 3, n);
        if (!bad && (wire_wait(w, &small, WIRE_WAIT) != XP_OK || memcmp(word, "farewell", 8) != 0))
            bad = wire_fail(w, "small message: %s", xp_status_string(small.status));
        area_give_back(&a);
        return bad;
    }
    bad = wire_meet(w, 1) || wire_send_filled(w, 1, XP_LANE_BULK, 3, n);
    struct xp_op op;
    w->ops->send(w->t, 1, XP_LANE_CTRL, 4, "farewell", 8, &op);
    if (!bad && wire_wait(w, &op, WIRE_WAIT) != XP_OK)
        bad = wire_fail(w, "farewell: %s", xp_status_string(op.status));
    return bad; /* and close at once */
}

/* Sends until the system takes no more. Returns how many messages were done. */
static int send_what_fits(struct wire *w, struct area *a, struct xp_op *op, int count, size_t n)
{
    int sent = 0;

    for (; sent < count; sent++) {
        a[sent] = area_take(n);
        area_fill(&a[sent], wire_key(0, 1, (uint64_t)sent));
        w->ops->send(w->t, 1, XP_LANE_BULK, (uint64_t)sent, a[sent].at, n, &op[sent]);
        if (wire_wait(w, &op[sent], 0.2) != XP_OK)
            break;
    }
    return sent;
}

static int leave_early(struct wire *w, struct area *a, struct xp_op *op, int count, size_t n)
{
    int sent = send_what_fits(w, a, op, count, n);

    wire_doom(w, 0);
    *wire_flag(w, 0) = sent + 1;
    for (double end = clock_now() + WIRE_WAIT; !w->ops->flushed(w->t);) {
        w->ops->progress(w->t);
        if (clock_now() > end)
            return wire_fail(w, "what was sent does not leave");
    }
    w->ops->close(w->t);
    w->t = NULL;
    *wire_flag(w, 1) = 1;
    return 0;
}

/* Looks when the sender has left, or for as long as it may take to see that it waits. */
static int look_late(struct wire *w, struct area *a, struct xp_op *op, int count, size_t n)
{
    int bad = 0, sent;

    while (*wire_flag(w, 0) == 0)
        usleep(1000);
    for (double end = clock_now() + 1.0; *wire_flag(w, 1) == 0 && clock_now() < end;)
        usleep(1000);
    sent = *wire_flag(w, 0) - 1;
    if (sent < 1 && strcmp(w->ops->name, "shm") != 0) /* there a large message is done when the receiver has it */
        bad = wire_fail(w, "rank 0 could send %d messages", sent);
    for (int i = 0; i < sent && !bad; i++)
        bad = wire_check(w, &op[i], &a[i], 0, (uint64_t)i, n);
    for (int i = 0; i < count; i++)
        w->ops->cancel(w->t, &op[i]);
    return bad;
}

/*
 * What the sender was told is done arrives although the receiver looks late: the sender's small lane has ended by then, and as
 * much as the system takes still waits in the bulk lane.
 */
static int late_receiver(struct wire *w, size_t n, int count)
{
    struct area *a = calloc((size_t)count, sizeof(*a)), warm = area_take(n);
    struct xp_op *op = calloc((size_t)count, sizeof(*op)), first;
    int bad = a == NULL || op == NULL;

    for (int i = 0; !bad && w->rank == 1 && i < count; i++) {
        a[i] = area_take(n);
        w->ops->recv(w->t, 0, XP_LANE_BULK, (uint64_t)i, a[i].at, n, &op[i]);
    }
    /* A lane connects with its first message, and needs both ends for it. */
    if (w->rank == 0)
        w->ops->send(w->t, 1, XP_LANE_BULK, (uint64_t)count, warm.at, n, &first);
    else
        w->ops->recv(w->t, 0, XP_LANE_BULK, (uint64_t)count, warm.at, n, &first);
    bad = bad || wire_meet(w, 1) || wire_wait(w, &first, WIRE_WAIT) != XP_OK;
    if (!bad)
        bad = w->rank == 0 ? leave_early(w, a, op, count, n) : look_late(w, a, op, count, n);
    for (int i = 0; i < count; i++)
        area_give_back(&a[i]);
    area_give_back(&warm);
    free(op);
    free(a);
    return bad;
}

int wire_late_receiver(struct wire *w, void *arg)
{
    return late_receiver(w, 300000, 32);
}

/* Small messages are done while the transport still has them. */
int wire_late_receiver_small(struct wire *w, void *arg)
{
    return late_receiver(w, 3000, 3000);
}

/* Killed (or stopped) with everything under way: after fail() all ends at once; closing too. */
static int peer_lost(struct wire *w, int how)
{
    enum { N = 8 };
    struct area out[N], in[N];
    struct xp_op op[2 * N + 2];
    char word[16];

    if (wire_meet(w, 1))
        return 1;
    for (int i = 0; i < N; i++) {
        out[i] = area_take(16 * MIB);
        in[i] = area_take(16 * MIB);
        memset(out[i].at, i, out[i].n);
        w->ops->recv(w->t, 1 - w->rank, XP_LANE_BULK, (uint64_t)i, in[i].at, in[i].n, &op[i]);
        w->ops->send(w->t, 1 - w->rank, XP_LANE_BULK, (uint64_t)i, out[i].at, out[i].n, &op[N + i]);
    }
    w->ops->recv(w->t, 1 - w->rank, XP_LANE_CTRL, 77, word, sizeof(word), &op[2 * N]);
    w->ops->recv(w->t, 1 - w->rank, XP_LANE_BULK, 78, word, sizeof(word), &op[2 * N + 1]);
    if (w->rank == 1) {
        for (;;)
            w->ops->progress(w->t);
    }
    wire_run_for(w, 0.01);
    wire_doom(w, 1);
    kill(wire_pid(w, 1), how);
    wire_run_for(w, 0.1);
    double start = clock_now();
    w->ops->fail(w->t, 1);
    int bad = 0;
    for (int i = 0; i < 2 * N + 2; i++) {
        xp_status s = wire_wait(w, &op[i], 2);

        if (s == XP_IN_PROGRESS)
            bad = wire_fail(w, "operation %d still under way 2 s after fail()", i);
        else if (s != XP_ERR_REMOTE && s != XP_OK)
            bad = wire_fail(w, "operation %d: %s", i, xp_status_string(s));
    }
    if (op[2 * N].status != XP_ERR_REMOTE)
        bad = wire_fail(w, "the receive that waits: %s", xp_status_string(op[2 * N].status));
    if (clock_now() - start > 2)
        bad = wire_fail(w, "ending took %.1f s", clock_now() - start);
    struct xp_op late;
    if (w->ops->send(w->t, 1, XP_LANE_CTRL, 1, "x", 1, &late) != XP_ERR_REMOTE || late.status != XP_ERR_REMOTE)
        bad = wire_fail(w, "a send to the dead: %s", xp_status_string(late.status));
    for (int i = 0; i < N; i++) {
        area_give_back(&out[i]);
        area_give_back(&in[i]);
    }
    wire_run_for(w, 0.1);
    kill(wire_pid(w, 1), SIGKILL);
    return bad;
}

int wire_peer_killed(struct wire *w, void *arg)
{
    return peer_lost(w, SIGKILL);
}

int wire_peer_stopped(struct wire *w, void *arg)
{
    return peer_lost(w, SIGSTOP);
}

/* Nobody calls fail() or cancel(): close ends what is under way with a peer that was killed. */
int wire_close_after_kill(struct wire *w, void *arg)
{
    static struct xp_op in, out;
    struct area a = area_take(64 * MIB), b = area_take(MIB);

    if (wire_meet(w, 1))
        return 1;
    w->ops->recv(w->t, 1 - w->rank, XP_LANE_BULK, 2, b.at, b.n, &in);
    if (w->rank == 1) {
        for (;;)
            w->ops->progress(w->t);
    }
    w->ops->send(w->t, 1, XP_LANE_BULK, 1, a.at, a.n, &out);
    wire_run_for(w, 0.01);
    wire_doom(w, 1);
    kill(wire_pid(w, 1), arg != NULL ? SIGSTOP : SIGKILL);
    wire_run_for(w, 0.05);
    double start = clock_now();
    w->ops->close(w->t);
    w->t = NULL;
    kill(wire_pid(w, 1), SIGKILL);
    if (clock_now() - start > 2.2)
        return wire_fail(w, "close took %.1f s", clock_now() - start);
    if (in.status == XP_IN_PROGRESS || out.status == XP_IN_PROGRESS)
        return wire_fail(w, "close left operations under way");
    return 0;
}

int wire_close_after_stop(struct wire *w, void *arg)
{
    return wire_close_after_kill(w, w);
}
