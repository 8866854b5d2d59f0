/*
 * rans_side_avx512bf16.c - rows of fewer than 16 states, encoded; those of two or four decoded: 8 or 4 rows fill a vector
 *
 * A row's next 8 words are loaded at once and last for 4 or 2 steps, as gathering takes long.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/x86/rans_avx512bf16.h"
#include "hash/x86/rans_side_avx512.h"

#define ROWS(lanes) (16 / (lanes))
#define PER_WINDOW(lanes) (8 / (lanes)) /* steps that 8 words last for */
#define FETCHED 2 /* groups at a time, of what is read and written once rows are decoded */

void xp_rans_encode_side_avx512bf16(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes)
{
    XP_RANS_EACH_SETS(s, count, n, lanes, SETS, encode_sets);
}

/* A set on its way; by row. */
struct decoding {
    const uint8_t *words[8], *end[8], *low[8];
    int16_t *q[8];
    const uint8_t *classes;
    size_t low_at; /* how far their low bits are read */
    __m512i over; /* negative for rows that have run beyond their ends */
};

/* The words of a set's rows that were loaded. Two lanes: the next four and those behind them, a row in 64 bits, and how many bits were
 * taken. Four lanes: all 8, a row in 128 bits, and twice in every lane how many bytes of them were taken. */
struct window {
    __m512i next, more, taken;
};

XP_INLINE __m512i load_4(const void *a, const void *b, const void *c, const void *d)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(xp_rans_two_halves(a, b)), xp_rans_two_halves(c, d), 1);
}

XP_INLINE void load_window(struct window *w, const uint8_t *const *p, const unsigned lanes)
{
    w->taken = _mm512_setzero_si512();
    if (lanes == 4) {
        w->next = load_4(p[0], p[1], p[2], p[3]);
        return;
    }
    const __m512i even = load_4(p[0], p[2], p[4], p[6]), odd = load_4(p[1], p[3], p[5], p[7]);

    w->next = _mm512_unpacklo_epi64(even, odd);
    w->more = _mm512_unpackhi_epi64(even, odd);
}

/* The rows go on behind what was taken. */
XP_INLINE void leave_window(const struct window *w, const uint8_t **p, const unsigned lanes)
{
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i bytes = _mm512_srli_epi64(w->taken, 3);

    if (lanes == 4) {
        bytes = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(_mm512_permutexvar_epi32(first, w->taken)));
        bytes = _mm512_and_si512(bytes, _mm512_set1_epi64(0xff));
    }
    _mm512_storeu_si512(p, _mm512_add_epi64(_mm512_loadu_si512(p), bytes));
}

/* Words for the states that are low, in lower halves; the upper ones may be anything. The second lane of a row takes its first word where
 * the first lane takes none. */
XP_INLINE __m512i take_2(struct window *w, __mmask16 low)
{
    const __m512i first = _mm512_shuffle_epi32(w->next, 0xa0), bits = _mm512_maskz_mov_epi32(low, _mm512_set1_epi32(16));
    const __m512i both = _mm512_sad_epu8(bits, _mm512_setzero_si512());

    w->next = _mm512_shrdv_epi64(w->next, w->more, both);
    w->more = _mm512_srlv_epi64(w->more, both);
    w->taken = _mm512_add_epi64(w->taken, both);
    return _mm512_srlv_epi32(first, _mm512_slli_epi64(bits, 32));
}

XP_INLINE __m512i take_4(struct window *w, __mmask16 low)
{
    const __m512i need = _mm512_maskz_mov_epi32(low, _mm512_set1_epi32(0x0202));
    const __m512i two = _mm512_add_epi32(need, _mm512_bslli_epi128(need, 4));
    const __m512i with = _mm512_add_epi32(two, _mm512_bslli_epi128(two, 8)); /* by the row's lanes up to and with this one */
    const __m512i from = _mm512_add_epi32(_mm512_sub_epi32(with, need), _mm512_add_epi32(w->taken, _mm512_set1_epi32((int)0x80800100)));

    w->taken = _mm512_add_epi32(w->taken, _mm512_shuffle_epi32(with, 0xff));
    return _mm512_shuffle_epi8(w->next, from);
}

XP_INLINE __m512i refill(__m512i x, struct window *w, const unsigned lanes)
{
    const __mmask16 low = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(0x10000));
    const __m512i words = lanes == 2 ? take_2(w, low) : take_4(w, low);

    /* x | words & 0xffff */
    return _mm512_mask_ternarylogic_epi32(_mm512_mask_slli_epi32(x, low, x, 16), low, words, _mm512_set1_epi32(0xffff), 0xf8);
}

/* Notes rows that have run beyond their ends, and stops them there. */
XP_INLINE void check_ends(struct decoding *d)
{
    const __m512i at = _mm512_loadu_si512(d->words), end = _mm512_loadu_si512(d->end);

    d->over = _mm512_or_si512(d->over, _mm512_sub_epi64(end, at));
    _mm512_storeu_si512(d->words, _mm512_min_epu64(at, end));
}

/* Row r of two sets: the symbols of a group, which lie by step and by turns. */
XP_INLINE void put_row(const __m512i symbols, struct decoding *d, const int r, const struct xp_rans_lows *low, size_t g)
{
    xp_rans_make(symbols, d[0].low[r] + d[0].low_at, d[1].low[r] + d[1].low_at, *low, d[0].q[r] + 16 * g, d[1].q[r] + 16 * g);
}

/* A group of two sets. */
XP_INLINE void put_group(struct decoding *d, const uint16_t (*symbols)[32], size_t g, const unsigned lanes)
{
    const unsigned one = xp_rans_low_bits(d[0].classes[g]), other = xp_rans_low_bits(d[1].classes[g]);
    const struct xp_rans_lows low = xp_rans_lows_of(one, other);

    XP_EACH(4) {
        const uint16_t (*at)[32] = (const uint16_t (*)[32])(const void *)(symbols[0] + 8 * i); /* 128 bits of every step */

        if (lanes == 4) {
            put_row(load_4(at[0], at[1], at[2], at[3]), d, i, &low, g);
        } else {
            const __m512i even = load_4(at[0], at[2], at[4], at[6]), odd = load_4(at[1], at[3], at[5], at[7]);

            put_row(_mm512_unpacklo_epi64(even, odd), d, 2 * i, &low, g);
            put_row(_mm512_unpackhi_epi64(even, odd), d, 2 * i + 1, &low, g);
        }
    }
    d[0].low_at += 2 * one;
    d[1].low_at += 2 * other;
}

/* 0 when one of the rows cannot be read. */
static int open_set(struct decoding *d, __m512i *x, const struct xp_rans_stream *s, const struct xp_rans_set *set, size_t n, unsigned lanes)
{
    struct xp_rans_side side;

    xp_rans_open_set(&side, s, set, n, lanes);
    *d = (struct decoding){ .classes = side.classes, .over = _mm512_setzero_si512() };
    for (unsigned r = 0; r < ROWS(lanes); r++) {
        d->words[r] = side.p[r];
        d->end[r] = side.end[r];
        d->low[r] = side.planes[r];
        d->q[r] = s[set->row[r]].q;
    }
    *x = _mm512_loadu_si512(side.state);
    return !side.bad;
}

static void close_set(const struct decoding *d, __m512i x, struct xp_rans_stream *s, const struct xp_rans_set *set, size_t n, unsigned lanes)
{
    const size_t steps = xp_rans_steps(n, lanes);
    uint32_t state[16];
    int64_t over[8];

    _mm512_storeu_si512(state, x);
    _mm512_storeu_si512(over, d->over);
    for (unsigned r = 0; r < set->rows; r++) {
        struct xp_rans_stream *row = &s[set->row[r]];
        const uint8_t *planes[2] = { d->low[r], d->low[r] + d->low_at };

        if (steps % PER_GROUP(lanes)) /* the group where the tail begins is behind us */
            planes[1] -= 2 * xp_rans_low_bits(d->classes[steps / PER_GROUP(lanes)]);
        row->ok = over[r] >= 0 && xp_rans_finish(row, n, lanes, state + r * lanes, planes, d->words[r]);
    }
}

/* The steps of group g. */
XP_INLINE void decode_group(struct decoding *d, __m512i *x, uint16_t (*symbols)[8][32], size_t g, size_t steps, const int count,
                            const unsigned lanes, const int shared)
{
    const struct xp_rans_table *table[SETS];
    struct window w[SETS];
    __m512i symbol[SETS / 2];

    table[0] = xp_rans_table(d[0].classes[g]);
    if (!shared)
        XP_EACH(count) table[i] = xp_rans_table(d[i].classes[g]);
    for (size_t j = 0; j < steps;) {
        XP_EACH(count) load_window(&w[i], d[i].words, lanes);
        for (size_t stop = j + PER_WINDOW(lanes) < steps ? j + PER_WINDOW(lanes) : steps; j < stop; j++) {
            xp_rans_pop_pairs(x, table, symbol, count / 2, shared);
            XP_EACH(count / 2) _mm512_storeu_si512(symbols[i][j], symbol[i]);
            XP_EACH(count) x[i] = refill(x[i], &w[i], lanes);
        }
        XP_EACH(count) leave_window(&w[i], d[i].words, lanes);
    }
}

/* For groups [g, g + FETCHED). */
static void fetch_next(const struct xp_rans_stream *s, const struct xp_rans_set *set, int count, size_t g)
{
    for (int i = 0; i < count; i++)
        for (unsigned r = 0; r < set[i].rows; r++)
            xp_rans_fetch_next(&s[set[i].row[r]], 16 * g, 16 * FETCHED);
}

/* Decodes `count` sets side by side, an even number; count, lanes and shared are constants where this is used. shared: they have one array
 * of classes. */
XP_INLINE void decode(struct xp_rans_stream *s, const struct xp_rans_set *set, const int count, size_t n, const unsigned lanes, const int shared)
{
    const size_t steps = xp_rans_steps(n, lanes), per = PER_GROUP(lanes);
    uint16_t symbols[SETS / 2][8][32];
    struct decoding d[SETS];
    __m512i x[SETS];
    int ok = 1;

    for (int i = 0; i < count; i++)
        ok &= open_set(&d[i], &x[i], s, &set[i], n, lanes);
    if (!ok) {
        for (int i = 0; i < count; i++)
            for (unsigned r = 0; r < set[i].rows; r++)
                xp_rans_decode_c(&s[set[i].row[r]], 1, n, lanes);
        return;
    }
    for (size_t g = 0; g * per < steps; g++) {
        if (lanes == 2 && g % FETCHED == 0) /* with four it gains nothing */
            fetch_next(s, set, count, g);
        decode_group(d, x, symbols, g, steps - g * per < per ? steps - g * per : per, count, lanes, shared);
        XP_EACH(count) check_ends(&d[i]);
        XP_EACH(count / 2) put_group(&d[2 * i], (const uint16_t (*)[32])symbols[i], g, lanes);
    }
    for (int i = 0; i < count; i++)
        close_set(&d[i], x[i], s, &set[i], n, lanes);
}

/* ---- sets ---------------------------------------------------------------------------------------------------------- */

static int share_classes(const struct xp_rans_stream *s, const struct xp_rans_set *set, int count)
{
    int same = 1;

    for (int i = 1; i < count; i++)
        same &= s[set[i].row[0]].classes == s[set[0].row[0]].classes;
    return same;
}

XP_INLINE void decode_sets(struct xp_rans_stream *s, struct xp_rans_set *set, int count, size_t n, const unsigned lanes)
{
    count = even(set, count);
    if (count == 2)
        decode(s, set, 2, n, lanes, 0);
    else if (share_classes(s, set, count))
        decode(s, set, SETS, n, lanes, 1);
    else
        decode(s, set, SETS, n, lanes, 0);
}

void xp_rans_decode_windows(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    struct xp_rans_set set[SETS];
    struct xp_rans_walk walk = { .classes = (const char *)&s->classes, .stride = sizeof(*s), .count = count };

    for (int sets; (sets = xp_rans_take_sets(&walk, lanes, set, SETS)) > 0;) {
        if (lanes == 2)
            decode_sets(s, set, sets, n, 2);
        else
            decode_sets(s, set, sets, n, 4);
    }
}
