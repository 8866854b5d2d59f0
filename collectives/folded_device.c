/*
 * folded_device.c - folded mode with rows in device memory (folded_device.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/folded_device.h"

#include <stdlib.h>
#include <string.h>

#include "collectives/device_call.h"
#include "collectives/folded_impl.h"
#include "hash/quant_rows.h"

struct xp_fold_device {
    const struct xp_device *dev;
    struct xp_folder *f;
    struct xp_gpu gpu;             /* its stream is set for each launch */
    struct xp_pool memory, pinned;
    void *known;                   /* event: the host has what it asked for last */
    enum { BEGUN, ENERGIES, MEAN, SKETCHES, LEARNING } phase;
    struct xp_hasher hasher;       /* tables on the device */
    struct xp_quantiser quantiser; /* likewise */
    struct xp_row_plan plan;       /* of the folder's coder */
    size_t stride;                 /* of coded rows */
    /* pinned */
    float *mean, *fold_mean;       /* [dim] mean row of the sample; [n] folded */
    uint32_t *sample;              /* where it begins, where it ends, and its tokens */
    float *distance, *result_energy, *grad_weight;
    struct xp_gpu_probe_products *product;
    struct {
        void *tables;
        float *energy, *mean;
        uint32_t *ids, *sample;
        int16_t *sketch;
        uint8_t *formats;
        uint32_t *lengths;
        float *errors, *distance, *result_energy, *grad_weight;
        struct xp_gpu_probe_products *product;
        char *gradients;
    } at;                          /* device */
};

/* What launches must know of a step: the same parts of pinned memory and of the device's. */
struct lists {
    int32_t *cluster_of; /* [tokens][topk] */
    float *weight;       /* [tokens][topk] */
    uint32_t *start;     /* [virtual tokens + 1] where the rows of each begin in token, and its slots in member */
    uint32_t *member;    /* [slots] */
    uint32_t *token;     /* [slots + probes] */
    uint32_t *measured_token, *measured_cluster;
    uint32_t *single;    /* clusters of one row, where there are probes */
    struct xp_gpu_probe *probe;
};

struct xp_fold_rows {
    struct xp_fold_device *d;
    struct xp_fold *s;
    struct xp_pool memory, pinned;             /* rows, alphas */
    struct xp_pool list_memory, list_pinned;
    void *copied;                              /* event: pinned memory has been read */
    char *x, *made, *seen, *results, *sums;    /* device */
    float *alpha, *dev_alpha;                  /* [tokens][topk] */
    struct lists list, dev;
    size_t measured, singles;
    uint32_t slot[XP_FOLD_MEASURED];           /* measured */
};

int xp_fold_device_serves(const xp_moe_desc *moe)
{
    return moe->centroid != XP_CENTROID_LEADER && !(moe->outlier > 0);
}

/* ---- life of a folder's part ------------------------------------------------------------------------------------------------ */

static void take_pinned(struct xp_fold_device *d)
{
    struct xp_folder *f = d->f;
    const size_t n = f->max_tokens + 1, slots = f->max_slots + 1;

    f->energy = xp_pool_take(&d->pinned, n * sizeof(*f->energy));
    f->sketch = xp_pool_take(&d->pinned, n * f->sketch_values * sizeof(*f->sketch));
    d->mean = xp_pool_take(&d->pinned, f->dim * sizeof(*d->mean));
    d->fold_mean = xp_pool_take(&d->pinned, f->hasher.n * sizeof(*d->fold_mean));
    d->sample = xp_pool_take(&d->pinned, (2 + XP_FOLD_SAMPLE) * sizeof(*d->sample));
    d->distance = xp_pool_take(&d->pinned, XP_FOLD_MEASURED * sizeof(*d->distance));
    d->result_energy = xp_pool_take(&d->pinned, slots * sizeof(*d->result_energy));
    d->grad_weight = xp_pool_take(&d->pinned, slots * sizeof(*d->grad_weight));
    d->product = xp_pool_take(&d->pinned, slots * sizeof(*d->product));
}

static void take_memory(struct xp_fold_device *d)
{
    const struct xp_folder *f = d->f;
    const size_t n = f->max_tokens + 1, slots = f->max_slots + 1, coded = f->coder ? slots : 0;

    d->at.tables = xp_pool_take(&d->memory, d->dev->kernels->hasher_bytes(&f->hasher));
    d->quantiser.signs = xp_pool_take(&d->memory, f->coder ? xp_sign_words(f->dim) * sizeof(uint32_t) : 0);
    d->at.energy = xp_pool_take(&d->memory, n * sizeof(*d->at.energy));
    d->at.mean = xp_pool_take(&d->memory, f->dim * sizeof(*d->at.mean));
    d->at.ids = xp_pool_take(&d->memory, n * sizeof(*d->at.ids));
    d->at.sample = xp_pool_take(&d->memory, (2 + XP_FOLD_SAMPLE) * sizeof(*d->at.sample));
    d->at.sketch = xp_pool_take(&d->memory, n * f->sketch_values * sizeof(*d->at.sketch));
    d->at.formats = xp_pool_take(&d->memory, coded);
    d->at.lengths = xp_pool_take(&d->memory, coded * sizeof(*d->at.lengths));
    d->at.errors = xp_pool_take(&d->memory, coded * sizeof(*d->at.errors));
    d->at.distance = xp_pool_take(&d->memory, XP_FOLD_MEASURED * sizeof(*d->at.distance));
    d->at.result_energy = xp_pool_take(&d->memory, slots * sizeof(*d->at.result_energy));
    d->at.grad_weight = xp_pool_take(&d->memory, slots * sizeof(*d->at.grad_weight));
    d->at.product = xp_pool_take(&d->memory, slots * sizeof(*d->at.product));
    d->at.gradients = xp_pool_take(&d->memory, slots * f->row_bytes);
}

/* Tables that stay as they are, but for the hasher's mean. */
static int upload_tables(struct xp_fold_device *d)
{
    const struct xp_folder *f = d->f;
    void *stream = NULL;
    int e = d->dev->stream_create(&stream);

    if (e)
        return e;
    d->dev->kernels->hasher(&f->hasher, d->at.tables, &d->hasher);
    e = d->dev->copy(d->at.tables, f->hasher.memory, d->dev->kernels->hasher_bytes(&f->hasher), stream);
    if (!e && f->coder)
        e = d->dev->copy(d->quantiser.signs, f->coder->quantiser.signs, xp_sign_words(f->dim) * sizeof(uint32_t), stream);
    if (!e)
        e = d->dev->stream_synchronize(stream);
    d->dev->stream_destroy(stream);
    return e;
}

static int open_device(struct xp_fold_device *d)
{
    int e = xp_device_describe(d->dev, &d->gpu);

    if (!e)
        e = d->dev->event_create(&d->known);
    if (e)
        return e;
    take_pinned(d);
    take_memory(d);
    e = xp_pool_fill(&d->pinned);
    if (!e)
        e = xp_pool_fill(&d->memory);
    if (e)
        return e;
    take_pinned(d);
    take_memory(d);
    return upload_tables(d);
}

int xp_fold_device_create(struct xp_fold_device **out, struct xp_folder *f, const struct xp_device *dev)
{
    struct xp_fold_device *d = calloc(1, sizeof(*d));
    int e;

    if (!d)
        return XP_DEVICE_NO_MEMORY;
    d->dev = dev;
    d->f = f;
    d->memory = (struct xp_pool){.device = dev};
    d->pinned = (struct xp_pool){.device = dev, .pinned = 1};
    d->quantiser.dim = f->dim;
    d->stride = (f->row_bytes + 15) / 16 * 16;
    if (f->coder)
        xp_row_plan_init(&d->plan, f->coder, f->coder->formats, NULL);
    e = open_device(d);
    if (e)
        xp_fold_device_destroy(d);
    else
        *out = d;
    return e;
}

void xp_fold_device_destroy(struct xp_fold_device *d)
{
    if (!d)
        return;
    if (d->known)
        d->dev->event_destroy(d->known);
    xp_pool_free(&d->memory);
    xp_pool_free(&d->pinned);
    free(d);
}

/* ---- life of a fold's part -------------------------------------------------------------------------------------------------- */

/* While rows are made their coded form lies where the results will be. As the coder takes them they are needed no longer than that, so the sums of
 * gradients come there, unless these rows are what is seen, too. */
static void take_rows(struct xp_fold_rows *r)
{
    const struct xp_folder *f = r->d->f;
    const size_t slots = f->max_slots + 1;

    r->x = xp_pool_take(&r->memory, (f->max_tokens + 1) * f->row_bytes);
    r->made = xp_pool_take(&r->memory, (f->coder ? 2 : 1) * slots * f->row_bytes);
    r->seen = r->made ? r->made + xp_fold_rows_seen(r) * f->row_bytes : NULL;
    r->results = xp_pool_take(&r->memory, slots * r->d->stride);
    r->sums = f->coder ? r->made : xp_pool_take(&r->memory, slots * f->row_bytes);
    r->dev_alpha = xp_pool_take(&r->memory, slots * sizeof(*r->dev_alpha));
    r->alpha = xp_pool_take(&r->pinned, slots * sizeof(*r->alpha));
}

static void *take(struct xp_fold_rows *r, size_t bytes, void *device)
{
    void *part = xp_pool_take(&r->list_memory, bytes);

    memcpy(device, &part, sizeof(part));
    return xp_pool_take(&r->list_pinned, bytes);
}

/* slots: all of the routing; members: those with an expert. */
static void take_lists(struct xp_fold_rows *r, size_t slots, size_t members, size_t virtual, size_t probes, size_t measured, size_t singles)
{
    r->list_memory.used = r->list_pinned.used = 0;
    r->list.cluster_of = take(r, slots * sizeof(int32_t), &r->dev.cluster_of);
    r->list.weight = take(r, slots * sizeof(float), &r->dev.weight);
    r->list.start = take(r, (virtual + 1) * sizeof(uint32_t), &r->dev.start);
    r->list.member = take(r, members * sizeof(uint32_t), &r->dev.member);
    r->list.token = take(r, (members + probes) * sizeof(uint32_t), &r->dev.token);
    r->list.measured_token = take(r, measured * sizeof(uint32_t), &r->dev.measured_token);
    r->list.measured_cluster = take(r, measured * sizeof(uint32_t), &r->dev.measured_cluster);
    r->list.single = take(r, singles * sizeof(uint32_t), &r->dev.single);
    r->list.probe = take(r, probes * sizeof(struct xp_gpu_probe), &r->dev.probe);
}

static int open_rows(struct xp_fold_rows *r)
{
    const size_t slots = r->d->f->max_slots + 1;
    int e = r->d->dev->event_create(&r->copied);

    take_rows(r);
    take_lists(r, slots, slots, slots, slots, XP_FOLD_MEASURED, slots);
    if (!e)
        e = xp_pool_fill(&r->memory);
    if (!e)
        e = xp_pool_fill(&r->pinned);
    if (!e)
        e = xp_pool_fill(&r->list_memory);
    if (!e)
        e = xp_pool_fill(&r->list_pinned);
    if (!e)
        take_rows(r);
    return e;
}

int xp_fold_rows_create(struct xp_fold_rows **out, struct xp_fold_device *d, struct xp_fold *s)
{
    struct xp_fold_rows *r = calloc(1, sizeof(*r));
    int e;

    if (!r)
        return XP_DEVICE_NO_MEMORY;
    r->d = d;
    r->s = s;
    r->memory = r->list_memory = (struct xp_pool){.device = d->dev};
    r->pinned = r->list_pinned = (struct xp_pool){.device = d->dev, .pinned = 1};
    e = open_rows(r);
    if (e)
        xp_fold_rows_destroy(r);
    else
        *out = r;
    return e;
}

void xp_fold_rows_destroy(struct xp_fold_rows *r)
{
    if (!r)
        return;
    if (r->copied)
        r->d->dev->event_destroy(r->copied);
    xp_pool_free(&r->memory);
    xp_pool_free(&r->pinned);
    xp_pool_free(&r->list_memory);
    xp_pool_free(&r->list_pinned);
    free(r);
}

/* ---- where rows are ----------------------------------------------------------------------------------------------------------- */

void *xp_fold_rows_made(const struct xp_fold_rows *r)
{
    return r->made;
}

size_t xp_fold_rows_seen(const struct xp_fold_rows *r)
{
    return r->d->f->coder ? r->d->f->max_slots + 1 : 0;
}

void *xp_fold_rows_results(const struct xp_fold_rows *r)
{
    return r->results;
}

void *xp_fold_device_gradients(const struct xp_fold_device *d)
{
    return d->at.gradients;
}

const void *xp_fold_rows_sums(const struct xp_fold_rows *r)
{
    return r->sums;
}

int xp_fold_device_centroids(const struct xp_fold_rows *r, void *centroid)
{
    const struct xp_device *dev = r->d->dev;
    void *stream = NULL;
    int e = dev->stream_create(&stream);

    if (e)
        return e;
    e = dev->stream_wait(stream, r->copied);
    if (!e)
        e = dev->copy(centroid, r->seen, xp_fold_clusters(r->s) * r->d->f->row_bytes, stream);
    if (!e)
        e = dev->stream_synchronize(stream);
    dev->stream_destroy(stream);
    return e;
}

/* ---- forward, before dispatch ------------------------------------------------------------------------------------------------- */

static struct xp_rows rows_at(const struct xp_fold_device *d, const void *data, size_t rows)
{
    return (struct xp_rows){.data = data, .rows = rows, .dim = d->f->dim, .dtype = d->f->dtype};
}

void xp_fold_device_begin(struct xp_fold_device *d)
{
    d->phase = BEGUN;
}

static int ask_energies(struct xp_fold_device *d, size_t tokens, const void *x, void *stream)
{
    const struct xp_rows rows = rows_at(d, x, tokens);
    int e = d->dev->kernels->row_distances(&d->gpu, &rows, NULL, NULL, d->at.energy);

    return e ? e : d->dev->copy(d->f->energy, d->at.energy, tokens * sizeof(float), stream);
}

static int ask_mean(struct xp_fold_device *d, size_t tokens, const void *x, void *stream)
{
    const struct xp_rows rows = rows_at(d, x, tokens);
    int e;

    d->sample[0] = 0;
    d->sample[1] = (uint32_t)xp_fold_sample(d->f, tokens);
    memcpy(d->sample + 2, d->f->token, d->sample[1] * sizeof(*d->sample));
    e = d->dev->copy(d->at.sample, d->sample, (2 + d->sample[1]) * sizeof(*d->sample), stream);
    if (!e)
        e = d->dev->kernels->centroid(&d->gpu, &rows, d->at.sample + 2, d->at.sample, NULL, 1, d->at.mean);
    return e ? e : d->dev->copy(d->mean, d->at.mean, d->f->dim * sizeof(float), stream);
}

static int ask_sketches(struct xp_fold_device *d, size_t tokens, const void *x, void *stream)
{
    const struct xp_rows rows = rows_at(d, x, tokens);
    const size_t mean_bytes = d->f->hasher.n * sizeof(float);
    int e;

    xp_hasher_set_mean(&d->f->hasher, d->mean);
    memcpy(d->fold_mean, d->f->hasher.fold_mean, mean_bytes);
    e = d->dev->copy(d->hasher.fold_mean, d->fold_mean, mean_bytes, stream);
    if (!e)
        e = d->dev->kernels->hash(&d->gpu, &d->hasher, &rows, d->at.ids, d->at.sketch);
    return e ? e : d->dev->copy(d->f->sketch, d->at.sketch, tokens * d->f->sketch_values * sizeof(int16_t), stream);
}

int xp_fold_device_survey(struct xp_fold_device *d, size_t tokens, const void *x, void *stream)
{
    int e = d->phase == BEGUN || tokens == 0 ? 0 : d->dev->event_query(d->known);

    if (e || tokens == 0 || d->phase == SKETCHES)
        return e;
    d->gpu.stream = stream;
    if (d->phase == BEGUN)
        e = ask_energies(d, tokens, x, stream);
    else if (d->phase == ENERGIES)
        e = ask_mean(d, tokens, x, stream);
    else
        e = ask_sketches(d, tokens, x, stream);
    d->phase++;
    if (!e)
        e = d->dev->event_record(d->known, stream);
    return e ? e : XP_DEVICE_NOT_READY;
}

int xp_fold_device_free(const struct xp_fold_rows *r)
{
    return r->d->dev->event_query(r->copied);
}

xp_status xp_fold_device_choose(struct xp_fold_rows *r, const struct xp_fold_tokens *t)
{
    return xp_fold_choose_surveyed(r->s, t);
}

/* Clusters of one row, where probes make their results worth knowing. */
static size_t list_singles(const struct xp_fold *s, uint32_t *single)
{
    size_t n = 0;

    for (size_t v = 0; v < s->clusters && s->probes > 0; v++) {
        if (!xp_fold_is_known(s, v))
            continue;
        if (single)
            single[n] = (uint32_t)v;
        n++;
    }
    return n;
}

static void fill_lists(struct xp_fold_rows *r)
{
    const struct xp_fold *s = r->s;
    const unsigned topk = (unsigned)s->t.topk;
    const size_t slots = s->t.tokens * topk;

    r->measured = xp_fold_measured(s, r->slot);
    r->singles = list_singles(s, NULL);
    take_lists(r, slots, s->slots, s->clusters + s->probes, s->probes, r->measured, r->singles);
    list_singles(s, r->list.single);
    memcpy(r->list.cluster_of, s->cluster_of, slots * sizeof(int32_t));
    memcpy(r->list.weight, s->t.weight, slots * sizeof(float));
    memcpy(r->list.start, s->start, (s->clusters + 1) * sizeof(uint32_t));
    memcpy(r->list.member, s->member, s->slots * sizeof(uint32_t));
    memcpy(r->list.token, s->f->member_token, s->slots * sizeof(uint32_t));
    for (size_t p = 0; p < s->probes; p++) {
        r->list.start[s->clusters + p + 1] = (uint32_t)(s->slots + p + 1);
        r->list.token[s->slots + p] = s->probe[p] / topk;
        r->list.probe[p] = (struct xp_gpu_probe){(uint32_t)(s->clusters + p), (uint32_t)s->cluster_of[s->probe[p]]};
    }
    for (size_t i = 0; i < r->measured; i++) {
        r->list.measured_token[i] = r->slot[i] / topk;
        r->list.measured_cluster[i] = (uint32_t)s->cluster_of[r->slot[i]];
    }
}

/* Coded and decoded, as far experts will see the rows. */
static int make_seen(struct xp_fold_rows *r)
{
    struct xp_fold_device *d = r->d;
    const struct xp_cuda_table *k = d->dev->kernels;
    const struct xp_gpu_bases none = {0};
    const struct xp_rows rows = rows_at(d, r->made, xp_fold_count(r->s));
    uint8_t *coded = (uint8_t *)r->results;
    int e;

    if (!d->f->coder || rows.rows == 0)
        return 0;
    e = k->row_encode(&d->gpu, &d->plan, &d->quantiser, &rows, &none, coded, d->stride, d->at.formats, d->at.lengths, d->at.errors);
    return e ? e : k->row_decode(&d->gpu, &d->quantiser, d->at.formats, XP_Q_RAW, coded, NULL, d->stride, &none, d->f->dtype, rows.rows, r->seen);
}

static int measure(struct xp_fold_rows *r, void *stream)
{
    struct xp_fold_device *d = r->d;
    struct xp_rows rows = rows_at(d, r->x, r->measured);
    int e;

    rows.index = r->dev.measured_token;
    e = d->dev->kernels->row_distances(&d->gpu, &rows, r->seen, r->dev.measured_cluster, d->at.distance);
    return e ? e : d->dev->copy(d->distance, d->at.distance, r->measured * sizeof(float), stream);
}

int xp_fold_device_make(struct xp_fold_rows *r, const void *x, void *stream)
{
    struct xp_fold_device *d = r->d;
    const struct xp_rows rows = rows_at(d, x, r->s->t.tokens);
    int e;

    fill_lists(r);
    d->gpu.stream = stream;
    e = d->dev->copy(r->list_memory.base, r->list_pinned.base, r->list_pinned.used, stream);
    if (!e)
        e = d->dev->kernels->mean_rows(&d->gpu, &rows, r->dev.token, r->dev.start, (uint32_t)xp_fold_count(r->s), r->made);
    if (!e)
        e = make_seen(r);
    if (!e)
        e = d->dev->copy(r->x, x, rows.rows * d->f->row_bytes, stream); /* what the way home will want */
    if (!e)
        e = measure(r, stream);
    if (!e)
        e = d->dev->event_record(r->copied, stream);
    return e ? e : d->dev->event_record(d->known, stream);
}

int xp_fold_device_end(struct xp_fold_rows *r)
{
    int e = r->d->dev->event_query(r->d->known);

    if (!e)
        xp_fold_end_measured(r->s, r->slot, r->d->distance, r->measured);
    return e;
}

/* ---- forward, after combine ------------------------------------------------------------------------------------------------------ */

static struct xp_gpu_fold fold_of(const struct xp_fold_rows *r)
{
    const struct xp_fold *s = r->s;

    return (struct xp_gpu_fold){.tokens = s->t.tokens, .clusters = s->clusters, .dim = s->f->dim, .topk = (unsigned)s->t.topk, .dtype = s->f->dtype,
                                .cluster_of = r->dev.cluster_of, .weight = r->dev.weight, .alpha = r->dev_alpha, .start = r->dev.start, .member = r->dev.member};
}

/* Sums over the probes, and energies of results that stand for one row. */
static int ask_probes(struct xp_fold_rows *r, void *stream)
{
    struct xp_fold_device *d = r->d;
    const struct xp_folder *f = d->f;
    const size_t probes = r->s->probes;
    struct xp_rows single = rows_at(d, r->results, r->singles);
    int e;

    if (probes == 0)
        return 0;
    single.index = r->dev.single;
    e = d->dev->kernels->fold_products(&d->gpu, f->dtype, f->dim, r->seen, r->results, r->dev.probe, probes, d->at.product);
    if (!e)
        e = d->dev->kernels->row_distances(&d->gpu, &single, NULL, NULL, d->at.result_energy);
    if (!e)
        e = d->dev->copy(d->product, d->at.product, probes * sizeof(*d->product), stream);
    if (!e)
        e = d->dev->copy(d->result_energy, d->at.result_energy, r->singles * sizeof(float), stream);
    return e ? e : d->dev->event_record(d->known, stream);
}

static void learn(struct xp_fold_rows *r)
{
    const struct xp_fold_device *d = r->d;
    struct xp_folder *f = d->f;

    for (size_t p = 0; p < r->s->probes; p++)
        f->product[p] = (struct xp_fold_products){d->product[p].yy, d->product[p].yx, d->product[p].xx, d->product[p].ee};
    for (size_t i = 0; i < r->singles; i++)
        f->result_energy[r->list.single[i]] = d->result_energy[i];
    xp_fold_set_alphas(r->s);
}

int xp_fold_device_combine(struct xp_fold_rows *r, void *y, void *stream)
{
    struct xp_fold_device *d = r->d;
    const size_t slots = r->s->t.tokens * (size_t)r->s->t.topk;
    int e = 0;

    d->gpu.stream = stream;
    if (d->phase == BEGUN)
        e = ask_probes(r, stream);
    d->phase = LEARNING;
    if (!e && r->s->probes > 0)
        e = d->dev->event_query(d->known);
    if (!e)
        e = d->dev->event_query(r->copied);
    if (e)
        return e;
    learn(r);
    memcpy(r->alpha, r->s->alpha_of, slots * sizeof(*r->alpha));
    e = d->dev->copy(r->dev_alpha, r->alpha, slots * sizeof(*r->alpha), stream);
    if (!e)
        e = d->dev->event_record(r->copied, stream);
    const struct xp_gpu_fold fold = fold_of(r);
    return e ? e : d->dev->kernels->fold_combine(&d->gpu, &fold, r->x, r->seen, r->results, y);
}

/* ---- backward -------------------------------------------------------------------------------------------------------------------- */

int xp_fold_device_combine_backward(struct xp_fold_rows *r, const void *grad_y, int weights, void *stream)
{
    struct xp_fold_device *d = r->d;
    const struct xp_gpu_fold fold = fold_of(r);
    const size_t row_bytes = d->f->row_bytes, slots = r->s->t.tokens * (size_t)r->s->t.topk;
    int e;

    d->gpu.stream = stream;
    e = d->dev->kernels->fold_combine_backward(&d->gpu, &fold, grad_y, r->x, r->seen, r->results, r->sums, weights ? d->at.grad_weight : NULL);
    if (!e && r->s->probes > 0)
        e = d->dev->zero(r->sums + r->s->clusters * row_bytes, r->s->probes * row_bytes, stream);
    if (!e && weights)
        e = d->dev->copy(d->grad_weight, d->at.grad_weight, slots * sizeof(float), stream);
    return e ? e : d->dev->event_record(d->known, stream);
}

int xp_fold_device_weights(struct xp_fold_rows *r, float *grad_weight)
{
    const struct xp_fold_device *d = r->d;
    int e = d->dev->event_query(d->known);

    if (!e)
        memcpy(grad_weight, d->grad_weight, r->s->t.tokens * (size_t)r->s->t.topk * sizeof(float));
    return e;
}

int xp_fold_device_dispatch_backward(struct xp_fold_rows *r, const void *grad_y, void *grad_x, void *stream)
{
    struct xp_fold_device *d = r->d;
    const struct xp_gpu_fold fold = fold_of(r);

    d->gpu.stream = stream;
    return d->dev->kernels->fold_dispatch_backward(&d->gpu, &fold, grad_y, r->sums, d->at.gradients, grad_x);
}
