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

struct xp_liveness; /* liveness.c: the thread that owns the star of sockets */

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
    struct xp_liveness *live; /* NULL with a single rank */
    double link_bytes_per_s; /* slow hop, per rank, as last measured; 0 = unknown */
    uint32_t next_plan;      /* plan ids, equal on all ranks */
    int plans;               /* alive */
    _Atomic unsigned owner;  /* thread inside, 0 = none */
    unsigned depth;          /* calls of that thread inside one another */
    unsigned forks;          /* xp_fork_count() at creation: another value means a forked child */
    struct xp_comm *next_watched; /* fork.c */
    int failed;              /* the group's failure has been taken note of */
    unsigned departures;     /* ranks that left in good order, as far as handled */
    double departed_at;      /* when the last of them was noticed; 0 = all handled */
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
/* A rank that sees a fatal fault tells all others (liveness net) and remembers it. Returns `s`, or the error that turns out to
 * be behind it: a connection may break because its other end has heard of a death that is not known here yet. */
xp_status xp_comm_revoke(struct xp_comm *c, xp_status s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Remembers the text of an error and returns its status; c may be NULL (thread's own text). */
xp_status xp_error(struct xp_comm *c, xp_status s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

void xp_log(struct xp_comm *c, xp_log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Monotonic seconds. */
double xp_now(void);

/* An allgather for callers that are already inside; `what` names the operation in texts (a string that stays). */
xp_status xp_comm_allgather_inside(struct xp_comm *c, const char *what, const void *in, void *out, size_t len);

/* Marks the calling thread as inside; XP_ERR_STATE when another one is, or in a forked child. A thread may enter again. */
xp_status xp_comm_enter(struct xp_comm *c);
void xp_comm_leave(struct xp_comm *c);

#endif
