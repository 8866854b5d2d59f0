/*
 * book_encode.c - rows to columns of small numbers, then the rows' streams
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bits.h"
#include "hash/book_rows_impl.h"
#include "hash/bytes.h"
#include "hash/log2.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- one row: the step that just keeps the promise ----------------------------------------------------------------- */

struct subject {
    struct xp_book_room *m;
    const struct xp_book *b;
    const float *base, *dither;
    int16_t *q;       /* coordinates, then the values */
    double energy, ref, allowed, error; /* squares: |x|^2, reference, what the promise allows, what was reached */
    double level;     /* 64 log2 of the deviation of class 0 */
    int step, offset; /* offset: its place, from 0 */
};

static void set_step(struct subject *s, int step)
{
    const int unit = XP_BOOK_STEPS_PER_OCTAVE / 4;
    const double offset = floor((s->level - step) / unit + 0.5) + XP_RANS_UNIT_CLASS;

    s->step = step;
    s->offset = xp_book_use_offset(s->m, s->b, (int)fmin(fmax(offset, -XP_BOOK_LARGEST_OFFSET), XP_BOOK_LARGEST_OFFSET));
}

/* Where rounding goes up; dither wants all cells alike. */
static const float *bias(const struct subject *s)
{
    return s->dither ? s->m->half : s->m->bias[s->offset];
}

/* Squared error of rounding to the row's type, about. */
static double rounding_error(const struct subject *s)
{
    return s->energy * (s->m->dtype == XP_BF16 ? XP_BOOK_ROUNDING_BF16 : s->m->dtype == XP_F16 ? XP_BOOK_ROUNDING_F16 : 0);
}

static int bounded(double step)
{
    return (int)fmin(fmax(step, -XP_BOOK_LARGEST_STEP), XP_BOOK_LARGEST_STEP);
}

/* The step by which the error, before rounding to the type, is about what is allowed. */
static int estimate_step(struct subject *s, double rest)
{
    const double room = fmax(s->allowed - rounding_error(s), 0.2 * s->allowed);
    const double fine = 32 * xp_log2(room * 12 / (double)s->b->dim); /* were every cell full, this would be it */
    int step = bounded(floor(fine + s->m->above));

    if (rest <= room && !s->dither) /* nothing needs to be sent */
        return bounded(ceil(32 * xp_log2(rest)) + 2 * XP_BOOK_STEPS_PER_OCTAVE);
    for (int i = 0; i < 5; i++) {
        double size, error, change;

        set_step(s, step);
        size = xp_book_step_size(s->m, step);
        error = size * size * s->m->k->uniform_error(s->m->rest, s->b->groups, (float)(1 / size), bias(s), s->dither);
        change = floor(32 * xp_log2(room / error));
        step = bounded(step + fmin(fmax(change, -256), 128));
        if (fabs(change) <= XP_BOOK_SMALL_CHANGE)
            break;
    }
    if (!s->m->above_known)
        s->m->above = fmin(fmax(step - fine, 0), 512);
    s->m->above_known = 1;
    return step;
}

/* Quantises, decodes and measures. */
static void try_step(struct subject *s, int step)
{
    struct xp_book_room *m = s->m;
    float size;

    set_step(s, step);
    size = xp_book_step_size(m, step);
    s->error = m->k->uniform_code(&(struct xp_uniform_row){ .x = m->rest, .bias = bias(s), .dither = s->dither, .base = s->base, .step = size,
                                                            .inverse = 1 / size, .dtype = m->dtype, .dim = s->b->dim, .row = m->typed },
                                  s->q + s->b->rank);
}

/* Steps by which the error could still grow. */
static double slack(const struct subject *s)
{
    return 32 * xp_log2(s->allowed / s->error);
}

/* The errors of short rows jump from step to step, so that a few steps on there may be one that is still allowed. */
static void try_larger_steps(struct subject *s)
{
    for (int i = 1; i <= XP_BOOK_LARGER_STEPS && slack(s) > 0.6; i++) {
        const struct subject best = *s;

        s->q = s->m->spare;
        memcpy(s->q, best.q, s->b->rank * sizeof(*s->q));
        try_step(s, best.step + 1);
        if (s->error > s->allowed) {
            *s = best;
            return;
        }
        s->m->spare = best.q;
    }
}

static int find_step(struct subject *s, double rest)
{
    int step = estimate_step(s, rest);

    for (int i = 0; i < XP_BOOK_STEP_TRIES; i++) {
        try_step(s, step);
        if (s->error <= s->allowed) {
            if (s->b->dim < XP_BOOK_LONG_ROW && (rest > s->allowed || s->dither) && s->step < XP_BOOK_LARGEST_STEP - XP_BOOK_LARGER_STEPS)
                try_larger_steps(s);
            return 1;
        }
        step = bounded(step - fmax(XP_BOOK_STEPS_BACK(i), fmin(floor(-slack(s)), 256)));
    }
    return 0;
}

/* Reads the row in s->m->typed: energies, coordinates, rest. Returns the energy of the rest, negative when the row goes raw. */
static double examine(struct subject *s, const struct xp_book_promise *p, uint32_t centroid)
{
    struct xp_book_room *m = s->m;
    const struct xp_book *b = s->b;
    const double margin = ((double)b->dim / 16 + 16) * 0x1p-24; /* as in quant_rows.c */
    const int to_mean = p->to_mean && b->has_mean;
    double rest = 0;
    float spread, along[XP_BOOK_MAX_RANK];

    if (!(s->energy <= FLT_MAX))
        return -1;
    if (to_mean || !b->centroids) {
        m->k->residual(m->typed, m->dtype, b->mean, b->dim, m->rest);
        rest = m->k->energy(m->rest, b->dim);
    }
    s->ref = to_mean ? fmax(fmin(s->energy, rest), s->energy * 0x1p-16) : s->energy;
    s->allowed = p->eps * p->eps * s->ref * (1 - margin) / (1 + margin);
    if (!(s->allowed >= (double)b->dim * 1e-37))
        return -1;
    s->base = b->mean;
    if (b->centroids) {
        s->base = b->centroid + centroid * b->pad;
        m->k->residual(m->typed, m->dtype, s->base, b->dim, m->rest);
        rest = m->k->energy(m->rest, b->dim);
    }
    if (b->rank) {
        m->k->vector_dots(m->rest, b->direction, b->pad, b->rank, b->groups, along);
        for (unsigned j = 0; j < b->rank; j++)
            s->q[j] = (int16_t)rintf(fminf(fmaxf(along[j] / b->coordinate_step, -XP_RANS_MAX_Q), XP_RANS_MAX_Q));
        s->base = xp_book_base_of(m, b, centroid, s->q);
        m->k->residual(m->typed, m->dtype, s->base, b->dim, m->rest);
        rest = m->k->energy(m->rest, b->dim);
    }
    spread = m->k->uniform_spread(m->rest, b->groups, b->weight);
    if (!(rest <= 1e36 && spread <= 1e36f))
        return -1;
    s->level = 32 * xp_log2(fmax(spread / (double)b->dim, 1e-37));
    return fmax(rest, 1e-37);
}

static int all_zero(const uint8_t *row, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (row[i])
            return 0;
    return 1;
}

static void count_error(xp_codec_stats *st, const struct subject *s)
{
    const double row = sqrt(s->error / s->energy);

    st->err_mean += row;
    st->err_max = fmax(st->err_max, row);
    st->err_ref_max = fmax(st->err_ref_max, sqrt(s->error / s->ref));
}

/* Rows of one call that are coded side by side, in order. */
struct encoding {
    struct subject subject[XP_BOOK_BATCH];
    struct xp_rans_source source[XP_BOOK_BATCH];
    uint32_t centroid[XP_BOOK_BATCH];
    int coded[XP_BOOK_BATCH]; /* has a step; its source is the next one not taken */
};

/* Finds the steps of rows [r, r + n) and codes them. */
static void encode_batch(struct xp_book_room *m, const struct xp_book *b, const struct xp_book_promise *p, const struct xp_rows *in,
                         const uint32_t *centroid, size_t r, size_t n, struct encoding *e)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        struct subject *s = &e->subject[i];
        const void *row = xp_row(in, r + i);
        double rest;

        if ((r + i) % XP_BOOK_RUN == 0) {
            m->above = 0;
            m->above_known = 0;
        }
        *s = (struct subject){ .m = m, .b = b, .q = m->q[count] };
        e->centroid[i] = b->centroids ? centroid[r + i] : 0;
        s->dither = xp_book_dither_of(m, b, r + i);
        s->energy = m->k->distance(row, NULL, m->dtype, m->dim); /* first: reads the row in order */
        m->k->reorder(row, b->channel, m->dim, xp_dtype_size(m->dtype), m->typed);
        rest = examine(s, p, e->centroid[i]);
        e->coded[i] = rest >= 0 && find_step(s, rest);
        m->q[count] = s->q;
        if (e->coded[i]) {
            e->source[count] = (struct xp_rans_source){ .q = s->q, .classes = m->classes[s->offset], .work = m->work[count],
                                                        .out = m->bytes[count], .cap = m->row_bytes - 1 };
            count++;
        }
    }
    m->k->rans_encode(e->source, count, xp_book_symbols(b), xp_rans_lanes(xp_book_symbols(b)));
}

/* Puts row r, which is row i of the batch, at out and its numbers in the columns, step 0 standing for a row without one.
 * Returns the bytes, SIZE_MAX: no room. */
static size_t put_row(struct xp_book_room *m, const struct encoding *e, size_t i, const struct xp_rans_source *source,
                      const void *row, size_t r, uint8_t *out, size_t room, xp_codec_stats *st)
{
    uint32_t *const *column = m->column;

    if (e->coded[i] && source->len) {
        if (source->len > room)
            return SIZE_MAX;
        memcpy(out, source->out, source->len);
        column[XP_BOOK_STEP][r] = (uint32_t)(e->subject[i].step + XP_BOOK_LARGEST_STEP + 1);
        column[XP_BOOK_OFFSET][r] = (uint32_t)e->subject[i].offset;
        column[XP_BOOK_CENTROID][r] = e->centroid[i];
        column[XP_BOOK_LENGTH][r] = (uint32_t)source->len;
        count_error(st, &e->subject[i]);
        return source->len;
    }
    column[XP_BOOK_STEP][r] = column[XP_BOOK_CENTROID][r] = column[XP_BOOK_LENGTH][r] = 0;
    column[XP_BOOK_OFFSET][r] = all_zero(row, m->row_bytes) ? XP_BOOK_KIND_ZERO : XP_BOOK_KIND_RAW;
    if (column[XP_BOOK_OFFSET][r] == XP_BOOK_KIND_ZERO)
        return 0;
    st->rows_raw++;
    if (room < m->row_bytes)
        return SIZE_MAX;
    memcpy(out, row, m->row_bytes);
    return m->row_bytes;
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

xp_status xp_book_encode_rows(struct xp_book_room *m, const struct xp_book *b, const struct xp_book_promise *p,
                              const struct xp_book_dither *d, const struct xp_rows *in, const uint32_t *centroid, uint8_t *out,
                              size_t cap, size_t *len, xp_codec_stats *st)
{
    /* Columns are no wider than this; the rows move down when it is known how wide they are. */
    const size_t most = XP_BOOK_COLUMNS_HEAD + 4 + in->rows * 7;
    struct xp_book_columns c;
    size_t at = most, head;

    if (cap < most || in->rows > m->cap_rows)
        return XP_ERR_UNSUPPORTED;
    xp_book_begin(m, d);
    for (size_t r = 0; r < in->rows; r += m->batch) {
        const size_t n = in->rows - r < m->batch ? in->rows - r : m->batch;
        const struct xp_rans_source *source;
        struct encoding e;

        encode_batch(m, b, p, in, centroid, r, n, &e);
        source = e.source;
        for (size_t i = 0; i < n; i++) {
            const size_t bytes = put_row(m, &e, i, source, xp_row(in, r + i), r + i, out + at, cap - at, st);

            if (bytes == SIZE_MAX)
                return XP_ERR_UNSUPPORTED;
            at += bytes;
            source += e.coded[i];
        }
    }
    c = shrink_columns(m, b, in->rows);
    head = column_bytes(&c, in->rows);
    memmove(out + head, out + most, at - most);
    write_columns(m, &c, in->rows, out);
    *len = head + at - most;
    return XP_OK;
}
