/*
 * rans_side_avx512.c - the entropy coder with AVX-512, for rows of fewer than 16 states: 16 / lanes rows fill a vector
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/x86/rans_avx512.h"
#include "hash/x86/rans_side.h"

/* ---- encoding -------------------------------------------------------------------------------------------------- */

XP_INLINE void encode(struct xp_rans_source *s, const struct xp_rans_set *set, size_t n, const unsigned lanes)
{
    const size_t steps = xp_rans_steps(n, lanes);
    const uint8_t *classes = s[set->row[0]].classes;
    uint8_t place[XP_RANS_SIDE_STEPS][16];
    struct xp_rans_parts parts[16];
    struct xp_rans_work w[16];
    uint32_t state[16];
    uint8_t *words[16];
    __m512i x;

    for (unsigned r = 0; r < set->rows; r++) {
        struct xp_rans_source *row = &s[set->row[r]];

        w[r] = xp_rans_cut(row->work, n);
        parts[r] = xp_rans_split(row->q, n, row->classes, &w[r]);
        words[r] = w[r].words_end;
    }
    xp_rans_lay_out_set(set, w, n, lanes, place, state);
    x = _mm512_loadu_si512(state);
    for (size_t k = steps; k-- > 0;) {
        const struct xp_rans_table *t = xp_rans_table(classes[k * lanes / XP_RANS_GROUP]);
        const __m512i at = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)place[k]));
        const __m512i span = _mm512_permutex2var_epi32(_mm512_loadu_si512(t->span), at, _mm512_loadu_si512(t->span + 16));
        const __m512 part = _mm512_permutex2var_ps(_mm512_loadu_ps(t->reciprocal), at, _mm512_loadu_ps(t->reciprocal + 16));
        const __mmask16 full = _mm512_cmpge_epu32_mask(x, _mm512_slli_epi32(span, 20)); /* as in rans_avx512.c */
        uint16_t word[16];

        _mm256_storeu_si256((__m256i *)(void *)word, _mm512_cvtepi32_epi16(x));
        x = xp_rans_push(_mm512_mask_srli_epi32(x, full, x, 16), span, part);
        for (unsigned r = 0; r < set->rows; r++)
            for (unsigned l = lanes; l-- > 0;) {
                xp_put16(words[r] - 2, word[r * lanes + l]);
                words[r] -= 2 * (full >> (r * lanes + l) & 1);
            }
    }
    _mm512_storeu_si512(state, x);
    for (unsigned r = 0; r < set->rows; r++)
        xp_rans_assemble(&s[set->row[r]], state + r * lanes, lanes, &w[r], parts[r], words[r]);
}

void xp_rans_encode_side(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes)
{
    for (size_t done = 0; done < count; done += XP_RANS_SIDE_CHUNK) {
        const size_t rows = count - done < XP_RANS_SIDE_CHUNK ? count - done : XP_RANS_SIDE_CHUNK;
        uint64_t pending = xp_rans_all_pending(rows);
        const uint8_t *classes[XP_RANS_SIDE_CHUNK];

        for (size_t i = 0; i < rows; i++)
            classes[i] = s[done + i].classes;
        while (pending) {
            const struct xp_rans_set set = xp_rans_take_set(&pending, classes, 16 / lanes);

            switch (lanes) {
            case 1: encode(s + done, &set, n, 1); break;
            case 2: encode(s + done, &set, n, 2); break;
            case 4: encode(s + done, &set, n, 4); break;
            default: encode(s + done, &set, n, 8); break;
            }
        }
    }
}

/* ---- decoding -------------------------------------------------------------------------------------------------- */

/* Where the rows of a set are read, as addresses in 64-bit lanes: one a row; for 8 lanes a second one 8 bytes on. The second
 * vector is for 16 rows. over: negative where a row has run beyond its end; not a mask register, since GCC 12 spills one of
 * 8 bits and reloads more. */
struct cursor {
    __m512i at[2], end[2], over[2];
};

XP_INLINE unsigned addresses(const unsigned lanes)
{
    return lanes == 8 ? 4 : 16 / lanes;
}

static struct cursor put_cursor(const uint8_t *const *p, const uint8_t *const *end, const unsigned lanes)
{
    uint64_t at[16] = { 0 }, stop[16] = { 0 };
    struct cursor c;

    for (unsigned i = 0; i < addresses(lanes); i++) {
        const unsigned r = lanes == 8 ? i / 2 : i;
        at[i] = (uint64_t)(uintptr_t)p[r] + (lanes == 8 ? 8 * (i & 1) : 0);
        stop[i] = (uint64_t)(uintptr_t)end[r] + (lanes == 8 ? 8 * (i & 1) : 0);
    }
    for (int i = 0; i < 2; i++) {
        c.at[i] = _mm512_loadu_si512(at + 8 * i);
        c.end[i] = _mm512_loadu_si512(stop + 8 * i);
        c.over[i] = _mm512_setzero_si512();
    }
    return c;
}

/* The next `lanes` words of every row, each row's in its lanes. */
XP_INLINE __m512i fetch(const struct cursor *c, const unsigned lanes)
{
    if (lanes == 1) {
        const __m256i a = _mm512_i64gather_epi32(c->at[0], NULL, 1), b = _mm512_i64gather_epi32(c->at[1], NULL, 1);
        return _mm512_and_si512(_mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1), _mm512_set1_epi32(0xffff));
    }
    if (lanes == 2)
        return _mm512_cvtepu16_epi32(_mm512_i64gather_epi32(c->at[0], NULL, 1));
    return _mm512_cvtepu16_epi32(_mm256_i64gather_epi64(NULL, _mm512_castsi512_si256(c->at[0]), 1));
}

/* taken: for each lane how many words its row's lanes up to it have taken. */
XP_INLINE void advance(struct cursor *c, __m512i taken, const unsigned lanes)
{
    const __m512i last4 = _mm512_setr_epi32(3, 7, 11, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m512i last8 = _mm512_setr_epi32(7, 7, 15, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i n;

    if (lanes == 2)
        n = _mm512_srli_epi64(taken, 32);
    else if (lanes == 1)
        n = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(taken));
    else
        n = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(_mm512_permutexvar_epi32(lanes == 4 ? last4 : last8, taken)));
    c->at[0] = _mm512_add_epi64(c->at[0], _mm512_add_epi64(n, n));
    if (lanes == 1) {
        n = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(taken, 1));
        c->at[1] = _mm512_add_epi64(c->at[1], _mm512_add_epi64(n, n));
    }
}

/* Sums of `need` within each row's lanes, up to and with each lane. */
XP_INLINE __m512i running(__m512i need, const unsigned lanes)
{
    const __m512i third = _mm512_setr_epi32(0, 1, 2, 3, 3, 3, 3, 3, 8, 9, 10, 11, 11, 11, 11, 11);

    if (lanes >= 2)
        need = _mm512_add_epi32(need, _mm512_slli_epi64(need, 32));
    if (lanes >= 4)
        need = _mm512_add_epi32(need, _mm512_maskz_shuffle_epi32(0xcccc, need, 0x55));
    if (lanes >= 8)
        need = _mm512_add_epi32(need, _mm512_maskz_permutexvar_epi32(0xf0f0, third, need));
    return need;
}

/* States below 2^16 take the next word of their row. */
XP_INLINE __m512i refill(__m512i x, struct cursor *c, const unsigned lanes)
{
    const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 m = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(0x10000));
    const __m512i need = _mm512_maskz_set1_epi32(m, 1), taken = running(need, lanes);
    const __m512i first = _mm512_and_si512(iota, _mm512_set1_epi32(-(int)lanes));
    const __m512i word = _mm512_permutexvar_epi32(_mm512_add_epi32(first, _mm512_sub_epi32(taken, need)), fetch(c, lanes));

    advance(c, taken, lanes);
    return _mm512_mask_or_epi32(x, m, _mm512_slli_epi32(x, 16), word);
}

/* Notes rows that have run beyond their end, and stops them there. */
XP_INLINE void check_ends(struct cursor *c, const unsigned lanes)
{
    for (int i = 0; i < (lanes == 1 ? 2 : 1); i++) {
        c->over[i] = _mm512_or_si512(c->over[i], _mm512_sub_epi64(c->end[i], c->at[i]));
        c->at[i] = _mm512_min_epu64(c->at[i], c->end[i]);
    }
}

static void close_set(struct xp_rans_side *d, struct xp_rans_stream *s, const struct xp_rans_set *set, const struct cursor *c, size_t n,
                      const unsigned lanes)
{
    const size_t steps = xp_rans_steps(n, lanes);
    uint64_t at[16];
    int64_t over[16];

    for (int i = 0; i < 2; i++) {
        _mm512_storeu_si512(at + 8 * i, c->at[i]);
        _mm512_storeu_si512(over + 8 * i, c->over[i]);
    }
    for (unsigned r = 0; r < set->rows; r++) {
        struct xp_rans_stream *row = &s[set->row[r]];
        const unsigned place = lanes == 8 ? 2 * r : r;

        for (size_t k = 0; k < steps; k++)
            memcpy(row->q + k * lanes, d->symbol[k] + r * lanes, 2 * lanes);
        row->ok = !(d->bad >> r & 1) && over[place] >= 0 && xp_rans_end(row, n, lanes, d->state + r * lanes) &&
                  xp_rans_join(row, n, d->planes[r], (const uint8_t *)(uintptr_t)at[place]);
    }
}

/* Decodes one or two sets side by side. */
XP_INLINE void decode(struct xp_rans_stream *s, const struct xp_rans_set *set, const int count, size_t n, const unsigned lanes)
{
    const size_t steps = xp_rans_steps(n, lanes);
    struct xp_rans_side d[2];
    struct cursor c[2];
    __m512i x[2];

    for (int i = 0; i < count; i++) {
        xp_rans_open_set(&d[i], s, &set[i], n, lanes);
        c[i] = put_cursor(d[i].p, d[i].end, lanes);
        x[i] = _mm512_loadu_si512(d[i].state);
    }
    for (size_t k = 0; k < steps;) {
        for (size_t stop = k + XP_RANS_STRIDE < steps ? k + XP_RANS_STRIDE : steps; k < stop; k++) {
            const struct xp_rans_table *table[2];
            __m512i symbol[2];

            XP_EACH(count) table[i] = xp_rans_table(d[i].classes[k * lanes / XP_RANS_GROUP]);
            xp_rans_pop(x, table, symbol, count);
            XP_EACH(count) _mm256_storeu_si256((__m256i *)(void *)d[i].symbol[k], _mm512_cvtepi32_epi16(symbol[i]));
            XP_EACH(count) x[i] = refill(x[i], &c[i], lanes);
        }
        XP_EACH(count) check_ends(&c[i], lanes);
    }
    for (int i = 0; i < count; i++) {
        _mm512_storeu_si512(d[i].state, x[i]);
        close_set(&d[i], s, &set[i], &c[i], n, lanes);
    }
}

XP_INLINE void decode_sets(struct xp_rans_stream *s, const struct xp_rans_set *set, int count, size_t n, const unsigned lanes)
{
    if (count == 2)
        decode(s, set, 2, n, lanes);
    else
        decode(s, set, 1, n, lanes);
}

void xp_rans_decode_side(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    for (size_t done = 0; done < count; done += XP_RANS_SIDE_CHUNK) {
        const size_t rows = count - done < XP_RANS_SIDE_CHUNK ? count - done : XP_RANS_SIDE_CHUNK;
        uint64_t pending = xp_rans_all_pending(rows);
        const uint8_t *classes[XP_RANS_SIDE_CHUNK];

        for (size_t i = 0; i < rows; i++)
            classes[i] = s[done + i].classes;
        while (pending) {
            struct xp_rans_set set[2];
            int sets = 0;

            while (pending && sets < 2)
                set[sets++] = xp_rans_take_set(&pending, classes, 16 / lanes);
            switch (lanes) {
            case 1: decode_sets(s + done, set, sets, n, 1); break;
            case 2: decode_sets(s + done, set, sets, n, 2); break;
            case 4: decode_sets(s + done, set, sets, n, 4); break;
            default: decode_sets(s + done, set, sets, n, 8); break;
            }
        }
    }
}
