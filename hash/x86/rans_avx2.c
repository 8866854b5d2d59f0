/*
 * rans_avx2.c - the entropy coder with AVX2, for rows of 16 states
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rans_avx2.h"

#define SIDE 2 /* rows side by side, since one waits for its own states; written out, as loops of so much are not unrolled */

/* Steps between two looks at the ends of the rows; what is read beyond them lies within XP_RANS_SLACK. */
#define STRIDE (XP_RANS_SLACK / 32 - 2)

/* ---- words in and out of their lanes ------------------------------------------------------------------------------ */

#define BITS(m) __builtin_popcount(m)
#define WORD(n) 0x0202 * (n) + 0x0100 /* its two bytes */

/* Where bit k of m is, counted from 0; 0 where k is negative. */
#define PLACE(m, k)                                                                                                               \
    ((BITS((m) & 1) <= (k)) + (BITS((m) & 3) <= (k)) + (BITS((m) & 7) <= (k)) + (BITS((m) & 15) <= (k)) + (BITS((m) & 31) <= (k)) + \
     (BITS((m) & 63) <= (k)) + (BITS((m) & 127) <= (k)))
#define GATHER1(m, i) WORD(PLACE(m, (i) - 8 + BITS(m)))
#define GATHER(m)                                                                                                                 \
    { GATHER1(m, 0), GATHER1(m, 1), GATHER1(m, 2), GATHER1(m, 3), GATHER1(m, 4), GATHER1(m, 5), GATHER1(m, 6), GATHER1(m, 7) }
#define SPREAD(m)                                                                                                                 \
    { WORD(0), WORD(BITS((m) & 1)), WORD(BITS((m) & 3)), WORD(BITS((m) & 7)), WORD(BITS((m) & 15)), WORD(BITS((m) & 31)),         \
      WORD(BITS((m) & 63)), WORD(BITS((m) & 127)) }

#define OF_4(entry, m) entry(m), entry((m) + 1), entry((m) + 2), entry((m) + 3)
#define OF_16(entry, m) OF_4(entry, m), OF_4(entry, (m) + 4), OF_4(entry, (m) + 8), OF_4(entry, (m) + 12)
#define OF_64(entry, m) OF_16(entry, m), OF_16(entry, (m) + 16), OF_16(entry, (m) + 32), OF_16(entry, (m) + 48)
#define OF_256(entry) OF_64(entry, 0), OF_64(entry, 64), OF_64(entry, 128), OF_64(entry, 192)

const uint16_t xp_rans_gather[256][8] = { OF_256(GATHER) };
const uint16_t xp_rans_spread[256][8] = { OF_256(SPREAD) };

/* ---- encoding --------------------------------------------------------------------------------------------------- */

struct encoding {
    struct xp_rans_parts parts;
    struct xp_rans_work w;
    uint8_t *words;
};

static void begin_encoding(struct encoding *e, const struct xp_rans_source *s, size_t n, __m256i x[2])
{
    uint32_t state[16];

    e->w = xp_rans_cut(s->work, n);
    e->parts = xp_rans_split_avx2(s->q, n, s->classes, &e->w);
    e->words = e->w.words_end;
    xp_rans_begin_doubled(e->w.place, n, 16, state);
    xp_rans_load_states(x, state);
}

XP_INLINE void encode_step(struct encoding *e, __m256i x[2], const uint8_t *classes, size_t k)
{
    __m256i words;
    const unsigned m = xp_rans_push_pair(x, xp_rans_places(e->w.place + 16 * k), xp_rans_table(classes[k]), &words);

    e->words = xp_rans_put_16(e->words, words, m);
}

static void end_encoding(const struct encoding *e, struct xp_rans_source *s, const __m256i x[2])
{
    uint32_t state[16];

    xp_rans_store_states(state, x);
    xp_rans_assemble(s, state, 16, &e->w, e->parts, e->words);
}

/* Encodes `count` rows side by side; count is a constant where this is used. */
XP_INLINE void encode(struct xp_rans_source *s, const int count, size_t n)
{
    struct encoding e[SIDE];
    __m256i x[SIDE][2];

    for (int i = 0; i < count; i++)
        begin_encoding(&e[i], &s[i], n, x[i]);
    for (size_t k = xp_rans_steps(n, 16); k-- > 0;) {
        encode_step(&e[0], x[0], s[0].classes, k);
        if (count > 1)
            encode_step(&e[1], x[1], s[1].classes, k);
    }
    for (int i = 0; i < count; i++)
        end_encoding(&e[i], &s[i], x[i]);
}

void xp_rans_encode_avx2(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes)
{
    if (lanes != 16) {
        xp_rans_encode_side_avx2(s, count, n, lanes);
        return;
    }
    for (; count >= SIDE; count -= SIDE, s += SIDE)
        encode(s, SIDE, n);
    for (; count > 0; count--, s++)
        encode(s, 1, n);
}

/* ---- decoding --------------------------------------------------------------------------------------------------- */

struct decoding {
    const uint8_t *planes, *p, *end;
    int bad;
};

static void begin_decoding(struct decoding *d, const struct xp_rans_stream *s, size_t n, __m256i x[2])
{
    uint32_t state[16] = {0};

    d->end = s->in + s->len;
    d->bad = !xp_rans_open(s, n, 16, state, &d->planes, &d->p);
    if (d->bad)
        d->p = d->end;
    xp_rans_load_states(x, state);
}

XP_INLINE void decode_step(struct decoding *d, __m256i x[2], const struct xp_rans_stream *s, size_t k)
{
    _mm256_storeu_si256((__m256i *)(void *)(s->q + 16 * k), xp_rans_pop_pair(x, xp_rans_table(s->classes[k])));
    xp_rans_refill_halves(x, &d->p, 1);
}

static void end_decoding(const struct decoding *d, struct xp_rans_stream *s, size_t n, const __m256i x[2])
{
    uint32_t state[16];

    xp_rans_store_states(state, x);
    s->ok = !d->bad && xp_rans_end(s, n, 16, state) && xp_rans_join_avx2(s, n, d->planes, d->p);
}

/* Decodes `count` rows side by side. */
XP_INLINE void decode(struct xp_rans_stream *s, const int count, size_t n)
{
    const size_t steps = xp_rans_steps(n, 16);
    struct decoding d[SIDE];
    __m256i x[SIDE][2];

    for (int i = 0; i < count; i++)
        begin_decoding(&d[i], &s[i], n, x[i]);
    for (size_t k = 0; k < steps;) {
        for (size_t stop = k + STRIDE < steps ? k + STRIDE : steps; k < stop; k++) {
            decode_step(&d[0], x[0], &s[0], k);
            if (count > 1)
                decode_step(&d[1], x[1], &s[1], k);
        }
        for (int i = 0; i < count; i++) {
            d[i].bad |= d[i].p > d[i].end;
            d[i].p = d[i].p > d[i].end ? d[i].end : d[i].p;
        }
    }
    for (int i = 0; i < count; i++)
        end_decoding(&d[i], &s[i], n, x[i]);
}

void xp_rans_decode_avx2(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    if (lanes != 16) {
        xp_rans_decode_side_avx2(s, count, n, lanes);
        return;
    }
    for (; count >= SIDE; count -= SIDE, s += SIDE)
        decode(s, SIDE, n);
    for (; count > 0; count--, s++)
        decode(s, 1, n);
}
