/*
 * comm_threads.c - comms of threads, many at a time: gathers, revocation, misuse; meant for ThreadSanitizer
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/comm.h"
#include "tests/harness/expect.h"
#include "tests/harness/ranks.h"

static int failed, passed;

static void verdict(int ok, const char *what, const char *detail)
{
    printf("%s %s%s%s\n", ok ? "ok  " : "FAIL", what, detail[0] ? ": " : "", detail);
    failed += !ok;
    passed += ok;
}

/* ------------------------------------------------------------------------------------------------- gathers */

static xp_status gather_often(xp_comm *c, void *arg)
{
    int n = xp_comm_size(c), rank = xp_comm_rank(c);
    const int rounds = *(const int *)arg;
    int all[RANKS_MAX];

    for (int i = 0; i < rounds; i++) {
        int mine = 1000 * i + rank;
        xp_status s = xp_comm_allgather(c, &mine, all, sizeof(mine));

        for (int r = 0; r < n && s == XP_OK; r++)
            if (all[r] != 1000 * i + r)
                s = XP_ERR_CORRUPT;
        if (s == XP_OK && i % 7 == rank % 7)
            s = xp_comm_barrier(c);
        else if (s == XP_OK)
            s = xp_comm_allgather(c, NULL, NULL, 0); /* the same thing */
        if (s != XP_OK)
            return s;
    }
    return XP_OK;
}

/* 1 MiB of each rank, so that results come in pieces and sockets fill up. */
static xp_status gather_much(xp_comm *c, void *arg)
{
    size_t len = 1u << 20, n = (size_t)xp_comm_size(c);
    unsigned char *mine = malloc(len), *all = malloc(n * len);
    xp_status s = XP_ERR_NO_MEMORY;

    (void)arg;
    if (mine && all) {
        memset(mine, 'a' + xp_comm_rank(c), len);
        s = xp_comm_allgather(c, mine, all, len);
        for (size_t r = 0; r < n && s == XP_OK; r++)
            for (size_t i = 0; i < len; i += 4093)
                if (all[r * len + i] != 'a' + r)
                    s = XP_ERR_CORRUPT;
    }
    free(mine);
    free(all);
    return s;
}

static void *one_group(void *arg)
{
    struct ranks r = {.n = 3, .log = expect_log, .log_user = arg, .watchdog_s = -1};
    int rounds = 30;

    return (void *)(intptr_t)ranks_run(&r, gather_often, &rounds);
}

/* Several groups of one process at the same time. */
static void many_groups(void)
{
    struct expect log = {0};
    pthread_t t[4];
    intptr_t bad = 0;

    for (int i = 0; i < 4; i++)
        if (pthread_create(&t[i], NULL, one_group, &log) != 0)
            abort();
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(t[i], &result);
        bad += (intptr_t)result;
    }
    verdict(bad == 0 && log.unexpected == 0, "4 groups at once", log.first);
}

/* ---------------------------------------------------------------------------------------------- revocation */

static xp_status revoke_in_the_middle(xp_comm *c, void *arg)
{
    (void)arg;
    for (int i = 0;; i++) {
        xp_status s;

        if (i == 50 && xp_comm_rank(c) == 2)
            return xp_comm_revoke(c, XP_ERR_CORRUPT, "rank 2 has had enough");
        s = i % 2 ? xp_comm_barrier(c) : xp_comm_health(c);
        if (s != XP_OK)
            return s;
    }
}

static void revocation(void)
{
    struct expect log = {.allow = {"rank 2 has had enough"}};
    struct ranks r = {.n = 5, .log = expect_log, .log_user = &log};
    int ok = 1;

    ranks_run(&r, revoke_in_the_middle, NULL);
    for (int i = 0; i < r.n; i++)
        ok &= r.status[i] == XP_ERR_CORRUPT && strcmp(r.error[i], "rank 2 has had enough") == 0;
    verdict(ok && log.unexpected == 0, "a revoked comm fails everywhere with the same text", log.first);
}

/* -------------------------------------------------------------------------------------------------- misuse */

struct trespass {
    xp_comm *comm;
    atomic_int inside;
    int refused, served;
};

static void *trespasser(void *arg)
{
    struct trespass *t = arg;

    while (!atomic_load(&t->inside))
        sched_yield();
    for (int i = 0; i < 100; i++) {
        xp_status s = xp_comm_enter(t->comm);
        t->refused += s == XP_ERR_STATE;
        t->served += s == XP_OK;
        if (s == XP_OK)
            xp_comm_leave(t->comm);
    }
    return NULL;
}

static xp_status two_threads(xp_comm *c, void *arg)
{
    struct trespass t = {.comm = c};
    pthread_t thread;

    (void)arg;
    if (pthread_create(&thread, NULL, trespasser, &t) != 0 || xp_comm_enter(c) != XP_OK)
        return XP_ERR_SYSTEM;
    atomic_store(&t.inside, 1);
    pthread_join(thread, NULL);
    xp_comm_leave(c);
    return t.refused == 100 && t.served == 0 ? xp_comm_barrier(c) : XP_ERR_INTERNAL;
}

static xp_status lengths_differ(xp_comm *c, void *arg)
{
    char in[16] = {0}, out[16 * RANKS_MAX];
    xp_status s = xp_comm_allgather(c, in, out, xp_comm_rank(c) == 1 ? 16 : 8);

    (void)arg;
    if (s != XP_ERR_MISMATCH || !strstr(xp_comm_last_error(c), "rank 1"))
        return XP_ERR_INTERNAL;
    return xp_comm_allgather(c, in, out, 8); /* the group lives on */
}

/* A forked child can do nothing with the comm, and nothing it does hurts the parent. */
static xp_status fork_a_child(xp_comm *c, void *arg)
{
    int status = 0;
    pid_t child;

    (void)arg;
    if (xp_comm_barrier(c) != XP_OK)
        return XP_ERR_INTERNAL;
    if (xp_comm_rank(c) == 1) {
        child = fork();
        if (child == 0) {
            char in = 1, out[RANKS_MAX];
            int ok = xp_comm_barrier(c) == XP_ERR_STATE && xp_comm_allgather(c, &in, out, 1) == XP_ERR_STATE;
            xp_comm_destroy(c);
            _exit(ok ? 0 : 1);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            return XP_ERR_INTERNAL;
    }
    return xp_comm_barrier(c);
}

static void all_pass(const char *what, int n, rank_fn fn, void *arg, const char *allowed)
{
    struct expect log = {.allow = {allowed}};
    struct ranks r = {.n = n, .log = expect_log, .log_user = &log};
    int bad = ranks_run(&r, fn, arg);
    const char *text = log.first;

    for (int i = 0; i < n && !text[0]; i++)
        if (r.status[i] != XP_OK)
            text = r.error[i][0] ? r.error[i] : xp_status_string(r.status[i]);
    verdict(bad == 0 && log.unexpected == 0, what, text);
}

int main(void)
{
    const int sizes[] = {1, 2, 3, 8, 11};
    char what[64];
    int rounds = 100;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        snprintf(what, sizeof(what), "gathers of %d ranks", sizes[i]);
        all_pass(what, sizes[i], gather_often, &rounds, NULL);
    }
    all_pass("gather of 1 MiB a rank", 5, gather_much, NULL, NULL);
    all_pass("two threads in one comm", 2, two_threads, NULL, NULL);
    all_pass("gather with different lengths", 3, lengths_differ, NULL, "gathers 16 bytes");
    all_pass("a forked child", 3, fork_a_child, NULL, NULL);
    many_groups();
    revocation();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
