/*
 * rans_side_avx2.c - the entropy coder with AVX2, for rows of fewer than 16 states: 16 / lanes rows fill a pair of vectors
 *
 * 16 / lanes steps take a group of 16 symbols of every row: a table for all of them. Between groups, what the steps need or leave
 * behind is turned from an order by rows to one by steps or back.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rans_avx2.h"
#include "hash/x86/rans_side.h"

#define SIDE 2 /* sets side by side, since one waits for its own states; written out, as loops of so much are not unrolled */
#define PER_GROUP(lanes) (16 / (lanes))

/* ---- rows to steps and back --------------------------------------------------------------------------------------- */

XP_INLINE __m256i interleave(__m256i a, __m256i b, const unsigned size, const int high)
{
    switch (size) {
    case 1: return high ? _mm256_unpackhi_epi16(a, b) : _mm256_unpacklo_epi16(a, b);
    case 2: return high ? _mm256_unpackhi_epi32(a, b) : _mm256_unpacklo_epi32(a, b);
    case 4: return high ? _mm256_unpackhi_epi64(a, b) : _mm256_unpacklo_epi64(a, b);
    default: return high ? _mm256_permute2x128_si256(a, b, 0x31) : _mm256_permute2x128_si256(a, b, 0x20);
    }
}

/* Vectors of steps, each with `lanes` words of every row, to vectors of rows, each with `lanes` words of every step; or back, which is
 * the same. Result i is at z[turned(i)]. */
XP_INLINE void turn(__m256i *z, const unsigned lanes)
{
    __m256i t[16];

    XP_UNROLL
    for (unsigned size = lanes; size < 16; size *= 2) {
        XP_UNROLL
        for (unsigned i = 0; i < PER_GROUP(lanes) / 2; i++) {
            t[i] = interleave(z[2 * i], z[2 * i + 1], size, 0);
            t[i + PER_GROUP(lanes) / 2] = interleave(z[2 * i], z[2 * i + 1], size, 1);
        }
        XP_UNROLL
        for (unsigned i = 0; i < PER_GROUP(lanes); i++)
            z[i] = t[i];
    }
}

XP_INLINE unsigned turned(unsigned i, const unsigned lanes)
{
    if (lanes == 1)
        return (i & 10) | (i & 1) << 2 | (i & 4) >> 2;
    if (lanes == 2)
        return (i & 4) | (i & 1) << 1 | (i & 2) >> 1;
    return i;
}

/* What a group's steps hold, by row: that of row r is at z[turned(r)]. */
XP_INLINE void turn_to_rows(__m256i *z, const __m256i *step, const unsigned lanes)
{
    XP_UNROLL
    for (unsigned k = 0; k < PER_GROUP(lanes); k++)
        z[k] = step[k];
    turn(z, lanes);
}

/* ---- encoding -------------------------------------------------------------------------------------------------- */

/* A set on its way. */
struct encoding {
    const struct xp_rans_set *set;
    const uint8_t *classes;
    struct xp_rans_work w[16];
    struct xp_rans_parts parts[16];
    uint8_t *words[16];
    uint32_t state[16];
    __m256i place[16]; /* of the group at hand, by step: symbols, */
    __m256i word[16];  /* low halves of the states before the step, */
    uint64_t full[4];  /* and which of them are sent: 16 bits for each of four steps, twice that for eight, .. */
};

XP_INLINE void open_encoding(struct encoding *e, struct xp_rans_source *s, const struct xp_rans_set *set, size_t n, const unsigned lanes)
{
    e->set = set;
    e->classes = s[set->row[0]].classes;
    for (unsigned r = 0; r < 16 / lanes; r++) {
        struct xp_rans_source *row = &s[set->row[r]];

        e->w[r] = xp_rans_cut(row->work, n);
        if (r < set->rows)
            e->parts[r] = xp_rans_split_avx2(row->q, n, row->classes, &e->w[r]);
        e->words[r] = e->w[r].words_end;
        xp_rans_begin_doubled(e->w[r].place, n, lanes, e->state + r * lanes);
    }
    for (unsigned k = 0; k < PER_GROUP(lanes); k++)
        e->word[k] = _mm256_setzero_si256();
}

/* Lays out the symbols of group g. */
XP_INLINE void open_group(struct encoding *e, size_t g, const unsigned lanes)
{
    __m256i z[PER_GROUP(1)];

    XP_UNROLL
    for (unsigned r = 0; r < PER_GROUP(lanes); r++)
        z[r] = xp_rans_places(e->w[r].place + 16 * g);
    turn(z, lanes);
    XP_UNROLL
    for (unsigned k = 0; k < PER_GROUP(lanes); k++)
        e->place[k] = z[turned(k, lanes)];
    memset(e->full, 0, sizeof(e->full));
}

XP_INLINE void encode_step(struct encoding *e, __m256i x[2], const struct xp_rans_table *t, size_t k)
{
    const unsigned full = xp_rans_push_pair(x, e->place[k], t, &e->word[k]);

    e->full[k / 4] = e->full[k / 4] << 16 | full;
}

/* Which of a row's 16 words of the group are sent. */
XP_INLINE unsigned full_of(const struct encoding *e, unsigned r, const unsigned lanes)
{
    const uint64_t lane = 0x0001000100010001u * ((1u << lanes) - 1) << (r * lanes);
    unsigned bits = 0;

    for (unsigned i = 0; i < (PER_GROUP(lanes) + 3) / 4; i++)
        bits |= (unsigned)_pext_u64(e->full[i], lane) << (4 * lanes * i);
    return bits;
}

/* Words of the group to the rows, the last ones first. */
XP_INLINE void close_group(struct encoding *e, const unsigned lanes)
{
    __m256i z[PER_GROUP(1)];

    turn_to_rows(z, e->word, lanes);
    XP_UNROLL
    for (unsigned r = 0; r < PER_GROUP(lanes); r++)
        if (r < e->set->rows)
            e->words[r] = xp_rans_put_16(e->words[r], z[turned(r, lanes)], full_of(e, r, lanes));
}

/* Encodes `count` sets side by side; count is a constant where this is used. */
XP_INLINE void encode(struct xp_rans_source *s, const struct xp_rans_set *set, const int count, size_t n, const unsigned lanes)
{
    const size_t steps = xp_rans_steps(n, lanes), per = PER_GROUP(lanes);
    struct encoding e[SIDE];
    __m256i x[SIDE][2];

    for (int i = 0; i < count; i++) {
        open_encoding(&e[i], s, &set[i], n, lanes);
        xp_rans_load_states(x[i], e[i].state);
    }
    for (size_t g = (steps + per - 1) / per; g-- > 0;) {
        const struct xp_rans_table *t[SIDE];

        for (int i = 0; i < count; i++) {
            open_group(&e[i], g, lanes);
            t[i] = xp_rans_table(e[i].classes[g]);
        }
        for (size_t k = steps - g * per < per ? steps - g * per : per; k-- > 0;) {
            encode_step(&e[0], x[0], t[0], k);
            if (count > 1)
                encode_step(&e[1], x[1], t[1], k);
        }
        for (int i = 0; i < count; i++)
            close_group(&e[i], lanes);
    }
    for (int i = 0; i < count; i++) {
        xp_rans_store_states(e[i].state, x[i]);
        for (unsigned r = 0; r < set[i].rows; r++)
            xp_rans_assemble(&s[set[i].row[r]], e[i].state + r * lanes, lanes, &e[i].w[r], e[i].parts[r], e[i].words[r]);
    }
}

/* ---- decoding -------------------------------------------------------------------------------------------------- */

/* A set on its way. */
struct decoding {
    const struct xp_rans_set *set;
    struct xp_rans_side side;
    union { /* where rows are read, and where they end: four a vector */
        __m256i vector[4];
        uint64_t row[16];
    } at, end;
    __m256i over[4];    /* -1: has run beyond its end */
    __m256i symbol[16]; /* of the group at hand, by step */
};

XP_INLINE const uint8_t *at_row(const struct decoding *d, unsigned r)
{
    return (const uint8_t *)(uintptr_t)d->at.row[r];
}

XP_INLINE void open_decoding(struct decoding *d, const struct xp_rans_stream *s, const struct xp_rans_set *set, size_t n, const unsigned lanes)
{
    d->set = set;
    xp_rans_open_set(&d->side, s, set, n, lanes);
    for (unsigned r = 0; r < 16; r++) {
        d->at.row[r] = r < 16 / lanes ? (uint64_t)(uintptr_t)d->side.p[r] : 0;
        d->end.row[r] = r < 16 / lanes ? (uint64_t)(uintptr_t)d->side.end[r] : 0;
    }
    for (int i = 0; i < 4; i++)
        d->over[i] = _mm256_setzero_si256();
    for (unsigned k = 0; k < PER_GROUP(lanes); k++)
        d->symbol[k] = _mm256_setzero_si256();
}

/* The next words of rows r .. r + 7, one each. */
XP_INLINE __m128i fetch_1(const struct decoding *d, const unsigned r)
{
    return _mm_setr_epi16((short)xp_get16(at_row(d, r)), (short)xp_get16(at_row(d, r + 1)), (short)xp_get16(at_row(d, r + 2)),
                          (short)xp_get16(at_row(d, r + 3)), (short)xp_get16(at_row(d, r + 4)), (short)xp_get16(at_row(d, r + 5)),
                          (short)xp_get16(at_row(d, r + 6)), (short)xp_get16(at_row(d, r + 7)));
}

/* Of rows r .. r + 3, two each. */
XP_INLINE __m128i fetch_2(const struct decoding *d, const unsigned r)
{
    return _mm_setr_epi32((int)xp_get32(at_row(d, r)), (int)xp_get32(at_row(d, r + 1)), (int)xp_get32(at_row(d, r + 2)), (int)xp_get32(at_row(d, r + 3)));
}

/* Low states take the next word of their row: its lanes in order, so that each takes as many words further on as lanes before it took one. */
XP_INLINE void refill(struct decoding *d, __m256i x[2], const unsigned lanes)
{
    const __m256i low = xp_rans_low(x), twos = _mm256_and_si256(low, _mm256_set1_epi16(2)), zero = _mm256_setzero_si256();
    __m256i *at = d->at.vector, words, which;

    if (lanes == 1) {
        words = _mm256_set_m128i(fetch_1(d, 8), fetch_1(d, 0));
        const __m256i lower = _mm256_unpacklo_epi16(twos, zero), upper = _mm256_unpackhi_epi16(twos, zero); /* rows 0-3 and 8-11, the others */
        at[0] = _mm256_add_epi64(at[0], _mm256_cvtepu32_epi64(_mm256_castsi256_si128(lower)));
        at[1] = _mm256_add_epi64(at[1], _mm256_cvtepu32_epi64(_mm256_castsi256_si128(upper)));
        at[2] = _mm256_add_epi64(at[2], _mm256_cvtepu32_epi64(_mm256_extracti128_si256(lower, 1)));
        at[3] = _mm256_add_epi64(at[3], _mm256_cvtepu32_epi64(_mm256_extracti128_si256(upper, 1)));
    } else if (lanes == 2) {
        const __m256i firsts = _mm256_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13, 0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
        const __m256i taken = _mm256_madd_epi16(twos, _mm256_set1_epi16(1));

        words = _mm256_set_m128i(fetch_2(d, 4), fetch_2(d, 0));
        words = _mm256_blendv_epi8(_mm256_shuffle_epi8(words, firsts), words, _mm256_slli_epi32(low, 16));
        at[0] = _mm256_add_epi64(at[0], _mm256_cvtepu32_epi64(_mm256_castsi256_si128(taken)));
        at[1] = _mm256_add_epi64(at[1], _mm256_cvtepu32_epi64(_mm256_extracti128_si256(taken, 1)));
    } else {
        words = _mm256_setr_epi64x((long long)xp_get64(at_row(d, 0)), (long long)xp_get64(at_row(d, 1)), (long long)xp_get64(at_row(d, 2)),
                                   (long long)xp_get64(at_row(d, 3)));
        which = _mm256_add_epi64(_mm256_slli_epi64(twos, 16), _mm256_add_epi64(_mm256_slli_epi64(twos, 32), _mm256_slli_epi64(twos, 48)));
        which = _mm256_or_si256(which, _mm256_slli_epi16(which, 8));
        which = _mm256_add_epi16(which, _mm256_set_epi64x(0x0908090809080908, 0x0100010001000100, 0x0908090809080908, 0x0100010001000100));
        words = _mm256_shuffle_epi8(words, which);
        at[0] = _mm256_add_epi64(at[0], _mm256_sad_epu8(twos, zero));
    }
    xp_rans_refill_pair(x, low, words);
}

XP_INLINE void decode_step(struct decoding *d, __m256i x[2], const struct xp_rans_table *t, size_t k, const unsigned lanes)
{
    d->symbol[k] = xp_rans_pop_pair(x, t);
    if (lanes == 8) {
        const uint8_t *p[2] = { at_row(d, 0), at_row(d, 1) };

        xp_rans_refill_halves(x, p, 2);
        d->at.row[0] = (uint64_t)(uintptr_t)p[0];
        d->at.row[1] = (uint64_t)(uintptr_t)p[1];
    } else {
        refill(d, x, lanes);
    }
}

/* Symbols of group g to the rows. Notes rows that have run beyond their end, and stops them there: no group takes more than 32 bytes. */
XP_INLINE void put_group(struct decoding *d, struct xp_rans_stream *s, size_t g, const unsigned lanes)
{
    __m256i z[PER_GROUP(1)];

    turn_to_rows(z, d->symbol, lanes);
    XP_UNROLL
    for (unsigned r = 0; r < PER_GROUP(lanes); r++)
        if (r < d->set->rows)
            _mm256_storeu_si256((__m256i *)(void *)(s[d->set->row[r]].q + 16 * g), z[turned(r, lanes)]);
    for (unsigned i = 0; i < (16 / lanes + 3) / 4; i++) {
        const __m256i over = _mm256_cmpgt_epi64(d->at.vector[i], d->end.vector[i]);

        d->over[i] = _mm256_or_si256(d->over[i], over);
        d->at.vector[i] = _mm256_blendv_epi8(d->at.vector[i], d->end.vector[i], over);
    }
}

static void close_decoding(const struct decoding *d, struct xp_rans_stream *s, size_t n, const unsigned lanes, const __m256i x[2])
{
    uint32_t state[16];

    xp_rans_store_states(state, x);
    for (unsigned r = 0; r < d->set->rows; r++) {
        struct xp_rans_stream *row = &s[d->set->row[r]];
        const int over = _mm256_movemask_pd(_mm256_castsi256_pd(d->over[r / 4])) >> (r % 4) & 1;

        row->ok = !(d->side.bad >> r & 1) && !over && xp_rans_end(row, n, lanes, state + r * lanes) &&
                  xp_rans_join_avx2(row, n, d->side.planes[r], at_row(d, r));
    }
}

/* Decodes `count` sets side by side; count is a constant where this is used. */
XP_INLINE void decode(struct xp_rans_stream *s, const struct xp_rans_set *set, const int count, size_t n, const unsigned lanes)
{
    const size_t steps = xp_rans_steps(n, lanes), per = PER_GROUP(lanes);
    struct decoding d[SIDE];
    __m256i x[SIDE][2];

    for (int i = 0; i < count; i++) {
        open_decoding(&d[i], s, &set[i], n, lanes);
        xp_rans_load_states(x[i], d[i].side.state);
    }
    for (size_t g = 0; g * per < steps; g++) {
        const size_t live = steps - g * per < per ? steps - g * per : per;
        const struct xp_rans_table *t[SIDE];

        for (int i = 0; i < count; i++)
            t[i] = xp_rans_table(d[i].side.classes[g]);
        for (size_t k = 0; k < live; k++) {
            decode_step(&d[0], x[0], t[0], k, lanes);
            if (count > 1)
                decode_step(&d[1], x[1], t[1], k, lanes);
        }
        for (int i = 0; i < count; i++)
            put_group(&d[i], s, g, lanes);
    }
    for (int i = 0; i < count; i++)
        close_decoding(&d[i], s, n, lanes, x[i]);
}

/* ---- sets ---------------------------------------------------------------------------------------------------------- */

XP_INLINE void encode_sets(struct xp_rans_source *s, const struct xp_rans_set *set, int count, size_t n, const unsigned lanes)
{
    if (count == SIDE)
        encode(s, set, SIDE, n, lanes);
    else
        encode(s, set, 1, n, lanes);
}

XP_INLINE void decode_sets(struct xp_rans_stream *s, const struct xp_rans_set *set, int count, size_t n, const unsigned lanes)
{
    if (count == SIDE)
        decode(s, set, SIDE, n, lanes);
    else
        decode(s, set, 1, n, lanes);
}

void xp_rans_encode_side_avx2(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes)
{
    XP_RANS_EACH_SETS(s, count, n, lanes, SIDE, encode_sets);
}

void xp_rans_decode_side_avx2(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    XP_RANS_EACH_SETS(s, count, n, lanes, SIDE, decode_sets);
}
