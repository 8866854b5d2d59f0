/*
 * algo.h - what an all-to-all algorithm owes
 *
 * An algorithm moves rows of one call from every rank to every rank. It is written over xp_comm_send/recv and the coder; it is
 * a state machine: start() posts, progress() moves on and never blocks, finish() cleans up in every state.
 *
 * Rules
 *  - Whatever all ranks must agree on is computed from values all ranks share (plan, counts header), never from local timing.
 *  - Everything is allocated in create() from the plan's maxima; start() and progress() allocate nothing.
 *  - Receives are posted before the own header is sent: a peer's header is the permission to send to it.
 *  - Where rows are in device memory every function but score() and waiting_for() is called between xp_device_enter and xp_device_leave
 *    (device_call.h); those of inner plans by functions of the outer one.
 *  - After an error progress() returns it again; finish() cancels what is posted, so that buffers are free on return.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_ALGO_H
#define XP_ALGO_H

#include "hash/codec.h"
#include "lib/comm.h"

struct xp_algo_ops;
struct xp_books;
struct xp_device;

/* What an algorithm may read of a plan. lib/plan.h embeds it. */
struct xp_shape {
    struct xp_comm *comm;
    uint32_t id;           /* plan id, equal on all ranks */
    xp_dtype dtype;
    size_t dim, row_bytes, max_send_rows, max_recv_rows;
    size_t chunk_rows;     /* most rows in one message; equal on all ranks */
    xp_mode mode;
    int dedup;             /* rows of the slow hop may be deduplicated */
    struct xp_books *books; /* NULL: no books are kept (books.h) */
    struct xp_coder *coder; /* NULL: rows travel as they are (raw mode, codec raw) */
    xp_codec_stats *codec_stats; /* sums over all frames encoded */
    size_t coder_rows;     /* most rows the coder takes at once */
    size_t places;         /* most places of call.all, all below it; 0: calls have none */
    int automatic;         /* whether to code is decided per stream, by measurement */
    uint64_t config_hash;  /* of everything that must be equal */
    const size_t *peer_max_send, *peer_max_recv; /* [size] the maxima of every rank */
    double link_bytes_per_s; /* slow hop, equal on all ranks; 0 = unknown */
    void *nccl_comm;       /* the program's communicator; NULL: none */
    const void *shares;    /* state of a plan with the same algorithm that outlives this one and never exchanges beside it, or NULL */
    const struct xp_device *device; /* rows are in its memory; NULL: in the host's */
    int device_number;              /* CUDA's, of the device that was current when the plan was created */
    const struct xp_algo_ops *by_host; /* rows in device memory: the algorithm that exchanges them on the host; NULL: none does */
};

struct xp_gpu_terms; /* cuda/cuda_kernels.h */
struct xp_gpu_places;

/* What is made of the rows received, in device memory. */
struct xp_call_result {
    const struct xp_gpu_terms *terms;   /* `sums` sums of them, without copies among the terms; NULL: */
    size_t sums;
    const struct xp_gpu_places *places; /* every row to places of its own */
    void *out;
};

/* A call that begins before its rows are known: they are chosen and written while others are on their way. */
struct xp_ahead {
    const size_t *made;      /* [size] so many rows for a rank, from the first on, may be read; never fewer than before */
    const size_t *send_rows; /* [size] how many there are in all; NULL: not known yet */
    const size_t *recv_rows; /* [size] likewise of those that come, and as in the call */
    char *to;                /* where these belong */
    const uint32_t *place;
};

struct xp_call {
    const void *send;
    const size_t *send_rows; /* [size], kept by the request */
    void *recv;
    const size_t *recv_rows;
    uint32_t seq;            /* number of the call within the plan */
    const uint32_t *number;  /* of every row sent: equal numbers are equal rows, coded once, in */
    struct xp_coded_rows *store; /* hash/coded_rows.h; NULL: not known */
    int distinct;            /* no row goes to two ranks of other nodes */
    const char *ready;       /* [size] rows for this rank are written and may be read; NULL: all are */
    const struct xp_ahead *ahead; /* of algorithms that go ahead, in plans that code all rows or none: the counts above are the most that there may be,
                                none to this rank itself, and copies are not looked for. NULL: rows are written, counts known */
    void *stream;            /* rows in device memory: of the caller */
    int grad_weights;        /* MoE: gradients of the gate weights follow the rows; equal on all ranks */
    /* They need not lie one after another: of flat, all rows but those of this rank for itself; of algorithms that fuse, those sent that are
     * coded. */
    const char *from;        /* The rows sent lie here, */
    const uint32_t *at;      /* [rows sent] at these places, and go to `send` only where they must; NULL: they are in send */
    const uint32_t *all;     /* Of algorithms that fuse: the places of all rows that have one mean row and seed among them, `all_rows`; equal places */
    size_t all_rows;         /* are coded once. NULL: every message has its own */
    char *to;                /* The rows received belong here, */
    const uint32_t *place;   /* [rows received] at these places, and come to `recv` only where they must; NULL: they belong to recv */
    const struct xp_call_result *result; /* Of algorithms that fuse: this is wanted, the rows come to `recv` only where they must; NULL: the rows are */
};

struct xp_algo_ops {
    size_t size;
    const char *name, *about;
    int heeds_ready; /* call.ready: rows that are not ready are left alone */
    int goes_ahead;  /* call.ahead */
    int fuses;       /* rows in device memory: call.at of rows to peers that xp_device_codes (device_call.h), and call.result where there is such a peer */
    /* Predicted seconds of a call of average size, from rank-uniform values only; < 0: cannot serve this comm. */
    double (*score)(const struct xp_shape *s);
    xp_status (*create)(void **state, const struct xp_shape *s);
    xp_status (*start)(void *state, const struct xp_call *c, xp_stats *stats);
    /* Collective, when create() has gone well on every rank; NULL: nothing to do. */
    xp_status (*connect)(void *state);
    /* One round. XP_OK, XP_IN_PROGRESS, error; *moved grows when the round did anything. */
    xp_status (*progress)(void *state, int *moved);
    /* While a call is under way: how many rows of a peer, from its first on, are in their places. NULL: not known. */
    size_t (*arrived)(const void *state, int peer);
    /* Fills text with what is being waited for ("counts of rank 2, rows of rank 3"). */
    void (*waiting_for)(void *state, char *text, size_t size);
    void (*finish)(void *state);
    void (*destroy)(void *state);
};

extern const struct xp_algo_ops xp_algo_flat, xp_algo_hier, xp_algo_leader;
extern const struct xp_algo_ops xp_algo_staged, xp_algo_hosted, xp_algo_grouped; /* for rows in device memory; not in the list */

/* NULL-terminated (algo.c). */
const struct xp_algo_ops *const *xp_algo_list(void);
/* The entry of that name, or for "auto" the one with the best score. NULL: unknown or cannot serve. */
const struct xp_algo_ops *xp_algo_choose(const struct xp_shape *s, const char *name);

/* Adds bytes sent to a peer to the statistics of the hop that they take. */
void xp_count_sent(const struct xp_comm *c, xp_stats *stats, int peer, size_t bytes);

#endif
