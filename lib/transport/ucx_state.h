/*
 * ucx_state.h - what the UCX transport remembers (ucx.c, ucx_open.c, ucx_message.c)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_UCX_STATE_H
#define XP_UCX_STATE_H

#include "lib/transport/transport.h"
#include "lib/transport/ucx_lib.h"

#define XP_UCX_WINDOW 4 /* segments of one message that UCX has at a time */
#define XP_UCX_SEGMENT (((size_t)512 << 10) - 64) /* with headers of UCX one packet of TCP_RX_SEG_SIZE */


struct xp_ucx_request;

struct xp_ucx_segment {
    struct xp_ucx_request *request;
    void *handle;  /* of UCX, NULL: not under way */
    size_t number; /* of the segment in its message */
    int back;      /* its callback has been called */
};

/* An operation of the caller that is under way, cut into segments (ucx_message.c). */
struct xp_ucx_request {
    struct xp_ucx *transport;
    struct xp_ucx_request *next, *prev; /* of the peer's and lane's list; next alone: spare */
    struct xp_op *op;                   /* NULL: given up, only its segments are still to come back */
    unsigned char *buf;
    uint64_t tag;
    size_t len;             /* of the message, or the room of a receive */
    size_t posted, done;    /* segments handed to UCX, segments that came back */
    size_t got;             /* bytes received */
    size_t segments;        /* of which the message consists, or a receive at most */
    xp_status status;       /* XP_IN_PROGRESS, or how it will end once its segments are back */
    int peer, lane, sending;
    int posting;            /* inside a call of UCX that may call back */
    int ready;              /* in the transport's list of these */
    struct xp_ucx_request *next_ready;
    struct xp_ucx_segment segment[XP_UCX_WINDOW];
};

struct xp_ucx_list {
    struct xp_ucx_request *first;
};

struct xp_ucx_peer {
    struct xp_ucx *transport; /* for UCX's callbacks, which get the peer */
    ucp_ep_h ep[2];
    struct xp_ucx_list under_way[2];
    int connected;
    int sent_to[2]; /* lanes that have carried something */
    int broken[2]; /* lanes whose endpoint reported it: ended in the next progress() */
    int ended[2];  /* lanes */
    double ended_at;
    ucs_status_t why;
};

struct xp_ucx {
    struct xp_transport base;
    struct xp_transport_env env;
    const struct xp_ucx_lib *lib;
    ucp_context_h context;
    ucp_worker_h worker[2]; /* one a lane: own connections, so that small messages never sit behind bulk bytes */
    struct xp_ucx_peer *peer; /* [size] */
    struct xp_ucx_request *spare;
    void *slabs;
    struct xp_ucx_request *ready; /* sends that may go on as soon as UCX has returned */
    int bulk_under_way; /* requests; 0: that worker needs no progress */
    int flushing, closing; /* endpoints */
    int flush_asked;
    int broken_lanes;   /* of all peers, to be ended in progress() */
    int ending_peers;   /* UCX still holds operations of lanes that have ended */
    double drain_until; /* how long cancel() may still wait for UCX */
};

/* ucx.c */
/* Moves both workers on while they have something; returns how much. */
int xp_ucx_progress_workers(struct xp_ucx *t);
/* Ends everything under way with the peer and closes its endpoints. Nothing blocks. */
void xp_ucx_end_peer(struct xp_ucx *t, int peer, xp_status s);
/* Ends what UCX does not give back, of lanes that have ended. */
void xp_ucx_abandon_all(struct xp_ucx *t, int peer);

/* ucx_open.c */
xp_status xp_ucx_open(struct xp_transport **out, const struct xp_transport_env *env, void *address, size_t *address_len, char *err,
                      size_t err_size);
xp_status xp_ucx_connect(struct xp_transport *base, int peer, const void *address, size_t address_len, char *err, size_t err_size);
int xp_ucx_flushed(struct xp_transport *base);
void xp_ucx_close(struct xp_transport *base);
/* By force: UCX gives back what it holds of the lane's sends. */
void xp_ucx_close_endpoint(struct xp_ucx *t, int peer, int lane);
double xp_ucx_now(void);
const char *xp_ucx_lane_name(int lane);

/* ucx_message.c */
struct xp_ucx_request *xp_ucx_request_new(struct xp_ucx *t);
/* Hands segments to UCX while it takes them, and ends the operation when the last one is back. */
void xp_ucx_advance(struct xp_ucx *t, struct xp_ucx_request *r);
/* Goes on with the sends whose segments have come back. */
void xp_ucx_advance_ready(struct xp_ucx *t);
/* Ends the operation as soon as UCX has let go of its buffer: at once for a receive that has not matched. */
void xp_ucx_give_up(struct xp_ucx *t, struct xp_ucx_request *r, xp_status s);
/* Ends the operation although UCX has not let go. */
void xp_ucx_abandon(struct xp_ucx *t, struct xp_ucx_request *r);

#endif
