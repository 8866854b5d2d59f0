/*
 * folded.c - folded mode: the life of folders and folds, knobs and their defaults, figures
 *
 * How a step goes: folded_make.c clusters each expert's rows (folded_cluster.c; folded_leader.c for causal models) and makes centroids and
 * probes (folded_probes.c); folded_combine.c makes rows of the experts' results; folded_backward.c is the way back.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/folded_impl.h"
#include "hash/coder_impl.h"
#include "hash/pages.h"

#define RATE 0.2
#define REFINE 2
#define PROBES 2
#define SKETCH 64        /* values: enough for Lloyd rounds to come near k-means on whole rows */
#define PAPER_HASHES 6
#define MAX_HASHES 32

/* ---- knobs -------------------------------------------------------------------------------------------------------- */

static xp_status resolve(struct xp_fold_knobs *k, const xp_moe_desc *m)
{
    const int paper = m->preset && !strcmp(m->preset, "paper");

    if (m->preset && !paper)
        return XP_ERR_INVALID_ARG;
    if (!(m->rate >= 0 && m->rate <= 1) || !(m->outlier >= 0) || !isfinite(m->alpha) || m->hashes < 0 || m->width < 0 || m->rounds < 0 ||
        m->refine < -1 || m->probes < -1 || (unsigned)m->centroid > XP_CENTROID_SEQUENCES || (unsigned)m->alpha_rule > XP_ALPHA_FIXED)
        return XP_ERR_INVALID_ARG;
    k->rate = m->rate > 0 ? m->rate : RATE;
    k->outlier = m->outlier;
    k->fit = !paper && m->alpha_rule == XP_ALPHA_FIT;
    k->alpha = paper ? 1.0f : (float)m->alpha;
    k->centroid = m->centroid;
    k->hashes = m->hashes ? (unsigned)m->hashes : paper ? PAPER_HASHES : 1;
    k->width = (unsigned)m->width;
    k->rounds = (unsigned)m->rounds;
    k->refine = paper || m->refine < 0 ? 0 : m->refine ? (unsigned)m->refine : REFINE;
    k->probes = paper || m->probes < 0 ? 0 : m->probes ? (unsigned)m->probes : k->fit ? PROBES : 0;
    return k->hashes <= MAX_HASHES ? XP_OK : XP_ERR_INVALID_ARG;
}

/* The sketch holds every coordinate that a bucket is made of. */
static xp_status make_hasher(struct xp_folder *f, uint64_t seed)
{
    struct xp_fold_knobs *k = &f->knobs;
    const unsigned n = xp_hash_width(f->dim), most = k->width ? k->width : 1;
    struct xp_hasher_desc d = { .dim = f->dim, .rounds = k->rounds, .sketch = SKETCH < n ? SKETCH : n, .seed = seed };

    if ((size_t)k->hashes * most > n)
        return XP_ERR_INVALID_ARG;
    if (k->hashes * most > d.sketch)
        d.sketch = (k->hashes * most + 31) / 32 * 32;
    f->sketch_values = d.sketch;
    return xp_hasher_init(&f->hasher, &d);
}

/* ---- the coder of far rows ---------------------------------------------------------------------------------------- */

/* A format of fixed size loses less than all of a row; eps only keeps out rows that it makes nothing of. */
#define ANY_ERROR 0.999

xp_status xp_folder_coder(const struct xp_folder_desc *d, struct xp_coder_desc *out)
{
    const char *name = !d->codec || !strcmp(d->codec, "auto") ? "int8" : d->codec;
    xp_status st;

    memset(out, 0, sizeof(*out));
    out->dtype = d->dtype;
    out->dim = d->dim;
    out->mode = XP_MODE_BOUNDED;
    out->eps = ANY_ERROR;
    out->eps_ref = XP_EPS_REF_ROW;
    out->isa = d->isa;
    out->seed = d->seed;
    out->row_wise = 1;
    st = xp_codec_parse(name, &out->choice);
    if (st)
        return st;
    if (!strcmp(name, "raw"))
        out->mode = XP_MODE_RAW;
    else if (out->choice.id != XP_CODEC_QUANT || !strcmp(name, "quant"))
        return XP_ERR_UNSUPPORTED;
    return XP_OK;
}

static xp_status make_coder(struct xp_folder *f, const struct xp_folder_desc *d)
{
    struct xp_coder_desc c;
    const xp_status st = xp_folder_coder(d, &c);

    if (st || c.mode == XP_MODE_RAW)
        return st;
    f->coded = malloc(f->row_bytes + 64);
    return f->coded ? xp_coder_create(&f->coder, &c) : XP_ERR_NO_MEMORY;
}

xp_status xp_fold_code(struct xp_fold *s, size_t first, size_t end, struct xp_coded_rows *store)
{
    struct xp_folder *f = s->f;
    const size_t at = first * f->row_bytes;
    const struct xp_rows rows = { .data = s->rows + at, .rows = end - first, .dim = f->dim, .dtype = f->dtype };

    return f->coder ? xp_coder_round_trip(f->coder, &rows, store, first, f->coded, s->seen + at) : XP_OK;
}

/* ---- memory ------------------------------------------------------------------------------------------------------- */

/* Zeroed where `zero` says so. NULL also when count * size overflows. */
static void *block(size_t count, size_t size, int zero)
{
    size_t bytes;
    void *p;

    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    p = xp_pages_alloc(bytes);
    if (p && zero)
        memset(p, 0, bytes);
    return p;
}

static int allocate_cells(struct xp_folder *f)
{
    const size_t n = f->max_tokens + 1, sketch = f->sketch_values * sizeof(int16_t);

    f->cell = block(XP_FOLD_CELLS, sketch, 0);
    f->near = block(XP_FOLD_CELLS, XP_FOLD_NEAR * sizeof(*f->near), 0);
    f->apart = block(XP_FOLD_CELLS, XP_FOLD_APART * sizeof(*f->apart), 0);
    f->cell_of = block(n, sizeof(uint32_t), 0);
    f->row_cell = block(n, sizeof(uint32_t), 0);
    f->probe = block(n, sizeof(uint32_t), 0);
    f->probe_sketch = block(n, sketch, 0);
    f->probe_start = block(XP_FOLD_CELLS + 1, sizeof(uint32_t), 0);
    f->seed = block(n, sizeof(uint32_t), 1);
    f->seed_start = block(XP_FOLD_CELLS + 1, sizeof(uint32_t), 0);
    f->seen = block(n, sizeof(uint32_t), 0);
    f->next = block(XP_FOLD_CELLS + 1, sizeof(uint32_t), 0);
    return f->cell && f->near && f->apart && f->cell_of && f->row_cell && f->probe && f->probe_sketch && f->probe_start && f->seed &&
                   f->seed_start && f->seen && f->next ? 0 : -1;
}

static xp_status allocate(struct xp_folder *f)
{
    const size_t n = f->max_tokens + 1, experts = (size_t)f->experts, most_probes = experts * f->knobs.probes;
    const int leader = f->knobs.centroid == XP_CENTROID_LEADER;

    f->expert = block(experts, sizeof(*f->expert), 1);
    f->expert_start = block(experts, sizeof(uint32_t), 1);
    f->expert_end = block(experts, sizeof(uint32_t), 1);
    f->expert_clusters = block(experts, sizeof(uint32_t), 1);
    f->expert_probes = block(experts, sizeof(uint32_t), 1);
    f->alpha = block(f->max_slots + 1, sizeof(float), 0);
    f->scale = block(n, sizeof(float), 0);
    f->tile = block(f->max_slots > n ? f->max_slots + 1 : n, XP_TILE * sizeof(float), 0);
    f->product = block(most_probes < f->max_slots ? most_probes : f->max_slots, sizeof(*f->product), 0);
    f->ids = block(n, sizeof(uint32_t), 0);
    f->counter = block(n, sizeof(uint32_t), 1);
    f->token = block(n, sizeof(uint32_t), 0);
    f->slot = block(n, sizeof(uint32_t), 0);
    f->member_token = block(f->max_slots + 1, sizeof(uint32_t), 0);
    f->wild = block(n, sizeof(uint32_t), 0);
    f->sequence = block(n, sizeof(uint32_t), 0);
    if (f->elsewhere) {
        f->result_energy = block(f->max_slots + 1, sizeof(float), 0);
    } else {
        f->energy = block(n, sizeof(float), 0);
        f->sketch = block(n, f->sketch_values * sizeof(int16_t), 0);
    }
    f->part = block(n, f->sketch_values * sizeof(int16_t), 0);
    if (!f->expert || !f->alpha || !f->scale || !f->tile || !f->product || !f->expert_start || !f->expert_end ||
        !f->expert_clusters || !f->expert_probes || !f->ids || !f->counter || !f->token || !f->slot || !f->member_token || !f->wild || !f->sequence || !f->part ||
        (f->elsewhere ? !f->result_energy : !f->energy || !f->sketch))
        return XP_ERR_NO_MEMORY;
    if (!leader && allocate_cells(f))
        return XP_ERR_NO_MEMORY;
    for (size_t i = 0; i < sizeof(f->f32) / sizeof(f->f32[0]); i++)
        if (!(f->f32[i] = block(XP_ROW_PAD(f->dim), sizeof(float), 1)))
            return XP_ERR_NO_MEMORY;
    if (leader && (!(f->leaders = block(f->max_slots + 1, f->sketch_values * sizeof(int16_t), 0)) ||
                   !(f->leader = block(f->max_slots + 1, sizeof(*f->leader), 0)) || !(f->past_mean = block(XP_ROW_PAD(f->dim), sizeof(float), 1))))
        return XP_ERR_NO_MEMORY;
    if (xp_clusters_init(&f->clusters, n, f->sketch_values))
        return XP_ERR_NO_MEMORY;
    f->clusters.mean = f->kernels.sketch_mean;
    return XP_OK;
}

xp_status xp_folder_create(struct xp_folder **out, const struct xp_folder_desc *d)
{
    struct xp_folder *f;
    xp_status st;

    if (!xp_dtype_size(d->dtype) || d->dtype == XP_BYTE || d->dim == 0 || d->experts < 1 || d->max_topk < 0)
        return XP_ERR_INVALID_ARG;
    f = calloc(1, sizeof(*f));
    if (!f)
        return XP_ERR_NO_MEMORY;
    f->dtype = d->dtype;
    f->dim = d->dim;
    f->row_bytes = d->dim * xp_dtype_size(d->dtype);
    f->max_tokens = d->max_tokens;
    f->experts = d->experts;
    f->elsewhere = d->elsewhere;
    xp_kernels_init(&f->kernels, d->isa);
    st = __builtin_mul_overflow(d->max_tokens, (size_t)d->max_topk, &f->max_slots) || f->max_slots >= (size_t)1 << 31 ? XP_ERR_INVALID_ARG : XP_OK;
    if (st == XP_OK)
        st = resolve(&f->knobs, d->moe);
    if (st == XP_OK)
        st = make_hasher(f, d->seed);
    if (st == XP_OK)
        st = make_coder(f, d);
    if (st == XP_OK)
        st = allocate(f);
    if (st) {
        xp_folder_destroy(f);
        return st;
    }
    for (int e = 0; e < f->experts; e++)
        f->expert[e].alpha = f->knobs.fit ? 0.0f : f->knobs.alpha;
    *out = f;
    return XP_OK;
}

void xp_folder_destroy(struct xp_folder *f)
{
    if (!f)
        return;
    xp_clusters_fini(&f->clusters);
    xp_hasher_fini(&f->hasher);
    xp_coder_destroy(f->coder);
    for (size_t i = 0; i < sizeof(f->f32) / sizeof(f->f32[0]); i++)
        free(f->f32[i]);
    free(f->expert);
    free(f->alpha);
    free(f->scale);
    free(f->tile);
    free(f->product);
    free(f->expert_start);
    free(f->expert_end);
    free(f->expert_clusters);
    free(f->expert_probes);
    free(f->ids);
    free(f->counter);
    free(f->token);
    free(f->slot);
    free(f->member_token);
    free(f->wild);
    free(f->sequence);
    if (!f->elsewhere) {
        free(f->energy);
        free(f->sketch);
    }
    free(f->result_energy);
    free(f->part);
    free(f->cell);
    free(f->near);
    free(f->apart);
    free(f->cell_of);
    free(f->row_cell);
    free(f->probe);
    free(f->probe_sketch);
    free(f->probe_start);
    free(f->seed);
    free(f->seed_start);
    free(f->seen);
    free(f->next);
    free(f->leaders);
    free(f->leader);
    free(f->past_mean);
    free(f->coded);
    free(f);
}

/* Every cluster beyond the first of a kind has a slot of its own, and so has every probe: there are never more than slots. */
xp_status xp_fold_create(struct xp_fold **out, struct xp_folder *f)
{
    const size_t n = f->max_slots + 1;
    struct xp_fold *s = calloc(1, sizeof(*s));

    if (!s)
        return XP_ERR_NO_MEMORY;
    s->f = f;
    s->cluster_of = block(n, sizeof(int32_t), 1);
    s->alpha_of = block(n, sizeof(float), 1);
    s->start = block(n + 1, sizeof(uint32_t), 1);
    s->member = block(n, sizeof(uint32_t), 0);
    s->expert = block(n, sizeof(int32_t), 0);
    s->probe = block(n, sizeof(uint32_t), 0);
    s->is_wild = block(n, 1, 0);
    if (!f->elsewhere) {
        s->rows = block(n, f->row_bytes, 0);
        s->seen = f->coder ? block(n, f->row_bytes, 0) : s->rows;
        s->results = block(n, f->row_bytes, 0);
        s->sums = block(n, f->row_bytes, 0);
    }
    if (!s->cluster_of || !s->alpha_of || !s->start || !s->member || !s->expert || !s->probe || !s->is_wild ||
        (!f->elsewhere && (!s->rows || !s->seen || !s->results || !s->sums))) {
        xp_fold_destroy(s);
        return XP_ERR_NO_MEMORY;
    }
    *out = s;
    return XP_OK;
}

void xp_fold_destroy(struct xp_fold *s)
{
    if (!s)
        return;
    free(s->cluster_of);
    free(s->alpha_of);
    free(s->start);
    free(s->member);
    free(s->expert);
    free(s->probe);
    free(s->is_wild);
    if (s->seen != s->rows)
        free(s->seen);
    free(s->rows);
    free(s->results);
    free(s->sums);
    free(s);
}

/* ---- what a step has ---------------------------------------------------------------------------------------------- */

void xp_fold_keep(struct xp_fold *s, struct xp_coded_rows *store)
{
    s->store = store;
}

size_t xp_fold_chosen(const struct xp_fold *s)
{
    return s->chosen;
}

size_t xp_fold_count(const struct xp_fold *s)
{
    return s->clusters + s->probes;
}

size_t xp_fold_clusters(const struct xp_fold *s)
{
    return s->clusters;
}

size_t xp_fold_clusters_of(const struct xp_fold *s, size_t e)
{
    return s->f->expert_clusters[e];
}

size_t xp_fold_probes_of(const struct xp_fold *s, size_t e)
{
    return s->f->expert_probes[e];
}

const int32_t *xp_fold_expert(const struct xp_fold *s)
{
    return s->expert;
}

const void *xp_fold_rows(const struct xp_fold *s)
{
    return s->rows;
}

void *xp_fold_results(struct xp_fold *s)
{
    return s->results;
}

const void *xp_fold_seen(const struct xp_fold *s)
{
    return s->seen;
}

const int32_t *xp_fold_cluster_of(const struct xp_fold *s)
{
    return s->cluster_of;
}

const float *xp_fold_alpha_of(const struct xp_fold *s)
{
    return s->alpha_of;
}

struct xp_fold_stats xp_fold_stats(const struct xp_fold *s)
{
    const struct xp_folder *f = s->f;

    return (struct xp_fold_stats){
        .rate = s->slots ? (double)xp_fold_count(s) / (double)s->slots : 0,
        .rho = s->energy > 0 ? s->residual_energy / s->energy : 0,
        .fold_err = f->ref_sum > 0 ? sqrt(f->err_sum / f->ref_sum) : 0,
        .clusters = s->clusters,
        .probes = s->probes,
    };
}
