/*
 * codec_pack.c - lossless: equal rows once, exponents entropy coded
 *
 * A value's exponent is mostly near its channel's and its row's; its sign and mantissa are noise. So the difference of exponents goes
 * through the entropy coder, and the other bits travel as they are. Payload: FORMAT.md, "Codec pack".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "hash/bits.h"
#include "hash/bytes.h"
#include "hash/book.h"
#include "hash/coder_impl.h"

#define PREFIX 8
#define HEAD 10
#define BATCH 32
#define SAMPLE 64     /* rows that the channels' exponents are taken from */
#define LARGEST_SHIFT 255

/* How a type splits: exponent, whole bytes and single bits of the rest. */
struct split {
    unsigned bytes, bits; /* of the rest */
};

static struct split split_of(xp_dtype t)
{
    return t == XP_BF16 ? (struct split){ 1, 0 } : t == XP_F16 ? (struct split){ 1, 3 } : (struct split){ 3, 0 };
}

struct xp_pack_state {
    size_t groups, rest_bytes; /* rest_bytes: of a row without its exponents */
    size_t batch;
    int16_t *reference;        /* [groups * 16] exponent of a channel */
    uint8_t *classes;          /* [groups] all the same */
    int16_t *q[BATCH];
    uint8_t *bytes[BATCH];     /* coded exponents, with slack */
    void *work[BATCH];
    uint32_t *column[2];       /* encoding: shift and length of each row */
    size_t cap_rows;
    void *memory;
};

static void *cut(uint8_t **p, size_t bytes)
{
    void *at = *p;

    *p += (bytes + 127) / 64 * 64;
    return at;
}

static uint8_t *lay_out(struct xp_pack_state *s, size_t dim, uint8_t *p)
{
    s->reference = cut(&p, 32 * s->groups);
    s->classes = cut(&p, s->groups);
    for (size_t i = 0; i < s->batch; i++) {
        s->q[i] = cut(&p, 32 * s->groups);
        s->bytes[i] = cut(&p, xp_rans_bound(dim) + XP_RANS_SLACK);
        s->work[i] = cut(&p, xp_rans_work_bytes(dim));
    }
    return p;
}

void xp_pack_state_destroy(struct xp_pack_state *s)
{
    if (!s)
        return;
    free(s->memory);
    free(s->column[0]);
    free(s);
}

static xp_status create(struct xp_coder *c)
{
    const size_t dim = c->desc.dim, fit = ((size_t)1 << 20) / (16 * dim);
    struct xp_pack_state *s;
    size_t bytes;

    if (c->pack)
        return XP_OK;
    s = calloc(1, sizeof(*s));
    if (!s)
        return XP_ERR_NO_MEMORY;
    s->groups = (dim + 15) / 16;
    s->rest_bytes = dim * split_of(c->desc.dtype).bytes + 2 * s->groups * split_of(c->desc.dtype).bits;
    s->batch = fit < 1 ? 1 : fit < BATCH ? fit : BATCH;
    bytes = (size_t)(lay_out(s, dim, (uint8_t *)64) - (uint8_t *)64);
    s->memory = aligned_alloc(64, bytes);
    if (!s->memory) {
        xp_pack_state_destroy(s);
        return XP_ERR_NO_MEMORY;
    }
    memset(s->memory, 0, bytes);
    lay_out(s, dim, s->memory);
    c->pack = s;
    return XP_OK;
}

xp_status xp_pack_reserve(struct xp_coder *c, size_t rows)
{
    struct xp_pack_state *s;
    xp_status status = create(c);

    if (status)
        return status;
    s = c->pack;
    if (rows <= s->cap_rows)
        return XP_OK;
    free(s->column[0]);
    s->cap_rows = 0;
    s->column[0] = malloc(8 * rows);
    if (!s->column[0])
        return XP_ERR_NO_MEMORY;
    s->column[1] = s->column[0] + rows;
    s->cap_rows = rows;
    return XP_OK;
}

/* ---- one row apart, and together again --------------------------------------------------------------------------- */

/* Exponents to q, the rest to `rest`. */
static void take_apart(const struct xp_pack_state *s, xp_dtype t, const void *row, size_t dim, int16_t *q, uint8_t *rest)
{
    uint8_t *bits = rest + dim;

    if (t == XP_BF16) {
        for (size_t i = 0; i < dim; i++) {
            uint16_t v;
            memcpy(&v, (const char *)row + 2 * i, 2);
            q[i] = (int16_t)(v >> 7 & 0xff);
            rest[i] = (uint8_t)((v >> 8 & 0x80) | (v & 0x7f));
        }
    } else if (t == XP_F32) {
        for (size_t i = 0; i < dim; i++) {
            uint32_t v;
            memcpy(&v, (const char *)row + 4 * i, 4);
            q[i] = (int16_t)(v >> 23 & 0xff);
            rest[3 * i] = (uint8_t)v;
            rest[3 * i + 1] = (uint8_t)(v >> 8);
            rest[3 * i + 2] = (uint8_t)((v >> 16 & 0x7f) | (v >> 24 & 0x80));
        }
    } else {
        memset(bits, 0, 6 * s->groups);
        for (size_t i = 0; i < dim; i++) {
            uint16_t v;
            memcpy(&v, (const char *)row + 2 * i, 2);
            q[i] = (int16_t)(v >> 10 & 31);
            rest[i] = (uint8_t)v;
            for (unsigned b = 0; b < 3; b++) /* mantissa bits 8 and 9, sign */
                bits[6 * (i / 16) + 2 * b + i % 16 / 8] |= (uint8_t)((v >> (b < 2 ? 8 + b : 15) & 1) << i % 8);
        }
    }
}

static void put_together(const struct xp_pack_state *s, xp_dtype t, const int16_t *q, int shift, const uint8_t *rest, size_t dim, void *row)
{
    const uint8_t *bits = rest + dim;

    for (size_t i = 0; i < dim; i++) {
        const unsigned e = (unsigned)(q[i] + s->reference[i] + shift);

        if (t == XP_BF16) {
            const uint16_t v = (uint16_t)((rest[i] & 0x80) << 8 | (e & 0xff) << 7 | (rest[i] & 0x7f));
            memcpy((char *)row + 2 * i, &v, 2);
        } else if (t == XP_F32) {
            const uint32_t high = rest[3 * i + 2];
            const uint32_t v = (high & 0x80) << 24 | (e & 0xff) << 23 | (high & 0x7f) << 16 | (uint32_t)rest[3 * i + 1] << 8 | rest[3 * i];
            memcpy((char *)row + 4 * i, &v, 4);
        } else {
            unsigned v = rest[i] | (e & 31) << 10;
            for (unsigned b = 0; b < 3; b++)
                v |= (bits[6 * (i / 16) + 2 * b + i % 16 / 8] >> i % 8 & 1u) << (b < 2 ? 8 + b : 15);
            const uint16_t h = (uint16_t)v;
            memcpy((char *)row + 2 * i, &h, 2);
        }
    }
}

/* ---- exponents: what is usual ------------------------------------------------------------------------------------- */

/* Mean exponent of every channel over some rows, zeros left out. */
static void find_reference(struct xp_coder *c, const struct xp_rows *in)
{
    struct xp_pack_state *s = c->pack;
    const size_t take = in->rows < SAMPLE ? in->rows : SAMPLE, dim = in->dim;
    int16_t *sum = s->q[0], *count = (int16_t *)s->work[0]; /* 64 exponents below 2^8 */

    memset(sum, 0, 2 * dim);
    memset(count, 0, 2 * dim);
    memset(s->reference, 0, 32 * s->groups);
    for (size_t i = 0; i < take; i++) {
        int16_t *e = (int16_t *)(void *)s->bytes[0];

        take_apart(s, in->dtype, xp_row(in, (2 * i + 1) * in->rows / (2 * take)), dim, e, s->bytes[0] + 2 * dim);
        for (size_t j = 0; j < dim; j++) {
            sum[j] = (int16_t)(sum[j] + e[j]);
            count[j] = (int16_t)(count[j] + (e[j] != 0));
        }
    }
    for (size_t j = 0; j < dim; j++)
        s->reference[j] = count[j] ? (int16_t)((sum[j] + count[j] / 2) / count[j]) : 0;
}

/* Takes the reference and the row's shift off the exponents. Adds the squares of what is left, within +-7. */
static int take_off(const struct xp_pack_state *s, int16_t *q, size_t dim, uint32_t *squares)
{
    int32_t sum = 0, count = 0, shift;

    for (size_t i = 0; i < dim; i++) {
        sum += q[i] ? q[i] - s->reference[i] : 0;
        count += q[i] != 0;
    }
    shift = count ? (sum >= 0 ? (sum + count / 2) / count : -((count / 2 - sum) / count)) : 0;
    for (size_t i = 0; i < dim; i++) {
        const int v = q[i] - s->reference[i] - shift, small = v > 7 ? 7 : v < -7 ? -7 : v;

        q[i] = (int16_t)v;
        *squares += (uint32_t)(small * small);
    }
    return shift;
}

/* Scale class of what is left, from one row in the middle of every batch's worth. */
static unsigned find_class(struct xp_coder *c, const struct xp_rows *in)
{
    const size_t take = in->rows < 16 ? in->rows : 16;
    double squares = 0;
    int class;

    for (size_t i = 0; i < take; i++) {
        uint32_t some = 0;

        take_apart(c->pack, in->dtype, xp_row(in, (2 * i + 1) * in->rows / (2 * take)), in->dim, c->pack->q[0], c->pack->bytes[0]);
        take_off(c->pack, c->pack->q[0], in->dim, &some);
        squares += some;
    }
    class = XP_RANS_UNIT_CLASS + (xp_quarter_log2((float)(squares / (double)(take * in->dim) + 1e-3)) - 1) / 2;
    return class < 4 ? 4 : class >= XP_RANS_PLAIN ? XP_RANS_PLAIN - 1 : (unsigned)class;
}

/* ---- rows ----------------------------------------------------------------------------------------------------------- */

static void range(const uint32_t *v, const uint32_t *shift, size_t rows, uint32_t *least, uint32_t *most)
{
    *least = UINT32_MAX;
    *most = 0;
    for (size_t r = 0; r < rows; r++) {
        if (!shift[r])
            continue;
        *least = v[r] < *least ? v[r] : *least;
        *most = v[r] > *most ? v[r] : *most;
    }
    if (*least > *most)
        *least = *most = 0;
}

/* Codes rows [r, r + n) at out; returns the bytes, SIZE_MAX: no room. */
static size_t encode_batch(struct xp_coder *c, const struct xp_rows *in, size_t r, size_t n, uint8_t *out, size_t room,
                           xp_codec_stats *st)
{
    struct xp_pack_state *s = c->pack;
    struct xp_rans_source source[BATCH];
    size_t at = 0;

    if (n * s->rest_bytes > room)
        return SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        uint32_t unused = 0;

        take_apart(s, in->dtype, xp_row(in, r + i), in->dim, s->q[i], out + i * s->rest_bytes);
        s->column[0][r + i] = (uint32_t)(take_off(s, s->q[i], in->dim, &unused) + LARGEST_SHIFT + 1);
        source[i] = (struct xp_rans_source){ .q = s->q[i], .classes = s->classes, .work = s->work[i], .out = s->bytes[i],
                                             .cap = c->row_bytes - s->rest_bytes };
    }
    c->kernels.rans_encode(source, n, in->dim, xp_rans_lanes(in->dim));
    for (size_t i = 0; i < n; i++) {
        const int pays = source[i].len && source[i].len + s->rest_bytes < c->row_bytes;
        const size_t bytes = pays ? source[i].len + s->rest_bytes : c->row_bytes;

        /* The rest of row i lies at i * rest_bytes: never before where it goes, rows being written longer than that. */
        if (at + bytes > room)
            return SIZE_MAX;
        if (!pays) {
            s->column[0][r + i] = 0;
            st->rows_raw++;
        }
        s->column[1][r + i] = pays ? (uint32_t)source[i].len : 0;
        at += bytes;
    }
    /* From the last row down, since every row moves up. */
    for (size_t i = n, end = at; i-- > 0;) {
        const int packed = s->column[0][r + i] != 0;

        end -= packed ? source[i].len + s->rest_bytes : c->row_bytes;
        if (packed) {
            memmove(out + end, out + i * s->rest_bytes, s->rest_bytes);
            memcpy(out + end + s->rest_bytes, s->bytes[i], source[i].len);
        } else {
            memcpy(out + end, xp_row(in, r + i), c->row_bytes);
        }
    }
    return at;
}

static size_t encode_rows(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap, xp_codec_stats *st)
{
    struct xp_pack_state *s = c->pack;
    const size_t most = HEAD + in->dim + 4 + in->rows * 6;
    uint32_t least[2], largest[2];
    unsigned width[2], class;
    size_t at = most, head;

    if (cap < most)
        return SIZE_MAX;
    find_reference(c, in);
    class = find_class(c, in);
    memset(s->classes, (int)class, s->groups);
    for (size_t i = 0; i < in->dim; i++)
        out[HEAD + i] = (uint8_t)s->reference[i];
    for (size_t r = 0; r < in->rows; r += s->batch) {
        const size_t n = in->rows - r < s->batch ? in->rows - r : s->batch;
        const size_t bytes = encode_batch(c, in, r, n, out + at, cap - at, st);

        if (bytes == SIZE_MAX)
            return SIZE_MAX;
        at += bytes;
    }
    for (int i = 0; i < 2; i++)
        range(s->column[i], s->column[0], in->rows, &least[i], &largest[i]);
    for (size_t r = 0; r < in->rows; r++) {
        s->column[1][r] -= s->column[0][r] ? least[1] : 0;
        s->column[0][r] -= s->column[0][r] ? least[0] - 1 : 0;
    }
    width[0] = xp_bit_width(largest[0] - least[0] + 2);
    width[1] = xp_bit_width((size_t)largest[1] - least[1] + 1);
    out[0] = (uint8_t)class;
    out[1] = (uint8_t)width[0];
    xp_put16(out + 2, (uint16_t)((int)least[0] - LARGEST_SHIFT - 1));
    out[4] = (uint8_t)width[1];
    out[5] = 0;
    xp_put32(out + 6, least[1]);
    head = HEAD + in->dim;
    for (int i = 0; i < 2; i++) {
        xp_pack_bits(s->column[i], in->rows, width[i], out + head);
        head += xp_packed_bytes(in->rows, width[i]);
    }
    memmove(out + head, out + most, at - most);
    return head + at - most;
}

static xp_status pack_encode(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap, size_t *len, xp_codec_stats *st)
{
    struct xp_rows rows = *in;
    size_t distinct, map_bytes, bytes;
    unsigned width;

    if (c->desc.dtype == XP_BYTE || in->rows == 0 || xp_pack_reserve(c, in->rows))
        return XP_ERR_UNSUPPORTED;
    distinct = xp_dedup(in, c->first, c->map, c->work);
    width = xp_bit_width(distinct);
    map_bytes = xp_packed_bytes(in->rows, width);
    if (PREFIX + map_bytes >= cap)
        return XP_ERR_UNSUPPORTED;
    xp_put32(out, (uint32_t)distinct);
    xp_put32(out + 4, width);
    xp_pack_bits(c->map, in->rows, width, out + PREFIX);
    for (size_t u = 0; u < distinct && in->index; u++)
        c->first[u] = in->index[c->first[u]];
    rows.index = c->first;
    rows.rows = distinct;
    bytes = encode_rows(c, &rows, out + PREFIX + map_bytes, cap - PREFIX - map_bytes, st);
    if (bytes == SIZE_MAX)
        return XP_ERR_UNSUPPORTED;
    st->rows_unique = distinct;
    *len = PREFIX + map_bytes + bytes;
    return XP_OK;
}

/* ---- decoding ------------------------------------------------------------------------------------------------------ */

struct source {
    struct xp_bit_reader shift, length, map;
    int shift_least;
    uint32_t length_least;
    const uint8_t *at, *end;
};

static int open_column(struct source *s, struct xp_bit_reader *r, size_t rows, unsigned width)
{
    const size_t bytes = xp_packed_bytes(rows, width);

    if (bytes > (size_t)(s->end - s->at))
        return 0;
    xp_bit_reader_init(r, s->at, bytes, width);
    s->at += bytes;
    return 1;
}

static int open_source(struct xp_coder *c, struct source *s, const uint8_t *in, size_t len, size_t rows, size_t *distinct)
{
    if (len < PREFIX)
        return 0;
    *distinct = xp_get32(in);
    s->at = in + PREFIX;
    s->end = in + len;
    if (*distinct > rows || xp_get32(in + 4) != xp_bit_width(*distinct) || !open_column(s, &s->map, rows, xp_bit_width(*distinct)))
        return 0;
    if ((size_t)(s->end - s->at) < HEAD + c->desc.dim)
        return 0;
    in = s->at;
    if (in[0] >= XP_RANS_PLAIN || in[1] > 10 || in[4] > 32 || in[5])
        return 0;
    memset(c->pack->classes, in[0], c->pack->groups);
    s->shift_least = (int16_t)xp_get16(in + 2);
    s->length_least = xp_get32(in + 6);
    for (size_t i = 0; i < c->desc.dim; i++)
        c->pack->reference[i] = in[HEAD + i];
    s->at += HEAD + c->desc.dim;
    return open_column(s, &s->shift, *distinct, in[1]) && open_column(s, &s->length, *distinct, in[4]);
}

/* The next distinct row. */
struct piece {
    int packed, shift;
    const uint8_t *at; /* the raw row, or what is not exponents */
    uint32_t length;   /* of the exponents */
};

static int next_piece(struct xp_coder *c, struct source *s, struct piece *p)
{
    const uint32_t shift = xp_read_bits(&s->shift), length = xp_read_bits(&s->length);
    const size_t room = (size_t)(s->end - s->at), rest = c->pack->rest_bytes;

    p->at = s->at;
    p->packed = shift > 0;
    p->shift = s->shift_least + (int)shift - 1;
    if (!p->packed) {
        s->at += c->row_bytes < room ? c->row_bytes : room;
        return c->row_bytes <= room;
    }
    if (__builtin_add_overflow(length, s->length_least, &p->length) || rest > room || p->length > room - rest ||
        p->length > xp_rans_bound(c->desc.dim) || abs(p->shift) > LARGEST_SHIFT)
        return 0;
    s->at += rest + p->length;
    return 1;
}

/* Decodes distinct rows [u, u + n); their places in out are given. */
static int decode_batch(struct xp_coder *c, struct source *s, size_t n, void *const *out)
{
    struct xp_pack_state *m = c->pack;
    struct xp_rans_stream stream[BATCH];
    struct piece piece[BATCH];
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        const uint8_t *in;

        if (!next_piece(c, s, &piece[i]))
            return 0;
        if (!piece[i].packed)
            continue;
        in = piece[i].at + m->rest_bytes;
        if ((size_t)(s->end - in) - piece[i].length < XP_RANS_SLACK) {
            memcpy(m->bytes[count], in, piece[i].length);
            in = m->bytes[count];
        }
        stream[count] = (struct xp_rans_stream){ .in = in, .len = piece[i].length, .classes = m->classes, .q = m->q[count] };
        count++;
    }
    c->kernels.rans_decode(stream, count, c->desc.dim, xp_rans_lanes(c->desc.dim));
    for (size_t i = 0, k = 0; i < n; i++) {
        if (!piece[i].packed) {
            memcpy(out[i], piece[i].at, c->row_bytes);
            continue;
        }
        if (!stream[k].ok)
            return 0;
        put_together(m, c->desc.dtype, m->q[k++], piece[i].shift, piece[i].at, c->desc.dim, out[i]);
    }
    return 1;
}

static xp_status pack_decode(struct xp_coder *c, const uint8_t *in, size_t len, size_t rows, void *out)
{
    size_t distinct, seen = 0, waiting = 0;
    uint32_t *first; /* row in which a distinct row first stands */
    void *place[BATCH];
    struct source s;
    xp_status status;

    if (c->desc.dtype == XP_BYTE)
        return xp_corrupt(c, "pack: opaque bytes have no exponents");
    status = xp_pack_reserve(c, rows);
    if (status)
        return status;
    first = c->pack->column[0];
    if (!open_source(c, &s, in, len, rows, &distinct))
        return xp_corrupt(c, "pack: the head is impossible");
    for (size_t r = 0; r < rows; r++) {
        const size_t u = xp_read_bits(&s.map);

        if (u > seen || u >= distinct)
            return xp_corrupt(c, "pack: a row refers to a distinct row that is not there");
        c->pack->column[1][r] = (uint32_t)u;
        if (u < seen)
            continue;
        first[seen++] = (uint32_t)r;
        place[waiting++] = (char *)out + r * c->row_bytes;
        if (waiting == c->pack->batch) {
            if (!decode_batch(c, &s, waiting, place))
                return xp_corrupt(c, "pack: a row's bytes are not what its length says");
            waiting = 0;
        }
    }
    if (!decode_batch(c, &s, waiting, place))
        return xp_corrupt(c, "pack: a row's bytes are not what its length says");
    if (seen != distinct || !xp_bits_clean(&s.map) || s.at != s.end)
        return xp_corrupt(c, "pack: not all distinct rows are used, or bytes are left over");
    for (size_t r = 0; r < rows; r++) {
        const size_t from = first[c->pack->column[1][r]];

        if (from != r)
            memcpy((char *)out + r * c->row_bytes, (char *)out + from * c->row_bytes, c->row_bytes);
    }
    return XP_OK;
}

const struct xp_codec_ops xp_codec_pack = {
    .size = sizeof(struct xp_codec_ops),
    .id = XP_CODEC_PACK,
    .name = "pack",
    .about = "lossless: equal rows once, exponents entropy coded",
    .caps = XP_CAP_LOSSLESS,
    .encode = pack_encode,
    .decode = pack_decode,
};
