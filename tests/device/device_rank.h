/*
 * device_rank.h - ranks as processes, each with a device of its own: calls of a device plan beside those of a host plan
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TEST_DEVICE_RANK_H
#define XP_TEST_DEVICE_RANK_H

#include "tests/cuemu/cudart.h"
#include "tests/harness/world.h"

struct device_rank {
    xp_comm *comm;
    int rank, ranks;
    int broken; /* the comm has failed, as the case wants it */
    int leaves_copies; /* device plans do not look for copies of rows in exact mode */
    const char *transport; /* of the plans that device_call_open makes */
    void *nccl_comm;
};

struct device_case {
    const char *name;
    void (*run)(struct device_rank *r);
};

/* on_emulator.cpp: kernels may touch the double's memory; whether what they did is without findings, which are printed. */
void emulator_open(unsigned seed);
int emulator_findings(void);
/* Bytes of device memory that launches of a kernel read and wrote since the counts were cleared; NULL: of all kernels. */
size_t emulator_bytes(const char *kernel);
void emulator_clear_counts(void);

/* Ends the process unless it is so. */
void must(const struct device_rank *r, int so, const char *what);

/* One plan with its buffers, in device memory and, for comparison, in the host's. */
struct device_call {
    struct exchange e;
    xp_plan *plan, *host_plan;
    xp_request *request;
    cudaStream_t stream;
    char *send, *recv;           /* device */
    char **host_send;            /* [calls] what is sent */
    char *host_recv;             /* what the host plan receives */
    char **got;                  /* [calls] what came, copied back by the stream */
    size_t send_rows[WORLD_MAX], recv_rows[WORLD_MAX], most, row_bytes;
};
void device_call_open(struct device_rank *r, const struct exchange *e, struct device_call *c);
/* Puts the rows of this call into device memory, by the stream. */
void device_call_fill(struct device_rank *r, struct device_call *c, int call);
/* The exchange; afterwards the stream spoils what was sent and copies what came. */
void device_call_run(struct device_rank *r, struct device_call *c, int call);
/* The same in two parts, as a request. */
void device_call_start(struct device_rank *r, const struct exchange *e, int call, struct device_call *c);
void device_call_end(struct device_rank *r, struct device_call *c);
/* Compares with what the host plan receives; the calls in their order. */
void device_call_check(struct device_rank *r, struct device_call *c, int call);
void device_call_close(struct device_rank *r, struct device_call *c);

/* All calls of an exchange. */
void device_compare(struct device_rank *r, const struct exchange *e);

/* Runs the case that argv names on its ranks; for main. */
int device_main(int argc, char **argv, const struct device_case *cases);

#endif
