/*
 * transport.h - what moves bytes between two ranks: one table, one contract
 *
 * A transport carries tagged messages between this rank and peers. It knows nothing of rows, plans or algorithms.
 *
 * Contract
 *  - Two lanes to every peer: CTRL (small messages, at most XP_CTRL_MAX bytes) and BULK. A lane never waits behind the other.
 *  - A message goes to the receive with the same (peer, lane, tag). Tags of messages under way on one lane are distinct.
 *  - BULK receives are posted before the peer sends (the algorithms see to it); a BULK message that comes before its receive
 *    must still arrive, if more slowly. CTRL messages may always come early.
 *  - A receive posted with room for cap bytes accepts shorter messages; op->len is what came. A longer one ends it with
 *    XP_ERR_MISMATCH and never writes past cap.
 *  - Buffers belong to the transport until op->status leaves XP_IN_PROGRESS. It does so in progress(), cancel() or fail(), or in
 *    send()/recv() at once. send() and recv() return op->status.
 *  - A send is done when its buffer is free. Large messages over shm are done when the receiver has them.
 *  - An operation whose peer is gone ends with XP_ERR_REMOTE or stays in progress until cancel() or fail().
 *  - Nothing blocks, but for cancel() (1 s in all, for a send that its peer does not take: the connection to it is then
 *    closed) and close(). Nothing is thread-safe: one thread at a time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TRANSPORT_H
#define XP_TRANSPORT_H

#include "crosspress/crosspress.h"

#define XP_CTRL_MAX 4096
#define XP_ADDRESS_MAX 2048
#define XP_TAG_BITS 48

enum xp_lane { XP_LANE_CTRL = 0, XP_LANE_BULK = 1 };

struct xp_op {
    xp_status status; /* XP_IN_PROGRESS, then final */
    size_t len;       /* receives: bytes that came */
    void *impl;       /* the transport's own */
    void *impl2;
};

struct xp_transport;

/* What a transport needs of the comm, so that it need not include it. */
struct xp_transport_env {
    int rank, size;
    const int *node_of;      /* [size], read by open() only: shm serves the ranks of this rank's node */
    int node_local_size;     /* ranks of this rank's node */
    uint64_t job;            /* random, equal on all ranks: for names of shared things */
    const char *interface_;  /* NULL = all */
    int tcp_only;            /* ucx: nothing but tcp and self */
    void (*log)(void *comm, xp_log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
    void *comm;
    const char *nccl_path;   /* nccl: where the library is, if nowhere else */
    void *nccl_comm;         /* nccl: the program's communicator, or NULL */
};

/* Bytes in device memory, for or from a peer. */
struct xp_piece {
    int peer;
    void *buf;
    size_t len;
};

struct xp_transport_ops {
    size_t size;
    const char *name, *about;
    /* Whether this build and machine can have it; the text says why not. */
    int (*available)(char *why, size_t why_size);
    /* Local resources. *address (at most XP_ADDRESS_MAX bytes) is what peers need. */
    xp_status (*open)(struct xp_transport **out, const struct xp_transport_env *env, void *address, size_t *address_len, char *err, size_t err_size);
    /* Collective among the peers it will serve: addresses are exchanged; after connect(), and a barrier of the comm, messages may flow. */
    xp_status (*connect)(struct xp_transport *t, int peer, const void *address, size_t address_len, char *err, size_t err_size);
    /* After the barrier that follows connect: drop names that are no longer needed. */
    void (*settled)(struct xp_transport *t);
    xp_status (*send)(struct xp_transport *t, int peer, enum xp_lane lane, uint64_t tag, const void *buf, size_t len, struct xp_op *op);
    xp_status (*recv)(struct xp_transport *t, int peer, enum xp_lane lane, uint64_t tag, void *buf, size_t cap, struct xp_op *op);
    /*
     * In place of send, recv, progress and cancel, for a transport whose messages are work on a stream (nccl). That one cannot keep the
     * contract above: it matches messages of a pair by their order, not by tags; both ends must name the same length; nothing moves before
     * both ends have come; and only the stream knows when a message is done. So all pieces of one exchange are enqueued together; both
     * ends of a pair list the same pieces in the same order, and all ranks make their exchanges in the same order.
     */
    xp_status (*exchange)(struct xp_transport *t, const struct xp_piece *send, size_t sends, const struct xp_piece *recv, size_t recvs, void *stream,
                          char *err, size_t err_size);
    /* An exchange of equal pieces, one for each rank in a row, the own one included. NULL or can_alltoall 0: all ranks use exchange. */
    int (*can_alltoall)(struct xp_transport *t);
    xp_status (*alltoall)(struct xp_transport *t, const void *send, void *recv, size_t piece, void *stream, char *err, size_t err_size);
    /* Whether what was enqueued can still end well. XP_IN_PROGRESS: it is not all enqueued yet. */
    xp_status (*check)(struct xp_transport *t, char *err, size_t err_size);
    /* Moves everything on; returns the number of operations or bytes moved (0: idle). */
    int (*progress)(struct xp_transport *t);
    /* Ends an operation: afterwards its buffer is not touched and its status is final (XP_ERR_STATE unless it was done). */
    void (*cancel)(struct xp_transport *t, struct xp_op *op);
    /* The peer is known to be dead: end all its operations with XP_ERR_REMOTE, soon. */
    void (*fail)(struct xp_transport *t, int peer);
    /* Nothing will be sent any more. 1: close() will not cut off what was sent; 0: look again after progress(). */
    int (*flushed)(struct xp_transport *t);
    /* At most 2 s, also with dead peers. */
    void (*close)(struct xp_transport *t);
};

struct xp_transport { /* every transport's struct begins with this */
    const struct xp_transport_ops *ops;
    int takes_device_memory; /* buffers of BULK messages may be in the memory of a CUDA device */
};

extern const struct xp_transport_ops xp_transport_shm, xp_transport_ucx, xp_transport_nccl;

/* NULL-terminated (transport.c): those that carry the messages of a comm. nccl is not among them: a plan opens it for itself. */
const struct xp_transport_ops *const *xp_transport_list(void);

#endif
