/*
 * proxy.h - the thread that moves the diverted exchanges of one communicator, and the slots they wait in
 *
 * The calling thread fills a slot and enqueues, on the program's stream: copies to the slot's send buffer, event `packed`, a wait
 * for the slot's flag, copies from the receive buffer, event `done`. The proxy sees `packed`, exchanges, and writes the flag. It
 * takes exchanges in the order they were issued, which is the same on all ranks; every communicator has a proxy of its own, so
 * one that waits holds up no other.
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
#define XP_RECORD 64

/* A piece of a message: program memory, and where it lies in the staging buffer. */
struct xp_piece {
    char *user;
    size_t offset, bytes;
};

struct xp_slot {
    uint32_t number; /* what the flag holds when the exchange is over */
    int klass;       /* index into side->classes */
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
    cudaEvent_t packed, done;
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
    xp_comm *comm;
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
    void *gathered;        /* [size] records of at most XP_RECORD bytes */
    char record[XP_RECORD]; /* what the calling thread wants gathered, */
    size_t record_len;      /* > 0 while it waits for that, */
    xp_status record_status; /* and what came of it; under lock */
};

/* Takes comm over, in every case. NULL: no memory, no thread. */
struct xp_proxy *xp_proxy_create(struct xp_side *side, xp_comm *comm);

/* The slot for the next exchange, once it is free. NULL when the exchange that used it failed on the device. */
struct xp_slot *xp_proxy_next(struct xp_proxy *p);

/* Hands the slot from xp_proxy_next to the thread. */
void xp_proxy_submit(struct xp_proxy *p, struct xp_slot *s);

/* Waits until the thread has nothing left to do, or is aborted. */
void xp_proxy_drain(struct xp_proxy *p);

/* Gathers `len` bytes (at most XP_RECORD) of every rank, after the exchanges that were issued. The thread does it: nobody else uses the
 * communicator, so that an abort from another thread finds it in one place. Collective. A failure is the communicator's. */
xp_status xp_proxy_gather(struct xp_proxy *p, const void *mine, void *all, size_t len);

/* What the exchanges of a class were since the last time. */
void xp_proxy_take_traffic(struct xp_proxy *p, int klass, struct xp_traffic *out);

/* Waits until the exchange of this slot is over. */
void xp_proxy_wait(struct xp_proxy *p, const struct xp_slot *s);

/* Ends thread, plans and comm, and frees everything that the device no longer uses. abort: without waiting for anybody.
 * Returns 0 when the thread could not be ended in time: it then goes on to use p->side. */
int xp_proxy_destroy(struct xp_proxy *p, int abort);

/* Wakes the streams that wait for this communicator, now and from now on. */
void xp_proxy_abort(struct xp_proxy *p);

/* The communicator has failed: data calls report it from now on. The first text stays. */
void xp_side_fail(struct xp_side *s, xp_status st, const char *text);

#endif
