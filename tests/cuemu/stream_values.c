/*
 * stream_values.c - the driver's stream memory operations: a stream that waits for a value in memory, or writes one
 *
 * They are how host threads and streams talk without CUDA seeing it, so each orders the stream with the host.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/cuemu/sim.h"
#include <stdlib.h>


struct value_op {
    uint32_t *at;
    uint32_t value;
    unsigned how; /* 0 at least, 1 equal, 2 any bit of, 3 not all bits of */
};

static int wait_run(void *arg, int first)
{
    const struct value_op *v = arg;
    uint32_t now = __atomic_load_n(v->at, __ATOMIC_ACQUIRE);
    bool met = v->how == 0   ? (int32_t)(now - v->value) >= 0
               : v->how == 1 ? now == v->value
               : v->how == 2 ? (now & v->value) != 0
                             : ~(now | v->value) != 0;

    return met ? XP_CUEMU_DONE : XP_CUEMU_AGAIN;
}

static int write_run(void *arg, int first)
{
    const struct value_op *v = arg;

    __atomic_store_n(v->at, v->value, __ATOMIC_RELEASE);
    return XP_CUEMU_DONE;
}

/* Memory must be the device's or pinned, the word aligned; managed memory is refused, as in CUDA. */
static int enqueue(cudaStream_t handle, uint64_t address, uint32_t value, unsigned how, bool wait)
{
    struct value_op *v = malloc(sizeof *v);
    struct xp_cuemu_op op = {.run = wait ? wait_run : write_run, .drop = free, .arg = v, .outside = 1,
                             .name = wait ? "wait for a value" : "write of a value"};
    struct xp_cuemu_range range;
    int error = OK;

    if (!v)
        return NO_MEMORY;
    *v = (struct value_op){(uint32_t *)(uintptr_t)address, value, how};
    pthread_mutex_lock(&xp_sim_lock);
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (!stream)
        error = INVALID_HANDLE;
    else if (address % 4 || how > 3 || !xp_sim_find(v->at, &range) || range.kind == XP_CUEMU_MANAGED)
        error = INVALID_VALUE;
    else
        error = xp_sim_enqueue(stream, &op, true, NULL, NULL);
    pthread_mutex_unlock(&xp_sim_lock);
    if (error)
        free(v);
    return error;
}

int xp_cuemu_wait_value32(void *stream, uint64_t address, uint32_t value, unsigned flags)
{
    return xp_sim_in_op("cuStreamWaitValue32") ? NOT_PERMITTED : enqueue(stream, address, value, flags, true);
}

int xp_cuemu_write_value32(void *stream, uint64_t address, uint32_t value, unsigned flags)
{
    return xp_sim_in_op("cuStreamWriteValue32") ? NOT_PERMITTED : enqueue(stream, address, value, 0, false);
}
