/*
 * book_encode.c - rows to columns of small numbers, then the rows' streams
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bits.h"
#include "hash/book_rows_impl.h"
#include "hash/bytes.h"

#include <string.h>

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

/* The row that is `ahead` of row r; NULL: none. */
static const void *row_ahead(const struct xp_book_encoder *e, size_t r)
{
    return e->ahead && e->ahead < e->in->rows - r ? xp_row(e->in, r + e->ahead) : NULL;
}

/* Codes those of the next n rows that have a step. */
static void encode_found(const struct xp_book_encoder *e, const struct xp_book_found *found, size_t n, struct xp_rans_source *source)
{
    const struct xp_book_room *m = e->m;
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        if (found[i].coded)
            source[count++] = (struct xp_rans_source){ .q = m->q[i], .classes = m->classes[found[i].offset], .work = m->work[i],
                                                       .out = m->bytes[i], .cap = m->row_bytes - 1, .read_next = row_ahead(e, e->next + i) };
    m->k->rans_encode(source, count, xp_book_symbols(e->b), xp_rans_lanes(xp_book_symbols(e->b)));
}

static int all_zero(const uint8_t *row, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (row[i])
            return 0;
    return 1;
}

static void count_error(xp_codec_stats *st, const struct xp_book_found *f)
{
    st->err_mean += f->error;
    st->err_max = f->error > st->err_max ? f->error : st->err_max;
    st->err_ref_max = f->ref_error > st->err_ref_max ? f->ref_error : st->err_ref_max;
}

/* A row as it is. Returns its bytes, SIZE_MAX: no room. */
static size_t put_plain(const struct xp_book_encoder *e, size_t r, uint8_t *out, size_t room)
{
    const void *row = xp_row(e->in, r);
    const size_t bytes = e->m->row_bytes;
    uint32_t *const *column = e->m->column;

    column[XP_BOOK_STEP][r] = column[XP_BOOK_CENTROID][r] = column[XP_BOOK_LENGTH][r] = 0;
    column[XP_BOOK_OFFSET][r] = all_zero(row, bytes) ? XP_BOOK_KIND_ZERO : XP_BOOK_KIND_RAW;
    if (column[XP_BOOK_OFFSET][r] == XP_BOOK_KIND_ZERO)
        return 0;
    e->st->rows_raw++;
    if (room < bytes)
        return SIZE_MAX;
    memcpy(out, row, bytes);
    return bytes;
}

/* Puts row r at out and its numbers in the columns, step 0 standing for a row without one. source: the row coded, where it has a step.
 * Returns the bytes, SIZE_MAX: no room. */
static size_t put_row(const struct xp_book_encoder *e, size_t r, const struct xp_book_found *f, const struct xp_rans_source *source,
                      uint8_t *out, size_t room)
{
    uint32_t *const *column = e->m->column;

    if (!f->coded || !source->len)
        return put_plain(e, r, out, room);
    if (source->len > room)
        return SIZE_MAX;
    memcpy(out, source->out, source->len);
    column[XP_BOOK_STEP][r] = (uint32_t)(f->step + XP_BOOK_LARGEST_STEP + 1);
    column[XP_BOOK_OFFSET][r] = (uint32_t)f->offset;
    column[XP_BOOK_CENTROID][r] = e->b->centroids ? e->centroid[r] : 0;
    column[XP_BOOK_LENGTH][r] = (uint32_t)source->len;
    count_error(e->st, f);
    return source->len;
}

/* ---- columns: offset by their least value, 0 for rows without a step --------------------------------------------- */

static void range(const uint32_t *v, const uint32_t *step, size_t rows, uint32_t *least, uint32_t *most)
{
    *least = UINT32_MAX;
    *most = 0;
    for (size_t r = 0; r < rows; r++) {
        if (!step[r])
            continue;
        *least = v[r] < *least ? v[r] : *least;
        *most = v[r] > *most ? v[r] : *most;
    }
    if (*least > *most)
        *least = *most = 0;
}

static struct xp_book_columns shrink_columns(struct xp_book_room *m, const struct xp_book *b, size_t rows)
{
    uint32_t least[4], most[4];
    struct xp_book_columns c;

    for (int i = 0; i < 4; i++)
        range(m->column[i], m->column[XP_BOOK_STEP], rows, &least[i], &most[i]);
    if (most[XP_BOOK_OFFSET] == least[XP_BOOK_OFFSET])
        most[XP_BOOK_OFFSET]++; /* the kind of a row without a step is 0 or 1 */
    for (size_t r = 0; r < rows; r++) {
        if (!m->column[XP_BOOK_STEP][r])
            continue;
        m->column[XP_BOOK_OFFSET][r] -= least[XP_BOOK_OFFSET];
        m->column[XP_BOOK_LENGTH][r] -= least[XP_BOOK_LENGTH];
        m->column[XP_BOOK_STEP][r] -= least[XP_BOOK_STEP] - 1;
    }
    c.step_least = (int)least[XP_BOOK_STEP] - XP_BOOK_LARGEST_STEP - 1;
    c.offset_least = (int)least[XP_BOOK_OFFSET] - XP_BOOK_LARGEST_OFFSET;
    c.length_least = least[XP_BOOK_LENGTH];
    c.width[XP_BOOK_STEP] = xp_bit_width(most[XP_BOOK_STEP] - least[XP_BOOK_STEP] + 2);
    c.width[XP_BOOK_OFFSET] = xp_bit_width(most[XP_BOOK_OFFSET] - least[XP_BOOK_OFFSET] + 1);
    c.width[XP_BOOK_LENGTH] = xp_bit_width((size_t)most[XP_BOOK_LENGTH] - least[XP_BOOK_LENGTH] + 1);
    c.width[XP_BOOK_CENTROID] = xp_bit_width(b->centroids);
    return c;
}

static size_t column_bytes(const struct xp_book_columns *c, size_t rows)
{
    size_t bytes = XP_BOOK_COLUMNS_HEAD;

    for (int i = 0; i < 4; i++)
        bytes += xp_packed_bytes(rows, c->width[i]);
    return bytes;
}

static void write_columns(const struct xp_book_room *m, const struct xp_book_columns *c, size_t rows, uint8_t *out)
{
    xp_put16(out, (uint16_t)c->step_least);
    out[2] = (uint8_t)c->width[XP_BOOK_STEP];
    out[3] = (uint8_t)c->offset_least;
    out[4] = (uint8_t)c->width[XP_BOOK_OFFSET];
    out[5] = (uint8_t)c->width[XP_BOOK_LENGTH];
    xp_put32(out + 6, c->length_least);
    out += XP_BOOK_COLUMNS_HEAD;
    for (int i = 0; i < 4; i++) {
        xp_pack_bits(m->column[i], rows, c->width[i], out);
        out += xp_packed_bytes(rows, c->width[i]);
    }
}

/* ---- a call ---------------------------------------------------------------------------------------------------------- */

xp_status xp_book_encode_begin(struct xp_book_encoder *e, const struct xp_book_dither *d)
{
    const struct xp_book_columns last = { .width = { e->m->width[0], e->m->width[1], e->m->width[2], e->m->width[3] } };
    const size_t most = XP_BOOK_COLUMNS_HEAD + 4 + e->in->rows * 7; /* columns are no wider than this */

    if (e->cap < most || e->in->rows > e->m->cap_rows)
        return XP_ERR_UNSUPPORTED;
    xp_book_begin(e->m, d);
    e->next = 0;
    e->room = e->cap - most;
    e->first = e->at = column_bytes(&last, e->in->rows);
    if (e->first > most)
        e->first = e->at = most;
    return XP_OK;
}

/* Rows of one batch. */
static xp_status encode_batch(struct xp_book_encoder *e, size_t n)
{
    struct xp_rans_source source[XP_BOOK_BATCH];
    struct xp_book_found found[XP_BOOK_BATCH];
    size_t coded = 0;

    xp_book_search(e->m, e->b, e->p, e->in, e->b->centroids ? e->centroid : NULL, e->next, n, found);
    encode_found(e, found, n, source);
    for (size_t i = 0; i < n; i++) {
        const size_t bytes = put_row(e, e->next + i, &found[i], &source[coded], e->out + e->at, e->room);

        if (bytes == SIZE_MAX)
            return XP_ERR_UNSUPPORTED;
        e->at += bytes;
        e->room -= bytes;
        coded += (size_t)found[i].coded;
    }
    e->next += n;
    return XP_OK;
}

xp_status xp_book_encode_some(struct xp_book_encoder *e, size_t rows)
{
    xp_status s = XP_OK;

    for (size_t n; rows && !s; rows -= n) {
        n = rows < e->m->batch ? rows : e->m->batch;
        s = encode_batch(e, n);
    }
    return s;
}

void xp_book_encode_end(struct xp_book_encoder *e, size_t *len)
{
    const struct xp_book_columns c = shrink_columns(e->m, e->b, e->in->rows);
    const size_t head = column_bytes(&c, e->in->rows);

    if (head != e->first)
        memmove(e->out + head, e->out + e->first, e->at - e->first);
    write_columns(e->m, &c, e->in->rows, e->out);
    memcpy(e->m->width, c.width, sizeof(c.width));
    *len = head + e->at - e->first;
}

xp_status xp_book_encode_rows(struct xp_book_room *m, const struct xp_book *b, const struct xp_book_promise *p,
                              const struct xp_book_dither *d, const struct xp_rows *in, const uint32_t *centroid, uint8_t *out,
                              size_t cap, size_t *len, xp_codec_stats *st)
{
    struct xp_book_encoder e = { .m = m, .b = b, .p = p, .in = in, .centroid = centroid, .out = out, .cap = cap, .st = st };
    xp_status s = xp_book_encode_begin(&e, d);

    if (!s)
        s = xp_book_encode_some(&e, in->rows);
    if (!s)
        xp_book_encode_end(&e, len);
    return s;
}
