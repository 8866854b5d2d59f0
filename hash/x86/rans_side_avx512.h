/*
 * rans_side_avx512.h - rows of fewer than 16 states, of which 16 / lanes fill a vector: turning and encoding them
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_RANS_SIDE_AVX512_H
#define XP_RANS_SIDE_AVX512_H

#include "hash/x86/rans_avx512.h"
#include "hash/x86/rans_side.h"

#define SETS 4 /* side by side: one alone waits for its own states */

/* 16 steps of 1 lane, 8 of 2, 4 of 4 or 2 of 8 take a group of 16 symbols of every row: a table for all of them. */
#define PER_GROUP(lanes) (16 / (lanes))

/* Words of steps, each with `lanes` of every row, to words of rows, each with `lanes` of every step; or back, which is the same. */
XP_INLINE void turn(const uint16_t (*in)[16], uint16_t (*out)[16], const unsigned lanes)
{
    static const uint16_t words[2][32] = {
        { 0, 16, 32, 48, 1, 17, 33, 49, 2, 18, 34, 50, 3, 19, 35, 51, 4, 20, 36, 52, 5, 21, 37, 53, 6, 22, 38, 54, 7, 23, 39, 55 },
        { 8, 24, 40, 56, 9, 25, 41, 57, 10, 26, 42, 58, 11, 27, 43, 59, 12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63 } };
    const __m512i pair = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
    const __m512i zip[2] = { _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15) };
    const __m512i halves[2] = { _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15) };
    __m512i z[8], t[8];

    /* By halves, as they were just stored: the CPU does not pass on what comes from two stores. */
    XP_EACH(8 / (int)lanes) z[i] = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)in[2 * i]));
    XP_EACH(8 / (int)lanes) z[i] = _mm512_inserti64x4(z[i], _mm256_loadu_si256((const __m256i *)(const void *)in[2 * i + 1]), 1);
    if (lanes == 8)
        z[0] = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 4, 5, 2, 3, 6, 7), z[0]);
    if (lanes == 4) {
        t[0] = _mm512_permutex2var_epi64(z[0], _mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13), z[1]);
        z[1] = _mm512_permutex2var_epi64(z[0], _mm512_setr_epi64(2, 6, 10, 14, 3, 7, 11, 15), z[1]);
        z[0] = t[0];
    }
    if (lanes == 2) {
        /* Four steps of four rows: rows 0 .. 3 in t[0] and t[1], 4 .. 7 in t[2] and t[3]. */
        XP_EACH(4) t[i] = _mm512_permutex2var_epi32(z[2 * (i % 2)], i < 2 ? pair : _mm512_add_epi32(pair, _mm512_set1_epi32(4)), z[2 * (i % 2) + 1]);
        XP_EACH(4) z[i] = _mm512_permutex2var_epi64(t[i / 2 * 2], halves[i % 2], t[i / 2 * 2 + 1]);
    }
    if (lanes == 1) {
        /* Four steps of eight rows, eight of four, sixteen of two. */
        XP_EACH(8) t[i] = _mm512_permutex2var_epi16(z[2 * (i % 4)], _mm512_loadu_si512(words[i / 4]), z[2 * (i % 4) + 1]);
        XP_EACH(8) z[i] = _mm512_permutex2var_epi64(t[i / 2 * 2], zip[i % 2], t[i / 2 * 2 + 1]);
        /* z[4 * high + 2 * late + part]: rows 8 * high + 4 * part, steps 8 * late on */
        XP_EACH(8) t[i] = _mm512_permutex2var_epi64(z[i / 4 * 4 + i / 2 % 2], halves[i % 2], z[i / 4 * 4 + 2 + i / 2 % 2]);
        XP_EACH(8) z[i] = t[i];
    }
    XP_EACH(8 / (int)lanes) _mm512_storeu_si512(out[2 * i], z[i]);
}

/* ---- encoding -------------------------------------------------------------------------------------------------- */

/* A set on its way. */
struct encoding {
    const struct xp_rans_set *set;
    struct xp_rans_work w[16];
    struct xp_rans_parts parts[16];
    const uint8_t *classes;
    uint8_t *words[16];
    uint32_t state[16];
    uint8_t place[16][16]; /* of the group at hand, by step */
    uint16_t word[16][16]; /* low halves of the states before a step, */
    uint16_t full[16];     /* and which of them are sent */
};

XP_INLINE void open_encoding(struct encoding *e, struct xp_rans_source *s, const struct xp_rans_set *set, size_t n, const unsigned lanes)
{
    e->set = set;
    e->classes = s[set->row[0]].classes;
    for (unsigned r = 0; r < 16 / lanes; r++) {
        struct xp_rans_source *row = &s[set->row[r]];

        e->w[r] = xp_rans_cut(row->work, n);
        if (r < set->rows)
            e->parts[r] = xp_rans_split(row->q, n, row->classes, &e->w[r]);
        e->words[r] = e->w[r].words_end;
        xp_rans_begin(e->w[r].place, n, lanes, e->state + r * lanes);
    }
    memset(e->full, 0, sizeof(e->full)); /* the first group coded may have fewer steps */
}

XP_INLINE __m128i places(const struct encoding *e, unsigned r, size_t g)
{
    return _mm_loadu_si128((const __m128i *)(const void *)(e->w[r].place + 16 * g));
}

XP_INLINE __m512i places_of_4(const struct encoding *e, unsigned r, size_t g)
{
    const __m512i two = _mm512_inserti32x4(_mm512_castsi128_si512(places(e, r, g)), places(e, r + 1, g), 1);

    return _mm512_inserti32x4(_mm512_inserti32x4(two, places(e, r + 2, g), 2), places(e, r + 3, g), 3);
}

/* Of 16 rows: by dwords to vectors that have four steps of every row, and those by bytes. */
XP_INLINE void turn_places(__m512i z[4])
{
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i later = _mm512_add_epi32(first, _mm512_set1_epi32(2));
    const __m512i dwords = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    __m512i t[4];

    XP_EACH(4) t[i] = _mm512_permutex2var_epi32(z[i / 2 * 2], i % 2 ? later : first, z[i / 2 * 2 + 1]);
    XP_EACH(2) z[2 * i] = _mm512_inserti64x4(t[i], _mm512_castsi512_si256(t[i + 2]), 1);
    XP_EACH(2) z[2 * i + 1] = _mm512_permutex2var_epi64(t[i], _mm512_setr_epi64(4, 5, 6, 7, 12, 13, 14, 15), t[i + 2]);
    XP_EACH(4) z[i] = _mm512_permutexvar_epi32(dwords, _mm512_shuffle_epi8(z[i], bytes));
}

/* Lays out the symbols' places of the group before `end`, if there is one: `lanes` bytes of every row a step. */
XP_INLINE void open_group(struct encoding *e, size_t end, const unsigned lanes)
{
    static const uint16_t words[32] = { 0, 8, 16, 24, 32, 40, 48, 56, 1, 9, 17, 25, 33, 41, 49, 57, 2, 10, 18, 26, 34, 42, 50, 58, 3, 11, 19, 27, 35, 43, 51, 59 };
    const __m512i dwords = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const size_t g = end - 1;
    __m512i z[4], t;

    if (end == 0)
        return;
    if (lanes == 8) {
        const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(places(e, 0, g)), places(e, 1, g), 1);

        _mm256_storeu_si256((__m256i *)(void *)e->place[0], _mm256_permute4x64_epi64(both, 0xd8));
        return;
    }
    XP_EACH(4 / (int)lanes) z[i] = places_of_4(e, 4 * (unsigned)i, g);
    if (lanes == 4)
        z[0] = _mm512_permutexvar_epi32(dwords, z[0]);
    if (lanes == 2) {
        t = _mm512_permutex2var_epi16(z[0], _mm512_loadu_si512(words), z[1]);
        z[1] = _mm512_permutex2var_epi16(z[0], _mm512_add_epi16(_mm512_loadu_si512(words), _mm512_set1_epi16(4)), z[1]);
        z[0] = t;
    }
    if (lanes == 1)
        turn_places(z);
    XP_EACH(4 / (int)lanes) _mm512_storeu_si512(e->place[4 * i], z[i]);
}

/* Word i of two rows' 32 is of this step, and sent where its mask has this bit. */
#define STEP(lanes, i) (i) % 16 / (lanes)
#define BIT(lanes, i) 1 << ((i) / 16 * (lanes) + (i) % (lanes))
#define OF_8(f, lanes, i) f(lanes, i), f(lanes, i + 1), f(lanes, i + 2), f(lanes, i + 3), f(lanes, i + 4), f(lanes, i + 5), f(lanes, i + 6), f(lanes, i + 7)
#define OF_32(f, lanes) { OF_8(f, lanes, 0), OF_8(f, lanes, 8), OF_8(f, lanes, 16), OF_8(f, lanes, 24) }
#define OF_LANES(f) { OF_32(f, 1), OF_32(f, 2), OF_32(f, 4), OF_32(f, 8) }

static const uint16_t steps_of_words[4][32] = OF_LANES(STEP), bits_of_words[4][32] = OF_LANES(BIT);

/* Which words of the group are sent: masks of steps to masks of rows, by `lanes` bits. */
XP_INLINE void turn_full(const uint16_t *by_step, __mmask32 *two_rows, const unsigned lanes)
{
    const __m512i all = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)by_step));
    const __m512i masks = _mm512_permutexvar_epi16(_mm512_loadu_si512(steps_of_words[__builtin_ctz(lanes)]), all);
    const __m512i bits = _mm512_loadu_si512(bits_of_words[__builtin_ctz(lanes)]);

    XP_EACH(8 / (int)lanes) _store_mask32(&two_rows[i], _mm512_test_epi16_mask(masks, _mm512_slli_epi16(bits, 2 * lanes * (unsigned)i)));
}

/* Words of the group to the rows, the last ones first. */
XP_INLINE void close_group(struct encoding *e, const unsigned lanes)
{
    const unsigned rows = e->set->rows;
    uint16_t by_row[16][16];
    __mmask32 two_rows[8];

    turn((const uint16_t (*)[16])e->word, by_row, lanes);
    turn_full(e->full, two_rows, lanes);
    for (unsigned r = 0; r < rows; r++) {
        const __m512i all = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)by_row[r]));
        uint16_t full;

        memcpy(&full, (const char *)two_rows + 2 * r, sizeof(full));
        e->words[r] = xp_rans_put(e->words[r], xp_rans_taken(full, all), full);
    }
}

/* Encodes `count` sets side by side; count is a constant where this is used. */
XP_INLINE void encode(struct xp_rans_source *s, const struct xp_rans_set *set, const int count, size_t n, const unsigned lanes)
{
    const size_t steps = xp_rans_steps(n, lanes), per = PER_GROUP(lanes);
    struct encoding e[SETS];
    __m512i x[SETS];

    for (int i = 0; i < count; i++) {
        open_encoding(&e[i], s, &set[i], n, lanes);
        open_group(&e[i], (steps + per - 1) / per, lanes);
        x[i] = _mm512_loadu_si512(e[i].state);
    }
    for (size_t g = (steps + per - 1) / per; g-- > 0;) {
        const struct xp_rans_table *t[SETS];

        XP_EACH(count) t[i] = xp_rans_table(e[i].classes[g]);
        for (size_t j = steps - g * per < per ? steps - g * per : per; j-- > 0;) {
            __m512i at[SETS], span[SETS];
            __mmask16 full[SETS];
            __m512 part[SETS];

            XP_EACH(count) at[i] = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)e[i].place[j]));
            XP_EACH(count) span[i] = xp_rans_span(t[i], at[i]);
            XP_EACH(count) part[i] = xp_rans_part(t[i], at[i]);
            XP_EACH(count) full[i] = _mm512_cmpge_epu32_mask(x[i], _mm512_slli_epi32(span[i], 20)); /* as in rans_encode_avx512.h */
            XP_EACH(count) _mm256_storeu_si256((__m256i *)(void *)e[i].word[j], _mm512_cvtepi32_epi16(x[i]));
            XP_EACH(count) e[i].full[j] = full[i];
            XP_EACH(count) x[i] = xp_rans_push(_mm512_mask_srli_epi32(x[i], full[i], x[i], 16), span[i], part[i]);
        }
        /* The next group is opened first, since this one's masks, stored one by one, are loaded together: that waits for the cache. */
        for (int i = 0; i < count; i++)
            open_group(&e[i], g, lanes);
        for (int i = 0; i < count; i++)
            close_group(&e[i], lanes);
    }
    for (int i = 0; i < count; i++) {
        _mm512_storeu_si512(e[i].state, x[i]);
        for (unsigned r = 0; r < set[i].rows; r++)
            xp_rans_assemble(&s[set[i].row[r]], e[i].state + r * lanes, lanes, &e[i].w[r], e[i].parts[r], e[i].words[r]);
    }
}

/* ---- sets ---------------------------------------------------------------------------------------------------------- */

/* An odd number of sets gets one more that has no rows of its own. */
static int even(struct xp_rans_set *set, int count)
{
    if (count % 2 == 0)
        return count;
    set[count] = set[0];
    set[count].rows = 0;
    return count + 1;
}

/* Two or four sets side by side, or one: fewer of many would take longer. */
#define COUNTED(call, s, set, count, n, lanes)                                                                                    \
    switch (count == 1 ? 1 : even(set, count)) {                                                                                  \
    case 1: call(s, set, 1, n, lanes); break;                                                                                     \
    case 2: call(s, set, 2, n, lanes); break;                                                                                     \
    default: call(s, set, SETS, n, lanes); break;                                                                                 \
    }

XP_INLINE void encode_sets(struct xp_rans_source *s, struct xp_rans_set *set, int count, size_t n, const unsigned lanes)
{
    COUNTED(encode, s, set, count, n, lanes)
}

#endif
