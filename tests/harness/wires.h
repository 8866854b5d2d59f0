/*
 * wires.h - a transport under test: N ranks, threads or processes, connected over it without a comm
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WIRES_H
#define WIRES_H

#include <sys/types.h>

#include "lib/transport/transport.h"

#define WIRES_MAX 16

/* One rank's end. Its functions run on that rank's thread. */
struct wire {
    const struct xp_transport_ops *ops;
    struct xp_transport *t;
    int rank, size;
    struct wires *all;
};

/* Shared by the ranks, processes too. */
struct wires {
    const struct xp_transport_ops *ops;
    int size;
    int threads;               /* 1: ranks are threads; 0: processes */
    void (*before)(int rank);  /* called on every rank before it opens the transport, or NULL */
    struct wires_shared *shared;
};

/* A rank's part of a test: 0, or not after wire_fail(). */
typedef int (*wire_fn)(struct wire *w, void *arg);

/*
 * Opens and connects `size` ranks, runs fn on each, closes. Returns NULL, or the text of the first failure (also: an open that failed,
 * a close that took more than 2 s, a process that died and was not told to, more than `seconds` in all).
 */
const char *wires_run(struct wires *all, wire_fn fn, void *arg, double seconds);

/* Remembers the first failure of all ranks. Returns 1. */
int wire_fail(struct wire *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* All ranks that live. Not over the transport. */
void wire_barrier(struct wire *w);
/* The process of a rank; it may be killed after wire_doom. */
pid_t wire_pid(struct wire *w, int rank);
/* This rank is going to be killed or to leave early: its end is no failure, barriers no longer count it. */
void wire_doom(struct wire *w, int rank);
/* A word that all ranks see. */
_Atomic int *wire_flag(struct wire *w, int i);

/* Progress until the operation is final or the time is up. Returns its status. */
xp_status wire_wait(struct wire *w, struct xp_op *op, double seconds);
/* Progress for that long. */
void wire_run_for(struct wire *w, double seconds);

#endif
