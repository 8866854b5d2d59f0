/*
 * test_cuda_runtime.c - the CUDA runtime double keeps stream order and nothing more, and reports who relies on more
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cuemu/cudart.h"
#include "tests/cuemu/runtime.h"

#define BYTES 4096

static int failures;

#define CHECK(condition)                                                                                      \
    do {                                                                                                      \
        if (!(condition)) {                                                                                   \
            fprintf(stderr, "%s:%d: %s: not so: %s (CUEMU_SEED=%llu)\n", __FILE__, __LINE__, __func__,        \
                    #condition, (unsigned long long)xp_cuemu_seed());                                         \
            failures++;                                                                                       \
        }                                                                                                     \
    } while (0)

/* Violations since the last call; the report of each goes to stderr, so say that it is expected. */
static unsigned reported(void)
{
    static unsigned seen;
    unsigned now = xp_cuemu_violations(), n = now - seen;

    seen = now;
    return n;
}

struct buffers {
    unsigned char *a, *b, *c, *pinned;
    cudaStream_t s, t;
    cudaEvent_t e;
};

static struct buffers set_up(void)
{
    struct buffers x;

    CHECK(cudaMalloc((void **)&x.a, BYTES) == 0);
    CHECK(cudaMalloc((void **)&x.b, BYTES) == 0);
    CHECK(cudaMalloc((void **)&x.c, BYTES) == 0);
    CHECK(cudaHostAlloc((void **)&x.pinned, BYTES, 0) == 0);
    CHECK(cudaStreamCreateWithFlags(&x.s, xp_cudaStreamNonBlocking) == 0);
    CHECK(cudaStreamCreateWithFlags(&x.t, xp_cudaStreamNonBlocking) == 0);
    CHECK(cudaEventCreateWithFlags(&x.e, xp_cudaEventDisableTiming) == 0);
    return x;
}

static void tear_down(struct buffers *x)
{
    CHECK(cudaDeviceSynchronize() == 0);
    CHECK(cudaStreamDestroy(x->s) == 0 && cudaStreamDestroy(x->t) == 0 && cudaEventDestroy(x->e) == 0);
    CHECK(cudaFree(x->a) == 0 && cudaFree(x->b) == 0 && cudaFree(x->c) == 0 && cudaFreeHost(x->pinned) == 0);
}

static void nothing_runs_before_it_is_waited_for(void)
{
    struct buffers x = set_up();

    memset(x.pinned, 1, BYTES);
    CHECK(cudaMemcpyAsync(x.a, x.pinned, BYTES, xp_cudaMemcpyHostToDevice, x.s) == 0);
    CHECK(x.a[0] != 1);
    memset(x.pinned, 2, BYTES); /* too early: the copy has not read it yet */
    CHECK(cudaStreamSynchronize(x.s) == 0);
    CHECK(x.a[0] == 2 && x.a[BYTES - 1] == 2);

    unsigned char pageable[64] = {7};
    CHECK(cudaMemcpyAsync(x.a, pageable, sizeof pageable, xp_cudaMemcpyDefault, x.s) == 0);
    pageable[0] = 8; /* CUDA has read pageable memory by now */
    CHECK(cudaMemcpyAsync(pageable, x.a, sizeof pageable, xp_cudaMemcpyDeviceToHost, x.s) == 0);
    CHECK(pageable[0] == 7); /* and waits for copies to it */
    CHECK(reported() == 0);
    tear_down(&x);
}

static void events_order_streams(void)
{
    struct buffers x = set_up();

    for (int i = 0; i < 200; i++) {
        CHECK(cudaMemsetAsync(x.a, i, BYTES, x.s) == 0);
        CHECK(cudaEventRecord(x.e, x.s) == 0);
        CHECK(cudaStreamWaitEvent(x.t, x.e, 0) == 0);
        CHECK(cudaMemcpyAsync(x.b, x.a, BYTES, xp_cudaMemcpyDeviceToDevice, x.t) == 0);
        CHECK(cudaEventRecord(x.e, x.t) == 0);
        CHECK(cudaStreamWaitEvent(x.s, x.e, 0) == 0);
        if (i % 3 == 0) {
            while (cudaEventQuery(x.e) == xp_cudaErrorNotReady)
                ;
            CHECK(x.b[5] == (unsigned char)i);
        }
    }
    CHECK(reported() == 0);
    tear_down(&x);
    cudaGetLastError();
}

static void a_missing_wait_is_reported(void)
{
    struct buffers x = set_up();

    for (int i = 0; i < 20; i++) { /* whichever of the two runs first */
        cudaMemsetAsync(x.a, i, BYTES, x.s);
        cudaMemcpyAsync(x.b, x.a + 100, 100, xp_cudaMemcpyDefault, x.t);
        cudaDeviceSynchronize();
        CHECK(reported() == 1);
    }
    cudaMemsetAsync(x.a, 1, 100, x.s); /* other bytes */
    cudaMemcpyAsync(x.b, x.a + 100, 100, xp_cudaMemcpyDefault, x.t);
    cudaDeviceSynchronize();
    cudaMemcpyAsync(x.b, x.a, 100, xp_cudaMemcpyDefault, x.s); /* both read */
    cudaMemcpyAsync(x.c, x.a, 100, xp_cudaMemcpyDefault, x.t);
    cudaDeviceSynchronize();
    cudaMemsetAsync(x.a, 1, 100, x.s); /* the host waited in between */
    cudaStreamSynchronize(x.s);
    cudaMemsetAsync(x.a, 2, 100, x.t);
    cudaDeviceSynchronize();
    CHECK(reported() == 0);
    tear_down(&x);
}

static void the_legacy_stream_is_a_barrier_for_blocking_streams(void)
{
    struct buffers x = set_up();
    cudaStream_t blocking;

    CHECK(cudaStreamCreate(&blocking) == 0);
    for (int i = 0; i < 50; i++) {
        cudaMemsetAsync(x.a, i, BYTES, blocking);
        cudaMemcpyAsync(x.b, x.a, BYTES, xp_cudaMemcpyDefault, NULL);
        cudaMemcpyAsync(x.c, x.b, BYTES, xp_cudaMemcpyDefault, blocking);
        cudaStreamSynchronize(blocking);
        CHECK(x.c[9] == i);
    }
    CHECK(reported() == 0);
    cudaMemsetAsync(x.a, 1, BYTES, x.s); /* a non-blocking stream is no party to it */
    cudaMemcpyAsync(x.b, x.a, BYTES, xp_cudaMemcpyDefault, NULL);
    cudaDeviceSynchronize();
    CHECK(reported() == 1);
    CHECK(cudaStreamDestroy(blocking) == 0);
    tear_down(&x);
}

static void host_saw(void *arg)
{
    unsigned char **p = arg;

    p[1][0] = p[0][0];
    if (p[2])
        CHECK(cudaMalloc((void **)&p[2], 16) != 0); /* no CUDA in a host function */
}

static void host_functions_keep_stream_order(void)
{
    struct buffers x = set_up();
    unsigned char *args[3] = {x.a, x.pinned, NULL};

    cudaMemsetAsync(x.a, 42, BYTES, x.s);
    CHECK(cudaLaunchHostFunc(x.s, host_saw, args) == 0);
    cudaStreamSynchronize(x.s);
    CHECK(x.pinned[0] == 42 && reported() == 0);
    args[2] = x.b;
    cudaLaunchHostFunc(x.s, host_saw, args);
    cudaStreamSynchronize(x.s);
    CHECK(reported() == 1);
    tear_down(&x);
}

/* The proxy thread of a layer: sees a flag, works on pinned memory, raises a flag. No CUDA call tells the device to go on. */
static void *proxy(void *arg)
{
    uint32_t *flags = arg;

    while (__atomic_load_n(&flags[0], __ATOMIC_ACQUIRE) != 1)
        usleep(50);
    flags[16] += 1;
    __atomic_store_n(&flags[1], 1, __ATOMIC_RELEASE);
    return NULL;
}

static void values_in_memory_order_streams_and_threads(void)
{
    struct buffers x = set_up();
    uint32_t *flags = (uint32_t *)x.pinned, result = 0;
    pthread_t thread;

    memset(x.pinned, 0, BYTES);
    pthread_create(&thread, NULL, proxy, flags);
    cudaMemsetAsync(x.a, 3, 4, x.s);
    cudaMemcpyAsync(flags + 16, x.a, 4, xp_cudaMemcpyDeviceToHost, x.s);
    CHECK(xp_cuemu_write_value32(x.s, (uintptr_t)&flags[0], 1, 0) == 0);
    CHECK(xp_cuemu_wait_value32(x.t, (uintptr_t)&flags[1], 1, 0) == 0);
    cudaMemcpyAsync(x.b, flags + 16, 4, xp_cudaMemcpyHostToDevice, x.t);
    pthread_join(thread, NULL);
    cudaMemcpyAsync(&result, x.b, 4, xp_cudaMemcpyDeviceToHost, x.t);
    CHECK(result == 0x03030304u);
    CHECK(xp_cuemu_wait_value32(x.t, (uintptr_t)&result & ~3ull, 1, 0) != 0); /* not memory that a stream can see */
    CHECK(reported() == 0);
    tear_down(&x);
}

static void a_capture_records_and_replays(void)
{
    struct buffers x = set_up();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    int status;

    memset(x.pinned, 1, BYTES);
    CHECK(cudaStreamBeginCapture(x.s, xp_cudaStreamCaptureModeThreadLocal) == 0);
    cudaMemcpyAsync(x.a, x.pinned, BYTES, xp_cudaMemcpyDefault, x.s);
    CHECK(cudaEventRecord(x.e, x.s) == 0 && cudaStreamWaitEvent(x.t, x.e, 0) == 0);
    CHECK(cudaStreamIsCapturing(x.t, &status) == 0 && status == xp_cudaStreamCaptureStatusActive);
    cudaMemcpyAsync(x.b, x.a, BYTES, xp_cudaMemcpyDefault, x.t);
    cudaMemsetAsync(x.c, 9, BYTES, x.s);
    CHECK(cudaEventRecord(x.e, x.t) == 0 && cudaStreamWaitEvent(x.s, x.e, 0) == 0);
    CHECK(cudaStreamEndCapture(x.s, &graph) == 0);
    CHECK(cudaStreamIsCapturing(x.t, &status) == 0 && status == xp_cudaStreamCaptureStatusNone);
    CHECK(cudaGraphInstantiate(&exec, graph, 0) == 0 && cudaGraphDestroy(graph) == 0);
    cudaDeviceSynchronize();
    CHECK(x.a[0] != 1 && x.b[0] != 1);
    for (int i = 1; i <= 30; i++) {
        memset(x.pinned, i, BYTES);
        CHECK(cudaGraphLaunch(exec, x.t) == 0 && cudaStreamSynchronize(x.t) == 0);
        CHECK(x.b[7] == i && x.c[0] == 9);
    }
    CHECK(cudaGraphExecDestroy(exec) == 0);
    CHECK(reported() == 0);
    tear_down(&x);
}

static void *allocates(void *arg)
{
    int mode = *(int *)arg;
    void *p = NULL;
    long error;

    cudaThreadExchangeStreamCaptureMode(&mode);
    error = cudaMalloc(&p, 64);
    if (!error)
        cudaFree(p);
    return (void *)error;
}

static int allocate_in_thread(int mode)
{
    pthread_t thread;
    void *result;

    pthread_create(&thread, NULL, allocates, &mode);
    pthread_join(thread, &result);
    return (int)(long)result;
}

static void captures_forbid_what_cuda_forbids(void)
{
    struct buffers x = set_up();
    cudaStream_t blocking;
    cudaGraph_t graph;
    int status;
    void *p;

    cudaStreamBeginCapture(x.s, xp_cudaStreamCaptureModeGlobal);
    CHECK(allocate_in_thread(xp_cudaStreamCaptureModeRelaxed) == 0);
    CHECK(cudaStreamIsCapturing(x.s, &status) == 0 && status == xp_cudaStreamCaptureStatusActive);
    CHECK(allocate_in_thread(xp_cudaStreamCaptureModeGlobal) == 900);
    CHECK(cudaStreamIsCapturing(x.s, &status) == 0 && status == xp_cudaStreamCaptureStatusInvalidated);
    CHECK(cudaStreamEndCapture(x.s, &graph) == 901 && !graph);

    cudaStreamBeginCapture(x.s, xp_cudaStreamCaptureModeThreadLocal);
    CHECK(allocate_in_thread(xp_cudaStreamCaptureModeGlobal) == 0);
    CHECK(cudaMalloc(&p, 64) == 900);
    CHECK(cudaStreamEndCapture(x.s, &graph) == 901);

    cudaStreamBeginCapture(x.s, xp_cudaStreamCaptureModeRelaxed);
    CHECK(cudaStreamSynchronize(x.s) == 900);
    CHECK(cudaStreamEndCapture(x.s, &graph) == 901);

    cudaStreamBeginCapture(x.s, xp_cudaStreamCaptureModeRelaxed);
    cudaMemsetAsync(x.a, 1, 16, x.s);
    cudaEventRecord(x.e, x.s);
    cudaStreamWaitEvent(x.t, x.e, 0);
    cudaMemsetAsync(x.a, 2, 16, x.t);
    CHECK(cudaEventQuery(x.e) == 907);
    CHECK(cudaStreamEndCapture(x.t, &graph) == 903);
    CHECK(cudaStreamEndCapture(x.s, &graph) == 904);

    CHECK(cudaEventRecord(x.e, x.t) == 0);
    cudaStreamBeginCapture(x.s, xp_cudaStreamCaptureModeRelaxed);
    CHECK(cudaStreamWaitEvent(x.s, x.e, 0) == 905);
    CHECK(cudaStreamEndCapture(x.s, &graph) == 901);

    CHECK(cudaStreamCreate(&blocking) == 0);
    cudaStreamBeginCapture(blocking, xp_cudaStreamCaptureModeRelaxed);
    CHECK(cudaStreamIsCapturing(NULL, &status) == 906);
    CHECK(cudaMemsetAsync(x.a, 0, 16, NULL) == 906);
    CHECK(cudaStreamEndCapture(blocking, &graph) == 0 && cudaGraphDestroy(graph) == 0);
    CHECK(cudaStreamDestroy(blocking) == 0);
    CHECK(reported() == 0);
    tear_down(&x);
}

static void allocations_have_ends_and_an_order(void)
{
    struct buffers x = set_up();
    unsigned char *p;

    CHECK(cudaMemcpyAsync(x.a + 1, x.b, BYTES, xp_cudaMemcpyDefault, x.s) == 1);
    CHECK(cudaMemcpyAsync(x.pinned, x.a, 16, xp_cudaMemcpyHostToDevice, x.s) == 21);
    CHECK(cudaGetLastError() == 21 && cudaGetLastError() == 0);
    for (int i = 0; i < 10; i++) {
        CHECK(cudaMallocAsync((void **)&p, 100, x.s) == 0);
        cudaMemsetAsync(p, 0, 100, x.s);
        cudaEventRecord(x.e, x.s);
        cudaStreamWaitEvent(x.t, x.e, 0);
        CHECK(cudaFreeAsync(p, x.t) == 0);
        cudaDeviceSynchronize();
        CHECK(reported() == 0 && cudaMemset(p, 0, 100) == 1);
        cudaMallocAsync((void **)&p, 100, x.s);
        cudaMemsetAsync(p, 0, 100, x.t);
        cudaDeviceSynchronize();
        CHECK(reported() == 1);
        cudaFree(p);
    }
    setenv("CUEMU_MEMORY", "1e6", 1);
    CHECK(cudaMalloc((void **)&p, 2000000) == 2 && !p);
    unsetenv("CUEMU_MEMORY");
    cudaGetLastError();
    tear_down(&x);
}

/* A kernel as the emulator enqueues it. */
static void kernel(void *arg)
{
    unsigned char *p = arg;

    xp_cuemu_writes(p, BYTES + 1);
}

static void note(void *arg)
{
    char **at = arg;

    *(*at)++ = at[1][0];
}

static void kernels_come_through_the_hook(void)
{
    struct buffers x = set_up();
    cudaStream_t elsewhere;

    CHECK(xp_cuemu_enqueue(x.s, kernel, x.a) == 0);
    cudaStreamSynchronize(x.s);
    CHECK(reported() == 1); /* one byte too many */
    cudaSetDevice(1);
    CHECK(cudaStreamCreate(&elsewhere) == 0);
    cudaSetDevice(0);
    CHECK(xp_cuemu_enqueue(elsewhere, kernel, x.a) == 400);
    CHECK(cudaStreamDestroy(elsewhere) == 0);
    cudaGetLastError();
    tear_down(&x);
}

/* The order in which eight operations on eight streams ran, in a process of its own. */
static void order_under(const char *seed, char order[9])
{
    int fd[2];
    pid_t pid;

    memset(order, 0, 9);
    if (pipe(fd) != 0)
        exit(1);
    if ((pid = fork()) == 0) {
        char *out = order, names[] = "abcdefgh";
        char *args[8][2];
        cudaStream_t s[8];
        setenv("CUEMU_SEED", seed, 1);
        for (int i = 0; i < 8; i++) {
            cudaStreamCreateWithFlags(&s[i], xp_cudaStreamNonBlocking);
            args[i][0] = out;
            args[i][1] = names + i;
            xp_cuemu_enqueue(s[i], note, args[i]);
        }
        for (int i = 0; i < 8; i++) { /* every note() starts where the last one stopped */
            xp_cuemu_step(1);
            for (int k = 0; k < 8; k++)
                args[k][0] = out + i + 1;
        }
        _exit(write(fd[1], order, 8) == 8 ? 0 : 1);
    }
    close(fd[1]);
    CHECK(read(fd[0], order, 8) == 8 && strlen(order) == 8);
    close(fd[0]);
    waitpid(pid, NULL, 0);
}

static void the_order_is_random_but_for_the_seed(void)
{
    char first[9], again[9], other[9];

    order_under("1", first);
    order_under("1", again);
    order_under("2", other);
    CHECK(strcmp(first, again) == 0);
    CHECK(strcmp(first, other) != 0);
}

int main(void)
{
    setenv("CUEMU_ON_VIOLATION", "count", 1);
    the_order_is_random_but_for_the_seed(); /* forks: before there are threads */
    nothing_runs_before_it_is_waited_for();
    events_order_streams();
    a_missing_wait_is_reported();
    the_legacy_stream_is_a_barrier_for_blocking_streams();
    kernels_come_through_the_hook();
    allocations_have_ends_and_an_order();
    a_capture_records_and_replays();
    captures_forbid_what_cuda_forbids();
    host_functions_keep_stream_order(); /* from here on the device thread runs, too */
    values_in_memory_order_streams_and_threads();
    events_order_streams();
    a_missing_wait_is_reported();
    if (failures)
        fprintf(stderr, "%d checks failed\n", failures);
    return failures != 0;
}
