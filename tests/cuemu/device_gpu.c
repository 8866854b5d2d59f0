/*
 * device_gpu.c - checkcuda's device is the first GPU
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "device.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

static char name[300] = "no device";
static cudaStream_t stream;
static cudaEvent_t before, after;
static size_t errors;

static void expect(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    errors++;
    printf("# %s: %s\n", what, cudaGetErrorString(e));
}

int device_open(struct xp_gpu *g)
{
    struct cudaDeviceProp p;
    int devices = 0;

    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0)
        return 77;
    if (cudaGetDeviceProperties(&p, 0) != cudaSuccess || cudaStreamCreate(&stream) != cudaSuccess)
        return 1;
    expect(cudaEventCreate(&before), "event");
    expect(cudaEventCreate(&after), "event");
    snprintf(name, sizeof(name), "%s", p.name);
    g->stream = stream;
    g->sms = (unsigned)p.multiProcessorCount;
    g->shared_bytes = p.sharedMemPerBlockOptin;
    return 0;
}

const char *device_name(void)
{
    return name;
}

int device_is_emulated(void)
{
    return 0;
}

void *device_upload(const void *host, size_t bytes)
{
    void *p;

    if (cudaMalloc(&p, bytes ? bytes : 1) != cudaSuccess) {
        fprintf(stderr, "checkcuda: no %zu bytes of device memory\n", bytes);
        exit(2);
    }
    if (host)
        expect(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice), "upload");
    else
        expect(cudaMemset(p, 0xff, bytes), "fill");
    return p;
}

void device_download(void *host, const void *device, size_t bytes)
{
    expect(cudaStreamSynchronize(stream), "kernels");
    expect(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "download");
}

void device_free(void *p)
{
    expect(cudaFree(p), "free");
}

void device_schedule(unsigned number, uint64_t seed)
{
    (void)number;
    (void)seed;
}

size_t device_findings(void)
{
    const size_t n = errors;

    errors = 0;
    return n;
}

void device_count_begin(void)
{
}

struct device_count device_count(const char *kernel)
{
    (void)kernel;
    return (struct device_count){0};
}

double device_time(const struct xp_gpu *g, void (*run)(void *arg), void *arg)
{
    float ms = 0;

    expect(cudaEventRecord(before, g->stream), "event");
    run(arg);
    expect(cudaEventRecord(after, g->stream), "event");
    expect(cudaEventSynchronize(after), "timed kernel");
    expect(cudaEventElapsedTime(&ms, before, after), "event");
    return ms * 1e-3;
}

void device_copy(const struct xp_gpu *g, void *to, const void *from, size_t bytes)
{
    expect(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, g->stream), "copy");
}
