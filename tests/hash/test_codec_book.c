/*
 * test_codec_book.c - codec book: the promise, what it saves, rows that cannot be coded, forged payloads
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

struct batch {
    struct xp_rows in;
    uint8_t *rows, *back, *frame;
    size_t cap, len, row;
};

static struct xp_coder *make_dithered(const char *codec, xp_dtype t, size_t dim, double eps, xp_eps_ref ref, enum xp_isa isa, int dither)
{
    struct xp_coder_desc d = { .dtype = t, .dim = dim, .mode = XP_MODE_BOUNDED, .eps = eps, .eps_ref = ref, .isa = isa, .dither = dither };
    struct xp_coder *c;

    cr_assert_eq(xp_codec_parse(codec, &d.choice), XP_OK);
    cr_assert_eq(xp_coder_create(&c, &d), XP_OK);
    return c;
}

static struct xp_coder *make(const char *codec, xp_dtype t, size_t dim, double eps, xp_eps_ref ref, enum xp_isa isa)
{
    return make_dithered(codec, t, dim, eps, ref, isa, 0);
}

static struct batch room(xp_dtype t, size_t n, size_t dim)
{
    struct batch b = { .row = dim * xp_dtype_size(t), .cap = xp_frame_bound(t, dim, n) };

    b.rows = malloc(n * b.row + 1);
    b.back = malloc(n * b.row + 1);
    b.frame = malloc(b.cap);
    b.in = (struct xp_rows){ .data = b.rows, .rows = n, .dim = dim, .dtype = t };
    return b;
}

/* Activations in small: a mean row, channels of different spread, rows of different size. */
static void fill(struct batch *b, struct random *rng, double tails)
{
    for (size_t r = 0; r < b->in.rows; r++) {
        const double size = exp2(random_normal(rng));
        struct random shape = random_seeded(5);

        for (size_t i = 0; i < b->in.dim; i++) {
            const double mean = random_normal(&shape), spread = exp2(1.5 * random_normal(&shape));
            double v = random_normal(rng);
            if (tails > 0 && random_unit(rng) < 0.01)
                v *= tails;
            value_put(b->rows + r * b->row, b->in.dtype, i, size * (mean + spread * v));
        }
    }
}

static void there_and_back(struct batch *b, struct xp_coder *c, xp_codec_stats *st)
{
    xp_codec_stats mine = { .size = sizeof(mine) };

    cr_assert_eq(xp_coder_encode(c, &b->in, b->frame, b->cap, &b->len, &mine), XP_OK);
    cr_assert_eq(xp_coder_decode(c, b->frame, b->len, b->back, b->in.rows), XP_OK, "%s", xp_coder_why(c));
    if (st)
        *st = mine;
}

static double worst(const struct batch *b)
{
    double w = 0;

    for (size_t r = 0; r < b->in.rows; r++) {
        const double norm = value_norm(b->rows + r * b->row, b->in.dtype, b->in.dim);
        w = fmax(w, norm > 0 ? value_distance(b->rows + r * b->row, b->back + r * b->row, b->in.dtype, b->in.dim) / norm : 0);
    }
    return w;
}

static void done(struct batch *b)
{
    free(b->rows);
    free(b->back);
    free(b->frame);
}

Test(codec_book, keeps_its_promise_and_uses_it)
{
    struct random rng = random_start("codec_book");

    for (int round = 0; round < 36; round++) {
        const xp_dtype t = (xp_dtype)(XP_BF16 + round % 3);
        const double eps = (double[]){ 0.01, 0.03, 0.1, 0.25, 0.7, 0.004 }[round / 3 % 6];
        struct batch b = room(t, 120, 200);
        struct xp_coder *c = make_dithered("book", t, 200, eps, XP_EPS_REF_ROW, XP_ISA_BEST, round >= 18);
        xp_codec_stats st;

        fill(&b, &rng, round & 1 ? 40 : 0);
        there_and_back(&b, c, &st);
        cr_assert_leq(worst(&b), eps);
        cr_assert_float_eq(st.err_max, worst(&b), 1e-4 * eps);
        if (t == XP_F32)
            cr_assert_gt(st.err_mean, (eps < 0.2 ? 0.92 : 0.8) * eps, "eps %g: mean error %g", eps, st.err_mean); /* coarse steps jump */
        xp_coder_destroy(c);
        done(&b);
    }
}

Test(codec_book, is_far_smaller_than_quant)
{
    struct random rng = random_start("codec_book_size");
    struct batch b = room(XP_BF16, 1500, 256);
    struct xp_coder *book = make("book", XP_BF16, 256, 0.1, XP_EPS_REF_ROW, XP_ISA_BEST);
    struct xp_coder *quant = make("quant", XP_BF16, 256, 0.1, XP_EPS_REF_ROW, XP_ISA_BEST);
    xp_codec_stats a, q;

    fill(&b, &rng, 0);
    there_and_back(&b, quant, &q);
    there_and_back(&b, book, &a);
    cr_assert_str_eq(a.codec, "book");
    cr_assert_lt((double)a.frame_bytes, 0.75 * (double)q.frame_bytes);
    xp_coder_destroy(book);
    xp_coder_destroy(quant);
    done(&b);
}

Test(codec_book, eps_may_refer_to_the_distance_from_the_mean)
{
    struct random rng = random_start("codec_book_ref");
    struct batch b = room(XP_F32, 300, 64);
    struct xp_coder *c = make("book", XP_F32, 64, 0.05, XP_EPS_REF_MIN, XP_ISA_BEST);
    double mean[64] = { 0 };

    /* One channel is nearly constant and holds nearly all energy. */
    for (size_t r = 0; r < 300; r++)
        for (size_t i = 0; i < 64; i++)
            value_put(b.rows + r * b.row, XP_F32, i, i == 9 ? 1000 + random_normal(&rng) : random_normal(&rng));
    for (size_t r = 0; r < 300; r++)
        for (size_t i = 0; i < 64; i++)
            mean[i] += value_get(b.rows + r * b.row, XP_F32, i) / 300;
    there_and_back(&b, c, NULL);
    for (size_t r = 0; r < 300; r++) {
        double to_mean = 0;
        for (size_t i = 0; i < 64; i++)
            to_mean += pow(value_get(b.rows + r * b.row, XP_F32, i) - mean[i], 2);
        /* The frame's mean row is rounded; floor |x| / 256 is about 4. */
        cr_assert_leq(value_distance(b.rows + r * b.row, b.back + r * b.row, XP_F32, 64), 0.05 * (sqrt(to_mean) + 3));
    }
    xp_coder_destroy(c);
    done(&b);
}

static void check_raw_rows(struct random *rng)
{
    struct batch b = room(XP_BF16, 60, 90);
    struct xp_coder *c = make("book", XP_BF16, 90, 0.1, XP_EPS_REF_ROW, XP_ISA_BEST);
    uint16_t *rows = (uint16_t *)(void *)b.rows;
    xp_codec_stats st;

    fill(&b, rng, 0);
    rows[3 * 90 + 5] = 0x7fc1;  /* NaN with a payload */
    rows[11 * 90] = 0xff80;     /* -Inf */
    for (size_t i = 0; i < 90; i++) {
        rows[20 * 90 + i] = 0;
        rows[21 * 90 + i] = 0x8000;           /* -0 */
        rows[22 * 90 + i] = 0x7f00 + i % 3;   /* squares overflow */
        rows[23 * 90 + i] = 1 + i % 3;        /* denormals */
    }
    there_and_back(&b, c, &st);
    cr_assert_eq(st.rows_raw, 5);
    for (size_t i = 0; i < 6; i++) {
        static const size_t exact[] = { 3, 11, 20, 21, 22, 23 };
        cr_assert_arr_eq(b.back + exact[i] * b.row, b.rows + exact[i] * b.row, b.row, "row %zu", exact[i]);
    }
    xp_coder_destroy(c);
    done(&b);
}

Test(codec_book, rows_that_cannot_be_coded_come_back_bit_for_bit)
{
    struct random rng = random_start("codec_book_raw"), hard = random_seeded(470);

    check_raw_rows(&rng);
    check_raw_rows(&hard); /* the error of one of its rows does not fall for 12 steps */
}

Test(codec_book, every_dim_gives_the_same_bytes_on_every_instruction_set)
{
    struct random rng = random_start("codec_book_dims");

    for (size_t k = 1; k <= 300 + 5; k++) {
        const size_t dim = k <= 300 ? k : (size_t[]){ 768, 2048, 4096, 4100, 7168 }[k - 301];
        const xp_dtype t = (xp_dtype)(XP_BF16 + k % 3);
        struct batch b = room(t, dim > 300 ? 13 : 2 + k % 7, dim);
        size_t len = 0;
        uint8_t *first = malloc(b.cap);

        fill(&b, &rng, k & 1 ? 30 : 0);
        for (int isa = XP_ISA_C; isa <= XP_ISA_BEST; isa++) {
            struct xp_coder *c = make_dithered("book", t, dim, 0.05, XP_EPS_REF_ROW, (enum xp_isa)isa, k & 2);
            there_and_back(&b, c, NULL);
            cr_assert_leq(worst(&b), 0.05, "dim %zu", dim);
            if (isa == XP_ISA_C) {
                len = b.len;
                memcpy(first, b.frame, len);
            }
            cr_assert_eq(b.len, len, "dim %zu", dim);
            cr_assert_arr_eq(b.frame, first, len, "dim %zu", dim);
            xp_coder_destroy(c);
        }
        free(first);
        done(&b);
    }
}

/* The frame's checksum would catch these: the codec must be safe without it. */
Test(codec_book, forged_payloads_are_refused_or_are_rows)
{
    struct random rng = random_start("codec_book_forged");

    for (int shape = 0; shape < 4; shape++) {
        const size_t dim = (size_t[]){ 70, 4096, 300, 70 }[shape], n = (size_t[]){ 40, 9, 1200, 40 }[shape];
        struct batch b = room(XP_BF16, n, dim);
        struct xp_coder *c = make_dithered("book", XP_BF16, dim, 0.1, XP_EPS_REF_ROW, XP_ISA_BEST, shape == 3);
        const int tries = shape == 2 ? 100 : 1000;
        size_t refused = 0;

        fill(&b, &rng, 30);
        there_and_back(&b, c, NULL);
        const size_t len = b.len - 64;
        for (int i = 0; i < tries; i++) {
            uint8_t *payload = malloc(len); /* of its own, so that a sanitizer sees every byte read beyond it */
            size_t cut = random_below(&rng, 4) ? len : random_below(&rng, len + 1);

            memcpy(payload, b.frame + 64, len);
            for (size_t flips = 1 + random_below(&rng, 3); flips > 0; flips--)
                payload[random_below(&rng, random_below(&rng, 2) ? 300 : len)] ^= (uint8_t)(1u << random_below(&rng, 8));
            payload = realloc(payload, cut ? cut : 1);
            const xp_status s = xp_codec_book.decode(c, payload, cut, n, b.back);
            cr_assert(s == XP_OK || s == XP_ERR_CORRUPT);
            cr_assert(s == XP_OK || xp_coder_why(c)[0]);
            refused += s != XP_OK;
            free(payload);
        }
        cr_assert_gt(refused, (size_t)tries / 5);
        cr_assert_eq(xp_coder_decode(c, b.frame, b.len, b.back, n), XP_OK, "and a good frame still decodes");
        xp_coder_destroy(c);
        done(&b);
    }
}

/* ---- dither ---------------------------------------------------------------------------------------------------------------- */

#define PATTERNS 8
#define COPIES 256

/* |mean error of equal rows| / |row|, the mean over the patterns. */
static double mean_error(const struct batch *b)
{
    double sum = 0;

    for (int p = 0; p < PATTERNS; p++) {
        double energy = 0, error = 0;

        for (size_t i = 0; i < b->in.dim; i++) {
            const double v = value_get(b->rows + p * b->row, b->in.dtype, i);
            double e = 0;

            for (size_t r = (size_t)p; r < b->in.rows; r += PATTERNS)
                e += (value_get(b->back + r * b->row, b->in.dtype, i) - v) / COPIES;
            energy += v * v;
            error += e * e;
        }
        sum += sqrt(error / energy) / PATTERNS;
    }
    return sum;
}

/* As gradients of tokens that want the same. Rounding leaves the same error on each of them, dither one that vanishes in their sum. */
Test(codec_book, dithered_errors_of_equal_rows_cancel)
{
    struct random rng = random_start("codec_book_dither");

    for (int round = 0; round < 3; round++) {
        const double eps = (double[]){ 0.25, 0.1, 0.5 }[round];
        struct batch b = room(XP_F32, PATTERNS * COPIES, 256);
        double error[2];

        for (size_t r = 0; r < b.in.rows; r++)
            for (size_t i = 0; i < b.in.dim; i++)
                value_put(b.rows + r * b.row, XP_F32, i,
                          r < PATTERNS ? random_normal(&rng) : value_get(b.rows + r % PATTERNS * b.row, XP_F32, i));
        for (int dither = 0; dither < 2; dither++) {
            struct xp_coder *c = make_dithered("book", XP_F32, 256, eps, XP_EPS_REF_ROW, XP_ISA_BEST, dither);
            there_and_back(&b, c, NULL);
            error[dither] = mean_error(&b);
            cr_assert_leq(worst(&b), eps);
            xp_coder_destroy(c);
        }
        cr_assert_gt(error[0], 0.5 * eps, "eps %g: %g", eps, error[0]);
        cr_assert_lt(error[1], 1.2 * eps / sqrt(COPIES), "eps %g: %g", eps, error[1]);
        done(&b);
    }
}

/* Frames of the same rows have the same bytes; other rows get other numbers, and few more bytes than without dither. */
Test(codec_book, dither_comes_from_the_rows)
{
    struct random rng = random_start("codec_book_dither_key");
    struct batch b = room(XP_BF16, 500, 256);
    struct xp_coder *plain = make("book", XP_BF16, 256, 0.25, XP_EPS_REF_ROW, XP_ISA_BEST), *c, *other;
    size_t len;
    uint64_t seed;

    for (size_t i = 0; i < b.in.rows * b.in.dim; i++)
        value_put(b.rows, XP_BF16, i, random_normal(&rng));
    c = make_dithered("book", XP_BF16, 256, 0.25, XP_EPS_REF_ROW, XP_ISA_BEST, 1);
    other = make_dithered("book", XP_BF16, 256, 0.25, XP_EPS_REF_ROW, XP_ISA_C, 1);
    there_and_back(&b, plain, NULL);
    len = b.len;
    there_and_back(&b, c, NULL);
    cr_assert_lt(b.len, len * 1.05, "%zu, without dither %zu", b.len, len);
    uint8_t *first = malloc(b.len);
    memcpy(first, b.frame, len = b.len);
    memcpy(&seed, first + 32, 8);
    there_and_back(&b, c, NULL);
    cr_assert(b.len == len && !memcmp(first, b.frame, len));
    there_and_back(&b, other, NULL);
    cr_assert(b.len == len && !memcmp(first, b.frame, len));
    b.rows[0] ^= 1;
    there_and_back(&b, c, NULL);
    cr_assert(memcmp(&seed, b.frame + 32, 8) != 0);
    xp_coder_destroy(plain);
    xp_coder_destroy(c);
    xp_coder_destroy(other);
    free(first);
    done(&b);
}

Test(codec_book, unknown_kinds_are_refused)
{
    struct batch b = room(XP_BF16, 10, 64);
    struct xp_coder *c = make_dithered("book", XP_BF16, 64, 0.1, XP_EPS_REF_ROW, XP_ISA_BEST, 1);
    struct random rng = random_start("codec_book_kinds");

    fill(&b, &rng, 0);
    there_and_back(&b, c, NULL);
    cr_assert_eq(b.frame[64], 2, "its own book, dithered");
    for (int kind = 0; kind < 256; kind++) {
        if (kind == 0 || kind == 2) /* another kind, the same bytes */
            continue;
        b.frame[64] = (uint8_t)kind;
        cr_assert_eq(xp_codec_book.decode(c, b.frame + 64, b.len - 64, 10, b.back), XP_ERR_CORRUPT, "kind %d", kind);
    }
    for (size_t len = 0; len < 5; len++) {
        b.frame[64] = 3;
        cr_assert_eq(xp_codec_book.decode(c, b.frame + 64, len, 10, b.back), XP_ERR_CORRUPT, "%zu bytes", len);
    }
    xp_coder_destroy(c);
    done(&b);
}
