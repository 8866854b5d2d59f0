/*
 * wire_cases.h - what every transport owes (lib/transport/transport.h), as cases to run over one
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WIRE_CASES_H
#define WIRE_CASES_H

#include "tests/harness/wires.h"

struct wire_case {
    const char *name;
    wire_fn fn;
    int size;      /* ranks */
    int processes; /* 1: processes only, somebody is killed or stopped */
    double seconds;
};

/* Ended by a NULL name. */
extern const struct wire_case wire_cases[];

/* Runs one case by its place in the table, with ranks as threads or processes. NULL, or what failed. */
const char *wire_case_run(const struct xp_transport_ops *ops, int number, int threads, void (*before)(int rank));

/* Cases of the table that have a file of their own: a peer leaves, is killed or stopped (wire_lost.c). */
int wire_sender_leaves(struct wire *w, void *arg);
int wire_late_receiver(struct wire *w, void *arg);
int wire_late_receiver_small(struct wire *w, void *arg);
int wire_peer_killed(struct wire *w, void *arg);
int wire_peer_stopped(struct wire *w, void *arg);
int wire_close_after_kill(struct wire *w, void *arg);
int wire_close_after_stop(struct wire *w, void *arg);

/* Random all-to-alls with cancelled operations in between; for the race detector. */
int wire_storm(struct wire *w, void *arg);

#endif
