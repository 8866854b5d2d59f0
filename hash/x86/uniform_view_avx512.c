/*
 * uniform_view_avx512.c - a row in book order less its base, and its sums, in one pass over its windows, with AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/x86/uniform_avx512.h"
#include "hash/x86/window_avx512.h"

/* Partials: of the row as pairs of bf16 come apart, of what is left as its groups follow each other. */
struct partials {
    __m512 even, odd, rest[2], mean[2], spread;
};

/* 16 values that begin at value i, of which n count: what is left of them. half: which partials are theirs. */
XP_INLINE void leave16(const struct xp_uniform_view *v, __m512 x, size_t i, size_t n, const int half, const int to_mean, float *rest,
                       struct partials *s)
{
    const __mmask16 there = xp_first16(n);
    __m512 r = _mm512_sub_ps(x, _mm512_loadu_ps(v->base + i));

    if (n < 16)
        r = _mm512_maskz_mov_ps(there, r);
    _mm512_storeu_ps(rest + i, r);
    s->rest[half] = xp_add_square512(s->rest[half], r);
    s->spread = xp_add_square512(s->spread, _mm512_mul_ps(r, _mm512_set1_ps(v->weight[i / 16])));
    if (to_mean) {
        const __m512 d = _mm512_sub_ps(x, _mm512_loadu_ps(v->mean + i));
        s->mean[half] = xp_add_square512(s->mean[half], n < 16 ? _mm512_maskz_mov_ps(there, d) : d);
    }
}

/* Values 0 to 15 and 16 to 31 of a vector, each in the upper half of a lane. */
XP_INLINE __m512 widen(__m512i x, const int half)
{
    const __m512i at = _mm512_setr_epi32(0, 1 << 16, 2 << 16, 3 << 16, 4 << 16, 5 << 16, 6 << 16, 7 << 16, 8 << 16, 9 << 16, 10 << 16,
                                         11 << 16, 12 << 16, 13 << 16, 14 << 16, 15 << 16);

    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, half ? _mm512_or_si512(at, _mm512_set1_epi32(16 << 16)) : at, x));
}

/* A line of the row to come and two of its base, where 32 values of this one are worked on. */
XP_INLINE void fetch_ahead(const struct xp_uniform_view *v, size_t i)
{
    if (v->row_ahead)
        _mm_prefetch((const char *)v->row_ahead + 2 * i, _MM_HINT_T1);
    if (v->base_ahead) {
        _mm_prefetch((const char *)(v->base_ahead + i), _MM_HINT_T1);
        _mm_prefetch((const char *)(v->base_ahead + i + 16), _MM_HINT_T1);
    }
}

/* The window that begins at value `first`, of n values. */
XP_INLINE void view_window(const struct xp_uniform_view *v, size_t first, const size_t n, const int to_mean, char *typed, float *rest,
                           struct partials *s)
{
    __m512i w[XP_WINDOW_VECTORS];

    XP_UNROLL
    for (size_t i = 0; i < XP_WINDOW_VECTORS; i++) {
        w[i] = xp_load_first32((const char *)v->row + 2 * (first + 32 * i), xp_left32(n, 32 * i));
        s->even = xp_add_square512(s->even, xp_even_bf16_512(w[i]));
        s->odd = xp_add_square512(s->odd, xp_odd_bf16_512(w[i]));
    }
    for (size_t at = 0; at < n; at += 32) {
        const __m512i x = xp_pick32(w, v->index + first + at);
        const size_t left = n - at;

        fetch_ahead(v, first + at);
        if (left >= 32)
            _mm512_storeu_si512(typed + 2 * (first + at), x);
        else
            _mm512_mask_storeu_epi16(typed + 2 * (first + at), _bzhi_u32(0xffffffffu, (unsigned)left), x);
        leave16(v, widen(x, 0), first + at, left, 0, to_mean, rest, s);
        if (left > 16)
            leave16(v, widen(x, 1), first + at + 16, left - 16, 1, to_mean, rest, s);
    }
}

XP_INLINE void view(const struct xp_uniform_view *all, const int to_mean, char *typed, float *rest, struct xp_uniform_sums *sums)
{
    const struct xp_uniform_view own = *all, *v = &own; /* one that cannot be written to stays in registers */
    const __m512 none = _mm512_setzero_ps();
    struct partials s = { none, none, { none, none }, { none, none }, none };
    size_t w = 0;

    for (; w + XP_REORDER_WINDOW <= v->dim; w += XP_REORDER_WINDOW)
        view_window(v, w, XP_REORDER_WINDOW, to_mean, typed, rest, &s);
    if (w < v->dim)
        view_window(v, w, v->dim - w, to_mean, typed, rest, &s);
    sums->row = xp_fold_pairs512(s.even, s.odd);
    sums->rest = xp_fold_lanes512(_mm512_add_ps(s.rest[0], s.rest[1]));
    sums->to_mean = xp_fold_lanes512(_mm512_add_ps(s.mean[0], s.mean[1]));
    sums->spread = xp_fold_lanes512(s.spread);
}

void xp_uniform_view_avx512(const struct xp_uniform_view *v, void *typed, float *rest, struct xp_uniform_sums *sums)
{
    static const struct xp_view_kernels k = { xp_distance_avx512, xp_reorder_avx512, xp_residual_avx512, xp_energy_avx512, xp_uniform_spread_avx512 };

    if (v->dtype != XP_BF16)
        xp_uniform_view_by(&k, v, typed, rest, sums);
    else if (v->mean)
        view(v, 1, typed, rest, sums);
    else
        view(v, 0, typed, rest, sums);
}
