/*
 * rans_eight_avx512bf16.c - rows of 8 states decoded with what came beside BF16: two rows fill a vector
 *
 * As in rans_avx512bf16.c, two vectors share the search and several pairs of them are decoded side by side.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/x86/rans_avx512bf16.h"
#include "hash/x86/rans_side.h"

#define PAIRS 3
#define VECTORS (2 * PAIRS)
#define ROWS (2 * VECTORS)
#define STRIDE (XP_RANS_STRIDE / 2) /* groups between two looks at the ends of the rows */

/* Rows that are decoded side by side, those of a vector one after another. Those that are told whether they are rows are bits of `told`:
 * the others fill up and repeat one of those. */
struct side {
    struct xp_rans_stream *row[ROWS];
    unsigned told;
};

/* Rows on their way. The rows of a vector have one array of classes. */
struct decoding {
    const uint8_t *words[ROWS], *low[ROWS], *classes[VECTORS];
    int16_t *q[ROWS];
    size_t low_at[VECTORS]; /* how far their low bits are read */
    __m512i x[VECTORS];
};

XP_INLINE __m256i take_row(const uint8_t **p, __mmask8 low)
{
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)*p));

    *p += 2 * __builtin_popcount(low);
    return _mm256_maskz_expand_epi32(low, words);
}

/* States below 2^16 take the next words of their rows. */
XP_INLINE __m512i refill(__m512i x, const uint8_t **p)
{
    const __mmask16 low = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(0x10000));
    const __m256i first = take_row(&p[0], (__mmask8)low), second = take_row(&p[1], (__mmask8)(low >> 8));

    return _mm512_or_si512(_mm512_mask_slli_epi32(x, low, x, 16), _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
}

/* Group g of two vectors' rows, from vector v on: its symbols, as they come out of two steps; bits: how many are low ones. */
XP_INLINE void put_group(struct decoding *d, const int v, __m512i first, __m512i second, size_t g, const unsigned *bits, const int shared)
{
    const int one = shared ? 0 : v, other = shared ? 0 : v + 1, r = 2 * v;
    const struct xp_rans_lows low = xp_rans_lows_of(bits[one], bits[other]);
    const __m512i later = _mm512_setr_epi64(4, 5, 6, 7, 12, 13, 14, 15);
    const size_t a = d->low_at[one], b = d->low_at[other];

    xp_rans_make(_mm512_inserti64x4(first, _mm512_castsi512_si256(second), 1), d->low[r] + a, d->low[r + 2] + b, low, d->q[r] + 16 * g,
                 d->q[r + 2] + 16 * g);
    xp_rans_make(_mm512_permutex2var_epi64(first, later, second), d->low[r + 1] + a, d->low[r + 3] + b, low, d->q[r + 1] + 16 * g,
                 d->q[r + 3] + 16 * g);
}

/* One symbol of every state. */
XP_INLINE void step(struct decoding *d, const struct xp_rans_table *const *table, __m512i *symbols, const int pairs, const int shared)
{
    xp_rans_pop_pairs(d->x, table, symbols, pairs, shared);
    XP_EACH(2 * pairs) d->x[i] = refill(d->x[i], &d->words[2 * i]);
}

/* A group of every row, of which one step or two are before the tail. */
XP_INLINE void group(struct decoding *d, size_t g, size_t steps, const int pairs, const int shared)
{
    const struct xp_rans_table *table[VECTORS];
    const int sets = shared ? 1 : 2 * pairs;
    __m512i first[PAIRS], second[PAIRS];
    unsigned bits[VECTORS];

    XP_EACH(sets) table[i] = xp_rans_table(d->classes[i][g]);
    XP_EACH(sets) bits[i] = xp_rans_low_bits(d->classes[i][g]);
    step(d, table, first, pairs, shared);
    XP_EACH(pairs) second[i] = first[i];
    if (steps > 1)
        step(d, table, second, pairs, shared);
    XP_EACH(pairs) put_group(d, 2 * i, first[i], second[i], g, bits, shared);
    XP_EACH(sets) d->low_at[i] += 2 * bits[i];
}

/* 0 when there is a row that cannot be read. */
XP_INLINE int open_rows(struct decoding *d, const struct side *side, const int vectors, size_t n)
{
    int ok = 1;

    for (int i = 0; i < vectors; i++) {
        uint32_t state[16];

        for (int r = 2 * i; r < 2 * i + 2; r++) {
            ok &= xp_rans_open(side->row[r], n, 8, state + r % 2 * 8, &d->low[r], &d->words[r]);
            d->q[r] = side->row[r]->q;
        }
        d->classes[i] = side->row[2 * i]->classes;
        d->low_at[i] = 0;
        d->x[i] = _mm512_loadu_si512(state);
    }
    return ok;
}

/* Row r: low_at: how far its low bits are read. */
XP_INLINE void close_row(const struct decoding *d, const int r, struct xp_rans_stream *s, size_t low_at, int bad, size_t n)
{
    const size_t steps = xp_rans_steps(n, 8);
    const uint8_t *planes[2] = { d->low[r], d->low[r] + low_at };
    uint32_t state[16];

    _mm512_storeu_si512(state, d->x[r / 2]);
    if (steps % 2) /* the group where the tail begins is behind us */
        planes[1] -= 2 * xp_rans_low_bits(s->classes[steps / 2]);
    s->ok = !bad && xp_rans_finish(s, n, 8, state + r % 2 * 8, planes, d->words[r]);
}

/* Decodes rows side by side; pairs and shared are constants where this is used. shared: they have one array of classes. */
XP_INLINE void rows(const struct side *side, const int pairs, const int shared, size_t n)
{
    const size_t steps = xp_rans_steps(n, 8), groups = (steps + 1) / 2;
    const int count = 4 * pairs;
    const uint8_t *end[ROWS];
    int bad[ROWS] = { 0 };
    struct decoding d;

    if (!open_rows(&d, side, 2 * pairs, n)) {
        for (unsigned m = side->told; m; m &= m - 1)
            xp_rans_decode_c(side->row[__builtin_ctz(m)], 1, n, 8);
        return;
    }
    for (int i = 0; i < count; i++)
        end[i] = side->row[i]->in + side->row[i]->len;
    for (size_t g = 0; g < groups;) {
        XP_EACH(count) xp_rans_fetch_next(side->row[i], 16 * g, 16 * STRIDE);
        for (size_t stop = g + STRIDE < groups ? g + STRIDE : groups; g < stop; g++)
            group(&d, g, steps - 2 * g, pairs, shared);
        XP_EACH(count) bad[i] |= d.words[i] > end[i];
        XP_EACH(count) d.words[i] = d.words[i] > end[i] ? end[i] : d.words[i];
    }
    for (int i = 0; i < count; i++)
        if (side->told >> i & 1)
            close_row(&d, i, side->row[i], d.low_at[shared ? 0 : i / 2], bad[i], n);
}

static void rows_of_a_set(struct xp_rans_stream *s, const struct xp_rans_set *set, size_t n)
{
    struct side side = { .told = (1u << ROWS) - 1 };

    for (int i = 0; i < ROWS; i++)
        side.row[i] = &s[set->row[i]];
    rows(&side, PAIRS, 1, n);
}

/* Rows of any classes, `vectors` of them filled. */
static void rows_of_any(struct side *side, int vectors, size_t n)
{
    for (int i = 2 * vectors; vectors > 0 && i < ROWS; i++)
        side->row[i] = side->row[i % 2];
    if (vectors > 2)
        rows(side, PAIRS, 0, n);
    else if (vectors > 0)
        rows(side, 1, 0, n);
}

void xp_rans_decode_eight(struct xp_rans_stream *s, size_t count, size_t n)
{
    struct xp_rans_walk walk = { .classes = (const char *)&s->classes, .stride = sizeof(*s), .count = count };
    struct side any = { .told = 0 };
    struct xp_rans_set set;
    int vectors = 0;

    while (xp_rans_take_sets_of(&walk, ROWS, &set, 1)) {
        if (set.rows == ROWS) {
            rows_of_a_set(s, &set, n);
            continue;
        }
        for (unsigned i = 0; i < set.rows; i += 2) {
            any.row[2 * vectors] = &s[set.row[i]];
            any.row[2 * vectors + 1] = &s[set.row[i + 1 < set.rows ? i + 1 : i]];
            any.told |= (i + 1 < set.rows ? 3u : 1u) << (2 * vectors);
            if (++vectors == VECTORS) {
                rows_of_any(&any, vectors, n);
                vectors = 0;
                any.told = 0;
            }
        }
    }
    rows_of_any(&any, vectors, n);
}
