/*
 * device_memory.c - memory of the CUDA runtime double: allocations, copies, fills
 *
 * Device and pinned memory come from mmap with an inaccessible page on both sides and start with a pattern that no test expects.
 * Copies run in stream order and read their source only then, except from memory that CUDA does not know: that is read, as in CUDA,
 * before the call returns.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/cuemu/sim.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define PATTERN 0xcb
#define PATTERN_MOST (16u << 20) /* larger allocations stay zero: filling them would take memory nobody uses */
#define STAGED_MOST (1u << 20)

struct block {
    struct xp_cuemu_range range;
    void *map; /* NULL: registered, not ours */
    size_t map_bytes;
    struct block *next;
};

static struct block *blocks;
static size_t used[MAX_DEVICES];
static bool opened; /* an operation runs, device memory may be touched */
static void (*listener)(const struct xp_cuemu_range *range, int born);

static int fail(int error)
{
    return xp_cuemu_fail(error);
}

static size_t capacity(void)
{
    const char *text = getenv("CUEMU_MEMORY");

    return text && *text ? (size_t)strtod(text, NULL) : (size_t)64 << 30;
}

static struct block *block_of(const void *p)
{
    for (struct block *b = blocks; b; b = b->next)
        if ((uintptr_t)p >= (uintptr_t)b->range.base && (uintptr_t)p < (uintptr_t)b->range.base + b->range.bytes)
            return b;
    return NULL;
}

bool xp_sim_find(const void *p, struct xp_cuemu_range *range)
{
    struct block *b = block_of(p);

    if (b)
        *range = b->range;
    return b != NULL;
}

int xp_cuemu_find(const void *p, struct xp_cuemu_range *range)
{
    pthread_mutex_lock(&xp_sim_lock);
    bool found = xp_sim_find(p, range);
    pthread_mutex_unlock(&xp_sim_lock);
    return found;
}

void xp_cuemu_listen(void (*changed)(const struct xp_cuemu_range *range, int born))
{
    __atomic_store_n(&listener, changed, __ATOMIC_RELEASE);
}

static void tell(const struct xp_cuemu_range *range, int born)
{
    void (*changed)(const struct xp_cuemu_range *, int) = __atomic_load_n(&listener, __ATOMIC_ACQUIRE);

    if (changed)
        changed(range, born);
}

/* ---- protection: with CUEMU_PROTECT=1 only operations of streams can touch device memory */

static bool protects(void)
{
    static int answer = -1;
    const char *text = getenv("CUEMU_PROTECT");

    if (answer < 0)
        answer = text && *text && strcmp(text, "0") != 0;
    return answer;
}

static void set_access(const struct block *b, bool on)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    if (b->map && b->range.kind == XP_CUEMU_DEVICE)
        mprotect(b->range.base, b->map_bytes - 2 * page, on ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void xp_sim_open_memory(bool on)
{
    if (!protects())
        return;
    opened = on;
    for (struct block *b = blocks; b; b = b->next)
        set_access(b, on);
}

/* Called by a fault anywhere in the process. */
static void fault(int number, siginfo_t *info, void *context)
{
    static const char text[] = "cuemu: the host touches memory of a device\n";
    uintptr_t at = (uintptr_t)info->si_addr;

    for (struct block *b = blocks; b; b = b->next)
        if (b->range.kind == XP_CUEMU_DEVICE && at >= (uintptr_t)b->range.base && at < (uintptr_t)b->range.base + b->range.bytes &&
            write(2, text, sizeof text - 1) > 0)
            _exit(XP_CUEMU_EXIT_VIOLATION);
    signal(number, SIG_DFL);
}

static void watch_faults(void)
{
    struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO};
    static bool on;

    if (!on)
        sigaction(SIGSEGV, &action, NULL);
    on = true;
}

/* ---- allocation */

static bool map_block(struct block *b, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t body = (bytes + page - 1) / page * page;

    b->map_bytes = body + 2 * page;
    b->map = mmap(NULL, b->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->map == MAP_FAILED)
        return false;
    b->range.base = (char *)b->map + page;
    if (mprotect(b->range.base, body, PROT_READ | PROT_WRITE) != 0) {
        munmap(b->map, b->map_bytes);
        return false;
    }
    if (bytes <= PATTERN_MOST)
        memset(b->range.base, PATTERN, bytes);
    return true;
}

static void add_block(struct block *b)
{
    if (protects() && b->range.kind == XP_CUEMU_DEVICE) {
        watch_faults();
        set_access(b, opened);
    }
    b->next = blocks;
    blocks = b;
    used[b->range.device] += b->range.kind == XP_CUEMU_DEVICE ? b->range.bytes : 0;
    xp_sim_memory_born(b->range.base, b->range.bytes);
}

static int allocate(void **ptr, size_t bytes, enum xp_cuemu_kind kind, bool unsafe)
{
    int device = xp_sim_current_device(), error;
    struct block *b;

    *ptr = NULL;
    if (xp_sim_in_op("an allocation"))
        return NOT_PERMITTED;
    if (bytes == 0)
        return OK;
    pthread_mutex_lock(&xp_sim_lock);
    error = unsafe ? xp_sim_capture_forbids() : OK;
    if (!error && kind == XP_CUEMU_DEVICE && used[device] + bytes > capacity())
        error = NO_MEMORY;
    pthread_mutex_unlock(&xp_sim_lock);
    if (error)
        return fail(error);
    b = calloc(1, sizeof *b);
    if (!b || !map_block(b, bytes)) {
        free(b);
        return fail(NO_MEMORY);
    }
    b->range.bytes = bytes;
    b->range.kind = kind;
    b->range.device = device;
    pthread_mutex_lock(&xp_sim_lock);
    add_block(b);
    pthread_mutex_unlock(&xp_sim_lock);
    *ptr = b->range.base;
    tell(&b->range, 1);
    return OK;
}

/* With the lock held; the block is out of the list afterwards. */
static struct block *take_block(void *ptr, unsigned kinds)
{
    for (struct block **at = &blocks; *at; at = &(*at)->next)
        if ((*at)->range.base == ptr && kinds >> (*at)->range.kind & 1) {
            struct block *b = *at;
            *at = b->next;
            used[b->range.device] -= b->range.kind == XP_CUEMU_DEVICE ? b->range.bytes : 0;
            xp_sim_memory_gone(b->range.base);
            return b;
        }
    return NULL;
}

static void drop_block(struct block *b)
{
    tell(&b->range, 0);
    if (b->map)
        munmap(b->map, b->map_bytes);
    free(b);
}

/* Frees wait for everything that was enqueued before, as CUDA's do. */
static int release(void *ptr, unsigned kinds)
{
    struct block *b = NULL;
    int error;

    if (!ptr)
        return OK;
    if (xp_sim_in_op("a free"))
        return NOT_PERMITTED;
    pthread_mutex_lock(&xp_sim_lock);
    error = xp_sim_capture_forbids();
    if (!error) {
        struct block *known = block_of(ptr);
        if (known)
            xp_sim_wait_all(known->range.device);
        b = take_block(ptr, kinds);
    }
    pthread_mutex_unlock(&xp_sim_lock);
    if (b)
        drop_block(b);
    return fail(error ? error : b ? OK : INVALID_VALUE);
}

API int cudaMalloc(void **ptr, size_t size)
{
    return allocate(ptr, size, XP_CUEMU_DEVICE, true);
}

API int cudaFree(void *ptr)
{
    return release(ptr, 1u << XP_CUEMU_DEVICE | 1u << XP_CUEMU_MANAGED);
}

API int cudaMallocManaged(void **ptr, size_t size, unsigned flags)
{
    return allocate(ptr, size, XP_CUEMU_MANAGED, true);
}

API int cudaHostAlloc(void **ptr, size_t size, unsigned flags)
{
    return allocate(ptr, size, XP_CUEMU_PINNED, true);
}

API int cudaMallocHost(void **ptr, size_t size)
{
    return allocate(ptr, size, XP_CUEMU_PINNED, true);
}

API int cudaFreeHost(void *ptr)
{
    return release(ptr, 1u << XP_CUEMU_PINNED);
}

API int cudaHostRegister(void *ptr, size_t size, unsigned flags)
{
    struct block *b = calloc(1, sizeof *b);
    int error = OK;

    if (!b || !ptr || !size) {
        free(b);
        return fail(INVALID_VALUE);
    }
    b->range = (struct xp_cuemu_range){ptr, size, XP_CUEMU_REGISTERED, xp_sim_current_device()};
    pthread_mutex_lock(&xp_sim_lock);
    if (block_of(ptr) || block_of((char *)ptr + size - 1))
        error = HOST_REGISTERED;
    else
        add_block(b);
    pthread_mutex_unlock(&xp_sim_lock);
    if (error)
        free(b);
    else
        tell(&b->range, 1);
    return fail(error);
}

API int cudaHostUnregister(void *ptr)
{
    int error = release(ptr, 1u << XP_CUEMU_REGISTERED);

    return error == INVALID_VALUE ? fail(HOST_NOT_REGISTERED) : error;
}

API int cudaHostGetDevicePointer(void **device_ptr, void *host_ptr, unsigned flags)
{
    struct xp_cuemu_range range;
    bool host = xp_cuemu_find(host_ptr, &range) && range.kind != XP_CUEMU_DEVICE;

    *device_ptr = host ? host_ptr : NULL;
    return fail(host && !flags ? OK : INVALID_VALUE);
}

API int cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *ptr)
{
    struct xp_cuemu_range range;

    *attributes = (struct cudaPointerAttributes){.type = xp_cudaMemoryTypeUnregistered, .device = -2, .hostPointer = (void *)ptr};
    if (!xp_cuemu_find(ptr, &range))
        return OK;
    attributes->type = range.kind == XP_CUEMU_DEVICE    ? xp_cudaMemoryTypeDevice
                       : range.kind == XP_CUEMU_MANAGED ? xp_cudaMemoryTypeManaged
                                                        : xp_cudaMemoryTypeHost;
    attributes->device = range.device;
    attributes->devicePointer = (void *)ptr;
    attributes->hostPointer = range.kind == XP_CUEMU_DEVICE ? NULL : (void *)ptr;
    return OK;
}

API int cudaMemGetInfo(size_t *available, size_t *total)
{
    pthread_mutex_lock(&xp_sim_lock);
    *total = capacity();
    *available = *total - used[xp_sim_current_device()];
    pthread_mutex_unlock(&xp_sim_lock);
    return OK;
}

/* ---- copies and fills in stream order */

struct transfer {
    void *dst;
    const void *src; /* NULL: fill */
    size_t bytes;
    int value;
    char staged[];
};

static int transfer_run(void *arg, int first)
{
    struct transfer *t = arg;

    xp_cuemu_writes(t->dst, t->bytes);
    if (!t->src) {
        memset(t->dst, t->value, t->bytes);
    } else {
        xp_cuemu_reads(t->src, t->bytes);
        memmove(t->dst, t->src, t->bytes);
    }
    return XP_CUEMU_DONE;
}

enum side { PAGEABLE, PINNED, ON_DEVICE };

/* Where p lies; *fits: [p, p + bytes) stays inside what it lies in. */
static enum side side_of(const void *p, size_t bytes, bool *fits)
{
    struct xp_cuemu_range range;

    if (!xp_sim_find(p, &range))
        return PAGEABLE;
    if ((uintptr_t)p + bytes > (uintptr_t)range.base + range.bytes)
        *fits = false;
    return range.kind == XP_CUEMU_DEVICE || range.kind == XP_CUEMU_MANAGED ? ON_DEVICE : PINNED;
}

static bool direction_ok(enum side dst, enum side src, int kind)
{
    switch (kind) {
    case xp_cudaMemcpyHostToHost: return dst != ON_DEVICE && src != ON_DEVICE;
    case xp_cudaMemcpyHostToDevice: return dst != PAGEABLE && src != ON_DEVICE;
    case xp_cudaMemcpyDeviceToHost: return dst != ON_DEVICE && src != PAGEABLE;
    case xp_cudaMemcpyDeviceToDevice: return dst != PAGEABLE && src != PAGEABLE;
    default: return kind == xp_cudaMemcpyDefault;
    }
}

/* Takes t over. */
static int submit(struct transfer *t, const char *name, cudaStream_t handle, bool wait)
{
    struct xp_cuemu_op op = {.run = transfer_run, .drop = free, .arg = t, .name = name};
    struct CUstream_st *stream = xp_sim_stream(handle);
    struct node *node = NULL;
    int error = stream ? xp_sim_enqueue(stream, &op, false, NULL, &node) : INVALID_HANDLE;

    if (error)
        free(t);
    else if (wait)
        xp_sim_wait(node);
    xp_sim_release(node);
    return error;
}

static int copy(void *dst, const void *src, size_t bytes, int kind, cudaStream_t handle, bool sync)
{
    bool fits = true, stage;
    struct transfer *t;
    int error = OK;

    if (xp_sim_in_op("a copy"))
        return NOT_PERMITTED;
    if (!bytes)
        return OK;
    pthread_mutex_lock(&xp_sim_lock);
    enum side to = side_of(dst, bytes, &fits), from = side_of(src, bytes, &fits);
    if (!dst || !src || !fits)
        error = INVALID_VALUE;
    else if (!direction_ok(to, from, kind))
        error = INVALID_DIRECTION;
    else if (sync)
        error = xp_sim_capture_forbids();
    struct CUstream_st *stream = xp_sim_stream(handle);
    bool captured = stream && stream->capture;
    stage = from == PAGEABLE && to != PAGEABLE && bytes <= STAGED_MOST && !captured;
    t = error ? NULL : malloc(sizeof *t + (stage ? bytes : 0));
    if (!error && !t)
        error = NO_MEMORY;
    if (!error) {
        *t = (struct transfer){.dst = dst, .src = src, .bytes = bytes};
        if (stage)
            t->src = memcpy(t->staged, src, bytes);
        bool wait = sync ? to != ON_DEVICE || from != ON_DEVICE : (from == PAGEABLE && !stage) || to == PAGEABLE;
        error = submit(t, "copy", handle, wait && !captured);
    }
    pthread_mutex_unlock(&xp_sim_lock);
    return fail(error);
}

API int cudaMemcpyAsync(void *dst, const void *src, size_t size, int kind, cudaStream_t stream)
{
    return copy(dst, src, size, kind, stream, false);
}

API int cudaMemcpy(void *dst, const void *src, size_t size, int kind)
{
    return copy(dst, src, size, kind, NULL, true);
}

API int cudaMemcpyPeerAsync(void *dst, int dst_device, const void *src, int src_device, size_t size, cudaStream_t stream)
{
    return copy(dst, src, size, xp_cudaMemcpyDefault, stream, false);
}

API int cudaMemsetAsync(void *ptr, int value, size_t size, cudaStream_t stream)
{
    bool fits = true;
    struct transfer *t;
    int error = OK;

    if (xp_sim_in_op("a memset"))
        return NOT_PERMITTED;
    if (!size)
        return OK;
    t = malloc(sizeof *t);
    pthread_mutex_lock(&xp_sim_lock);
    if (!t)
        error = NO_MEMORY;
    else if (side_of(ptr, size, &fits) == PAGEABLE || !fits)
        error = INVALID_VALUE;
    if (error) {
        free(t);
    } else {
        *t = (struct transfer){.dst = ptr, .bytes = size, .value = value};
        error = submit(t, "memset", stream, false);
    }
    pthread_mutex_unlock(&xp_sim_lock);
    return fail(error);
}

API int cudaMemset(void *ptr, int value, size_t size)
{
    return cudaMemsetAsync(ptr, value, size, NULL);
}

/* ---- allocation in stream order: who uses the memory without an order after the one or before the other is reported */

static int alloc_run(void *arg, int first)
{
    struct xp_cuemu_range range;

    if (xp_cuemu_find(arg, &range))
        xp_cuemu_writes(range.base, range.bytes);
    return XP_CUEMU_DONE;
}

static int free_run(void *arg, int first)
{
    struct block *b;

    alloc_run(arg, first);
    pthread_mutex_lock(&xp_sim_lock);
    b = take_block(arg, 1u << XP_CUEMU_DEVICE);
    pthread_mutex_unlock(&xp_sim_lock);
    if (b)
        drop_block(b);
    return XP_CUEMU_DONE;
}

API int cudaMallocAsync(void **ptr, size_t size, cudaStream_t stream)
{
    struct xp_cuemu_op op = {.run = alloc_run, .name = "allocation"};
    int error = allocate(ptr, size, XP_CUEMU_DEVICE, false);

    if (error || !*ptr)
        return error;
    op.arg = *ptr;
    error = xp_cuemu_enqueue_op(stream, &op);
    if (error)
        release(*ptr, 1u << XP_CUEMU_DEVICE);
    return error;
}

API int cudaFreeAsync(void *ptr, cudaStream_t stream)
{
    struct xp_cuemu_op op = {.run = free_run, .arg = ptr, .name = "free"};
    struct xp_cuemu_range range;

    if (!ptr)
        return OK;
    if (!xp_cuemu_find(ptr, &range) || range.base != ptr || range.kind != XP_CUEMU_DEVICE)
        return fail(INVALID_VALUE);
    return xp_cuemu_enqueue_op(stream, &op);
}
