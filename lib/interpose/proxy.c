/*
 * proxy.c - the thread that moves the diverted exchanges of one communicator, and the slots they wait in
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/proxy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/interpose/agree.h"
#include "lib/interpose/exchange.h"
#include "lib/interpose/join.h"
#include "lib/interpose/options.h"
#include "lib/interpose/thread.h"
#include "lib/interpose/timing.h"

#define FLAG_BYTES 64

static ncclResult_t nccl_code(xp_status st)
{
    switch (st) {
    case XP_ERR_TIMEOUT:
    case XP_ERR_REMOTE:
        return ncclRemoteError;
    case XP_ERR_MISMATCH:
        return ncclInvalidUsage;
    case XP_ERR_NO_MEMORY:
    case XP_ERR_SYSTEM:
        return ncclSystemError;
    default:
        return ncclInternalError;
    }
}

void xp_side_fail(struct xp_side *s, xp_status st, const char *text)
{
    int none = ncclSuccess;
    if (!atomic_compare_exchange_strong(&s->error, &none, (int)nccl_code(st)))
        return;
    xp_side_change(s, XP_SIDE_FAILED, text && text[0] ? text : xp_status_string(st));
    xp_say(st == XP_ERR_STATE ? XP_LOG_INFO : XP_LOG_ERROR, "communicator %p, rank %d of %d: %s", (void *)s->handle, s->rank, s->size, s->why);
}

/* ---- the thread --------------------------------------------------------------------------------------------------- */

static void close_comm(struct xp_proxy *p)
{
    for (int k = 0; k < XP_CLASSES; k++)
        for (int b = 0; b < 2; b++) {
            xp_plan_destroy(p->plan[k][b].plan);
            p->plan[k][b].plan = NULL;
        }
    xp_comm_destroy(p->comm);
    p->comm = NULL;
}

static void run_one(struct xp_proxy *p, struct xp_slot *s)
{
    xp_status st = !p->comm ? XP_ERR_STATE : s->agrees ? xp_agree(p, s->klass, s->pace) : xp_exchange_run(p, s);

    if (st != XP_OK && p->comm) {
        if (!atomic_load(&p->abort))
            xp_side_fail(p->side, st, xp_comm_last_error(p->comm));
        close_comm(p); /* the other ranks notice, and none waits for us */
    }
    atomic_store_explicit(s->flag, s->number, memory_order_release);
}

/* The lock is held, and released meanwhile. */
static void join_others(struct xp_proxy *p)
{
    while (!p->started && !p->stop)
        pthread_cond_wait(&p->change, &p->lock);
    if (p->started <= 0)
        return;
    pthread_mutex_unlock(&p->lock);
    xp_join_run(p);
    if (!xp_side_is(p->side, XP_SIDE_JOINED))
        close_comm(p);
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->change);
}

static void *proxy_main(void *arg)
{
    struct xp_proxy *p = arg;

    xp_thread.inside++;
    p->gpu->cudaSetDevice(p->side->device);
    xp_gpu_relax(p->gpu); /* our queries must not spoil a capture of another thread */
    pthread_mutex_lock(&p->lock);
    join_others(p);
    for (;;) {
        while (p->completed == p->issued && !p->stop)
            pthread_cond_wait(&p->change, &p->lock);
        if (p->completed == p->issued)
            break;
        struct xp_slot *s = &p->slot[p->completed % XP_SLOTS];
        pthread_mutex_unlock(&p->lock);
        run_one(p, s);
        pthread_mutex_lock(&p->lock);
        p->completed++;
        pthread_cond_broadcast(&p->change);
    }
    pthread_mutex_unlock(&p->lock);
    close_comm(p);
    pthread_mutex_lock(&p->lock);
    p->ended = 1;
    pthread_cond_broadcast(&p->change);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- birth -------------------------------------------------------------------------------------------------------- */

static int create_slot(struct xp_proxy *p, int i)
{
    const struct xp_gpu *g = p->gpu;
    struct xp_slot *s = &p->slot[i];
    unsigned flags = xp_cudaEventDisableTiming;
    void *flag = (char *)p->flags + (size_t)i * FLAG_BYTES, *device = flag;

    s->flag = flag;
    atomic_init(s->flag, 0);
    if (g->cudaHostGetDevicePointer && g->cudaHostGetDevicePointer(&device, flag, 0) != xp_cudaSuccess)
        return 0;
    s->flag_address = (uint64_t)(uintptr_t)device;
    s->send_rows = calloc(3 * (size_t)p->side->size, sizeof *s->send_rows);
    if (!s->send_rows)
        return 0;
    s->recv_rows = s->send_rows + p->side->size;
    s->cursor = s->recv_rows + p->side->size;
    for (int k = 0; k < XP_PARTS; k++)
        if (g->cudaEventCreateWithFlags(&s->packed[k], flags) != xp_cudaSuccess)
            return 0;
    return g->cudaEventCreateWithFlags(&s->done, flags) == xp_cudaSuccess;
}

/* Memory that streams read and write. */
static void free_memory(struct xp_proxy *p)
{
    const struct xp_gpu *g = p->gpu;
    for (int i = 0; i < XP_SLOTS; i++) {
        if (p->slot[i].send)
            g->cudaFreeHost(p->slot[i].send);
        if (p->slot[i].recv)
            g->cudaFreeHost(p->slot[i].recv);
    }
    if (p->flags)
        g->cudaFreeHost(p->flags);
}

/* The rest; CUDA keeps an event as long as a stream waits for it. */
static void free_slots(struct xp_proxy *p)
{
    for (int i = 0; i < XP_SLOTS; i++) {
        struct xp_slot *s = &p->slot[i];
        for (int k = 0; k < XP_PARTS; k++)
            if (s->packed[k])
                p->gpu->cudaEventDestroy(s->packed[k]);
        if (s->done)
            p->gpu->cudaEventDestroy(s->done);
        free(s->send_rows);
        free(s->out);
        free(s->in);
    }
    if (p->over)
        p->gpu->cudaEventDestroy(p->over);
    xp_timing_free(p->side);
}

struct xp_proxy *xp_proxy_create(struct xp_side *side)
{
    struct xp_proxy *p = calloc(1, sizeof *p);
    int ok = p != NULL;

    if (p) {
        p->side = side;
        p->gpu = xp_gpu();
        p->promise = XP_NO_PROMISE;
        p->patient = 1;
        p->pid = (int)getpid();
        pthread_mutex_init(&p->lock, NULL);
        pthread_cond_init(&p->change, NULL);
        p->gathered = calloc((size_t)side->size, XP_RECORD);
        ok = p->gpu && p->gathered &&
             p->gpu->cudaEventCreateWithFlags(&p->over, xp_cudaEventDisableTiming) == xp_cudaSuccess &&
             p->gpu->cudaHostAlloc(&p->flags, XP_SLOTS * FLAG_BYTES, xp_cudaHostAllocPortable | xp_cudaHostAllocMapped) == xp_cudaSuccess;
        for (int i = 0; ok && i < XP_SLOTS; i++)
            ok = create_slot(p, i);
        ok = ok && pthread_create(&p->thread, NULL, proxy_main, p) == 0;
    }
    if (ok)
        return p;
    if (p) {
        if (p->gpu) {
            free_memory(p);
            free_slots(p);
        }
        free(p->gathered);
        free(p);
    }
    return NULL;
}

/* ---- for the calling thread --------------------------------------------------------------------------------------- */

void xp_proxy_start(struct xp_proxy *p, int join)
{
    pthread_mutex_lock(&p->lock);
    p->started = join ? 1 : -1;
    pthread_cond_broadcast(&p->change);
    pthread_mutex_unlock(&p->lock);
}

static int reached(const struct xp_slot *s, uint32_t value)
{
    uint32_t now = atomic_load_explicit(s->flag, memory_order_acquire);
    return (int32_t)(now - value) >= 0;
}

void xp_proxy_wait(struct xp_proxy *p, const struct xp_slot *s, uint32_t value)
{
    (void)p;
    for (unsigned i = 0; !reached(s, value); i++)
        xp_exchange_idle(i);
}

struct xp_slot *xp_proxy_next(struct xp_proxy *p)
{
    struct xp_slot *s = &p->slot[p->issued % XP_SLOTS]; /* only the calling thread changes issued */

    if (s->pending && p->gpu->cudaEventSynchronize(s->done) != xp_cudaSuccess)
        return NULL;
    s->pending = 0;
    pthread_mutex_lock(&p->lock);
    while (p->issued - p->completed >= XP_SLOTS)
        pthread_cond_wait(&p->change, &p->lock);
    pthread_mutex_unlock(&p->lock);
    if (atomic_load(&p->abort))
        return NULL;
    s->number = ((uint32_t)p->issued + 1) * XP_PARTS;
    s->agrees = 0;
    return s;
}

void xp_proxy_submit(struct xp_proxy *p, struct xp_slot *s)
{
    (void)s;
    pthread_mutex_lock(&p->lock);
    p->issued++;
    pthread_cond_broadcast(&p->change);
    pthread_mutex_unlock(&p->lock);
}

void xp_proxy_drain(struct xp_proxy *p)
{
    if (p->pid != (int)getpid())
        return;
    pthread_mutex_lock(&p->lock);
    while (p->completed != p->issued && !atomic_load(&p->abort))
        pthread_cond_wait(&p->change, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

void xp_proxy_total(struct xp_proxy *p, struct xp_traffic *out)
{
    pthread_mutex_lock(&p->lock);
    *out = p->total;
    pthread_mutex_unlock(&p->lock);
}

void xp_proxy_abort(struct xp_proxy *p)
{
    atomic_store(&p->abort, 1);
    for (int i = 0; i < XP_SLOTS; i++)
        atomic_store(p->slot[i].flag, p->slot[i].number);
    pthread_mutex_lock(&p->lock);
    p->stop = 1;
    pthread_cond_broadcast(&p->change);
    pthread_mutex_unlock(&p->lock);
}

/* Seconds that the thread gets to leave after an abort; it may be inside a call that only a deadline ends. */
#define LEAVE_SECONDS 5

static int wait_for_end(struct xp_proxy *p, int abort)
{
    struct timespec until;
    int e = 0, ended;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LEAVE_SECONDS;
    pthread_mutex_lock(&p->lock);
    p->stop = 1;
    pthread_cond_broadcast(&p->change);
    while (!p->ended && e == 0)
        e = abort ? pthread_cond_timedwait(&p->change, &p->lock, &until) : pthread_cond_wait(&p->change, &p->lock);
    ended = p->ended;
    pthread_mutex_unlock(&p->lock);
    return ended;
}

/* Whether the device is through with the staging buffers. */
static int device_is_through(struct xp_proxy *p, int wait)
{
    int through = 1;
    for (int i = 0; i < XP_SLOTS; i++) {
        struct xp_slot *s = &p->slot[i];
        if (s->pending)
            through &= wait ? p->gpu->cudaEventSynchronize(s->done) == xp_cudaSuccess : xp_gpu_is_over(p->gpu, s->done) == 1;
    }
    return through;
}

int xp_proxy_end(struct xp_proxy *p, int abort)
{
    if (p->pid != (int)getpid())
        return 0;
    if (abort)
        xp_proxy_abort(p);
    if (wait_for_end(p, abort)) {
        pthread_join(p->thread, NULL);
        return 1;
    }
    pthread_detach(p->thread); /* it ends at its deadline; what it uses stays */
    return 0;
}

void xp_proxy_free(struct xp_proxy *p, int wait)
{
    if (device_is_through(p, wait)) /* else the memory stays: a stream may still read it */
        free_memory(p);
    free_slots(p);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->change);
    free(p->gathered);
    free(p);
}
