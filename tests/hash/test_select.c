/*
 * test_select.c - the codec that is chosen: few bytes on slow links, plain rows on fast ones
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "hash/coder_impl.h"
#include "tests/harness/random.h"

#define ROWS 2000
#define DIM 128

static float rows[ROWS][DIM];
static struct xp_rows in = { .data = rows, .rows = ROWS, .dim = DIM, .dtype = XP_F32 };
static const struct xp_select_env slow = { 1e6 }, fast = { 1e13 }, unknown = { 0 };

static void fill(size_t kinds, double noise)
{
    struct random rng = random_start("select");

    for (size_t r = 0; r < ROWS; r++) {
        struct random centre = random_seeded(77 + random_below(&rng, kinds));
        for (size_t i = 0; i < DIM; i++)
            rows[r][i] = (float)((kinds > 1 ? random_normal(&centre) : 0) + noise * random_normal(&rng));
    }
}

static struct xp_coder *make(const char *codec, xp_mode mode, double eps)
{
    struct xp_coder_desc d = { .dtype = XP_F32, .dim = DIM, .mode = mode, .eps = eps, .isa = XP_ISA_BEST };
    struct xp_coder *c;

    cr_assert_eq(xp_codec_parse(codec, &d.choice), XP_OK);
    cr_assert_eq(xp_coder_create(&c, &d), XP_OK);
    return c;
}

static void expect(struct xp_coder *c, const struct xp_select_env *env, int pays, const char *codec)
{
    cr_assert_eq(xp_coder_select(c, &in, env), pays);
    cr_assert_str_eq(xp_coder_codec(c)->name, codec);
}

Test(select, noise_goes_to_quant_on_a_slow_link_and_plain_on_a_fast_one)
{
    struct xp_coder *c = make("auto", XP_MODE_BOUNDED, 0.03);

    fill(1, 1);
    expect(c, &slow, 1, "quant");
    expect(c, &unknown, 1, "quant");
    expect(c, NULL, 1, "book"); /* a file: one frame, whatever it takes */
    expect(c, &fast, 0, "raw");
    xp_coder_destroy(c);
}

Test(select, clear_clusters_go_to_lsh)
{
    struct xp_coder *c = make("auto", XP_MODE_BOUNDED, 0.03);

    fill(8, 0.02);
    expect(c, &unknown, 1, "lsh");
    expect(c, &fast, 0, "raw");
    xp_coder_destroy(c);
}

Test(select, an_eps_that_nothing_meets_sends_rows_losslessly)
{
    struct xp_coder *c = make("auto", XP_MODE_BOUNDED, 1e-9);

    fill(1, 1);
    expect(c, &unknown, 1, "exact");
    expect(c, &fast, 0, "raw");
    xp_coder_destroy(c);
}

Test(select, exact_packs_numbers_where_the_link_is_slow)
{
    static const struct xp_select_env slower = { 1e5 }; /* than the slowest packing, with every check of a sanitizer */
    struct xp_coder *c = make("auto", XP_MODE_EXACT, 0);

    fill(1, 1);
    expect(c, &slower, 1, "pack");
    expect(c, &unknown, 1, "pack");
    expect(c, &fast, 0, "raw");
    xp_coder_destroy(c);
}

Test(select, exact_looks_for_duplicates_only_where_that_is_cheap)
{
    struct xp_coder_desc d = { .dtype = XP_BYTE, .dim = DIM, .mode = XP_MODE_EXACT, .isa = XP_ISA_AVX512 };
    struct xp_rows bytes = { .data = rows, .rows = ROWS, .dim = DIM, .dtype = XP_BYTE };
    struct xp_coder *c;

    cr_assert_eq(xp_codec_parse("auto", &d.choice), XP_OK);
    cr_assert_eq(xp_coder_create(&c, &d), XP_OK);
    cr_assert_eq(xp_coder_select(c, &bytes, &slow), 1);
    cr_assert_str_eq(xp_coder_codec(c)->name, "exact");
    cr_assert_eq(xp_coder_select(c, &bytes, &unknown), 1);
    cr_assert_eq(xp_coder_select(c, &bytes, &fast), 0);
    cr_assert_str_eq(xp_coder_codec(c)->name, "raw");
    xp_coder_destroy(c);
}

/* Between two trials: frames larger than the trial said mean that the rows have changed. */
Test(select, rows_that_change_are_tried_again)
{
    static uint8_t frame[ROWS * (DIM * 4 + 4) + 64];
    struct xp_coder *c = make("auto", XP_MODE_BOUNDED, 0.03);
    size_t len;

    fill(1, 1);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = DIM / 4; i < DIM; i++)
            rows[r][i] = 0; /* few bytes */
    for (int call = 0; call < 5; call++)
        expect(c, &slow, 1, "quant");
    const double before = xp_coder_trial_bytes(c, XP_CODEC_QUANT);
    for (size_t r = 0; r < ROWS; r += 3)
        rows[r][5] = NAN; /* these travel raw */
    expect(c, &slow, 1, "quant");
    cr_assert_eq(xp_coder_trial_bytes(c, XP_CODEC_QUANT), before);
    cr_assert_eq(xp_coder_encode(c, &in, frame, sizeof(frame), &len, NULL), XP_OK);
    expect(c, &slow, 1, "quant");
    cr_assert_gt(xp_coder_trial_bytes(c, XP_CODEC_QUANT), 1.2 * before);
    xp_coder_destroy(c);
}

/* A codec is left for one that is a little better only when that lasts. */
Test(select, small_advantages_must_last)
{
    struct xp_coder *c = make("auto", XP_MODE_BOUNDED, 0.03);
    struct xp_select_env even;

    fill(1, 1);
    expect(c, &slow, 1, "quant");
    /* At this speed plain rows are about a tenth faster than quant. */
    const struct xp_trial *t = &c->select.trial[XP_CODEC_QUANT];
    even.link_bytes_per_s = 0.9 * ((double)c->row_bytes - 0.3 * t->bytes) / t->seconds;
    for (double plain, coded; ; even.link_bytes_per_s *= 1.02) {
        plain = (double)c->row_bytes / even.link_bytes_per_s;
        coded = t->seconds + 0.3 * t->bytes / even.link_bytes_per_s;
        if (plain < 0.88 * coded)
            break;
    }
    c->select.calls = 9; /* no new trial in the next calls */
    expect(c, &even, 1, "quant");
    const int dedup = even.link_bytes_per_s < 0.03 * 4e9;
    expect(c, &even, dedup, dedup ? "exact" : "raw");
    xp_coder_destroy(c);
}

Test(select, a_named_codec_is_taken_as_it_is)
{
    struct xp_coder *a = make("int3", XP_MODE_BOUNDED, 0.5), *b = make("raw", XP_MODE_EXACT, 0), *c = make("auto", XP_MODE_RAW, 0);

    expect(a, &fast, 1, "quant");
    expect(b, &slow, 0, "raw");
    expect(c, &slow, 0, "raw");
    xp_coder_destroy(a);
    xp_coder_destroy(b);
    xp_coder_destroy(c);
}

Test(select, directions_pay_while_coding_hides_behind_sending)
{
    static const struct { double eps, pays, does_not; } links[] = { { 0.03, 25e6, 35e6 }, { 0.1, 15e6, 25e6 }, { 0.25, 8e6, 13e6 }, { 0.9, 0, 1e3 } };

    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
        struct xp_coder *c = make("book", XP_MODE_BOUNDED, links[i].eps);

        cr_assert_eq(xp_coder_directions_pay(c, links[i].pays), links[i].pays > 0);
        cr_assert_eq(xp_coder_directions_pay(c, links[i].does_not), 0);
        cr_assert_eq(xp_coder_directions_pay(c, 0), 0, "a link of unknown speed");
        xp_coder_destroy(c);
    }
}

Test(select, looks_at_no_more_rows_than_it_says)
{
    struct xp_coder *c = make("auto", XP_MODE_BOUNDED, 0.03);
    static uint32_t index[ROWS];
    size_t sampled = 0;

    fill(1, 1);
    for (uint32_t i = 0; i < ROWS; i++)
        index[i] = i;
    in.index = index;
    xp_coder_select(c, &in, &unknown);
    for (size_t i = 0; i < XP_SAMPLE_MAX; i++)
        sampled += c->sample_index[i] != 0;
    cr_assert(sampled <= ROWS / 50 && sampled >= XP_SAMPLE_MIN - 1, "%zu rows", sampled);
    in.index = NULL;
    in.rows = 0;
    expect(c, &slow, 0, "raw");
    in.rows = 1;
    xp_coder_select(c, &in, &slow);
    in.rows = ROWS;
    xp_coder_destroy(c);
}
