/*
 * test_lists.c - calls whose rows lie anywhere: lists of the rows sent and of the places of those received (struct xp_call: at, place)
 *
 * A call with lists must give, bit for bit, what the same call gives when its rows have been laid out beforehand, also where they are
 * coded; and it writes to no place that is not in the list.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/plan.h"
#include "tests/harness/random.h"
#include "tests/harness/world.h"

enum { DIM = 96, ROW = DIM * sizeof(float), CANARY = 0xa5 };

enum order { NONE, STRAIGHT, REVERSED, SKIPPING, SHUFFLED, REPEATING, ALL_THE_SAME };
static const char *const order_name[] = {"none", "straight", "reversed", "skipping", "shuffled", "repeating", "all the same"};

/* What a list of n rows in this order is a list of: places below this. */
static size_t room(size_t n)
{
    return 2 * n + 1;
}

static uint32_t *make_list(enum order o, size_t n, uint64_t seed)
{
    struct random r = random_seeded(seed);
    uint32_t *list = malloc((n + 1) * sizeof *list);

    for (size_t i = 0; i < n; i++)
        list[i] = (uint32_t)(o == REVERSED ? n - 1 - i : o == SKIPPING ? 2 * i + 1 : o == REPEATING ? i * 7 % 5 % n : o == ALL_THE_SAME ? n - 1 : i);
    for (size_t i = n; o == SHUFFLED && i > 1; i--) {
        const size_t other = random_below(&r, i);
        const uint32_t keep = list[i - 1];

        list[i - 1] = list[other];
        list[other] = keep;
    }
    return list;
}

struct lists {
    enum order at, place;
    xp_mode mode;
    const char *codec;
    size_t rows; /* most of a pair */
};

/* None between some pairs; between others more than fit into a message. */
static size_t pair_rows(const struct lists *l, int from, int to)
{
    return (from + 2 * to) % 3 == 0 ? 0 : l->rows - (size_t)(from + to) % 3;
}

static void fill(float *rows, size_t n, int rank)
{
    struct random r = random_seeded(77 + (uint64_t)rank);

    for (size_t i = 0; i < n * DIM; i++)
        rows[i] = (float)random_normal(&r);
}

/* One call of the algorithm, as moe.c has them made. */
static xp_status make_call(xp_plan *plan, struct xp_call call)
{
    xp_status st;

    call.seq = plan->calls++;
    st = plan->algo->start(plan->state, &call, &plan->stats);
    if (st == XP_OK)
        st = XP_IN_PROGRESS;
    for (unsigned idle = 0; st == XP_IN_PROGRESS;) {
        int moved = xp_comm_progress(plan->shape.comm);

        st = plan->algo->progress(plan->state, &moved);
        if (st == XP_IN_PROGRESS && xp_comm_health(plan->shape.comm) != XP_OK)
            st = xp_comm_health(plan->shape.comm);
        idle = moved ? 0 : idle + 1;
        if (idle)
            xp_comm_idle(plan->shape.comm, idle);
    }
    plan->algo->finish(plan->state);
    return st;
}

/* What a rank sends and receives, with lists and without. */
struct rows {
    size_t to[WORLD_MAX], from[WORLD_MAX], out, in; /* counts, and their sums */
    float *table, *send, *recv, *places, *want;
    uint32_t *at, *place;
};

static void open_rows(struct rows *r, const struct lists *l, int ranks, int rank)
{
    *r = (struct rows){{0}};
    for (int i = 0; i < ranks; i++) {
        r->out += r->to[i] = pair_rows(l, rank, i);
        r->in += r->from[i] = pair_rows(l, i, rank);
    }
    r->at = make_list(l->at, r->out, 1);
    r->place = make_list(l->place, r->in, 2);
    r->table = malloc(room(r->out) * ROW);
    r->send = malloc(r->out * ROW + 1);
    r->want = malloc(r->in * ROW + 1);
    r->recv = malloc(r->in * ROW + 1);
    r->places = malloc(room(r->in) * ROW);
    fill(r->table, room(r->out), rank);
    memset(r->recv, CANARY, r->in * ROW);
    memset(r->places, CANARY, room(r->in) * ROW);
    for (size_t i = 0; i < r->out; i++)
        memcpy(r->send + i * DIM, r->table + r->at[i] * DIM, ROW);
}

static void close_rows(struct rows *r)
{
    free(r->at);
    free(r->place);
    free(r->table);
    free(r->send);
    free(r->want);
    free(r->recv);
    free(r->places);
}

/* Rows of this rank for itself are not in lists: these are of the buffers. The others' are spoiled, so that they must come from the list. */
static void leave_only_own(const struct rows *r, int rank)
{
    size_t own = 0;

    for (int i = 0; i < rank; i++)
        own += r->to[i];
    memset(r->send, CANARY, own * ROW);
    memset(r->send + (own + r->to[rank]) * DIM, CANARY, (r->out - own - r->to[rank]) * ROW);
}

static void check(const struct rows *r, const struct lists *l, int ranks, int rank, char *why)
{
    char *named = calloc(1, room(r->in)), untouched[ROW];
    size_t row = 0;

    for (int from = 0; from < ranks; from++)
        for (size_t i = 0; i < r->from[from]; i++, row++) {
            const int listed = l->place != NONE && from != rank;

            named[r->place[row]] |= (char)listed;
            if (memcmp(listed ? r->places + r->place[row] * DIM : r->recv + row * DIM, r->want + row * DIM, ROW) != 0)
                snprintf(why, WORLD_TEXT, "row %zu of rank %d at rank %d differs", i, from, rank);
        }
    memset(untouched, CANARY, ROW);
    for (size_t p = 0; p < room(r->in); p++)
        if (!named[p] && memcmp(r->places + p * DIM, untouched, ROW) != 0)
            snprintf(why, WORLD_TEXT, "place %zu at rank %d is in no list, but was written", p, rank);
    free(named);
}

static void lists_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct lists *l = arg;
    const int ranks = xp_comm_size(comm);
    struct rows r;
    xp_plan_desc d;
    xp_plan *plan;
    xp_status st;

    open_rows(&r, l, ranks, rank);
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = DIM;
    d.max_send_rows = d.max_recv_rows = (size_t)ranks * l->rows;
    d.mode = l->mode;
    d.codec = l->codec;
    d.eps = l->mode == XP_MODE_BOUNDED ? 0.03 : 0;
    d.algo = "flat";
    st = xp_plan_create(&plan, comm, &d);
    if (st == XP_OK)
        st = make_call(plan, (struct xp_call){.send = r.send, .send_rows = r.to, .recv = r.want, .recv_rows = r.from});
    leave_only_own(&r, rank);
    if (st == XP_OK)
        st = make_call(plan, (struct xp_call){.send = r.send, .send_rows = r.to, .recv = r.recv, .recv_rows = r.from, .from = (const char *)r.table,
                                              .at = r.at, .to = (char *)r.places, .place = l->place == NONE ? NULL : r.place});
    if (st == XP_OK)
        check(&r, l, ranks, rank, why);
    else
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
    xp_plan_destroy(plan);
    close_rows(&r);
}

/* Nodes of one rank and of several: streams that may be coded, and such as are plain in every mode. */
static void all_orders(xp_mode mode, const char *codec)
{
    static const struct world worlds[] = {{{1}}, {{2}}, {{1, 1}}, {{2, 1, 1}}, {{2, 2}, 1}};

    setenv("CROSSPRESS_CHUNK", "4096", 1); /* ten rows */
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        for (enum order at = STRAIGHT; at <= ALL_THE_SAME; at++)
            for (enum order place = NONE; place <= SHUFFLED; place++) {
                struct lists l = {at, place, mode, codec, 35};
                const char *why = world_run(&worlds[w], lists_body, &l);

                cr_assert(why[0] == 0, "world %zu, sent %s, places %s: %s", w, order_name[at], order_name[place], why);
            }
}

Test(lists, plain_rows)
{
    all_orders(XP_MODE_RAW, NULL);
}

Test(lists, rows_without_their_copies)
{
    all_orders(XP_MODE_EXACT, NULL);
}

Test(lists, frames_without_loss)
{
    all_orders(XP_MODE_EXACT, "pack");
}

Test(lists, bounded_frames)
{
    all_orders(XP_MODE_BOUNDED, "quant");
}

Test(lists, none_in_them)
{
    static const struct world w = {{2, 1}};
    struct lists l = {STRAIGHT, STRAIGHT, XP_MODE_BOUNDED, "quant", 2}; /* most pairs have none, the others one or two */
    const char *why = world_run(&w, lists_body, &l);

    cr_assert(why[0] == 0, "%s", why);
}
