/*
 * memory.h - where the rows of a benchmark lie: the host's memory, or that of a GPU
 *
 * A benchmark fills and reads its rows on the host. What exchanges are given are places; in the host's memory they are the rows themselves.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_MEMORY_H
#define XP_PERF_MEMORY_H

#include "crosspress/crosspress.h"

struct memory {
    const struct xp_device *device; /* NULL: the host's */
    void *stream;
    int shared;                     /* ranks share a GPU */
};

/* Rows of one buffer. */
struct place {
    char *host, *rows; /* rows: what exchanges are given */
    size_t bytes;
};

/* kind: of xp_plan_desc. local: the number of this rank among those of its machine, which have GPUs of these numbers, or share them. Returns 0, or
 * -1 with one line in err. */
int memory_open(struct memory *m, xp_memory kind, int local, int ranks, char *err, size_t err_size);
void memory_close(struct memory *m);

/* -1: no memory. Freeing accepts a zeroed place. */
int memory_take(const struct memory *m, struct place *p, size_t bytes);
void memory_free(const struct memory *m, struct place *p);

/* The host's rows to the device; back; all that was enqueued has happened. Nothing to do in the host's memory. 0, or -1 with one line in err. */
int memory_put(const struct memory *m, const struct place *p, char *err, size_t err_size);
int memory_get(const struct memory *m, const struct place *p, char *err, size_t err_size);
int memory_wait(const struct memory *m, char *err, size_t err_size);

/* Says so of a plan: rows in this memory, ordered by its stream. */
void memory_of_plan(const struct memory *m, xp_plan_desc *d);

#endif
