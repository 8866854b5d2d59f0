/*
 * kill_rank.c - a rank dies, stops or leaves at a given point: every other rank gets an error that names it, soon, and can go on
 *
 * usage: kill_rank [shm|auto|tcp|ucx] [random COUNT [SEED]]
 *
 * Each case: N processes exchange in a loop; the victim ends itself (or stops) at its point. A survivor checks the time
 * since then, the text, that nothing of the old comm is left in the process, and that a fresh comm of the survivors works.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/harness/board.h"
#include "tests/harness/clock.h"
#include "tests/harness/procs.h"
#include "tests/harness/random.h"

#define DEADLINE "2"
#define SOON 2.0
#define ROWS 64u
#define DIM 4096u
#define STEPS 1000000

enum point { IN_COMPUTE, IN_BARRIER, BEFORE_EXCHANGE, IN_EXCHANGE, IN_DESTROY, POINTS, AT_RANDOM };
static const char *const point_name[] = {"in compute", "in barrier", "before exchange", "in exchange", "in destroy", "", "at random"};

enum fate { KILLED, EXITED, LEFT, STOPPED };
static const char *const fate_name[] = {"killed", "exits", "leaves in good order", "stopped"};

struct trial {
    int n, nodes, victim;
    enum point point;
    enum fate fate;
    const char *transport;
    int no_reap;
    double delay; /* AT_RANDOM: seconds after the start, so that the start-up is hit as well */
};

static struct procs second; /* the group of the survivors */

static int count_entries(const char *folder)
{
    DIR *d = opendir(folder);
    int n = 0;

    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

static void *nothing(void *arg)
{
    return arg;
}

/* A thread that has been joined may take a moment to disappear from the count. */
#define MOMENT 0.01

/* Threads of this process once a first one has come and gone: it may bring others that stay (a sanitizer's). */
static int settled_threads(void)
{
    pthread_t t;
    int count, same = 0;

    if (pthread_create(&t, NULL, nothing, NULL) == 0)
        pthread_join(t, NULL);
    count = count_entries("/proc/self/task");
    while (same < 3) {
        clock_nap(MOMENT);
        int again = count_entries("/proc/self/task");
        same = again == count ? same + 1 : 0;
        count = again;
    }
    return count;
}

/* Descriptors and threads as before? */
static int nothing_left(int fds, int threads)
{
    for (int i = 0; i < 50; i++) {
        if (count_entries("/proc/self/fd") == fds && count_entries("/proc/self/task") == threads)
            return 1;
        clock_nap(MOMENT);
    }
    return 0;
}

/* Does not return, except when the victim leaves in good order. */
static void meet_fate(const struct trial *t, xp_comm *comm)
{
    board->when = clock_now();
    if (t->fate == KILLED)
        raise(SIGKILL);
    if (t->fate == EXITED)
        _exit(0);
    if (t->fate == STOPPED)
        raise(SIGSTOP);
    xp_comm_destroy(comm);
    exit(0);
}

struct buffers {
    char *send, *recv;
    size_t rows[PROCS_MAX];
};

static xp_status one_step(const struct trial *t, xp_comm *comm, xp_plan *plan, struct buffers *b, int step)
{
    int mine = xp_comm_rank(comm) == t->victim && step == 20;
    xp_request *req = NULL;
    xp_status s;

    if (mine && t->point == IN_BARRIER)
        meet_fate(t, comm);
    s = xp_comm_barrier(comm);
    if (s != XP_OK)
        return s;
    if (mine && t->point == IN_COMPUTE)
        meet_fate(t, comm);
    clock_nap(0.001);
    if (mine && t->point == BEFORE_EXCHANGE)
        meet_fate(t, comm);
    s = xp_alltoallv(plan, b->send, b->rows, b->recv, b->rows, &req);
    if (s != XP_OK)
        return s;
    if (mine && t->point == IN_EXCHANGE) {
        xp_request_test(req);
        meet_fate(t, comm);
    }
    s = xp_request_wait(req);
    xp_request_free(req);
    return s;
}

/* Runs until something fails. */
static xp_status run_steps(const struct trial *t, xp_comm *comm, char *error, size_t size)
{
    struct buffers b = {calloc((size_t)t->n * ROWS, DIM), calloc((size_t)t->n * ROWS, DIM), {0}};
    xp_plan_desc d;
    xp_plan *plan = NULL;
    xp_status s;

    for (int r = 0; r < t->n; r++)
        b.rows[r] = ROWS;
    xp_plan_desc_init(&d);
    d.dtype = XP_BYTE;
    d.dim = DIM;
    d.mode = XP_MODE_RAW;
    d.max_send_rows = d.max_recv_rows = ROWS * (size_t)t->n;
    s = xp_plan_create(&plan, comm, &d);
    for (int step = 0; step < STEPS && s == XP_OK; step++)
        s = one_step(t, comm, plan, &b, step);
    snprintf(error, size, "%s", xp_comm_last_error(comm));
    xp_plan_destroy(plan);
    free(b.send);
    free(b.recv);
    return s;
}

static int fresh_comm_works(const struct trial *t, int rank)
{
    char text[16];
    xp_comm *comm;
    xp_status s;
    int mine = rank < t->victim ? rank : rank - 1;
    int all[PROCS_MAX];

    setenv("CROSSPRESS_TIMEOUT", "10", 1); /* the others may still be within their 2 s of noticing and 2 s of destroying */
    snprintf(text, sizeof(text), "%d", mine);
    setenv("CROSSPRESS_RANK", text, 1);
    snprintf(text, sizeof(text), "%d", t->n - 1);
    setenv("CROSSPRESS_SIZE", text, 1);
    setenv("CROSSPRESS_ROOT", second.root, 1);
    setenv("CROSSPRESS_SECRET", second.secret, 1);
    snprintf(text, sizeof(text), "%d", second.listen_fd);
    setenv("CROSSPRESS_LISTEN_FD", text, 1);
    s = xp_comm_create(&comm, NULL, NULL);
    if (s != XP_OK)
        return board_complain("fresh comm", xp_last_error());
    s = xp_comm_allgather(comm, &rank, all, sizeof(rank));
    if (s != XP_OK)
        return board_complain("gather of the fresh comm", xp_comm_last_error(comm));
    for (int r = 0; r < t->n - 1; r++)
        if (all[r] != (r < t->victim ? r : r + 1))
            return board_complain("gather of the fresh comm", "wrong values");
    xp_comm_destroy(comm);
    return 0;
}

static int check_survivor(const struct trial *t, xp_status s, const char *error, double took)
{
    char name[16];

    snprintf(name, sizeof(name), "rank %d", t->victim);
    if (s != XP_ERR_REMOTE && !(s == XP_ERR_TIMEOUT && t->fate == STOPPED))
        return board_complain(xp_status_string(s), error);
    if (!strstr(error, name))
        return board_complain("the text does not name the rank", error);
    if (took > board->worst)
        board->worst = took;
    if (took > (t->fate == STOPPED ? atof(DEADLINE) + 1.5 : SOON)) {
        snprintf(name, sizeof(name), "%.2f s", took);
        return board_complain("too late", name);
    }
    return 0;
}

/* Killed before the comm was there: the survivors must hear that as well, at the latest when the deadline has passed, and of the victim,
 * not of a peer that gave up for the same reason a moment before. */
static int check_start_up(const struct trial *t, xp_status s)
{
    const char *error = xp_last_error();
    char name[16];

    snprintf(name, sizeof(name), "rank %d", t->victim);
    if ((s != XP_ERR_REMOTE && s != XP_ERR_TIMEOUT) || !strstr(error, "start-up: ") || !strstr(error, name))
        return board_complain("start-up", error);
    if (clock_now() - board->when > atof(DEADLINE) + 1.5)
        return board_complain("start-up", "too late");
    return 0;
}

static int rank_main(int rank, void *arg)
{
    const struct trial *t = arg;
    int fds, threads;
    char error[512] = "";
    double start;
    xp_comm *comm;
    xp_status s;

    threads = settled_threads();
    fds = count_entries("/proc/self/fd");
    setenv("CROSSPRESS_TIMEOUT", DEADLINE, 1);
    setenv("CROSSPRESS_TRANSPORT", t->transport, 1);
    s = xp_comm_create(&comm, NULL, NULL);
    if (s != XP_OK && t->point == AT_RANDOM) /* others may have had a comm by then, so all meet in the fresh one */
        return check_start_up(t, s) != 0 || fresh_comm_works(t, rank) != 0;
    if (s != XP_OK)
        return board_complain("create", xp_last_error());
    if (t->point == IN_DESTROY) { /* all leave together; the victim does not say goodbye */
        xp_comm_barrier(comm);
        if (rank == t->victim)
            meet_fate(t, comm);
        start = clock_now();
        xp_comm_destroy(comm);
    } else {
        s = run_steps(t, comm, error, sizeof(error));
        if (rank == t->victim) /* a stopped one that was woken at the end */
            return 0;
        if (check_survivor(t, s, error, clock_now() - board->when) != 0)
            return 1;
        start = clock_now();
        xp_comm_destroy(comm);
    }
    if (clock_now() - start > 2.0)
        return board_complain("destroy", "took more than 2 s");
    if (strcmp(t->transport, "shm") == 0 && /* a loaded UCX keeps some of its own */
        !nothing_left(fds, threads)) {
        snprintf(error, sizeof(error), "%d descriptors and %d threads before, %d and %d after", fds, threads,
                 count_entries("/proc/self/fd"), count_entries("/proc/self/task"));
        return board_complain("left behind", error);
    }
    return fresh_comm_works(t, rank);
}

static int run_trial(const struct trial *t)
{
    struct procs p = {.n = t->n, .nodes = t->nodes, .no_reap = t->no_reap};
    int bad = 0;

    board_clear();
    second.n = t->n - 1;
    if (procs_open(&second) != 0 || procs_start(&p, rank_main, (void *)t) != 0)
        return 1;
    close(second.listen_fd);
    if (t->point == AT_RANDOM) {
        clock_nap(t->delay);
        board->when = clock_now();
        kill(p.pid[t->victim], SIGKILL);
    } else if (t->fate == STOPPED) {
        clock_nap(6);
        kill(p.pid[t->victim], SIGKILL);
    }
    procs_wait(&p, 20);
    for (int r = 0; r < t->n; r++)
        bad += r != t->victim && p.code[r] != 0;
    printf("%s %d ranks on %d node%s over %-4s rank %d %s %s%s: worst %.0f ms%s%s\n", bad ? "FAIL" : "ok  ", t->n, t->nodes,
           t->nodes > 1 ? "s" : "", t->transport, t->victim, fate_name[t->fate], point_name[t->point],
           t->no_reap ? ", not reaped" : "", 1000 * board->worst, bad ? ": " : "", bad ? board->failure : "");
    fflush(stdout);
    return bad != 0;
}

static int run_random(const char *transport, int nodes, int count, uint64_t seed)
{
    struct random rnd = random_seeded(seed);
    int bad = 0;

    printf("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < count; i++) {
        struct trial t = {.nodes = nodes, .point = AT_RANDOM, .fate = KILLED, .transport = transport};
        t.n = random_below(&rnd, 2) ? 4 : 8;
        t.victim = (int)random_below(&rnd, (size_t)t.n);
        t.no_reap = (int)random_below(&rnd, 2);
        t.delay = 0.25 * random_unit(&rnd) * random_unit(&rnd);
        bad += run_trial(&t);
    }
    printf("%d passed, %d failed\n", count - bad, bad);
    return bad != 0;
}

int main(int argc, char **argv)
{
    const char *transport = argc > 1 ? argv[1] : "shm";
    int nodes = strcmp(transport, "shm") == 0 ? 1 : 2, failed = 0, trials = 0;

    setenv("UCX_NET_DEVICES", "lo", 0);
    if (board_open() != 0)
        return 1;
    if (argc > 3 && strcmp(argv[2], "random") == 0)
        return run_random(transport, nodes, atoi(argv[3]), argc > 4 ? strtoull(argv[4], NULL, 10) : (uint64_t)(1e6 * clock_now()));
    for (enum point at = 0; at < POINTS; at++) {
        for (int victim = 0; victim < 4; victim += 3) {
            struct trial t = {4, nodes, victim, at, KILLED, transport, victim == 3};
            failed += run_trial(&t);
            trials++;
        }
    }
    const struct trial others[] = {
        {4, nodes, 2, IN_EXCHANGE, EXITED, transport, 0},
        {4, nodes, 2, BEFORE_EXCHANGE, LEFT, transport, 0},
        {4, nodes, 0, IN_BARRIER, LEFT, transport, 0},
        {4, nodes, 1, BEFORE_EXCHANGE, STOPPED, transport, 0},
        {4, nodes, 0, IN_BARRIER, STOPPED, transport, 0},
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++, trials++)
        failed += run_trial(&others[i]);
    printf("%d passed, %d failed\n", trials - failed, failed);
    return failed != 0;
}
