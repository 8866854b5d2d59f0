/*
 * stream.c - streams of the CUDA runtime double: their order, what is put on them, host functions
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/cuemu/sim.h"
#include <stdlib.h>

#define API __attribute__((visibility("default")))

static __thread struct CUstream_st *per_thread[MAX_DEVICES];
static struct CUstream_st *streams, *legacy[MAX_DEVICES];
static uint32_t slot_ticks[MAX_STREAMS]; /* where the next owner of a slot goes on */
static bool slot_used[MAX_STREAMS];

/* ---- which there are */

struct CUstream_st *xp_sim_streams(void)
{
    return streams;
}

static struct CUstream_st *new_stream(int on, unsigned flags)
{
    struct CUstream_st *s = calloc(1, sizeof *s);
    unsigned slot = 0;

    while (slot < MAX_STREAMS && slot_used[slot])
        slot++;
    if (!s || slot == MAX_STREAMS) {
        free(s);
        return NULL;
    }
    slot_used[slot] = true;
    s->magic = STREAM_MAGIC;
    s->slot = slot;
    s->clock.tick[slot] = slot_ticks[slot];
    s->device = on;
    s->blocking = !(flags & xp_cudaStreamNonBlocking);
    s->next = streams;
    streams = s;
    return s;
}

static struct CUstream_st *legacy_of(int on)
{
    if (!legacy[on] && (legacy[on] = new_stream(on, 0))) {
        legacy[on]->legacy = true;
        legacy[on]->blocking = false;
    }
    return legacy[on];
}

struct CUstream_st *xp_sim_stream(cudaStream_t handle)
{
    uintptr_t value = (uintptr_t)handle;

    if (value <= 1)
        return legacy_of(xp_sim_current_device());
    if (value == 2) {
        const int device = xp_sim_current_device();
        if (!per_thread[device])
            per_thread[device] = new_stream(device, 0);
        return per_thread[device];
    }
    for (struct CUstream_st *s = streams; s; s = s->next)
        if (s == handle && !s->destroyed)
            return s;
    return NULL;
}

void xp_sim_reap(struct CUstream_st *stream)
{
    struct CUstream_st **at = &streams;

    if (!stream->destroyed || stream->head)
        return;
    while (*at != stream)
        at = &(*at)->next;
    *at = stream->next;
    slot_ticks[stream->slot] = stream->clock.tick[stream->slot];
    slot_used[stream->slot] = false;
    xp_sim_release(stream->tail);
    free(stream->frontier.at);
    free(stream);
}

/* The legacy stream comes after all work of the blocking streams of its device, and theirs after its own. */
static void implicit_order(struct node *node, struct CUstream_st *stream)
{
    if (stream->blocking && legacy[stream->device])
        xp_sim_dep(node, legacy[stream->device]->tail);
    for (struct CUstream_st *s = streams; stream->legacy && s; s = s->next)
        if (s->blocking && s->device == stream->device)
            xp_sim_dep(node, s->tail);
}

int xp_sim_enqueue(struct CUstream_st *stream, const struct xp_cuemu_op *op, bool meets_host, struct node *after,
                   struct node **held)
{
    struct node *node;
    int error = xp_sim_capture_implicit(stream);

    if (held)
        *held = NULL;
    if (error)
        return error;
    if (stream->capture)
        return xp_sim_capture_add(stream, op);
    node = xp_sim_node(op, stream->legacy ? MAX_STREAMS : 2);
    if (!node)
        return NO_MEMORY;
    node->meets_host = meets_host;
    implicit_order(node, stream);
    xp_sim_dep(node, after);
    if (held) {
        xp_sim_hold(node);
        *held = node;
    }
    xp_sim_push(stream, node);
    return OK;
}

int xp_cuemu_enqueue_op(void *handle, const struct xp_cuemu_op *op)
{
    if (xp_sim_enter(op->name))
        return NOT_PERMITTED;
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (!stream || (op->kernel && stream->device != xp_sim_current_device()))
        return xp_sim_leave(INVALID_HANDLE);
    return xp_sim_leave(xp_sim_enqueue(stream, op, false, NULL, NULL));
}

struct launch {
    void (*fn)(void *arg);
    void *arg;
};

static int launch_run(void *arg, int first)
{
    struct launch *launch = arg;

    launch->fn(launch->arg);
    return XP_CUEMU_DONE;
}

int xp_cuemu_enqueue(void *handle, void (*fn)(void *arg), void *arg)
{
    struct launch *launch = malloc(sizeof *launch);
    struct xp_cuemu_op op = {.run = launch_run, .drop = free, .arg = launch, .name = "kernel", .kernel = 1};
    int error;

    if (!launch)
        return xp_cuemu_fail(NO_MEMORY);
    *launch = (struct launch){fn, arg};
    error = xp_cuemu_enqueue_op(handle, &op);
    if (error)
        free(launch);
    return error;
}

API int cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    if (flags & ~1u)
        return xp_cuemu_fail(INVALID_VALUE);
    if (xp_sim_enter(__func__))
        return NOT_PERMITTED;
    *stream = new_stream(xp_sim_current_device(), flags);
    return xp_sim_leave(*stream ? OK : NO_MEMORY);
}

API int cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, 0);
}

API int cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

/* Returns at once; what is queued still runs. */
API int cudaStreamDestroy(cudaStream_t handle)
{
    if (xp_sim_enter(__func__))
        return NOT_PERMITTED;
    struct CUstream_st *stream = (uintptr_t)handle > 2 ? xp_sim_stream(handle) : NULL;
    if (stream && stream->capture)
        stream->capture->invalid = true;
    if (stream) {
        stream->destroyed = true;
        xp_sim_reap(stream);
    }
    return xp_sim_leave(stream ? OK : INVALID_HANDLE);
}

API int cudaStreamSynchronize(cudaStream_t handle)
{
    if (xp_sim_enter(__func__))
        return NOT_PERMITTED;
    struct CUstream_st *stream = xp_sim_stream(handle);
    int error = !stream ? INVALID_HANDLE : xp_sim_capture_refuses(stream);
    if (!error)
        xp_sim_wait(stream->tail);
    return xp_sim_leave(error);
}

/* A poll gives the device a chance to move, so that a program that polls comes to its end. */
static void nudge(void)
{
    bool waiting;

    for (unsigned n = xp_sim_random() % 3; n; n--)
        xp_sim_step(1, &waiting);
}

/* After a step anything may have changed, also the stream's tail. */
int xp_sim_is_done(struct node *node)
{
    int error = NOT_READY;

    if (!node)
        return OK;
    xp_sim_hold(node);
    if (!node->done)
        nudge();
    if (node->done) {
        xp_sim_host_saw(&node->clock);
        error = OK;
    }
    xp_sim_release(node);
    return error;
}

API int cudaStreamQuery(cudaStream_t handle)
{
    if (xp_sim_enter(__func__))
        return NOT_PERMITTED;
    struct CUstream_st *stream = xp_sim_stream(handle);
    int error = !stream ? INVALID_HANDLE : xp_sim_capture_refuses(stream);
    return xp_sim_leave(error ? error : xp_sim_is_done(stream->tail));
}

API int cudaStreamGetFlags(cudaStream_t handle, unsigned *flags)
{
    pthread_mutex_lock(&xp_sim_lock);
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (stream)
        *flags = !stream->blocking && !stream->legacy;
    return xp_sim_leave(stream ? OK : INVALID_HANDLE);
}

API int cudaStreamGetDevice(cudaStream_t handle, int *on)
{
    pthread_mutex_lock(&xp_sim_lock);
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (stream)
        *on = stream->device;
    return xp_sim_leave(stream ? OK : INVALID_HANDLE);
}

/* ---- host functions: what they do may be seen by the host at once, and they may see what the host did until then */

struct host_call {
    cudaHostFn_t fn;
    cudaStreamCallback_t callback;
    cudaStream_t stream;
    void *arg;
};

static int host_call_run(void *arg, int first)
{
    struct host_call *call = arg;

    if (call->fn)
        call->fn(call->arg);
    else
        call->callback(call->stream, OK, call->arg);
    return XP_CUEMU_DONE;
}

static int enqueue_host_call(cudaStream_t handle, struct host_call what)
{
    struct host_call *call = malloc(sizeof *call);
    struct xp_cuemu_op op = {.run = host_call_run, .drop = free, .arg = call, .name = "host function", .outside = 1};

    if (!call)
        return xp_cuemu_fail(NO_MEMORY);
    *call = what;
    if (xp_sim_enter("a launch of a host function")) {
        free(call);
        return NOT_PERMITTED;
    }
    struct CUstream_st *stream = xp_sim_stream(handle);
    int error = !stream ? INVALID_HANDLE : xp_sim_enqueue(stream, &op, true, NULL, NULL);
    if (error)
        free(call);
    return xp_sim_leave(error);
}

API int cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *arg)
{
    return enqueue_host_call(stream, (struct host_call){.fn = fn, .arg = arg});
}

API int cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t fn, void *arg, unsigned flags)
{
    return enqueue_host_call(stream, (struct host_call){.callback = fn, .stream = stream, .arg = arg});
}
