/*
 * rans_side_avx2.c - the entropy coder with AVX2, for rows of fewer than 16 states: 16 / lanes rows fill a pair of vectors
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rans_avx2.h"
#include "hash/x86/rans_side.h"

/* Steps between two looks at the ends of the rows; what is read beyond them lies within XP_RANS_SLACK. */
#define STRIDE (XP_RANS_SLACK / 32 - 2)
#define SIDE 2 /* sets side by side, since one waits for its own states */

/* ---- encoding -------------------------------------------------------------------------------------------------- */

/* What encoding a set needs beside its states. */
struct encoding {
    struct xp_rans_parts parts[16];
    struct xp_rans_work w[16];
    uint8_t *words[16], place[XP_RANS_SIDE_STEPS][16];
    const uint8_t *classes;
    uint32_t state[16];
};

static void begin_set(struct encoding *e, struct xp_rans_source *s, const struct xp_rans_set *set, size_t n, const unsigned lanes)
{
    e->classes = s[set->row[0]].classes;
    for (unsigned r = 0; r < set->rows; r++) {
        struct xp_rans_source *row = &s[set->row[r]];

        e->w[r] = xp_rans_cut(row->work, n);
        e->parts[r] = xp_rans_split_avx2(row->q, n, row->classes, &e->w[r]);
        e->words[r] = e->w[r].words_end;
    }
    xp_rans_lay_out_set(set, e->w, n, lanes, e->place, e->state);
}

/* Puts the words of the lanes in `full` below each row's, its highest lane first. */
XP_INLINE void put_words(uint8_t **words, const unsigned rows, __m256i all, unsigned full, const unsigned lanes)
{
    uint16_t word[16];

    _mm256_storeu_si256((__m256i *)(void *)word, all);
    for (unsigned r = 0; r < rows; r++) {
        uint8_t *at = words[r];

        XP_UNROLL
        for (unsigned l = lanes; l-- > 0;) {
            xp_put16(at - 2, word[r * lanes + l]);
            at -= 2 * (full >> (r * lanes + l) & 1);
        }
        words[r] = at;
    }
}

/* Encodes `count` sets side by side; count is a constant where this is used. */
XP_INLINE void encode(struct xp_rans_source *s, const struct xp_rans_set *set, const int count, size_t n, const unsigned lanes)
{
    struct encoding e[SIDE];
    __m256i x[2 * SIDE];

    for (int i = 0; i < count; i++) {
        begin_set(&e[i], s, &set[i], n, lanes);
        x[2 * i] = _mm256_loadu_si256((const __m256i *)(const void *)e[i].state);
        x[2 * i + 1] = _mm256_loadu_si256((const __m256i *)(const void *)(e[i].state + 8));
    }
    for (size_t k = xp_rans_steps(n, lanes); k-- > 0;) {
        XP_UNROLL
        for (int i = 0; i < count; i++) {
            __m256i all;
            const unsigned full = xp_rans_push_pair(&x[2 * i], e[i].place[k], xp_rans_table(e[i].classes[k * lanes / XP_RANS_GROUP]), &all);

            put_words(e[i].words, set[i].rows, all, full, lanes);
        }
    }
    for (int i = 0; i < count; i++) {
        _mm256_storeu_si256((__m256i *)(void *)e[i].state, x[2 * i]);
        _mm256_storeu_si256((__m256i *)(void *)(e[i].state + 8), x[2 * i + 1]);
        for (unsigned r = 0; r < set[i].rows; r++)
            xp_rans_assemble(&s[set[i].row[r]], e[i].state + r * lanes, lanes, &e[i].w[r], e[i].parts[r], e[i].words[r]);
    }
}

/* ---- decoding -------------------------------------------------------------------------------------------------- */

/* Vector `half` of words: the next `lanes` words of each of its rows, in the row's lanes. */
XP_INLINE __m256i fetch(const uint8_t *const *p, const int half, const unsigned lanes)
{
    const unsigned r = 8 / lanes * (unsigned)half;

    if (lanes == 1)
        return _mm256_cvtepu16_epi32(_mm_setr_epi16((short)xp_get16(p[r]), (short)xp_get16(p[r + 1]), (short)xp_get16(p[r + 2]),
                                                    (short)xp_get16(p[r + 3]), (short)xp_get16(p[r + 4]), (short)xp_get16(p[r + 5]),
                                                    (short)xp_get16(p[r + 6]), (short)xp_get16(p[r + 7])));
    if (lanes == 2)
        return _mm256_cvtepu16_epi32(_mm_setr_epi32((int)xp_get32(p[r]), (int)xp_get32(p[r + 1]), (int)xp_get32(p[r + 2]), (int)xp_get32(p[r + 3])));
    if (lanes == 4)
        return _mm256_cvtepu16_epi32(_mm_set_epi64x((long long)xp_get64(p[r + 1]), (long long)xp_get64(p[r])));
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p[r]));
}

/* For each of 8 lanes as a byte: the lane whose word it would take. m: the lanes that take one. */
XP_INLINE uint64_t sources(unsigned m, const unsigned lanes)
{
    const uint64_t need = _pdep_u64(m, 0x0101010101010101u);

    if (lanes == 8)
        return need * 0x0101010101010101u << 8;
    if (lanes == 4)
        return 0x0404040400000000u + (need << 8 & 0xffffff00ffffff00u) + (need << 16 & 0xffff0000ffff0000u) + (need << 24 & 0xff000000ff000000u);
    return 0x0606040402020000u + (need << 8 & 0xff00ff00ff00ff00u);
}

/* States below 2^16 take the next word of their row. */
XP_INLINE __m256i refill(__m256i x, const uint8_t **p, const int half, const unsigned lanes)
{
    const __m256i low = xp_rans_low256(x);
    const unsigned m = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(low)), first = 8 / lanes * (unsigned)half;
    __m256i words = fetch(p, half, lanes);

    if (lanes > 1)
        words = _mm256_permutevar8x32_epi32(words, _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)sources(m, lanes))));
    XP_UNROLL
    for (unsigned r = 0; r < 8 / lanes; r++)
        p[first + r] += 2 * __builtin_popcount(m >> (r * lanes) & ((1u << lanes) - 1));
    return xp_rans_refill256(x, low, words);
}

/* Notes rows that have run beyond their end, and stops them there. */
static void check_ends(struct xp_rans_side *d, const unsigned rows)
{
    for (unsigned r = 0; r < rows; r++)
        if (d->p[r] > d->end[r]) {
            d->p[r] = d->end[r];
            d->bad |= 1u << r;
        }
}

static void close_set(struct xp_rans_side *d, struct xp_rans_stream *s, const struct xp_rans_set *set, size_t n, const unsigned lanes)
{
    for (unsigned r = 0; r < set->rows; r++) {
        struct xp_rans_stream *row = &s[set->row[r]];

        for (size_t k = 0; k < xp_rans_steps(n, lanes); k++)
            memcpy(row->q + k * lanes, d->symbol[k] + r * lanes, 2 * lanes);
        row->ok = !(d->bad >> r & 1) && xp_rans_end(row, n, lanes, d->state + r * lanes) && xp_rans_join_avx2(row, n, d->planes[r], d->p[r]);
    }
}

/* Decodes `count` sets side by side; count is a constant where this is used. */
XP_INLINE void decode(struct xp_rans_stream *s, const struct xp_rans_set *set, const int count, size_t n, const unsigned lanes)
{
    const size_t steps = xp_rans_steps(n, lanes);
    struct xp_rans_side d[SIDE];
    __m256i x[2 * SIDE];

    for (int i = 0; i < count; i++) {
        xp_rans_open_set(&d[i], s, &set[i], n, lanes);
        x[2 * i] = _mm256_loadu_si256((const __m256i *)(const void *)d[i].state);
        x[2 * i + 1] = _mm256_loadu_si256((const __m256i *)(const void *)(d[i].state + 8));
    }
    for (size_t k = 0; k < steps;) {
        for (size_t stop = k + STRIDE < steps ? k + STRIDE : steps; k < stop; k++) {
            XP_UNROLL
            for (int i = 0; i < count; i++) {
                const __m256i symbol = xp_rans_pop_pair(&x[2 * i], xp_rans_table(d[i].classes[k * lanes / XP_RANS_GROUP]));

                _mm256_storeu_si256((__m256i *)(void *)d[i].symbol[k], _mm256_permute4x64_epi64(symbol, 0xd8));
                x[2 * i] = refill(x[2 * i], d[i].p, 0, lanes);
                x[2 * i + 1] = refill(x[2 * i + 1], d[i].p, 1, lanes);
            }
        }
        for (int i = 0; i < count; i++)
            check_ends(&d[i], 16 / lanes);
    }
    for (int i = 0; i < count; i++) {
        _mm256_storeu_si256((__m256i *)(void *)d[i].state, x[2 * i]);
        _mm256_storeu_si256((__m256i *)(void *)(d[i].state + 8), x[2 * i + 1]);
        close_set(&d[i], s, &set[i], n, lanes);
    }
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
