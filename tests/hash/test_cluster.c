/*
 * test_cluster.c - grouping by id and refinement in the sketch
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/cluster.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct xp_clusters make_clusters(size_t max_rows, unsigned sketch)
{
    struct xp_clusters c;

    cr_assert_eq(xp_clusters_init(&c, max_rows, sketch), XP_OK);
    return c;
}

/* Everything that holds for any grouping of c->rows rows. */
static void assert_valid(const struct xp_clusters *c)
{
    uint32_t next = 0;

    cr_assert_eq(c->start[0], 0u);
    cr_assert_eq(c->start[c->count], c->rows, "every row lies in one cluster");
    for (size_t k = 0; k < c->count; k++) {
        cr_assert_lt(c->start[k], c->start[k + 1], "cluster %zu is empty", k);
        for (size_t i = c->start[k]; i < c->start[k + 1]; i++) {
            cr_assert_lt(c->order[i], c->rows);
            cr_assert_eq(c->of[c->order[i]], k, "order and of disagree at %zu", i);
            cr_assert(i == c->start[k] || c->order[i - 1] < c->order[i], "rows of a cluster keep their order");
        }
    }
    for (size_t r = 0; r < c->rows; r++) { /* numbered by first appearance */
        cr_assert_leq(c->of[r], next);
        next += c->of[r] == next;
    }
}

static void assert_groups(const uint32_t *ids, size_t rows)
{
    struct xp_clusters c = make_clusters(rows, 0);

    xp_clusters_group(&c, ids, rows);
    cr_assert_eq(c.rows, rows);
    assert_valid(&c);
    for (size_t k = 0; k < c.count; k++) {
        const uint32_t id = ids[c.order[c.start[k]]];
        for (size_t i = c.start[k]; i < c.start[k + 1]; i++)
            cr_assert_eq(ids[c.order[i]], id, "cluster %zu mixes ids", k);
        for (size_t j = 0; j < k; j++)
            cr_assert_neq(ids[c.order[c.start[j]]], id, "id %u has two clusters", id);
    }
    xp_clusters_fini(&c);
}

Test(cluster, groups_by_id)
{
    static uint32_t ids[3000];

    srand(1);
    for (size_t rows = 0; rows <= 3000; rows = rows * 2 + 1)
        for (int spread = 1; spread <= 1000; spread *= 10) {
            for (size_t r = 0; r < rows; r++)
                ids[r] = (uint32_t)(rand() % spread) * 2654435761u;
            assert_groups(ids, rows);
        }
}

Test(cluster, extreme_ids)
{
    static const uint32_t ids[] = {0, UINT32_MAX, 0, 1, UINT32_MAX, UINT32_MAX - 1, 1u << 31, 0};

    assert_groups(ids, sizeof(ids) / sizeof(ids[0]));
}

/* Ids that the table's multiplier sends to one and the same slot. */
Test(cluster, ids_that_collide_in_the_table)
{
    uint32_t ids[400], inverse = 1;

    for (int i = 0; i < 5; i++) /* Newton: the inverse of the multiplier modulo 2^32 */
        inverse *= 2 - 0x9E3779B1u * inverse;
    cr_assert_eq(inverse * 0x9E3779B1u, 1u);
    for (uint32_t r = 0; r < 400; r++)
        ids[r] = (r % 100 + UINT32_MAX - 50) * inverse; /* products around 0: the last slot, then the first */
    assert_groups(ids, 400);
}

Test(cluster, all_equal_and_all_distinct)
{
    static uint32_t ids[1000];
    struct xp_clusters c = make_clusters(1000, 0);

    xp_clusters_group(&c, ids, 1000);
    cr_assert_eq(c.count, 1u);
    assert_valid(&c);
    for (uint32_t r = 0; r < 1000; r++)
        ids[r] = 1000 - r;
    xp_clusters_group(&c, ids, 1000);
    cr_assert_eq(c.count, 1000u);
    for (uint32_t r = 0; r < 1000; r++)
        cr_assert_eq(c.order[r], r);
    xp_clusters_group(&c, ids, 0);
    cr_assert_eq(c.count, 0u);
    assert_valid(&c);
    xp_clusters_fini(&c);
}

Test(cluster, limits_are_checked)
{
    struct xp_clusters c;

    cr_assert_eq(xp_clusters_init(&c, (size_t)1 << 31, 64), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_clusters_init(&c, 10, 1024), XP_ERR_INVALID_ARG);
    xp_clusters_fini(&c);
}

/* ---- refinement ---- */

enum { S = 64, ROWS = 1200, CENTRES = 30 };

/* Sketches around planted centres, and ids that split every centre and mix some rows up, as a hash does. */
static void plant(int16_t *sketch, uint32_t *ids)
{
    static int16_t centre[CENTRES][S];

    for (int k = 0; k < CENTRES; k++)
        for (int j = 0; j < S; j++)
            centre[k][j] = (int16_t)(rand() % 4001 - 2000);
    for (int r = 0; r < ROWS; r++) {
        const int k = rand() % CENTRES;
        ids[r] = (uint32_t)(rand() % 10 ? k : rand() % CENTRES);
        for (int j = 0; j < S; j++)
            sketch[r * S + j] = (int16_t)(centre[k][j] + rand() % 601 - 300);
    }
}

static uint64_t refined(struct xp_clusters *c, const struct xp_kernels *k, const int16_t *sketch, const uint32_t *ids, unsigned rounds)
{
    xp_clusters_group(c, ids, ROWS);
    xp_clusters_refine(c, k, sketch, S, rounds, 0);
    assert_valid(c);
    return xp_clusters_distortion(c, sketch, S);
}

Test(cluster, refinement_lowers_the_distortion)
{
    static int16_t sketch[ROWS * S];
    static uint32_t ids[ROWS];
    struct xp_clusters c = make_clusters(ROWS, S);
    struct xp_kernels k;

    xp_kernels_init(&k, XP_ISA_BEST);
    for (unsigned seed = 1; seed <= 5; seed++) {
        srand(seed);
        plant(sketch, ids);
        const uint64_t seeds = refined(&c, &k, sketch, ids, 0);
        uint64_t last = seeds;
        for (unsigned rounds = 1; rounds <= 4; rounds++) {
            const uint64_t now = refined(&c, &k, sketch, ids, rounds);
            cr_assert_leq(now, last + (uint64_t)ROWS * S / 2, "seed %u round %u: %llu after %llu", seed, rounds,
                          (unsigned long long)now, (unsigned long long)last); /* means are rounded to integers */
            last = now;
        }
        cr_assert_lt(last * 3, seeds, "seed %u: %llu, seeds had %llu", seed, (unsigned long long)last, (unsigned long long)seeds);
    }
    xp_clusters_fini(&c);
}

Test(cluster, refinement_is_the_same_on_every_isa)
{
    static int16_t sketch[ROWS * S];
    static uint32_t ids[ROWS];
    struct xp_clusters plain = make_clusters(ROWS, S), other = make_clusters(ROWS, S);
    struct xp_kernels k;

    srand(21);
    plant(sketch, ids);
    xp_kernels_init(&k, XP_ISA_C);
    refined(&plain, &k, sketch, ids, 3);
    for (int isa = XP_ISA_AVX2; isa <= (int)xp_cpu_isa(); isa++) {
        xp_kernels_init(&k, (enum xp_isa)isa);
        refined(&other, &k, sketch, ids, 3);
        cr_assert_eq(other.count, plain.count);
        cr_assert_arr_eq(other.of, plain.of, ROWS * sizeof(*plain.of));
        cr_assert_arr_eq(other.centroids, plain.centroids, plain.count * S * sizeof(*plain.centroids));
    }
    xp_clusters_fini(&plain);
    xp_clusters_fini(&other);
}

/* Equal rows under different ids: their means are equal, the lower number takes all, the others vanish. */
Test(cluster, clusters_that_lose_their_rows_vanish)
{
    static int16_t sketch[40 * S];
    uint32_t ids[40];
    struct xp_clusters c = make_clusters(40, S);
    struct xp_kernels k;

    xp_kernels_init(&k, XP_ISA_BEST);
    for (int r = 0; r < 40; r++) {
        ids[r] = (uint32_t)r;
        for (int j = 0; j < S; j++)
            sketch[r * S + j] = (int16_t)(r % 4 * 100 + j);
    }
    xp_clusters_group(&c, ids, 40);
    cr_assert_eq(c.count, 40u);
    xp_clusters_refine(&c, &k, sketch, S, 1, 0);
    assert_valid(&c);
    cr_assert_eq(c.count, 4u);
    cr_assert_eq(xp_clusters_distortion(&c, sketch, S), 0u);
    for (int j = 0; j < S; j++)
        cr_assert_eq(c.centroids[3 * S + j], 300 + j);
    xp_clusters_fini(&c);
}

Test(cluster, only_the_largest_are_seeds)
{
    /* Sizes 5 3 3 1 1: with room for two, the first of the equal ones is kept. */
    static const uint32_t ids[] = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 3, 0, 4};
    static int16_t sketch[13 * 32];
    struct xp_clusters c = make_clusters(13, 32);
    struct xp_kernels k;

    xp_kernels_init(&k, XP_ISA_BEST);
    for (int r = 0; r < 13; r++)
        for (int j = 0; j < 32; j++)
            sketch[r * 32 + j] = (int16_t)(1000 * (int)ids[r]);
    for (size_t most = 1; most <= 6; most++) {
        xp_clusters_group(&c, ids, 13);
        xp_clusters_refine(&c, &k, sketch, 32, 0, most);
        assert_valid(&c);
        cr_assert_eq(c.count, most < 5 ? most : 5, "most %zu: %zu", most, c.count);
    }
    xp_clusters_group(&c, ids, 13);
    xp_clusters_refine(&c, &k, sketch, 32, 1, 2);
    for (int r = 0; r < 13; r++)
        cr_assert_eq(c.of[r], ids[r] > 0, "row %d", r);
    xp_clusters_fini(&c);
}

Test(cluster, means_round_halves_up)
{
    static int16_t sketch[2 * 32];
    static const uint32_t ids[] = {7, 7};
    struct xp_clusters c = make_clusters(2, 32);
    struct xp_kernels k;

    xp_kernels_init(&k, XP_ISA_C);
    sketch[0] = 3, sketch[32] = 4;           /* 3.5 */
    sketch[1] = -3, sketch[33] = -4;         /* -3.5 */
    sketch[2] = INT16_MIN, sketch[34] = INT16_MIN;
    sketch[3] = INT16_MAX, sketch[35] = INT16_MIN; /* -0.5 */
    xp_clusters_group(&c, ids, 2);
    xp_clusters_refine(&c, &k, sketch, 32, 0, 0);
    cr_assert_eq(c.centroids[0], 4);
    cr_assert_eq(c.centroids[1], -3);
    cr_assert_eq(c.centroids[2], INT16_MIN);
    cr_assert_eq(c.centroids[3], 0);
    xp_clusters_fini(&c);
}

Test(cluster, no_rows_is_no_work)
{
    struct xp_clusters c = make_clusters(0, 32);
    struct xp_kernels k;

    xp_kernels_init(&k, XP_ISA_C);
    xp_clusters_group(&c, NULL, 0);
    xp_clusters_refine(&c, &k, NULL, 32, 3, 1);
    cr_assert_eq(c.count, 0u);
    cr_assert_eq(xp_clusters_distortion(&c, NULL, 32), 0u);
    xp_clusters_fini(&c);
}

/* Sketches of 32 values whose first `bits` signs spell the row's number. */
static void spell(int16_t *sketch, size_t rows, unsigned bits)
{
    for (size_t r = 0; r < rows; r++)
        for (unsigned j = 0; j < 32; j++)
            sketch[r * 32 + j] = (int16_t)(j < bits && (r >> j & 1) ? -100 : 100);
}

Test(cluster, splits_the_largest_to_a_number)
{
    enum { ALL = 64 };
    struct xp_clusters c = make_clusters(ALL, 32);
    int16_t sketch[ALL * 32];
    uint32_t ids[ALL];

    spell(sketch, ALL, 6);
    for (size_t count = 2; count <= ALL; count++) {
        for (size_t r = 0; r < ALL; r++)
            ids[r] = r < 40;
        xp_clusters_group(&c, ids, ALL);
        xp_clusters_split(&c, sketch, 32, (unsigned)count % 32, count);
        cr_assert_eq(c.count, count, "%zu clusters, not %zu", c.count, count);
        assert_valid(&c);
        for (size_t k = 0; k < c.count; k++)
            for (size_t i = c.start[k]; i < c.start[k + 1]; i++)
                cr_assert_eq(ids[c.order[i]], ids[c.order[c.start[k]]], "rows of two clusters were joined");
        for (size_t k = 0; k < c.count && count == 3; k++)
            cr_assert_leq(c.start[k + 1] - c.start[k], 24u, "the larger one was split, in the middle");
    }
    xp_clusters_split(&c, sketch, 32, 0, 10);
    cr_assert_eq(c.count, ALL, "there are more already");
    spell(sketch, ALL, 2);
    for (size_t r = 0; r < ALL; r++)
        ids[r] = 0;
    xp_clusters_group(&c, ids, ALL);
    xp_clusters_split(&c, sketch, 32, 5, 50);
    cr_assert_eq(c.count, 4u, "equal sketches stay together");
    assert_valid(&c);
    xp_clusters_fini(&c);
}
