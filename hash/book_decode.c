/*
 * book_decode.c - rows back from their columns and streams
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bits.h"
#include "hash/book_rows_impl.h"
#include "hash/bytes.h"

#include <stdlib.h>
#include <string.h>

struct row {
    size_t number;
    uint32_t step, offset, centroid, length;
};

struct source {
    struct xp_book_columns c;
    struct xp_bit_reader column[4];
    const uint8_t *at, *end;
};

static int open_source(struct source *s, const struct xp_book *b, const uint8_t *in, size_t len, size_t rows)
{
    size_t bytes = 0;

    if (len < XP_BOOK_COLUMNS_HEAD)
        return 0;
    s->c.step_least = (int16_t)xp_get16(in);
    s->c.offset_least = (int8_t)in[3];
    s->c.length_least = xp_get32(in + 6);
    s->c.width[XP_BOOK_STEP] = in[2];
    s->c.width[XP_BOOK_OFFSET] = in[4];
    s->c.width[XP_BOOK_LENGTH] = in[5];
    s->c.width[XP_BOOK_CENTROID] = xp_bit_width(b->centroids);
    if (in[2] > 14 || in[4] > 7 || in[5] > 32)
        return 0;
    s->at = in + XP_BOOK_COLUMNS_HEAD;
    s->end = in + len;
    for (int i = 0; i < 4; i++) {
        if (__builtin_mul_overflow(rows, s->c.width[i], &bytes) || bytes > SIZE_MAX - 7)
            return 0;
        bytes = xp_packed_bytes(rows, s->c.width[i]);
        if (bytes > (size_t)(s->end - s->at))
            return 0;
        xp_bit_reader_init(&s->column[i], s->at, bytes, s->c.width[i]);
        s->at += bytes;
    }
    return 1;
}

/* Reads the next row's columns; 0 when they are out of range. */
static int next_row(struct source *s, const struct xp_book_room *m, const struct xp_book *b, struct row *row)
{
    row->step = xp_read_bits(&s->column[XP_BOOK_STEP]);
    row->offset = xp_read_bits(&s->column[XP_BOOK_OFFSET]);
    row->centroid = xp_read_bits(&s->column[XP_BOOK_CENTROID]);
    row->length = xp_read_bits(&s->column[XP_BOOK_LENGTH]);
    if (!row->step) {
        row->length = row->offset == XP_BOOK_KIND_RAW ? (uint32_t)m->row_bytes : 0;
        return row->offset <= XP_BOOK_KIND_ZERO && row->length <= (size_t)(s->end - s->at);
    }
    if (__builtin_add_overflow(row->length, s->c.length_least, &row->length) || row->length > (size_t)(s->end - s->at))
        return 0;
    return row->length > 0 && abs(s->c.step_least + (int)row->step - 1) <= XP_BOOK_LARGEST_STEP &&
           abs(s->c.offset_least + (int)row->offset) <= XP_BOOK_LARGEST_OFFSET && (row->centroid == 0 || row->centroid < b->centroids);
}

/* Rows waiting to be decoded side by side. */
struct batch {
    struct xp_rans_stream stream[XP_BOOK_BATCH];
    struct row row[XP_BOOK_BATCH];
    void *out[XP_BOOK_BATCH];
    size_t count;
};

static int decode_batch(struct xp_book_room *m, const struct xp_book *b, const struct source *s, struct batch *batch)
{
    m->k->rans_decode(batch->stream, batch->count, xp_book_symbols(b), xp_rans_lanes(xp_book_symbols(b)));
    for (size_t i = 0; i < batch->count; i++) {
        const float step = xp_book_step_size(m, s->c.step_least + (int)batch->row[i].step - 1);

        if (!batch->stream[i].ok)
            return 0;
        m->k->uniform_restore(m->q[i] + b->rank, xp_book_base_of(m, b, batch->row[i].centroid, m->q[i], m->base[0]), b->dim, step,
                              xp_book_dither_of(m, b, batch->row[i].number, m->dither[0]), m->dtype, m->restored);
        m->k->reorder(m->restored, b->place, b->dim, xp_dtype_size(m->dtype), batch->out[i]);
    }
    batch->count = 0;
    return 1;
}

static void add_to_batch(struct xp_book_room *m, const struct xp_book *b, const struct source *s, struct batch *batch,
                         const struct row *row, void *out)
{
    const size_t i = batch->count++;
    const uint8_t *in = s->at;

    if ((size_t)(s->end - in) - row->length < XP_RANS_SLACK) {
        memcpy(m->bytes[i], in, row->length);
        in = m->bytes[i];
    }
    batch->stream[i] = (struct xp_rans_stream){
        .in = in, .len = row->length, .q = m->q[i],
        .classes = m->classes[xp_book_use_offset(m, b, s->c.offset_least + (int)row->offset)],
        .read_next = b->centroids ? b->centroid + row->centroid * b->pad : NULL, .write_next = out };
    batch->row[i] = *row;
    batch->out[i] = out;
}

static xp_status corrupt(const char **why, const char *text)
{
    *why = text;
    return XP_ERR_CORRUPT;
}

xp_status xp_book_decode_rows(struct xp_book_room *m, const struct xp_book *b, const struct xp_book_dither *d, const uint8_t *in,
                              size_t len, size_t rows, void *out, const char **why)
{
    struct batch batch = { .count = 0 };
    struct source s;

    xp_book_begin(m, d);
    if (!open_source(&s, b, in, len, rows))
        return corrupt(why, "book: shorter than its columns");
    for (size_t r = 0; r < rows; r++) {
        void *to = (char *)out + r * m->row_bytes;
        struct row row = { .number = r };

        if (!next_row(&s, m, b, &row))
            return corrupt(why, "book: a row's step, place or length is out of range");
        if (row.length > xp_rans_bound(xp_book_symbols(b)) && row.step)
            return corrupt(why, "book: a row longer than any");
        if (row.step)
            add_to_batch(m, b, &s, &batch, &row, to);
        else if (row.offset == XP_BOOK_KIND_ZERO)
            memset(to, 0, m->row_bytes);
        else
            memcpy(to, s.at, m->row_bytes);
        s.at += row.length;
        if (batch.count == m->batch && !decode_batch(m, b, &s, &batch))
            return corrupt(why, "book: a row's bytes are not what its length says");
    }
    if (!decode_batch(m, b, &s, &batch))
        return corrupt(why, "book: a row's bytes are not what its length says");
    return s.at == s.end ? XP_OK : corrupt(why, "book: bytes left over");
}
