/*
 * shm_state.h - what the shared memory transport remembers (shm.c, shm_receive.c, shm_send.c)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_SHM_STATE_H
#define XP_SHM_STATE_H

#include "lib/transport/shm_ring.h"

/* An operation of the caller that is under way. */
struct xp_shm_request {
    struct xp_shm_request *next;
    struct xp_op *op;
    struct xp_shm_message *message; /* receive: what fills it, NULL while it waits */
    uint64_t tag;
    unsigned char *buf;
    size_t len, done; /* len: of the message, or the room of a receive */
    int peer, lane, sending;
    int slot;         /* send: where it is offered to be pulled, or -1 */
};

/* A message that has begun to arrive. */
struct xp_shm_message {
    struct xp_shm_message *next;
    struct xp_shm_request *request; /* NULL: nobody has asked for it yet, or nobody wants it any more */
    unsigned char *spool;           /* where it waits for its receive */
    size_t spool_size;
    uint64_t tag, at;
    size_t len, got;
    int peer, lane, pull, slot, unwanted;
};

struct xp_shm_requests {
    struct xp_shm_request *first, *last;
};

struct xp_shm_messages {
    struct xp_shm_message *first, *last;
};

struct xp_shm_out {
    struct xp_shm_writer ring;
    struct xp_shm_requests queue;
    int abort; /* the message in the ring was taken back halfway: say so before the next one */
};

struct xp_shm_in {
    struct xp_shm_reader ring;
    struct xp_shm_requests posted;
    struct xp_shm_messages early;
    size_t early_bytes;
    struct xp_shm_message *current; /* the one whose fragments are coming */
};

struct xp_shm_peer {
    struct xp_shm_segment segment;
    int connected, failed, same_process;
    pid_t pid;
    struct xp_shm_out out[2];
    struct xp_shm_in in[2];
    struct xp_shm_request *offered[XP_SHM_SLOTS]; /* NULL with its bit in offers: taken back, slot not yet returned */
    unsigned offers;                              /* bits of slots in use */
};

struct xp_shm {
    struct xp_transport base;
    struct xp_transport_env env;
    int peers, me;              /* ranks of the node, and this one's place among them */
    int *local_of;              /* [size] place of a rank, -1 on other nodes */
    struct xp_shm_segment inbox;
    struct xp_shm_peer *peer;   /* [peers] */
    uint64_t *readable;         /* lanes to look at although the doorbell is silent: bit 2 * peer + lane */
    uint64_t *writable;         /* lanes with something to send */
    int offers;                 /* slots in use, all peers */
    struct xp_shm_messages pulls; /* messages being pulled */
    struct xp_shm_request *spare_requests;
    struct xp_shm_message *spare_messages;
    void *slabs;
    uint64_t cookie; /* peers read it to find out whether they may read this process */
    int settled;
};

static inline void xp_shm_mark(uint64_t *bits, int peer, int lane)
{
    int bit = 2 * peer + lane;

    bits[bit / 64] |= 1ull << (bit % 64);
}

/* shm.c */
struct xp_shm_request *xp_shm_request_new(struct xp_shm *t);
struct xp_shm_message *xp_shm_message_new(struct xp_shm *t);
void xp_shm_message_free(struct xp_shm *t, struct xp_shm_message *m);
void xp_shm_finish(struct xp_shm *t, struct xp_shm_request *r, xp_status s, size_t len);
void xp_shm_append(struct xp_shm_requests *l, struct xp_shm_request *r);
void xp_shm_unlink(struct xp_shm_requests *l, struct xp_shm_request *r);
/* The peer's memory makes no sense: it is failed, and the log says why. */
void xp_shm_corrupt(struct xp_shm *t, int peer, const char *what);

/* shm_send.c */
int xp_shm_push(struct xp_shm *t, int peer, int lane);
int xp_shm_collect_offers(struct xp_shm *t);
void xp_shm_cancel_send(struct xp_shm *t, struct xp_shm_request *r, xp_status s);

/* shm_receive.c */
int xp_shm_drain(struct xp_shm *t, int peer, int lane);
int xp_shm_pull(struct xp_shm *t);
/* Gives an early message to a new receive; 0: there is none. */
int xp_shm_claim_early(struct xp_shm *t, struct xp_shm_request *r);
void xp_shm_cancel_recv(struct xp_shm *t, struct xp_shm_request *r, xp_status s);
void xp_shm_drop_messages(struct xp_shm *t, int peer);
/* Whether this process can read the peer's memory. */
int xp_shm_can_pull(const struct xp_shm_address *a);

#endif
