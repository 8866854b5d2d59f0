/*
 * cost.c - what a transfer costs (cost.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/cost.h"

#include <stdlib.h>
#include <string.h>

#include "collectives/rowmap.h"

/* Start-up of a message and bytes per second, where nothing was measured. */
#define ALPHA_SLOW 30e-6
#define ALPHA_FAST 2e-6
#define SLOW_BYTES_PER_S 125e6
#define FAST_BYTES_PER_S 4e9

/* Copies that rows for one node are expected to hold, beyond those for one rank, when nothing is known of them. */
#define NODE_COPIES 0.05

/* Dedup must save this part of the bytes, and this many bytes. */
#define DEDUP_SAVES 0.02
#define DEDUP_SAVES_BYTES 512

/* A call must have brought this much for its speed to count. */
#define REFINE_BYTES ((uint64_t)256 << 10)

struct traffic {
    double nodes, far_ranks, near_ranks, far_bytes, near_bytes; /* of one rank */
    double beta_slow, beta_fast;
};

static struct traffic traffic_of(const struct xp_shape *s)
{
    const struct xp_comm *c = s->comm;
    size_t rows = 0;
    int largest = 1;
    for (int i = 0; i < c->size; i++)
        rows = s->peer_max_send[i] > rows ? s->peer_max_send[i] : rows;
    for (int i = 0; i < c->nodes; i++)
        largest = c->node_size[i] > largest ? c->node_size[i] : largest;
    double pair = (double)rows / 2 / c->size * (double)s->row_bytes;
    struct traffic t = {.nodes = c->nodes - 1, .far_ranks = c->size - largest, .near_ranks = largest - 1};
    t.far_bytes = pair * t.far_ranks;
    t.near_bytes = pair * t.near_ranks;
    t.beta_slow = 1 / (s->link_bytes_per_s > 0 ? s->link_bytes_per_s : SLOW_BYTES_PER_S);
    t.beta_fast = 1 / FAST_BYTES_PER_S;
    return t;
}

double xp_cost_flat(const struct xp_shape *s)
{
    struct traffic t = traffic_of(s);
    return ALPHA_SLOW * t.far_ranks + t.far_bytes * t.beta_slow + ALPHA_FAST * t.near_ranks + t.near_bytes * t.beta_fast;
}

/* Fewer and larger messages cross the slow hop; each row then crosses shared memory once more, while others still arrive. */
double xp_cost_hier(const struct xp_shape *s)
{
    struct traffic t = traffic_of(s);
    double copies = s->dedup && t.near_ranks > 0 ? NODE_COPIES : 0;
    double slow = t.far_bytes * t.beta_slow * (1 - copies), relay = 2 * t.far_bytes * t.beta_fast;
    return ALPHA_SLOW * (t.nodes + 1) + (slow > relay ? slow : relay) + ALPHA_FAST * t.near_ranks * (t.nodes + 1) +
           t.near_bytes * t.beta_fast;
}

/* All rows of a node pass through one process, there and here, and leave when they are together. Its fewer messages have not
 * made up for that in any measurement so far (2 hosts of 4 ranks, 1 Gbit/s: 1.0 to 1.2 times hier's time), so it is never cheaper. */
double xp_cost_leader(const struct xp_shape *s)
{
    struct traffic t = traffic_of(s);
    return xp_cost_hier(s) + ALPHA_FAST * t.near_ranks + t.far_bytes * (t.near_ranks + 1) * t.beta_fast;
}

int xp_cost_dedup_pays(const struct xp_shape *s, size_t rows, size_t distinct)
{
    /* With a lossy coder behind, a row takes about a third of its bytes. */
    double row = s->mode == XP_MODE_BOUNDED ? (double)s->row_bytes / 3 : (double)s->row_bytes;
    double plain = row * (double)rows, saved = row * (double)(rows - distinct) - (double)xp_rowmap_bytes(rows, distinct);
    return saved > plain * DEDUP_SAVES && saved > DEDUP_SAVES_BYTES;
}

int xp_cost_coding_pays(const struct xp_shape *s, const struct xp_rows *in)
{
    struct xp_select_env env = {.link_bytes_per_s = s->comm->link_bytes_per_s};
    struct xp_rows sample = *in;
    if (sample.rows > s->coder_rows)
        sample.rows = s->coder_rows;
    if (s->automatic && !xp_coder_select(s->coder, &sample, &env))
        return 0;
    /* Copies are dealt with before coding, so codec exact would look for them in vain; codec pack finds none, but packs. */
    unsigned codec = xp_coder_codec(s->coder)->id;
    return codec != XP_CODEC_EXACT && codec != XP_CODEC_RAW;
}

void xp_cost_refine(struct xp_pipe *p)
{
    struct xp_comm *c = p->shape->comm;
    double seconds = p->slow_last - p->slow_first;
    if (p->slow_bytes < REFINE_BYTES || seconds <= 0)
        return;
    double speed = (double)p->slow_bytes / seconds;
    /* While rows are coded the coder may be what is slow, so such a call can only show that the link is faster. */
    if (c->link_bytes_per_s <= 0)
        c->link_bytes_per_s = speed;
    else if (!p->coded_streams || speed > c->link_bytes_per_s)
        c->link_bytes_per_s = (c->link_bytes_per_s + speed) / 2;
}

/* ---- the first measurement -------------------------------------------------------------------------------------- */

#define PROBE_CHUNKS 8
#define PROBE_CHUNK (XP_COST_PROBE / PROBE_CHUNKS)
#define LINK_FAILED "plan: measuring the link from rank %d to rank %d: "

struct probe {
    struct xp_comm *c;
    uint32_t plan;
    int to, from; /* -1: none */
    char *out, *in;
    struct xp_op send[PROBE_CHUNKS], recv[PROBE_CHUNKS];
    double first, last;
};

/* The rank that sends to this one: several may, when nodes are of unequal size; only the first of them is timed. */
static int partner(const struct xp_comm *c, int step)
{
    int node = (c->node + step + c->nodes) % c->nodes, index = c->local_index[c->rank];
    return index < c->node_size[node] ? c->node_ranks[c->node_start[node] + index] : -1;
}

/* Whether messages are still under way. One that failed ends the comm: the others wait for this rank. */
static int probe_round(struct probe *p, xp_status *st)
{
    int open = 0, seen = 0;
    for (int i = 0; *st == XP_OK && i < PROBE_CHUNKS; i++) {
        xp_status s = p->to >= 0 ? p->send[i].status : XP_OK, r = p->from >= 0 ? p->recv[i].status : XP_OK;
        open += s == XP_IN_PROGRESS || r == XP_IN_PROGRESS;
        seen += r == XP_OK;
        if (s < 0)
            *st = xp_comm_revoke(p->c, s, LINK_FAILED "%s", p->c->rank, p->to, xp_status_string(s));
        else if (r < 0)
            *st = xp_comm_revoke(p->c, r, LINK_FAILED "%s", p->from, p->c->rank, xp_status_string(r));
    }
    if (seen && p->first == 0)
        p->first = xp_now();
    if (seen == PROBE_CHUNKS && p->last == 0)
        p->last = xp_now();
    return open;
}

static xp_status probe_wait(struct probe *p)
{
    double deadline = xp_now() + p->c->params.timeout;
    unsigned idle = 0;
    xp_status st = XP_OK;
    while (st == XP_OK && probe_round(p, &st)) {
        if (xp_comm_progress(p->c))
            idle = 0;
        else
            xp_comm_idle(p->c, idle++);
        xp_status health = xp_comm_health(p->c);
        if (health != XP_OK)
            return health;
        if (xp_now() > deadline)
            return xp_comm_revoke(p->c, XP_ERR_TIMEOUT, LINK_FAILED "deadline passed", p->from, p->c->rank);
    }
    return st;
}

static xp_status probe_run(struct probe *p)
{
    for (int i = 0; i < PROBE_CHUNKS && p->from >= 0; i++)
        xp_comm_recv(p->c, p->from, XP_LANE_BULK, xp_tag(p->plan, 0, XP_STREAM_PROBE, (size_t)i), p->in + (size_t)i * PROBE_CHUNK,
                     PROBE_CHUNK, &p->recv[i]);
    xp_status st = xp_comm_barrier(p->c);
    for (int i = 0; st == XP_OK && i < PROBE_CHUNKS && p->to >= 0; i++)
        xp_comm_send(p->c, p->to, XP_LANE_BULK, xp_tag(p->plan, 0, XP_STREAM_PROBE, (size_t)i), p->out + (size_t)i * PROBE_CHUNK,
                     PROBE_CHUNK, &p->send[i]);
    if (st == XP_OK)
        st = probe_wait(p);
    for (int i = 0; i < PROBE_CHUNKS; i++) {
        if (p->to >= 0 && p->send[i].status == XP_IN_PROGRESS)
            xp_comm_cancel(p->c, p->to, &p->send[i]);
        if (p->from >= 0 && p->recv[i].status == XP_IN_PROGRESS)
            xp_comm_cancel(p->c, p->from, &p->recv[i]);
    }
    return st;
}

/* The least speed that any rank saw; ranks that timed nothing say 0. */
static xp_status agree_on_least(struct xp_comm *c, double mine)
{
    double *all = calloc((size_t)c->size, sizeof *all);
    if (!all)
        return xp_comm_revoke(c, XP_ERR_NO_MEMORY, "plan: rank %d: out of memory", c->rank);
    xp_status st = xp_comm_allgather(c, &mine, all, sizeof mine);
    double least = 0;
    for (int i = 0; i < c->size; i++)
        if (all[i] > 0 && (least == 0 || all[i] < least))
            least = all[i];
    if (st == XP_OK)
        c->link_bytes_per_s = least;
    free(all);
    return st;
}

xp_status xp_cost_measure(struct xp_comm *c, uint32_t plan)
{
    struct probe p = {.c = c, .plan = plan, .to = partner(c, 1), .from = partner(c, -1)};
    p.out = calloc(2, XP_COST_PROBE);
    if (!p.out)
        return xp_comm_revoke(c, XP_ERR_NO_MEMORY, "plan: rank %d: out of memory", c->rank);
    p.in = p.out + XP_COST_PROBE;
    xp_status st = probe_run(&p);
    free(p.out);
    if (st != XP_OK)
        return st;
    double seconds = p.last - p.first;
    return agree_on_least(c, seconds > 0 ? (double)(XP_COST_PROBE - PROBE_CHUNK) / seconds : 0);
}
