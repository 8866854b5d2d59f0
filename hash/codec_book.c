/*
 * codec_book.c - rows coded with a book: entropy-coded residuals, each row within eps
 *
 * Payload (FORMAT.md, "Codec book"): kind u8; a book fitted on these very rows, or the version of one that both ends keep;
 * the rows. The seed of the frame is the key of their dither.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "hash/book_keep.h"
#include "hash/bytes.h"
#include "hash/coder_impl.h"

#define KIND_OWN 0  /* the book lies in the frame */
#define KIND_KEPT 1 /* a version follows */
#define KIND_DITHERED 2 /* added to these */
#define KEPT_HEAD 5

#define SAMPLE_ROWS 512
#define SAMPLE_FLOATS (1u << 20)
#define ASSIGN_BYTES ((size_t)512 << 10)
#define RANK_MAX_DIM 2048 /* beyond, finding directions costs more time than the rows take */

struct xp_book_state {
    struct xp_book_room room;
    uint32_t *of;             /* for as many rows as the room: centroids */
    size_t cap_rows;
    struct xp_book own, read; /* as fitted; as the receiver reads it */
    uint32_t order[SAMPLE_ROWS];
    size_t sample_rows;
    float *work;              /* of the fit; NULL for coders that fit none */
};

static unsigned max_rank(const struct xp_coder *c)
{
    return c->desc.dim <= RANK_MAX_DIM && c->desc.dim >= 64 ? 32 : 0;
}

void xp_book_state_destroy(struct xp_book_state *s)
{
    if (!s)
        return;
    xp_book_room_fini(&s->room);
    xp_book_fini(&s->own);
    xp_book_fini(&s->read);
    free(s->of);
    free(s->work);
    free(s);
}

static xp_status prepare_fit(struct xp_coder *c, struct xp_book_state *s)
{
    const size_t rows = SAMPLE_FLOATS / c->desc.dim < SAMPLE_ROWS ? SAMPLE_FLOATS / c->desc.dim : SAMPLE_ROWS;
    xp_status status;

    if (s->work)
        return XP_OK;
    s->sample_rows = rows < 64 ? 64 : rows;
    status = xp_book_init(&s->own, c->desc.dim, 0, max_rank(c));
    if (status)
        return status;
    s->work = malloc(4 * xp_book_fit_floats(c->desc.dim, s->sample_rows, max_rank(c)));
    return s->work ? XP_OK : XP_ERR_NO_MEMORY;
}

xp_status xp_book_state_create(struct xp_coder *c, int fits)
{
    struct xp_book_state *s = c->book;
    xp_status status = XP_OK;

    if (!s) {
        s = calloc(1, sizeof(*s));
        if (!s)
            return XP_ERR_NO_MEMORY;
        status = xp_book_room_init(&s->room, &c->kernels, c->desc.dtype, c->desc.dim);
        if (!status)
            status = xp_book_init(&s->read, c->desc.dim, 0, c->desc.dim <= XP_BOOK_RANK_DIM ? XP_BOOK_MAX_RANK : 0);
        if (status) {
            xp_book_state_destroy(s);
            return status;
        }
        c->book = s;
    }
    return fits ? prepare_fit(c, s) : XP_OK;
}

xp_status xp_book_reserve(struct xp_coder *c, size_t rows)
{
    struct xp_book_state *s = c->book;
    xp_status status = xp_book_room_reserve(&s->room, rows);

    if (status || rows <= s->cap_rows)
        return status;
    free(s->of);
    s->cap_rows = 0;
    s->of = malloc(rows * sizeof(*s->of));
    if (!s->of)
        return XP_ERR_NO_MEMORY;
    s->cap_rows = rows;
    return XP_OK;
}

/* Directions that pay for themselves over so many rows, measured on activations. */
static unsigned rank_for(const struct xp_coder *c, size_t rows)
{
    const unsigned wanted = rows >= 3072 ? 32 : rows >= 1024 ? 16 : 0;

    return wanted < max_rank(c) ? wanted : max_rank(c);
}

/* Rows that are enough to fit on: mean and spread need fewer than directions do. */
static size_t rows_for_fit(const struct xp_coder *c, size_t rows)
{
    const size_t enough = rank_for(c, rows) ? SAMPLE_ROWS : 64 + rows / 16;

    return enough < c->book->sample_rows ? enough : c->book->sample_rows;
}

/* Fits a book on the rows, writes it at out, and reads it back into s->read. Returns its bytes; 0: no room. */
static size_t fit_own(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap)
{
    struct xp_book_state *s = c->book;
    const struct xp_book_sample sample = { in, s->order, xp_book_pick(&c->kernels, in, s->order, rows_for_fit(c, in->rows)) };
    size_t bytes, used;

    if (sample.count >= 8)
        xp_book_fit(&s->own, &c->kernels, &sample, sample.count >= 64 ? rank_for(c, in->rows) : 0, in->rows, s->work);
    else
        xp_book_clear(&s->own);
    bytes = xp_book_bytes(&s->own);
    if (bytes > cap)
        return 0;
    xp_book_write(&s->own, out);
    return xp_book_read(&s->read, out, bytes, &used, &c->why) == XP_OK ? bytes : 0;
}

/* Of the frame at hand. */
static struct xp_book_dither dither_of(const struct xp_coder *c, int on)
{
    return (struct xp_book_dither){ .on = on, .key = c->frame_seed };
}

/* Rows with a book of their own. */
static xp_status encode_own(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap, size_t *len, xp_codec_stats *st)
{
    const struct xp_book_promise promise = { c->desc.eps, c->desc.eps_ref != XP_EPS_REF_ROW };
    const struct xp_book_dither dither = dither_of(c, c->desc.dither);
    size_t at = 1, bytes;
    xp_status s = xp_book_state_create(c, 1);

    if (s)
        return s;
    out[0] = KIND_OWN | (dither.on ? KIND_DITHERED : 0);
    bytes = fit_own(c, in, out + at, cap - at);
    if (!bytes)
        return XP_ERR_UNSUPPORTED;
    at += bytes;
    s = xp_book_encode_rows(&c->book->room, &c->book->read, &promise, &dither, in, NULL, out + at, cap - at, &bytes, st);
    *len = at + bytes;
    return s;
}

/* Rows whose centroids are looked for at a time: they are to stay in the second-level cache until they are coded. */
static size_t rows_at_once(const struct xp_coder *c, size_t rows)
{
    const size_t batch = c->book->room.batch, fit = ASSIGN_BYTES / c->book->room.row_bytes / batch * batch;

    return c->writer->book.centroids == 0 ? rows : fit ? fit : batch;
}

static struct xp_rows part_of(const struct xp_rows *in, size_t first, size_t rows)
{
    struct xp_rows part = *in;

    part.rows = rows;
    if (in->index)
        part.index = in->index + first;
    else
        part.data = xp_row(in, first);
    return part;
}

/* Rows with a book that the receiver keeps. */
static xp_status encode_kept(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap, size_t *len, xp_codec_stats *st)
{
    const struct xp_book_promise promise = { c->desc.eps, c->desc.eps_ref != XP_EPS_REF_ROW };
    const struct xp_book_dither dither = dither_of(c, c->desc.dither);
    const struct xp_book *b = &c->writer->book;
    const size_t most = rows_at_once(c, in->rows);
    struct xp_book_encoder e = { .m = &c->book->room, .b = b, .p = &promise, .in = in, .centroid = c->book->of, .ahead = most, .st = st };
    size_t bytes;
    xp_status s;

    if (cap < KEPT_HEAD)
        return XP_ERR_UNSUPPORTED;
    out[0] = KIND_KEPT | (dither.on ? KIND_DITHERED : 0);
    xp_put32(out + 1, b->version);
    e.out = out + KEPT_HEAD;
    e.cap = cap - KEPT_HEAD;
    s = xp_book_encode_begin(&e, &dither);
    for (size_t r = 0; r < in->rows && !s; r += most) {
        const struct xp_rows part = part_of(in, r, in->rows - r < most ? in->rows - r : most);

        if (b->centroids)
            xp_book_assign(c->writer, &part, c->book->room.rest[0], c->book->of + r);
        s = xp_book_encode_some(&e, part.rows);
    }
    if (s)
        return s;
    xp_book_encode_end(&e, &bytes);
    *len = KEPT_HEAD + bytes;
    return XP_OK;
}

static xp_status book_encode(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap, size_t *len,
                             xp_codec_stats *st)
{
    xp_status s = xp_book_state_create(c, 0);

    if (!s)
        s = xp_book_reserve(c, in->rows);
    if (s)
        return s;
    if (cap < 1)
        return XP_ERR_UNSUPPORTED;
    s = c->writer ? encode_kept(c, in, out, cap, len, st) : encode_own(c, in, out, cap, len, st);
    if (s == XP_OK)
        st->err_mean /= (double)in->rows;
    return s;
}

static xp_status book_decode(struct xp_coder *c, const uint8_t *in, size_t len, size_t rows, void *out)
{
    const struct xp_book *b;
    struct xp_book_dither dither;
    xp_status s = xp_book_state_create(c, 0);
    size_t used;

    if (s)
        return s;
    if (len < 1 || in[0] > (KIND_KEPT | KIND_DITHERED))
        return xp_corrupt(c, "book: unknown kind");
    dither = dither_of(c, in[0] & KIND_DITHERED);
    if (in[0] & KIND_KEPT) {
        if (len < KEPT_HEAD)
            return xp_corrupt(c, "book: shorter than its version");
        b = c->shelf ? xp_book_shelf_find(c->shelf, xp_get32(in + 1)) : NULL;
        if (!b)
            return xp_corrupt(c, "book: coded with a book that is not here");
        return xp_book_decode_rows(&c->book->room, b, &dither, in + KEPT_HEAD, len - KEPT_HEAD, rows, out, &c->why);
    }
    s = xp_book_read(&c->book->read, in + 1, len - 1, &used, &c->why);
    if (s)
        return s;
    return xp_book_decode_rows(&c->book->room, &c->book->read, &dither, in + 1 + used, len - 1 - used, rows, out, &c->why);
}

void xp_coder_write_with(struct xp_coder *c, const struct xp_book_writer *w)
{
    c->writer = w;
}

void xp_coder_read_with(struct xp_coder *c, const struct xp_book_shelf *s)
{
    c->shelf = s;
}

const struct xp_codec_ops xp_codec_book = {
    .size = sizeof(struct xp_codec_ops),
    .id = XP_CODEC_BOOK,
    .name = "book",
    .about = "mean, directions and spread per channel; one step a row; entropy coded",
    .caps = XP_CAP_BOUNDED,
    .encode = book_encode,
    .decode = book_decode,
};
