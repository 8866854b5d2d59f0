/*
 * sim.h - inside the CUDA runtime double: streams, the operations in their queues, events, captures
 *
 * One lock (xp_sim_lock) covers every field below. Operations run with the lock released, one at a time in the whole process, by
 * whichever thread drives the queues (queue.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUEMU_SIM_H
#define XP_CUEMU_SIM_H

#include "lib/interpose/cuda_abi.h"
#include "tests/cuemu/runtime.h"
#include <pthread.h>
#include <stdbool.h>

/* cudaError_t, as far as the double gives it. */
enum {
    OK = 0,
    INVALID_VALUE = 1,
    NO_MEMORY = 2,
    INVALID_DIRECTION = 21,
    INVALID_DEVICE = 101,
    INVALID_HANDLE = 400,
    NOT_READY = 600,
    PEER_ON = 704,
    HOST_REGISTERED = 712,
    HOST_NOT_REGISTERED = 713,
    NOT_PERMITTED = 800,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_MERGE = 902,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908
};

#define MAX_STREAMS 256 /* alive at one time */
#define MAX_DEVICES 64
#define EXIT_STUCK 96 /* something was waited for longer than CUEMU_TIMEOUT_S */

/* For every stream slot: how many of its operations are ordered before. */
struct clock {
    uint32_t tick[MAX_STREAMS];
};

/* One operation in a stream's queue. Events and waits keep it after it is done, for its clock. */
struct node {
    struct xp_cuemu_op op;
    struct CUstream_st *stream;
    struct node *next; /* in the stream */
    struct node **deps;
    unsigned ndeps, refs;
    bool started, done;
    bool meets_host; /* the host may look at what it does while it runs: orders it with the host both ways */
    uint64_t id;
    double ended;       /* seconds, for event timing */
    struct clock clock; /* before it ran: what the host had seen when it was enqueued; then: everything ordered before its end */
};

/* Places in a capture: the nodes that the next one of a stream comes after. */
struct frontier {
    unsigned *at, n;
};

struct capture {
    struct CUgraph_st *graph;
    struct CUstream_st *origin;
    pthread_t thread;
    int mode; /* 0 global, 1 thread-local, 2 relaxed */
    bool invalid;
    uint64_t id;
    unsigned refs;
    struct capture *next; /* of those under way */
};

struct CUstream_st {
    uint32_t magic;
    unsigned slot;
    int device;
    bool blocking; /* waits for the legacy stream and is waited for by it */
    bool legacy, destroyed;
    struct node *head, *tail; /* tail: kept after it is done */
    struct clock clock;       /* of the last operation that ran, */
    double ended;             /* and when it ended, as events tell it */
    struct capture *capture;
    struct frontier frontier;
    struct CUstream_st *next; /* of all */
};

struct CUevent_st {
    uint32_t magic;
    int device;
    unsigned flags;
    struct node *node;       /* the last record, when not captured */
    struct capture *capture; /* the last record, when captured */
    struct frontier frontier;
};

#define STREAM_MAGIC 0x57e4a3u
#define EVENT_MAGIC 0xe7e4a3u

extern pthread_mutex_t xp_sim_lock;

/* queue.c: all but xp_sim_wait* with the lock held. */
struct node *xp_sim_node(const struct xp_cuemu_op *op, unsigned maxdeps);
void xp_sim_dep(struct node *node, struct node *on);
void xp_sim_push(struct CUstream_st *stream, struct node *node);
void xp_sim_hold(struct node *node);
void xp_sim_release(struct node *node);
unsigned xp_sim_step(unsigned most, bool *waiting);
void xp_sim_wait(struct node *node); /* releases the lock while it waits */
void xp_sim_wait_all(int device);    /* -1: all */
bool xp_sim_in_op(const char *call); /* true after a violation: this call was made inside an operation */
struct node *xp_sim_current(void);   /* the operation this thread runs */
double xp_sim_seconds(void);
uint32_t xp_sim_random(void);
void xp_sim_host_saw(const struct clock *clock);

/* runtime.c. A call begins by taking the lock, unless an operation of a stream makes it, and ends by giving it back: with its error. */
int xp_sim_enter(const char *call);
int xp_sim_leave(int error);
int xp_sim_current_device(void);
int xp_sim_devices(void);

/* stream.c: with the lock held */
struct CUstream_st *xp_sim_stream(cudaStream_t handle); /* NULL: not a stream */
struct CUstream_st *xp_sim_streams(void);
void xp_sim_reap(struct CUstream_st *stream); /* frees it when it is destroyed and empty */

/* after: one more operation to come after, or NULL. held: NULL, or where the caller gets the node, to be released (NULL if captured). */
int xp_sim_enqueue(struct CUstream_st *stream, const struct xp_cuemu_op *op, bool meets_host, struct node *after,
                   struct node **held);
int xp_sim_is_done(struct node *node); /* OK or NOT_READY; gives the device a chance to move */

/* capture.c */
int xp_sim_capture_add(struct CUstream_st *stream, const struct xp_cuemu_op *op);
int xp_sim_capture_record(struct CUevent_st *event, struct CUstream_st *stream);
int xp_sim_capture_wait(struct CUstream_st *stream, struct CUevent_st *event);
int xp_sim_capture_forbids(void);                              /* an unsafe call: the error to give, or 0 */
int xp_sim_capture_refuses(struct CUstream_st *stream);        /* a wait or a query of this stream: the same */
int xp_sim_capture_implicit(const struct CUstream_st *stream); /* legacy stream against a capture under way: the same */
void xp_sim_forget_capture(struct CUevent_st *event);

/* order.c: with the lock held. */
void xp_sim_join(struct clock *into, const struct clock *from);
void xp_sim_memory_born(void *base, size_t bytes);
void xp_sim_memory_gone(void *base);
void xp_sim_access(struct node *by, const void *p, size_t bytes, bool write);

/* device_memory.c */
bool xp_sim_find(const void *p, struct xp_cuemu_range *range);
void xp_sim_open_memory(bool on); /* with the lock held: an operation begins or has ended */

#endif
