/*
 * event.c - events of the CUDA runtime double: an event is the operation that recorded it last
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/cuemu/sim.h"
#include <stdlib.h>

#define API __attribute__((visibility("default")))

static int nothing_run(void *arg, int first)
{
    return XP_CUEMU_DONE;
}

API int cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    struct CUevent_st *e = calloc(1, sizeof *e);

    if (!e)
        return xp_cuemu_fail(NO_MEMORY);
    e->magic = EVENT_MAGIC;
    e->device = xp_sim_current_device();
    e->flags = flags;
    *event = e;
    return OK;
}

API int cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, 0);
}

static bool is_event(const struct CUevent_st *event)
{
    return event && event->magic == EVENT_MAGIC;
}

API int cudaEventDestroy(cudaEvent_t event)
{
    if (!is_event(event))
        return xp_cuemu_fail(INVALID_HANDLE);
    pthread_mutex_lock(&xp_sim_lock);
    xp_sim_release(event->node);
    xp_sim_forget_capture(event);
    event->magic = 0;
    pthread_mutex_unlock(&xp_sim_lock);
    free(event);
    return OK;
}

API int cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    static const struct xp_cuemu_op op = {.run = nothing_run, .name = "event record"};
    struct node *node = NULL;
    int error;

    if (!is_event(event))
        return xp_cuemu_fail(INVALID_HANDLE);
    if (xp_sim_enter(__func__))
        return NOT_PERMITTED;
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (!stream || stream->device != event->device)
        return xp_sim_leave(INVALID_HANDLE);
    if (stream->capture)
        return xp_sim_leave(xp_sim_capture_record(event, stream));
    error = xp_sim_enqueue(stream, &op, false, NULL, &node);
    if (!error) {
        xp_sim_forget_capture(event);
        xp_sim_release(event->node);
        event->node = node;
    }
    return xp_sim_leave(error);
}

API int cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags)
{
    return cudaEventRecord(event, stream);
}

API int cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned flags)
{
    static const struct xp_cuemu_op op = {.run = nothing_run, .name = "event wait"};
    int error = OK;

    if (!is_event(event))
        return xp_cuemu_fail(INVALID_HANDLE);
    if (xp_sim_enter(__func__))
        return NOT_PERMITTED;
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (!stream)
        error = INVALID_HANDLE;
    else if (stream->capture || event->capture)
        error = xp_sim_capture_wait(stream, event);
    else if (event->node)
        error = xp_sim_enqueue(stream, &op, false, event->node, NULL);
    return xp_sim_leave(error);
}

API int cudaEventSynchronize(cudaEvent_t event)
{
    if (!is_event(event))
        return xp_cuemu_fail(INVALID_HANDLE);
    if (xp_sim_enter(__func__))
        return NOT_PERMITTED;
    int error = event->capture ? CAPTURED_EVENT : xp_sim_capture_forbids();
    if (!error)
        xp_sim_wait(event->node);
    return xp_sim_leave(error);
}

API int cudaEventQuery(cudaEvent_t event)
{
    if (!is_event(event))
        return xp_cuemu_fail(INVALID_HANDLE);
    if (xp_sim_enter(__func__))
        return NOT_PERMITTED;
    int error = event->capture ? CAPTURED_EVENT : xp_sim_capture_forbids();
    return xp_sim_leave(error ? error : xp_sim_is_done(event->node));
}

API int cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    int error = OK;

    if (!is_event(start) || !is_event(end) || (start->flags | end->flags) & xp_cudaEventDisableTiming)
        return xp_cuemu_fail(INVALID_HANDLE);
    if (xp_sim_enter(__func__))
        return NOT_PERMITTED;
    if (!start->node || !end->node)
        error = INVALID_HANDLE;
    else if (!start->node->done || !end->node->done)
        error = NOT_READY;
    else
        *ms = (float)(1e3 * (end->node->ended - start->node->ended));
    return xp_sim_leave(error);
}
