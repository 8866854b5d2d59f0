/*
 * test_start.c - start-ups that fail: every other rank hears in time which rank is missing
 *
 * Ranks are processes. A rank that is to die does so where it first opens the shared memory of a peer, which is when all have met and
 * exchange addresses; this program's shm_open is the library's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crosspress/crosspress.h"
#include "tests/harness/clock.h"
#include "tests/harness/procs.h"

#define BAD_TEXT 1
#define BAD_TIME 2

/* What befalls this process when it opens a peer's segment. */
static int dies_there;
static double sleeps_there;

int shm_open(const char *name, int flags, mode_t mode)
{
    int (*real)(const char *, int, mode_t) = (int (*)(const char *, int, mode_t))dlsym(RTLD_NEXT, "shm_open");

    if ((flags & (O_RDWR | O_CREAT)) == O_RDWR) {
        if (dies_there)
            raise(SIGKILL);
        clock_nap(sleeps_there);
    }
    return real(name, flags, mode);
}

/* Creates a comm, which must fail within that time for want of the rank that the text names. An exit code. */
static int create_in_vain(const char *want, double seconds)
{
    const double start = clock_now();
    xp_comm *comm;
    const xp_status s = xp_comm_create(&comm, NULL, NULL);

    if ((s != XP_ERR_REMOTE && s != XP_ERR_TIMEOUT) || strncmp(xp_last_error(), "start-up: ", 10) != 0 || !strstr(xp_last_error(), want)) {
        fprintf(stderr, "%s: \"%s\" does not say \"%s\"\n", xp_status_string(s), s == XP_OK ? "" : xp_last_error(), want);
        return BAD_TEXT;
    }
    if (clock_now() - start > seconds) {
        fprintf(stderr, "after %.1f s: %s\n", clock_now() - start, xp_last_error());
        return BAD_TIME;
    }
    return 0;
}

/* Rank 1's deadline comes long before that of rank 0, as where rank 0 was started late; rank 2 never comes. */
static int wait_for_rank_2(int rank, void *arg)
{
    (void)arg;
    setenv("CROSSPRESS_TIMEOUT", rank == 0 ? "20" : "1", 1);
    return create_in_vain("only 2 of 3 ranks came; missing: rank 2", 6);
}

Test(start, the_first_deadline_counts_and_the_missing_are_named, .timeout = 60)
{
    struct procs p = {.n = 3};

    cr_assert_eq(procs_open(&p), 0);
    for (int r = 0; r < 2; r++)
        cr_assert_eq(procs_start_rank(&p, r, wait_for_rank_2, NULL), 0);
    close(p.listen_fd);
    cr_assert_eq(procs_wait(&p, 30), 0, "rank 0: %d, rank 1: %d", p.code[0], p.code[1]);
}

/* The same where rank 1 was stopped when its deadline passed, and comes back when an answer is long due. Rank 0 needs a moment for it. */
Test(start, a_rank_that_wakes_after_its_deadline_still_asks, .timeout = 60)
{
    struct procs p = {.n = 3};

    cr_assert_eq(procs_open(&p), 0);
    for (int r = 0; r < 2; r++)
        cr_assert_eq(procs_start_rank(&p, r, wait_for_rank_2, NULL), 0);
    close(p.listen_fd);
    clock_nap(0.5);
    kill(p.pid[0], SIGSTOP);
    kill(p.pid[1], SIGSTOP);
    clock_nap(2.5);
    kill(p.pid[1], SIGCONT);
    clock_nap(0.3);
    kill(p.pid[0], SIGCONT);
    cr_assert_eq(procs_wait(&p, 30), 0, "rank 0: %d, rank 1: %d", p.code[0], p.code[1]);
}

/* Rank 1 dies. Rank 0 hears of it and leaves, its segment with it, before rank 2 looks for that. */
static int lose_rank_1(int rank, void *arg)
{
    (void)arg;
    setenv("CROSSPRESS_TIMEOUT", "10", 1);
    setenv("CROSSPRESS_TRANSPORT", "shm", 1);
    dies_there = rank == 1;
    sleeps_there = rank == 2 ? 1 : 0;
    return create_in_vain("rank 1 is gone", 4);
}

Test(start, a_death_is_named_not_what_came_of_it, .timeout = 60)
{
    struct procs p = {.n = 3};

    cr_assert_eq(procs_start(&p, lose_rank_1, NULL), 0);
    procs_wait(&p, 30);
    cr_assert_eq(p.code[1], PROCS_KILLED);
    cr_assert(p.code[0] == 0 && p.code[2] == 0, "rank 0: %d, rank 2: %d", p.code[0], p.code[2]);
}
