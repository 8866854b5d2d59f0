/*
 * wires.c - a transport under test: N ranks, threads or processes, connected over it without a comm
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/harness/clock.h"
#include "tests/harness/wires.h"

struct wires_shared {
    _Atomic int failed, arrived, round, doomed[WIRES_MAX], flag[16];
    _Atomic int pid[WIRES_MAX];
    char text[512];
    struct {
        size_t len;
        char bytes[XP_ADDRESS_MAX];
    } address[WIRES_MAX];
};

struct seat {
    struct wire wire;
    wire_fn fn;
    void *arg;
};

int wire_fail(struct wire *w, const char *fmt, ...)
{
    struct wires_shared *s = w->all->shared;
    char text[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (atomic_exchange(&s->failed, 1) == 0)
        snprintf(s->text, sizeof(s->text), "rank %d: %s", w->rank, text);
    return 1;
}

static int doomed(struct wires_shared *s)
{
    int n = 0;

    for (int r = 0; r < WIRES_MAX; r++)
        n += atomic_load(&s->doomed[r]) != 0;
    return n;
}

void wire_barrier(struct wire *w)
{
    struct wires_shared *s = w->all->shared;
    int round = atomic_load(&s->round);

    atomic_fetch_add(&s->arrived, 1);
    while (atomic_load(&s->round) == round && atomic_load(&s->failed) == 0) {
        int n = w->size - doomed(s);

        if (atomic_load(&s->arrived) >= n) {
            int all = atomic_load(&s->arrived);

            if (all >= n && atomic_compare_exchange_strong(&s->arrived, &all, 0))
                atomic_fetch_add(&s->round, 1);
        }
        usleep(100);
    }
}

pid_t wire_pid(struct wire *w, int rank)
{
    return atomic_load(&w->all->shared->pid[rank]);
}

void wire_doom(struct wire *w, int rank)
{
    atomic_store(&w->all->shared->doomed[rank], 1);
}

_Atomic int *wire_flag(struct wire *w, int i)
{
    return &w->all->shared->flag[i];
}

xp_status wire_wait(struct wire *w, struct xp_op *op, double seconds)
{
    double end = clock_now() + seconds;

    while (op->status == XP_IN_PROGRESS && clock_now() < end && atomic_load(&w->all->shared->failed) == 0) {
        if (w->ops->progress(w->t) == 0)
            sched_yield();
    }
    return op->status;
}

void wire_run_for(struct wire *w, double seconds)
{
    for (double end = clock_now() + seconds; clock_now() < end;) {
        if (w->ops->progress(w->t) == 0)
            usleep(200);
    }
}

static void log_nothing(void *comm, xp_log_level level, const char *fmt, ...)
{
    (void)comm;
    (void)level;
    (void)fmt;
}

static int join(struct wire *w)
{
    static const int one_node[WIRES_MAX], nodes[WIRES_MAX] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    struct wires_shared *s = w->all->shared;
    int local = strcmp(w->ops->name, "shm") == 0;
    struct xp_transport_env env = {w->rank, w->size, local ? one_node : nodes, local ? w->size : 1, 0x7e57000000000000ull + (uint64_t)getppid(),
                                   local ? NULL : "lo", !local, log_nothing, NULL};
    char err[512] = "";

    if (w->all->before != NULL)
        w->all->before(w->rank);
    s->address[w->rank].len = XP_ADDRESS_MAX;
    if (w->ops->open(&w->t, &env, s->address[w->rank].bytes, &s->address[w->rank].len, err, sizeof(err)) != XP_OK)
        return wire_fail(w, "open: %s", err);
    wire_barrier(w);
    for (int p = 0; p < w->size && atomic_load(&s->failed) == 0; p++) {
        if (p != w->rank && w->ops->connect(w->t, p, s->address[p].bytes, s->address[p].len, err, sizeof(err)) != XP_OK)
            wire_fail(w, "connect: %s", err);
    }
    wire_barrier(w);
    w->ops->settled(w->t);
    return atomic_load(&s->failed);
}

static int live(struct seat *seat)
{
    struct wire *w = &seat->wire;
    struct wires_shared *s = w->all->shared;

    if (join(w) == 0 && seat->fn(w, seat->arg) != 0)
        wire_fail(w, "the test says so");
    if (w->t != NULL) {
        double start = clock_now();

        w->ops->close(w->t);
        if (clock_now() - start > 2.2)
            wire_fail(w, "close took %.1f s", clock_now() - start);
    }
    return atomic_load(&s->failed);
}

static void *live_thread(void *arg)
{
    live(arg);
    return NULL;
}

static void run_threads(struct wires *all, struct seat *seat)
{
    pthread_t thread[WIRES_MAX];

    for (int r = 0; r < all->size; r++) {
        if (pthread_create(&thread[r], NULL, live_thread, &seat[r]) != 0)
            abort();
    }
    for (int r = 0; r < all->size; r++)
        pthread_join(thread[r], NULL);
}

static void reap(struct wires *all, double seconds)
{
    struct wires_shared *s = all->shared;
    double end = clock_now() + seconds;
    struct wire someone = {.all = all, .rank = -1};

    for (int left = all->size; left > 0;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);

        if (pid < 0)
            return;
        if (pid == 0) {
            usleep(2000);
            if (clock_now() < end)
                continue;
            wire_fail(&someone, "ranks still there after %.0f s", seconds);
            for (int r = 0; r < all->size; r++)
                kill(atomic_load(&s->pid[r]), SIGKILL);
            end = clock_now() + 5;
            continue;
        }
        left--;
        for (int r = 0; r < all->size; r++) {
            if (atomic_load(&s->pid[r]) == pid && status != 0 && atomic_load(&s->doomed[r]) == 0)
                wire_fail(&someone, "rank %d ended with wait status 0x%x", r, (unsigned)status);
        }
    }
}

static void run_processes(struct wires *all, struct seat *seat, double seconds)
{
    fflush(NULL);
    for (int r = 0; r < all->size; r++) {
        pid_t pid = fork();

        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            exit(live(&seat[r])); /* with exit handlers: a leak checker runs there */
        }
        atomic_store(&all->shared->pid[r], pid);
    }
    reap(all, seconds);
}

const char *wires_run(struct wires *all, wire_fn fn, void *arg, double seconds)
{
    static char text[600];
    struct seat seat[WIRES_MAX];

    all->shared = mmap(NULL, sizeof(*all->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (all->shared == MAP_FAILED || all->size > WIRES_MAX)
        abort();
    for (int r = 0; r < all->size; r++)
        seat[r] = (struct seat){{all->ops, NULL, r, all->size, all}, fn, arg};
    if (all->threads)
        run_threads(all, seat);
    else
        run_processes(all, seat, seconds);
    int failed = atomic_load(&all->shared->failed);
    snprintf(text, sizeof(text), "%s", all->shared->text);
    munmap(all->shared, sizeof(*all->shared));
    return failed ? text : NULL;
}
