/*
 * test_algo.c - the list of algorithms, the choice among them, and the cost model behind it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "collectives/cost.h"
#include "tests/harness/world.h"

/* A comm of `nodes` nodes with `each` ranks each, as far as the cost model looks at it. */
struct fixture {
    struct xp_comm comm;
    struct xp_shape shape;
    int node_of[64], local_index[64], node_size[64], node_ranks[64], node_start[65];
    size_t maxima[64];
};

static struct xp_shape *shape_of(struct fixture *f, int nodes, int each, size_t rows, size_t row_bytes, double link)
{
    memset(f, 0, sizeof *f);
    f->comm = (struct xp_comm){.size = nodes * each, .nodes = nodes, .node_of = f->node_of, .local_index = f->local_index,
                               .node_size = f->node_size, .node_ranks = f->node_ranks, .node_start = f->node_start};
    for (int r = 0; r < nodes * each; r++) {
        f->node_of[r] = r / each;
        f->local_index[r] = r % each;
        f->node_ranks[r] = r;
        f->node_size[r / each] = each;
        f->node_start[r / each + 1] = (r / each + 1) * each;
        f->maxima[r] = rows;
    }
    f->shape = (struct xp_shape){.comm = &f->comm, .row_bytes = row_bytes, .dim = row_bytes, .dtype = XP_BYTE,
                                 .peer_max_send = f->maxima, .peer_max_recv = f->maxima, .mode = XP_MODE_EXACT, .dedup = 1,
                                 .link_bytes_per_s = link};
    return &f->shape;
}

Test(algo, list_has_names_and_texts)
{
    int n = 0;
    for (const struct xp_algo_ops *const *a = xp_algo_list(); *a; a++, n++) {
        cr_assert((*a)->size == sizeof **a && (*a)->name[0] && (*a)->about[0]);
        for (const struct xp_algo_ops *const *b = xp_algo_list(); b < a; b++)
            cr_assert(strcmp((*a)->name, (*b)->name) != 0);
    }
    cr_assert_eq(n, 3);
}

Test(algo, choice_by_name)
{
    static struct fixture f;
    struct xp_shape *s = shape_of(&f, 2, 2, 100, 100, 0);
    cr_assert_eq(xp_algo_choose(s, "flat"), &xp_algo_flat);
    cr_assert_eq(xp_algo_choose(s, "hier"), &xp_algo_hier);
    cr_assert_eq(xp_algo_choose(s, "leader"), &xp_algo_leader);
    cr_assert_null(xp_algo_choose(s, "ring"));
    cr_assert_null(xp_algo_choose(s, ""));
}

Test(algo, auto_is_flat_without_a_hierarchy)
{
    static struct fixture f;
    cr_assert_eq(xp_algo_choose(shape_of(&f, 1, 8, 1000, 8192, 0), "auto"), &xp_algo_flat);
    cr_assert_eq(xp_algo_choose(shape_of(&f, 4, 1, 1000, 8192, 125e6), "auto"), &xp_algo_flat);
}

Test(algo, auto_is_hier_for_many_small_messages)
{
    static struct fixture f;
    cr_assert_eq(xp_algo_choose(shape_of(&f, 8, 8, 64, 64, 125e6), "auto"), &xp_algo_hier);
}

Test(algo, hier_and_leader_decline_what_their_headers_cannot_hold)
{
    /* A node of one rank takes in the streams of all others: the number of sources must fit a header. */
    static int node_of[600], local_index[600], node_size[600], node_ranks[600], node_start[601];
    static size_t maxima[600];
    struct xp_comm c = {.size = 600, .nodes = 600, .node_of = node_of, .local_index = local_index, .node_size = node_size,
                        .node_ranks = node_ranks, .node_start = node_start};
    for (int r = 0; r < 600; r++) {
        node_of[r] = node_ranks[r] = r;
        node_size[r] = 1;
        node_start[r + 1] = r + 1;
    }
    struct xp_shape s = {.comm = &c, .row_bytes = 1, .peer_max_send = maxima, .peer_max_recv = maxima};
    cr_assert_null(xp_algo_choose(&s, "hier"));
    cr_assert_null(xp_algo_choose(&s, "leader"));
    cr_assert_eq(xp_algo_choose(&s, "auto"), &xp_algo_flat);
}

Test(cost, dedup_pays_only_when_bytes_are_saved)
{
    static struct fixture f;
    struct xp_shape *s = shape_of(&f, 2, 1, 1000, 4096, 0);
    cr_assert_not(xp_cost_dedup_pays(s, 1000, 1000));
    cr_assert_not(xp_cost_dedup_pays(s, 1000, 995));
    cr_assert(xp_cost_dedup_pays(s, 1000, 900));
    cr_assert(xp_cost_dedup_pays(s, 1000, 1));
    /* Rows of two bytes: the map is as long as what it saves. */
    s = shape_of(&f, 2, 1, 1000, 2, 0);
    cr_assert_not(xp_cost_dedup_pays(s, 1000, 900));
    cr_assert_not(xp_cost_dedup_pays(s, 1, 1));
}

Test(cost, refine_follows_plain_calls_and_lets_coded_ones_only_raise)
{
    static struct fixture f;
    struct xp_pipe p = {.shape = shape_of(&f, 2, 1, 10, 10, 0)};
    p.slow_first = 1;
    p.slow_last = 2;
    p.slow_bytes = 100 << 20;
    xp_cost_refine(&p);
    cr_assert_float_eq(f.comm.link_bytes_per_s, (double)(100 << 20), 1);
    p.slow_bytes = 50 << 20;
    p.coded_streams = 1;
    xp_cost_refine(&p);
    cr_assert_float_eq(f.comm.link_bytes_per_s, (double)(100 << 20), 1, "a coded call must not lower the speed");
    p.coded_streams = 0;
    xp_cost_refine(&p);
    cr_assert_float_eq(f.comm.link_bytes_per_s, (double)(75 << 20), 1);
    p.slow_bytes = 1000;
    xp_cost_refine(&p);
    cr_assert_float_eq(f.comm.link_bytes_per_s, (double)(75 << 20), 1, "too little to tell");
}

/* Rank 1 sends more than a piece of the measurement, as no rank should. */
static void failing_probe(xp_comm *comm, int rank, void *arg, char *why)
{
    static char long_one[XP_COST_PROBE];
    xp_status st = rank == 0 ? xp_cost_measure(comm, 0) : xp_comm_barrier(comm);
    (void)arg;
    if (rank == 1 && st == XP_OK) {
        struct xp_op op;
        xp_comm_send(comm, 0, XP_LANE_BULK, xp_tag(0, 0, XP_STREAM_PROBE, 0), long_one, sizeof long_one, &op);
        while (xp_comm_health(comm) == XP_OK)
            xp_comm_progress(comm);
        if (op.status == XP_IN_PROGRESS)
            xp_comm_cancel(comm, 0, &op);
        st = xp_comm_health(comm);
    }
    if (st != XP_ERR_MISMATCH || !strstr(xp_comm_last_error(comm), "measuring the link from rank 1 to rank 0"))
        snprintf(why, WORLD_TEXT, "%s: \"%s\"", xp_status_string(st), xp_comm_last_error(comm));
}

Test(cost, a_failed_measurement_says_so_on_all_ranks)
{
    struct world w = {.nodes = {1, 1}, .allow = {"measuring the link"}};
    const char *why = world_run(&w, failing_probe, NULL);
    cr_assert_str_eq(why, "");
}
