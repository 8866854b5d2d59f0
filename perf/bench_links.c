/*
 * bench_links.c - what the links between ranks do: latency of a small message, rate of large ones
 *
 * One pair of ranks for each class of link, alone on the machine while it is measured; the others wait in a barrier.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/comm.h"
#include "perf/xp_perf.h"

#define LATENCY_ROUNDS 500
#define WINDOW 8 /* large messages under way */

static const size_t sizes[] = {64 << 10, 1 << 20, 16 << 20};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

struct link {
    struct perf *p;
    xp_comm *comm;
    const char *class_name;
    int a, b;              /* the pair; a measures */
    uint64_t tag;
    char *memory;          /* WINDOW * largest size */
};

struct figures {
    double latency_us, rate[SIZES]; /* rate in bytes a second */
    char transport[16];
};

static int link_fail(struct link *l, const char *what, xp_status s)
{
    return perf_fail(l->p, "links: %s between rank %d and rank %d: %s", what, l->a, l->b, xp_status_string(s));
}

static int peer_of(const struct link *l)
{
    return xp_comm_rank(l->comm) == l->a ? l->b : l->a;
}

/* Waits for n operations; cancels what is left when the comm fails or its deadline passes. */
static xp_status finish(struct link *l, struct xp_op *ops, int n)
{
    double deadline = xp_now() + l->comm->params.timeout;
    xp_status bad = XP_OK;
    unsigned idle = 0;

    for (int i = 0; i < n; i++) {
        while (ops[i].status == XP_IN_PROGRESS && bad == XP_OK) {
            idle = xp_comm_progress(l->comm) != 0 ? 0 : idle + 1;
            xp_comm_idle(l->comm, idle);
            bad = xp_comm_health(l->comm);
            if (bad == XP_OK && xp_now() > deadline)
                bad = XP_ERR_TIMEOUT;
        }
        if (ops[i].status == XP_IN_PROGRESS)
            xp_comm_cancel(l->comm, peer_of(l), &ops[i]);
        else if (ops[i].status != XP_OK && bad == XP_OK)
            bad = ops[i].status;
    }
    return bad;
}

/* One message of the control lane, to or from the other rank of the pair. */
static xp_status word(struct link *l, int send, uint64_t tag)
{
    struct xp_op op = {0};
    char text[8] = {0};

    if (send)
        xp_comm_send(l->comm, peer_of(l), XP_LANE_CTRL, tag, text, sizeof(text), &op);
    else
        xp_comm_recv(l->comm, peer_of(l), XP_LANE_CTRL, tag, text, sizeof(text), &op);
    return finish(l, &op, 1);
}

/* Ping-pong of 8 bytes: the median of half a round trip. */
static xp_status measure_latency(struct link *l, struct figures *f)
{
    int first = xp_comm_rank(l->comm) == l->a;
    double seconds[LATENCY_ROUNDS];
    xp_status s = XP_OK;

    for (int i = 0; i < LATENCY_ROUNDS && s == XP_OK; i++, l->tag += 2) {
        double start = bench_now();

        s = word(l, first, l->tag);
        if (s == XP_OK)
            s = word(l, !first, l->tag + 1);
        seconds[i] = 0.5 * (bench_now() - start);
    }
    if (s == XP_OK)
        f->latency_us = 1e6 * bench_median(seconds, LATENCY_ROUNDS);
    return s;
}

/* WINDOW messages from a to b, whose receives are posted before b says go; the clock stops when b says done. */
static xp_status measure_once(struct link *l, size_t size, double *rate)
{
    const uint64_t go = l->tag, data = l->tag + 1, done = l->tag + 1 + WINDOW;
    int first = xp_comm_rank(l->comm) == l->a;
    struct xp_op ops[WINDOW];
    double start = 0.0;
    xp_status s = XP_OK;

    memset(ops, 0, sizeof(ops));
    l->tag += 2 + WINDOW;
    if (!first) {
        for (int i = 0; i < WINDOW; i++)
            xp_comm_recv(l->comm, l->a, XP_LANE_BULK, data + (uint64_t)i, l->memory + (size_t)i * size, size, &ops[i]);
    }
    s = word(l, !first, go);
    if (first && s == XP_OK) {
        start = bench_now();
        for (int i = 0; i < WINDOW; i++)
            xp_comm_send(l->comm, l->b, XP_LANE_BULK, data + (uint64_t)i, l->memory + (size_t)i * size, size, &ops[i]);
    }
    if (s == XP_OK)
        s = finish(l, ops, WINDOW);
    if (s == XP_OK)
        s = word(l, !first, done);
    *rate = (double)(WINDOW * size) / (bench_now() - start);
    return s;
}

static xp_status measure_rates(struct link *l, struct figures *f)
{
    xp_status s = XP_OK;

    for (size_t k = 0; k < SIZES && s == XP_OK; k++) {
        f->rate[k] = 0.0;
        for (int i = 0; i < 3 && s == XP_OK; i++) {
            double rate = 0.0;

            s = measure_once(l, sizes[k], &rate);
            f->rate[k] = rate > f->rate[k] ? rate : f->rate[k];
        }
    }
    return s;
}

/* Runs on all ranks; the figures of rank a reach everyone through the allgather. */
static int measure_link(struct link *l, struct figures *f)
{
    int rank = xp_comm_rank(l->comm), n = xp_comm_size(l->comm);
    struct figures mine = {0}, *all = calloc((size_t)n, sizeof(*all));
    xp_status s = xp_comm_barrier(l->comm);

    if (all == NULL)
        s = XP_ERR_NO_MEMORY;
    if (s == XP_OK && (rank == l->a || rank == l->b)) {
        snprintf(mine.transport, sizeof(mine.transport), "%s", l->comm->route[peer_of(l)]->ops->name);
        s = measure_latency(l, &mine);
        if (s == XP_OK)
            s = measure_rates(l, &mine);
    }
    if (s == XP_OK)
        s = xp_comm_allgather(l->comm, &mine, all, sizeof(mine));
    if (s == XP_OK)
        *f = all[l->a];
    free(all);
    return s == XP_OK ? 0 : link_fail(l, "measuring", s);
}

static void show(struct link *l, const struct figures *f)
{
    struct json *j = &l->p->json;

    printf("%-14s %-6s %3d - %-3d %10.2f us", l->class_name, f->transport, l->a, l->b, f->latency_us);
    for (size_t k = 0; k < SIZES; k++)
        printf(" %12.1f", 1e-6 * f->rate[k]);
    printf("\n");
    json_open(j);
    json_text(j, "command", "links");
    json_text(j, "link", l->class_name);
    json_text(j, "transport", f->transport);
    json_whole(j, "ranks", (uint64_t)xp_comm_size(l->comm));
    json_whole(j, "nodes", (uint64_t)xp_comm_nodes(l->comm));
    json_real(j, "latency_us", f->latency_us);
    json_real(j, "mb_per_s_64k", 1e-6 * f->rate[0]);
    json_real(j, "mb_per_s_1m", 1e-6 * f->rate[1]);
    json_real(j, "mb_per_s_16m", 1e-6 * f->rate[2]);
    json_close(j);
}

/* The first pair inside one node, or across two; 0 when there is none. */
static int find_pair(const xp_comm *c, int across, struct link *l)
{
    for (l->a = 0; l->a < c->size; l->a++) {
        for (l->b = l->a + 1; l->b < c->size; l->b++) {
            if ((c->node_of[l->a] != c->node_of[l->b]) == across)
                return 1;
        }
    }
    return 0;
}

static int measure_class(struct perf *p, xp_comm *comm, int across, int *found)
{
    struct link l = {.p = p, .comm = comm, .class_name = across ? "between nodes" : "inside a node"};
    struct figures f = {0};
    int code;

    if (!find_pair(comm, across, &l))
        return 0;
    if (xp_comm_rank(comm) == 0 && !*found)
        printf("%-14s %-6s %-9s %13s %12s %12s %12s\n", "link", "over", "ranks", "latency", "64 KiB MB/s", "1 MiB MB/s", "16 MiB MB/s");
    *found = 1;
    l.memory = malloc(WINDOW * sizes[SIZES - 1]);
    if (l.memory == NULL)
        return link_fail(&l, "memory", XP_ERR_NO_MEMORY);
    memset(l.memory, 1, WINDOW * sizes[SIZES - 1]);
    code = measure_link(&l, &f);
    if (code == 0 && xp_comm_rank(comm) == 0)
        show(&l, &f);
    free(l.memory);
    return code;
}

int bench_links(struct perf *p)
{
    xp_comm *comm = NULL;
    int found = 0, code = perf_comm(p, &comm, NULL);

    for (int across = 0; across < 2 && code == 0; across++)
        code = measure_class(p, comm, across, &found);
    if (code == 0 && !found)
        code = perf_fail(p, "links: one rank has no links; try --spawn 2, or --spawn 4 --nodes 2");
    xp_comm_destroy(comm);
    return code;
}
