/*
 * test_codec_lsh.c - codec lsh: rows of clear clusters get smaller, the promise holds, forged payloads are refused
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

#define ROWS 600
#define DIM 96

static float rows[ROWS][DIM], back[ROWS][DIM];
static unsigned char frame[64 + ROWS * (4 * DIM + 4)];
static struct xp_rows in = { .data = rows, .rows = ROWS, .dim = DIM, .dtype = XP_F32 };

/* `kinds` centres, `noise` around them. */
static void fill(struct random *rng, size_t kinds, double noise)
{
    for (size_t r = 0; r < ROWS; r++) {
        struct random centre = random_seeded(1000 + random_below(rng, kinds));
        for (size_t i = 0; i < DIM; i++)
            rows[r][i] = (float)(random_normal(&centre) + noise * random_normal(rng));
    }
}

static struct xp_coder *make(const char *codec, double eps, int refine, int center)
{
    struct xp_coder_desc d = { .dtype = XP_F32, .dim = DIM, .mode = XP_MODE_BOUNDED, .eps = eps, .eps_ref = XP_EPS_REF_ROW,
                               .isa = XP_ISA_BEST, .lsh_refine = refine, .lsh_center = center };
    struct xp_coder *c;

    cr_assert_eq(xp_codec_parse(codec, &d.choice), XP_OK);
    cr_assert_eq(xp_coder_create(&c, &d), XP_OK);
    return c;
}

static size_t encode(struct xp_coder *c, xp_codec_stats *st)
{
    size_t len;

    memset(st, 0, sizeof(*st));
    st->size = sizeof(*st);
    cr_assert_eq(xp_coder_encode(c, &in, frame, sizeof(frame), &len, st), XP_OK);
    cr_assert_eq(xp_coder_decode(c, frame, len, back, ROWS), XP_OK, "%s", xp_coder_why(c));
    return len;
}

Test(codec_lsh, clear_clusters_cost_far_less_than_quant)
{
    struct random rng = random_start("codec_lsh");
    struct xp_coder *lsh = make("lsh", 0.05, 0, 0), *quant = make("quant", 0.05, 0, 0);
    xp_codec_stats a, b;

    fill(&rng, 4, 0.02);
    cr_assert_lt(encode(lsh, &a) * 2, encode(quant, &b));
    cr_assert_str_eq(a.codec, "lsh");
    cr_assert(a.clusters >= 4 && a.clusters <= ROWS / 8, "%zu clusters", (size_t)a.clusters);
    cr_assert_lt(a.rho, 0.01);
    xp_coder_destroy(lsh);
    xp_coder_destroy(quant);
}

Test(codec_lsh, keeps_eps_for_every_knob_and_reports_the_truth)
{
    struct random rng = random_start("codec_lsh_knobs");
    static const char *const names[] = { "lsh", "lsh+int4", "lsh+fp8", "lsh+int2" };

    for (int round = 0; round < 24; round++) {
        double eps = (double[]){ 0.01, 0.1, 0.4 }[round % 3], worst = 0, sum = 0;
        struct xp_coder *c = make(names[round % 4], eps, round % 5 - 1, round & 1 ? 1 : -1);
        xp_codec_stats st;

        fill(&rng, 1 + random_below(&rng, 40), random_unit(&rng) * (round % 2 ? 0.1 : 1));
        encode(c, &st);
        for (size_t r = 0; r < ROWS; r++) {
            double e = value_distance(rows[r], back[r], XP_F32, DIM) / value_norm(rows[r], XP_F32, DIM);
            cr_assert_leq(e, eps, "round %d row %zu", round, r);
            worst = fmax(worst, e);
            sum += e;
        }
        cr_assert_leq(fabs(st.err_max - worst), 1e-4 * worst + 1e-9);
        cr_assert_leq(fabs(st.err_mean - sum / ROWS), 1e-4 * worst + 1e-9);
        xp_coder_destroy(c);
    }
}

/* A row of 1e18 in a frame must not move the mean row, which eps refers to, nor a centroid. */
Test(codec_lsh, one_huge_row_touches_no_other)
{
    struct random rng = random_start("codec_lsh_huge");
    struct xp_coder *c = make("lsh", 0.05, 0, 0);
    xp_codec_stats clean, st;

    c->desc.eps_ref = XP_EPS_REF_MIN;
    fill(&rng, 3, 0.02);
    for (size_t r = 0; r < ROWS; r++)
        rows[r][7] += 1000; /* a constant channel: |x - m| is far below |x| */
    encode(c, &clean);
    for (size_t i = 0; i < DIM; i++)
        rows[44][i] = (float)(1e18 * random_normal(&rng));
    encode(c, &st);
    for (size_t r = 0; r < ROWS; r++)
        if (r != 44) /* |x - m| is about 10 */
            cr_assert_leq(value_distance(rows[r], back[r], XP_F32, DIM), 1, "row %zu", r);
    cr_assert_lt(st.frame_bytes, clean.frame_bytes + sizeof(rows[0]) + 400);
    xp_coder_destroy(c);
}

Test(codec_lsh, one_nan_row_touches_no_other)
{
    struct random rng = random_start("codec_lsh_nan");
    struct xp_coder *c = make("lsh", 0.05, 0, 0);
    xp_codec_stats clean, st;

    fill(&rng, 3, 0.02);
    encode(c, &clean);
    rows[17][5] = NAN;
    rows[300][0] = INFINITY;
    rows[301][1] = 3e38f; /* finite, its square is not */
    encode(c, &st);
    cr_assert_eq(st.rows_raw, 3);
    cr_assert_lt(st.frame_bytes, clean.frame_bytes + 3 * sizeof(rows[0]) + 400, "%zu bytes, %zu clusters; without the rows %zu, %zu", (size_t)st.frame_bytes, (size_t)st.clusters, (size_t)clean.frame_bytes, (size_t)clean.clusters);
    for (size_t r = 0; r < ROWS; r++) {
        if (r == 17 || r == 300 || r == 301)
            cr_assert_arr_eq(back[r], rows[r], sizeof(rows[r]), "row %zu", r);
        else
            cr_assert_leq(value_distance(rows[r], back[r], XP_F32, DIM), 0.05 * value_norm(rows[r], XP_F32, DIM));
    }
    xp_coder_destroy(c);
}

/* Payloads whose checksums are right: any change of a structural byte is refused or decodes to something, never overruns. */
Test(codec_lsh, forged_payloads_are_refused)
{
    struct random rng = random_start("codec_lsh_forged");
    struct xp_coder *c = make("lsh", 0.1, 0, 0);
    xp_codec_stats st;
    uint8_t *p = frame + 64, *copy;
    size_t len;

    fill(&rng, 4, 0.05);
    len = encode(c, &st) - 64;
    copy = malloc(len);
    memcpy(copy, p, len);
    cr_assert_eq(xp_codec_lsh.decode(c, copy, len, ROWS, back), XP_OK);
    for (size_t n = 0; n < len; n += n < 64 ? 1 : 97)
        cr_assert_eq(xp_codec_lsh.decode(c, copy, n, ROWS, back), XP_ERR_CORRUPT, "length %zu", n);
    static const struct {
        uint8_t at, value;
    } bad[] = { { 0, 0 }, { 3, 0x80 }, { 1, 0xff }, { 4, 1 }, { 7, 1 } };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        memcpy(copy, p, len);
        copy[bad[i].at] = bad[i].value;
        cr_assert_eq(xp_codec_lsh.decode(c, copy, len, ROWS, back), XP_ERR_CORRUPT, "byte %d", bad[i].at);
    }
    for (int round = 0; round < 3000; round++) {
        memcpy(copy, p, len);
        copy[random_below(&rng, len)] ^= (uint8_t)(1 << random_below(&rng, 8));
        xp_codec_lsh.decode(c, copy, len, ROWS, back); /* under ASan: nothing outside */
    }
    cr_assert_eq(xp_codec_lsh.decode(c, p, len, ROWS - 1, back), XP_ERR_CORRUPT);
    free(copy);
    xp_coder_destroy(c);
}
