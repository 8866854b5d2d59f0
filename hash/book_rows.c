/*
 * book_rows.c - rows coded with a book: columns of small numbers, then the rows' streams
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/book_rows.h"
#include "hash/bits.h"
#include "hash/bytes.h"
#include "hash/half.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEAD 10
#define STEPS_PER_OCTAVE 64
#define LARGEST_STEP 7600 /* 2^118.75: steps and their reciprocals are normal numbers */
#define LARGEST_OFFSET 63
#define SMALL_CHANGE 2    /* a correction of the step that is not measured again before the row is decoded */
#define LARGER_STEPS 3    /* tried for rows of fewer values than LONG_ROW */
#define LONG_ROW 2048
#define KIND_RAW 0        /* offsets of rows without a step */
#define KIND_ZERO 1

enum { STEP, OFFSET, CENTROID, LENGTH };

/* ---- room ----------------------------------------------------------------------------------------------------- */

static void *cut(uint8_t **p, size_t bytes)
{
    void *at = *p;

    *p += (bytes + 127) / 64 * 64;
    return at;
}

/* Lays everything out from p on; returns the end. */
static uint8_t *lay_out(struct xp_book_room *m, uint8_t *p)
{
    const size_t groups = m->most_symbols / XP_RANS_GROUP;

    m->rest = cut(&p, 4 * m->pad);
    m->base = cut(&p, 4 * m->pad);
    m->typed = cut(&p, 4 * m->pad);
    m->restored = cut(&p, 4 * m->pad);
    for (size_t i = 0; i < m->batch; i++) {
        m->q[i] = cut(&p, 2 * m->most_symbols);
        m->bytes[i] = cut(&p, xp_rans_bound(m->most_symbols) + XP_RANS_SLACK);
        m->work[i] = cut(&p, xp_rans_work_bytes(m->most_symbols));
    }
    for (int i = 0; i < XP_BOOK_OFFSETS; i++) {
        m->classes[i] = cut(&p, groups);
        m->bias[i] = cut(&p, 4 * groups);
    }
    return p;
}

/* Rows side by side: as many as the second-level cache holds. */
static size_t batch_rows(size_t symbols)
{
    size_t fit = ((size_t)1 << 20) / (16 * symbols);

    if (xp_rans_lanes(symbols) == XP_RANS_MAX_LANES && fit > 6)
        fit -= fit % 6; /* what the decoder takes at a time */
    return fit < 1 ? 1 : fit < XP_BOOK_BATCH ? fit : XP_BOOK_BATCH;
}

static void fill_mantissas(float *mantissa)
{
    double root = 2, v = 1;

    for (int i = 0; i < 6; i++)
        root = sqrt(root);
    for (int i = 0; i < STEPS_PER_OCTAVE; i++, v *= root)
        mantissa[i] = (float)v;
}

xp_status xp_book_room_init(struct xp_book_room *m, const struct xp_kernels *k, xp_dtype t, size_t dim)
{
    size_t bytes;

    memset(m, 0, sizeof(*m));
    if (!dim || dim > 1u << 20 || (t != XP_BF16 && t != XP_F16 && t != XP_F32))
        return XP_ERR_INVALID_ARG;
    m->k = k;
    m->dtype = t;
    m->dim = dim;
    m->row_bytes = dim * xp_dtype_size(t);
    m->pad = (dim + 15) / 16 * 16 + 16;
    m->most_symbols = m->pad + XP_BOOK_MAX_RANK;
    m->batch = batch_rows(m->most_symbols);
    bytes = (size_t)(lay_out(m, (uint8_t *)64) - (uint8_t *)64);
    m->memory = aligned_alloc(64, bytes);
    if (!m->memory)
        return XP_ERR_NO_MEMORY;
    memset(m->memory, 0, bytes);
    lay_out(m, m->memory);
    fill_mantissas(m->mantissa);
    return XP_OK;
}

void xp_book_room_fini(struct xp_book_room *m)
{
    free(m->memory);
    free(m->columns);
    memset(m, 0, sizeof(*m));
}

xp_status xp_book_room_reserve(struct xp_book_room *m, size_t rows)
{
    if (rows <= m->cap_rows)
        return XP_OK;
    free(m->columns);
    m->cap_rows = 0;
    m->columns = malloc(16 * rows);
    if (!m->columns)
        return XP_ERR_NO_MEMORY;
    for (int i = 0; i < 4; i++)
        m->column[i] = (uint32_t *)m->columns + (size_t)i * rows;
    m->cap_rows = rows;
    return XP_OK;
}

/* ---- what both sides do ------------------------------------------------------------------------------------------ */

static float step_size(const struct xp_book_room *m, int step)
{
    return ldexpf(m->mantissa[step & (STEPS_PER_OCTAVE - 1)], (step - (step & (STEPS_PER_OCTAVE - 1))) / STEPS_PER_OCTAVE);
}

static size_t symbols(const struct xp_book *b)
{
    return b->rank + b->dim;
}

/* Begins coding with book b: what was filled for another one is forgotten. */
static void begin(struct xp_book_room *m)
{
    memset(m->filled, 0, sizeof(m->filled));
    m->above = 0;
}

/* Fills classes and widths of the cell of zero for rows of this offset. Returns their place. */
static int use_offset(struct xp_book_room *m, const struct xp_book *b, int offset)
{
    const size_t first = b->rank / XP_RANS_GROUP;
    const int at = offset + LARGEST_OFFSET;

    if (m->filled[at])
        return at;
    m->filled[at] = 1;
    memcpy(m->classes[at], b->coordinate_class, first);
    for (size_t g = 0; g < b->groups; g++) {
        const int sum = b->group_class[g] + offset;
        const unsigned class = sum < 0 ? 0 : sum >= XP_RANS_CLASSES ? XP_RANS_CLASSES - 1 : (unsigned)sum;

        m->classes[at][first + g] = (uint8_t)class;
        m->bias[at][g] = 0.5f - xp_rans_table(class)->dead_zone;
    }
    return at;
}

/* What a row is coded against: its centroid or the mean, and its coordinates along the directions. */
static const float *base_of(const struct xp_book_room *m, const struct xp_book *b, uint32_t centroid, const int16_t *coordinate)
{
    const float *base = b->centroids ? b->centroid + centroid * b->pad : b->mean;

    if (!b->rank)
        return base;
    memcpy(m->base, base, b->pad * sizeof(*base));
    for (unsigned j = 0; j < b->rank; j++)
        if (coordinate[j])
            m->k->vector_add(m->base, b->direction + j * b->pad, (float)coordinate[j] * b->coordinate_step, b->groups);
    return m->base;
}

/* ---- one row: the step that just keeps the promise ----------------------------------------------------------------- */

struct subject {
    struct xp_book_room *m;
    const struct xp_book *b;
    const float *base;
    int16_t *q;       /* coordinates, then the values */
    double energy, ref, allowed, error; /* squares: |x|^2, reference, what the promise allows, what was reached */
    double level;     /* 64 log2 of the deviation of class 0 */
    int step, offset; /* offset: its place, from 0 */
};

static void set_step(struct subject *s, int step)
{
    const int unit = STEPS_PER_OCTAVE / 4;
    const double offset = floor((s->level - step) / unit + 0.5) + XP_RANS_UNIT_CLASS;

    s->step = step;
    s->offset = use_offset(s->m, s->b, (int)fmin(fmax(offset, -LARGEST_OFFSET), LARGEST_OFFSET));
}

/* Squared error of rounding to the row's type, about. */
static double rounding_error(const struct subject *s)
{
    return s->energy * (s->m->dtype == XP_BF16 ? 2.8e-6 : s->m->dtype == XP_F16 ? 4.4e-8 : 0);
}

static int bounded(double step)
{
    return (int)fmin(fmax(step, -LARGEST_STEP), LARGEST_STEP);
}

/* The step by which the error, before rounding to the type, is about what is allowed. */
static int estimate_step(struct subject *s, double rest)
{
    const double room = fmax(s->allowed - rounding_error(s), 0.2 * s->allowed);
    const double fine = 32 * log2(room * 12 / (double)s->b->dim); /* were every cell full, this would be it */
    int step = bounded(floor(fine + s->m->above));

    if (rest <= room) /* nothing needs to be sent */
        return bounded(ceil(32 * log2(rest)) + 2 * STEPS_PER_OCTAVE);
    for (int i = 0; i < 5; i++) {
        double size, error, change;

        set_step(s, step);
        size = step_size(s->m, step);
        error = size * size * s->m->k->uniform_error(s->m->rest, s->b->groups, (float)(1 / size), s->m->bias[s->offset]);
        change = floor(32 * log2(room / error));
        step = bounded(step + fmin(fmax(change, -256), 128));
        if (fabs(change) <= SMALL_CHANGE)
            break;
    }
    s->m->above = fmin(fmax(step - fine, 0), 512);
    return step;
}

/* Quantises, decodes and measures. */
static void try_step(struct subject *s, int step)
{
    struct xp_book_room *m = s->m;
    float size;

    set_step(s, step);
    size = step_size(m, step);
    m->k->uniform_quantise(m->rest, s->b->groups, 1 / size, m->bias[s->offset], s->q + s->b->rank);
    m->k->uniform_restore(s->q + s->b->rank, s->base, s->b->dim, size, m->dtype, m->restored);
    s->error = m->k->distance(m->typed, m->restored, m->dtype, s->b->dim);
}

/* Steps by which the error could still grow. */
static double slack(const struct subject *s)
{
    return 32 * log2(s->allowed / s->error);
}

/* The errors of short rows jump from step to step, so that a few steps on there may be one that is still allowed. */
static void try_larger_steps(struct subject *s)
{
    for (int i = 1; i <= LARGER_STEPS && slack(s) > 0.6; i++) {
        const int best = s->step;

        try_step(s, best + 1);
        if (s->error <= s->allowed)
            continue;
        try_step(s, best);
        return;
    }
}

static int find_step(struct subject *s, double rest)
{
    int step = estimate_step(s, rest);

    for (int i = 0; i < 12; i++) {
        try_step(s, step);
        if (s->error <= s->allowed) {
            if (s->b->dim < LONG_ROW && rest > s->allowed && s->step < LARGEST_STEP - LARGER_STEPS)
                try_larger_steps(s);
            return 1;
        }
        step = bounded(step - fmax(1, fmin(floor(-slack(s)), 256)));
    }
    return 0;
}

/* Reads the row in s->m->typed: energies, coordinates, rest. Returns the energy of the rest, negative when the row goes raw. */
static double examine(struct subject *s, const struct xp_book_promise *p, uint32_t centroid)
{
    struct xp_book_room *m = s->m;
    const struct xp_book *b = s->b;
    const double margin = ((double)b->dim / 16 + 16) * 0x1p-24; /* as in quant_rows.c */
    double rest;
    float spread;

    if (!(s->energy <= FLT_MAX))
        return -1;
    m->k->residual(m->typed, m->dtype, b->mean, b->dim, m->rest);
    rest = m->k->energy(m->rest, b->dim);
    s->ref = p->to_mean && b->has_mean ? fmax(fmin(s->energy, rest), s->energy * 0x1p-16) : s->energy;
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
        for (unsigned j = 0; j < b->rank; j++) {
            const float a = m->k->vector_dot(m->rest, b->direction + j * b->pad, b->groups) / b->coordinate_step;
            s->q[j] = (int16_t)rintf(fminf(fmaxf(a, -XP_RANS_MAX_Q), XP_RANS_MAX_Q));
        }
        s->base = base_of(m, b, centroid, s->q);
        m->k->residual(m->typed, m->dtype, s->base, b->dim, m->rest);
        rest = m->k->energy(m->rest, b->dim);
    }
    spread = m->k->uniform_spread(m->rest, b->groups, b->weight);
    if (!(rest <= 1e36 && spread <= 1e36f))
        return -1;
    s->level = 32 * log2(fmax(spread / (double)b->dim, 1e-37));
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

        *s = (struct subject){ .m = m, .b = b, .q = m->q[count] };
        e->centroid[i] = b->centroids ? centroid[r + i] : 0;
        s->energy = m->k->distance(row, NULL, m->dtype, m->dim); /* first: reads the row in order */
        m->k->reorder(row, b->channel, m->dim, xp_dtype_size(m->dtype), m->typed);
        rest = examine(s, p, e->centroid[i]);
        e->coded[i] = rest >= 0 && find_step(s, rest);
        if (e->coded[i]) {
            e->source[count] = (struct xp_rans_source){ .q = s->q, .classes = m->classes[s->offset], .work = m->work[count],
                                                        .out = m->bytes[count], .cap = m->row_bytes - 1 };
            count++;
        }
    }
    m->k->rans_encode(e->source, count, symbols(b), xp_rans_lanes(symbols(b)));
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
        column[STEP][r] = (uint32_t)(e->subject[i].step + LARGEST_STEP + 1);
        column[OFFSET][r] = (uint32_t)e->subject[i].offset;
        column[CENTROID][r] = e->centroid[i];
        column[LENGTH][r] = (uint32_t)source->len;
        count_error(st, &e->subject[i]);
        return source->len;
    }
    column[STEP][r] = column[CENTROID][r] = column[LENGTH][r] = 0;
    column[OFFSET][r] = all_zero(row, m->row_bytes) ? KIND_ZERO : KIND_RAW;
    if (column[OFFSET][r] == KIND_ZERO)
        return 0;
    st->rows_raw++;
    if (room < m->row_bytes)
        return SIZE_MAX;
    memcpy(out, row, m->row_bytes);
    return m->row_bytes;
}

/* ---- columns: offset by their least value, 0 for rows without a step --------------------------------------------- */

struct columns {
    int step_least, offset_least;
    uint32_t length_least;
    unsigned width[4];
};

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

static struct columns shrink_columns(struct xp_book_room *m, const struct xp_book *b, size_t rows)
{
    uint32_t least[4], most[4];
    struct columns c;

    for (int i = 0; i < 4; i++)
        range(m->column[i], m->column[STEP], rows, &least[i], &most[i]);
    if (most[OFFSET] == least[OFFSET])
        most[OFFSET]++; /* the kind of a row without a step is 0 or 1 */
    for (size_t r = 0; r < rows; r++) {
        if (!m->column[STEP][r])
            continue;
        m->column[OFFSET][r] -= least[OFFSET];
        m->column[LENGTH][r] -= least[LENGTH];
        m->column[STEP][r] -= least[STEP] - 1;
    }
    c.step_least = (int)least[STEP] - LARGEST_STEP - 1;
    c.offset_least = (int)least[OFFSET] - LARGEST_OFFSET;
    c.length_least = least[LENGTH];
    c.width[STEP] = xp_bit_width(most[STEP] - least[STEP] + 2);
    c.width[OFFSET] = xp_bit_width(most[OFFSET] - least[OFFSET] + 1);
    c.width[LENGTH] = xp_bit_width((size_t)most[LENGTH] - least[LENGTH] + 1);
    c.width[CENTROID] = xp_bit_width(b->centroids);
    return c;
}

static size_t column_bytes(const struct columns *c, size_t rows)
{
    size_t bytes = HEAD;

    for (int i = 0; i < 4; i++)
        bytes += xp_packed_bytes(rows, c->width[i]);
    return bytes;
}

static void write_columns(const struct xp_book_room *m, const struct columns *c, size_t rows, uint8_t *out)
{
    xp_put16(out, (uint16_t)c->step_least);
    out[2] = (uint8_t)c->width[STEP];
    out[3] = (uint8_t)c->offset_least;
    out[4] = (uint8_t)c->width[OFFSET];
    out[5] = (uint8_t)c->width[LENGTH];
    xp_put32(out + 6, c->length_least);
    out += HEAD;
    for (int i = 0; i < 4; i++) {
        xp_pack_bits(m->column[i], rows, c->width[i], out);
        out += xp_packed_bytes(rows, c->width[i]);
    }
}

xp_status xp_book_encode_rows(struct xp_book_room *m, const struct xp_book *b, const struct xp_book_promise *p,
                              const struct xp_rows *in, const uint32_t *centroid, uint8_t *out, size_t cap, size_t *len,
                              xp_codec_stats *st)
{
    /* Columns are no wider than this; the rows move down when it is known how wide they are. */
    const size_t most = HEAD + 4 + in->rows * 7;
    struct columns c;
    size_t at = most, head;

    if (cap < most || in->rows > m->cap_rows)
        return XP_ERR_UNSUPPORTED;
    begin(m);
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

/* ---- decoding -------------------------------------------------------------------------------------------------- */

struct row {
    uint32_t step, offset, centroid, length;
};

struct source {
    struct columns c;
    struct xp_bit_reader column[4];
    const uint8_t *at, *end;
};

static int open_source(struct source *s, const struct xp_book *b, const uint8_t *in, size_t len, size_t rows)
{
    size_t bytes = 0;

    if (len < HEAD)
        return 0;
    s->c.step_least = (int16_t)xp_get16(in);
    s->c.offset_least = (int8_t)in[3];
    s->c.length_least = xp_get32(in + 6);
    s->c.width[STEP] = in[2];
    s->c.width[OFFSET] = in[4];
    s->c.width[LENGTH] = in[5];
    s->c.width[CENTROID] = xp_bit_width(b->centroids);
    if (in[2] > 14 || in[4] > 7 || in[5] > 32)
        return 0;
    s->at = in + HEAD;
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
    row->step = xp_read_bits(&s->column[STEP]);
    row->offset = xp_read_bits(&s->column[OFFSET]);
    row->centroid = xp_read_bits(&s->column[CENTROID]);
    row->length = xp_read_bits(&s->column[LENGTH]);
    if (!row->step) {
        row->length = row->offset == KIND_RAW ? (uint32_t)m->row_bytes : 0;
        return row->offset <= KIND_ZERO && row->length <= (size_t)(s->end - s->at);
    }
    if (__builtin_add_overflow(row->length, s->c.length_least, &row->length) || row->length > (size_t)(s->end - s->at))
        return 0;
    return row->length > 0 && abs(s->c.step_least + (int)row->step - 1) <= LARGEST_STEP &&
           abs(s->c.offset_least + (int)row->offset) <= LARGEST_OFFSET && (row->centroid == 0 || row->centroid < b->centroids);
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
    m->k->rans_decode(batch->stream, batch->count, symbols(b), xp_rans_lanes(symbols(b)));
    for (size_t i = 0; i < batch->count; i++) {
        const float step = step_size(m, s->c.step_least + (int)batch->row[i].step - 1);

        if (!batch->stream[i].ok)
            return 0;
        m->k->uniform_restore(m->q[i] + b->rank, base_of(m, b, batch->row[i].centroid, m->q[i]), b->dim, step, m->dtype, m->restored);
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
        .classes = m->classes[use_offset(m, b, s->c.offset_least + (int)row->offset)] };
    batch->row[i] = *row;
    batch->out[i] = out;
}

static xp_status corrupt(const char **why, const char *text)
{
    *why = text;
    return XP_ERR_CORRUPT;
}

xp_status xp_book_decode_rows(struct xp_book_room *m, const struct xp_book *b, const uint8_t *in, size_t len, size_t rows,
                              void *out, const char **why)
{
    struct batch batch = { .count = 0 };
    struct source s;

    begin(m);
    if (!open_source(&s, b, in, len, rows))
        return corrupt(why, "book: shorter than its columns");
    for (size_t r = 0; r < rows; r++) {
        void *to = (char *)out + r * m->row_bytes;
        struct row row;

        if (!next_row(&s, m, b, &row))
            return corrupt(why, "book: a row's step, place or length is out of range");
        if (row.length > xp_rans_bound(symbols(b)) && row.step)
            return corrupt(why, "book: a row longer than any");
        if (row.step)
            add_to_batch(m, b, &s, &batch, &row, to);
        else if (row.offset == KIND_ZERO)
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
