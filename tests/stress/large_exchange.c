/*
 * large_exchange.c - more than 2^31 bytes from one rank to another
 *
 *     large_exchange [ALGO]
 *
 * Rank 0 sends 2^31 + 2^24 bytes to rank 1 in one call, on simulated nodes. Needs 5 GB of memory; exit code 77 without it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/harness/world.h"

#define DIM ((size_t)1 << 20)
#define ROWS ((((size_t)1 << 31) + ((size_t)1 << 24)) / DIM)

/* A value that tells its place, cheap to make. */
static uint64_t word(size_t i)
{
    return i * 0x9e3779b97f4a7c15u + 1;
}

static void body(xp_comm *comm, int rank, void *arg, char *why)
{
    xp_plan_desc d;
    xp_plan *plan;
    size_t out[2] = {0, rank == 0 ? ROWS : 0}, in[2] = {rank == 1 ? ROWS : 0, 0}, words = ROWS * DIM / 8;
    xp_plan_desc_init(&d);
    d.dtype = XP_BYTE;
    d.dim = DIM;
    d.max_send_rows = out[1];
    d.max_recv_rows = in[0];
    d.mode = XP_MODE_RAW;
    d.algo = arg;
    uint64_t *buf = malloc(words * 8);
    if (!buf) {
        snprintf(why, WORLD_TEXT, "no memory");
        return;
    }
    for (size_t i = 0; i < words; i++)
        buf[i] = rank == 0 ? word(i) : 0;
    if (xp_plan_create(&plan, comm, &d) != XP_OK ||
        xp_alltoallv(plan, rank == 0 ? buf : NULL, out, rank == 1 ? buf : NULL, in, NULL) != XP_OK) {
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
        return;
    }
    for (size_t i = 0; rank == 1 && i < words && !why[0]; i++)
        if (buf[i] != word(i))
            snprintf(why, WORLD_TEXT, "word %zu is wrong", i);
    xp_plan_destroy(plan);
    free(buf);
}

int main(int argc, char **argv)
{
    double free_bytes = (double)sysconf(_SC_AVPHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    struct world w = {{1, 1}, .timeout = 200, .no_watchdog = 1};
    if (free_bytes < 6e9) {
        printf("large_exchange: %.1f GB of memory are free, 6 are needed\n", free_bytes / 1e9);
        return 77;
    }
    const char *why = world_run(&w, body, argc > 1 ? argv[1] : (void *)"flat");
    printf("large_exchange: %s\n", why[0] ? why : "passed");
    return why[0] != 0;
}
