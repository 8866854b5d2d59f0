/*
 * comm.h - the inside of a communicator, for lib and collectives
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_COMM_H
#define XP_COMM_H

#include "crosspress/crosspress.h"
#include "lib/params.h"
#include "lib/transport/transport.h"

struct xp_bootstrap_net; /* bootstrap.c: the star of sockets */
struct xp_liveness;      /* liveness.c: the thread that watches it */

struct xp_comm {
    int rank, size;
    struct xp_params params;
    int nodes, node;         /* number of nodes, this rank's */
    int *node_of;            /* [size] */
    int *local_index;        /* [size] index of a rank inside its node */
    int *node_size;          /* [nodes] */
    int *node_ranks;         /* ranks sorted by node, then rank */
    int *node_start;         /* [nodes + 1] into node_ranks */
    uint64_t job;
    struct xp_transport *shm, *ucx; /* NULL where not needed or not there */
    struct xp_transport **route;    /* [size] the transport of each peer; NULL for self */
    struct xp_bootstrap_net *net;
    struct xp_liveness *live;
    double link_bytes_per_s; /* slow hop, per rank, as last measured; 0 = unknown */
    uint32_t next_plan;      /* plan ids, equal on all ranks */
    int plans;               /* alive */
    unsigned owner;          /* atomic: thread inside, 0 = none */
    char error[512];
    xp_log_fn log;
    void *log_user;
};

/* Messages: the peer's transport is looked up. op->status is set in every case. */
void xp_comm_send(struct xp_comm *c, int peer, enum xp_lane lane, uint64_t tag, const void *buf, size_t len, struct xp_op *op);
void xp_comm_recv(struct xp_comm *c, int peer, enum xp_lane lane, uint64_t tag, void *buf, size_t cap, struct xp_op *op);
void xp_comm_cancel(struct xp_comm *c, int peer, struct xp_op *op);

/* Moves every transport on. Returns what moved; an idle caller passes its count of idle rounds to xp_comm_idle. */
int xp_comm_progress(struct xp_comm *c);
/* Gives the core away more the longer nothing moves (spin, yield, short sleep). */
void xp_comm_idle(struct xp_comm *c, unsigned idle_rounds);

/* XP_OK, or the error that ended this comm for good (peer dead, revoked); also fills c->error. Cheap: one atomic read. */
xp_status xp_comm_health(struct xp_comm *c);
/* A rank that sees a fatal fault tells all others (liveness net) and remembers it. Returns `s`. */
xp_status xp_comm_revoke(struct xp_comm *c, xp_status s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Remembers the text of an error and returns its status; c may be NULL (thread's own text). */
xp_status xp_error(struct xp_comm *c, xp_status s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

void xp_log(struct xp_comm *c, xp_log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Monotonic seconds. */
double xp_now(void);

/* Marks the calling thread as inside; XP_ERR_STATE when another one is. */
xp_status xp_comm_enter(struct xp_comm *c);
void xp_comm_leave(struct xp_comm *c);

#endif
