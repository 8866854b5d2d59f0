/*
 * plan.h - the inside of plans and requests
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PLAN_H
#define XP_PLAN_H

#include "collectives/algo.h"
#include "collectives/device_call.h"

#define XP_PLAN_MAGIC 0x5850706cu
#define XP_REQUEST_MAGIC 0x58507271u

/* One exchange. A plan has one, used again and again; it outlives the plan while the user still holds it. */
struct xp_request {
    uint32_t magic;
    struct xp_plan *plan; /* NULL: the plan is gone */
    int held;             /* given to the user, not freed yet */
    int active;           /* under way */
    xp_status status;     /* how it ended */
    const char *what;     /* the operation, for texts */
    int counted;          /* its rows go into the statistics */
    struct xp_call call;
    size_t *send_rows, *recv_rows; /* [size] copies of the caller's counts */
    char *ready;          /* [size] xp_alltoallv_early: the rows for a rank are written */
    int unready;          /* for how many ranks they are not */
    int begun;            /* the algorithm has been started: it heeds what is not ready, or all is */
    double started, deadline, last_moved;
    unsigned idle; /* rounds in which nothing moved */
};

struct xp_plan {
    uint32_t magic;
    struct xp_shape shape;
    const struct xp_algo_ops *algo;
    void *state;
    size_t *maxima; /* [2 size] behind shape.peer_max_send and peer_max_recv */
    uint32_t calls; /* started */
    xp_stats stats;
    size_t *equal_rows; /* [size] counts of xp_alltoall */
    struct xp_request *request;
    xp_codec_stats codec_stats;
    void *stream; /* rows in device memory: of the next call */
    struct xp_moe_plans *moe; /* NULL: a plan for alltoallv. Else state is a struct xp_moe (moe_plan.c) */
};

/* plan.c. xp_plan_open is collective and reports errors of any rank on all. */
xp_status xp_plan_open(struct xp_plan **out, struct xp_comm *c, const xp_plan_desc *d);
void xp_plan_close(struct xp_plan *p);

/* The same for a plan inside another one. row_wise: what a row is decoded to must not depend on the rows beside it. places: of rows in
 * device memory, as in struct xp_shape. first: a plan whose
 * connections this one may use, for it is closed later and has no exchange under way beside one of this; NULL: none. */
xp_status xp_plan_open_inner(struct xp_plan **out, struct xp_comm *c, const xp_plan_desc *d, int row_wise, size_t places, const struct xp_plan *first);
/* Parts of it, for moe_plan.c. */
xp_status xp_plan_create_request(struct xp_plan *p);
/* The table for rows in this memory, and the number of the device that is current; NULL: the host's. */
const struct xp_device *xp_plan_device(uint32_t memory, int *number);
void xp_plan_release(struct xp_plan *p);
/* Around every call of its algorithm: xp_device_enter and xp_device_leave (device_call.h) where rows are in device memory. */
struct xp_device_before xp_plan_enter(const struct xp_plan *p);
void xp_plan_leave(const struct xp_plan *p, struct xp_device_before before);

/* request.c: one exchange with counts that have been checked; without counts it does not enter the statistics. `what` names the
 * operation in texts (a string that stays). */
xp_status xp_request_start(struct xp_plan *p, const char *what, const void *send, const size_t *send_rows, void *recv,
                           const size_t *recv_rows);
/* The same for rows that are still being written; r->ready and r->unready say which. */
xp_status xp_request_start_early(struct xp_plan *p, const char *what, const void *send, const size_t *send_rows, void *recv,
                                 const size_t *recv_rows);
/* What a call that has started its exchange returns: the exchange is finished, or handed over as a request. */
xp_status xp_request_answer(struct xp_plan *p, xp_request **req);
/* One round. XP_IN_PROGRESS or how it ended. */
xp_status xp_request_round(struct xp_request *r);
/* Rounds until it has ended. */
xp_status xp_request_finish(struct xp_request *r);
/* Gives an exchange up; one under way takes the comm with it, because its messages are half sent. */
void xp_request_abandon(struct xp_request *r);

/* api.c: whether two buffers share bytes. */
int xp_overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes);

/* moe_plan.c: a plan for xp_route, and the inner plans that it stands on. */
xp_status xp_moe_plan_open(struct xp_plan **out, struct xp_comm *c, const xp_plan_desc *d);
void xp_moe_plan_close(struct xp_moe_plans *m);

#endif
