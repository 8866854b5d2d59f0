/*
 * gpu.c - the CUDA functions of this process, found at run time
 *
 * The runtime may be in the global scope, or in a scope of its own (Python's extension modules), or linked statically into the
 * program: then a shared one is opened, which works on the same device contexts. Streams, events and pointers are the driver's,
 * so it does not matter whose runtime made them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/gpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

static struct xp_gpu table;
static _Atomic int ready;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *open_first(const char *const *names, int flags)
{
    void *handle = NULL;
    for (; *names && !handle; names++)
        handle = dlopen(*names, flags);
    return handle;
}

/* The handle to look in; NULL = the global scope. Handles are never closed. */
static void *runtime_handle(void)
{
    static const char *const names[] = {"libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so", NULL};
    void *handle;
    if (dlsym(RTLD_DEFAULT, "cudaStreamIsCapturing"))
        return NULL;
    handle = open_first(names, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle && dlsym(RTLD_DEFAULT, "cuInit"))
        handle = open_first(names, RTLD_LAZY);
    return handle;
}

static void find_wait(struct xp_gpu *g)
{
    static const char *const names[] = {"libcuda.so.1", NULL};
    void *driver = open_first(names, RTLD_LAZY | RTLD_NOLOAD);
    void *fn = dlsym(RTLD_DEFAULT, "cuStreamWaitValue32_v2");
    if (!fn && driver)
        fn = dlsym(driver, "cuStreamWaitValue32_v2");
    if (!fn)
        fn = dlsym(RTLD_DEFAULT, "cuStreamWaitValue32");
    if (!fn && driver)
        fn = dlsym(driver, "cuStreamWaitValue32");
    g->cuStreamWaitValue32 = (__typeof__(g->cuStreamWaitValue32))fn;
}

static int fill(struct xp_gpu *g)
{
    void *handle = runtime_handle(), *scope = handle ? handle : RTLD_DEFAULT;
#define F(name) \
    if (!(g->name = (__typeof__(g->name))dlsym(scope, #name))) \
        return 0;
    XP_GPU_FUNCTIONS(F)
#undef F
    g->cudaThreadExchangeStreamCaptureMode =
        (__typeof__(g->cudaThreadExchangeStreamCaptureMode))dlsym(scope, "cudaThreadExchangeStreamCaptureMode");
    g->cudaHostGetDevicePointer = (__typeof__(g->cudaHostGetDevicePointer))dlsym(scope, "cudaHostGetDevicePointer");
    g->cudaGetLastError = (__typeof__(g->cudaGetLastError))dlsym(scope, "cudaGetLastError");
    find_wait(g);
    return 1;
}

int xp_gpu_is_over(const struct xp_gpu *g, cudaEvent_t event)
{
    int e = g->cudaEventQuery(event);
    if (e == xp_cudaErrorNotReady && g->cudaGetLastError)
        g->cudaGetLastError();
    return e == xp_cudaSuccess ? 1 : e == xp_cudaErrorNotReady ? 0 : -1;
}

int xp_gpu_relax(const struct xp_gpu *g)
{
    int mode = xp_cudaStreamCaptureModeRelaxed;
    if (g->cudaThreadExchangeStreamCaptureMode)
        g->cudaThreadExchangeStreamCaptureMode(&mode);
    return mode;
}

void xp_gpu_restore(const struct xp_gpu *g, int mode)
{
    if (g->cudaThreadExchangeStreamCaptureMode)
        g->cudaThreadExchangeStreamCaptureMode(&mode);
}

/* Looking in vain is slow: at most once a second. */
static int worth_a_look(void)
{
    static long last = -1; /* under the lock */
    struct timespec t;
    long before = last;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    last = (long)t.tv_sec;
    return last != before;
}

const struct xp_gpu *xp_gpu(void)
{
    if (atomic_load_explicit(&ready, memory_order_acquire))
        return &table;
    pthread_mutex_lock(&lock); /* a thread that comes while another one looks must find the same */
    if (!atomic_load(&ready) && worth_a_look() && fill(&table))
        atomic_store_explicit(&ready, 1, memory_order_release);
    pthread_mutex_unlock(&lock);
    return atomic_load(&ready) ? &table : NULL;
}
