/*
 * guard.c - guarded buffers, comparison, random rows and timing for checkkernels
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CANARY 0xA7

/* splitmix64 */
uint64_t check_random(struct check *c)
{
    uint64_t z = c->state += 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

size_t check_below(struct check *c, size_t n)
{
    return (size_t)(check_random(c) >> 11) % n;
}

static double uniform(struct check *c)
{
    return ((double)(check_random(c) >> 11) + 0.5) * 0x1p-53;
}

double check_gauss(struct check *c)
{
    const double radius = sqrt(-2 * log(uniform(c)));

    return radius * cos(6.283185307179586 * uniform(c));
}

struct guarded guard_alloc(size_t size, size_t gap, int fill)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t body = (size + gap + 64 + page - 1) / page * page;
    struct guarded g = {.size = size, .map_size = body + page};

    g.map = mmap(NULL, g.map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.map == MAP_FAILED || mprotect(g.map + body, page, PROT_NONE)) {
        perror("checkkernels: mmap");
        exit(2);
    }
    memset(g.map, CANARY, body);
    g.p = g.map + body - gap - size;
    memset(g.p, fill, size);
    return g;
}

int guard_intact(const struct guarded *g)
{
    const size_t body = g->map_size - (size_t)sysconf(_SC_PAGESIZE);
    const unsigned char *p = g->p;

    for (const unsigned char *q = g->map; q < p; q++)
        if (*q != CANARY)
            return 0;
    for (const unsigned char *q = p + g->size; q < g->map + body; q++)
        if (*q != CANARY)
            return 0;
    return 1;
}

void guard_free(struct guarded *g)
{
    munmap(g->map, g->map_size);
}

int check_equal(struct check *c, const struct guarded *expected, const struct guarded *got, const char *what, ...)
{
    const int same = expected->size == got->size && !memcmp(expected->p, got->p, got->size);
    const int intact = guard_intact(got);
    va_list args;

    c->compared++;
    if (same && intact)
        return 1;
    if (c->failed++ < 20) {
        const unsigned char *e = expected->p, *g = got->p;
        size_t at = 0;
        while (at < got->size && e[at] == g[at])
            at++;
        printf("# %s %s differs from c: ", c->kernel, c->isa);
        va_start(args, what);
        vprintf(what, args);
        va_end(args);
        if (!intact)
            printf(": wrote outside its output");
        if (!same)
            printf(": first at byte %zu of %zu", at, got->size);
        printf(" (--seed %llu)\n", (unsigned long long)c->seed);
    }
    return 0;
}

const char *check_dtype_name(xp_dtype t)
{
    return t == XP_BF16 ? "bf16" : t == XP_F16 ? "f16" : t == XP_F32 ? "f32" : "byte";
}

const char *check_fill_name(enum check_fill f)
{
    static const char *const names[FILL_COUNT] = {"gauss", "outliers", "sparse", "spike", "denormal", "huge",
                                                  "max",   "min",      "zero",   "nan",      "bits"};
    return names[f];
}

/* Exponent range and bits of a type, enough to build its extremes. */
static void put(xp_dtype t, size_t i, float value, void *row)
{
    uint32_t bits;
    uint16_t half;

    memcpy(&bits, &value, 4);
    if (t == XP_F32) {
        memcpy((char *)row + 4 * i, &bits, 4);
        return;
    }
    if (t == XP_BF16) {
        half = (uint16_t)(bits >> 16);
    } else { /* f16, truncated; what does not fit becomes infinite, what is too small becomes a denormal or zero */
        const int exponent = (int)(bits >> 23 & 255) - 112;
        const uint32_t mantissa = bits & 0x7fffff;
        if (exponent >= 31)
            half = (uint16_t)(0x7c00 | (isnan(value) ? 1 : 0));
        else if (exponent > 0)
            half = (uint16_t)((uint32_t)exponent << 10 | mantissa >> 13);
        else
            half = exponent < -10 ? 0 : (uint16_t)((mantissa | 0x800000) >> (14 - exponent));
        half |= (uint16_t)(bits >> 16 & 0x8000);
    }
    memcpy((char *)row + 2 * i, &half, 2);
}

static float largest(xp_dtype t)
{
    return t == XP_F16 ? 65504.0f : 3.38e38f;
}

static float denormal(struct check *c, xp_dtype t)
{
    const float unit = t == XP_F16 ? 0x1p-24f : t == XP_BF16 ? 0x1p-133f : 0x1p-149f;
    const float steps = (float)check_below(c, t == XP_F32 ? 1 << 22 : 120);

    return check_random(c) & 1 ? -steps * unit : steps * unit;
}

/* Now and then what a block of the quantisers may just be, with nothing beside it (XP_QMIN_L1, XP_QMAX_L1). */
static float spike(struct check *c, xp_dtype t)
{
    if (t == XP_F16 || check_below(c, 4))
        return (float)check_gauss(c);
    return check_random(c) & 1 ? 0x1p-100f : -0x1p100f;
}

static float value_of(struct check *c, enum check_fill f, xp_dtype t, size_t i)
{
    switch (f) {
    case FILL_OUTLIERS: return (float)check_gauss(c) * (i % 97 == 5 ? 50.0f : 1.0f);
    case FILL_SPARSE: return check_below(c, 8) ? (check_random(c) & 1 ? -0.0f : 0.0f) : (float)check_gauss(c);
    case FILL_SPIKE: return 0;
    case FILL_DENORMAL: return denormal(c, t);
    case FILL_HUGE: return (float)(largest(t) * (check_random(c) & 1 ? -0.9 : 0.9) * uniform(c));
    case FILL_MAX: return largest(t);
    case FILL_MIN: return -largest(t);
    case FILL_ZERO: return check_random(c) & 1 ? -0.0f : 0.0f;
    default: return (float)check_gauss(c);
    }
}

void check_fill_row(struct check *c, enum check_fill f, xp_dtype t, size_t dim, void *row)
{
    const size_t bytes = dim * xp_dtype_size(t);

    if (f == FILL_BITS) {
        for (size_t i = 0; i < bytes; i++)
            ((unsigned char *)row)[i] = (unsigned char)check_random(c);
        return;
    }
    for (size_t i = 0; i < dim; i++)
        put(t, i, value_of(c, f, t, i), row);
    if (f == FILL_SPIKE && dim)
        put(t, check_below(c, dim), spike(c, t), row);
    if (f == FILL_NAN && dim)
        put(t, check_below(c, dim), check_random(c) & 1 ? NAN : check_random(c) & 1 ? INFINITY : -INFINITY, row);
}

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static double timed(void (*run)(void *), void *arg, size_t times)
{
    const double start = now();

    for (size_t i = 0; i < times; i++)
        run(arg);
    return (now() - start) / (double)times;
}

struct copy {
    void *to;
    const void *from;
    size_t bytes;
};

static void run_copy(void *arg)
{
    struct copy *c = arg;

    memcpy(c->to, c->from, c->bytes);
    __asm__ volatile("" ::"r"(c->to) : "memory");
}

void bench_line(struct check *c, const char *shape, const void *src, size_t bytes, void (*run)(void *arg), void *arg)
{
    struct copy copy = {.to = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096), .from = src, .bytes = bytes};
    const size_t times = bytes < 1 << 20 ? (1 << 20) / bytes : 1;
    const double end = now() + c->seconds;
    double best = 1e9, best_copy = 1e9;

    if (!copy.to) {
        perror("checkkernels: bench");
        exit(2);
    }
    memset(copy.to, 1, bytes);
    for (int repeat = 0; repeat < 5 || now() < end; repeat++) {
        best = fmin(best, timed(run, arg, times));
        best_copy = fmin(best_copy, timed(run_copy, &copy, times));
    }
    printf("%-10s %-7s %8.2f GB/s  %6.2f x memcpy  %s  seed %llu\n", c->kernel, c->isa, (double)bytes / best * 1e-9,
           best_copy / best, shape, (unsigned long long)c->seed);
    fflush(stdout);
    free(copy.to);
}
