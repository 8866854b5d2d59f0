/*
 * fake_nccl.h - inside the NCCL double
 *
 * Ranks are threads or processes of one machine. Every two ranks of a communicator have two unix stream sockets: one for what its
 * calls agree on (split), one for data. Data moves only while the group that it belongs to is at the head of its stream: each
 * group of calls is one operation of the CUDA runtime double.
 *
 * Environment
 *   FAKE_NCCL_VERSION   what ncclGetVersion says (22809)
 *   FAKE_NCCL_FAULTS    list of NAME#N=CODE (the N-th call of NAME returns CODE and does nothing; without #N every call),
 *                       delay:NAME#N=MS (it sleeps first), async#N=CODE (after the N-th launched group), mismatch#N (the N-th
 *                       receive asks for a byte too many), mute#N (from the N-th group on this rank moves no data),
 *                       late=US (a group starts up to so much later), inprogress=MS (work of non-blocking communicators lasts),
 *                       birth=SECONDS (a communicator that is not complete by then fails, 60)
 *   FAKE_NCCL_FAULT_RANK  faults only on this rank of a communicator
 *   FAKE_NCCL_TCP       name of an interface: ranks talk over TCP there, and may be in different network namespaces
 *   FAKE_NCCL_LOG       prefix of a file per process: one line per call
 *   FAKE_NCCL_STUCK_S   a group that does not move for so long ends the process with a report (20)
 *   FAKE_NCCL_ON_MISMATCH  exit (exit code 98) or error (asynchronous error)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FAKE_NCCL_H
#define FAKE_NCCL_H

#include "lib/interpose/nccl_abi.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define FAKE_EXIT_LOUD 98

/* The function under its two names, as NCCL exports it: pncclX, and ncclX weak at the same address. */
#define NCCL_API(result, name, ...)                                                                           \
    __attribute__((visibility("default"))) result p##name(__VA_ARGS__);                                       \
    __attribute__((visibility("default"), weak, alias("p" #name))) result name(__VA_ARGS__);                  \
    result p##name(__VA_ARGS__)

/* What two ends of a message agree on. space: 0 point to point, 1 collective; 2 and up: captured, two for each captured group. */
struct key {
    uint32_t space, round;
    uint64_t seq;
};

enum step { WAITS, READY, MOVES, ENDED };

struct transfer {
    struct transfer *next; /* of the active ones of its link */
    struct key key;
    bool send, collective;
    int peer, type;
    char *at;
    size_t bytes, moved;
    enum step step;
};

/* On the data socket: a receiver is ready (CTS), data (the bytes follow), the two disagree, end. */
enum wire_kind { WIRE_CTS = 1, WIRE_DATA, WIRE_MISMATCH, WIRE_BYE };

struct wire {
    uint32_t magic, kind;
    struct key key;
    uint64_t bytes;
    uint32_t type, rank;
};

struct queued {
    struct queued *next;
    struct wire wire;
};

struct link {
    int control, data;
    bool left, gone; /* it said so; it did not */
    struct transfer *sends, *recvs;
    struct queued *out, *early; /* to be written; CTS for sends not active yet */
    struct wire out_head, in_head;
    size_t out_done, in_done; /* bytes of the heads */
    bool out_busy;
    struct transfer *out_data, *in_data;
};

/* Where a rank listens, both in network order. */
struct place {
    uint32_t ip, port;
};

struct ncclComm {
    uint32_t magic;
    int rank, n, device;
    bool blocking;
    uint64_t nonce;
    struct link *links;
    int listener;
    _Atomic int state; /* ncclInProgress, ncclSuccess or the asynchronous error */
    _Atomic int aborted, revoked, finalized;
    _Atomic unsigned outstanding; /* groups on streams */
    _Atomic unsigned graphs;      /* groups that graphs hold */
    unsigned children, captured;
    uint64_t *seq; /* messages to and from each rank, numbered: job.c */
    uint64_t launched, received;
    struct ncclComm *next_free;
};

/* comm_calls.c */
ncclResult_t fake_check_comm(struct ncclComm *comm); /* usable now? */
void fake_set_error(struct ncclComm *comm, ncclResult_t error);
bool fake_broken(const struct ncclComm *comm); /* data does not move any more */

/* birth.c: a communicator comes up in steps, so that one thread can bring up several. */
struct birth;
struct birth *fake_birth_new(struct ncclComm *comm, uint64_t nonce, struct place root);
struct birth *fake_birth_split(struct ncclComm *parent, struct ncclComm **out, int color, int key, bool blocking);
struct birth *fake_birth_shrink(struct ncclComm *parent, struct ncclComm **out, const int *exclude, int n, bool blocking);
struct birth *fake_birth_grow(struct ncclComm *parent, struct ncclComm **out, int n, const uint64_t *nonce, bool blocking);
ncclResult_t fake_birth_step(struct birth *birth); /* ncclInProgress: again later */
struct ncclComm *fake_birth_comm(struct birth *birth); /* whose state tells of it: the new one or the parent */
void fake_birth_end(struct birth *birth, ncclResult_t result);
struct ncclComm *fake_comm_alloc(int rank, int n, bool blocking);
void fake_comm_free(struct ncclComm *comm);

/* rendezvous.c: ranks on different hosts */
const char *fake_tcp(void); /* the interface, or NULL: unix sockets */
int fake_tcp_listen(int backlog, struct place *place);
int fake_tcp_connect(struct place place);
ncclResult_t fake_root_start(struct place *place);
int fake_root_ask(struct place root, int rank, int n, struct place own);

/* nccl_wires.c */
void fake_wires_progress(struct ncclComm *comm);
void fake_wires_start(struct ncclComm *comm, struct transfer *transfer);
void fake_wires_drop(struct ncclComm *comm, struct transfer *transfer);
void fake_wires_watch(struct ncclComm *comm); /* looks for ranks that are gone */
void fake_wires_close(struct ncclComm *comm, bool in_order);

/* job.c: calls become operations of streams */
enum call_kind { CALL_SEND, CALL_RECV, CALL_ALLTOALL, CALL_ALLGATHER, CALL_BROADCAST, CALL_GATHER, CALL_SCATTER, CALL_REDUCE,
                 CALL_ALLREDUCE, CALL_REDUCE_SCATTER };

struct call {
    enum call_kind kind;
    struct ncclComm *comm;
    const void *send;
    void *recv;
    size_t count;
    int type, op, peer; /* peer: or root */
    cudaStream_t stream;
};

ncclResult_t fake_launch(struct ncclComm *comm, const struct call *calls, size_t n); /* calls of other comms are skipped */
size_t fake_type_bytes(int type);

/* reduce.c */
ncclResult_t fake_reduce_check(struct ncclComm *comm, int op, int type);
void fake_reduce(struct ncclComm *comm, void *out, const char *in, size_t count, int type, int op); /* in: one array per rank */

/* group.c */
ncclResult_t fake_submit(const struct call *call);
ncclResult_t fake_submit_birth(struct birth *birth);
bool fake_defer(struct ncclComm *comm, ncclResult_t (*how)(struct ncclComm *comm)); /* true: in a group, done at its end */
int fake_depth(void);
ncclResult_t fake_group_fail(ncclResult_t error); /* makes the open group, if any, fail; returns error */
bool fake_is_background(void); /* the calling thread does such work, and says when it is done */
ncclResult_t fake_in_background(struct ncclComm *comm, ncclResult_t (*fn)(void *arg), void *arg);

/* Under their second names, which a preloaded library does not take. */
ncclResult_t pncclGroupStart(void);
ncclResult_t pncclGroupEnd(void);

/* faults.c */
#define FAKE_NO_FAULT (-1)
int fake_fault(const char *call, const struct ncclComm *comm); /* the code to return, or FAKE_NO_FAULT; logs, delays */
bool fake_fault_at(const char *what, const struct ncclComm *comm, uint64_t n, long *value); /* the entry what#n is there */
long fake_setting(const char *what, long otherwise);
void fake_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
ncclResult_t fake_error(ncclResult_t code, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *fake_last_error(void);
double fake_seconds(void);

#endif
