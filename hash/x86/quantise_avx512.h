/*
 * quantise_avx512.h - what the quantisers with AVX-512 share: scales and steps of up to 16 blocks at once, codes to bytes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_QUANTISE_AVX512_H
#define XP_QUANTISE_AVX512_H

#include "hash/bytes.h"
#include "hash/qblock.h"
#include "hash/x86/qblock_avx512.h"
#include "hash/x86/rows_avx512.h"

#define XP_QGROUP 16 /* blocks that go through each step together */

struct xp_qsteps512 {
    _Alignas(64) int32_t wire[XP_QGROUP], recip[XP_QGROUP], shift[XP_QGROUP], middle[XP_QGROUP]; /* all but shift 0 where a block is zeros */
};

/* ---- scales of blocks b .. b + 15 -------------------------------------------------------------------------------------- */

XP_INLINE void xp_choose_scales512(const float *sums, const struct xp_rotated *to, size_t b)
{
    const __m512 l1 = _mm512_load_ps(sums);
    const __mmask16 ok = _mm512_cmp_ps_mask(l1, _mm512_set1_ps(XP_QMIN_L1), _CMP_GE_OQ) &
                         _mm512_cmp_ps_mask(l1, _mm512_set1_ps(XP_QMAX_L1), _CMP_LE_OQ);

    _mm512_storeu_ps(to->scale + b, _mm512_maskz_div_ps(ok, _mm512_set1_ps(XP_QTARGET), l1));
}

/* ---- steps: qblock.c's xp_qstep_choose for 16 blocks ------------------------------------------------------------------- */

/* Blocks whose largest value says that they are not near Gaussian. */
static __mmask16 unusual(__m512i energy, __m512i largest, __mmask16 halves)
{
    const __m512i most = _mm512_mask_set1_epi32(_mm512_set1_epi32(25), halves, 12);
    const __m512i peak = _mm512_mullo_epi32(largest, largest); /* below 2^30, as energy is */
    const __m512i few = _mm512_min_epi32(energy, _mm512_set1_epi32(50000000));

    return _mm512_cmplt_epu32_mask(peak, _mm512_mullo_epi32(energy, _mm512_set1_epi32(3))) |
           _mm512_cmpgt_epi32_mask(peak, _mm512_mullo_epi32(few, most));
}

static void search_step(const struct xp_rotated *r, size_t b, enum xp_qformat f, struct xp_qsteps512 *to, size_t i, size_t n)
{
    const struct xp_qstats s = xp_qstats_get(r, b + i);
    const struct xp_qstep step = xp_qstep_choose_avx512(f, &s, xp_qintegers(r, b + i), n);

    to->wire[i] = step.wire;
    to->recip[i] = step.recip;
    to->shift[i] = step.shift;
    to->middle[i] = xp_qinfo[f].levels << (step.shift - 1);
}

/* Of `count` blocks from block b on, and of half a block behind them where `half` is 1. */
static inline void xp_choose_steps512(const struct xp_rotated *r, size_t b, size_t count, size_t half, enum xp_qformat f, struct xp_qsteps512 *to)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    const __mmask16 halves = (__mmask16)(half << count);
    const __m512i energy = _mm512_loadu_si512(r->energy + b), largest = _mm512_loadu_si512(r->largest + b);
    const __m512 values = _mm512_mask_mov_ps(_mm512_set1_ps(XP_QBLOCK), halves, _mm512_set1_ps(XP_QBLOCK / 2));
    const __m512 scale = _mm512_loadu_ps(r->scale + b), per_unit = _mm512_mul_ps(scale, values);
    const __m512 by_rms = _mm512_mul_ps(_mm512_set1_ps(q->rms_steps), _mm512_sqrt_ps(_mm512_cvtepi32_ps(energy)));
    const __m512 by_max = _mm512_mul_ps(_mm512_set1_ps(q->max_steps), _mm512_cvtepi32_ps(largest));
    const __mmask16 dead = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_EQ_OQ);

    const struct xp_bf16_constants512 k = xp_bf16_constants512();
    const __m512 ideal = _mm512_div_ps(_mm512_min_ps(by_rms, by_max), per_unit);
    const __m512i wire = _mm512_maskz_srli_epi32((__mmask16)~dead, xp_round_bf16_512(ideal, &k), 16);
    const __m512 real = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(wire, 16)), per_unit);
    const __m512i exponent = _mm512_sub_epi32(_mm512_srli_epi32(_mm512_castps_si512(real), 23), _mm512_set1_epi32(127));
    const __m512i shift = _mm512_min_epu32(exponent, _mm512_set1_epi32(q->max_shift));
    const __m512 power = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(shift, _mm512_set1_epi32(15 + 127)), 23));
    const __m512i recip = _mm512_min_epi32(_mm512_cvtps_epi32(_mm512_div_ps(power, real)), _mm512_set1_epi32(32767));
    const __m512i middle = _mm512_sllv_epi32(_mm512_set1_epi32(q->levels), _mm512_sub_epi32(shift, _mm512_set1_epi32(1)));
    _mm512_store_si512(to->wire, wire);
    _mm512_store_si512(to->middle, _mm512_maskz_mov_epi32((__mmask16)~dead, middle));
    _mm512_store_si512(to->shift, shift);
    _mm512_store_si512(to->recip, _mm512_maskz_mov_epi32((__mmask16)~dead, recip));
    for (unsigned slow = unusual(energy, largest, halves) & (unsigned)~dead & ((1u << (count + half)) - 1); slow; slow &= slow - 1) {
        const size_t i = (size_t)__builtin_ctz(slow);
        search_step(r, b, f, to, i, i < count ? XP_QBLOCK : XP_QBLOCK / 2);
    }
}

/* ---- codes ----------------------------------------------------------------------------------------------------------------- */

struct rounding {
    __m512i recip, middle, top;
    __m128i shift;
};

/* The code, where it is one. */
XP_INLINE __m512i xp_fixed512(__m512i h, __m512i recip, __m512i middle, __m128i shift)
{
    return _mm512_sra_epi16(_mm512_adds_epi16(_mm512_mulhrs_epi16(h, recip), middle), shift);
}

XP_INLINE __m512i code_of(__m512i h, const struct rounding *r)
{
    const __m512i u = xp_fixed512(h, r->recip, r->middle, r->shift);

    return _mm512_min_epi16(_mm512_max_epi16(u, _mm512_setzero_si512()), r->top);
}

/* Words with w0 = v5, w1 w2 = v0 v1, l0 l1 = v2 v4 ("turned", x86/code_avx512bf16.c) to the order of the codes. */
XP_INLINE __m512i in_order(__m512i x, const int turned)
{
    const __m512i from = _mm512_set_epi16(31, 29, 15, 13, 23, 21, 7, 5, 27, 25, 11, 9, 19, 17, 3, 1,
                                          30, 28, 14, 12, 22, 20, 6, 4, 26, 24, 10, 8, 18, 16, 2, 0);

    return turned ? _mm512_permutexvar_epi16(from, x) : x;
}

/* Bytes in the order of the codes, as fields of so many bits. */
XP_INLINE void xp_put_bytes512(const int bits, __m512i a, __m512i b, uint8_t *p)
{
    if (bits == 8) {
        _mm512_storeu_si512(p, a);
        _mm512_storeu_si512(p + 64, b);
        return;
    }
    int at = 0;
    if (bits & 4) {
        xp_put_nibbles128(p, a, b);
        p += 64;
        at = 4;
    }
    if (bits & 2) {
        xp_put_quads128(p, at, a, b);
        p += 32;
        at += 2;
    }
    if (bits & 1) {
        xp_put_plane64(p, a, 1 << at);
        xp_put_plane64(p + 8, b, 1 << at);
    }
}

XP_INLINE void put_single(const int bits, const __m512i w[4], const int turned, uint8_t *p)
{
    __m512i a = _mm512_or_si512(w[0], _mm512_slli_epi16(w[1], 8)), b = _mm512_or_si512(w[2], _mm512_slli_epi16(w[3], 8));

    if (bits == 4) {
        _mm512_storeu_si512(p, in_order(_mm512_or_si512(a, xp_shift_up512(b, 4)), turned));
        return;
    }
    xp_put_bytes512(bits, in_order(a, turned), in_order(b, turned), p);
}

XP_INLINE void put_pairs(const int levels, const int bits, const __m512i w[4], const int turned, uint8_t *p)
{
    const __m512i l = _mm512_set1_epi16((short)levels), low = _mm512_set1_epi16(0xff);
    const __m512i even = in_order(_mm512_add_epi16(_mm512_mullo_epi16(w[0], l), w[2]), turned);
    const __m512i odd = in_order(_mm512_add_epi16(_mm512_mullo_epi16(w[1], l), w[3]), turned);
    const __m512i lower = _mm512_or_si512(_mm512_and_si512(even, low), _mm512_slli_epi16(odd, 8));

    if (bits < 8) {
        xp_put_fields64(bits, lower, p);
        return;
    }
    _mm512_storeu_si512(p, lower);
    xp_put_fields64(bits & 7, _mm512_or_si512(_mm512_srli_epi16(even, 8), _mm512_andnot_si512(low, odd)), p + 64);
}

/* The codes of a block of so many registers, in the order of its h. */
XP_INLINE void xp_codes512(const int16_t *h, const struct xp_qsteps512 *s, size_t i, const int levels, const int regs, __m512i *w)
{
    const struct rounding r = {_mm512_set1_epi16((short)s->recip[i]), _mm512_set1_epi16((short)s->middle[i]),
                               _mm512_set1_epi16((short)(levels - 1)), _mm_cvtsi32_si128(s->shift[i])};

    XP_UNROLL
    for (int k = 0; k < regs; k++)
        w[k] = code_of(_mm512_loadu_si512(h + 32 * k), &r);
}

XP_INLINE void xp_put_codes512(const __m512i w[4], const int levels, const int bits, const int paired, const int turned, uint8_t *p)
{
    if (paired)
        put_pairs(levels, bits, w, turned, p);
    else
        put_single(bits, w, turned, p);
}

#endif
