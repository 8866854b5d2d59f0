/*
 * rans_avx512bf16.c - the entropy coder with what came beside BF16, for rows of 16 states
 *
 * Decoding, two rows fill a vector of 16-bit lanes. Several pairs are decoded side by side: one alone waits for its own states.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/x86/rans_avx512bf16.h"
#include "hash/x86/rans_encode_avx512.h"
#include "hash/x86/rans_side.h"

#define PAIRS 3
#define SIDE (2 * PAIRS)

void xp_rans_encode_avx512bf16(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes)
{
    if (lanes == 16)
        xp_rans_encode_16(s, count, n);
    else
        xp_rans_encode_side_avx512bf16(s, count, n, lanes);
}

/* Rows on their way. Low bits are read as symbols are found, words as states run low. */
struct decoding {
    const uint8_t *words[SIDE], *low[SIDE], *classes[SIDE];
    int16_t *q[SIDE];
    size_t low_at[SIDE]; /* how far their low bits are read */
    __m512i x[SIDE];
};

/* The integers of step k of two rows, from r on; symbols: those of the rows by turns; bits: how many are low ones. */
XP_INLINE void put_integers(struct decoding *d, const int r, __m512i symbols, size_t k, const unsigned *bits, const int shared)
{
    const int one = shared ? 0 : r, other = shared ? 0 : r + 1;

    xp_rans_make(symbols, d->low[r] + d->low_at[one], d->low[r + 1] + d->low_at[other], xp_rans_lows_of(bits[one], bits[other]), d->q[r] + 16 * k,
                 d->q[r + 1] + 16 * k);
}

/* States below 2^16 take the next words. */
XP_INLINE __m512i refill(__m512i x, const uint8_t **p)
{
    const __m512i upper = _mm512_setr_epi32(0 << 16, 1 << 16, 2 << 16, 3 << 16, 4 << 16, 5 << 16, 6 << 16, 7 << 16, 8 << 16, 9 << 16, 10 << 16, 11 << 16,
                                            12 << 16, 13 << 16, 14 << 16, 15 << 16);
    const __mmask16 m = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(0x10000));
    const __m512i words = _mm512_permutexvar_epi16(upper, _mm512_castsi256_si512(_mm256_loadu_si256((const void *)*p)));

    *p += 2 * __builtin_popcount(m);
    return _mm512_mask_shldi_epi32(x, m, x, _mm512_maskz_expand_epi32(m, words), 16);
}

/* One symbol of every state: step k. */
XP_INLINE void step(struct decoding *d, size_t k, const int pairs, const int shared)
{
    const struct xp_rans_table *table[SIDE];
    const int sets = shared ? 1 : 2 * pairs;
    __m512i symbols[PAIRS];
    unsigned bits[SIDE];

    XP_EACH(sets) table[i] = xp_rans_table(d->classes[i][k]);
    XP_EACH(sets) bits[i] = xp_rans_low_bits(d->classes[i][k]);
    xp_rans_pop_pairs(d->x, table, symbols, pairs, shared);
    XP_EACH(2 * pairs) d->x[i] = refill(d->x[i], &d->words[i]);
    XP_EACH(pairs) put_integers(d, 2 * i, symbols[i], k, bits, shared);
    XP_EACH(sets) d->low_at[i] += 2 * bits[i];
}

/* 0 when there is a row that cannot be read. */
XP_INLINE int open_rows(struct decoding *d, struct xp_rans_stream *const *s, const int count, size_t n)
{
    int ok = 1;

    for (int i = 0; i < count; i++) {
        uint32_t state[16];

        ok &= xp_rans_open(s[i], n, 16, state, &d->low[i], &d->words[i]);
        d->classes[i] = s[i]->classes;
        d->q[i] = s[i]->q;
        d->low_at[i] = 0;
        d->x[i] = _mm512_loadu_si512(state);
    }
    return ok;
}

/* Decodes rows side by side, of which the first `own` are told whether they are rows; pairs and shared are constants where this is used.
 * shared: they have one array of classes. */
XP_INLINE void rows(struct xp_rans_stream *const *s, const int pairs, const int shared, int own, size_t n)
{
    const size_t steps = xp_rans_steps(n, 16);
    const uint8_t *end[SIDE];
    struct decoding d;
    int bad[SIDE] = { 0 };

    if (!open_rows(&d, s, 2 * pairs, n)) {
        for (int i = 0; i < own; i++)
            xp_rans_decode_c(s[i], 1, n, 16);
        return;
    }
    for (int i = 0; i < 2 * pairs; i++)
        end[i] = s[i]->in + s[i]->len;
    for (size_t k = 0; k < steps;) {
        XP_EACH(2 * pairs) xp_rans_fetch_next(s[i], 16 * k, 16 * XP_RANS_STRIDE);
        for (size_t stop = k + XP_RANS_STRIDE < steps ? k + XP_RANS_STRIDE : steps; k < stop; k++)
            step(&d, k, pairs, shared);
        XP_EACH(2 * pairs) bad[i] |= d.words[i] > end[i];
        XP_EACH(2 * pairs) d.words[i] = d.words[i] > end[i] ? end[i] : d.words[i];
    }
    for (int i = 0; i < own; i++) {
        const uint8_t *const planes[2] = { d.low[i], d.low[i] + d.low_at[shared ? 0 : i] };
        uint32_t state[16];

        _mm512_storeu_si512(state, d.x[i]);
        s[i]->ok = !bad[i] && xp_rans_finish(s[i], n, 16, state, planes, d.words[i]);
    }
}

static void rows_of_a_set(struct xp_rans_stream *const *s, size_t n)
{
    rows(s, PAIRS, 1, SIDE, n);
}

/* Rows of any classes. What is missing to a whole number of pairs repeats the first and is told nothing. */
static void rows_of_any(struct xp_rans_stream **s, int count, size_t n)
{
    for (int i = count; count > 0 && i < SIDE; i++)
        s[i] = s[0];
    if (count > 2)
        rows(s, PAIRS, 0, count, n);
    else if (count > 0)
        rows(s, 1, 0, count, n);
}

static void decode_16(struct xp_rans_stream *s, size_t count, size_t n)
{
    struct xp_rans_walk walk = { .classes = (const char *)&s->classes, .stride = sizeof(*s), .count = count };
    struct xp_rans_stream *row[SIDE], *any[SIDE];
    struct xp_rans_set set;
    int left = 0;

    while (xp_rans_take_sets_of(&walk, SIDE, &set, 1)) {
        for (unsigned i = 0; i < set.rows; i++)
            row[i] = &s[set.row[i]];
        if (set.rows == SIDE) {
            rows_of_a_set(row, n);
            continue;
        }
        for (unsigned i = 0; i < set.rows; i++) {
            any[left++] = row[i];
            if (left == SIDE) {
                rows_of_any(any, left, n);
                left = 0;
            }
        }
    }
    rows_of_any(any, left, n);
}

void xp_rans_decode_avx512bf16(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    if (lanes == 16)
        decode_16(s, count, n);
    else if (lanes == 8)
        xp_rans_decode_eight(s, count, n);
    else if (lanes == 2 || lanes == 4)
        xp_rans_decode_windows(s, count, n, lanes);
    else
        xp_rans_decode_avx512(s, count, n, lanes);
}
