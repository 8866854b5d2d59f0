/*
 * coder.c - one shape of rows: its memory, and frames made and read through the codec table
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hash/coded_rows.h"
#include "hash/coder_impl.h"
#include "hash/qblock.h"
#include "hash/frame.h"
#include "hash/lsh_scratch.h"
#include "hash/signs.h"

/* ---- memory -------------------------------------------------------------------------------------------------- */

/* Replaces *p by a zeroed, 64-byte aligned block. */
static int renew(void *p, size_t count, size_t size)
{
    void **where = p;
    size_t bytes;

    free(*where);
    *where = NULL;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - 128)
        return -1;
    bytes = (bytes + 127) / 64 * 64;
    *where = aligned_alloc(64, bytes);
    if (!*where)
        return -1;
    memset(*where, 0, bytes);
    return 0;
}

static size_t next_power_of_two(size_t n)
{
    size_t p = 1;

    while (p < n)
        p *= 2;
    return p;
}

/* Kernels of rotated rows work on groups of up to 16 blocks. */
static int renew_rotated(struct xp_rotated *r, size_t dim)
{
    const size_t blocks = (xp_qblocks(dim) + 15) / 16 * 16;

    return renew(&r->h, blocks * XP_QBLOCK, sizeof(*r->h)) || renew(&r->scale, blocks, sizeof(*r->scale)) ||
           renew(&r->energy, blocks, sizeof(*r->energy)) || renew(&r->largest, blocks, sizeof(*r->largest));
}

static int may_use(const struct xp_coder *c, unsigned id)
{
    if (!c->desc.choice.automatic)
        return c->desc.choice.id == id;
    if (id == XP_CODEC_PACK)
        return c->desc.mode == XP_MODE_EXACT && c->desc.dtype != XP_BYTE;
    return c->desc.mode == XP_MODE_BOUNDED || id == XP_CODEC_EXACT;
}

xp_status xp_coder_reserve(struct xp_coder *c, size_t rows)
{
    size_t words;

    if (rows <= c->cap_rows)
        return XP_OK;
    c->why = "more rows than the coder was made for";
    if (rows > UINT32_MAX / 4 || (c->desc.max_rows && rows > c->desc.max_rows))
        return XP_ERR_INVALID_ARG;
    c->why = "out of memory";
    c->cap_rows = 0;
    if (may_use(c, XP_CODEC_EXACT) || may_use(c, XP_CODEC_PACK) || may_use(c, XP_CODEC_LSH)) {
        words = 2 * next_power_of_two(2 * rows);
        if (renew(&c->first, rows, 4) || renew(&c->map, rows, 4) || renew(&c->work, words, 4))
            return XP_ERR_NO_MEMORY;
    }
    if (c->lsh && xp_lsh_reserve(c, rows))
        return XP_ERR_NO_MEMORY;
    if (c->book && xp_book_reserve(c, rows))
        return XP_ERR_NO_MEMORY;
    if (may_use(c, XP_CODEC_PACK) && c->desc.dtype != XP_BYTE && xp_pack_reserve(c, rows))
        return XP_ERR_NO_MEMORY;
    c->cap_rows = rows;
    c->why = "";
    return XP_OK;
}

static xp_status allocate(struct xp_coder *c)
{
    size_t pad = XP_ROW_PAD(c->desc.dim);

    c->running = xp_running_create();
    if (!c->running)
        return XP_ERR_NO_MEMORY;
    if (renew(&c->mean, pad, 4) || renew(&c->residual, pad, 4) || renew(&c->apart, pad, 4) || renew(&c->base, pad, 4) ||
        renew(&c->decoded, c->row_bytes + 64, 1) || renew(&c->code, 2 * XP_CODE_ROOM(c->desc.dim), 1) ||
        renew(&c->quantiser.signs, xp_sign_words(pad), 4) || renew_rotated(&c->rotated, c->desc.dim))
        return XP_ERR_NO_MEMORY;
    if ((c->desc.choice.automatic || c->desc.choice.id == XP_CODEC_BOOK) &&
        (renew(&c->sample_index, XP_SAMPLE_MAX, 4) || renew(&c->sample, 2 * XP_SAMPLE_MAX, c->row_bytes)))
        return XP_ERR_NO_MEMORY;
    c->quantiser.dim = c->desc.dim;
    c->frame_seed = c->desc.seed;
    xp_signs_fill(c->desc.seed, XP_SIGNS_QUANTISE, c->desc.dim, c->quantiser.signs);
    if (may_use(c, XP_CODEC_LSH)) {
        xp_status s = xp_lsh_create(c);
        if (s)
            return s;
    }
    if (may_use(c, XP_CODEC_BOOK) && xp_book_state_create(c, !c->desc.choice.automatic))
        return XP_ERR_NO_MEMORY;
    return xp_coder_reserve(c, c->desc.max_rows);
}

void xp_coder_seed(struct xp_coder *c, uint64_t seed)
{
    if (seed == c->frame_seed)
        return;
    xp_signs_fill(seed, XP_SIGNS_QUANTISE, c->desc.dim, c->quantiser.signs);
    c->frame_seed = seed;
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

#define DEFAULT_SEED 0x63726f7373707265u /* "crosspre" */

static xp_status check(const struct xp_coder_desc *d)
{
    const struct xp_codec_ops *ops = xp_codec_by_id(d->choice.id);

    if (!xp_dtype_size(d->dtype) || !d->dim || d->dim > XP_FRAME_MAX_DIM)
        return XP_ERR_INVALID_ARG;
    if (d->mode != XP_MODE_RAW && d->mode != XP_MODE_EXACT && d->mode != XP_MODE_BOUNDED)
        return XP_ERR_UNSUPPORTED;
    if (!ops)
        return XP_ERR_UNSUPPORTED;
    if (d->mode != XP_MODE_BOUNDED)
        return ops->caps & XP_CAP_LOSSLESS ? XP_OK : XP_ERR_UNSUPPORTED;
    if (d->dtype == XP_BYTE)
        return XP_ERR_UNSUPPORTED;
    return isfinite(d->eps) && d->eps > 0 && d->eps < 1 ? XP_OK : XP_ERR_INVALID_ARG;
}

/* What "auto" is until select.c has seen rows. */
static unsigned first_codec(const struct xp_coder_desc *d)
{
    if (d->mode == XP_MODE_RAW)
        return XP_CODEC_RAW;
    if (!d->choice.automatic)
        return d->choice.id;
    return d->mode == XP_MODE_BOUNDED ? XP_CODEC_QUANT : XP_CODEC_EXACT;
}

xp_status xp_coder_create(struct xp_coder **out, const struct xp_coder_desc *d)
{
    struct xp_coder *c;
    xp_status s = check(d);

    if (s)
        return s;
    c = calloc(1, sizeof(*c));
    if (!c)
        return XP_ERR_NO_MEMORY;
    c->desc = *d;
    if (!c->desc.seed)
        c->desc.seed = DEFAULT_SEED;
    if (!c->desc.eps_ref)
        c->desc.eps_ref = XP_EPS_REF_MIN;
    c->row_bytes = d->dim * xp_dtype_size(d->dtype);
    c->why = "";
    c->ops = xp_codec_by_id(first_codec(d));
    c->select.slowdown = c->select.lsh_bias = 1;
    c->formats = d->choice.formats;
    xp_kernels_init(&c->kernels, d->isa);
    s = allocate(c);
    if (s) {
        xp_coder_destroy(c);
        return s;
    }
    *out = c;
    return XP_OK;
}

void xp_coder_destroy(struct xp_coder *c)
{
    if (!c)
        return;
    xp_running_destroy(c->running);
    xp_lsh_destroy(c);
    xp_book_state_destroy(c->book);
    xp_pack_state_destroy(c->pack);
    free(c->first);
    free(c->map);
    free(c->work);
    free(c->mean);
    free(c->residual);
    free(c->apart);
    free(c->base);
    free(c->decoded);
    free(c->code);
    free(c->sample_index);
    free(c->sample);
    free(c->quantiser.signs);
    free(c->rotated.h);
    free(c->rotated.scale);
    free(c->rotated.energy);
    free(c->rotated.largest);
    free(c);
}

const struct xp_codec_ops *xp_coder_codec(const struct xp_coder *c)
{
    return c->ops;
}

const char *xp_coder_why(const struct xp_coder *c)
{
    return c->why;
}

/* ---- frames -------------------------------------------------------------------------------------------------- */

size_t xp_frame_bound(xp_dtype t, size_t dim, size_t rows)
{
    return XP_FRAME_HEADER + rows * (dim * xp_dtype_size(t) + 4);
}

static void begin_stats(struct xp_codec_stats *st, const struct xp_coder *c, const struct xp_codec_ops *ops, size_t rows)
{
    memset(st, 0, sizeof(*st));
    st->size = sizeof(*st);
    st->rows = st->rows_unique = rows;
    st->raw_bytes = rows * c->row_bytes;
    strncpy(st->codec, ops->name, sizeof(st->codec) - 1);
    /* A fixed row format is known by its own name. */
    if (ops->id == c->desc.choice.id && !c->desc.choice.automatic)
        memcpy(st->codec, c->desc.choice.name, sizeof(st->codec));
}

static void add_stats(xp_codec_stats *sum, const xp_codec_stats *st)
{
    double before = (double)sum->rows, now = (double)st->rows, all = before + now;

    if (all > 0) {
        sum->err_mean = (sum->err_mean * before + st->err_mean * now) / all;
        sum->rho = (sum->rho * before + st->rho * now) / all;
    }
    sum->err_max = fmax(sum->err_max, st->err_max);
    sum->err_ref_max = fmax(sum->err_ref_max, st->err_ref_max);
    sum->rows += st->rows;
    sum->rows_raw += st->rows_raw;
    sum->rows_unique += st->rows_unique;
    sum->raw_bytes += st->raw_bytes;
    sum->frame_bytes += st->frame_bytes;
    sum->clusters += st->clusters;
    memcpy(sum->codec, st->codec, sizeof(sum->codec));
}

static double wall_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Tries `ops`; a payload as long as the rows themselves does not pay. (Row-wise it is kept all the same: sending other rows of the
 * frame raw would change them. A quantised row is shorter than the row, so the payload is within the bound, and where it is not all
 * rows were raw anyway.) */
static xp_status try_codec(struct xp_coder *c, const struct xp_codec_ops *ops, const struct xp_rows *in, uint8_t *frame,
                           size_t cap, size_t *payload)
{
    size_t room = ops == &xp_codec_raw || c->desc.row_wise ? cap : in->rows * c->row_bytes - 1;

    begin_stats(&c->stats, c, ops, in->rows);
    xp_running_drop(c->running);
    return ops->encode(c, in, frame + XP_FRAME_HEADER, room < cap ? room : cap, payload, &c->stats);
}

/* With dither frames have seeds of their own, made from what they hold: encoding twice gives the same bytes. */
static uint64_t seed_of(const struct xp_coder *c, const struct xp_rows *in)
{
    uint64_t seed = c->desc.seed;

    for (size_t r = 0; r < in->rows; r++)
        seed = (seed ^ xp_checksum(xp_row(in, r), c->row_bytes)) * 0x9e3779b97f4a7c15u;
    return seed;
}

/* The seed of a frame; of all frames of a store, as coded rows go from one to the next. */
static uint64_t choose_seed(const struct xp_coder *c, const struct xp_codec_ops *ops, const struct xp_rows *in)
{
    struct xp_coded_rows *s = ops == &xp_codec_quant ? c->store : NULL;

    if (!c->desc.dither)
        return c->desc.seed;
    if (!s)
        return seed_of(c, in);
    if (!s->seeded)
        s->seed = seed_of(c, &s->all);
    s->seeded = 1;
    return s->seed;
}

xp_status xp_coder_encode(struct xp_coder *c, const struct xp_rows *in, void *frame, size_t cap, size_t *len,
                          xp_codec_stats *stats)
{
    const struct xp_codec_ops *ops = in->rows ? c->ops : &xp_codec_raw;
    struct xp_frame_header h = { .version = XP_FRAME_VERSION, .dtype = (uint8_t)c->desc.dtype, .dim = (uint32_t)c->desc.dim,
                                 .rows = in->rows };
    size_t payload = 0;
    double start;
    xp_status s;

    c->why = "the rows are not of the coder's type and length";
    if (in->dtype != c->desc.dtype || in->dim != c->desc.dim)
        return XP_ERR_INVALID_ARG;
    c->why = "less room than xp_frame_bound";
    if (cap < xp_frame_bound(in->dtype, in->dim, in->rows))
        return XP_ERR_INVALID_ARG;
    s = xp_coder_reserve(c, in->rows);
    if (s)
        return s;
    c->why = "";
    start = wall_seconds();
    h.seed = choose_seed(c, ops, in);
    xp_coder_seed(c, h.seed);
    s = try_codec(c, ops, in, frame, cap - XP_FRAME_HEADER, &payload);
    if (s == XP_ERR_UNSUPPORTED && ops != &xp_codec_raw) {
        ops = &xp_codec_raw;
        s = try_codec(c, ops, in, frame, cap - XP_FRAME_HEADER, &payload);
    }
    if (s)
        return s;
    h.codec = ops->id;
    h.payload_bytes = payload;
    h.checksum = xp_running_finish(c->running, (uint8_t *)frame + XP_FRAME_HEADER, payload);
    xp_frame_write(frame, &h);
    *len = XP_FRAME_HEADER + payload;
    c->stats.frame_bytes = *len;
    xp_select_meter(c, ops->id, 0, in->rows, *len, wall_seconds() - start);
    if (stats)
        add_stats(stats, &c->stats);
    return XP_OK;
}

xp_status xp_coder_encode_once(struct xp_coder *c, const struct xp_rows *in, struct xp_coded_rows *store, const uint32_t *number, void *frame,
                               size_t cap, size_t *len, xp_codec_stats *stats)
{
    xp_status s;

    c->store = store;
    c->number = number;
    s = xp_coder_encode(c, in, frame, cap, len, stats);
    c->store = NULL;
    return s;
}

/* Checks all but the payload. */
static xp_status open_frame(struct xp_coder *c, const void *frame, size_t len, size_t rows, struct xp_frame_header *h, const struct xp_codec_ops **ops)
{
    xp_status s = xp_frame_read(frame, len, 1, h, &c->why);

    if (s)
        return s;
    if (h->dtype != c->desc.dtype || h->dim != c->desc.dim)
        return xp_corrupt(c, "the frame holds rows of another type or length");
    if (h->rows != rows)
        return xp_corrupt(c, "the frame holds another number of rows");
    *ops = xp_codec_by_id(h->codec);
    if (!*ops)
        return xp_corrupt(c, "a codec that this library does not know");
    if (c->desc.dtype == XP_BYTE && !((*ops)->caps & XP_CAP_LOSSLESS))
        return xp_corrupt(c, "a lossy codec for opaque bytes");
    c->why = "";
    return XP_OK;
}

xp_status xp_coder_decode_to(struct xp_coder *c, const void *frame, size_t len, void *out, const uint32_t *place, size_t rows, void *scratch)
{
    const struct xp_codec_ops *ops;
    struct xp_frame_header h;
    xp_status s = open_frame(c, frame, len, rows, &h, &ops);
    const int direct = !place || (s == XP_OK && ops == &xp_codec_quant);
    double start;

    if (s)
        return s;
    start = wall_seconds();
    xp_coder_seed(c, h.seed);
    c->place = direct ? place : NULL;
    s = ops->decode(c, (const uint8_t *)frame + XP_FRAME_HEADER, h.payload_bytes, rows, direct ? out : scratch);
    c->place = NULL;
    for (size_t r = 0; s == XP_OK && !direct && r < rows; r++)
        memcpy((char *)out + place[r] * c->row_bytes, (const char *)scratch + r * c->row_bytes, c->row_bytes);
    xp_select_meter(c, ops->id, 1, rows, len, wall_seconds() - start);
    return s;
}

xp_status xp_coder_decode(struct xp_coder *c, const void *frame, size_t len, void *out, size_t rows)
{
    return xp_coder_decode_to(c, frame, len, out, NULL, rows, NULL);
}
