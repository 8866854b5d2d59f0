/*
 * capture.c - streams that record instead of run, and the graphs that come of it
 *
 * A captured operation becomes a node of a graph; its place is after the frontier of its stream. Recording and waiting for events
 * carries frontiers to other streams. A launch of a graph is one operation of a stream, which runs the nodes in a random order that
 * their dependencies allow. CUDA's rules about what a capture forbids, and to whom, hold here as well.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/cuemu/sim.h"
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))

struct graph_node {
    struct xp_cuemu_op op;
    struct frontier deps;
};

struct CUgraph_st {
    struct graph_node *nodes;
    unsigned n, room, refs;
    bool outside;
};

struct CUgraphExec_st {
    struct CUgraph_st *graph;
    struct node *last; /* launches of one executable graph do not overlap */
};

static struct capture *captures;
static uint64_t captures_begun;
static __thread int thread_mode; /* what cudaThreadExchangeStreamCaptureMode() set: global */

/* ---- frontiers and graphs */

static bool set_frontier(struct frontier *to, const struct frontier *from)
{
    unsigned *at = malloc((from->n + 1) * sizeof *at);

    if (!at)
        return false;
    if (from->n)
        memcpy(at, from->at, from->n * sizeof *at);
    free(to->at);
    *to = (struct frontier){at, from->n};
    return true;
}

static bool join_frontier(struct frontier *to, const struct frontier *from)
{
    unsigned *at = realloc(to->at, (to->n + from->n + 1) * sizeof *at);

    if (!at)
        return false;
    to->at = at;
    for (unsigned i = 0; i < from->n; i++) {
        bool there = false;
        for (unsigned k = 0; k < to->n && !there; k++)
            there = at[k] == from->at[i];
        if (!there)
            at[to->n++] = from->at[i];
    }
    return true;
}

/* Also without the lock: a graph may be dropped by the operation that launched it. */
static void release_graph(struct CUgraph_st *graph)
{
    if (__atomic_sub_fetch(&graph->refs, 1, __ATOMIC_ACQ_REL))
        return;
    for (unsigned i = 0; i < graph->n; i++) {
        if (graph->nodes[i].op.drop)
            graph->nodes[i].op.drop(graph->nodes[i].op.arg);
        free(graph->nodes[i].deps.at);
    }
    free(graph->nodes);
    free(graph);
}

static void release_capture(struct capture *capture)
{
    if (--capture->refs)
        return;
    if (capture->graph)
        release_graph(capture->graph);
    free(capture);
}

int xp_sim_capture_add(struct CUstream_st *stream, const struct xp_cuemu_op *op)
{
    struct capture *capture = stream->capture;
    struct CUgraph_st *graph = capture->graph;
    unsigned at = graph->n;

    if (capture->invalid)
        return CAPTURE_INVALIDATED;
    if (graph->n == graph->room) {
        unsigned room = graph->room ? 2 * graph->room : 16;
        struct graph_node *more = realloc(graph->nodes, room * sizeof *more);
        if (!more)
            return NO_MEMORY;
        graph->nodes = more;
        graph->room = room;
    }
    graph->nodes[at] = (struct graph_node){.op = *op};
    if (!set_frontier(&graph->nodes[at].deps, &stream->frontier) ||
        !set_frontier(&stream->frontier, &(struct frontier){&at, 1}))
        return NO_MEMORY;
    graph->outside |= op->outside != 0;
    graph->n++;
    return OK;
}

/* ---- events in a capture */

void xp_sim_forget_capture(struct CUevent_st *event)
{
    if (event->capture)
        release_capture(event->capture);
    event->capture = NULL;
    free(event->frontier.at);
    event->frontier = (struct frontier){NULL, 0};
}

int xp_sim_capture_record(struct CUevent_st *event, struct CUstream_st *stream)
{
    if (stream->capture->invalid)
        return CAPTURE_INVALIDATED;
    xp_sim_forget_capture(event);
    if (!set_frontier(&event->frontier, &stream->frontier))
        return NO_MEMORY;
    event->capture = stream->capture;
    event->capture->refs++;
    return OK;
}

static bool under_way(const struct capture *capture)
{
    for (struct capture *c = captures; c; c = c->next)
        if (c == capture)
            return true;
    return false;
}

/* One of the two, stream and event, belongs to a capture. */
int xp_sim_capture_wait(struct CUstream_st *stream, struct CUevent_st *event)
{
    if (!event->capture) {
        if (!event->node)
            return OK;
        stream->capture->invalid = true;
        return CAPTURE_ISOLATION;
    }
    if (!under_way(event->capture))
        return CAPTURED_EVENT;
    if (event->capture->invalid)
        return CAPTURE_INVALIDATED;
    if (stream->capture && stream->capture != event->capture) {
        stream->capture->invalid = event->capture->invalid = true;
        return CAPTURE_MERGE;
    }
    if (!stream->capture) {
        if (stream->legacy)
            return CAPTURE_IMPLICIT;
        stream->capture = event->capture;
        stream->capture->refs++;
        stream->frontier.n = 0;
    }
    return join_frontier(&stream->frontier, &event->frontier) ? OK : NO_MEMORY;
}

/* ---- what a capture forbids */

int xp_sim_capture_forbids(void)
{
    int error = OK;

    for (struct capture *c = captures; c && thread_mode != xp_cudaStreamCaptureModeRelaxed; c = c->next) {
        bool mine = pthread_equal(c->thread, pthread_self()) && c->mode != xp_cudaStreamCaptureModeRelaxed;
        bool others = thread_mode == xp_cudaStreamCaptureModeGlobal && c->mode == xp_cudaStreamCaptureModeGlobal;
        if (mine || others) {
            c->invalid = true;
            error = CAPTURE_UNSUPPORTED;
        }
    }
    return error;
}

/* The capture of a stream that this one waits for by itself, or NULL. */
static struct capture *implied(const struct CUstream_st *stream)
{
    for (struct CUstream_st *s = xp_sim_streams(); s && stream->legacy; s = s->next)
        if (s->capture && s->blocking && s->device == stream->device)
            return s->capture;
    return NULL;
}

int xp_sim_capture_implicit(const struct CUstream_st *stream)
{
    struct capture *c = implied(stream);

    if (c)
        c->invalid |= c->mode != xp_cudaStreamCaptureModeRelaxed;
    return c ? CAPTURE_IMPLICIT : OK;
}

int xp_sim_capture_refuses(struct CUstream_st *stream)
{
    if (!stream->capture)
        return xp_sim_capture_implicit(stream);
    stream->capture->invalid = true;
    return CAPTURE_UNSUPPORTED;
}

API int cudaThreadExchangeStreamCaptureMode(int *mode)
{
    int before = thread_mode;

    if (*mode < 0 || *mode > 2)
        return xp_cuemu_fail(INVALID_VALUE);
    thread_mode = *mode;
    *mode = before;
    return OK;
}

/* ---- begin, end, status */

static int begin(struct CUstream_st *stream, int mode)
{
    struct capture *c = calloc(1, sizeof *c);
    struct CUgraph_st *graph = calloc(1, sizeof *graph);

    if (!c || !graph) {
        free(c);
        free(graph);
        return NO_MEMORY;
    }
    graph->refs = 1;
    *c = (struct capture){.graph = graph, .origin = stream, .thread = pthread_self(), .mode = mode, .id = ++captures_begun,
                          .refs = 1, .next = captures};
    captures = c;
    stream->capture = c;
    stream->frontier.n = 0;
    return OK;
}

API int cudaStreamBeginCapture(cudaStream_t handle, int mode)
{
    int error = OK;

    if (xp_sim_in_op(__func__))
        return NOT_PERMITTED;
    pthread_mutex_lock(&xp_sim_lock);
    struct CUstream_st *stream = xp_sim_stream(handle);
    if (!stream)
        error = INVALID_HANDLE;
    else if (mode < 0 || mode > 2)
        error = INVALID_VALUE;
    else if (stream->legacy || stream->capture)
        error = CAPTURE_UNSUPPORTED;
    else
        error = begin(stream, mode);
    pthread_mutex_unlock(&xp_sim_lock);
    return xp_cuemu_fail(error);
}

/* Everything in the graph comes before the end of the origin's frontier. */
static bool joined(const struct CUgraph_st *graph, const struct frontier *end)
{
    char *reached = calloc(graph->n + 1, 1);
    bool all = reached != NULL;

    for (unsigned i = 0; i < end->n && all; i++)
        reached[end->at[i]] = 1;
    for (unsigned i = graph->n; i-- > 0 && all;)
        for (unsigned k = 0; k < graph->nodes[i].deps.n && reached[i]; k++)
            reached[graph->nodes[i].deps.at[k]] = 1;
    for (unsigned i = 0; i < graph->n && all; i++)
        all = reached[i] != 0;
    free(reached);
    return all;
}

static void leave_capture(struct capture *capture)
{
    struct capture **at = &captures;

    while (*at != capture)
        at = &(*at)->next;
    *at = capture->next;
    for (struct CUstream_st *s = xp_sim_streams(); s; s = s->next)
        if (s->capture == capture) {
            s->capture = NULL;
            release_capture(capture);
        }
}

API int cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
    int error = OK;

    *graph = NULL;
    if (xp_sim_in_op(__func__))
        return NOT_PERMITTED;
    pthread_mutex_lock(&xp_sim_lock);
    struct CUstream_st *stream = xp_sim_stream(handle);
    struct capture *c = stream ? stream->capture : NULL;
    if (!c)
        error = stream ? 401 : INVALID_HANDLE; /* cudaErrorIllegalState */
    else if (c->mode != xp_cudaStreamCaptureModeRelaxed && !pthread_equal(c->thread, pthread_self()))
        error = CAPTURE_WRONG_THREAD;
    else if (c->origin != stream)
        error = CAPTURE_UNMATCHED;
    else if (c->invalid)
        error = CAPTURE_INVALIDATED;
    else if (!joined(c->graph, &stream->frontier))
        error = CAPTURE_UNJOINED;
    if (c && error != CAPTURE_WRONG_THREAD && error != CAPTURE_UNMATCHED) {
        if (!error) {
            *graph = c->graph;
            __atomic_add_fetch(&c->graph->refs, 1, __ATOMIC_RELAXED);
        }
        leave_capture(c);
    }
    pthread_mutex_unlock(&xp_sim_lock);
    return xp_cuemu_fail(error);
}

static int status_of(cudaStream_t handle, int *status, struct capture **capture)
{
    struct CUstream_st *stream = xp_sim_stream(handle);
    int error = !stream ? INVALID_HANDLE : implied(stream) ? CAPTURE_IMPLICIT : OK; /* and looking does no harm */

    if (error)
        return error;
    *capture = stream->capture;
    *status = !stream->capture           ? xp_cudaStreamCaptureStatusNone
              : stream->capture->invalid ? xp_cudaStreamCaptureStatusInvalidated
                                         : xp_cudaStreamCaptureStatusActive;
    return OK;
}

API int cudaStreamIsCapturing(cudaStream_t handle, int *status)
{
    struct capture *capture;

    pthread_mutex_lock(&xp_sim_lock);
    int error = status_of(handle, status, &capture);
    pthread_mutex_unlock(&xp_sim_lock);
    return xp_cuemu_fail(error);
}

API int cudaStreamGetCaptureInfo(cudaStream_t handle, int *status, unsigned long long *id, cudaGraph_t *graph,
                                 const void **dependencies, const void **edges, size_t *ndependencies)
{
    struct capture *capture = NULL;

    pthread_mutex_lock(&xp_sim_lock);
    int error = dependencies || edges ? NOT_SUPPORTED : status_of(handle, status, &capture);
    if (!error && capture) {
        if (id)
            *id = capture->id;
        if (graph)
            *graph = capture->graph;
        if (ndependencies)
            *ndependencies = capture->origin->frontier.n;
    }
    pthread_mutex_unlock(&xp_sim_lock);
    return xp_cuemu_fail(error);
}

/* ---- launch */

struct launch_state {
    struct CUgraph_st *graph;
    unsigned left;
    char state[]; /* of every node: 0 waits, 1 started, 2 done */
};

static bool node_ready(const struct launch_state *l, unsigned i)
{
    const struct frontier *deps = &l->graph->nodes[i].deps;

    for (unsigned k = 0; k < deps->n; k++)
        if (l->state[deps->at[k]] != 2)
            return false;
    return l->state[i] != 2;
}

static int launch_run(void *arg, int first)
{
    struct launch_state *l = arg;
    struct CUgraph_st *graph = l->graph;
    bool moved = true;

    if (first) {
        memset(l->state, 0, graph->n);
        l->left = graph->n;
    }
    while (l->left && moved) {
        unsigned start = xp_cuemu_random();
        moved = false;
        for (unsigned k = 0; k < graph->n; k++) {
            unsigned i = (start + k) % graph->n;
            if (!node_ready(l, i))
                continue;
            int begun = l->state[i];
            l->state[i] = 1;
            if (graph->nodes[i].op.run(graph->nodes[i].op.arg, !begun) == XP_CUEMU_DONE) {
                l->state[i] = 2;
                l->left--;
                moved = true;
            }
        }
    }
    return l->left ? XP_CUEMU_AGAIN : XP_CUEMU_DONE;
}

static void launch_drop(void *arg)
{
    struct launch_state *l = arg;

    release_graph(l->graph);
    free(l);
}

API int cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    struct CUgraphExec_st *e = calloc(1, sizeof *e);

    if (!e || !graph) {
        free(e);
        return xp_cuemu_fail(e ? INVALID_VALUE : NO_MEMORY);
    }
    pthread_mutex_lock(&xp_sim_lock);
    e->graph = graph;
    __atomic_add_fetch(&graph->refs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&xp_sim_lock);
    *exec = e;
    return OK;
}

API int cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    return cudaGraphInstantiate(exec, graph, flags);
}

API int cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle)
{
    struct launch_state *l;
    struct node *node = NULL;
    int error;

    if (xp_sim_in_op(__func__))
        return NOT_PERMITTED;
    l = calloc(1, sizeof *l + exec->graph->n);
    if (!l)
        return xp_cuemu_fail(NO_MEMORY);
    struct xp_cuemu_op op = {.run = launch_run, .drop = launch_drop, .arg = l, .name = "graph", .outside = exec->graph->outside};
    pthread_mutex_lock(&xp_sim_lock);
    struct CUstream_st *stream = xp_sim_stream(handle);
    l->graph = exec->graph;
    error = stream ? xp_sim_enqueue(stream, &op, exec->graph->outside, exec->last, &node) : INVALID_HANDLE;
    if (error) {
        free(l);
    } else {
        __atomic_add_fetch(&exec->graph->refs, 1, __ATOMIC_RELAXED);
        xp_sim_release(exec->last);
        exec->last = node;
    }
    pthread_mutex_unlock(&xp_sim_lock);
    return xp_cuemu_fail(error);
}

API int cudaGraphDestroy(cudaGraph_t graph)
{
    release_graph(graph);
    return OK;
}

API int cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    release_graph(exec->graph);
    pthread_mutex_lock(&xp_sim_lock);
    xp_sim_release(exec->last);
    pthread_mutex_unlock(&xp_sim_lock);
    free(exec);
    return OK;
}
