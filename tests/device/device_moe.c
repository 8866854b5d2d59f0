/*
 * device_moe.c - MoE layers with rows in device memory, on the CUDA double: the bytes are those of a plan for host memory
 *
 * usage: device_moe CASE RANKS NODES      cases: the names in the table at the end
 *
 * A step is run on the device without waiting for the stream; the program spoils what it gave to each call right after it. The same step is then
 * run by a plan for host memory, whose results are what the device's must be.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/device/device_rank.h"
#include "tests/harness/layer.h"

/* What the operations of a step take and give, in the host's memory or in that of the device. */
struct results {
    char *x, *rows, *expert, *y, *grad_y, *grad_rows, *expert_grad, *grad_x;
};

struct step {
    const struct layer *l;
    struct layer_step s;
    size_t row_bytes, tokens, rows; /* tokens, rows: most */
    size_t came;                    /* rows for the experts here */
    int weights;                    /* their gradients are wanted */
    int shares;                     /* its plans are those of another step */
    int captures;                   /* every operation is first tried while its stream is being captured */
    xp_plan *host, *device;
    xp_routing *host_routing, *routing;
    cudaStream_t stream;
    struct results want, dev, got;         /* got: copies of dev, pinned */
    float *want_weight, *got_weight;
};

static char **places(struct results *r, char **all[8])
{
    all[0] = &r->x, all[1] = &r->rows, all[2] = &r->expert, all[3] = &r->y;
    all[4] = &r->grad_y, all[5] = &r->grad_rows, all[6] = &r->expert_grad, all[7] = &r->grad_x;
    return all[0];
}

/* Bytes of the place of that number. */
static size_t bytes_of(const struct step *t, int place)
{
    return (place % 4 == 0 || place % 4 == 3 ? t->tokens : t->rows) * t->row_bytes + 1;
}

/* first: the step whose plans this one shares; NULL: it has its own. */
static void open_step(struct device_rank *r, const struct layer *l, const struct step *first, struct step *t)
{
    char **want[8], **dev[8], **got[8];
    xp_plan_desc d;
    xp_moe_desc m;
    memset(t, 0, sizeof *t);
    t->l = l;
    t->row_bytes = l->dim * xp_dtype_size(l->dtype);
    layer_plan(l, r->ranks, &d, &m);
    t->tokens = d.max_send_rows;
    t->rows = d.max_recv_rows;
    must(r, cudaStreamCreateWithFlags(&t->stream, xp_cudaStreamNonBlocking) == 0, "a stream");
    t->shares = first != NULL;
    t->weights = 1;
    t->host = first ? first->host : NULL;
    t->device = first ? first->device : NULL;
    must(r, first || xp_plan_create(&t->host, r->comm, &d) == XP_OK, "the host's plan");
    d.memory = XP_MEMORY_DEVICE;
    d.stream = t->stream;
    d.transport = r->transport;
    must(r, first || xp_plan_create(&t->device, r->comm, &d) == XP_OK, "the device's plan");
    places(&t->want, want);
    places(&t->dev, dev);
    places(&t->got, got);
    for (int i = 0; i < 8; i++) {
        *want[i] = calloc(1, bytes_of(t, i));
        *got[i] = calloc(1, bytes_of(t, i));
        must(r, cudaHostRegister(*got[i], bytes_of(t, i), xp_cudaHostRegisterPortable) == 0, "pinned memory");
        must(r, cudaMalloc((void **)dev[i], bytes_of(t, i)) == 0, "device memory");
    }
    t->want_weight = calloc(t->tokens * (size_t)l->topk + 1, sizeof(float));
    t->got_weight = calloc(t->tokens * (size_t)l->topk + 1, sizeof(float));
}

static void close_step(struct device_rank *r, struct step *t)
{
    char **want[8], **dev[8], **got[8];
    if (!t->shares) {
        xp_plan_destroy(t->device);
        xp_plan_destroy(t->host);
    }
    must(r, cudaStreamSynchronize(t->stream) == 0, "end of the stream");
    places(&t->want, want);
    places(&t->dev, dev);
    places(&t->got, got);
    for (int i = 0; i < 8; i++) {
        cudaHostUnregister(*got[i]);
        cudaFree(*dev[i]);
        free(*want[i]);
        free(*got[i]);
    }
    cudaStreamDestroy(t->stream);
    free(t->want_weight);
    free(t->got_weight);
}

static void copy(struct device_rank *r, struct step *t, void *to, const void *from, size_t bytes)
{
    must(r, bytes == 0 || cudaMemcpyAsync(to, from, bytes, xp_cudaMemcpyDefault, t->stream) == 0, "a copy by the stream");
}

static void spoil(struct device_rank *r, struct step *t, char *rows, size_t count)
{
    must(r, cudaMemsetAsync(rows, 0xee, count * t->row_bytes + 1, t->stream) == 0, "spoiling rows");
}

/* The same step by the host's plan; it also says what the experts give, which depends on what they get. */
static void run_on_host(struct device_rank *r, struct step *t)
{
    const struct layer *l = t->l;
    struct results *w = &t->want;
    memcpy(w->x, t->s.x, t->s.tokens * t->row_bytes);
    memcpy(w->grad_y, t->s.grad_y, t->s.tokens * t->row_bytes);
    must(r, layer_route(&t->s, t->host, &t->host_routing) == XP_OK, "the host's route");
    must(r, xp_dispatch(t->host, t->host_routing, w->x, w->rows, NULL) == XP_OK, "the host's dispatch");
    const size_t *offsets = xp_routing_offsets(t->host_routing);
    for (int e = 0; e < xp_routing_local_experts(t->host_routing); e++)
        for (size_t i = offsets[e]; i < offsets[e + 1]; i++)
            layer_expert(l, xp_routing_expert_ids(t->host_routing)[e], w->rows + i * t->row_bytes, w->expert + i * t->row_bytes);
    must(r, xp_combine(t->host, t->host_routing, w->expert, w->x, w->y, NULL) == XP_OK, "the host's combine");
    must(r, xp_combine_backward(t->host, t->host_routing, w->grad_y, t->weights ? w->expert : NULL, w->grad_rows, t->weights ? t->want_weight : NULL, NULL) == XP_OK, "the host's combine_backward");
    for (int e = 0; e < xp_routing_local_experts(t->host_routing); e++)
        for (size_t i = offsets[e]; i < offsets[e + 1]; i++)
            layer_expert_grad(l, xp_routing_expert_ids(t->host_routing)[e], w->grad_rows + i * t->row_bytes, w->expert_grad + i * t->row_bytes);
    must(r, xp_dispatch_backward(t->host, t->host_routing, w->expert_grad, w->grad_y, w->grad_x, NULL) == XP_OK, "the host's dispatch_backward");
}

/* Whether rows of a folded layer pass through the host. */
static int is_staged(const struct layer *l)
{
    return l->centroid == XP_CENTROID_LEADER || l->outlier > 0;
}

static int is_folded(const struct step *t)
{
    return t->l->mode == XP_MODE_FOLDED;
}

enum operation { DISPATCH, COMBINE, COMBINE_BACKWARD, DISPATCH_BACKWARD };

static xp_status call(struct step *t, enum operation o)
{
    struct results *d = &t->dev;
    switch (o) {
    case DISPATCH: return xp_dispatch(t->device, t->routing, d->x, d->rows, NULL);
    case COMBINE: return xp_combine(t->device, t->routing, d->expert, is_folded(t) ? d->x : NULL, d->y, NULL);
    case COMBINE_BACKWARD: return xp_combine_backward(t->device, t->routing, d->grad_y, t->weights ? d->expert : NULL, d->grad_rows, t->weights ? t->got_weight : NULL, NULL);
    default: return xp_dispatch_backward(t->device, t->routing, d->expert_grad, is_folded(t) ? d->grad_y : NULL, d->grad_x, NULL);
    }
}

/* The program has gone on to another device: the plan stays on its own, and the program on that one. */
static xp_status call_from_another_device(struct device_rank *r, struct step *t, enum operation o)
{
    const int own = r->rank % 8, other = (own + 1) % 8;
    int current = -1;
    must(r, cudaSetDevice(other) == 0, "another device");
    xp_status st = call(t, o);
    must(r, cudaGetDevice(&current) == 0 && current == other, "the program's device is as it was");
    must(r, cudaSetDevice(own) == 0, "the device");
    return st;
}

static void operate(struct device_rank *r, struct step *t, enum operation o)
{
    static const char *const names[] = {"dispatch", "combine", "combine_backward", "dispatch_backward"};
    cudaGraph_t graph;
    if (t->captures && ((int)o + r->rank) % 2) {
        must(r, cudaStreamBeginCapture(t->stream, (int)o % 3) == 0, "begin of a capture");
        must(r, call(t, o) == XP_ERR_STATE && strstr(xp_comm_last_error(r->comm), "captured"), "a captured stream is refused");
        must(r, cudaStreamEndCapture(t->stream, &graph) == 0 && cudaGraphDestroy(graph) == 0, "end of a capture");
    }
    must(r, call_from_another_device(r, t, o) == XP_OK, names[o]);
}

/* The step on the device; the stream takes copies of all results. */
static void run_on_device(struct device_rank *r, struct step *t)
{
    struct results *d = &t->dev, *got = &t->got, *w = &t->want;
    const size_t tokens = t->s.tokens, bytes = t->row_bytes;
    must(r, layer_route(&t->s, t->device, &t->routing) == XP_OK, "route");
    memcpy(got->x, w->x, tokens * bytes);
    memcpy(got->grad_y, w->grad_y, tokens * bytes);

    copy(r, t, d->x, got->x, tokens * bytes);
    operate(r, t, DISPATCH);
    spoil(r, t, d->x, tokens);
    const size_t rows = t->came = xp_routing_rows(t->routing); /* a folded step has them now */
    must(r, rows == xp_routing_rows(t->host_routing), "as many rows as the host's plan");
    memcpy(got->expert, w->expert, rows * bytes);
    memcpy(got->expert_grad, w->expert_grad, rows * bytes);
    copy(r, t, got->rows, d->rows, rows * bytes);
    spoil(r, t, d->rows, rows);
    copy(r, t, d->expert, got->expert, rows * bytes);
    if (is_folded(t))
        copy(r, t, d->x, got->x, tokens * bytes);
    operate(r, t, COMBINE);
    copy(r, t, got->y, d->y, tokens * bytes);
    spoil(r, t, d->y, tokens);
    if (t->l->no_backward)
        return;
    copy(r, t, d->grad_y, got->grad_y, tokens * bytes);
    operate(r, t, COMBINE_BACKWARD);
    spoil(r, t, d->expert, rows);
    spoil(r, t, d->grad_y, tokens);
    spoil(r, t, d->x, tokens);
    copy(r, t, got->grad_rows, d->grad_rows, rows * bytes);
    copy(r, t, d->expert_grad, got->expert_grad, rows * bytes);
    if (is_folded(t))
        copy(r, t, d->grad_y, got->grad_y, tokens * bytes);
    operate(r, t, DISPATCH_BACKWARD);
    spoil(r, t, d->expert_grad, rows);
    spoil(r, t, d->grad_y, tokens);
    copy(r, t, got->grad_x, d->grad_x, tokens * bytes);
}

static void same(struct device_rank *r, const struct step *t, const char *what, const char *want, const char *got, size_t rows)
{
    static const struct world no_world;
    char why[WORLD_TEXT];
    for (size_t i = 0; i < rows; i++) {
        if (memcmp(want + i * t->row_bytes, got + i * t->row_bytes, t->row_bytes) == 0)
            continue;
        snprintf(why, sizeof why, "row %zu of %s is that of the host's plan: %.300s", i, what, layer_text(t->l, &no_world));
        must(r, 0, why);
    }
}

static void check_step(struct device_rank *r, struct step *t)
{
    const size_t rows = t->came, tokens = t->s.tokens;
    must(r, cudaStreamSynchronize(t->stream) == 0, "the stream");
    same(r, t, "dispatch", t->want.rows, t->got.rows, rows);
    same(r, t, "combine", t->want.y, t->got.y, tokens);
    if (t->l->no_backward)
        return;
    same(r, t, "combine_backward", t->want.grad_rows, t->got.grad_rows, rows);
    same(r, t, "dispatch_backward", t->want.grad_x, t->got.grad_x, tokens);
    must(r, !t->weights || memcmp(t->want_weight, t->got_weight, tokens * (size_t)t->s.topk * sizeof(float)) == 0, "gradients of weights are those of the host's plan");
}

/* Clusters, weights of residuals, and what the plans have counted. */
static void check_folded(struct device_rank *r, const struct step *t)
{
    const size_t slots = t->s.tokens * (size_t)t->s.topk + 1;
    int32_t *cluster[2];
    float *alpha[2];
    size_t clusters[2];
    xp_status st[2];
    for (int i = 0; i < 2; i++) {
        cluster[i] = calloc(slots, sizeof **cluster);
        alpha[i] = calloc(slots, sizeof **alpha);
        st[i] = xp_routing_clusters(i ? t->routing : t->host_routing, cluster[i], alpha[i], NULL, &clusters[i]);
    }
    must(r, st[0] == st[1], "the step is folded where the host's is");
    must(r, st[0] != XP_OK || clusters[0] == clusters[1], "as many clusters as the host's plan");
    must(r, memcmp(cluster[0], cluster[1], slots * sizeof **cluster) == 0 && memcmp(alpha[0], alpha[1], slots * sizeof **alpha) == 0, "clusters are those of the host's plan");
    for (int i = 0; i < 2; i++) {
        free(cluster[i]);
        free(alpha[i]);
    }
    xp_stats host = {.size = sizeof host}, device = {.size = sizeof device};
    must(r, xp_plan_stats(t->host, &host) == XP_OK && xp_plan_stats(t->device, &device) == XP_OK, "statistics");
    must(r, host.clusters == device.clusters && host.fold_fallbacks == device.fold_fallbacks &&
                (!is_staged(t->l) || host.wire_bytes_slow == device.wire_bytes_slow) &&
                host.rate == device.rate && host.rho == device.rho && host.fold_err == device.fold_err, "statistics are those of the host's plan");
}

static void compare_layer(struct device_rank *r, const struct layer *l, int captures)
{
    struct step t;
    open_step(r, l, NULL, &t);
    t.captures = captures;
    for (int step = 0; step < (l->steps ? l->steps : 1); step++) {
        layer_step_make(&t.s, l, r->ranks, r->rank, step);
        t.weights = l->mode == XP_MODE_FOLDED || step % 2 == 0;
        run_on_host(r, &t);
        run_on_device(r, &t);
        check_step(r, &t);
        if (is_folded(&t))
            check_folded(r, &t);
        xp_routing_destroy(t.routing);
        xp_routing_destroy(t.host_routing);
        layer_step_free(&t.s);
    }
    close_step(r, &t);
}

/* ---- cases ----------------------------------------------------------------------------------------------------------- */

static const char *const algorithms[] = {"flat", "hier", "leader"};

/* Rows as they are, every algorithm; rows and sums come home. */
static void plain(struct device_rank *r)
{
    static const size_t dims[] = {1, 24, 129, 768};
    for (unsigned n = 0; n < 6; n++) {
        struct layer l = {.choice = (enum choice)(n % CHOICES), .tokens = 14, .dim = dims[n % 4], .experts = 9, .topk = 1 + (int)(n % 4), .dtype = XP_BF16 + n % 3,
                          .mode = n % 2 ? XP_MODE_RAW : XP_MODE_EXACT, .algo = algorithms[n % 3], .combine = n < 3 ? XP_COMBINE_ROWS : XP_COMBINE_SUM,
                          .moving = n == 4, .steps = 2, .seed = n + 1};
        compare_layer(r, &l, 0);
    }
}

/* Rows coded between nodes, gradients dithered. Where a token goes to several ranks of other nodes both plans code it once, with one seed and against one
 * mean row for all of them. */
static void coded(struct device_rank *r)
{
    static const size_t dims[] = {64, 100, 257};
    for (unsigned n = 0; n < 4; n++) {
        struct layer l = {.choice = n == 1 ? CHOICE_VARYING : CHOICE_RANDOM, .tokens = n < 3 ? 12 : 40, .dim = dims[n % 3], .experts = 8, .topk = 3, .dtype = XP_BF16 + n % 3,
                          .mode = XP_MODE_BOUNDED, .eps = 0.05, .codec = n == 2 ? "int4" : "quant", .algo = algorithms[n % 3],
                          .dither = n == 3 ? XP_DITHER_ON : XP_DITHER_DEFAULT, .steps = 2, .seed = n + 20};
        compare_layer(r, &l, 0);
    }
}

/* A promise that no code keeps: rows travel raw, but in frames. */
static void raw_frames(struct device_rank *r)
{
    for (unsigned n = 0; n < 6; n++) {
        struct layer l = {.choice = CHOICE_RANDOM, .tokens = 30, .dim = n % 2 ? 100 : 256, .experts = 8, .topk = 2, .dtype = XP_BF16 + n % 3, .mode = XP_MODE_BOUNDED, .eps = 1e-9,
                          .codec = "int4", .algo = algorithms[n % 3], .combine = n < 3 ? XP_COMBINE_ROWS : XP_COMBINE_SUM, .dither = XP_DITHER_OFF, .steps = 2, .seed = n + 60};
        r->transport = n < 3 ? "auto" : "nccl";
        compare_layer(r, &l, 0);
    }
}

/* Forms of the rows, wild ones among them, mean centroids and those of sequences; steps that fall back from the second on (not by the leaders: there a plan for host
 * memory codes a row for several nodes once, and the device for each). */
static void folded(struct device_rank *r)
{
    static const size_t dims[] = {64, 33, 100, 7, 256};
    static const char *const codecs[] = {NULL, "raw", "int4"};
    for (unsigned n = 0; n < 10; n++) {
        struct layer l = {.choice = (enum choice)(n % CHOICES), .tokens = 30, .dim = dims[n % 5], .experts = 6, .topk = 1 + (int)(n % 3), .dtype = XP_BF16 + n % 3,
                          .mode = XP_MODE_FOLDED, .algo = algorithms[n % 3], .codec = codecs[n / 4], .centroid = n % 4 == 3 ? XP_CENTROID_SEQUENCES : XP_CENTROID_MEAN,
                          .wild = n % 4 == 2 ? 3 : 0, .moving = n == 6, .eps = 0.05, .error_limit = n % 4 == 1 && n % 3 != 2 ? 1e-6 : 0, .steps = 3, .seed = n + 40};
        compare_layer(r, &l, 0);
    }
}

/* Layers whose rows the host looks at while it chooses. */
static void folded_staged(struct device_rank *r)
{
    static const size_t dims[] = {64, 33, 100};
    for (unsigned n = 0; n < 6; n++) {
        struct layer l = {.choice = (enum choice)(n % CHOICES), .tokens = 40, .dim = dims[n % 3], .experts = 6, .topk = 1 + (int)(n % 3), .dtype = XP_BF16 + n % 3,
                          .mode = XP_MODE_FOLDED, .algo = algorithms[n % 3], .codec = n % 2 ? "int4" : NULL, .centroid = n < 3 ? XP_CENTROID_LEADER : XP_CENTROID_MEAN,
                          .outlier = n < 3 ? 0 : 0.5, .eps = 0.05, .error_limit = n % 3 == 1 ? 1e-6 : 0, .steps = 3, .seed = n + 80};
        compare_layer(r, &l, 0);
    }
}

static void nccl_plain(struct device_rank *r)
{
    r->transport = "nccl";
    plain(r);
}

static void nccl_coded(struct device_rank *r)
{
    r->transport = "nccl";
    coded(r);
}

/* Tokens of which many are equal, as padding is, and gradients likewise: over NCCL, too, each distinct row crosses between nodes once. */
static void nccl_copies(struct device_rank *r)
{
    enum { DISTINCT_TOKENS = 5 };
    r->transport = "nccl";
    for (unsigned n = 0; n < 3; n++) {
        const struct layer l = {.choice = CHOICE_RANDOM, .tokens = 160, .dim = 128, .experts = 4, .topk = 1 + (int)(n == 1), .dtype = XP_F32, .mode = XP_MODE_EXACT,
                                .codec = "exact", .algo = algorithms[n], .combine = XP_COMBINE_ROWS, .seed = n + 11};
        xp_stats host = {.size = sizeof host}, device = {.size = sizeof device};
        struct step t;
        open_step(r, &l, NULL, &t);
        layer_step_make(&t.s, &l, r->ranks, r->rank, 0);
        for (size_t i = DISTINCT_TOKENS; i < t.s.tokens; i++) {
            memcpy(t.s.x + i * t.row_bytes, t.s.x + i % DISTINCT_TOKENS * t.row_bytes, t.row_bytes);
            memcpy(t.s.grad_y + i * t.row_bytes, t.s.grad_y + i % DISTINCT_TOKENS * t.row_bytes, t.row_bytes);
        }
        t.weights = 1;
        run_on_host(r, &t);
        run_on_device(r, &t);
        check_step(r, &t);
        must(r, xp_plan_stats(t.host, &host) == XP_OK && xp_plan_stats(t.device, &device) == XP_OK, "statistics");
        must(r, device.rows_unique == host.rows_unique, "as many rows as the host's plan sends");
        must(r, device.wire_bytes_slow <= host.wire_bytes_slow + 512, "and as many bytes, but for heads");
        must(r, device.wire_bytes_slow < device.rows_sent * t.row_bytes / 2, "which is less than half of the rows");
        xp_routing_destroy(t.routing);
        xp_routing_destroy(t.host_routing);
        layer_step_free(&t.s);
        close_step(r, &t);
    }
}

static void nccl_folded(struct device_rank *r)
{
    r->transport = "nccl";
    folded(r);
}

/* Steps of one plan on a stream each, without a wait in between; all but the first use routings that have been used before. */
static void on_streams(struct device_rank *r, const struct layer *l)
{
    struct step t[4];
    for (int i = 0; i < 4; i++) {
        open_step(r, l, i ? &t[0] : NULL, &t[i]);
        layer_step_make(&t[i].s, l, r->ranks, r->rank, i);
        run_on_host(r, &t[i]);
    }
    for (int i = 0; i < 4; i++) {
        must(r, xp_plan_set_stream(t[i].device, t[i].stream) == XP_OK, "xp_plan_set_stream");
        run_on_device(r, &t[i]);
        xp_routing_destroy(t[i].routing);
    }
    for (int i = 3; i >= 0; i--) {
        check_step(r, &t[i]);
        xp_routing_destroy(t[i].host_routing);
        layer_step_free(&t[i].s);
    }
    for (int i = 3; i >= 0; i--)
        close_step(r, &t[i]);
}

static void streams(struct device_rank *r)
{
    const struct layer l = {.tokens = 20, .dim = 64, .experts = 6, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_EXACT, .algo = "hier", .seed = 3};
    on_streams(r, &l);
}

static void folded_streams(struct device_rank *r)
{
    const struct layer l = {.tokens = 20, .dim = 64, .experts = 6, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_FOLDED, .algo = "hier", .seed = 3};
    on_streams(r, &l);
}

/* Operations are refused on ranks by turns, which changes nothing on any. */
static void captured(struct device_rank *r)
{
    static const char *const transports[] = {"auto", "nccl"};
    for (unsigned n = 0; n < 12; n++) {
        const int coded = n / 3 % 2;
        struct layer l = {.choice = CHOICE_RANDOM, .tokens = 10, .dim = 64, .experts = 6, .topk = 2, .dtype = XP_F32, .mode = coded ? XP_MODE_BOUNDED : XP_MODE_EXACT,
                          .eps = 0.1, .codec = coded ? "int4" : NULL, .algo = algorithms[n % 3], .seed = n + 1};
        r->transport = transports[n / 6];
        compare_layer(r, &l, 1);
    }
    r->transport = "auto";
    struct layer l = {.tokens = 10, .dim = 64, .experts = 6, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_FOLDED, .seed = 5};
    compare_layer(r, &l, 1);
}

/* What the kernels of an operation move. */
static void count_bytes(struct device_rank *r, struct step *t, enum operation o, const char *name)
{
    static const char *const kernels[] = {"gather", "sums", "means", "encode", "pack", "decode", "decode sums"};
    must(r, cudaStreamSynchronize(t->stream) == 0, "the stream");
    emulator_clear_counts();
    operate(r, t, o);
    must(r, cudaStreamSynchronize(t->stream) == 0, "the stream");
    if (r->rank)
        return;
    printf("# %s: %zu bytes", name, emulator_bytes(NULL));
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        printf(", %s %zu", kernels[i], emulator_bytes(kernels[i]));
    printf("\n");
}

/* A bounded step by flat: what is coded is not gathered before, and not written as rows behind it. */
static void bytes(struct device_rank *r)
{
    const struct layer l = {.choice = CHOICE_RANDOM, .tokens = 64, .dim = 1024, .experts = 8, .topk = 2, .dtype = XP_BF16, .mode = XP_MODE_BOUNDED, .eps = 0.1,
                            .algo = "flat", .seed = 7};
    struct step t;
    open_step(r, &l, NULL, &t);
    layer_step_make(&t.s, &l, r->ranks, r->rank, 0);
    run_on_host(r, &t);
    must(r, layer_route(&t.s, t.device, &t.routing) == XP_OK, "route");
    memcpy(t.got.x, t.want.x, t.s.tokens * t.row_bytes);
    copy(r, &t, t.dev.x, t.got.x, t.s.tokens * t.row_bytes);
    count_bytes(r, &t, DISPATCH, "dispatch");
    must(r, emulator_bytes("gather") <= t.s.tokens * (size_t)r->ranks / 2 * (2 * t.row_bytes + 256), "only rows for the own node, half of the ranks, are gathered");
    memcpy(t.got.expert, t.want.expert, xp_routing_rows(t.routing) * t.row_bytes);
    copy(r, &t, t.dev.expert, t.got.expert, xp_routing_rows(t.routing) * t.row_bytes);
    count_bytes(r, &t, COMBINE, "combine");
    must(r, !emulator_bytes("decode") && emulator_bytes("decode sums"), "rows are decoded where they are summed");
    if (r->rank == 0)
        printf("# %zu tokens and %zu rows at experts of %zu bytes\n", t.s.tokens, xp_routing_rows(t.routing), t.row_bytes);
    xp_routing_destroy(t.routing);
    xp_routing_destroy(t.host_routing);
    layer_step_free(&t.s);
    close_step(r, &t);
}

/* The last operation may still be under way on the others: it is to end well there. */
static void end_rank(void)
{
    usleep(500000);
    exit(0);
}

/* All directions of a layer use one communicator: a second would not come up. */
static void one_communicator(struct device_rank *r)
{
    struct layer l = {.choice = CHOICE_RANDOM, .tokens = 12, .dim = 64, .experts = 8, .topk = 2, .dtype = XP_BF16, .mode = XP_MODE_BOUNDED, .eps = 0.05, .codec = "int4",
                      .dither = XP_DITHER_OFF, .steps = 2, .seed = 4};
    r->transport = "nccl";
    setenv("FAKE_NCCL_FAULTS", "ncclCommInitRank#2=3", 1);
    compare_layer(r, &l, 0);
    unsetenv("FAKE_NCCL_FAULTS");
}

/* A rank ends behind the dispatch of a layer that shares its communicator among all directions. */
static void nccl_lost(struct device_rank *r)
{
    const struct layer l = {.tokens = 20, .dim = 64, .experts = 6, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_BOUNDED, .eps = 0.1, .seed = 3};
    struct step t;
    r->transport = "nccl";
    open_step(r, &l, NULL, &t);
    layer_step_make(&t.s, &l, r->ranks, r->rank, 0);
    must(r, layer_route(&t.s, t.device, &t.routing) == XP_OK, "route");
    copy(r, &t, t.dev.x, t.got.x, t.s.tokens * t.row_bytes);
    must(r, call(&t, DISPATCH) == XP_OK, "dispatch");
    if (r->rank == 1)
        end_rank();
    copy(r, &t, t.dev.expert, t.dev.rows, xp_routing_rows(t.routing) * t.row_bytes);
    must(r, call(&t, COMBINE) == XP_ERR_REMOTE, "a lost rank is an error");
    must(r, strstr(xp_comm_last_error(r->comm), "rank 1") != NULL, xp_comm_last_error(r->comm));
    r->broken = 1;
    xp_routing_destroy(t.routing);
    layer_step_free(&t.s);
    close_step(r, &t);
}

/* A rank ends before a folded step is dispatched. */
static void folded_lost(struct device_rank *r)
{
    const struct layer l = {.tokens = 20, .dim = 64, .experts = 6, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_FOLDED, .seed = 3};
    struct step t;
    open_step(r, &l, NULL, &t);
    layer_step_make(&t.s, &l, r->ranks, r->rank, 0);
    must(r, layer_route(&t.s, t.device, &t.routing) == XP_OK, "route");
    if (r->rank == 1)
        end_rank();
    must(r, call(&t, DISPATCH) == XP_ERR_REMOTE, "a lost rank is an error");
    must(r, strstr(xp_comm_last_error(r->comm), "rank 1") != NULL, xp_comm_last_error(r->comm));
    r->broken = 1;
    xp_routing_destroy(t.routing);
    layer_step_free(&t.s);
    close_step(r, &t);
}

static void refused(struct device_rank *r)
{
    static const struct { xp_mode mode; xp_centroid centroid; const char *codec, *transport, *why; } cases[] = {
        {XP_MODE_FOLDED, XP_CENTROID_LEADER, NULL, "nccl", "folded mode"}, {XP_MODE_BOUNDED, XP_CENTROID_MEAN, "book", NULL, "does not run on the device"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct layer l = {.tokens = 5, .dim = 8, .experts = 4, .topk = 1, .dtype = XP_F32, .mode = cases[i].mode, .centroid = cases[i].centroid, .eps = 0.1, .codec = cases[i].codec, .seed = 3};
        xp_plan_desc d;
        xp_moe_desc m;
        xp_plan *plan = NULL;
        layer_plan(&l, r->ranks, &d, &m);
        d.memory = XP_MEMORY_DEVICE;
        d.transport = cases[i].transport;
        must(r, xp_plan_create(&plan, r->comm, &d) == XP_ERR_UNSUPPORTED, "a plan is refused");
        must(r, strstr(xp_comm_last_error(r->comm), cases[i].why) != NULL, xp_comm_last_error(r->comm));
    }
}

int main(int argc, char **argv)
{
    static const struct device_case cases[] = {
        {"plain", plain}, {"coded", coded}, {"raw_frames", raw_frames}, {"bytes", bytes}, {"one_communicator", one_communicator}, {"nccl_lost", nccl_lost}, {"folded", folded}, {"folded_staged", folded_staged}, {"nccl_folded", nccl_folded}, {"folded_streams", folded_streams}, {"folded_lost", folded_lost}, {"nccl_plain", nccl_plain}, {"nccl_copies", nccl_copies}, {"nccl_coded", nccl_coded}, {"streams", streams},
        {"captured", captured}, {"refused", refused}, {NULL, NULL},
    };
    return device_main(argc, argv, cases);
}
