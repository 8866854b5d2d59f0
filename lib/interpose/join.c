/*
 * join.c - the ranks of an NCCL communicator become the ranks of a crosspress communicator
 *
 * There is no channel between the ranks but NCCL itself: records are gathered by ncclAllGather on a stream of our own. First every
 * rank says where it runs and what it is set to; if that allows it, crosspress' own communicator is created with the same gather;
 * at last the ranks tell one another whether that worked.
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

#include "lib/interpose/options.h"
#include "lib/interpose/proxy.h"
#include "lib/interpose/real.h"
#include "lib/interpose/thread.h"

#define MAGIC 0x78706e63u /* "xpnc" */

struct place { /* where a rank runs, and what it is set to */
    uint32_t magic, version;
    char node[128];
    uint64_t options;
    int32_t pid, thread;
};

/* Device memory and a stream for gathers on one communicator. */
struct gather {
    struct xp_side *side;
    const struct xp_gpu *gpu;
    cudaStream_t stream;
    char *device;
    size_t size; /* of device, for one record of `size` / (ranks + 1) bytes */
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

/* ---- gathering over NCCL ------------------------------------------------------------------------------------------ */

static int gather_open(struct gather *g, struct xp_side *side)
{
    memset(g, 0, sizeof *g);
    g->side = side;
    g->gpu = xp_gpu();
    return g->gpu->cudaSetDevice(side->device) == xp_cudaSuccess &&
           g->gpu->cudaStreamCreateWithFlags(&g->stream, xp_cudaStreamNonBlocking) == xp_cudaSuccess;
}

static void gather_close(struct gather *g)
{
    if (g->device)
        g->gpu->cudaFree(g->device);
    if (g->stream)
        g->gpu->cudaStreamDestroy(g->stream);
}

static int gather_room(struct gather *g, size_t len)
{
    size_t need = len * ((size_t)g->side->size + 1);
    void *fresh = NULL;
    if (need <= g->size)
        return 1;
    if (g->device)
        g->gpu->cudaFree(g->device);
    g->device = NULL;
    g->size = 0;
    if (g->gpu->cudaMalloc(&fresh, need) != xp_cudaSuccess)
        return 0;
    g->device = fresh;
    g->size = need;
    return 1;
}

/* A communicator that does not block answers "in progress" until it is through. */
static ncclResult_t settle(ncclComm_t comm, ncclResult_t r)
{
    struct timespec t = {0, 200000};
    time_t until = time(NULL) + (time_t)xp_options()->params.timeout + 1;
    while (r == ncclInProgress && time(NULL) < until) {
        nanosleep(&t, NULL);
        if (XP_REAL(ncclCommGetAsyncError)(comm, &r) != ncclSuccess)
            return ncclInternalError;
    }
    return r;
}

static int gather_begin(struct gather *g, const void *in, size_t len)
{
    ncclResult_t r;
    if (!gather_room(g, len) || g->gpu->cudaSetDevice(g->side->device) != xp_cudaSuccess ||
        g->gpu->cudaMemcpyAsync(g->device, in, len, xp_cudaMemcpyDefault, g->stream) != xp_cudaSuccess)
        return 0;
    r = XP_REAL(ncclAllGather)(g->device, g->device + len, len, ncclInt8, g->side->handle, g->stream);
    return r == ncclSuccess || r == ncclInProgress;
}

static int gather_end(struct gather *g, void *out, size_t len)
{
    size_t all = len * (size_t)g->side->size;
    return settle(g->side->handle, ncclInProgress) == ncclSuccess && g->gpu->cudaSetDevice(g->side->device) == xp_cudaSuccess &&
           g->gpu->cudaMemcpyAsync(out, g->device + len, all, xp_cudaMemcpyDefault, g->stream) == xp_cudaSuccess &&
           g->gpu->cudaStreamSynchronize(g->stream) == xp_cudaSuccess;
}

/* xp_allgather_fn */
static int gather_one(void *user, const void *in, void *out, size_t len)
{
    return gather_begin(user, in, len) && gather_end(user, out, len) ? 0 : -1;
}

/* ---- the steps ----------------------------------------------------------------------------------------------------- */

/* NULL, or why these ranks stay with NCCL. All ranks see the same records and say the same. */
static const char *refusal(const struct place *all, int n)
{
    int several = 0;
    for (int i = 0; i < n; i++) {
        if (all[i].magic != MAGIC || all[i].version != all[0].version)
            return "ranks with another version of this library";
        if (all[i].options != all[0].options)
            return "ranks with other settings";
        several |= strcmp(all[i].node, all[0].node) != 0;
        for (int j = 0; j < i; j++)
            if (all[i].pid == all[j].pid && all[i].thread == all[j].thread && strcmp(all[i].node, all[j].node) == 0)
                return "one thread drives several ranks";
    }
    return several ? NULL : "a single node";
}

static struct xp_proxy *create(struct xp_side *s, struct gather *g, const char *node, char *why, size_t size)
{
    xp_bootstrap boot;
    xp_config cfg;
    xp_comm *comm;
    struct xp_proxy *p = NULL;

    xp_bootstrap_init(&boot);
    boot.rank = s->rank;
    boot.nranks = s->size;
    boot.allgather = gather_one;
    boot.allgather_user = g;
    xp_config_init(&cfg);
    cfg.node = node;
    if (xp_comm_create(&comm, &boot, &cfg) != XP_OK)
        snprintf(why, size, "%s", xp_last_error());
    else if (!(p = xp_proxy_create(s, comm)))
        snprintf(why, size, "no pinned memory or no thread");
    return p;
}

static void note_nodes(struct xp_side *s)
{
    s->nodes = xp_comm_nodes(s->proxy->comm);
    for (int i = 0; i < s->size; i++)
        s->node_of[i] = xp_comm_node_of(s->proxy->comm, i);
}

static void join_one(struct xp_side *s, struct gather *g, const struct place *all)
{
    char why[160] = "another rank could not set up";
    unsigned char ok, *every = calloc((size_t)s->size, 1);
    const char *no = refusal(all, s->size);

    s->node_of = calloc((size_t)s->size, sizeof *s->node_of);
    if (!no && s->node_of && every)
        s->proxy = create(s, g, all[s->rank].node, why, sizeof why);
    ok = s->proxy != NULL;
    if (!no && every && gather_one(g, &ok, every, 1) != 0)
        no = "NCCL could not gather";
    for (int i = 0; !no && i < s->size; i++)
        if (!every || !every[i])
            no = why;
    free(every);
    if (no) {
        if (s->proxy)
            xp_proxy_destroy(s->proxy, 0);
        s->proxy = NULL;
        xp_side_set_straight(s, no);
        return;
    }
    note_nodes(s);
    atomic_store_explicit(&s->state, XP_SIDE_JOINED, memory_order_release);
    xp_say(XP_LOG_INFO, "communicator %p, rank %d of %d: joined, %d nodes", (void *)s->handle, s->rank, s->size, s->nodes);
}

static void say_place(struct place *p)
{
    memset(p, 0, sizeof *p);
    p->magic = MAGIC;
    p->version = XP_VERSION_MAJOR << 16 | XP_VERSION_MINOR << 8 | XP_VERSION_PATCH;
    node_name(p->node, sizeof p->node);
    p->options = xp_options()->hash;
    p->pid = (int32_t)getpid();
    p->thread = (int32_t)syscall(SYS_gettid);
}

/* The first gather is one group over all communicators: one thread may drive several ranks of one, which shows only then. */
static int gather_places(struct gather *g, struct place **all, size_t n, const struct place *mine)
{
    int ok = 1;
    if (XP_REAL(ncclGroupStart)() != ncclSuccess)
        return 0;
    for (size_t i = 0; i < n; i++)
        ok = gather_begin(&g[i], mine, sizeof *mine) && ok;
    ncclResult_t r = XP_REAL(ncclGroupEnd)();
    if (!ok || (r != ncclSuccess && r != ncclInProgress))
        return 0;
    for (size_t i = 0; i < n; i++)
        ok = gather_end(&g[i], all[i], sizeof *mine) && ok;
    return ok;
}

static void join_all(struct xp_side **sides, size_t n, struct gather *g, struct place **all)
{
    struct place mine;
    int ok = XP_REAL(ncclAllGather) && XP_REAL(ncclCommGetAsyncError);

    say_place(&mine);
    for (size_t i = 0; i < n && ok; i++) {
        all[i] = calloc((size_t)sides[i]->size, sizeof mine);
        ok = all[i] && settle(sides[i]->handle, ncclInProgress) == ncclSuccess && gather_open(&g[i], sides[i]) &&
             gather_room(&g[i], sizeof mine);
    }
    ok = ok && gather_places(g, all, n, &mine);
    for (size_t i = 0; i < n; i++) {
        if (ok)
            join_one(sides[i], &g[i], all[i]);
        else
            xp_side_set_straight(sides[i], "NCCL could not gather");
        if (g[i].side)
            gather_close(&g[i]);
        free(all[i]);
    }
}

void xp_join(struct xp_side **sides, size_t n)
{
    struct gather *g = calloc(n, sizeof *g);
    struct place **all = calloc(n, sizeof *all);
    int device = -1;

    xp_thread.inside++;
    xp_gpu()->cudaGetDevice(&device);
    if (g && all)
        join_all(sides, n, g, all);
    for (size_t i = 0; i < n; i++)
        if (xp_side_is(sides[i], XP_SIDE_NEW))
            xp_side_set_straight(sides[i], "no memory");
    if (device >= 0)
        xp_gpu()->cudaSetDevice(device);
    xp_thread.inside--;
    free(g);
    free(all);
}
