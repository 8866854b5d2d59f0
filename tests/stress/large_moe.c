/*
 * large_moe.c - a MoE step that moves more than 2^31 bytes from one rank to another, and home again
 *
 *     large_moe [ALGO]
 *
 * Rank 0 has the tokens, rank 1 the expert. Needs 17 GB of memory; exit code 77 without it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/harness/world.h"

#define DIM ((size_t)1 << 19)
#define TOKENS ((((size_t)1 << 31) + ((size_t)1 << 24)) / (4 * DIM))

/* Small whole numbers that tell their place: doubling them is exact. */
static float value(size_t i)
{
    return (float)((i * 0x9e3779b97f4a7c15u >> 48) + 1);
}

static void plan_of(xp_plan_desc *d, xp_moe_desc *m, const char *algo)
{
    xp_moe_desc_init(m);
    m->experts = 2;
    m->max_topk = 1;
    xp_plan_desc_init(d);
    d->dtype = XP_F32;
    d->dim = DIM;
    d->max_send_rows = TOKENS;
    d->max_recv_rows = TOKENS;
    d->mode = XP_MODE_RAW;
    d->algo = algo;
    d->moe = m;
}

/* Dispatch, an expert that doubles, combine into the tokens' own buffer. */
static xp_status step(xp_plan *plan, xp_routing *r, int rank, float *buf, char *why)
{
    size_t values = TOKENS * DIM;
    xp_status st = xp_dispatch(plan, r, rank == 0 ? buf : NULL, rank == 1 ? buf : NULL, NULL);
    for (size_t i = 0; st == XP_OK && rank == 1 && i < values && !why[0]; i++) {
        if (buf[i] != value(i))
            snprintf(why, WORLD_TEXT, "value %zu is wrong at the expert", i);
        buf[i] *= 2;
    }
    if (st == XP_OK)
        st = xp_combine(plan, r, rank == 1 ? buf : NULL, NULL, rank == 0 ? buf : NULL, NULL);
    for (size_t i = 0; st == XP_OK && rank == 0 && i < values && !why[0]; i++)
        if (buf[i] != 2 * value(i))
            snprintf(why, WORLD_TEXT, "value %zu is wrong at home", i);
    return st;
}

static void body(xp_comm *comm, int rank, void *arg, char *why)
{
    static int32_t expert[TOKENS];
    xp_plan_desc d;
    xp_moe_desc m;
    xp_route_desc t;
    xp_plan *plan;
    xp_routing *r;
    float *buf = malloc(TOKENS * DIM * sizeof *buf);
    if (!buf) {
        snprintf(why, WORLD_TEXT, "no memory");
        return;
    }
    for (size_t i = 0; i < TOKENS * DIM; i++)
        buf[i] = rank == 0 ? value(i) : 0;
    for (size_t i = 0; rank == 0 && i < TOKENS; i++)
        expert[i] = 1;
    plan_of(&d, &m, arg);
    xp_route_desc_init(&t);
    t.tokens = rank == 0 ? TOKENS : 0;
    t.topk = 1;
    t.expert = expert;
    if (xp_plan_create(&plan, comm, &d) != XP_OK || xp_route(plan, &t, &r) != XP_OK || step(plan, r, rank, buf, why) != XP_OK) {
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
        return;
    }
    xp_routing_destroy(r);
    xp_plan_destroy(plan);
    free(buf);
}

int main(int argc, char **argv)
{
    double free_bytes = (double)sysconf(_SC_AVPHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    struct world w = {{1, 1}, .timeout = 200, .no_watchdog = 1};
    if (free_bytes < 17e9) {
        printf("large_moe: %.1f GB of memory are free, 17 are needed\n", free_bytes / 1e9);
        return 77;
    }
    const char *why = world_run(&w, body, argc > 1 ? argv[1] : (void *)"flat");
    printf("large_moe: %s\n", why[0] ? why : "passed");
    return why[0] != 0;
}
