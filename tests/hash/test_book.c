/*
 * test_book.c - books: their order of channels, their bytes, what fitting finds
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash/book.h"
#include "tests/harness/random.h"

#define ROWS 400

static float rows[ROWS * 300];
static uint32_t order[ROWS];

/* Rows = mean + a few directions + noise whose spread differs between channels. */
static void fill(struct random *rng, size_t dim, int directions)
{
    struct random shape = random_seeded(99);
    static float direction[8][300], mean[300], spread[300];

    for (size_t i = 0; i < dim; i++) {
        mean[i] = (float)(20 * random_normal(&shape));
        spread[i] = (float)exp2(2 * random_normal(&shape));
        for (int j = 0; j < directions; j++)
            direction[j][i] = (float)random_normal(&shape);
    }
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t i = 0; i < dim; i++)
            rows[r * dim + i] = mean[i] + spread[i] * (float)random_normal(rng);
        for (int j = 0; j < directions; j++) {
            const float a = 10 * (float)random_normal(rng);
            for (size_t i = 0; i < dim; i++)
                rows[r * dim + i] += a * direction[j][i];
        }
    }
}

static void fit(struct xp_book *b, size_t dim, unsigned rank, size_t count)
{
    struct xp_rows in = { .data = rows, .rows = count, .dim = dim, .dtype = XP_F32 };
    struct xp_kernels k;
    float *work;

    xp_kernels_init(&k, XP_ISA_BEST);
    struct xp_book_sample s = { &in, order, xp_book_pick(&k, &in, order, ROWS) };
    work = malloc(4 * xp_book_fit_floats(dim, s.count, rank));
    cr_assert_eq(xp_book_init(b, dim, 4, XP_BOOK_MAX_RANK), XP_OK);
    xp_book_fit(b, &k, &s, rank, count, work);
    free(work);
}

Test(book, quarters_of_octaves_are_those_of_libm)
{
    struct random rng = random_start("book_quarters");

    for (int i = 0; i < 100000; i++) {
        float v = (float)exp2(200 * random_unit(&rng) - 100);
        double exact = 4 * log2(v) + 0.5;

        if (fabs(exact - rint(exact)) > 1e-4)
            cr_assert_eq(xp_quarter_log2(v), (int)floor(exact), "%g", (double)v);
    }
    for (int k = -100; k < 100; k++)
        cr_assert_float_eq(xp_quarter_exp2(k) / exp2(k / 4.0), 1, 1e-6);
}

Test(book, order_is_a_permutation_sorted_in_windows)
{
    struct random rng = random_start("book_order");
    static const size_t dims[] = { 1, 15, 255, 256, 257, 300, 1000 };

    for (int d = 0; d < 7; d++) {
        struct xp_book b;

        cr_assert_eq(xp_book_init(&b, dims[d], 0, 0), XP_OK);
        for (size_t i = 0; i < dims[d]; i++)
            b.channel_class[i] = (uint8_t)random_below(&rng, 64);
        xp_book_sort(&b);
        for (size_t i = 0; i < dims[d]; i++) {
            size_t window = i / 256 * 256, channel = window + b.channel[i];
            cr_assert_lt(channel, dims[d]);
            cr_assert_eq(window + b.place[channel], i);
            if (i > window)
                cr_assert_leq(b.channel_class[window + b.channel[i - 1]], b.channel_class[channel]);
        }
        xp_book_fini(&b);
    }
}

Test(book, what_is_written_is_read)
{
    struct random rng = random_start("book_bytes");
    struct xp_book a, b, c;
    const char *why = "";
    size_t used;

    fill(&rng, 300, 3);
    fit(&a, 300, 16, ROWS);
    a.version = 7;
    a.centroids = 2;
    for (size_t i = 0; i < 300; i++) {
        a.centroid[i] = a.mean[i] + (float)i;
        a.centroid[a.pad + i] = a.mean[i] - 1;
    }
    size_t len = xp_book_bytes(&a);
    uint8_t *bytes = malloc(len + 5), *again = malloc(len);
    cr_assert(xp_book_init(&b, 300, 4, 32) == XP_OK && xp_book_init(&c, 300, 4, 32) == XP_OK);
    xp_book_write(&a, bytes);
    cr_assert_eq(xp_book_read(&b, bytes, len + 5, &used, &why), XP_OK, "%s", why);
    cr_assert_eq(used, len);
    cr_assert(b.version == 7 && b.centroids == 2 && b.rank == 16 && b.has_mean && b.has_spread);
    cr_assert_eq(b.coordinate_step, a.coordinate_step);
    cr_assert_arr_eq(b.channel_class, a.channel_class, 300);
    for (size_t i = 0; i < 300; i++) {
        cr_assert_float_eq(b.mean[i], a.mean[i], 0.01f * fabsf(a.mean[i]) + 1e-6f);
        cr_assert_float_eq(b.centroid[i] - b.mean[i], (float)i, 299.0 / 127);
        cr_assert_float_eq(b.direction[5 * b.pad + i], a.direction[5 * a.pad + i], 0.01);
    }
    for (size_t cut = 0; cut < len; cut++)
        cr_assert_eq(xp_book_read(&c, bytes, cut, &used, &why), XP_ERR_CORRUPT);
    free(bytes);
    free(again);
    xp_book_fini(&a);
    xp_book_fini(&b);
    xp_book_fini(&c);
}

Test(book, any_bytes_are_safe)
{
    struct random rng = random_start("book_hostile");
    struct xp_book a, b;
    const char *why;
    size_t used;

    fill(&rng, 40, 1);
    fit(&a, 40, 16, ROWS);
    size_t len = xp_book_bytes(&a);
    uint8_t *good = malloc(len), *bad = malloc(len);
    xp_book_write(&a, good);
    cr_assert_eq(xp_book_init(&b, 40, 4, 32), XP_OK);
    for (int i = 0; i < 30000; i++) {
        memcpy(bad, good, len);
        for (size_t flips = 1 + random_below(&rng, 3); flips > 0; flips--)
            bad[random_below(&rng, random_below(&rng, 2) ? 20 : len)] = (uint8_t)random_bits(&rng);
        if (xp_book_read(&b, bad, len, &used, &why) != XP_OK)
            continue;
        cr_assert(used <= len && b.centroids <= 4 && b.rank <= 32);
        for (size_t i2 = 0; i2 < 40; i2++)
            cr_assert(isfinite(b.mean[i2]) && b.channel[i2] < 40);
    }
    free(good);
    free(bad);
    xp_book_fini(&a);
    xp_book_fini(&b);
}

Test(book, fitting_finds_mean_spread_and_directions)
{
    struct random rng = random_start("book_fit");
    struct xp_book with, without;

    fill(&rng, 300, 4);
    fit(&without, 300, 0, ROWS);
    fit(&with, 300, 16, ROWS);
    cr_assert(with.has_mean && with.has_spread && with.rank == 16);
    /* The four strong directions are taken off, so the channels' own spread shows. */
    unsigned least[2] = { 63, 63 }, most[2] = { 0, 0 };
    for (size_t i = 0; i < 300; i++)
        for (int w = 0; w < 2; w++) {
            unsigned class = (w ? &with : &without)->channel_class[i];
            least[w] = class < least[w] ? class : least[w];
            most[w] = class > most[w] ? class : most[w];
        }
    cr_assert_gt(most[1] - least[1], most[0] - least[0] + 3, "%u and %u", most[1] - least[1], most[0] - least[0]);
    xp_book_fini(&with);
    xp_book_fini(&without);
}

Test(book, few_rows_get_no_more_than_pays)
{
    struct random rng = random_start("book_few");
    struct xp_book b;

    fill(&rng, 300, 0);
    fit(&b, 300, 0, 2);
    cr_assert(!b.has_mean && !b.has_spread);
    cr_assert_leq(xp_book_bytes(&b), 16);
    xp_book_fini(&b);
}
