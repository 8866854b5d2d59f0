/*
 * join.c - the ranks of an NCCL communicator become the ranks of a crosspress communicator
 *
 * The only channel between the ranks is NCCL itself. An ncclAllGather in the group of the first exchange tells every rank where the
 * others run, what they are set to, and the door that rank 0 has opened; everything after that goes through that door, on the
 * communicator's own thread, so that a rank that does not come holds up no call of the others.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/join.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/interpose/agree.h"
#include "lib/interpose/exchange.h"
#include "lib/interpose/options.h"
#include "lib/interpose/real.h"

#define MAGIC 0x78706e63u /* "xpnc" */

struct place { /* where a rank runs, and what it is set to */
    uint32_t magic, version;
    char node[128], door[XP_DOOR_MAX]; /* door: of rank 0 */
    uint64_t options;
    int32_t pid, thread, ready;
};

/* The gather of all places. The memory stays until the communicator ends: freeing device memory may wait for the device. */
struct xp_join {
    cudaStream_t stream;
    cudaEvent_t gathered;
    struct place *device, *host; /* [1 + ranks] own record, then all; host: pinned */
    int door;                    /* rank 0: the socket, else -1 */
    int idle;                    /* the device is through with it */
    double deadline;
};

/* ---- where this rank runs ----------------------------------------------------------------------------------------- */

static void read_word(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "r");
    if (f && fgets(text, (int)size, f))
        text[strcspn(text, "\n")] = '\0';
    if (f)
        fclose(f);
}

/* Ranks of equal text share a node. NCCL_HOSTID is what NCCL itself goes by. */
static void node_name(char *text, size_t size)
{
    const char *set = xp_options()->params.node[0] ? xp_options()->params.node : getenv("NCCL_HOSTID");
    char boot[64] = "", net[64] = "";
    ssize_t n;

    if (set && set[0]) {
        snprintf(text, size, "%s", set);
        return;
    }
    read_word("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
    n = readlink("/proc/self/ns/net", net, sizeof net - 1);
    net[n > 0 ? n : 0] = '\0';
    snprintf(text, size, "%s %s", boot, net);
}

/* ---- the calling thread: the gather is part of the program's group -------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void say_place(struct xp_side *s, struct place *p)
{
    memset(p, 0, sizeof *p);
    p->magic = MAGIC;
    p->version = XP_VERSION_MAJOR << 16 | XP_VERSION_MINOR << 8 | XP_VERSION_PATCH;
    node_name(p->node, sizeof p->node);
    p->options = xp_options()->hash;
    p->pid = (int32_t)getpid();
    p->thread = (int32_t)syscall(SYS_gettid);
    p->ready = s->proxy != NULL;
    if (p->ready && s->rank == 0)
        p->ready = xp_door_open(p->door, sizeof p->door, &s->join->door) == XP_OK;
}

static int make_room(struct xp_join *j, const struct xp_gpu *g, int ranks)
{
    size_t size = ((size_t)ranks + 1) * sizeof *j->host;
    void *device = NULL, *host = NULL;

    if (g->cudaStreamCreateWithFlags(&j->stream, xp_cudaStreamNonBlocking) != xp_cudaSuccess ||
        g->cudaEventCreateWithFlags(&j->gathered, xp_cudaEventDisableTiming) != xp_cudaSuccess ||
        g->cudaHostAlloc(&host, size, xp_cudaHostAllocPortable) != xp_cudaSuccess)
        return 0;
    j->host = host;
    if (g->cudaMalloc(&device, size) != xp_cudaSuccess)
        return 0;
    j->device = device;
    return 1;
}

static ncclResult_t add_gather(struct xp_side *s, struct xp_join *j, const struct xp_gpu *g)
{
    ncclResult_t r;

    if (!make_room(j, g, s->size))
        return ncclUnhandledCudaError;
    s->proxy = xp_proxy_create(s);
    say_place(s, j->host);
    if (g->cudaMemcpyAsync(j->device, j->host, sizeof *j->host, xp_cudaMemcpyDefault, j->stream) != xp_cudaSuccess)
        return ncclUnhandledCudaError;
    r = XP_REAL(ncclAllGather)(j->device, j->device + 1, sizeof *j->host, ncclInt8, s->handle, j->stream);
    return r == ncclInProgress ? ncclSuccess : r;
}

ncclResult_t xp_join_begin(struct xp_side *s)
{
    const struct xp_gpu *g = xp_gpu();
    int device = -1, mode = xp_gpu_relax(g);
    ncclResult_t r = ncclSystemError;

    s->join = calloc(1, sizeof *s->join);
    if (s->join && XP_REAL(ncclAllGather) && XP_REAL(ncclCommGetAsyncError) && g->cudaGetDevice(&device) == xp_cudaSuccess &&
        g->cudaSetDevice(s->device) == xp_cudaSuccess) {
        s->join->door = -1;
        s->join->deadline = now() + xp_options()->params.timeout;
        r = add_gather(s, s->join, g);
    }
    if (device >= 0)
        g->cudaSetDevice(device);
    xp_gpu_restore(g, mode);
    if (r != ncclSuccess) /* the others may be waiting for this rank in the gather */
        xp_side_fail(s, XP_ERR_SYSTEM, "no memory, or no NCCL, to find the other ranks");
    else
        xp_side_change(s, XP_SIDE_JOINING, NULL);
    return r;
}

void xp_join_launched(struct xp_side *s, int launched)
{
    struct xp_proxy *p = s->proxy;
    int failed = xp_side_is(s, XP_SIDE_FAILED);

    if (p)
        xp_proxy_start(p, launched && !failed);
    else if (launched)
        xp_side_set_straight(s, "no pinned memory or no thread");
    if (launched || failed)
        return;
    s->proxy = NULL;
    if (p && xp_proxy_end(p, 0))
        xp_proxy_free(p, 0);
    s->join->idle = 1;
    xp_join_free(s);
    xp_side_change(s, XP_SIDE_NEW, NULL);
}

static void close_door(struct xp_join *j)
{
    if (j->door >= 0)
        close(j->door);
    j->door = -1;
}

int xp_join_free(struct xp_side *s)
{
    struct xp_join *j = s->join;
    const struct xp_gpu *g = xp_gpu();

    if (!j)
        return 1;
    if (!j->idle)
        return 0;
    s->join = NULL;
    close_door(j);
    if (j->device)
        g->cudaFree(j->device);
    if (j->host)
        g->cudaFreeHost(j->host);
    if (j->gathered)
        g->cudaEventDestroy(j->gathered);
    if (j->stream)
        g->cudaStreamDestroy(j->stream);
    free(j);
    return 1;
}

/* ---- the communicator's thread --------------------------------------------------------------------------------------- */

/* One look whether the places are there: XP_IN_PROGRESS until they are. copying: the gather is launched and the copy of it enqueued. */
static xp_status look(struct xp_proxy *p, struct xp_join *j, int *copying)
{
    const struct xp_gpu *g = p->gpu;
    ncclResult_t state = ncclSuccess;
    int e;

    if (*copying) {
        e = xp_gpu_is_over(g, j->gathered);
        return e > 0 ? XP_OK : e == 0 ? XP_IN_PROGRESS : XP_ERR_SYSTEM;
    }
    if (XP_REAL(ncclCommGetAsyncError)(p->side->handle, &state) != ncclSuccess || (state != ncclSuccess && state != ncclInProgress))
        return XP_ERR_REMOTE;
    if (state == ncclInProgress) /* a communicator that does not block: nothing is on the stream yet */
        return XP_IN_PROGRESS;
    *copying = 1;
    e = g->cudaMemcpyAsync(j->host + 1, j->device + 1, (size_t)p->side->size * sizeof *j->host, xp_cudaMemcpyDefault, j->stream);
    return e == xp_cudaSuccess && g->cudaEventRecord(j->gathered, j->stream) == xp_cudaSuccess ? XP_IN_PROGRESS : XP_ERR_SYSTEM;
}

static xp_status await_places(struct xp_proxy *p, struct xp_join *j)
{
    struct timespec pause = {0, 500000};
    int copying = 0;

    for (unsigned i = 0;; i++) {
        xp_status st = look(p, j, &copying);
        if (st != XP_IN_PROGRESS)
            return st;
        if (atomic_load(&p->abort))
            return XP_ERR_STATE;
        if (now() > j->deadline)
            return XP_ERR_TIMEOUT;
        if (i < 300)
            xp_exchange_idle(i);
        else
            nanosleep(&pause, NULL);
    }
}

/* NULL, or why these ranks stay with NCCL. All ranks see the same records and say the same. */
static const char *refusal(const struct place *all, int n)
{
    int several = 0;
    for (int i = 0; i < n; i++) {
        if (all[i].magic != MAGIC || all[i].version != all[0].version)
            return "ranks with another version of this library";
        if (all[i].options != all[0].options)
            return "ranks with other settings";
        if (!all[i].ready)
            return "a rank without pinned memory, a thread or a socket";
        several |= strcmp(all[i].node, all[0].node) != 0;
        for (int j = 0; j < i; j++)
            if (all[i].pid == all[j].pid && all[i].thread == all[j].thread && strcmp(all[i].node, all[j].node) == 0)
                return "one thread drives several ranks";
    }
    return several ? NULL : "a single node";
}

/* The crosspress communicator. NULL, or why there is none: then no rank has one. */
static const char *meet(struct xp_proxy *p, const struct xp_join *j)
{
    struct xp_side *s = p->side;
    const struct place *all = j->host + 1;
    xp_bootstrap boot;
    xp_config cfg;

    xp_bootstrap_init(&boot);
    boot.rank = s->rank;
    boot.nranks = s->size;
    boot.door = all[0].door;
    boot.door_fd = j->door;
    xp_config_init(&cfg);
    cfg.node = all[s->rank].node;
    s->node_of = calloc((size_t)s->size, sizeof *s->node_of);
    if (!s->node_of)
        return "no memory";
    if (xp_comm_create(&p->comm, &boot, &cfg) != XP_OK)
        return xp_last_error();
    s->nodes = xp_comm_nodes(p->comm);
    for (int i = 0; i < s->size; i++)
        s->node_of[i] = xp_comm_node_of(p->comm, i);
    return xp_comm_barrier(p->comm) == XP_OK ? NULL : "another rank could not set up";
}

static void tell_failure(struct xp_proxy *p, xp_status st)
{
    char text[120] = "NCCL or CUDA failed in the first all-to-all";

    if (st == XP_ERR_TIMEOUT)
        snprintf(text, sizeof text, "the first all-to-all: not all ranks came to it within %g s", xp_options()->params.timeout);
    xp_side_fail(p->side, st, st == XP_ERR_STATE ? "aborted" : text);
}

void xp_join_run(struct xp_proxy *p)
{
    struct xp_side *s = p->side;
    struct xp_join *j = s->join;
    xp_status st = await_places(p, j);
    const char *no;

    j->idle = st == XP_OK;
    if (st != XP_OK) {
        tell_failure(p, st);
    } else if ((no = refusal(j->host + 1, s->size)) || (no = meet(p, j))) {
        xp_side_set_straight(s, no);
    } else if ((st = xp_agree(p, XP_AGREE_JOIN, NULL)) != XP_OK) {
        xp_side_fail(s, st, xp_comm_last_error(p->comm));
    } else if (xp_side_is(s, XP_SIDE_JOINED)) {
        xp_say(XP_LOG_INFO, "communicator %p, rank %d of %d: joined, %d nodes", (void *)s->handle, s->rank, s->size, s->nodes);
    }
    close_door(j);
}
