/*
 * book_keep.c - books that are kept: the reservoir, fitting in stages, the receiver's shelf
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/book_keep.h"
#include "hash/bytes.h"
#include "hash/frame.h"
#include "hash/half.h"

#include <stdlib.h>
#include <string.h>

#define ROWS 4096
#define LEAST_ROWS 64
#define MOST_CENTROIDS 256
#define SKETCH 64
#define LLOYD_ROUNDS 3
#define SPREAD_ROWS 1024 /* of the reservoir, for spread and directions */
#define CHECK 8          /* bytes of checksum behind a book */

enum stage { IDLE, HASH, LLOYD, MEANS, SPREAD };

struct xp_book_fitter {
    const struct xp_kernels *k;
    struct xp_book_fit_desc d;
    size_t row_bytes, bytes;
    uint8_t *reservoir; /* [d.rows] rows */
    size_t held;        /* rows in it */
    uint64_t shown;     /* rows ever shown */

    enum stage stage;
    unsigned round;
    uint32_t version;
    struct xp_hasher hasher;
    struct xp_clusters clusters;
    uint32_t *ids, *of, *order;
    int16_t *sketch;    /* [d.rows][SKETCH] */
    float *centroid;    /* [d.centroids][dim] by channel */
    float *mean, *work;
    struct xp_book fitted, own; /* being fitted; as a reader has it */
    int16_t *own_sketch;/* [centroids][SKETCH] of the finished book */
    struct xp_hasher own_hasher;
    uint8_t *book;      /* its bytes */
    size_t book_len;
};

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

static xp_status allocate(struct xp_book_fitter *f)
{
    const struct xp_book_fit_desc *d = &f->d;
    const struct xp_hasher_desc h = { .dim = d->dim, .sketch = SKETCH, .seed = d->seed };
    int failed = 0;
    xp_status s;

    f->reservoir = take(f, d->rows, f->row_bytes, &failed);
    f->ids = take(f, d->rows, 4, &failed);
    f->of = take(f, d->rows, 4, &failed);
    f->order = take(f, d->rows, 4, &failed);
    f->sketch = take(f, d->rows * SKETCH, 2, &failed);
    f->centroid = take(f, d->centroids * d->dim, 4, &failed);
    f->own_sketch = take(f, (size_t)d->centroids * SKETCH, 2, &failed);
    f->mean = take(f, d->dim, 4, &failed);
    f->work = take(f, xp_book_fit_floats(d->dim, d->rows < SPREAD_ROWS ? d->rows : SPREAD_ROWS, d->rank), 4, &failed);
    f->book = take(f, 64 + 4 + 3 * d->dim + ((size_t)d->centroids + d->rank) * (d->dim + 4) + CHECK, 1, &failed);
    if (failed)
        return XP_ERR_NO_MEMORY;
    s = xp_hasher_init(&f->hasher, &h);
    if (!s)
        s = xp_hasher_init(&f->own_hasher, &h);
    if (!s)
        s = xp_clusters_init(&f->clusters, d->rows, SKETCH);
    if (!s)
        s = xp_book_init(&f->fitted, d->dim, d->centroids, d->rank);
    if (!s)
        s = xp_book_init(&f->own, d->dim, d->centroids, d->rank);
    return s;
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
    f->d.rows = d->rows ? d->rows : ROWS;
    f->d.centroids = d->centroids ? d->centroids : f->d.rows / 16 < MOST_CENTROIDS ? (unsigned)(f->d.rows / 16) : MOST_CENTROIDS;
    f->row_bytes = d->dim * xp_dtype_size(d->dtype);
    f->bytes = sizeof(*f);
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
    free(f->own_sketch);
    free(f->mean);
    free(f->work);
    free(f->book);
    xp_hasher_fini(&f->hasher);
    xp_hasher_fini(&f->own_hasher);
    xp_clusters_fini(&f->clusters);
    xp_book_fini(&f->fitted);
    xp_book_fini(&f->own);
    free(f);
}

size_t xp_book_fitter_bytes(const struct xp_book_fitter *f)
{
    return f->bytes;
}

size_t xp_book_fitter_rows(const struct xp_book_fitter *f)
{
    return f->held;
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
    if (f->stage != IDLE || in->dim != f->d.dim || in->dtype != f->d.dtype)
        return;
    for (size_t r = 0; r < in->rows && most > 0; r++) {
        const uint64_t at = f->held < f->d.rows ? f->held : mix(f->d.seed ^ f->shown) % (f->shown + 1);

        f->shown++;
        if (at >= f->d.rows)
            continue;
        memcpy(f->reservoir + at * f->row_bytes, xp_row(in, r), f->row_bytes);
        f->held += at == f->held;
        most--;
    }
}

static struct xp_rows reservoir_rows(const struct xp_book_fitter *f, const uint32_t *index, size_t rows)
{
    return (struct xp_rows){ .data = f->reservoir, .index = index, .rows = rows, .dim = f->d.dim, .dtype = f->d.dtype };
}

/* ---- the stages ---------------------------------------------------------------------------------------------------- */

xp_status xp_book_fitter_begin(struct xp_book_fitter *f, uint32_t version)
{
    if (f->stage != IDLE || f->held < LEAST_ROWS)
        return XP_ERR_STATE;
    f->version = version;
    f->round = 0;
    f->stage = HASH;
    return XP_OK;
}

/* Buckets of the rows around their mean. */
static size_t hash_rows(struct xp_book_fitter *f)
{
    const struct xp_rows all = reservoir_rows(f, NULL, f->held);
    const size_t n = xp_book_pick(f->k, &all, f->order, f->d.rows);
    const struct xp_rows fit = reservoir_rows(f, f->order, n);
    const uint32_t start[2] = { 0, (uint32_t)n };

    if (n < LEAST_ROWS)
        return 0;
    f->k->centroid(&all, f->order, start, 1, f->mean);
    xp_hasher_set_mean(&f->hasher, f->mean);
    f->k->hash(&f->hasher, &fit, f->ids, f->sketch);
    xp_clusters_group(&f->clusters, f->ids, n);
    return n;
}

/* Means of the clusters, small ones drawn to the mean row. */
static void take_means(struct xp_book_fitter *f)
{
    const struct xp_clusters *c = &f->clusters;
    const struct xp_rows fit = reservoir_rows(f, f->order, c->rows);

    f->k->centroid(&fit, c->order, c->start, c->count, f->centroid);
    for (size_t j = 0; j < c->count; j++) {
        const float n = (float)(c->start[j + 1] - c->start[j]), trust = n / (n + 1);

        for (size_t i = 0; i < f->d.dim; i++)
            f->centroid[j * f->d.dim + i] = f->mean[i] + trust * (f->centroid[j * f->d.dim + i] - f->mean[i]);
    }
}

/* Spread and directions of what is left of some of the rows. */
static void take_spread(struct xp_book_fitter *f)
{
    const struct xp_rows all = reservoir_rows(f, NULL, f->held);
    const size_t rows = f->clusters.rows, n = rows < SPREAD_ROWS ? rows : SPREAD_ROWS;
    struct xp_book_sample s = { .in = &all, .order = f->ids, .count = n, .of = f->of, .centroid = f->centroid,
                                .centroids = (unsigned)f->clusters.count };

    for (size_t i = 0; i < n; i++) {
        const size_t r = i * rows / n;
        f->ids[i] = f->order[r];
        f->of[i] = f->clusters.of[r];
    }
    xp_book_fit(&f->fitted, f->k, &s, f->d.rank, SIZE_MAX >> 32, f->work);
    f->fitted.version = f->version;
}

/* Writes the book and reads it as a receiver will. */
static void finish(struct xp_book_fitter *f)
{
    const size_t len = xp_book_bytes(&f->fitted);
    const char *why;
    size_t used;

    xp_book_write(&f->fitted, f->book);
    xp_put64(f->book + len, xp_checksum(f->book, len));
    f->book_len = len + CHECK;
    xp_book_read(&f->own, f->book, len, &used, &why);
    memcpy(f->own_sketch, f->clusters.centroids, f->clusters.count * f->hasher.sketch * sizeof(int16_t));
    xp_hasher_set_mean(&f->own_hasher, f->mean);
}

xp_status xp_book_fitter_step(struct xp_book_fitter *f)
{
    switch (f->stage) {
    case IDLE: return f->book_len ? XP_OK : XP_ERR_STATE;
    case HASH:
        f->stage = hash_rows(f) ? LLOYD : IDLE;
        return f->stage == IDLE ? XP_ERR_STATE : XP_IN_PROGRESS;
    case LLOYD:
        xp_clusters_refine(&f->clusters, f->k, f->sketch, f->hasher.sketch, 1, f->d.centroids);
        f->stage = ++f->round == LLOYD_ROUNDS ? MEANS : LLOYD;
        return XP_IN_PROGRESS;
    case MEANS:
        take_means(f);
        f->stage = SPREAD;
        return XP_IN_PROGRESS;
    case SPREAD:
        take_spread(f);
        finish(f);
        f->stage = IDLE;
    }
    return XP_OK;
}

const uint8_t *xp_book_fitter_book(const struct xp_book_fitter *f, size_t *len)
{
    *len = f->book_len;
    return f->book_len ? f->book : NULL;
}

const struct xp_book *xp_book_fitter_own(const struct xp_book_fitter *f)
{
    return f->book_len ? &f->own : NULL;
}

void xp_book_fitter_assign(struct xp_book_fitter *f, const struct xp_rows *in, uint32_t *of)
{
    /* In pieces that the scratch of fitting has room for; a fit under way keeps its sketches. */
    enum { PIECE = 64 };
    uint32_t ids[PIECE], index[PIECE];
    int16_t sketch[PIECE * SKETCH];

    for (size_t r = 0; r < in->rows; r += PIECE) {
        struct xp_rows piece = *in;

        piece.rows = in->rows - r < PIECE ? in->rows - r : PIECE;
        for (size_t i = 0; i < piece.rows; i++)
            index[i] = in->index ? in->index[r + i] : (uint32_t)(r + i);
        piece.index = index;
        f->k->hash(&f->own_hasher, &piece, ids, sketch);
        f->k->assign(sketch, piece.rows, f->own_hasher.sketch, f->own_sketch, f->own.centroids, of + r);
    }
}

/* ---- the shelf ------------------------------------------------------------------------------------------------------ */

xp_status xp_book_shelf_init(struct xp_book_shelf *s, size_t dim, unsigned max_centroids)
{
    const unsigned rank = dim <= XP_BOOK_RANK_DIM ? XP_BOOK_MAX_RANK : 0;
    xp_status status;

    memset(s, 0, sizeof(*s));
    status = xp_book_init(&s->book[0], dim, max_centroids, rank);
    if (!status)
        status = xp_book_init(&s->book[1], dim, max_centroids, rank);
    if (status)
        xp_book_shelf_fini(s);
    return status;
}

void xp_book_shelf_fini(struct xp_book_shelf *s)
{
    xp_book_fini(&s->book[0]);
    xp_book_fini(&s->book[1]);
    memset(s, 0, sizeof(*s));
}

xp_status xp_book_shelf_put(struct xp_book_shelf *s, const uint8_t *in, size_t len, const char **why)
{
    const int place = !s->last;
    size_t used;
    xp_status status;

    *why = "book: its checksum does not match";
    if (len < CHECK || xp_get64(in + len - CHECK) != xp_checksum(in, len - CHECK))
        return XP_ERR_CORRUPT;
    s->have[place] = 0;
    status = xp_book_read(&s->book[place], in, len - CHECK, &used, why);
    if (status)
        return status;
    *why = "book: bytes left over";
    if (used != len - CHECK)
        return XP_ERR_CORRUPT;
    s->have[place] = 1;
    s->last = place;
    *why = "";
    return XP_OK;
}

const struct xp_book *xp_book_shelf_find(const struct xp_book_shelf *s, uint32_t version)
{
    for (int i = 0; i < 2; i++)
        if (s->have[i] && s->book[i].version == version)
            return &s->book[i];
    return NULL;
}
