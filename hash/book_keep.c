/*
 * book_keep.c - books that are kept: the reservoir, and fitting in small steps
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/book_keep.h"
#include "hash/bytes.h"
#include "hash/frame.h"

#include <stdlib.h>
#include <string.h>

#define ROWS 4096
#define RESERVOIR_BYTES ((size_t)32 << 20)
#define LEAST_ROWS 64
#define MOST_CENTROIDS 256
#define ROWS_A_CENTROID 8
#define LLOYD_ROUNDS 3
#define SPREAD_ROWS 1024               /* of the reservoir, for spread */
#define STEP_VALUES ((size_t)1 << 18)  /* of rows, that a step goes over */
#define ASSIGN_ROWS 128

/* Books with directions are for where bytes count more than time. */
#define ROWS_A_CENTROID_DIRECTIONS 4
#define LLOYD_ROUNDS_DIRECTIONS 6
#define SPREAD_ROWS_DIRECTIONS 2048
#define FITS_DIRECTIONS 2 /* rows go to other centroids once the directions are known, whereupon both change a little */

enum stage { IDLE, PICK, MEAN, HASH, GROUP, ASSIGN, MEANS, FIT, WRITE, READ, WEIGH, AGAIN };

struct xp_book_fitter {
    const struct xp_kernels *k;
    struct xp_book_fit_desc d;
    size_t row_bytes, bytes;
    uint8_t *reservoir; /* [d.rows] rows */
    size_t held;        /* rows in it */
    uint64_t shown;     /* rows ever looked at for it */

    enum stage stage;
    size_t at;          /* how far the stage is */
    unsigned round, fits; /* done */
    uint32_t version;
    unsigned most;      /* centroids */
    struct xp_clusters clusters;
    struct xp_hasher hasher;
    size_t picked, seeds;
    uint32_t *ids, *of, *order;
    int16_t *sketch;    /* [d.rows][sketch_of] */
    float *centroid;    /* [d.centroids][dim] by channel */
    float *mean, *work;
    struct xp_rows rows;/* what fitting reads */
    struct xp_book_fit fit;
    struct xp_book fitted;

    struct xp_book_writer done[2];
    int current, ready; /* current: of done, -1: none; ready: the other one is finished and waits */
};

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static void *take(struct xp_book_fitter *f, size_t count, size_t size, int *failed)
{
    const size_t bytes = (count * size + 127) / 64 * 64;
    void *p = aligned_alloc(64, bytes);

    if (p)
        memset(p, 0, bytes);
    f->bytes += bytes;
    *failed |= !p;
    return p;
}

size_t xp_book_most_bytes(size_t dim, unsigned centroids, unsigned rank)
{
    return 64 + 4 + 3 * dim + ((size_t)centroids + rank) * (dim + 4) + XP_BOOK_CHECK;
}

static unsigned sketch_of(const struct xp_book_fitter *f)
{
    return f->d.rank ? XP_BOOK_SKETCH_DIRECTIONS : XP_BOOK_SKETCH;
}

static xp_status allocate_writer(struct xp_book_fitter *f, struct xp_book_writer *w, const struct xp_hasher_desc *h)
{
    const struct xp_book_fit_desc *d = &f->d;
    int failed = 0;
    xp_status s;

    w->k = f->k;
    w->sketch = take(f, (size_t)d->centroids * sketch_of(f), 2, &failed);
    if (d->rank) {
        w->mean = take(f, f->fitted.pad, sizeof(float), &failed);
        w->weighed = take(f, d->centroids * f->fitted.pad, sizeof(float), &failed);
        w->weight = take(f, d->centroids, sizeof(float), &failed);
    }
    w->bytes = take(f, xp_book_most_bytes(d->dim, d->centroids, d->rank), 1, &failed);
    if (failed)
        return XP_ERR_NO_MEMORY;
    s = xp_hasher_init(&w->hasher, h);
    return s ? s : xp_book_init(&w->book, d->dim, d->centroids, d->rank);
}

/* Of `rows`, those that spread and directions are fitted on. */
static size_t rows_for_fit(const struct xp_book_fitter *f, size_t rows)
{
    const size_t enough = f->d.rank ? SPREAD_ROWS_DIRECTIONS : SPREAD_ROWS;

    return rows < enough ? rows : enough;
}

static xp_status allocate(struct xp_book_fitter *f)
{
    const struct xp_book_fit_desc *d = &f->d;
    const struct xp_hasher_desc h = { .dim = d->dim, .sketch = sketch_of(f), .seed = d->seed };
    int failed = 0;
    xp_status s;

    f->reservoir = take(f, d->rows, f->row_bytes, &failed);
    f->ids = take(f, d->rows, 4, &failed);
    f->of = take(f, d->rows, 4, &failed);
    f->order = take(f, d->rows, 4, &failed);
    f->sketch = take(f, d->rows * sketch_of(f), 2, &failed);
    f->centroid = take(f, d->centroids * d->dim, 4, &failed);
    f->mean = take(f, d->dim, 4, &failed);
    f->work = take(f, xp_book_fit_floats(d->dim, rows_for_fit(f, d->rows), d->rank), 4, &failed);
    if (failed)
        return XP_ERR_NO_MEMORY;
    s = xp_hasher_init(&f->hasher, &h);
    if (!s)
        s = xp_clusters_init(&f->clusters, d->rows, sketch_of(f));
    if (!s)
        s = xp_book_init(&f->fitted, d->dim, d->centroids, d->rank);
    for (int i = 0; i < 2 && !s; i++)
        s = allocate_writer(f, &f->done[i], &h);
    f->bytes += 3 * ((size_t)d->centroids + d->rank + 1) * f->fitted.pad * sizeof(float);
    return s;
}

static size_t default_rows(size_t row_bytes)
{
    const size_t fit = RESERVOIR_BYTES / row_bytes;

    return fit < LEAST_ROWS ? LEAST_ROWS : fit < ROWS ? fit : ROWS;
}

xp_status xp_book_fitter_create(struct xp_book_fitter **out, const struct xp_kernels *k, const struct xp_book_fit_desc *d)
{
    struct xp_book_fitter *f;
    xp_status s;

    if (!d->dim || d->dim > 1u << 20 || (d->dtype != XP_BF16 && d->dtype != XP_F16 && d->dtype != XP_F32) ||
        d->centroids > XP_BOOK_MAX_CENTROIDS || d->rank > XP_BOOK_MAX_RANK || d->rank % XP_RANS_GROUP ||
        (d->rank && d->dim > XP_BOOK_RANK_DIM) || (d->rows && d->rows < LEAST_ROWS) || d->rows > 1u << 24)
        return XP_ERR_INVALID_ARG;
    f = calloc(1, sizeof(*f));
    if (!f)
        return XP_ERR_NO_MEMORY;
    f->k = k;
    f->d = *d;
    f->row_bytes = d->dim * xp_dtype_size(d->dtype);
    f->d.rows = d->rows ? d->rows : default_rows(f->row_bytes);
    f->d.centroids = d->centroids ? d->centroids : f->d.rows / 16 < MOST_CENTROIDS ? (unsigned)(f->d.rows / 16) : MOST_CENTROIDS;
    f->bytes = sizeof(*f);
    f->current = -1;
    s = allocate(f);
    if (s) {
        xp_book_fitter_destroy(f);
        return s;
    }
    *out = f;
    return XP_OK;
}

void xp_book_fitter_destroy(struct xp_book_fitter *f)
{
    if (!f)
        return;
    free(f->reservoir);
    free(f->ids);
    free(f->of);
    free(f->order);
    free(f->sketch);
    free(f->centroid);
    free(f->mean);
    free(f->work);
    xp_hasher_fini(&f->hasher);
    xp_clusters_fini(&f->clusters);
    xp_book_fini(&f->fitted);
    for (int i = 0; i < 2; i++) {
        xp_hasher_fini(&f->done[i].hasher);
        xp_book_fini(&f->done[i].book);
        free(f->done[i].sketch);
        free(f->done[i].mean);
        free(f->done[i].weighed);
        free(f->done[i].weight);
        free(f->done[i].bytes);
    }
    free(f);
}

size_t xp_book_fitter_bytes(const struct xp_book_fitter *f)
{
    return f->bytes;
}

/* ---- the reservoir ----------------------------------------------------------------------------------------------- */

/* splitmix64 of the row's number: the same rows are kept in every run. */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void xp_book_fitter_add(struct xp_book_fitter *f, const struct xp_rows *in, size_t most)
{
    const size_t n = in->rows < most ? in->rows : most;

    if (f->stage != IDLE || in->dim != f->d.dim || in->dtype != f->d.dtype)
        return;
    for (size_t i = 0; i < n; i++, f->shown++) {
        const size_t at = f->held < f->d.rows ? f->held : (size_t)(mix(f->d.seed ^ f->shown) % f->d.rows);

        memcpy(f->reservoir + at * f->row_bytes, xp_row(in, (2 * i + 1) * in->rows / (2 * n)), f->row_bytes);
        f->held += at == f->held;
    }
}

void xp_book_fitter_forget(struct xp_book_fitter *f)
{
    if (f->stage == IDLE)
        f->held = 0;
}

size_t xp_book_fitter_rows(const struct xp_book_fitter *f)
{
    return f->held;
}

size_t xp_book_fitter_room(const struct xp_book_fitter *f)
{
    return f->d.rows;
}

/* ---- the stages: each step returns whether the stage goes on -------------------------------------------------------- */

static struct xp_rows reservoir_rows(const struct xp_book_fitter *f, const uint32_t *index, size_t rows)
{
    return (struct xp_rows){ .data = f->reservoir, .index = index, .rows = rows, .dim = f->d.dim, .dtype = f->d.dtype };
}

/* How many of `all` rows the next step takes. */
static size_t piece(const struct xp_book_fitter *f, size_t all)
{
    const size_t rows = STEP_VALUES / f->d.dim + 1;

    return rows < all - f->at ? rows : all - f->at;
}

xp_status xp_book_fitter_begin(struct xp_book_fitter *f, uint32_t version, unsigned centroids)
{
    if (f->stage != IDLE || f->ready || f->held < LEAST_ROWS)
        return XP_ERR_STATE;
    f->version = version;
    f->most = centroids && centroids < f->d.centroids ? centroids : f->d.centroids;
    f->round = f->fits = 0;
    f->at = f->picked = 0;
    f->stage = PICK;
    return XP_OK;
}

/* Rows that are fit for fitting, into order. */
static int pick(struct xp_book_fitter *f)
{
    const size_t n = piece(f, f->held);
    struct xp_rows part = reservoir_rows(f, NULL, n);
    size_t found;

    part.data = f->reservoir + f->at * f->row_bytes;
    found = xp_book_pick(f->k, &part, f->order + f->picked, n);
    for (size_t i = 0; i < found; i++)
        f->order[f->picked + i] += (uint32_t)f->at;
    f->picked += found;
    f->at += n;
    return f->at < f->held;
}

/* Adds up the means of pieces. */
static int take_mean(struct xp_book_fitter *f)
{
    const struct xp_rows all = reservoir_rows(f, NULL, f->held);
    const uint32_t start[2] = { 0, (uint32_t)piece(f, f->picked) };
    const float part = (float)start[1] / (float)f->picked;
    float *mean = f->work;

    if (f->at == 0)
        memset(f->mean, 0, f->d.dim * sizeof(*f->mean));
    f->k->centroid(&all, f->order + f->at, start, 1, mean);
    for (size_t i = 0; i < f->d.dim; i++)
        f->mean[i] += part * mean[i];
    f->at += start[1];
    return f->at < f->picked;
}

/* Buckets and sketches of the rows around their mean. */
static int hash_rows(struct xp_book_fitter *f)
{
    const size_t n = piece(f, f->picked);
    const struct xp_rows part = reservoir_rows(f, f->order + f->at, n);

    if (f->at == 0)
        xp_hasher_set_mean(&f->hasher, f->mean);
    f->k->hash(&f->hasher, &part, f->ids + f->at, f->sketch + f->at * f->hasher.sketch);
    f->at += n;
    return f->at < f->picked;
}

/* Seeds: the largest buckets, so many that a centroid has some rows to be the mean of. */
static int group(struct xp_book_fitter *f)
{
    const size_t enough = f->picked / (f->d.rank ? ROWS_A_CENTROID_DIRECTIONS : ROWS_A_CENTROID) + 1;

    xp_clusters_group(&f->clusters, f->ids, f->picked);
    f->seeds = xp_clusters_seed(&f->clusters, f->sketch, f->hasher.sketch, enough < f->most ? enough : f->most);
    return 0;
}

/* One Lloyd round after another: rows go to their nearest centroids. */
static int assign(struct xp_book_fitter *f)
{
    struct xp_clusters *c = &f->clusters;
    const unsigned s = f->hasher.sketch;
    const size_t left = f->picked - f->at, n = left < ASSIGN_ROWS ? left : ASSIGN_ROWS;

    f->k->assign(f->sketch + f->at * s, n, s, c->centroids, f->seeds, c->of + f->at);
    f->at += n;
    if (f->at < f->picked)
        return 1;
    f->at = 0;
    xp_clusters_regroup(c, f->seeds);
    f->seeds = xp_clusters_seed(c, f->sketch, s, 0);
    return ++f->round < (f->d.rank ? LLOYD_ROUNDS_DIRECTIONS : LLOYD_ROUNDS);
}

/* Mean of one cluster, drawn to the mean row the more the fewer rows it has; then the sample for spread and directions. */
static int take_means(struct xp_book_fitter *f)
{
    const struct xp_clusters *c = &f->clusters;
    const struct xp_rows fit = reservoir_rows(f, f->order, c->rows);
    const float n = (float)(c->start[f->at + 1] - c->start[f->at]), trust = n / (n + 1);
    float *centroid = f->centroid + f->at * f->d.dim;

    f->k->centroid(&fit, c->order, c->start + f->at, 1, centroid);
    for (size_t i = 0; i < f->d.dim; i++)
        centroid[i] = f->mean[i] + trust * (centroid[i] - f->mean[i]);
    return ++f->at < c->count;
}

static void begin_fit(struct xp_book_fitter *f)
{
    const size_t rows = f->clusters.rows, n = rows_for_fit(f, rows);
    const struct xp_book_sample s = { .in = &f->rows, .order = f->ids, .count = n, .of = f->of, .centroid = f->centroid,
                                      .centroids = (unsigned)f->clusters.count, .mean = f->mean };

    f->rows = reservoir_rows(f, NULL, f->held);
    for (size_t i = 0; i < n; i++) {
        const size_t r = i * rows / n;
        f->ids[i] = f->order[r];
        f->of[i] = f->clusters.of[r];
    }
    xp_book_fit_begin(&f->fit, &f->fitted, f->k, &s, n < 2 * f->d.rank ? 0 : f->d.rank, SIZE_MAX >> 32, f->work);
    f->fit.again = f->fits > 0;
}

static struct xp_book_writer *spare(struct xp_book_fitter *f)
{
    return &f->done[f->current == 0];
}

/* The book as bytes, some of its vectors at a time. */
static int write_book(struct xp_book_fitter *f)
{
    struct xp_book_writer *w = spare(f);
    struct xp_book *b = &f->fitted;
    const size_t all = (size_t)b->rank + b->centroids, n = (piece(f, all) + 3) / 4; /* a division a value */

    b->version = f->version;
    if (f->at == 0)
        w->len = xp_book_write_head(b, w->bytes);
    for (size_t i = 0; i < n; i++)
        w->len += xp_book_write_vector(b, (unsigned)(f->at++), w->bytes + w->len);
    if (f->at < all)
        return 1;
    xp_put64(w->bytes + w->len, xp_checksum(w->bytes, w->len));
    w->len += XP_BOOK_CHECK;
    return 0;
}

/* Reads the book as a receiver will. */
static int read_book(struct xp_book_fitter *f)
{
    struct xp_book_writer *w = spare(f);
    const char *why;
    size_t used;

    xp_book_read(&w->book, w->bytes, w->len - XP_BOOK_CHECK, &used, &why);
    memcpy(w->sketch, f->clusters.centroids, f->clusters.count * f->hasher.sketch * sizeof(int16_t));
    xp_hasher_set_mean(&w->hasher, f->mean);
    return 0;
}

/* What choosing between centroids takes, some of them at a time. */
static int weigh(struct xp_book_fitter *f)
{
    struct xp_book_writer *w = spare(f);
    const size_t all = w->book.rank ? w->book.centroids : 0, n = (piece(f, all) + 2 * XP_BOOK_MAX_RANK - 1) / (2 * XP_BOOK_MAX_RANK);

    for (size_t i = 0; i < n; i++)
        xp_book_weigh(w, (unsigned)(f->at++), f->work);
    return f->at < all;
}

/* Rows go to the centroids that coding would take. */
static int assign_again(struct xp_book_fitter *f)
{
    const size_t left = f->picked - f->at, n = left < ASSIGN_ROWS ? left : ASSIGN_ROWS;
    const struct xp_rows part = reservoir_rows(f, f->order + f->at, n);

    xp_book_assign(spare(f), &part, f->work, f->clusters.of + f->at);
    f->at += n;
    if (f->at < f->picked)
        return 1;
    xp_clusters_regroup(&f->clusters, f->seeds);
    f->seeds = xp_clusters_seed(&f->clusters, f->sketch, f->hasher.sketch, 0);
    return 0;
}

static int fit_step(struct xp_book_fitter *f)
{
    return xp_book_fit_step(&f->fit);
}

/* The stage is over. */
static void next_stage(struct xp_book_fitter *f)
{
    f->at = 0;
    switch (f->stage) {
    case WEIGH:
        f->ready = !f->fitted.rank || ++f->fits == FITS_DIRECTIONS;
        f->stage = f->ready ? IDLE : AGAIN;
        return;
    case AGAIN: f->stage = MEANS; return;
    case MEANS: begin_fit(f); break;
    default: break;
    }
    f->stage++;
}

xp_status xp_book_fitter_step(struct xp_book_fitter *f)
{
    static int (*const work[])(struct xp_book_fitter *) = { [PICK] = pick, [MEAN] = take_mean, [HASH] = hash_rows, [GROUP] = group,
                                                           [ASSIGN] = assign, [MEANS] = take_means, [FIT] = fit_step,
                                                           [WRITE] = write_book, [READ] = read_book, [WEIGH] = weigh,
                                                           [AGAIN] = assign_again };

    if (f->stage == IDLE)
        return f->ready ? XP_OK : XP_ERR_STATE;
    if (work[f->stage](f))
        return XP_IN_PROGRESS;
    if (f->stage == PICK && f->picked < LEAST_ROWS) {
        f->stage = IDLE;
        return XP_ERR_STATE;
    }
    next_stage(f);
    return f->stage == IDLE ? XP_OK : XP_IN_PROGRESS;
}

int xp_book_fitter_busy(const struct xp_book_fitter *f)
{
    return f->stage != IDLE;
}

/* ---- what was fitted ------------------------------------------------------------------------------------------------ */

const struct xp_book_writer *xp_book_fitter_current(const struct xp_book_fitter *f)
{
    return f->current < 0 ? NULL : &f->done[f->current];
}

const struct xp_book_writer *xp_book_fitter_candidate(const struct xp_book_fitter *f)
{
    return f->ready ? &f->done[f->current == 0] : NULL;
}

void xp_book_fitter_decide(struct xp_book_fitter *f, int adopt)
{
    if (f->ready && adopt)
        f->current = f->current == 0;
    f->ready = 0;
}
