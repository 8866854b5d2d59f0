/*
 * rans_side_avx512.c - the entropy coder with AVX-512, for rows of fewer than 16 states: 16 / lanes rows fill a vector
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/x86/rans_side_avx512.h"

void xp_rans_encode_side(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes)
{
    XP_RANS_EACH_SETS(s, count, n, lanes, SETS, encode_sets);
}

/* ---- decoding -------------------------------------------------------------------------------------------------- */

/* Where the rows of a set are read, as addresses in 64-bit lanes. The second vector is for 16 rows. over: negative where a row has run
 * beyond its end; not a mask register, since GCC 12 spills one of 8 bits and reloads more. */
struct cursor {
    __m512i at[2], end[2], over[2];
};

/* What every step changes, by set. words: of rows with one or two lanes the next ones, enough for two steps, as gathering takes long. */
struct moving {
    __m512i x[SETS], at[2][SETS], words[SETS];
};

/* The same between two steps. GCC keeps an array in memory through a loop that gathers. */
struct four {
    __m512i a, b, c, d;
};
struct resting {
    struct four x, at[2], words;
};

XP_INLINE void put_four(__m512i *v, struct four from)
{
    v[0] = from.a;
    v[1] = from.b;
    v[2] = from.c;
    v[3] = from.d;
}

XP_INLINE struct four get_four(const __m512i *v)
{
    return (struct four){ v[0], v[1], v[2], v[3] };
}

static struct cursor put_cursor(const uint8_t *const *p, const uint8_t *const *end, const unsigned lanes)
{
    uint64_t at[16] = { 0 }, stop[16] = { 0 };
    struct cursor c;

    for (unsigned r = 0; r < 16 / lanes; r++) {
        at[r] = (uint64_t)(uintptr_t)p[r];
        stop[r] = (uint64_t)(uintptr_t)end[r];
    }
    for (int i = 0; i < 2; i++) {
        c.at[i] = _mm512_loadu_si512(at + 8 * i);
        c.end[i] = _mm512_loadu_si512(stop + 8 * i);
        c.over[i] = _mm512_setzero_si512();
    }
    return c;
}

/* Loads words of set i, whose rows have one or two lanes: two or four, each row's in its lanes. */
XP_INLINE void look_ahead(struct moving *m, const int i, const unsigned lanes)
{
    if (lanes == 1)
        m->words[i] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_i64gather_epi32(m->at[0][i], NULL, 1)),
                                         _mm512_i64gather_epi32(m->at[1][i], NULL, 1), 1);
    if (lanes == 2)
        m->words[i] = _mm512_i64gather_epi64(m->at[0][i], NULL, 1);
}

/* The words for states that are low, in lower halves; the upper ones may be anything. The rows go on behind them. */
XP_INLINE __m512i take_1(struct moving *m, const int i, __mmask16 low)
{
    const __m512i words = m->words[i], bytes = _mm512_maskz_set1_epi32(low, 2);

    m->words[i] = _mm512_mask_srli_epi32(words, low, words, 16);
    m->at[0][i] = _mm512_add_epi64(m->at[0][i], _mm512_cvtepu32_epi64(_mm512_castsi512_si256(bytes)));
    m->at[1][i] = _mm512_add_epi64(m->at[1][i], _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(bytes, 1)));
    return words;
}

/* The second lane of a row takes its first word where the first lane takes none. */
XP_INLINE __m512i take_2(struct moving *m, const int i, __mmask16 low)
{
    const __m512i first = _mm512_shuffle_epi32(m->words[i], 0xa0), bytes = _mm512_maskz_set1_epi32(low, 2);
    const __m512i taken = _mm512_sad_epu8(bytes, _mm512_setzero_si512());

    m->words[i] = _mm512_srlv_epi64(m->words[i], _mm512_slli_epi64(taken, 3));
    m->at[0][i] = _mm512_add_epi64(m->at[0][i], taken);
    return _mm512_srlv_epi32(first, _mm512_slli_epi64(bytes, 32 + 3));
}

XP_INLINE __m512i take_4(struct moving *m, const int i, __mmask16 low)
{
    const __m512i first = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const __m512i last = _mm512_setr_epi32(3, 7, 11, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_i64gather_epi64(NULL, _mm512_castsi512_si256(m->at[0][i]), 1));
    const __m512i need = _mm512_maskz_set1_epi32(low, 1), two = _mm512_add_epi32(need, _mm512_slli_epi64(need, 32));
    const __m512i taken = _mm512_add_epi32(two, _mm512_maskz_shuffle_epi32(0xcccc, two, 0x55)); /* by the row's lanes up to and with this one */
    const __m512i n = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(_mm512_permutexvar_epi32(last, taken)));

    m->at[0][i] = _mm512_add_epi64(m->at[0][i], _mm512_add_epi64(n, n));
    return _mm512_permutexvar_epi32(_mm512_add_epi32(first, _mm512_sub_epi32(taken, need)), words);
}

XP_INLINE __m256i take_row(const uint8_t **p, __mmask8 low)
{
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)*p));

    *p += 2 * __builtin_popcount(low);
    return _mm256_maskz_expand_epi32(low, words);
}

/* Of rows with 8 lanes there are two: *p. */
XP_INLINE __m512i take_8(const uint8_t **p, __mmask16 low)
{
    const __m256i first = take_row(&p[0], (__mmask8)low);

    return _mm512_inserti64x4(_mm512_castsi256_si512(first), take_row(&p[1], (__mmask8)(low >> 8)), 1);
}

/* States below 2^16 take the next word of their row. */
XP_INLINE void refill(struct moving *m, const uint8_t **p, const int i, const unsigned lanes)
{
    const __m512i x = m->x[i];
    const __mmask16 low = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(0x10000));
    const __m512i words = lanes == 1 ? take_1(m, i, low) : lanes == 2 ? take_2(m, i, low) : lanes == 4 ? take_4(m, i, low) : take_8(p, low);

    /* x | words & 0xffff */
    m->x[i] = _mm512_mask_ternarylogic_epi32(_mm512_mask_slli_epi32(x, low, x, 16), low, words, _mm512_set1_epi32(0xffff), 0xf8);
}

/* Notes rows of set i that have run beyond their end, and stops them there. */
XP_INLINE void check_ends(struct cursor *c, struct moving *m, const uint8_t **p, const int i, const unsigned lanes)
{
    if (lanes == 8)
        m->at[0][i] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)p));
    for (int k = 0; k < (lanes == 1 ? 2 : 1); k++) {
        c->over[k] = _mm512_or_si512(c->over[k], _mm512_sub_epi64(c->end[k], m->at[k][i]));
        m->at[k][i] = _mm512_min_epu64(m->at[k][i], c->end[k]);
    }
    if (lanes == 8)
        _mm_storeu_si128((__m128i *)(void *)p, _mm512_castsi512_si128(m->at[0][i]));
}

static void close_set(const struct xp_rans_side *d, struct xp_rans_stream *s, const struct xp_rans_set *set, const struct cursor *c, size_t n,
                      const unsigned lanes)
{
    uint32_t state[16];
    uint64_t at[16];
    int64_t over[16];

    memcpy(state, d->state, sizeof(state));
    for (int i = 0; i < 2; i++) {
        _mm512_storeu_si512(at + 8 * i, c->at[i]);
        _mm512_storeu_si512(over + 8 * i, c->over[i]);
    }
    for (unsigned r = 0; r < set->rows; r++) {
        struct xp_rans_stream *row = &s[set->row[r]];

        row->ok = !(d->bad >> r & 1) && over[r] >= 0 && xp_rans_end(row, n, lanes, state + r * lanes) &&
                  xp_rans_join(row, n, d->planes[r], (const uint8_t *)(uintptr_t)at[r]);
    }
}

/* Symbols of group g to the rows. */
XP_INLINE void put_group(struct xp_rans_stream *s, const struct xp_rans_set *set, const uint16_t (*symbol)[16], size_t g, const unsigned lanes)
{
    uint16_t by_row[16][16];

    turn(symbol, by_row, lanes);
    for (unsigned r = 0; r < set->rows; r++)
        memcpy(s[set->row[r]].q + 16 * g, by_row[r], 32);
}

XP_INLINE void move(struct moving *m, const struct resting *r, const unsigned lanes)
{
    put_four(m->x, r->x);
    put_four(m->at[0], r->at[0]);
    if (lanes == 1)
        put_four(m->at[1], r->at[1]);
    if (lanes <= 2)
        put_four(m->words, r->words);
}

XP_INLINE void rest(struct resting *r, const struct moving *m, const unsigned lanes)
{
    r->x = get_four(m->x);
    r->at[0] = get_four(m->at[0]);
    if (lanes == 1)
        r->at[1] = get_four(m->at[1]);
    if (lanes <= 2)
        r->words = get_four(m->words);
}

/* One symbol of every state of `count` sets: step j of a group. */
XP_INLINE void decode_step(struct resting *r, const uint8_t *(*p)[2], const struct xp_rans_table *const *table, uint16_t (*symbols)[16][16], size_t j,
                           const int count, const unsigned lanes)
{
    __m512i symbol[SETS];
    struct moving m;

    move(&m, r, lanes);
    if (j % 2 == 0)
        XP_EACH(count) look_ahead(&m, i, lanes);
    xp_rans_pop(m.x, table, symbol, count);
    XP_EACH(count) _mm256_storeu_si256((__m256i *)(void *)symbols[i][j], _mm512_cvtepi32_epi16(symbol[i]));
    XP_EACH(count) refill(&m, p[i], i, lanes);
    rest(r, &m, lanes);
}

/* Decodes `count` sets side by side; count is a constant where this is used. */
XP_INLINE void decode(struct xp_rans_stream *s, const struct xp_rans_set *set, const int count, size_t n, const unsigned lanes)
{
    const size_t steps = xp_rans_steps(n, lanes), per = PER_GROUP(lanes);
    uint16_t symbols[SETS][16][16];
    struct xp_rans_side d[SETS];
    struct cursor c[SETS];
    struct moving m = { 0 };
    struct resting r;
    const uint8_t *p[SETS][2]; /* of rows with 8 lanes: instead of addresses in vectors */

    for (int i = 0; i < count; i++) {
        xp_rans_open_set(&d[i], s, &set[i], n, lanes);
        c[i] = put_cursor(d[i].p, d[i].end, lanes);
        m.x[i] = _mm512_loadu_si512(d[i].state);
        m.at[0][i] = c[i].at[0];
        m.at[1][i] = c[i].at[1];
        memcpy(p[i], d[i].p, sizeof(p[i]));
    }
    rest(&r, &m, lanes);
    for (size_t g = 0; g * per < steps; g++) {
        const size_t live = steps - g * per < per ? steps - g * per : per;
        const struct xp_rans_table *table[SETS];

        XP_EACH(count) table[i] = xp_rans_table(d[i].classes[g]);
        for (size_t j = 0; j < live; j++)
            decode_step(&r, p, table, symbols, j, count, lanes);
        move(&m, &r, lanes);
        XP_EACH(count) check_ends(&c[i], &m, p[i], i, lanes);
        rest(&r, &m, lanes);
        for (int i = 0; i < count; i++)
            put_group(s, &set[i], (const uint16_t (*)[16])symbols[i], g, lanes);
    }
    move(&m, &r, lanes);
    for (int i = 0; i < count; i++) {
        _mm512_storeu_si512(d[i].state, m.x[i]);
        c[i].at[0] = m.at[0][i];
        c[i].at[1] = m.at[1][i];
        close_set(&d[i], s, &set[i], &c[i], n, lanes);
    }
}

/* ---- sets ---------------------------------------------------------------------------------------------------------- */

XP_INLINE void decode_sets(struct xp_rans_stream *s, struct xp_rans_set *set, int count, size_t n, const unsigned lanes)
{
    COUNTED(decode, s, set, count, n, lanes)
}

void xp_rans_decode_side(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    XP_RANS_EACH_SETS(s, count, n, lanes, SETS, decode_sets);
}
