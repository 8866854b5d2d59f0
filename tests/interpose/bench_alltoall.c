/*
 * bench_alltoall.c - how long an all-to-all of MoE rows takes an NCCL program
 *
 * usage: bench_alltoall random|routed [ROWS [DIM [ITERATIONS]]]
 *
 * random: every rank sends ROWS rows of DIM bfloat16 values, evenly, none like another. routed: every rank has ROWS tokens; each goes to
 * 8 of 64 experts, which lie on the ranks in blocks, one row per expert, as programs do that know nothing of nodes; the values are
 * about normal.
 * Prints, on rank 0: milliseconds of the fastest and the median exchange, and the bytes that left a rank.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPERTS 64
#define TOP 8
#define MOST_ITERATIONS 100

struct load {
    size_t rows[CLIENT_MAX]; /* to each rank */
    size_t total;
    size_t *token;           /* of each row, in the order of the send buffer */
};

static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* TOP different experts for a token, as bits. */
static uint64_t route(int rank, size_t token)
{
    uint64_t chosen = 0, h = mix((uint64_t)rank << 32 | token);

    for (int n = 0; n < TOP; h = mix(h)) {
        uint64_t bit = (uint64_t)1 << h % EXPERTS;
        n += !(chosen & bit);
        chosen |= bit;
    }
    return chosen;
}

/* What rank `from` sends; room for ROWS * TOP tokens is there, or token is NULL. */
static void plan(struct load *l, bool routed, int from, int n, size_t rows)
{
    size_t at = 0;

    for (int to = 0; to < n; to++) {
        size_t first = at;
        for (size_t t = 0; t < rows; t++) {
            uint64_t experts = routed ? route(from, t) : (uint64_t)1 << (t * (size_t)n / rows) * EXPERTS / (size_t)n;
            for (int e = 0; e < EXPERTS; e++)
                if (experts >> e & 1 && e * n / EXPERTS == to) {
                    if (l->token)
                        l->token[at] = t;
                    at++;
                }
        }
        l->rows[to] = at - first;
    }
    l->total = at;
}

/* Four values: bits as they come, or bfloat16 numbers that are about normal. */
static uint64_t four_values(uint64_t key, bool numbers)
{
    uint64_t word = mix(key), out = 0;

    for (int i = 0; i < 4 && numbers; i++, word = mix(word)) {
        float v = -2;
        uint32_t bits;
        for (int k = 0; k < 4; k++)
            v += (float)(word >> 16 * k & 0xffff) / 65536;
        memcpy(&bits, &v, sizeof bits);
        out = out << 16 | bits >> 16;
    }
    return numbers ? out : word;
}

static void fill(const struct load *l, char *device, size_t row, int rank, bool numbers)
{
    char *host = malloc(l->total * row + 8);

    TRUE(host != NULL);
    for (size_t r = 0; r < l->total; r++)
        for (size_t w = 0; w * 8 < row; w++) {
            uint64_t word = four_values(((uint64_t)rank << 48 | (uint64_t)l->token[r] << 20) + w, numbers);
            memcpy(host + r * row + 8 * w, &word, row - 8 * w < 8 ? row - 8 * w : 8);
        }
    CUDA(cudaMemcpy(device, host, l->total * row, xp_cudaMemcpyHostToDevice));
    free(host);
}

static int by_value(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static int rank_main(struct client *c, int argc, char **argv)
{
    bool routed = argc > 1 && strcmp(argv[1], "routed") == 0;
    size_t rows = argc > 2 ? strtoull(argv[2], NULL, 0) : 1024, row = 2 * (argc > 3 ? strtoull(argv[3], NULL, 0) : 1024);
    int iterations = argc > 4 ? atoi(argv[4]) : 10;
    struct load out = {.token = calloc(rows * TOP, sizeof(size_t))}, in[CLIENT_MAX] = {{{0}}};
    ncclComm_t comm = client_comm(c, 0);
    cudaStream_t stream = new_stream();
    double ms[MOST_ITERATIONS];
    size_t arrive = 0;

    TRUE(rows > 0 && row > 0 && iterations > 0 && iterations <= MOST_ITERATIONS && c->n <= CLIENT_MAX && out.token);
    plan(&out, routed, c->rank, c->n, rows);
    for (int p = 0; p < c->n; p++) {
        plan(&in[p], routed, p, c->n, rows);
        arrive += in[p].rows[c->rank];
    }
    char *send = device_alloc(out.total * row), *recv = device_alloc(arrive * row);
    int *flag = device_alloc(sizeof *flag);
    fill(&out, send, row, c->rank, routed);
    for (int i = -3; i < iterations; i++) { /* three to warm up: the layer looks at the first ones */
        size_t from = 0, to = 0;
        NCCL(ncclAllReduce(flag, flag, 1, ncclInt32, ncclSum, comm, stream));
        CUDA(cudaStreamSynchronize(stream));
        double since = client_seconds();
        NCCL(ncclGroupStart());
        for (int p = 0; p < c->n; p++) {
            NCCL(ncclSend(send + from, out.rows[p] * row / 2, ncclBfloat16, p, comm, stream));
            NCCL(ncclRecv(recv + to, in[p].rows[c->rank] * row / 2, ncclBfloat16, p, comm, stream));
            from += out.rows[p] * row;
            to += in[p].rows[c->rank] * row;
        }
        NCCL(ncclGroupEnd());
        NCCL(ncclAllReduce(flag, flag, 1, ncclInt32, ncclSum, comm, stream)); /* until the last rank has everything */
        CUDA(cudaStreamSynchronize(stream));
        if (i >= 0)
            ms[i] = 1e3 * (client_seconds() - since);
    }
    qsort(ms, (size_t)iterations, sizeof *ms, by_value);
    if (c->rank == 0)
        printf("best_ms %.2f median_ms %.2f bytes %zu\n", ms[0], ms[iterations / 2], (out.total - out.rows[0]) * row);
    NCCL(ncclCommDestroy(comm));
    CUDA(cudaFree(send));
    CUDA(cudaFree(recv));
    CUDA(cudaFree(flag));
    CUDA(cudaStreamDestroy(stream));
    free(out.token);
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 120, rank_main);
}
