/*
 * reorder_avx512.c - values of a row in another order, window by window, with AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/window_avx512.h"

XP_INLINE void load_window(const uint16_t *in, const size_t n, __m512i *w)
{
    XP_UNROLL
    for (size_t i = 0; i < XP_WINDOW_VECTORS; i++)
        w[i] = xp_load_first32(in + 32 * i, xp_left32(n, 32 * i));
}

static void window(const uint16_t *in, const uint8_t *index, uint16_t *out)
{
    __m512i w[XP_WINDOW_VECTORS];

    load_window(in, XP_REORDER_WINDOW, w);
    XP_UNROLL
    for (int i = 0; i < XP_WINDOW_VECTORS; i++)
        _mm512_storeu_si512(out + 32 * i, xp_pick32(w, index + 32 * i));
}

/* The last window: n values. */
static void short_window(const uint16_t *in, const uint8_t *index, size_t n, uint16_t *out)
{
    __m512i w[XP_WINDOW_VECTORS];
    size_t i = 0;

    load_window(in, n, w);
    for (; i + 32 <= n; i += 32)
        _mm512_storeu_si512(out + i, xp_pick32(w, index + i));
    if (i < n)
        xp_reorder_c(in, index + i, n - i, 2, out + i);
}

void xp_reorder_avx512(const void *in, const uint8_t *index, size_t n, size_t size, void *out)
{
    size_t w = 0;

    if (size != 2) {
        xp_reorder_c(in, index, n, size, out);
        return;
    }
    for (; w + XP_REORDER_WINDOW <= n; w += XP_REORDER_WINDOW)
        window((const uint16_t *)in + w, index + w, (uint16_t *)out + w);
    if (w < n)
        short_window((const uint16_t *)in + w, index + w, n - w, (uint16_t *)out + w);
}
