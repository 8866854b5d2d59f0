/*
 * device_cuda.c - the device table of a build with CUDA: the functions of the runtime that it is linked with
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>

#include "lib/device.h"
#include "lib/interpose/cuda_abi.h"

static int pin(void *memory, size_t bytes)
{
    return cudaHostRegister(memory, bytes, xp_cudaHostRegisterPortable);
}

static int copy(void *to, const void *from, size_t bytes, void *stream)
{
    return bytes ? cudaMemcpyAsync(to, from, bytes, xp_cudaMemcpyDefault, stream) : 0;
}

static int zero(void *memory, size_t bytes, void *stream)
{
    return cudaMemsetAsync(memory, 0, bytes, stream);
}

static int stream_create(void **stream)
{
    return cudaStreamCreateWithFlags((cudaStream_t *)stream, xp_cudaStreamNonBlocking);
}

static int stream_destroy(void *stream)
{
    return cudaStreamDestroy(stream);
}

static int stream_synchronize(void *stream)
{
    return cudaStreamSynchronize(stream);
}

static int stream_capturing(void *stream, int *capturing)
{
    return cudaStreamIsCapturing(stream, capturing);
}

static int stream_wait(void *stream, void *event)
{
    return cudaStreamWaitEvent(stream, event, 0);
}

static int event_create(void **event)
{
    return cudaEventCreateWithFlags((cudaEvent_t *)event, xp_cudaEventDisableTiming);
}

static int event_destroy(void *event)
{
    return cudaEventDestroy(event);
}

static int event_record(void *event, void *stream)
{
    return cudaEventRecord(event, stream);
}

static int event_query(void *event)
{
    return cudaEventQuery(event);
}

static const struct xp_device table = {
    .text = cudaGetErrorString,
    .count = cudaGetDeviceCount,
    .get = cudaGetDevice,
    .set = cudaSetDevice,
    .captures = cudaThreadExchangeStreamCaptureMode,
    .attribute = cudaDeviceGetAttribute,
    .alloc = cudaMalloc,
    .free = cudaFree,
    .pin = pin,
    .unpin = cudaHostUnregister,
    .copy = copy,
    .zero = zero,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_synchronize = stream_synchronize,
    .stream_capturing = stream_capturing,
    .stream_wait = stream_wait,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_query = event_query,
    .kernels = &xp_cuda_table,
};

/* The runtime looks for the driver when it is first called; a machine without one costs nothing before. */
const struct xp_device *xp_device_find(char *why, size_t size)
{
    int devices = 0, e = cudaGetDeviceCount(&devices);

    if (e)
        snprintf(why, size, "no CUDA device: %s", cudaGetErrorString(e));
    else if (devices < 1)
        snprintf(why, size, "no CUDA device");
    return !e && devices > 0 ? &table : NULL;
}
