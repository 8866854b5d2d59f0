/*
 * quantise_avx2.c - a row of f32 to the bytes of a row format, with AVX2
 *
 * As quantise_avx512.c: 8 blocks go through each step together.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/quantise_avx2.h"
#include "hash/x86/tail_avx2.h"

#include <string.h>

/* ---- steps: qblock.c's xp_qstep_choose for 8 blocks ---------------------------------------------------------------------- */

/* Bits of the blocks whose largest value says that they are not near Gaussian; most: the largest peak / energy of one that is. */
static unsigned unusual(__m256i energy, __m256i largest, __m256i most)
{
    const __m256i peak = _mm256_mullo_epi32(largest, largest); /* below 2^30, as energy is */
    const __m256i few = _mm256_mullo_epi32(_mm256_min_epi32(energy, _mm256_set1_epi32(100000000)), most); /* 25 times that is below 2^32 */
    const __m256i round = _mm256_cmpeq_epi32(peak, _mm256_max_epu32(peak, _mm256_mullo_epi32(energy, _mm256_set1_epi32(3))));
    const __m256i usual = _mm256_and_si256(_mm256_cmpeq_epi32(few, _mm256_max_epu32(few, peak)), round);

    return ~(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(usual));
}

static void search_step(const struct xp_rotated *r, size_t b, size_t n, enum xp_qformat f, struct xp_qsteps256 *to, size_t i)
{
    const struct xp_qstats s = xp_qstats_get(r, b + i);
    const struct xp_qstep step = xp_qstep_choose_avx2(f, &s, xp_qintegers(r, b + i), n);

    to->wire[i] = step.wire;
    to->recip[i] = step.recip;
    to->shift[i] = step.shift;
}

void xp_choose_steps256(const struct xp_rotated *r, size_t b, size_t count, size_t last, enum xp_qformat f, struct xp_qsteps256 *to)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    const __m256i numbers = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8), is_last = _mm256_cmpeq_epi32(numbers, _mm256_set1_epi32((int)count));
    const __m256i size = _mm256_blendv_epi8(_mm256_set1_epi32(XP_QBLOCK), _mm256_set1_epi32((int)last), is_last);
    const __m256i most = _mm256_blendv_epi8(_mm256_set1_epi32(25), _mm256_set1_epi32(12), _mm256_cmpgt_epi32(_mm256_set1_epi32(XP_QBLOCK), size));
    const __m256i energy = _mm256_loadu_si256((const __m256i *)(r->energy + b)), largest = _mm256_loadu_si256((const __m256i *)(r->largest + b));
    const __m256 scale = _mm256_loadu_ps(r->scale + b), per_unit = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(size));
    const __m256 by_rms = _mm256_mul_ps(_mm256_set1_ps(q->rms_steps), _mm256_sqrt_ps(_mm256_cvtepi32_ps(energy)));
    const __m256 by_max = _mm256_mul_ps(_mm256_set1_ps(q->max_steps), _mm256_cvtepi32_ps(largest));
    const __m256 live = _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_NEQ_OQ);

    const __m256i rounded = _mm256_srli_epi32(xp_round_bf16_256(_mm256_div_ps(_mm256_min_ps(by_rms, by_max), per_unit)), 16);
    const __m256i wire = _mm256_and_si256(rounded, _mm256_castps_si256(live));
    const __m256 real = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(wire, 16)), per_unit);
    const __m256i exponent = _mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(real), 23), _mm256_set1_epi32(127));
    const __m256i shift = _mm256_min_epu32(exponent, _mm256_set1_epi32(q->max_shift));
    const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(shift, _mm256_set1_epi32(15 + 127)), 23));
    const __m256i recip = _mm256_min_epi32(_mm256_cvtps_epi32(_mm256_div_ps(power, real)), _mm256_set1_epi32(32767));
    _mm256_store_si256((__m256i *)to->wire, wire);
    _mm256_store_si256((__m256i *)to->shift, shift);
    _mm256_store_si256((__m256i *)to->recip, recip);
    for (unsigned slow = unusual(energy, largest, most) & (unsigned)_mm256_movemask_ps(live) & ((1u << count) - 1); slow; slow &= slow - 1) {
        const size_t i = (size_t)__builtin_ctz(slow);
        search_step(r, b, i + 1 == count ? last : XP_QBLOCK, f, to, i);
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------------------------- */

XP_INLINE void group_of_blocks(const float *x, const uint32_t *signs, size_t count, enum xp_qformat f, const int levels, const int bits,
                               const int paired, uint8_t *step, uint8_t *codes)
{
    _Alignas(32) int16_t h[XP_QGROUP256 * XP_QBLOCK];
    _Alignas(32) float l1[XP_QGROUP256] = {0}, scale[XP_QGROUP256];
    _Alignas(32) int32_t energy[XP_QGROUP256], largest[XP_QGROUP256];
    const struct xp_rotated r = {h, scale, energy, largest};
    const size_t bytes = (size_t)bits * (paired ? 8 : 16);
    struct xp_qsteps256 steps;
    __m256i w[8];

    for (size_t b = 0; b < count; b++)
        l1[b] = xp_sum_abs256(x + b * XP_QBLOCK);
    xp_choose_scales256(l1, &r, 0);
    for (size_t b = 0; b < count; b++)
        xp_rotate_block256(&r, b, x + b * XP_QBLOCK, signs + b * (XP_QBLOCK / 32));
    xp_choose_steps256(&r, 0, count, XP_QBLOCK, f, &steps);
    for (size_t b = 0; b < count; b++) {
        const struct xp_qrounding256 k = xp_qrounding256(&steps, b, levels);
        xp_put16(step + 2 * b, (uint16_t)steps.wire[b]);
        xp_codes256(h + b * XP_QBLOCK, &k, w);
        if (scale[b] == 0.0f)
            memset(codes + b * bytes, 0, bytes);
        else
            xp_put_codes256(w, levels, bits, paired, codes + b * bytes);
    }
}

XP_INLINE void whole_blocks(const struct xp_quantiser *q, enum xp_qformat f, const int levels, const int bits, const int paired,
                            const float *res, uint8_t *out)
{
    const size_t blocks = q->dim / XP_QBLOCK, bytes = (size_t)bits * (paired ? 8 : 16);
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);

    for (size_t b = 0; b < blocks; b += XP_QGROUP256) {
        const size_t count = blocks - b < XP_QGROUP256 ? blocks - b : XP_QGROUP256;
        group_of_blocks(res + b * XP_QBLOCK, q->signs + b * (XP_QBLOCK / 32), count, f, levels, bits, paired, out + 2 * b, codes + b * bytes);
    }
}

static size_t blocks_of_format(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out)
{
#define BLOCKS(levels, bits, paired) whole_blocks(q, f, levels, bits, paired, res, out)
    if (f == XP_Q_FP8)
        return 0;
    XP_EACH_FORMAT256(f, BLOCKS)
    return q->dim / XP_QBLOCK;
#undef BLOCKS
}

void xp_quantise_avx2(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out)
{
    const size_t bytes = xp_qblock_bytes(f, XP_QBLOCK);
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);
    float x[XP_QBLOCK];

    /* What is left: a block that is not whole; all blocks of FP8. */
    for (size_t b = blocks_of_format(q, f, res, out), first = b * XP_QBLOCK; first < q->dim; b++, first += XP_QBLOCK) {
        const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first < n ? q->dim - first : n;
        memcpy(x, res + first, have * sizeof(*x));
        memset(x + have, 0, (n - have) * sizeof(*x));
        xp_qtail_encode_avx2(f, q->signs + first / 32, x, n, out + 2 * b, codes + b * bytes);
    }
}
