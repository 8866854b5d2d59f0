/*
 * rans_avx512bf16.h - symbols to integers with what came beside BF16: bytes are looked up among 128, and bits are turned over
 *
 * Integers are made where their symbols are found, two rows' at a time; only those that escaped are looked for once a row's words are
 * all read, since they lie behind them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_RANS_AVX512BF16_H
#define XP_RANS_AVX512BF16_H

#define XP_RANS_SPAN packed /* of the spans in a table those that xp_rans_push wants */

#include "hash/x86/rans_avx512.h"

#define XP_RANS_ESCAPED (-32768) /* no integer is that low */

/* rans_side_avx512bf16.c: rows of two or four states. */
void xp_rans_decode_windows(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes);
/* rans_eight_avx512bf16.c: rows of 8. */
void xp_rans_decode_eight(struct xp_rans_stream *s, size_t count, size_t n);

/* The same for two rows, whose classes may differ. */
struct xp_rans_lows {
    __m512i bits, bias;
    __m256i order;
};

XP_INLINE __m512i xp_rans_two(const void *a, const void *b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(a)), _mm256_loadu_si256(b), 1);
}

XP_INLINE __m256i xp_rans_two_halves(const void *a, const void *b)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(a)), _mm_loadu_si128(b), 1);
}

XP_INLINE struct xp_rans_lows xp_rans_lows_of(unsigned a, unsigned b)
{
    const struct xp_rans_low *one = &xp_rans_lows[a], *other = &xp_rans_lows[b];

    return (struct xp_rans_lows){ xp_rans_two(one->bits, other->bits), xp_rans_two(one->bias, other->bias),
                                  xp_rans_two_halves(one->order, other->order) };
}

/* 16 symbols of two rows each, by turns, and where their planes are: to the rows' integers. */
XP_INLINE void xp_rans_make(__m512i by_turns, const uint8_t *one, const uint8_t *other, struct xp_rans_lows low, int16_t *q, int16_t *other_q)
{
    const __m256i planes = _mm256_shuffle_epi8(xp_rans_two_halves(one, other), low.order);
    const __m256i bits = _mm256_gf2p8affine_epi64_epi8(_mm256_set1_epi64x((long long)0x8040201008040201), planes, 0);
    const __m512i rows = _mm512_setr_epi32(0x20000, 0x60004, 0xa0008, 0xe000c, 0x120010, 0x160014, 0x1a0018, 0x1e001c,
                                           0x30001, 0x70005, 0xb0009, 0xf000d, 0x130011, 0x170015, 0x1b0019, 0x1f001d);
    const __m512i symbols = _mm512_permutexvar_epi16(rows, by_turns);
    __m512i u = _mm512_sub_epi16(_mm512_cvtepu8_epi16(bits), low.bias);

    u = _mm512_add_epi16(u, _mm512_sllv_epi16(symbols, low.bits));
    u = _mm512_mask_mov_epi16(u, _mm512_testn_epi16_mask(symbols, symbols), _mm512_set1_epi16(XP_RANS_ESCAPED));
    _mm256_storeu_si256((void *)q, _mm512_castsi512_si256(u));
    _mm256_storeu_si256((void *)other_q, _mm512_extracti64x4_epi64(u, 1));
}

/* Slots to buckets of slots: rans_tables.py. */
XP_INLINE __m512i xp_rans_bucket(__m512i slot)
{
    const __m512i wide = _mm512_srli_epi16(_mm512_add_epi16(slot, _mm512_set1_epi16(32 * 64 + 40)), 6);

    return _mm512_max_epi16(_mm512_min_epi16(slot, wide), _mm512_sub_epi16(slot, _mm512_set1_epi16(4096 - 128)));
}

/* The symbols of the buckets' last slots, for even and odd lanes of 16 bits by their table; odd ones have bit 5 set if those are two. */
XP_INLINE __m512i xp_rans_last_symbols(const struct xp_rans_table *even, const struct xp_rans_table *odd, __m512i buckets, const int shared)
{
    const __mmask64 first = shared ? 0x5555555555555555 : 0x1111111111111111, second = 0x4444444444444444;
    __m512i at = _mm512_mask2_permutex2var_epi8(_mm512_loadu_si512(even->bucket), buckets, first, _mm512_loadu_si512(even->bucket + 64));

    if (shared)
        return at;
    at = _mm512_mask2_permutex2var_epi8(_mm512_loadu_si512(odd->bucket), at, second, _mm512_loadu_si512(odd->bucket + 64));
    return _mm512_or_si512(at, _mm512_set1_epi32(0x200000));
}

/* One symbol out of 16 states, 2 * `pairs` vectors of states side by side, written stage by stage since the CPU does not look far enough
 * ahead to find the other vectors' work by itself. Two vectors share the search, as slots and tables fit into 16 bits. shared: all use
 * table[0]. States may be below 2^16 afterwards. symbols: of pairs, lane by lane. */
XP_INLINE void xp_rans_pop_pairs(__m512i *x, const struct xp_rans_table *const *table, __m512i *symbols, const int pairs, const int shared)
{
    const __m512i slots = _mm512_set1_epi16((1 << XP_RANS_BITS) - 1), low = _mm512_set1_epi32(0xffff);
    __m512i key[4], at[4], span[4];
    __mmask32 m[4];

#define TABLE(i) table[shared ? 0 : i]
#define LOOK_UP(i, part)                                                                                        \
    (shared ? _mm512_permutexvar_epi16(at[i], _mm512_loadu_si512(table[0]->part))                              \
            : xp_rans_look_up(table[2 * (i)]->part, at[i], table[2 * (i) + 1]->part))
    XP_EACH(pairs) key[i] = _mm512_mask_blend_epi16(0xaaaaaaaa, x[2 * i], _mm512_slli_epi32(x[2 * i + 1], 16));
    XP_EACH(pairs) key[i] = _mm512_and_si512(key[i], slots);
    XP_EACH(pairs) at[i] = xp_rans_last_symbols(TABLE(2 * i), TABLE(2 * i + 1), xp_rans_bucket(key[i]), shared);
    XP_EACH(pairs) m[i] = _mm512_cmplt_epu16_mask(key[i], LOOK_UP(i, begin));
    XP_EACH(pairs) at[i] = _mm512_mask_add_epi16(at[i], m[i], at[i], _mm512_set1_epi16(-1));
    XP_EACH(pairs) span[i] = LOOK_UP(i, frequency);
    XP_EACH(pairs) key[i] = _mm512_sub_epi16(key[i], LOOK_UP(i, begin));
    XP_EACH(pairs) x[2 * i] = _mm512_mullo_epi32(_mm512_srli_epi32(x[2 * i], XP_RANS_BITS), _mm512_and_si512(span[i], low));
    XP_EACH(pairs) x[2 * i + 1] = _mm512_mullo_epi32(_mm512_srli_epi32(x[2 * i + 1], XP_RANS_BITS), _mm512_srli_epi32(span[i], 16));
    XP_EACH(pairs) x[2 * i] = _mm512_dpwssd_epi32(x[2 * i], key[i], _mm512_set1_epi32(1)); /* + the lower half */
    XP_EACH(pairs) x[2 * i + 1] = _mm512_dpwssd_epi32(x[2 * i + 1], key[i], _mm512_set1_epi32(0x10000));
    XP_EACH(pairs) symbols[i] = shared ? at[i] : _mm512_and_si512(at[i], _mm512_set1_epi16(XP_RANS_SYMBOLS - 1));
#undef LOOK_UP
#undef TABLE
}

/* Integers [first, first + count) of a row: what goes with them then is fetched while there is nothing to wait for. */
XP_INLINE void xp_rans_fetch_next(const struct xp_rans_stream *s, size_t first, const size_t count)
{
    const char *read = s->read_next, *write = s->write_next;

    if (read)
        XP_UNROLL for (size_t i = 0; i < count; i += 16) _mm_prefetch(read + 4 * (first + i), _MM_HINT_T1);
    if (write)
        XP_UNROLL for (size_t i = 0; i < count; i += 32) _mm_prefetch(write + 2 * (first + i), _MM_HINT_T1);
}

/* Are there classes with more low bits than a byte? */
static inline int xp_rans_wide(const uint8_t *classes, size_t n)
{
    unsigned most = 0;

    for (size_t g = 0; g < (n + 15) / 16; g++)
        most = classes[g] > most ? classes[g] : most;
    return xp_rans_low_bits(most) > XP_RANS_BYTE_BITS;
}

/* Low bits from `first` on, of integers i of group g. */
static inline __m256i xp_rans_add_planes(__m256i u, __mmask16 i, const uint8_t *planes, unsigned first, unsigned low)
{
    i &= _mm256_cmpneq_epi16_mask(u, _mm256_set1_epi16(XP_RANS_ESCAPED));
    for (unsigned b = first; b < low; b++)
        u = _mm256_mask_add_epi16(u, xp_get16(planes + 2 * b) & i, u, _mm256_set1_epi16((short)(1 << b)));
    return u;
}

/* The low bits that do not fit into a byte. */
static inline void xp_rans_widen(const struct xp_rans_stream *s, size_t coded, const uint8_t *planes)
{
    for (size_t g = 0; 16 * g < coded; g++) {
        const unsigned low = xp_rans_low_bits(s->classes[g]);
        const __mmask16 live = coded - 16 * g < 16 ? xp_rans_live(coded - 16 * g) : 0xffff;
        __m256i *q = (void *)(s->q + 16 * g);

        _mm256_storeu_si256(q, xp_rans_add_planes(_mm256_loadu_si256(q), live, planes, XP_RANS_BYTE_BITS, low));
        planes += 2 * low;
    }
}

/* Integers from `coded` on are symbols still. planes: of the first group that has one. */
static inline void xp_rans_make_tail(const struct xp_rans_stream *s, size_t n, size_t coded, const uint8_t *planes)
{
    for (size_t g = coded / 16; 16 * g < n; g++) {
        const unsigned low = xp_rans_low_bits(s->classes[g]);
        const __mmask16 tail = 16 * g < coded ? (__mmask16)~xp_rans_live(coded - 16 * g) : 0xffff;
        const __mmask16 live = n - 16 * g < 16 ? xp_rans_live(n - 16 * g) : 0xffff;
        __m256i *q = (void *)(s->q + 16 * g), v = _mm256_loadu_si256(q), u;

        u = _mm256_sub_epi16(_mm256_sll_epi16(_mm256_sub_epi16(v, _mm256_set1_epi16(16)), _mm_cvtsi32_si128((int)low)), xp_rans_half(low));
        u = _mm256_mask_mov_epi16(u, _mm256_testn_epi16_mask(v, v), _mm256_set1_epi16(XP_RANS_ESCAPED));
        u = _mm256_mask_mov_epi16(v, tail, xp_rans_add_planes(u, tail, planes, 0, low));
        _mm256_storeu_si256(q, _mm256_maskz_mov_epi16(live, u));
        planes += 2 * low;
    }
}

/* Whether one of 128 integers escaped. */
XP_INLINE int xp_rans_some_escaped(const int16_t *q)
{
    const __m512i a = _mm512_min_epi16(_mm512_loadu_si512(q), _mm512_loadu_si512(q + 32));
    const __m512i b = _mm512_min_epi16(_mm512_loadu_si512(q + 64), _mm512_loadu_si512(q + 96));

    return _mm512_cmpeq_epi16_mask(_mm512_min_epi16(a, b), _mm512_set1_epi16(XP_RANS_ESCAPED)) != 0;
}

/* Integers of the groups [g, end) that escaped. Returns where the next ones' are. NULL: there are fewer. */
static inline const uint8_t *xp_rans_take_escapes(int16_t *q, size_t g, size_t end, const uint8_t *escapes, const uint8_t *stop)
{
    for (; g < end; g++) {
        unsigned m = _mm256_cmpeq_epi16_mask(_mm256_loadu_si256((const void *)(q + 16 * g)), _mm256_set1_epi16(XP_RANS_ESCAPED));

        for (; m; m &= m - 1, escapes += 2) {
            if (stop - escapes < 2)
                return NULL;
            q[16 * g + (unsigned)__builtin_ctz(m)] = (int16_t)xp_get16(escapes);
        }
    }
    return escapes;
}

/* 0 when the escapes do not end where the row does. Few integers escape: they are looked for in 8 groups at a time. */
static inline int xp_rans_put_escapes(const struct xp_rans_stream *s, size_t n, const uint8_t *escapes)
{
    const size_t groups = (n + 15) / 16;
    const uint8_t *end = s->in + s->len;

    for (size_t g = 0; g < groups && escapes; g += 8)
        if (groups - g < 8 || xp_rans_some_escaped(s->q + 16 * g))
            escapes = xp_rans_take_escapes(s->q, g, groups - g < 8 ? groups : g + 8, escapes, end);
    return escapes == end;
}

/* The end of a row whose steps are decoded and made integers. planes: all of them, and those of the group where the tail begins. */
static inline int xp_rans_finish(const struct xp_rans_stream *s, size_t n, unsigned lanes, uint32_t *state, const uint8_t *const *planes,
                                 const uint8_t *escapes)
{
    const size_t coded = xp_rans_steps(n, lanes) * lanes;

    if (!xp_rans_end(s, n, lanes, state))
        return 0;
    if (xp_rans_wide(s->classes, coded))
        xp_rans_widen(s, coded, planes[0]);
    xp_rans_make_tail(s, n, coded, planes[1]);
    return xp_rans_put_escapes(s, n, escapes);
}

#endif
