/*
 * fht_avx512.c - fast Hadamard transform of integers with AVX-512
 *
 * Blocks of up to 16 registers are transformed in registers; the bits above are then done across blocks, up to four in
 * one pass over the data.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/hadamard_avx512.h"

#define BLOCK_I16 512 /* 16 registers */
#define BLOCK_I32 256

/* ---- int16 ---- */

XP_INLINE void block_i16(int16_t *x, const int regs, const int across)
{
    __m512i r[16];

    XP_UNROLL
    for (int i = 0; i < regs; i++)
        r[i] = _mm512_loadu_si512(x + i * 32);
    if (across)
        xp_across_i16(r, regs);
    xp_lanes_i16(r, regs);
    XP_UNROLL
    for (int i = 0; i < regs; i++)
        _mm512_storeu_si512(x + i * 32, r[i]);
}

/* The register bits of `regs` vectors `stride` values apart, for all columns of n values. */
XP_INLINE void columns_i16(int16_t *x, size_t n, size_t stride, const int regs)
{
    for (size_t base = 0; base < n; base += stride * (size_t)regs)
        for (size_t column = 0; column < stride; column += 32) {
            __m512i r[16];
            XP_UNROLL
            for (int i = 0; i < regs; i++)
                r[i] = _mm512_loadu_si512(x + base + column + (size_t)i * stride);
            xp_across_i16(r, regs);
            XP_UNROLL
            for (int i = 0; i < regs; i++)
                _mm512_storeu_si512(x + base + column + (size_t)i * stride, r[i]);
        }
}

static void large_i16(int16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i += BLOCK_I16)
        block_i16(x + i, 16, 1);
    for (size_t stride = BLOCK_I16; stride < n;) {
        const size_t left = n / stride;
        if (left >= 16) {
            columns_i16(x, n, stride, 16);
            stride *= 16;
        } else if (left >= 8) {
            columns_i16(x, n, stride, 8);
            stride *= 8;
        } else if (left >= 4) {
            columns_i16(x, n, stride, 4);
            stride *= 4;
        } else {
            columns_i16(x, n, stride, 2);
            stride *= 2;
        }
    }
}

void xp_fht_i16_avx512(int16_t *x, unsigned log2n, size_t nrows)
{
    const size_t n = (size_t)1 << log2n;

    if (log2n < 5) {
        xp_fht_i16_c(x, log2n, nrows);
        return;
    }
    if (log2n == 5) { /* two rows share a pair of registers; the register bit tells them apart and is left alone */
        for (; nrows >= 2; nrows -= 2, x += 2 * n)
            block_i16(x, 2, 0);
        xp_fht_i16_c(x, log2n, nrows);
        return;
    }
    for (size_t row = 0; row < nrows; row++, x += n) {
        switch (log2n) {
        case 6: block_i16(x, 2, 1); break;
        case 7: block_i16(x, 4, 1); break;
        case 8: block_i16(x, 8, 1); break;
        default: large_i16(x, n); break;
        }
    }
}

/* ---- int32 ---- */

XP_INLINE void block_i32(int32_t *x, const int regs, const int across)
{
    __m512i r[16];

    XP_UNROLL
    for (int i = 0; i < regs; i++)
        r[i] = _mm512_loadu_si512(x + i * 16);
    if (across)
        xp_across_i32(r, regs);
    xp_lanes_i32(r, regs);
    XP_UNROLL
    for (int i = 0; i < regs; i++)
        _mm512_storeu_si512(x + i * 16, r[i]);
}

XP_INLINE void columns_i32(int32_t *x, size_t n, size_t stride, const int regs)
{
    for (size_t base = 0; base < n; base += stride * (size_t)regs)
        for (size_t column = 0; column < stride; column += 16) {
            __m512i r[16];
            XP_UNROLL
            for (int i = 0; i < regs; i++)
                r[i] = _mm512_loadu_si512(x + base + column + (size_t)i * stride);
            xp_across_i32(r, regs);
            XP_UNROLL
            for (int i = 0; i < regs; i++)
                _mm512_storeu_si512(x + base + column + (size_t)i * stride, r[i]);
        }
}

static void large_i32(int32_t *x, size_t n)
{
    for (size_t i = 0; i < n; i += BLOCK_I32)
        block_i32(x + i, 16, 1);
    for (size_t stride = BLOCK_I32; stride < n;) {
        const size_t left = n / stride;
        if (left >= 16) {
            columns_i32(x, n, stride, 16);
            stride *= 16;
        } else if (left >= 8) {
            columns_i32(x, n, stride, 8);
            stride *= 8;
        } else if (left >= 4) {
            columns_i32(x, n, stride, 4);
            stride *= 4;
        } else {
            columns_i32(x, n, stride, 2);
            stride *= 2;
        }
    }
}

void xp_fht_i32_avx512(int32_t *x, unsigned log2n, size_t nrows)
{
    const size_t n = (size_t)1 << log2n;

    if (log2n < 4) {
        xp_fht_i32_c(x, log2n, nrows);
        return;
    }
    if (log2n == 4) { /* as above */
        for (; nrows >= 2; nrows -= 2, x += 2 * n)
            block_i32(x, 2, 0);
        xp_fht_i32_c(x, log2n, nrows);
        return;
    }
    for (size_t row = 0; row < nrows; row++, x += n) {
        switch (log2n) {
        case 5: block_i32(x, 2, 1); break;
        case 6: block_i32(x, 4, 1); break;
        case 7: block_i32(x, 8, 1); break;
        default: large_i32(x, n); break;
        }
    }
}
