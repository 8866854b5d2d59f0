/*
 * test_coder.c - the coder: what it accepts, its bound, its fall-back to raw, its fixed memory
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash/codec.h"
#include "hash/coded_rows.h"
#include "hash/frame.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

static struct xp_coder_desc describe(const char *codec, xp_dtype t, size_t dim)
{
    struct xp_coder_desc d = { .dtype = t, .dim = dim, .mode = XP_MODE_BOUNDED, .eps = 0.05, .isa = XP_ISA_BEST };

    cr_assert_eq(xp_codec_parse(codec, &d.choice), XP_OK, "%s", codec);
    return d;
}

static struct xp_coder *make(const struct xp_coder_desc *d)
{
    struct xp_coder *c = NULL;

    cr_assert_eq(xp_coder_create(&c, d), XP_OK);
    return c;
}

Test(coder, refuses_what_it_cannot_do)
{
    struct xp_coder_desc good = describe("raw", XP_F32, 8), d;
    struct xp_coder *c = NULL;

    d = good; d.dtype = (xp_dtype)0;
    cr_assert_eq(xp_coder_create(&c, &d), XP_ERR_INVALID_ARG);
    d = good; d.dim = 0;
    cr_assert_eq(xp_coder_create(&c, &d), XP_ERR_INVALID_ARG);
    d = good; d.dim = ((size_t)1 << 20) + 1;
    cr_assert_eq(xp_coder_create(&c, &d), XP_ERR_INVALID_ARG);
    d = good; d.mode = XP_MODE_FOLDED;
    cr_assert_eq(xp_coder_create(&c, &d), XP_ERR_UNSUPPORTED);
    d = good; d.dtype = XP_BYTE;
    cr_assert_eq(xp_coder_create(&c, &d), XP_ERR_UNSUPPORTED, "bytes are never lossy");
    d = describe("int4", XP_F32, 8); d.mode = XP_MODE_EXACT;
    cr_assert_eq(xp_coder_create(&c, &d), XP_ERR_UNSUPPORTED, "no lossy codec in exact mode");
    for (int i = 0; i < 5; i++) {
        static const double eps[] = { 0, 1, -0.1, NAN, INFINITY };
        d = good; d.eps = eps[i];
        cr_assert_eq(xp_coder_create(&c, &d), XP_ERR_INVALID_ARG, "eps %g", eps[i]);
    }
    cr_assert_null(c);
    xp_coder_destroy(NULL);
}

/* Every codec, odd shapes, random rows: within the bound, decoded within eps, and byte for byte the same again. */
Test(coder, every_codec_keeps_its_promise_and_repeats_itself)
{
    struct random rng = random_start("coder");
    const char *name;

    for (unsigned n = 0; (name = xp_codec_name(n, NULL)); n++) {
        for (int round = 0; round < 12; round++) {
            xp_dtype t = (xp_dtype)(XP_BF16 + round % 3);
            struct xp_coder_desc d = describe(name, t, 1 + random_below(&rng, 300));
            size_t rows = random_below(&rng, 70), bytes = d.dim * xp_dtype_size(t), cap = xp_frame_bound(t, d.dim, rows), len, again;
            unsigned char *data = malloc(rows * bytes + 1), *back = malloc(rows * bytes + 1), *frame = malloc(cap), *same = malloc(cap);
            struct xp_rows in = { .data = data, .rows = rows, .dim = d.dim, .dtype = t };
            struct xp_coder *c, *other;

            d.eps = (double[]){ 0.01, 0.05, 0.3 }[round % 3];
            d.eps_ref = XP_EPS_REF_ROW;
            d.dither = round & 1;
            c = make(&d);
            for (size_t i = 0; i < rows * d.dim; i++)
                value_put(data, t, i, random_normal(&rng) * (i % 50 == 3 ? 20 : 1));
            cr_assert_eq(xp_coder_encode(c, &in, frame, cap, &len, NULL), XP_OK, "%s", name);
            cr_assert_leq(len, cap);
            cr_assert_eq(xp_coder_decode(c, frame, len, back, rows), XP_OK, "%s: %s", name, xp_coder_why(c));
            for (size_t r = 0; r < rows; r++)
                cr_assert_leq(value_distance(data + r * bytes, back + r * bytes, t, d.dim), d.eps * value_norm(data + r * bytes, t, d.dim),
                              "%s, row %zu of %zu x %zu", name, r, rows, d.dim);
            d.isa = XP_ISA_C;
            other = make(&d);
            cr_assert_eq(xp_coder_encode(other, &in, same, cap, &again, NULL), XP_OK);
            cr_assert_eq(again, len, "%s", name);
            cr_assert_arr_eq(same, frame, len, "%s: plain C gives other bytes", name);
            xp_coder_destroy(c);
            xp_coder_destroy(other);
            free(data);
            free(back);
            free(frame);
            free(same);
        }
    }
}

Test(coder, random_bits_never_expand)
{
    struct random rng = random_start("coder_bits");
    static uint16_t rows[50][33];
    static unsigned char frame[8192], back[sizeof(rows)];
    const char *name;

    for (unsigned n = 0; (name = xp_codec_name(n, NULL)); n++) {
        for (int t = XP_BF16; t <= XP_F16; t++) {
            struct xp_coder_desc d = describe(name, (xp_dtype)t, 33);
            struct xp_rows in = { .data = rows, .rows = 50, .dim = 33, .dtype = (xp_dtype)t };
            struct xp_coder *c = make(&d);
            size_t len;

            for (size_t i = 0; i < 50 * 33; i++)
                rows[i / 33][i % 33] = (uint16_t)random_bits(&rng);
            cr_assert_eq(xp_coder_encode(c, &in, frame, sizeof(frame), &len, NULL), XP_OK);
            cr_assert_leq(len, xp_frame_bound((xp_dtype)t, 33, 50));
            cr_assert_eq(xp_coder_decode(c, frame, len, back, 50), XP_OK);
            for (size_t r = 0; r < 50; r++)
                if (!isfinite(value_norm(rows[r], (xp_dtype)t, 33)))
                    cr_assert_arr_eq(back + r * 66, rows[r], 66, "%s: row %zu with NaN or Inf", name, r);
            xp_coder_destroy(c);
        }
    }
}

Test(coder, gathers_rows_through_an_index)
{
    static const uint32_t index[] = { 3, 0, 3, 1 };
    float rows[4][2] = { { 1, 2 }, { 3, 4 }, { 5, 6 }, { 7, 8 } }, back[4][2];
    struct xp_rows in = { .data = rows, .index = index, .rows = 4, .dim = 2, .dtype = XP_F32 };
    unsigned char frame[256];
    size_t len;

    for (int exact = 0; exact < 2; exact++) {
        struct xp_coder_desc d = describe(exact ? "exact" : "raw", XP_F32, 2);
        struct xp_coder *c = make(&d);

        cr_assert_eq(xp_coder_encode(c, &in, frame, sizeof(frame), &len, NULL), XP_OK);
        cr_assert_eq(xp_coder_decode(c, frame, len, back, 4), XP_OK);
        for (int r = 0; r < 4; r++)
            cr_assert_arr_eq(back[r], rows[index[r]], sizeof(back[r]));
        xp_coder_destroy(c);
    }
}

#define ONCE_ROWS 48
#define ONCE_DIM 160

static void encode_once(struct xp_coder *c, const struct xp_rows *in, struct xp_coded_rows *store, const uint32_t *number, float (*back)[ONCE_DIM],
                        xp_codec_stats *st)
{
    static unsigned char frame[ONCE_ROWS * (4 * ONCE_DIM + 4) + 64];
    size_t len;

    memset(st, 0, sizeof(*st));
    cr_assert_eq(xp_coder_encode_once(c, in, store, number, frame, sizeof(frame), &len, st), XP_OK);
    cr_assert_lt(len, in->rows * 4 * ONCE_DIM);
    cr_assert_eq(xp_coder_decode(c, frame, len, back, in->rows), XP_OK);
}

/* A second frame of some of the rows has them as the first one had, even if the rows themselves are gone; a new step codes anew. */
Test(coder, codes_a_row_once_for_all_frames)
{
    static float rows[ONCE_ROWS][ONCE_DIM], first[ONCE_ROWS][ONCE_DIM], second[ONCE_ROWS][ONCE_DIM];
    const struct xp_rows all = { .data = rows, .rows = ONCE_ROWS, .dim = ONCE_DIM, .dtype = XP_F32 };
    struct random rng = random_start("coder_once");

    for (int round = 0; round < 4; round++) {
        const int shifted = round & 1; /* rows that have a mean worth sending, or none */
        struct xp_coder_desc d = describe("quant", XP_F32, ONCE_DIM);
        struct xp_coded_rows *store;
        struct xp_coder *c;
        struct xp_rows some = all;
        uint32_t number[ONCE_ROWS], odd[ONCE_ROWS / 2];
        xp_codec_stats st, again;

        d.dither = round / 2;
        c = make(&d);
        for (uint32_t i = 0; i < ONCE_ROWS; i++) {
            number[i] = i;
            odd[i / 2] = i / 2 * 2 + 1;
            for (int k = 0; k < ONCE_DIM; k++)
                rows[i][k] = (float)(random_normal(&rng) + 3 * shifted);
        }
        cr_assert_eq(xp_coded_rows_create(&store, ONCE_ROWS, sizeof(rows[0])), XP_OK);
        xp_coded_rows_begin(store, &all);
        encode_once(c, &all, store, number, first, &st);
        cr_assert(st.err_max <= 0.05 && st.err_ref_max <= 0.05 && st.err_mean > 0);
        for (int i = 0; i < ONCE_ROWS; i++) {
            double error = 0, norm = 0;

            for (int k = 0; k < ONCE_DIM; k++) {
                error += pow((double)rows[i][k] - (double)first[i][k], 2);
                norm += pow((double)rows[i][k], 2);
            }
            cr_assert_leq(error, 0.0025 * norm, "row %d", i);
        }
        memset(rows, 0x11, sizeof(rows));
        some.index = odd;
        some.rows = ONCE_ROWS / 2;
        encode_once(c, &some, store, odd, second, &again);
        for (int i = 0; i < ONCE_ROWS / 2; i++)
            cr_assert_arr_eq(second[i], first[odd[i]], sizeof(second[i]), "row %d", i);
        cr_assert(again.err_mean > 0.5 * st.err_mean && again.err_mean < 2 * st.err_mean);
        rows[1][0] = 7;
        xp_coded_rows_begin(store, &all);
        encode_once(c, &some, store, odd, second, &again);
        cr_assert_arr_neq(second[0], first[1], sizeof(second[0]));
        xp_coded_rows_destroy(store);
        xp_coder_destroy(c);
    }
}

Test(coder, refuses_other_shapes_small_rooms_and_more_rows_than_planned)
{
    struct xp_coder_desc d = describe("quant", XP_F32, 2);
    float rows[10][2] = { { 1 } };
    struct xp_rows in = { .data = rows, .rows = 10, .dim = 2, .dtype = XP_F32 }, other;
    unsigned char frame[512];
    struct xp_coder *c;
    size_t len = 77;

    d.max_rows = 9;
    c = make(&d);
    cr_assert_eq(xp_coder_encode(c, &in, frame, sizeof(frame), &len, NULL), XP_ERR_INVALID_ARG);
    in.rows = 9;
    cr_assert_eq(xp_coder_encode(c, &in, frame, xp_frame_bound(XP_F32, 2, 9) - 1, &len, NULL), XP_ERR_INVALID_ARG);
    other = in;
    other.dim = 3;
    cr_assert_eq(xp_coder_encode(c, &other, frame, sizeof(frame), &len, NULL), XP_ERR_INVALID_ARG);
    other = in;
    other.dtype = XP_F16;
    cr_assert_eq(xp_coder_encode(c, &other, frame, sizeof(frame), &len, NULL), XP_ERR_INVALID_ARG);
    cr_assert(xp_coder_why(c)[0]);
    cr_assert_eq(len, 77, "nothing is set on an error");
    cr_assert_eq(xp_coder_encode(c, &in, frame, sizeof(frame), &len, NULL), XP_OK);
    xp_coder_destroy(c);
}

Test(coder, decodes_any_codec_of_its_shape_and_refuses_what_disagrees)
{
    struct random rng = random_start("coder_any");
    struct xp_coder_desc d = describe("raw", XP_BF16, 64), wrong;
    static uint16_t rows[80][64], back[81][64], listed[160][64], scratch[80][64];
    static unsigned char frame[80 * 132 + 64];
    uint32_t place[80];
    struct xp_rows in = { .data = rows, .rows = 80, .dim = 64, .dtype = XP_BF16 };
    struct xp_coder *reader, *other;
    const char *name;
    size_t len = 0;

    for (size_t i = 0; i < 80 * 64; i++)
        value_put(rows, XP_BF16, i, random_normal(&rng));
    for (uint32_t r = 0; r < 80; r++)
        place[r] = r * 37 % 80 * 2 + 1;
    for (size_t r = 0; r < 160; r++)
        listed[r][0] = 7;
    d.mode = XP_MODE_EXACT;
    reader = make(&d);
    for (unsigned n = 0; (name = xp_codec_name(n, NULL)); n++) {
        struct xp_coder_desc w;
        struct xp_coder *writer;

        w = describe(name, XP_BF16, 64);
        w.eps = 0.2;
        w.seed = 12345 + n;
        writer = make(&w);
        cr_assert_eq(xp_coder_encode(writer, &in, frame, sizeof(frame), &len, NULL), XP_OK);
        cr_assert_eq(xp_coder_decode(reader, frame, len, back, 80), XP_OK, "%s: %s", name, xp_coder_why(reader));
        for (size_t r = 0; r < 80; r++)
            cr_assert_leq(value_distance(rows[r], back[r], XP_BF16, 64), 0.2 * value_norm(rows[r], XP_BF16, 64), "%s", name);
        cr_assert_eq(xp_coder_decode_to(reader, frame, len, listed, place, 80, scratch), XP_OK, "%s", name);
        for (size_t r = 0; r < 80; r++)
            cr_assert_arr_eq(listed[place[r]], back[r], sizeof(back[r]), "%s: row %zu of a list", name, r);
        for (size_t r = 0; r < 160; r += 2)
            cr_assert_eq(listed[r][0], 7, "%s: row %zu is not in the list", name, r);
        cr_assert_eq(xp_coder_decode(reader, frame, len, back, 79), XP_ERR_CORRUPT);
        cr_assert_eq(xp_coder_decode(reader, frame, len, back, 81), XP_ERR_CORRUPT);
        xp_coder_destroy(writer);
    }
    wrong = describe("raw", XP_F16, 64);
    other = make(&wrong);
    cr_assert_eq(xp_coder_decode(other, frame, len, back, 80), XP_ERR_CORRUPT);
    xp_coder_destroy(other);
    wrong = describe("raw", XP_BF16, 63);
    other = make(&wrong);
    cr_assert_eq(xp_coder_decode(other, frame, len, back, 80), XP_ERR_CORRUPT);
    xp_coder_destroy(other);
    xp_coder_destroy(reader);
}

Test(coder, figures_add_up)
{
    struct xp_coder_desc d = describe("int4", XP_F32, 128);
    static float rows[20][128];
    static unsigned char frame[20 * 516 + 64];
    struct xp_rows in = { .data = rows, .rows = 20, .dim = 128, .dtype = XP_F32 };
    struct random rng = random_start("coder_figures");
    xp_codec_stats st = { .size = sizeof(st) };
    struct xp_coder *c;
    size_t len, sum = 0;

    d.eps = 0.5;
    c = make(&d);
    for (int call = 0; call < 3; call++) {
        for (size_t i = 0; i < 20 * 128; i++)
            rows[i / 128][i % 128] = (float)random_normal(&rng);
        cr_assert_eq(xp_coder_encode(c, &in, frame, sizeof(frame), &len, &st), XP_OK);
        sum += len;
    }
    cr_assert(st.rows == 60 && st.raw_bytes == 3 * sizeof(rows) && st.frame_bytes == sum);
    cr_assert(st.err_mean > 0 && st.err_mean <= st.err_max && st.err_max <= 0.5);
    cr_assert_str_eq(st.codec, "int4");
    xp_coder_destroy(c);
}
