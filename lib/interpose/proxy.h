/*
 * proxy.h - the thread that moves the diverted exchanges of one communicator, and the slots they wait in
 *
 * The calling thread fills a slot and enqueues, on the program's stream: copies to the slot's send buffer and events `packed`, waits for
 * the slot's flag and copies from the receive buffer, event `done`. The proxy sees `packed`, exchanges, and writes the flag. Copies are
 * in parts, so that rows travel while others are copied: an event stands behind the rows for some of the ranks, and the flag counts
 * the parts of the receive buffer that are complete. The proxy takes exchanges in the order they were issued, which is the same on all
 * ranks; every communicator has a proxy of its own, so one that waits holds up no other.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PROXY_H
#define XP_PROXY_H

#include <pthread.h>
#include <stdatomic.h>

#include "crosspress/crosspress.h"
#include "lib/interpose/gpu.h"
#include "lib/interpose/side.h"

#define XP_SLOTS 4 /* exchanges under way before the calling thread waits */
#define XP_PARTS 8 /* most parts of the copies of an exchange, in each direction */
#define XP_RECORD 160
#define XP_TRIAL 4 /* exchanges before the first verdict whether diverting pays, and before each later one after a bypass */
#define XP_PATIENCE_SECONDS 5
#define XP_NO_PROMISE UINT64_MAX

/* A piece of a message: program memory, and where it lies in the staging buffer. */
struct xp_piece {
    char *user;
    size_t offset, bytes;
};

struct xp_slot {
    uint32_t number; /* what the flag holds when the exchange is over; before, less by the parts that are not here yet */
    int klass;       /* index into side->classes */
    int agrees;      /* no exchange: the ranks agree on something about the class */
    double pace[2];
    int collective;
    int bounded;     /* sets: as far as this rank's messages go; the ranks agree before the exchange */
    size_t rows;     /* collective: rows of one message, the same on all ranks */
    size_t *send_rows, *recv_rows, *cursor; /* [size] */
    size_t total_send, total_recv; /* rows */
    char *send, *recv;             /* pinned */
    size_t send_cap, recv_cap;
    struct xp_piece *out, *in;
    size_t nout, nin, out_cap, in_cap;
    _Atomic uint32_t *flag;
    uint64_t flag_address; /* for the device */
    int out_parts, in_parts;
    int part_end[XP_PARTS]; /* the rows for ranks own + 1 .. own + part_end[i], modulo the size, are in parts 0 .. i */
    size_t part_rows;       /* rows of every rank in a part of the receive buffer */
    cudaEvent_t packed[XP_PARTS], done;
    int pending; /* `done` has been recorded and not yet been seen */
};

struct xp_proxy_plan {
    xp_plan *plan;
    size_t max_rows;
};

struct xp_traffic {
    uint64_t exchanges, raw, wire, fast;
};

struct xp_proxy {
    struct xp_side *side;
    const struct xp_gpu *gpu;
    xp_comm *comm; /* the thread's; NULL until the ranks have joined */
    struct xp_slot slot[XP_SLOTS];
    void *flags; /* pinned, 64 bytes for each slot */
    pthread_t thread;
    int pid; /* a forked child has no such thread */
    pthread_mutex_t lock;
    pthread_cond_t change;
    uint64_t issued, completed; /* under lock */
    int stop, ended;
    _Atomic int abort; /* give up what is under way */
    struct xp_proxy_plan plan[XP_CLASSES][2]; /* exact, bounded */
    struct xp_traffic traffic[XP_CLASSES];    /* since the last verdict; under lock */
    struct xp_traffic total;
    int started;      /* > 0: the thread may join the other ranks; < 0: it is not to; under lock, as the rest */
    uint64_t seen;    /* exchanges issued on the communicator, diverted or not */
    uint64_t promise; /* the calling thread issues no exchange from this number on, until the ranks have agreed */
    cudaEvent_t over; /* the exchange that brought the last agreement about is over on this rank; the calling thread's */
    int patient;      /* the calling thread has not yet waited for an agreement in vain */
    void *gathered;   /* [size] records of at most XP_RECORD bytes */
};

/* With its thread, which waits for xp_proxy_start. NULL: no memory, no thread. */
struct xp_proxy *xp_proxy_create(struct xp_side *side);

/* The thread joins those of the other ranks (xp_join_run), or has nothing to do. */
void xp_proxy_start(struct xp_proxy *p, int join);

/* The slot for the next exchange, once it is free. NULL when the exchange that used it failed on the device. */
struct xp_slot *xp_proxy_next(struct xp_proxy *p);

/* Hands the slot from xp_proxy_next to the thread. */
void xp_proxy_submit(struct xp_proxy *p, struct xp_slot *s);

/* Waits until the thread has nothing left to do, or is aborted. */
void xp_proxy_drain(struct xp_proxy *p);

/* What all exchanges so far were. */
void xp_proxy_total(struct xp_proxy *p, struct xp_traffic *out);

/* Waits until the flag of this slot has come to a value. */
void xp_proxy_wait(struct xp_proxy *p, const struct xp_slot *s, uint32_t value);

/* Ends thread, plans and comm. abort: without waiting for anybody. Returns 0 when the thread could not be ended in time: it then goes
 * on to use p->side and p. */
int xp_proxy_end(struct xp_proxy *p, int abort);

/* Frees what is left after that; wait: for the device, else what it may still use stays. CUDA may wait for the whole device all the same:
 * not while anything there waits for a dead rank. */
void xp_proxy_free(struct xp_proxy *p, int wait);

/* Wakes the streams that wait for this communicator, now and from now on. */
void xp_proxy_abort(struct xp_proxy *p);

/* The communicator has failed: data calls report it from now on. The first text stays. */
void xp_side_fail(struct xp_side *s, xp_status st, const char *text);

#endif
