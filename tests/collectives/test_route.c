/*
 * test_route.c - routings: what crosses the slow hop on real routings, errors that all ranks see, requests, several routings alive
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/harness/layer.h"

static void run(const struct world *w, world_body body, void *arg, const char *what)
{
    const char *why = world_run(w, body, arg);
    cr_assert(why[0] == 0, "%s: %s", what, why);
}

#define CHECK(ok, ...) \
    do { \
        if (!(ok) && !why[0]) \
            snprintf(why, WORLD_TEXT, __VA_ARGS__); \
    } while (0)

/* ---- rows over the slow hop ------------------------------------------------------------------------------------------ */

enum { TRACE_TOKENS = 1024, TRACE_K = 8, TRACE_EXPERTS = 16, TRACE_DIM = 64 };

struct trace {
    uint8_t topk[TRACE_TOKENS][TRACE_K];
    int k;
    const char *algo;
    xp_mode mode;
};

/* The likeliest experts of every token, best first: with k = 2 the routing that the model was trained with. */
static void trace_read(struct trace *t)
{
    static float logits[TRACE_TOKENS][TRACE_EXPERTS];
    char path[500];
    snprintf(path, sizeof path, "%s/moe_layer2_gate_logits.npy", getenv("XP_TEST_DATA") ? getenv("XP_TEST_DATA") : "tests/data");
    FILE *f = fopen(path, "rb");
    cr_assert(f && fseek(f, 128, SEEK_SET) == 0 && fread(logits, sizeof logits, 1, f) == 1, "cannot read %s", path);
    fclose(f);
    for (int i = 0; i < TRACE_TOKENS; i++)
        for (int k = 0; k < TRACE_K; k++) {
            int best = 0;
            for (int e = 1; e < TRACE_EXPERTS; e++)
                best = logits[i][e] > logits[i][best] ? e : best;
            t->topk[i][k] = (uint8_t)best;
            logits[i][best] = -INFINITY;
        }
}

/* Direct count: copies of a token for other nodes, one for every expert, rank or node there. */
static size_t count_far(const struct trace *t, const xp_comm *c, int rank, size_t tokens)
{
    int ranks = xp_comm_size(c), here = xp_comm_node_of(c, rank);
    size_t n = 0;
    for (size_t i = (size_t)rank * tokens; i < ((size_t)rank + 1) * tokens; i++) {
        char seen[WORLD_MAX] = {0};
        for (int k = 0; k < t->k; k++) {
            int to = t->topk[i][k] * ranks / TRACE_EXPERTS, node = xp_comm_node_of(c, to);
            int place = t->mode == XP_MODE_RAW ? k : strcmp(t->algo, "flat") == 0 ? to : node;
            n += node != here && !seen[place];
            seen[place] |= node != here;
        }
    }
    return n;
}

static void trace_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct trace *t = arg;
    int ranks = xp_comm_size(comm);
    size_t tokens = TRACE_TOKENS / (size_t)ranks;
    xp_moe_desc m;
    xp_plan_desc d;
    xp_route_desc rd;
    xp_plan *plan;
    xp_routing *r;
    xp_moe_desc_init(&m);
    m.experts = TRACE_EXPERTS;
    m.max_topk = TRACE_K;
    m.combine = XP_COMBINE_SUM;
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = TRACE_DIM;
    d.max_send_rows = tokens;
    d.max_recv_rows = TRACE_TOKENS * TRACE_K;
    d.mode = t->mode;
    d.codec = t->mode == XP_MODE_EXACT ? "exact" : NULL; /* "auto" packs rows where the link seems slow, as on a busy machine */
    d.algo = t->algo;
    d.moe = &m;
    int32_t *expert = malloc(tokens * TRACE_K * sizeof *expert);
    float *x = malloc(tokens * TRACE_DIM * sizeof *x), *y = malloc(tokens * TRACE_DIM * sizeof *y);
    for (size_t i = 0; i < tokens * (size_t)t->k; i++)
        expert[i] = t->topk[(size_t)rank * tokens + i / (size_t)t->k][i % (size_t)t->k];
    for (size_t i = 0; i < tokens * TRACE_DIM; i++)
        x[i] = (float)rank + (float)i / 1024;
    xp_route_desc_init(&rd);
    rd.tokens = tokens;
    rd.topk = t->k;
    rd.expert = expert;
    CHECK(xp_plan_create(&plan, comm, &d) == XP_OK && xp_route(plan, &rd, &r) == XP_OK, "%.300s", xp_comm_last_error(comm));
    if (why[0])
        return;
    float *rows = malloc(xp_routing_rows(r) * TRACE_DIM * sizeof *rows + 1);
    size_t want = count_far(t, comm, rank, tokens), head = (size_t)ranks * 3 * 128;
    xp_stats s = {.size = sizeof s};
    xp_plan_stats_reset(plan);
    CHECK(xp_dispatch(plan, r, x, rows, NULL) == XP_OK, "%.300s", xp_comm_last_error(comm));
    xp_plan_stats(plan, &s);
    uint64_t all[2 * WORLD_MAX], mine[2] = {s.hop_rows_slow, want}, sent = 0, wanted = 0;
    xp_comm_allgather(comm, mine, all, sizeof mine);
    for (int i = 0; i < ranks; i++)
        sent += all[2 * i], wanted += all[2 * i + 1];
    CHECK(sent == wanted, "dispatch: %llu rows crossed, not %llu", (unsigned long long)sent, (unsigned long long)wanted);
    if (strcmp(t->algo, "leader") != 0) { /* there leaders send for others */
        CHECK(s.hop_rows_slow == want, "this rank sent %llu rows, not %zu", (unsigned long long)s.hop_rows_slow, want);
        CHECK(s.wire_bytes_slow >= want * TRACE_DIM * 4 && s.wire_bytes_slow <= want * TRACE_DIM * 4 + head,
              "%llu bytes crossed for %zu rows", (unsigned long long)s.wire_bytes_slow, want);
    }
    CHECK(s.calls == 1, "%llu calls, not 1", (unsigned long long)s.calls);
    xp_plan_stats_reset(plan);
    CHECK(xp_combine(plan, r, rows, NULL, y, NULL) == XP_OK, "%.300s", xp_comm_last_error(comm));
    xp_plan_stats(plan, &s);
    xp_comm_allgather(comm, &s.hop_rows_slow, all, sizeof *all);
    sent = 0;
    for (int i = 0; i < ranks; i++)
        sent += all[i];
    size_t rank_pairs = t->mode == XP_MODE_RAW ? sent : wanted; /* in raw mode sums are made per node or rank, not per copy */
    CHECK(sent == rank_pairs && sent <= wanted, "combine: %llu rows crossed, not %llu", (unsigned long long)sent, (unsigned long long)wanted);
    for (size_t i = 0; i < tokens * TRACE_DIM && !why[0]; i++)
        CHECK(fabsf(y[i] - (float)t->k * x[i]) <= 1e-5f * fabsf(y[i]), "y[%zu] is %g, not %g", i, y[i], (float)t->k * x[i]);
    xp_routing_destroy(r);
    xp_plan_destroy(plan);
    free(expert);
    free(x);
    free(y);
    free(rows);
}

Test(route, rows_over_the_slow_hop_of_real_routings)
{
    static const struct world worlds[] = {{{1, 1}}, {{2, 2}}, {{1, 1, 1, 1}}, {{2, 2, 2, 2}}, {{4, 4}, 1}};
    static const char *const algorithms[] = {"flat", "hier", "leader"};
    struct trace t = {.k = 2};
    trace_read(&t);
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        for (int a = 0; a < 3; a++)
            for (int big = 0; big < 2; big++) {
                char text[100];
                t.algo = algorithms[a];
                t.mode = w % 2 && big ? XP_MODE_RAW : XP_MODE_EXACT;
                t.k = big ? 8 : 2;
                snprintf(text, sizeof text, "world %zu, %s, top-%d, mode %d", w, t.algo, t.k, t.mode);
                run(&worlds[w], trace_body, &t, text);
            }
}

/* ---- errors ------------------------------------------------------------------------------------------------------------ */

enum fault { TOO_MANY_TOKENS, TOPK_TOO_LARGE, EXPERT_TOO_LARGE, EXPERT_TWICE, WEIGHT_NAN, RANK_TOO_LARGE, NO_EXPERTS, NO_DESC, MAP_DIFFERS,
             TOO_MANY_ROWS, FAULTS };

static const char *const fault_text[] = {"rank 1: 9 tokens, but the plan's max_send_rows is 8", "rank 1: topk is 3, not in 0 .. 2",
                                         "rank 1: expert 6 of token 1, slot 0 is not in -1 .. 5", "rank 1: token 2 has expert 3 twice",
                                         "rank 1: the weight of token 1, slot 1 is not finite", "rank 1: expert_rank of expert 2 is 4, not in 0 .. 3",
                                         "rank 1: expert is NULL", "rank 1: description and out must be given",
                                         "ranks 0 and 1 have different expert_rank",
                                         "the experts of rank 2 get 32 rows, but its plan's max_recv_rows is 31"};

struct faulty {
    enum fault fault;
    int32_t expert[18], expert_rank[6];
    float weight[18];
    xp_route_desc d;
};

static void make_good(struct faulty *f)
{
    xp_route_desc_init(&f->d);
    for (int i = 0; i < 18; i++) {
        f->expert[i] = i / 2 % 3 + i % 2 * 3;
        f->weight[i] = 1;
    }
    for (int e = 0; e < 6; e++)
        f->expert_rank[e] = e % 4;
    f->d.tokens = 8;
    f->d.topk = 2;
    f->d.expert = f->expert;
    f->d.weight = f->weight;
    f->d.expert_rank = f->expert_rank;
}

static const xp_route_desc *make_faulty(struct faulty *f)
{
    switch (f->fault) {
    case TOO_MANY_TOKENS: f->d.tokens = 9; break;
    case TOPK_TOO_LARGE: f->d.topk = 3; break;
    case EXPERT_TOO_LARGE: f->expert[2] = 6; break;
    case EXPERT_TWICE: f->expert[4] = f->expert[5] = 3; break;
    case WEIGHT_NAN: f->weight[3] = NAN; break;
    case RANK_TOO_LARGE: f->expert_rank[2] = 4; break;
    case NO_EXPERTS: f->d.expert = NULL; break;
    case NO_DESC: return NULL;
    case MAP_DIFFERS: f->expert_rank[5] = 0; break;
    default: break;
    }
    return &f->d;
}

static xp_status expected(enum fault f, int rank)
{
    if (f == MAP_DIFFERS)
        return XP_ERR_MISMATCH;
    return f == TOO_MANY_ROWS || rank == 1 ? XP_ERR_INVALID_ARG : XP_ERR_REMOTE;
}

static void fault_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct faulty f;
    xp_moe_desc m;
    xp_plan_desc d;
    xp_plan *plan;
    xp_routing *r = NULL;
    xp_moe_desc_init(&m);
    m.experts = 6;
    m.max_topk = 2;
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = 4;
    d.max_send_rows = 8;
    d.max_recv_rows = rank == 2 ? 31 : 100;
    d.moe = &m;
    CHECK(xp_plan_create(&plan, comm, &d) == XP_OK, "%.300s", xp_comm_last_error(comm));
    for (f.fault = 0; f.fault < FAULTS && !why[0]; f.fault++) {
        make_good(&f);
        const xp_route_desc *rd = rank == 1 ? make_faulty(&f) : &f.d;
        if (f.fault == TOO_MANY_ROWS)
            for (int i = 0; i < 16; i++)
                f.expert[i] = i % 2 ? -1 : 2;
        xp_status st = xp_route(plan, rd, &r);
        CHECK(st == expected(f.fault, rank), "fault %d: %s: %.200s", f.fault, xp_status_string(st), xp_comm_last_error(comm));
        CHECK(strstr(xp_comm_last_error(comm), fault_text[f.fault]), "fault %d: the text is %.200s", f.fault, xp_comm_last_error(comm));
        /* The plan is as good as before. */
        float x[8][4], rows[100][4], y[8][4];
        for (int i = 0; i < 32; i++)
            x[i / 4][i % 4] = (float)(100 * rank + i);
        make_good(&f);
        st = xp_route(plan, &f.d, &r);
        CHECK(st == XP_OK, "after fault %d: %.200s", f.fault, xp_comm_last_error(comm));
        if (why[0])
            break;
        st = xp_dispatch(plan, r, x, rows, NULL);
        CHECK(st == XP_OK && xp_combine(plan, r, rows, NULL, y, NULL) == XP_OK, "after fault %d: %.200s", f.fault, xp_comm_last_error(comm));
        CHECK(y[7][3] == 2 * x[7][3], "after fault %d: y is %g", f.fault, y[7][3]);
        xp_routing_destroy(r);
    }
    xp_plan_destroy(plan);
}

Test(route, bad_arguments_of_one_rank_are_errors_on_all)
{
    static const struct world w = {{2, 2}, .allow = {"route: "}};
    run(&w, fault_body, NULL, "faults");
}

static void plan_fault_body(xp_comm *comm, int rank, void *arg, char *why)
{
    for (int i = 0; i < 5; i++) {
        static const char *const texts[] = {"moe.experts is 0", "moe.max_topk is 65", "moe.experts 8", "no algorithm is called \"tree\"",
                                            "rows of a MoE layer are"};
        xp_moe_desc m;
        xp_plan_desc d;
        xp_plan *plan = NULL;
        xp_moe_desc_init(&m);
        m.experts = i == 0 && rank == 1 ? 0 : i == 2 && rank == 1 ? 9 : 8;
        m.max_topk = i == 1 && rank == 1 ? 65 : 2;
        xp_plan_desc_init(&d);
        d.dtype = i == 4 && rank == 1 ? XP_BYTE : XP_F32;
        d.dim = 4;
        d.max_send_rows = d.max_recv_rows = 8;
        d.algo = i == 3 && rank == 1 ? "tree" : NULL;
        d.moe = &m;
        xp_status st = xp_plan_create(&plan, comm, &d);
        CHECK(st < 0 && !plan && strstr(xp_comm_last_error(comm), texts[i]), "case %d: %s: %.200s", i, xp_status_string(st),
              xp_comm_last_error(comm));
        CHECK(xp_comm_barrier(comm) == XP_OK, "case %d: the comm is gone", i);
    }
}

Test(route, plans_that_differ_or_make_no_sense_are_refused_everywhere)
{
    static const struct world w = {{1, 1, 1}, .allow = {"plan: "}};
    run(&w, plan_fault_body, NULL, "plans");
}

/* Rank 1 alone gives no rows. */
static void weights_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct layer l = {.tokens = 6, .dim = 8, .experts = 4, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_EXACT, .algo = arg};
    struct layer_step s;
    xp_plan_desc d;
    xp_moe_desc m;
    xp_plan *plan;
    xp_routing *r;
    float weights[12];
    layer_step_make(&s, &l, xp_comm_size(comm), rank, 0);
    layer_plan(&l, xp_comm_size(comm), &d, &m);
    if (xp_plan_create(&plan, comm, &d) != XP_OK || layer_route(&s, plan, &r) != XP_OK || xp_comm_barrier(comm) != XP_OK) {
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
        return;
    }
    size_t rows = xp_routing_rows(r);
    float *out = calloc(rows + 1, 32), *grad = calloc(rows + 1, 32);
    xp_status st = xp_combine_backward(plan, r, s.grad_y, rank == 1 ? NULL : out, grad, rank == 1 ? NULL : weights, NULL);
    CHECK(st == XP_ERR_MISMATCH && strstr(xp_comm_last_error(comm), "rank 1 does not"), "%s: %.300s", xp_status_string(st),
          xp_comm_last_error(comm));
    xp_routing_destroy(r);
    xp_plan_destroy(plan);
    free(out);
    free(grad);
    layer_step_free(&s);
}

Test(route, gradients_of_weights_are_wanted_by_all_or_none)
{
    static const struct world w = {{2, 1}, .allow = {"combine_backward: "}};
    run(&w, weights_body, (void *)"flat", "flat");
    run(&w, weights_body, (void *)"hier", "hier");
    run(&w, weights_body, (void *)"leader", "leader");
}

/* Errors of one rank that no other rank hears of, because nothing has begun. */
static void misuse_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct layer l = {.tokens = 6, .dim = 8, .experts = 4, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_EXACT};
    struct layer_step s;
    xp_plan_desc d;
    xp_moe_desc m;
    xp_plan *a, *b, *plain;
    xp_routing *ra;
    xp_request *q;
    size_t zero[WORLD_MAX] = {0};
    layer_step_make(&s, &l, xp_comm_size(comm), rank, 0);
    layer_plan(&l, xp_comm_size(comm), &d, &m);
    CHECK(xp_plan_create(&a, comm, &d) == XP_OK && xp_plan_create(&b, comm, &d) == XP_OK, "%.300s", xp_comm_last_error(comm));
    d.moe = NULL;
    CHECK(xp_plan_create(&plain, comm, &d) == XP_OK && layer_route(&s, a, &ra) == XP_OK, "%.300s", xp_comm_last_error(comm));
    if (why[0])
        return;
    char *rows = malloc(xp_routing_rows(ra) * 32 + 32), *y = malloc(6 * 32);
    CHECK(xp_dispatch(b, ra, s.x, rows, NULL) == XP_ERR_STATE, "a routing of another plan was taken");
    CHECK(xp_dispatch(plain, ra, s.x, rows, NULL) == XP_ERR_INVALID_ARG, "a plan without moe was taken");
    CHECK(xp_alltoallv(a, NULL, zero, NULL, zero, NULL) == XP_ERR_INVALID_ARG, "alltoallv took a plan with moe");
    CHECK(xp_dispatch(a, NULL, s.x, rows, NULL) == XP_ERR_INVALID_ARG, "no routing was taken");
    CHECK(xp_dispatch(a, ra, NULL, rows, NULL) == XP_ERR_INVALID_ARG, "no rows were taken");
    CHECK(xp_dispatch(a, ra, s.x, s.x, NULL) == XP_ERR_INVALID_ARG || xp_routing_rows(ra) == 0, "overlapping buffers were taken");
    CHECK(xp_combine(a, ra, rows, NULL, NULL, NULL) == XP_ERR_INVALID_ARG, "no output was taken");
    CHECK(xp_combine_backward(a, ra, s.grad_y, NULL, rows, (float *)(void *)y, NULL) == XP_ERR_INVALID_ARG || xp_routing_rows(ra) == 0,
          "grad_weight without rows was taken");
    int32_t cluster[12];
    size_t clusters;
    CHECK(xp_routing_clusters(ra, cluster, NULL, NULL, &clusters) == XP_ERR_STATE, "clusters without folded mode");
    CHECK(xp_dispatch(a, ra, s.x, rows, &q) == XP_OK, "%.300s", xp_comm_last_error(comm));
    CHECK(xp_dispatch(a, ra, s.x, rows, NULL) == XP_ERR_STATE, "two operations at once");
    xp_routing *rb = NULL;
    CHECK(layer_route(&s, a, &rb) == XP_ERR_STATE && !rb, "a route beside a request");
    CHECK(xp_request_wait(q) == XP_OK, "%.300s", xp_comm_last_error(comm));
    CHECK(xp_combine(a, ra, rows, NULL, y, NULL) == XP_ERR_STATE, "a request was not freed");
    xp_request_free(q);
    CHECK(xp_combine(a, ra, rows, NULL, y, NULL) == XP_OK, "%.300s", xp_comm_last_error(comm));
    xp_plan_destroy(a);
    xp_routing_destroy(ra); /* late, but not wrong */
    xp_plan_destroy(b);
    xp_plan_destroy(plain);
    free(rows);
    free(y);
    layer_step_free(&s);
}

Test(route, misuse_is_refused_and_harms_nothing)
{
    static const struct world w = {{2, 1}, .allow = {"dispatch: ", "combine: ", "alltoallv: ", "combine_backward: ", "route: ", "clusters: "}};
    run(&w, misuse_body, NULL, "misuse");
}

/* ---- requests and routings ----------------------------------------------------------------------------------------------- */

/* Two plans with two routings each, posted across each other. */
static void interleaved_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct layer l = {.choice = CHOICE_VARYING, .tokens = 30, .dim = 16, .experts = 9, .topk = 3, .dtype = XP_F32, .mode = XP_MODE_EXACT, .seed = 5};
    struct layer_step s[4];
    xp_plan *plan[2];
    xp_routing *r[4];
    xp_request *q[2];
    char *rows[4], *y[4], *again[4];
    xp_plan_desc d;
    xp_moe_desc m;
    layer_plan(&l, xp_comm_size(comm), &d, &m);
    for (int p = 0; p < 2; p++)
        CHECK(xp_plan_create(&plan[p], comm, &d) == XP_OK, "%.300s", xp_comm_last_error(comm));
    for (int i = 0; i < 4 && !why[0]; i++) {
        layer_step_make(&s[i], &l, xp_comm_size(comm), rank, i);
        CHECK(layer_route(&s[i], plan[i % 2], &r[i]) == XP_OK, "%.300s", xp_comm_last_error(comm));
        rows[i] = calloc(xp_routing_rows(r[i]) + 1, 64);
        y[i] = calloc(s[i].tokens + 1, 64);
        again[i] = calloc(s[i].tokens + 1, 64);
    }
    if (why[0])
        return;
    for (int half = 2; half >= 0; half -= 2) { /* the later routings first */
        for (int back = 0; back < 2; back++) {
            for (int p = 0; p < 2; p++) {
                int i = half + p;
                CHECK((back ? xp_combine(plan[p], r[i], rows[i], NULL, y[i], &q[p]) : xp_dispatch(plan[p], r[i], s[i].x, rows[i], &q[p])) == XP_OK,
                      "%.300s", xp_comm_last_error(comm));
            }
            while (xp_request_test(q[1]) == XP_IN_PROGRESS)
                xp_request_test(q[0]);
            CHECK(xp_request_wait(q[0]) == XP_OK && xp_request_wait(q[1]) == XP_OK, "%.300s", xp_comm_last_error(comm));
            xp_request_free(q[0]);
            xp_request_free(q[1]);
        }
    }
    for (int i = 0; i < 4 && !why[0]; i++) {
        CHECK(xp_combine(plan[i % 2], r[i], rows[i], NULL, again[i], NULL) == XP_OK, "%.300s", xp_comm_last_error(comm));
        CHECK(memcmp(y[i], again[i], s[i].tokens * 64) == 0, "routing %d gives other results", i);
        for (size_t t = 0; t < s[i].tokens && !why[0]; t++) {
            float want = 0;
            for (int k = 0; k < s[i].topk; k++)
                want += s[i].expert[t * 3 + (size_t)k] < 0 ? 0 : s[i].weight[t * 3 + (size_t)k] * ((float *)(void *)s[i].x)[t * 16 + 3];
            CHECK(((float *)(void *)y[i])[t * 16 + 3] == want, "routing %d, token %zu: %g, not %g", i, t, ((float *)(void *)y[i])[t * 16 + 3], want);
        }
    }
    xp_routing *old = r[1];
    xp_routing_destroy(r[1]);
    CHECK(layer_route(&s[1], plan[1], &r[1]) == XP_OK && r[1] == old, "a routing was not used again");
    for (int i = 0; i < 4; i++) {
        xp_routing_destroy(r[i]);
        layer_step_free(&s[i]);
        free(rows[i]);
        free(y[i]);
        free(again[i]);
    }
    xp_plan_destroy(plan[0]);
    xp_plan_destroy(plan[1]);
}

Test(route, plans_and_routings_interleave)
{
    static const struct world w = {{2, 3, 1}};
    run(&w, interleaved_body, NULL, "interleaved");
}

/* A rank that does not come is named when the deadline passes. */
static void absent_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct layer l = {.tokens = 4, .dim = 4, .experts = 6, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_EXACT, .algo = arg};
    struct layer_step s;
    xp_plan_desc d;
    xp_moe_desc m;
    xp_plan *plan;
    xp_routing *r;
    layer_step_make(&s, &l, xp_comm_size(comm), rank, 0);
    layer_plan(&l, xp_comm_size(comm), &d, &m);
    char rows[2000];
    CHECK(xp_plan_create(&plan, comm, &d) == XP_OK && layer_route(&s, plan, &r) == XP_OK, "%.300s", xp_comm_last_error(comm));
    if (rank != 2 && !why[0]) {
        xp_status st = xp_dispatch(plan, r, s.x, rows, NULL);
        const char *text = xp_comm_last_error(comm);
        CHECK(st == XP_ERR_TIMEOUT && strstr(text, "dispatch") && strstr(text, "rank 2"), "%s: %.200s", xp_status_string(st), text);
        xp_routing_destroy(r);
    } else if (!why[0]) {
        nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 800000000}, NULL);
        CHECK(xp_comm_barrier(comm) < 0, "the failure was not noticed");
        xp_routing_destroy(r);
    }
    xp_plan_destroy(plan);
    layer_step_free(&s);
}

Test(route, a_rank_that_stays_away_is_named)
{
    static const struct world w = {{2, 2}, .timeout = 1, .allow = {"waited", "deadline", "rank"}};
    run(&w, absent_body, (void *)"hier", "hier");
}
