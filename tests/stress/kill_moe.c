/*
 * kill_moe.c - a rank dies somewhere in a step of a MoE layer: every other rank gets an error that names it, soon
 *
 * usage: kill_moe [shm|auto|tcp|ucx] [COUNT [SEED]]     COUNT more trials in which it is killed at a random time
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/harness/board.h"
#include "tests/harness/clock.h"
#include "tests/harness/procs.h"
#include "tests/harness/random.h"

#define DEADLINE "5"
#define SOON 2.0
enum { RANKS = 4, TOKENS = 256, DIM = 1024, EXPERTS = 8, TOPK = 2, STEPS = 100000, LAST = 10 };

/* Operations of a step; the victim dies before one, or while it is under way. */
enum { ROUTE, DISPATCH, COMBINE, COMBINE_BACKWARD, DISPATCH_BACKWARD, OPERATIONS };

struct trial {
    int victim, operation, inside;
    const char *algo, *transport;
    double delay; /* > 0: killed from outside, that long after it has its communicator; kill_rank kills during the start-up */
};

struct layer_run {
    const struct trial *t;
    xp_comm *comm;
    xp_plan *plan;
    xp_routing *routing;
    int32_t expert[TOKENS * TOPK];
    float weight[TOKENS * TOPK];
    float *x, *y, *rows, *grad;
    int step;
};

static void die(void)
{
    board->when = clock_now();
    raise(SIGKILL);
}

static xp_status begin(struct layer_run *l, int operation, xp_request **q)
{
    switch (operation) {
    case DISPATCH: return xp_dispatch(l->plan, l->routing, l->x, l->rows, q);
    case COMBINE: return xp_combine(l->plan, l->routing, l->rows, NULL, l->y, q);
    case COMBINE_BACKWARD: return xp_combine_backward(l->plan, l->routing, l->x, l->rows, l->grad, l->weight, q);
    default: return xp_dispatch_backward(l->plan, l->routing, l->grad, NULL, l->y, q);
    }
}

static xp_status operate(struct layer_run *l, int operation)
{
    int mine = xp_comm_rank(l->comm) == l->t->victim && l->t->operation == operation && l->step == LAST;
    xp_request *q;
    if (mine && !l->t->inside)
        die();
    if (operation == ROUTE) {
        xp_route_desc d;
        xp_route_desc_init(&d);
        d.tokens = TOKENS;
        d.topk = TOPK;
        d.expert = l->expert;
        return xp_route(l->plan, &d, &l->routing);
    }
    xp_status st = begin(l, operation, &q);
    if (st != XP_OK)
        return st;
    if (mine) {
        xp_request_test(q);
        die();
    }
    st = xp_request_wait(q);
    xp_request_free(q);
    return st;
}

/* Runs until something fails. */
static xp_status run_layer(struct layer_run *l)
{
    xp_moe_desc m;
    xp_plan_desc d;
    xp_moe_desc_init(&m);
    m.experts = EXPERTS;
    m.max_topk = TOPK;
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = DIM;
    d.max_send_rows = TOKENS;
    d.max_recv_rows = RANKS * TOKENS * TOPK;
    d.mode = XP_MODE_EXACT;
    d.algo = l->t->algo;
    d.moe = &m;
    xp_status st = xp_plan_create(&l->plan, l->comm, &d);
    for (l->step = 0; st == XP_OK && l->step < STEPS; l->step++) {
        l->routing = NULL;
        for (int op = 0; st == XP_OK && op < OPERATIONS; op++)
            st = operate(l, op);
        xp_routing_destroy(l->routing);
    }
    return st;
}

static int rank_main(int rank, void *arg)
{
    const struct trial *t = arg;
    struct layer_run *l = calloc(1, sizeof *l);
    char name[16];
    l->t = t;
    l->x = calloc(TOKENS, DIM * sizeof(float));
    l->y = calloc(TOKENS, DIM * sizeof(float));
    l->rows = calloc(RANKS * TOKENS * TOPK, DIM * sizeof(float));
    l->grad = calloc(RANKS * TOKENS * TOPK, DIM * sizeof(float));
    for (int i = 0; i < TOKENS * TOPK; i++)
        l->expert[i] = i % TOPK * (EXPERTS / TOPK) + (i / TOPK + rank) % (EXPERTS / TOPK);
    setenv("CROSSPRESS_TIMEOUT", DEADLINE, 1);
    setenv("CROSSPRESS_TRANSPORT", t->transport, 1);
    xp_status st = xp_comm_create(&l->comm, NULL, NULL);
    const char *error = xp_last_error();
    if (st == XP_OK) {
        if (rank == t->victim)
            atomic_store(&board->joined, 1);
        st = run_layer(l);
        error = xp_comm_last_error(l->comm);
    }
    double took = clock_now() - board->when;
    int bad = 0;
    snprintf(name, sizeof name, "rank %d", t->victim);
    if (st != XP_ERR_REMOTE || !strstr(error, name))
        bad = board_complain(xp_status_string(st), error);
    else if (took > SOON)
        bad = board_complain("too late", error);
    xp_plan_destroy(l->plan);
    xp_comm_destroy(l->comm);
    free(l->x);
    free(l->y);
    free(l->rows);
    free(l->grad);
    free(l);
    return bad;
}

static void kill_from_outside(const struct trial *t, pid_t victim)
{
    double limit = clock_now() + 30;
    while (!atomic_load(&board->joined) && clock_now() < limit)
        clock_nap(0.001);
    clock_nap(t->delay);
    board->when = clock_now();
    kill(victim, SIGKILL);
}

static int run_trial(const struct trial *t, int nodes)
{
    static const char *const names[] = {"route", "dispatch", "combine", "combine_backward", "dispatch_backward"};
    struct procs p = {.n = RANKS, .nodes = nodes};
    int bad = 0;
    board_clear();
    if (procs_start(&p, rank_main, (void *)t) != 0)
        return 1;
    if (t->delay > 0)
        kill_from_outside(t, p.pid[t->victim]);
    procs_wait(&p, 30);
    for (int r = 0; r < RANKS; r++)
        bad += r != t->victim && p.code[r] != 0;
    printf("%s %s over %s: rank %d killed %s %s%s%s\n", bad ? "FAIL" : "ok  ", t->algo, t->transport, t->victim,
           t->delay > 0 ? "after" : t->inside ? "in" : "before", t->delay > 0 ? "a while" : names[t->operation], bad ? ": " : "",
           bad ? board->failure : "");
    fflush(stdout);
    return bad != 0;
}

int main(int argc, char **argv)
{
    static const char *const algos[] = {"flat", "hier", "leader"};
    const char *transport = argc > 1 ? argv[1] : "shm";
    int nodes = strcmp(transport, "shm") == 0 ? 1 : 2, count = argc > 2 ? atoi(argv[2]) : 0, failed = 0, trials = 0;
    struct random r = random_seeded(argc > 3 ? strtoull(argv[3], NULL, 0) : (uint64_t)(1e6 * clock_now()));
    printf("seed %llu\n", (unsigned long long)r.state);
    setenv("UCX_NET_DEVICES", "lo", 0);
    if (board_open() != 0)
        return 1;
    for (int op = 0; op < OPERATIONS; op++)
        for (int inside = 0; inside < (op == ROUTE ? 1 : 2); inside++, trials++) {
            struct trial t = {.victim = (op + inside) % RANKS, .operation = op, .inside = inside, .algo = algos[trials % 3], .transport = transport};
            failed += run_trial(&t, nodes);
        }
    for (int i = 0; i < count; i++, trials++) {
        struct trial t = {.victim = (int)random_below(&r, RANKS), .algo = algos[i % 3], .transport = transport, .delay = 0.2 * (1.0 - random_unit(&r))};
        failed += run_trial(&t, nodes);
    }
    printf("%d passed, %d failed\n", trials - failed, failed);
    return failed != 0;
}
