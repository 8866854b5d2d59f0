/*
 * bench.c - timing, order statistics and JSON lines for the benchmarks
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/bench.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/tools/outfile.h"

double bench_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double bench_best(const double *v, size_t n)
{
    double best = v[0];

    for (size_t i = 1; i < n; i++)
        best = v[i] < best ? v[i] : best;
    return best;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(double *v, size_t n)
{
    qsort(v, n, sizeof(*v), by_value);
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

static double seconds_of(void (*fn)(void *arg), void *arg)
{
    double start = bench_now();

    fn(arg);
    return bench_now() - start;
}

double bench_repeat(void (*fn)(void *arg), void *arg, double min_seconds, int min_calls)
{
    double start = bench_now(), best = INFINITY;

    for (int calls = 0; calls < min_calls || bench_now() - start < min_seconds; calls++) {
        double s = seconds_of(fn, arg);

        best = s < best ? s : best;
    }
    return best;
}

void bench_turns(const struct bench_piece *piece, size_t n, int turns, double *best)
{
    for (size_t i = 0; i < n; i++)
        best[i] = INFINITY;
    for (int t = 0; t < turns; t++) {
        for (size_t i = 0; i < n; i++) {
            double s = seconds_of(piece[i].fn, piece[i].arg);

            best[i] = s < best[i] ? s : best[i];
        }
    }
}

static void append(struct json *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void append(struct json *j, const char *fmt, ...)
{
    va_list ap;
    char piece[256];
    int n;

    va_start(ap, fmt);
    n = vsnprintf(piece, sizeof(piece), fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(piece)) {
        j->failed = 1;
        return;
    }
    if (j->len + (size_t)n + 1 > j->cap) {
        size_t cap = 2 * j->cap + sizeof(piece);
        char *text = realloc(j->text, cap);

        if (text == NULL) {
            j->failed = 1;
            return;
        }
        j->text = text;
        j->cap = cap;
    }
    memcpy(j->text + j->len, piece, (size_t)n + 1);
    j->len += (size_t)n;
}

static void append_key(struct json *j, const char *key)
{
    append(j, "%s\"%s\": ", j->first ? "" : ", ", key);
    j->first = 0;
}

void json_open(struct json *j)
{
    append(j, "{");
    j->first = 1;
}

void json_text(struct json *j, const char *key, const char *value)
{
    append_key(j, key);
    append(j, "\"");
    for (const unsigned char *c = (const unsigned char *)value; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\')
            append(j, "\\%c", *c);
        else if (*c < 0x20)
            append(j, "\\u%04x", *c);
        else
            append(j, "%c", *c);
    }
    append(j, "\"");
}

void json_real(struct json *j, const char *key, double value)
{
    append_key(j, key);
    if (isfinite(value))
        append(j, "%.9g", value);
    else
        append(j, "null");
}

void json_whole(struct json *j, const char *key, uint64_t value)
{
    append_key(j, key);
    append(j, "%llu", (unsigned long long)value);
}

void json_pair(struct json *j, const char *key, uint64_t a, uint64_t b)
{
    append_key(j, key);
    append(j, "[%llu, %llu]", (unsigned long long)a, (unsigned long long)b);
}

void json_close(struct json *j)
{
    append(j, "}\n");
}

int json_writable(const char *path, char *err, size_t err_size)
{
    struct xp_outfile o;

    if (strcmp(path, "-") == 0)
        return 0;
    if (xp_outfile_open(&o, path, err, err_size) != 0)
        return -1;
    xp_outfile_abandon(&o);
    return 0;
}

int json_save(const struct json *j, const char *path, char *err, size_t err_size)
{
    struct xp_outfile o;

    if (j->failed) {
        snprintf(err, err_size, "%s: no memory for the results", path);
        return -1;
    }
    if (strcmp(path, "-") == 0) {
        fwrite(j->text, 1, j->len, stdout);
        if (fflush(stdout) == 0)
            return 0;
        snprintf(err, err_size, "stdout: %s", strerror(errno));
        return -1;
    }
    if (xp_outfile_open(&o, path, err, err_size) != 0)
        return -1;
    if (xp_outfile_write(&o, j->text, j->len, err, err_size) != 0) {
        xp_outfile_abandon(&o);
        return -1;
    }
    return xp_outfile_finish(&o, err, err_size);
}

void json_free(struct json *j)
{
    free(j->text);
    j->text = NULL;
    j->len = j->cap = 0;
}
