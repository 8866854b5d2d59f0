/*
 * test_codec_pack.c - codec pack: bit for bit, what it saves, forged payloads
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash/coder_impl.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

static struct xp_coder *make(xp_dtype t, size_t dim, enum xp_isa isa)
{
    struct xp_coder_desc d = { .dtype = t, .dim = dim, .mode = XP_MODE_EXACT, .isa = isa };
    struct xp_coder *c;

    cr_assert_eq(xp_codec_parse("pack", &d.choice), XP_OK);
    cr_assert_eq(xp_coder_create(&c, &d), XP_OK);
    return c;
}

/* kind 0: activations; 1: with zeros, NaN, Inf, denormals; 2: any bits. */
static void fill(struct random *rng, uint8_t *rows, xp_dtype t, size_t n, size_t dim, int kind)
{
    const size_t bytes = dim * xp_dtype_size(t);

    for (size_t r = 0; r < n; r++) {
        const double size = exp2(2 * random_normal(rng));
        struct random shape = random_seeded(5);

        for (size_t i = 0; i < dim; i++)
            value_put(rows + r * bytes, t, i, size * exp2(1.5 * random_normal(&shape)) * random_normal(rng));
        for (size_t i = 0; kind == 1 && i < dim; i += 1 + random_below(rng, 9))
            value_put(rows + r * bytes, t, i, (double[]){ 0, -0.0, NAN, INFINITY, 1e-30, 1e30 }[random_below(rng, 6)]);
        for (size_t i = 0; kind == 2 && i < bytes; i++)
            rows[r * bytes + i] = (uint8_t)random_bits(rng);
        if (r > 2 && random_below(rng, 4) == 0)
            memcpy(rows + r * bytes, rows + random_below(rng, r) * bytes, bytes);
    }
}

Test(codec_pack, every_shape_comes_back_bit_for_bit_from_equal_frames)
{
    struct random rng = random_start("codec_pack");

    for (size_t k = 1; k <= 120; k++) {
        const size_t dim = k <= 100 ? k * k % 301 + 1 : (size_t[]){ 768, 4096, 1024, 2049 }[k % 4], n = dim > 300 ? 40 : 1 + k % 80;
        const xp_dtype t = (xp_dtype)(XP_BF16 + k % 3);
        const size_t bytes = dim * xp_dtype_size(t), cap = xp_frame_bound(t, dim, n);
        uint8_t *rows = malloc(n * bytes), *back = malloc(n * bytes), *frame = malloc(cap), *first = malloc(cap);
        uint32_t *index = malloc(4 * n);
        struct xp_rows in = { .data = rows, .rows = n, .dim = dim, .dtype = t, .index = k % 2 ? index : NULL };
        size_t len, len0 = 0;

        fill(&rng, rows, t, n, dim, (int)random_below(&rng, 3));
        for (size_t r = 0; r < n; r++)
            index[r] = (uint32_t)random_below(&rng, n);
        for (int isa = XP_ISA_C; isa <= XP_ISA_BEST; isa++) {
            struct xp_coder *c = make(t, dim, (enum xp_isa)isa);

            cr_assert_eq(xp_coder_encode(c, &in, frame, cap, &len, NULL), XP_OK);
            cr_assert_leq(len, cap);
            memset(back, 0xee, n * bytes);
            cr_assert_eq(xp_coder_decode(c, frame, len, back, n), XP_OK, "%s", xp_coder_why(c));
            for (size_t r = 0; r < n; r++)
                cr_assert_arr_eq(back + r * bytes, xp_row(&in, r), bytes, "dim %zu row %zu", dim, r);
            if (isa == XP_ISA_C) {
                memcpy(first, frame, len);
                len0 = len;
            }
            cr_assert(len == len0 && !memcmp(first, frame, len), "dim %zu: other bytes", dim);
            xp_coder_destroy(c);
        }
        free(rows);
        free(back);
        free(frame);
        free(first);
        free(index);
    }
}

Test(codec_pack, saves_a_quarter_of_bf16_rows)
{
    struct random rng = random_start("codec_pack_size");
    enum { N = 300, DIM = 512 };
    static uint8_t rows[N * DIM * 4], frame[N * (DIM * 4 + 4) + 64];
    static const double most[] = { 0, 0.72, 0.90, 0.86 };

    for (int t = XP_BF16; t <= XP_F32; t++) {
        struct xp_rows in = { .data = rows, .rows = N, .dim = DIM, .dtype = (xp_dtype)t };
        struct xp_coder *c = make((xp_dtype)t, DIM, XP_ISA_BEST);
        xp_codec_stats st = { .size = sizeof(st) };
        size_t len;

        for (size_t i = 0; i < N * DIM; i++)
            value_put(rows, (xp_dtype)t, i, random_normal(&rng));
        cr_assert_eq(xp_coder_encode(c, &in, frame, sizeof(frame), &len, &st), XP_OK);
        cr_assert_str_eq(st.codec, "pack");
        cr_assert_lt((double)len, most[t] * (double)(N * xp_row_bytes(&in)), "type %d: %zu bytes", t, len);
        xp_coder_destroy(c);
    }
}

Test(codec_pack, forged_payloads_are_refused_or_are_rows)
{
    struct random rng = random_start("codec_pack_forged");

    for (int shape = 0; shape < 3; shape++) {
        const size_t dim = (size_t[]){ 70, 4096, 300 }[shape], n = (size_t[]){ 40, 9, 60 }[shape];
        const xp_dtype t = (xp_dtype)(XP_BF16 + shape);
        const size_t bytes = dim * xp_dtype_size(t), cap = xp_frame_bound(t, dim, n);
        uint8_t *rows = malloc(n * bytes), *back = malloc(n * bytes), *frame = malloc(cap);
        struct xp_rows in = { .data = rows, .rows = n, .dim = dim, .dtype = t };
        struct xp_coder *c = make(t, dim, XP_ISA_BEST);
        size_t len, refused = 0;

        fill(&rng, rows, t, n, dim, 0);
        cr_assert_eq(xp_coder_encode(c, &in, frame, cap, &len, NULL), XP_OK);
        len -= 64;
        for (int i = 0; i < 1000; i++) {
            uint8_t *payload = malloc(len); /* of its own, so that a sanitizer sees every byte read beyond it */
            size_t cut = random_below(&rng, 4) ? len : random_below(&rng, len + 1);

            memcpy(payload, frame + 64, len);
            for (size_t flips = 1 + random_below(&rng, 3); flips > 0; flips--)
                payload[random_below(&rng, random_below(&rng, 2) ? 200 : len)] ^= (uint8_t)(1u << random_below(&rng, 8));
            payload = realloc(payload, cut ? cut : 1);
            const xp_status s = xp_codec_pack.decode(c, payload, cut, n, back);
            cr_assert(s == XP_OK || s == XP_ERR_CORRUPT);
            refused += s != XP_OK;
            free(payload);
        }
        cr_assert_gt(refused, 200);
        xp_coder_destroy(c);
        free(rows);
        free(back);
        free(frame);
    }
}
