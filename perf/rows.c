/*
 * rows.c - the rows that a benchmark sends: real ones of a .npy file, or generated
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/tools/npy.h"

#define DISTINCT 256 /* centres, or distinct rows */

uint64_t rows_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Close to a normal variable: eight 16-bit uniforms added up, in integers, so that all machines agree. */
static float normal(uint64_t key)
{
    uint64_t a = rows_mix(key), b = rows_mix(key ^ 0x5851f42d4c957f2du);
    int32_t sum = 0;

    for (int i = 0; i < 4; i++) {
        sum += (int32_t)(a >> (16 * i) & 0xffff) + (int32_t)(b >> (16 * i) & 0xffff);
    }
    return (float)(sum - 4 * 65535) * (1.0f / (65536.0f * 0.81649658f));
}

static uint16_t bf16_of(float x)
{
    uint32_t u;

    memcpy(&u, &x, sizeof(u));
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

/* Nearest half of a normal-sized value; what is too small becomes zero, too large the largest. */
static uint16_t f16_of(float x)
{
    uint32_t u, sign, mag;

    memcpy(&u, &x, sizeof(u));
    sign = u >> 16 & 0x8000;
    mag = u & 0x7fffffff;
    if (mag < 0x38800000) /* 2^-14 */
        return (uint16_t)sign;
    mag = (mag - 0x38000000 + 0xfff + ((mag >> 13) & 1)) >> 13;
    return (uint16_t)(sign | (mag < 0x7bff ? mag : 0x7bff));
}

void rows_put(xp_dtype t, void *row, size_t i, float x)
{
    if (t == XP_F32)
        ((float *)row)[i] = x;
    else
        ((uint16_t *)row)[i] = t == XP_BF16 ? bf16_of(x) : f16_of(x);
}

static float noise(xp_dtype t, uint64_t key)
{
    const uint64_t bits = rows_mix(key);
    const int exponent = t == XP_F16 ? (int)(bits >> 32) % 29 - 14 : (int)(bits >> 32 & 127) - 64;
    const float x = ldexpf(1.0f + (float)(bits & 0xffffff) * 0x1p-24f, exponent);

    return bits >> 63 ? -x : x;
}

static void generate(const struct row_source *s, uint64_t i, void *row)
{
    uint64_t centre = rows_mix(s->seed ^ rows_mix(~i)) % DISTINCT;
    uint64_t row_key = rows_mix(s->seed * 3 + rows_mix(i)), centre_key = rows_mix(s->seed * 5 + rows_mix(centre));

    for (size_t c = 0; c < s->dim; c++) {
        float x = 0.0f;

        if (s->kind == ROWS_NOISE) {
            rows_put(s->dtype, row, c, noise(s->dtype, row_key + c));
            continue;
        }
        if (s->kind != ROWS_GAUSSIAN)
            x = normal(centre_key + c);
        if (s->kind != ROWS_DUPLICATES)
            x += (s->kind == ROWS_CLUSTERED ? 0.03f : 1.0f) * normal(row_key + c);
        rows_put(s->dtype, row, c, x);
    }
}

static double half_value(uint16_t h)
{
    int exponent = h >> 10 & 31;
    double mantissa = h & 1023, value;

    if (exponent == 31)
        value = mantissa != 0 ? (double)NAN : (double)INFINITY;
    else
        value = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -value : value;
}

double rows_value(xp_dtype t, const void *row, size_t i)
{
    uint32_t u;
    float f;

    if (t == XP_F16)
        return half_value(((const uint16_t *)row)[i]);
    u = t == XP_F32 ? ((const uint32_t *)row)[i] : (uint32_t)((const uint16_t *)row)[i] << 16;
    memcpy(&f, &u, sizeof(f));
    return f;
}

static const void *file_row(const struct row_source *s, uint64_t i)
{
    return (const char *)s->file + i % s->file_rows * s->row_bytes;
}

static int make_mean(struct row_source *s)
{
    s->mean = calloc(s->dim, sizeof(*s->mean));
    if (s->mean == NULL)
        return -1;
    for (size_t r = 0; r < s->file_rows; r++)
        for (size_t c = 0; c < s->dim; c++)
            s->mean[c] += rows_value(s->dtype, file_row(s, r), c);
    for (size_t c = 0; c < s->dim; c++)
        s->mean[c] /= (double)s->file_rows;
    return 0;
}

/* Row i beyond the file: two rows of it blended around the mean, a^2 + b^2 = 1, which keeps mean and covariance. */
static void blend(const struct row_source *s, uint64_t i, void *row)
{
    const uint64_t key = rows_mix(s->seed * 7 + rows_mix(i));
    const void *x = file_row(s, i), *y = file_row(s, i + 1 + (key >> 32) % (s->file_rows > 1 ? s->file_rows - 1 : 1));
    const double share = 0.25 + 0.5 * (double)(uint32_t)key / 4294967296.0, a = sqrt(share), b = sqrt(1 - share);

    for (size_t c = 0; c < s->dim; c++) {
        const double m = s->mean[c];
        rows_put(s->dtype, row, c, (float)(m + a * (rows_value(s->dtype, x, c) - m) + b * (rows_value(s->dtype, y, c) - m)));
    }
}

void rows_get(const struct row_source *s, uint64_t i, void *row)
{
    if (s->kind != ROWS_FILE) {
        generate(s, i, row);
        return;
    }
    if (i < s->file_rows)
        memcpy(row, file_row(s, i), s->row_bytes);
    else
        blend(s, i, row);
}

static size_t size_of(xp_dtype t)
{
    return t == XP_F32 ? 4 : 2;
}

int rows_open_file(struct row_source *s, const char *path, uint64_t seed, char *err, size_t err_size)
{
    const char *slash = strrchr(path, '/');
    struct xp_npy a;

    if (xp_npy_read(&a, path, err, err_size) != 0)
        return -1;
    if (a.rows == 0) {
        snprintf(err, err_size, "%s: holds no rows", path);
        xp_npy_free(&a);
        return -1;
    }
    *s = (struct row_source){.kind = ROWS_FILE, .dtype = a.dtype, .dim = a.dim, .row_bytes = a.dim * size_of(a.dtype), .seed = seed,
                             .file = a.data, .file_rows = a.rows};
    snprintf(s->name, sizeof(s->name), "%s", slash != NULL ? slash + 1 : path);
    if (make_mean(s) != 0) {
        snprintf(err, err_size, "%s: out of memory", path);
        rows_close(s);
        return -1;
    }
    return 0;
}

int rows_open_generated(struct row_source *s, const char *kind, xp_dtype dtype, size_t dim, uint64_t seed)
{
    static const char *const names[] = {"gaussian", "clustered", "duplicates", "noise"};

    for (int k = 0; k < 4; k++) {
        if (strcmp(kind, names[k]) != 0)
            continue;
        *s = (struct row_source){.kind = (enum row_kind)k, .dtype = dtype, .dim = dim, .row_bytes = dim * size_of(dtype), .seed = seed};
        snprintf(s->name, sizeof(s->name), "%s", names[k]);
        return 0;
    }
    return -1;
}

void rows_close(struct row_source *s)
{
    free(s->file);
    free(s->mean);
    s->file = NULL;
    s->mean = NULL;
}

void rows_spread(size_t T, int n, int rank, size_t *counts)
{
    for (int p = 0; p < n; p++)
        counts[p] = T / (size_t)n;
    for (size_t k = 0; k < T % (size_t)n; k++)
        counts[((size_t)rank + 1 + k) % (size_t)n]++;
}

double rows_distance(const struct row_source *s, const void *want, const void *got)
{
    double diff = 0.0, norm = 0.0;

    if (memcmp(want, got, s->row_bytes) == 0)
        return 0.0;
    for (size_t i = 0; i < s->dim; i++) {
        double a = rows_value(s->dtype, want, i), b = rows_value(s->dtype, got, i);
        norm += a * a;
        diff += (b - a) * (b - a);
    }
    return isfinite(diff) && norm > 0.0 ? sqrt(diff / norm) : (double)INFINITY;
}
