/*
 * bench.h - timing, order statistics and JSON lines for the benchmarks
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_BENCH_H
#define XP_PERF_BENCH_H

#include <stddef.h>
#include <stdint.h>

/* Monotonic seconds. */
double bench_now(void);

/* Smallest and middle of n values (n >= 1). bench_median sorts v. */
double bench_best(const double *v, size_t n);
double bench_median(double *v, size_t n);

/*
 * Best seconds of one call of fn: repeats it until at least min_seconds and min_calls have passed.
 * Work that varies with the machine's load shows in the mean; what the code costs shows in the minimum.
 */
double bench_repeat(void (*fn)(void *arg), void *arg, double min_seconds, int min_calls);

/*
 * Seconds of several pieces of work, measured in turns (a, b, c, a, b, c ...), so that a noisy neighbour disturbs all of
 * them alike and their ratios hold. best[i] gets the minimum of piece i.
 */
struct bench_piece {
    void (*fn)(void *arg);
    void *arg;
};
void bench_turns(const struct bench_piece *piece, size_t n, int turns, double *best);

/* A growing text of JSON objects, one a line. Errors of memory surface in json_save. */
struct json {
    char *text;
    size_t len, cap;
    int first, failed;
};

void json_open(struct json *j);
void json_text(struct json *j, const char *key, const char *value);
void json_real(struct json *j, const char *key, double value);
void json_whole(struct json *j, const char *key, uint64_t value);
void json_pair(struct json *j, const char *key, uint64_t a, uint64_t b);
void json_close(struct json *j);

/* Whether a file could be written at path. Returns 0, or -1 with one line in err. */
int json_writable(const char *path, char *err, size_t err_size);

/* Writes the whole file or nothing ("-": stdout). Returns 0, or -1 with one line in err. */
int json_save(const struct json *j, const char *path, char *err, size_t err_size);
void json_free(struct json *j);

#endif
