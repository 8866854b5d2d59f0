/*
 * checkcuda.c - every CUDA kernel against the C entry of the table: the frame
 *
 * usage: checkcuda [--seed N] [--schedules N] [--kernel NAME] [--bench]
 *
 * In the emulator every case runs under the schedules in order, reverse, and N random ones (20), with the checker's findings counted
 * as failures; on a GPU as often with other rows each time. Prints TAP. Exits 77 where there is no device.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkcuda.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct cuda_case *const tables[] = {cuda_hash_cases, cuda_rows_cases, cuda_quant_cases, cuda_frames_cases, cuda_book_cases,
                                                 cuda_fold_cases, cuda_copies_cases, cuda_moe_cases, cuda_sums_cases, cuda_bytes_cases};

static void fail(struct check *c, const char *what, va_list args)
{
    if (c->failed++ >= 10)
        return;
    printf("# %s: ", c->kernel);
    vprintf(what, args);
    printf(" (--seed %llu)\n", (unsigned long long)c->seed);
}

static void no_nans(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] == x[i] ? x[i] : -1.0f;
}

static void compare_bytes(struct check *c, const unsigned char *want, const unsigned char *got, size_t bytes, const char *what, va_list args)
{
    size_t at = 0;

    c->compared++;
    while (at < bytes && got[at] == want[at])
        at++;
    if (at < bytes) {
        printf("# first difference at byte %zu of %zu\n", at, bytes);
        fail(c, what, args);
    }
}

void check_device(struct check *c, const void *expected, const void *device, size_t bytes, int floats, const char *what, ...)
{
    unsigned char *got = malloc(bytes + 1), *want = malloc(bytes + 1);
    va_list args;

    device_download(got, device, bytes);
    memcpy(want, expected, bytes);
    if (floats) {
        no_nans((float *)(void *)got, bytes / 4);
        no_nans((float *)(void *)want, bytes / 4);
    }
    va_start(args, what);
    compare_bytes(c, want, got, bytes, what, args);
    va_end(args);
    free(got);
    free(want);
}

void check_same(struct check *c, const void *expected, const void *got, size_t bytes, const char *what, ...)
{
    va_list args;

    va_start(args, what);
    compare_bytes(c, expected, got, bytes, what, args);
    va_end(args);
}

static void failed(struct check *c, const char *what, ...)
{
    va_list args;

    va_start(args, what);
    fail(c, what, args);
    va_end(args);
}

void check_launched(struct check *c, int error, const char *what)
{
    if (error)
        failed(c, "%s: error %d of the runtime", what, error);
}

struct xp_gpu check_gpu(struct check *c, const struct xp_gpu *g)
{
    const struct xp_gpu small = {g->stream, 1, check_below(c, 2) ? 2 << 10 : 40 << 10}; /* 2 KiB: one warp in all */

    return check_below(c, 2) ? small : *g;
}

size_t check_dim(struct check *c)
{
    static const size_t dims[] = {1, 3, 127, 128, 129, 255, 256, 512, 513, 768, 1024, 2048};

    switch (check_below(c, 3)) {
    case 0: return 1 + check_below(c, 300);
    default: return dims[check_below(c, sizeof(dims) / sizeof(dims[0]))];
    }
}

void *check_rows(struct check *c, xp_dtype t, size_t rows, size_t dim)
{
    const size_t bytes = dim * xp_dtype_size(t);
    unsigned char *p = calloc(rows * bytes + 1, 1);

    for (size_t r = 0; r < rows; r++)
        check_fill_row(c, check_below(c, 3) ? FILL_GAUSS : (enum check_fill)check_below(c, FILL_COUNT), t, dim, p + r * bytes);
    return p;
}

/* ---- timing ---- */

struct copy {
    const struct xp_gpu *g;
    void *to, *from;
    size_t bytes;
};

static void run_copy(void *arg)
{
    const struct copy *c = arg;

    device_copy(c->g, c->to, c->from, c->bytes);
}

void cuda_bench_line(struct check *c, const struct xp_gpu *g, const char *shape, size_t bytes, void (*run)(void *arg), void *arg)
{
    struct copy copy = {g, device_upload(NULL, bytes / 2), device_upload(NULL, bytes / 2), bytes / 2};
    double best = 1e9, best_copy = 1e9;

    for (int repeat = 0; repeat < 20; repeat++) {
        const double copied = device_time(g, run_copy, &copy), ran = device_time(g, run, arg);
        best = ran < best ? ran : best;
        best_copy = copied < best_copy ? copied : best_copy;
    }
    printf("%-12s %-28s %9.1f us %8.1f GB/s %6.2f x copy\n", c->kernel, shape, best * 1e6, (double)bytes / best * 1e-9, best_copy / best);
    fflush(stdout);
    device_free(copy.to);
    device_free(copy.from);
}

/* ---- all of it ---- */

struct options {
    uint64_t seed;
    unsigned schedules;
    const char *kernel;
    int bench;
};

static int compare(const struct options *o, const struct cuda_case *k, const struct xp_gpu *g, const struct xp_kernels *plain, int number)
{
    struct check c = {.seed = o->seed, .kernel = k->name, .isa = device_name()};
    size_t findings = 0;

    for (unsigned s = 0; s < 2 + o->schedules; s++) {
        c.state = o->seed * 1000003 + s;
        device_schedule(s, check_random(&c));
        k->compare(&c, g, plain);
        const size_t found = device_findings();
        if (found)
            printf("# found under schedule %u\n", s);
        findings += found;
        if (findings > 20 || c.failed > 20)
            break;
    }
    const int ok = c.compared > 0 && c.failed == 0 && findings == 0;
    printf("%sok %d - %s: %zu comparisons, %zu differ, %zu findings\n", ok ? "" : "not ", number, k->name, c.compared, c.failed, findings);
    fflush(stdout);
    return !ok;
}

static int walk(const struct options *o, const struct xp_gpu *g)
{
    struct xp_kernels plain;
    int number = 0, failures = 0;

    xp_kernels_init(&plain, XP_ISA_C);
    for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++)
        for (const struct cuda_case *k = tables[t]; k->name; k++) {
            struct check c = {.seed = o->seed, .state = o->seed, .kernel = k->name, .isa = device_name()};
            if (o->kernel && strcmp(o->kernel, k->name))
                continue;
            if (!o->bench)
                failures += compare(o, k, g, &plain, ++number);
            else if (k->bench)
                k->bench(&c, g);
        }
    if (!o->bench)
        printf("1..%d\n", number);
    return failures > 0 || (!o->bench && number == 0);
}

int main(int argc, char **argv)
{
    struct options o = {.seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32, .schedules = 20};
    struct xp_gpu g;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bench")) {
            o.bench = 1;
        } else if (i + 1 < argc && !strcmp(argv[i], "--seed")) {
            o.seed = strtoull(argv[++i], NULL, 0);
        } else if (i + 1 < argc && !strcmp(argv[i], "--schedules")) {
            o.schedules = (unsigned)atoi(argv[++i]);
        } else if (i + 1 < argc && !strcmp(argv[i], "--kernel")) {
            o.kernel = argv[++i];
        } else {
            fprintf(stderr, "usage: checkcuda [--seed N] [--schedules N] [--kernel NAME] [--bench]\n");
            return 2;
        }
    }
    if (device_open(&g)) {
        printf("1..0 # SKIP no device\n");
        return 77;
    }
    printf("# checkcuda --seed %llu, %s\n", (unsigned long long)o.seed, device_name());
    return walk(&o, &g);
}
