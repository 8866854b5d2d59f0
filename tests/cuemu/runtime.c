/*
 * runtime.c - the CUDA runtime double: errors, devices, streams, events, host functions
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/runtime.h"
#include "tests/cuemu/cudart.h"
#include "tests/cuemu/sim.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
#define VERSION 13000

static __thread int last_error;
static __thread int device;
static __thread struct CUstream_st *per_thread[MAX_DEVICES];
static struct CUstream_st *streams, *legacy[MAX_DEVICES];
static uint32_t slot_ticks[MAX_STREAMS]; /* where the next owner of a slot goes on */
static bool slot_used[MAX_STREAMS];

/* ---- errors */

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
    {OK, "cudaSuccess", "no error"},
    {INVALID_VALUE, "cudaErrorInvalidValue", "invalid argument"},
    {NO_MEMORY, "cudaErrorMemoryAllocation", "out of memory"},
    {INVALID_DIRECTION, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {INVALID_DEVICE, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {INVALID_HANDLE, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {NOT_READY, "cudaErrorNotReady", "device not ready"},
    {PEER_ON, "cudaErrorPeerAccessAlreadyEnabled", "peer access is already enabled"},
    {HOST_REGISTERED, "cudaErrorHostMemoryAlreadyRegistered", "part or all of the requested memory range is already mapped"},
    {HOST_NOT_REGISTERED, "cudaErrorHostMemoryNotRegistered", "pointer does not correspond to a registered memory region"},
    {NOT_PERMITTED, "cudaErrorNotPermitted", "operation not permitted"},
    {NOT_SUPPORTED, "cudaErrorNotSupported", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
    {CAPTURE_MERGE, "cudaErrorStreamCaptureMerge", "operation would result in a merge of separate capture sequences"},
    {CAPTURE_UNMATCHED, "cudaErrorStreamCaptureUnmatched", "capture was not ended in the same stream as it began"},
    {CAPTURE_UNJOINED, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {CAPTURE_ISOLATION, "cudaErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream"},
    {CAPTURE_IMPLICIT, "cudaErrorStreamCaptureImplicit", "operation would make the legacy stream depend on a capturing stream"},
    {CAPTURED_EVENT, "cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "cudaErrorStreamCaptureWrongThread", "stream capture was ended in another thread than it began"},
};

int xp_cuemu_fail(int error)
{
    if (error)
        last_error = error;
    return error;
}

API int cudaGetLastError(void)
{
    int error = last_error;

    last_error = OK;
    return error;
}

API int cudaPeekAtLastError(void)
{
    return last_error;
}

API const char *cudaGetErrorName(int error)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == error)
            return errors[i].name;
    return "unrecognized error code";
}

API const char *cudaGetErrorString(int error)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == error)
            return errors[i].text;
    return "unrecognized error code";
}

/* Takes the lock; `call` must not be made by an operation of a stream. */
static int enter(const char *call)
{
    if (xp_sim_in_op(call))
        return NOT_PERMITTED;
    pthread_mutex_lock(&xp_sim_lock);
    return OK;
}

static int leave(int error)
{
    pthread_mutex_unlock(&xp_sim_lock);
    return xp_cuemu_fail(error);
}

/* ---- devices */

int xp_sim_devices(void)
{
    const char *text = getenv("CUEMU_DEVICES");
    int n = text && *text ? atoi(text) : 8;

    return n < 0 ? 0 : n > MAX_DEVICES ? MAX_DEVICES : n;
}

int xp_sim_current_device(void)
{
    return device;
}

int xp_cuemu_device(void)
{
    return device;
}

API int cudaDriverGetVersion(int *version)
{
    *version = VERSION;
    return OK;
}

API int cudaRuntimeGetVersion(int *version)
{
    *version = VERSION;
    return OK;
}

API int cudaGetDeviceCount(int *count)
{
    *count = xp_sim_devices();
    return xp_cuemu_fail(*count ? OK : 100); /* cudaErrorNoDevice */
}

API int cudaGetDevice(int *current)
{
    *current = device;
    return OK;
}

API int cudaSetDevice(int wanted)
{
    if (wanted < 0 || wanted >= xp_sim_devices())
        return xp_cuemu_fail(INVALID_DEVICE);
    device = wanted;
    return OK;
}

API int cudaDeviceGetAttribute(int *value, int attribute, int which)
{
    static const struct {
        int attribute, value;
    } known[] = {{1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, 49152}, {10, 32}, {12, 65536},
                 {16, 16}, {31, 1}, {39, 2048}, {40, 1}, {41, 1}, {75, 9}, {76, 0}, {81, 233472}, {82, 65536}, {83, 1}, {95, 1},
                 {97, 232448}, {99, 1}, {106, 32}, {115, 1}};

    if (which < 0 || which >= xp_sim_devices())
        return xp_cuemu_fail(INVALID_DEVICE);
    *value = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].attribute == attribute)
            *value = known[i].value;
    return OK;
}

API int cudaDeviceGetPCIBusId(char *text, int size, int which)
{
    if (which < 0 || which >= xp_sim_devices())
        return xp_cuemu_fail(INVALID_DEVICE);
    snprintf(text, (size_t)size, "0000:%02x:00.0", which + 1);
    return OK;
}

API int cudaDeviceCanAccessPeer(int *can, int one, int other)
{
    *can = one != other;
    return OK;
}

API int cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
    static __thread bool on[MAX_DEVICES];

    if (flags || peer < 0 || peer >= xp_sim_devices() || peer == device)
        return xp_cuemu_fail(INVALID_DEVICE);
    if (on[peer])
        return xp_cuemu_fail(PEER_ON);
    on[peer] = true;
    return OK;
}

API int cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return OK;
}

API int cudaDeviceSynchronize(void)
{
    if (enter(__func__))
        return NOT_PERMITTED;
    int error = xp_sim_capture_forbids();
    if (!error)
        xp_sim_wait_all(device);
    return leave(error);
}

/* ---- streams */

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
        return legacy_of(device);
    if (value == 2) {
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
    if (enter(op->name))
        return NOT_PERMITTED;
    struct CUstream_st *stream = xp_sim_stream(handle);
    return leave(!stream ? INVALID_HANDLE : xp_sim_enqueue(stream, op, false, NULL, NULL));
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

/* A kernel goes only to a stream of the current device. */
int xp_cuemu_enqueue(void *handle, void (*fn)(void *arg), void *arg)
{
    struct launch *launch = malloc(sizeof *launch);
    struct xp_cuemu_op op = {.run = launch_run, .drop = free, .arg = launch, .name = "kernel"};
    int error;

    if (!launch)
        return xp_cuemu_fail(NO_MEMORY);
    *launch = (struct launch){fn, arg};
    pthread_mutex_lock(&xp_sim_lock);
    struct CUstream_st *stream = xp_sim_stream(handle);
    bool here = stream && stream->device == device;
    pthread_mutex_unlock(&xp_sim_lock);
    error = here ? xp_cuemu_enqueue_op(handle, &op) : xp_cuemu_fail(INVALID_HANDLE);
    if (error)
        free(launch);
    return error;
}

API int cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    if (flags & ~1u)
        return xp_cuemu_fail(INVALID_VALUE);
    if (enter(__func__))
        return NOT_PERMITTED;
    *stream = new_stream(device, flags);
    return leave(*stream ? OK : NO_MEMORY);
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
    if (enter(__func__))
        return NOT_PERMITTED;
    struct CUstream_st *stream = (uintptr_t)handle > 2 ? xp_sim_stream(handle) : NULL;
    if (stream && stream->capture)
        stream->capture->invalid = true;
    if (stream) {
        stream->destroyed = true;
        xp_sim_reap(stream);
    }
    return leave(stream ? OK : INVALID_HANDLE);
}

API int cudaStreamSynchronize(cudaStream_t handle)
{
    if (enter(__func__))
        return NOT_PERMITTED;
    struct CUstream_st *stream = xp_sim_stream(handle);
    int error = !stream ? INVALID_HANDLE : xp_sim_capture_refuses(stream);
    if (!error)
        xp_sim_wait(stream->tail);
    return leave(error);
}

/* A poll gives the device a chance to move, so that a program that polls comes to its end. */
static void nudge(void)
{
    bool waiting;

    for (unsigned n = xp_sim_random() % 3; n; n--)
        xp_sim_step(1, &waiting);
}

/* After a step anything may have changed, also the stream's tail. */
static int is_done(struct node *node)
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
    if (enter(__func__))
        return NOT_PERMITTED;
    struct CUstream_st *stream = xp_sim_stream(handle);
    int error = !stream ? INVALID_HANDLE : xp_sim_capture_refuses(stream);
    return leave(error ? error : is_done(stream->tail));
}

API int cudaStreamGetFlags(cudaStream_t handle, unsigned *flags)
{
    pthread_mutex_lock(&xp_sim_lock);
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (stream)
        *flags = !stream->blocking && !stream->legacy;
    return leave(stream ? OK : INVALID_HANDLE);
}

API int cudaStreamGetDevice(cudaStream_t handle, int *on)
{
    pthread_mutex_lock(&xp_sim_lock);
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (stream)
        *on = stream->device;
    return leave(stream ? OK : INVALID_HANDLE);
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
    if (enter("a launch of a host function")) {
        free(call);
        return NOT_PERMITTED;
    }
    struct CUstream_st *stream = xp_sim_stream(handle);
    int error = !stream ? INVALID_HANDLE : xp_sim_enqueue(stream, &op, true, NULL, NULL);
    if (error)
        free(call);
    return leave(error);
}

API int cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *arg)
{
    return enqueue_host_call(stream, (struct host_call){.fn = fn, .arg = arg});
}

API int cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t fn, void *arg, unsigned flags)
{
    return enqueue_host_call(stream, (struct host_call){.callback = fn, .stream = stream, .arg = arg});
}

/* ---- events: an event is the operation that recorded it last */

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
    e->device = device;
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
    if (enter(__func__))
        return NOT_PERMITTED;
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (!stream || stream->device != event->device)
        return leave(INVALID_HANDLE);
    if (stream->capture)
        return leave(xp_sim_capture_record(event, stream));
    error = xp_sim_enqueue(stream, &op, false, NULL, &node);
    if (!error) {
        xp_sim_forget_capture(event);
        xp_sim_release(event->node);
        event->node = node;
    }
    return leave(error);
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
    if (enter(__func__))
        return NOT_PERMITTED;
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (!stream)
        error = INVALID_HANDLE;
    else if (stream->capture || event->capture)
        error = xp_sim_capture_wait(stream, event);
    else if (event->node)
        error = xp_sim_enqueue(stream, &op, false, event->node, NULL);
    return leave(error);
}

API int cudaEventSynchronize(cudaEvent_t event)
{
    if (!is_event(event))
        return xp_cuemu_fail(INVALID_HANDLE);
    if (enter(__func__))
        return NOT_PERMITTED;
    int error = event->capture ? CAPTURED_EVENT : xp_sim_capture_forbids();
    if (!error)
        xp_sim_wait(event->node);
    return leave(error);
}

API int cudaEventQuery(cudaEvent_t event)
{
    if (!is_event(event))
        return xp_cuemu_fail(INVALID_HANDLE);
    if (enter(__func__))
        return NOT_PERMITTED;
    int error = event->capture ? CAPTURED_EVENT : xp_sim_capture_forbids();
    return leave(error ? error : is_done(event->node));
}

API int cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    int error = OK;

    if (!is_event(start) || !is_event(end) || (start->flags | end->flags) & xp_cudaEventDisableTiming)
        return xp_cuemu_fail(INVALID_HANDLE);
    if (enter(__func__))
        return NOT_PERMITTED;
    if (!start->node || !end->node)
        error = INVALID_HANDLE;
    else if (!start->node->done || !end->node->done)
        error = NOT_READY;
    else
        *ms = (float)(1e3 * (end->node->ended - start->node->ended));
    return leave(error);
}
