/*
 * turned_avx512.h - what rotating and coding a row of bf16 share: the extent of groups, pairs of blocks, signs, usual steps
 *
 * Integers of a block lie "turned": w0 = v5, w1 w2 = v0 v1, l0 l1 = v2 v4, registers (v3, v6) (x86/qblock_avx512.h). Half a block, the last
 * 64 values of a row, has no v6.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TURNED_AVX512_H
#define XP_TURNED_AVX512_H

#include "hash/x86/quantise_avx512.h"

#include <immintrin.h>

/*
 * Two blocks go side by side where there are two: the chain of one leaves the core half idle, and the core looks less than a block
 * ahead. The stages are written one after another for the same reason. w: of `blocks` blocks of `regs` registers.
 */
#define XP_ALL_BLOCKS(body)              \
    do {                                 \
        XP_UNROLL                        \
        for (int i = 0; i < blocks; i++) \
            body;                        \
    } while (0)
#define XP_ALL_PAIRS(f) XP_EACH_PAIR(w, regs * blocks, f)

/* Blocks of a group. */
struct xp_extent512 {
    size_t whole, half; /* half: 1 where half a block is behind the whole ones */
};

/* 1 where a row ends in half a block. */
XP_INLINE size_t xp_half_block512(size_t dim)
{
    return dim % XP_QBLOCK == XP_QBLOCK / 2;
}

/* Of the group that begins with block b of a row. */
XP_INLINE struct xp_extent512 xp_extent512(size_t blocks, size_t half, size_t b)
{
    const size_t whole = blocks - b < XP_QGROUP ? blocks - b : XP_QGROUP;

    return (struct xp_extent512){whole, whole < XP_QGROUP ? half : 0};
}

/* Values 32 i .. 32 i + 31 of a block, those that the signs say negated. */
XP_INLINE __m512i xp_flipped512(const char *row, const uint32_t *signs, const int i)
{
    const __m512i in = _mm512_loadu_si512(row + 64 * i);

    return _mm512_mask_add_epi16(in, signs[i], in, _mm512_set1_epi16((short)0x8000));
}

#define XP_LEAST_STEP ((127 - 100) << 7) /* bf16: 2^-100 and 2^100 */
#define XP_MOST_STEP ((127 + 100) << 7)

/* Whether products with these steps are exact (and VCVTNE2PS2BF16 meets no denormal numbers, without a base). */
static inline int xp_steps_are_usual(const uint8_t *steps, size_t n)
{
    const __m512i least = _mm512_set1_epi16(XP_LEAST_STEP), span = _mm512_set1_epi16(XP_MOST_STEP - XP_LEAST_STEP);
    uint32_t unusual = 0;

    for (size_t i = 0; i < n; i += 32) {
        const __mmask32 these = n - i < 32 ? (1u << (n - i)) - 1 : ~0u;
        const __m512i s = _mm512_maskz_loadu_epi16(these, steps + 2 * i);
        unusual |= _mm512_mask_cmpgt_epu16_mask(these, _mm512_sub_epi16(s, least), span);
    }
    return !unusual;
}

#endif
