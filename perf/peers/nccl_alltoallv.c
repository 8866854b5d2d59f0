/*
 * nccl_alltoallv.c - token rows to the ranks of their experts through NCCL, as a framework does it, with or without the interposer
 *
 *   RANK, WORLD_SIZE as torchrun sets them; NCCL_ID_FILE: a file that all ranks reach, not there yet
 *   fabric.sh run 4 1 -- nccl_alltoallv --tokens 4096 --input X.npy --topk LOGITS.npy --k 8 --experts 16 --check
 *
 * Every (token, expert) is a row of its own, as in the dispatch of a plain all-to-all layer. Each rank posts a send and a receive for
 * every rank, empty ones included; --even sends equal parts by ncclAlltoAll instead. NCCL and the CUDA runtime are opened at run time,
 * so this needs neither to be built and runs on their test doubles. Prints best and median milliseconds of the slowest rank.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/interpose/cuda_abi.h"
#include "lib/interpose/nccl_abi.h"
#include "perf/bench.h"
#include "perf/routing.h"
#include "perf/rows.h"

#define WARM_UP 10 /* the interposer judges within these whether it pays */
#define ITERS_MAX 1000

struct run {
    int rank, n, iters, k, experts, even, check;
    size_t tokens;
    double eps;
    struct row_source rows;
    struct routing_source routing;
    size_t *send_rows, *recv_rows, total_send, total_recv;
    char *host_send, *host_recv, *send, *recv, *scratch;
    ncclComm_t comm;
    cudaStream_t stream;
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "nccl_alltoallv: %s%s%s\n", what, why ? ": " : "", why ? why : "");
    exit(1);
}

static void must(int result, const char *what)
{
    char text[16];
    snprintf(text, sizeof text, "%d", result);
    if (result != 0)
        die(what, text);
}
#define MUST(call) must((int)(call), #call)

static void *room(size_t bytes)
{
    void *p = calloc(1, bytes + 64);
    if (!p)
        die("no memory", NULL);
    return p;
}

/* ---- NCCL and CUDA, opened --------------------------------------------------------------------------------------- */

#define FUNCTIONS(F) \
    F(ncclGetUniqueId) F(ncclCommInitRank) F(ncclCommDestroy) F(ncclGroupStart) F(ncclGroupEnd) F(ncclSend) F(ncclRecv) F(ncclAlltoAll) \
    F(ncclAllGather) F(cudaSetDevice) F(cudaMalloc) F(cudaMemcpyAsync) F(cudaStreamCreateWithFlags) F(cudaStreamSynchronize)

static struct {
#define F(name) __typeof__(&name) name;
    FUNCTIONS(F)
#undef F
} api;

/* RTLD_DEFAULT first: that is where a preloaded library stands. */
static void *find(const char *name)
{
    void *fn = dlsym(RTLD_DEFAULT, name);
    if (!fn)
        die("not found", name);
    return fn;
}

static void open_libraries(void)
{
    if (!dlopen("libcudart.so.13", RTLD_NOW | RTLD_GLOBAL) && !dlopen("libcudart.so.12", RTLD_NOW | RTLD_GLOBAL))
        die("libcudart", dlerror());
    if (!dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) || !dlopen("libnccl.so.2", RTLD_NOW | RTLD_GLOBAL))
        die("libcuda or libnccl", dlerror());
#define F(name) api.name = (__typeof__(api.name))find(#name);
    FUNCTIONS(F)
#undef F
}

static ncclUniqueId exchange_id(const struct run *x)
{
    const char *path = getenv("NCCL_ID_FILE");
    char temporary[4096];
    ncclUniqueId id;
    FILE *f;

    if (!path)
        die("NCCL_ID_FILE is not set", NULL);
    if (x->rank == 0) {
        MUST(api.ncclGetUniqueId(&id));
        snprintf(temporary, sizeof temporary, "%s.new", path);
        f = fopen(temporary, "wb");
        if (!f || fwrite(&id, sizeof id, 1, f) != 1 || fclose(f) != 0 || rename(temporary, path) != 0)
            die("cannot write", path);
        return id;
    }
    for (int i = 0; i < 600; i++, usleep(50000)) {
        f = fopen(path, "rb");
        if (!f)
            continue;
        size_t got = fread(&id, sizeof id, 1, f);
        fclose(f);
        if (got == 1)
            return id;
    }
    die("no id in", path);
    return id;
}

/* ---- what goes where ----------------------------------------------------------------------------------------------- */

static int rank_of_expert(const struct run *x, int expert)
{
    return (int)((long)expert * x->n / x->experts);
}

/* Calls row(x, number, rank, user) for every row that `from` sends to `to`, in order. */
static void for_rows(const struct run *x, int from, int to, void (*row)(const struct run *x, uint64_t number, void *user), void *user)
{
    int32_t expert[ROUTING_MAX_K];
    float weight[ROUTING_MAX_K];

    for (size_t t = 0; t < x->tokens; t++) {
        uint64_t number = (uint64_t)from * x->tokens + t;
        if (x->even) {
            if ((long)(t * (size_t)x->n / x->tokens) == to)
                row(x, number, user);
            continue;
        }
        routing_get(&x->routing, number, expert, weight);
        for (int k = 0; k < x->k; k++)
            if (expert[k] >= 0 && rank_of_expert(x, expert[k]) == to)
                row(x, number, user);
    }
}

static void count_row(const struct run *x, uint64_t number, void *user)
{
    (void)x;
    (void)number;
    ++*(size_t *)user;
}

static void write_row(const struct run *x, uint64_t number, void *user)
{
    char **at = user;
    rows_get(&x->rows, number, *at);
    *at += x->rows.row_bytes;
}

struct comparison {
    const char *at;
    char *want;
    double worst;
};

static void compare_row(const struct run *x, uint64_t number, void *user)
{
    struct comparison *c = user;
    rows_get(&x->rows, number, c->want);
    c->worst = fmax(c->worst, rows_distance(&x->rows, c->want, c->at));
    c->at += x->rows.row_bytes;
}

static void make_buffers(struct run *x)
{
    x->send_rows = room((size_t)x->n * sizeof(size_t));
    x->recv_rows = room((size_t)x->n * sizeof(size_t));
    for (int p = 0; p < x->n; p++) {
        for_rows(x, x->rank, p, count_row, &x->send_rows[p]);
        for_rows(x, p, x->rank, count_row, &x->recv_rows[p]);
        x->total_send += x->send_rows[p];
        x->total_recv += x->recv_rows[p];
    }
    char *at = x->host_send = room(x->total_send * x->rows.row_bytes);
    x->host_recv = room(x->total_recv * x->rows.row_bytes);
    for (int p = 0; p < x->n; p++)
        for_rows(x, x->rank, p, write_row, &at);
    MUST(api.cudaMalloc((void **)&x->send, x->total_send * x->rows.row_bytes + 64));
    MUST(api.cudaMalloc((void **)&x->recv, x->total_recv * x->rows.row_bytes + 64));
    MUST(api.cudaMalloc((void **)&x->scratch, ((size_t)x->n + 1) * ITERS_MAX * sizeof(double)));
    MUST(api.cudaMemcpyAsync(x->send, x->host_send, x->total_send * x->rows.row_bytes, xp_cudaMemcpyDefault, x->stream));
    MUST(api.cudaStreamSynchronize(x->stream));
}

/* ---- the exchange -------------------------------------------------------------------------------------------------- */

static ncclDataType_t element(const struct run *x)
{
    return x->rows.dtype == XP_BF16 ? ncclBfloat16 : x->rows.dtype == XP_F16 ? ncclFloat16 : ncclFloat32;
}

static void exchange(struct run *x)
{
    size_t at = 0, from = 0, dim = x->rows.dim, bytes = x->rows.row_bytes;

    if (x->even) {
        MUST(api.ncclAlltoAll(x->send, x->recv, x->tokens / (size_t)x->n * dim, element(x), x->comm, x->stream));
        return;
    }
    MUST(api.ncclGroupStart());
    for (int p = 0; p < x->n; p++) {
        MUST(api.ncclSend(x->send + at * bytes, x->send_rows[p] * dim, element(x), p, x->comm, x->stream));
        MUST(api.ncclRecv(x->recv + from * bytes, x->recv_rows[p] * dim, element(x), p, x->comm, x->stream));
        at += x->send_rows[p];
        from += x->recv_rows[p];
    }
    MUST(api.ncclGroupEnd());
}

/* Everybody's numbers; also a barrier. */
static void gather(struct run *x, const double *mine, double *all, size_t count)
{
    MUST(api.cudaMemcpyAsync(x->scratch, mine, count * sizeof(double), xp_cudaMemcpyDefault, x->stream));
    MUST(api.ncclAllGather(x->scratch, x->scratch + count * sizeof(double), count, ncclFloat64, x->comm, x->stream));
    MUST(api.cudaMemcpyAsync(all, x->scratch + count * sizeof(double), (size_t)x->n * count * sizeof(double), xp_cudaMemcpyDefault, x->stream));
    MUST(api.cudaStreamSynchronize(x->stream));
}

static void time_and_report(struct run *x)
{
    double *seconds = room((size_t)x->iters * sizeof(double)), *all = room((size_t)(x->n * x->iters) * sizeof(double)), zero = 0;

    for (int i = -WARM_UP; i < x->iters; i++) {
        gather(x, &zero, all, 1);
        double start = bench_now();
        exchange(x);
        MUST(api.cudaStreamSynchronize(x->stream));
        if (i >= 0)
            seconds[i] = bench_now() - start;
    }
    gather(x, seconds, all, (size_t)x->iters);
    for (int i = 0; i < x->iters; i++)
        for (int p = 0; p < x->n; p++)
            seconds[i] = fmax(seconds[i], all[p * x->iters + i]);
    if (x->rank == 0) {
        double best = bench_best(seconds, (size_t)x->iters);
        printf("%d ranks, %zu tokens of %zu values, %s: best %.3f ms, median %.3f ms\n", x->n, x->tokens, x->rows.dim,
               x->even ? "ncclAlltoAll" : "sends and receives", 1e3 * best, 1e3 * bench_median(seconds, (size_t)x->iters));
    }
    free(seconds);
    free(all);
}

static int check(struct run *x)
{
    struct comparison c = {x->host_recv, room(x->rows.row_bytes), 0};
    double *all = room((size_t)x->n * sizeof(double));

    MUST(api.cudaMemcpyAsync(x->host_recv, x->recv, x->total_recv * x->rows.row_bytes, xp_cudaMemcpyDefault, x->stream));
    MUST(api.cudaStreamSynchronize(x->stream));
    for (int p = 0; p < x->n; p++)
        for_rows(x, p, x->rank, compare_row, &c);
    gather(x, &c.worst, all, 1);
    for (int p = 0; p < x->n; p++)
        c.worst = fmax(c.worst, all[p]);
    if (x->rank == 0)
        printf("check: %zu rows at rank 0, largest error of a row %.3g (allowed %.3g)\n", x->total_recv, c.worst, x->eps);
    return c.worst > x->eps;
}

/* ---- command line ---------------------------------------------------------------------------------------------------- */

static const struct option long_options[] = {{"tokens", 1, NULL, 't'},  {"input", 1, NULL, 'i'}, {"topk", 1, NULL, 'l'}, {"k", 1, NULL, 'k'},
                                             {"experts", 1, NULL, 'e'}, {"dim", 1, NULL, 'd'},   {"data", 1, NULL, 'D'}, {"iters", 1, NULL, 'n'},
                                             {"even", 0, NULL, 'E'},    {"check", 0, NULL, 'c'}, {"eps", 1, NULL, 'p'},  {NULL, 0, NULL, 0}};

static void parse(struct run *x, int argc, char **argv)
{
    const char *input = NULL, *topk = NULL, *data = "gaussian";
    size_t dim = 4096;
    char err[512];
    int c;

    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
        switch (c) {
        case 't': x->tokens = strtoull(optarg, NULL, 10); break;
        case 'i': input = optarg; break;
        case 'l': topk = optarg; break;
        case 'k': x->k = atoi(optarg); break;
        case 'e': x->experts = atoi(optarg); break;
        case 'd': dim = strtoull(optarg, NULL, 10); break;
        case 'D': data = optarg; break;
        case 'n': x->iters = atoi(optarg); break;
        case 'E': x->even = 1; break;
        case 'c': x->check = 1; break;
        case 'p': x->eps = strtod(optarg, NULL); break;
        default: exit(1);
        }
    if (x->iters < 1 || x->iters > ITERS_MAX || x->k < 1 || x->k > ROUTING_MAX_K || x->experts < x->k || x->tokens < 1)
        die("a number is out of range", NULL);
    x->tokens -= x->even ? x->tokens % (size_t)x->n : 0;
    if (input ? rows_open_file(&x->rows, input, 1, err, sizeof err) : (snprintf(err, sizeof err, "unknown data"), rows_open_generated(&x->rows, data, XP_BF16, dim, 1)))
        die(err, NULL);
    if (topk ? routing_open_file(&x->routing, topk, NULL, x->k, x->experts, err, sizeof err) : routing_open_generated(&x->routing, "uniform", x->k, x->experts, 1))
        die(topk ? err : "routing", NULL);
}

int main(int argc, char **argv)
{
    struct run x = {.iters = 10, .k = 8, .experts = 16, .tokens = 4096};
    const char *rank = getenv("RANK"), *size = getenv("WORLD_SIZE"), *local = getenv("LOCAL_RANK");
    int failed = 0;

    if (!rank || !size)
        die("RANK and WORLD_SIZE are not set (torchrun, fabric.sh run)", NULL);
    x.rank = atoi(rank);
    x.n = atoi(size);
    open_libraries();
    parse(&x, argc, argv);
    MUST(api.cudaSetDevice(local ? atoi(local) : 0));
    MUST(api.ncclCommInitRank(&x.comm, x.n, exchange_id(&x), x.rank));
    MUST(api.cudaStreamCreateWithFlags(&x.stream, xp_cudaStreamNonBlocking));
    make_buffers(&x);
    time_and_report(&x);
    if (x.check)
        failed = check(&x);
    MUST(api.ncclCommDestroy(x.comm));
    return failed;
}
