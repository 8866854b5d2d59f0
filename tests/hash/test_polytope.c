/*
 * test_polytope.c - laws of the cross-polytope hash, on every instruction set
 *
 * Collision probabilities: Andoni, Indyk, Laarhoven, Razenshteyn, Schmidt, NIPS 2015; the values below are those of an
 * exact Gaussian rotation of width 512, found by simulation.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/hasher.h"
#include "hash/signs.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double uniform(void)
{
    return (rand() + 0.5) / ((double)RAND_MAX + 1);
}

static float gauss(void)
{
    return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()));
}

static struct xp_hasher make_hasher(struct xp_hasher_desc d)
{
    struct xp_hasher h;

    cr_assert_eq(xp_hasher_init(&h, &d), XP_OK, "dim %zu k %u w %u rounds %u", d.dim, d.k, d.w, d.rounds);
    return h;
}

static uint32_t hash_one(const struct xp_kernels *k, const struct xp_hasher *h, const float *row, int16_t *sketch)
{
    const struct xp_rows in = {.data = row, .rows = 1, .dim = h->dim, .dtype = XP_F32};
    uint32_t id;

    k->hash(h, &in, &id, sketch);
    return id;
}

#define FOR_EACH_ISA(k)                                                       \
    for (struct xp_kernels k, *once = &k; once; once = NULL)                  \
        for (int isa = XP_ISA_C; isa <= (int)xp_cpu_isa() && (xp_kernels_init(&k, (enum xp_isa)isa), 1); isa++)

Test(polytope, width_follows_the_dimension)
{
    static const struct {
        size_t dim;
        unsigned n;
    } expected[] = {{1, 32}, {32, 32}, {33, 64}, {128, 128}, {129, 256}, {257, 512}, {512, 512}, {513, 512}, {100000, 512}};

    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
        cr_assert_eq(xp_hash_width(expected[i].dim), expected[i].n, "dim %zu", expected[i].dim);
}

Test(polytope, knobs_are_checked)
{
    static const struct xp_hasher_desc wrong[] = {
        {.dim = 0},
        {.dim = 64, .k = 9},
        {.dim = 64, .rounds = 4},
        {.dim = 64, .w = 2},
        {.dim = 64, .w = 24},
        {.dim = 64, .w = 128},
        {.dim = 64, .w = 32, .k = 3},
        {.dim = 64, .sketch = 31},
        {.dim = SIZE_MAX},
        {.dim = SIZE_MAX - 700},
    };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct xp_hasher h;
        cr_assert_neq(xp_hasher_init(&h, &wrong[i]), XP_OK, "case %zu", i);
        cr_assert_null(h.memory);
        xp_hasher_fini(&h);
    }
}

Test(polytope, defaults)
{
    struct xp_hasher h = make_hasher((struct xp_hasher_desc){.dim = 4096, .k = 3, .sketch = 1024});

    cr_assert_eq(h.n, 512u);
    cr_assert_eq(h.w, 128u, "the widest power of two of which three fit");
    cr_assert_eq(h.rounds, 2u);
    cr_assert_eq(h.sketch, 512u);
    xp_hasher_fini(&h);
}

Test(polytope, rows_without_direction)
{
    /* 2^-66: the mean square is denormal, too coarse to scale by. */
    static const float bad[] = {0.0f, NAN, INFINITY, -INFINITY, 1e-30f, 1e30f, 0x1p-66f};

    FOR_EACH_ISA(k)
    {
        struct xp_hasher h = make_hasher((struct xp_hasher_desc){.dim = 700, .sketch = 64});
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
            float row[700] = {0};
            int16_t sketch[64];
            memset(sketch, 0x55, sizeof(sketch));
            row[321] = bad[i];
            cr_assert_eq(hash_one(&k, &h, row, sketch), XP_HASH_NONE, "%s value %g", k.isa, (double)bad[i]);
            for (int j = 0; j < 64; j++)
                cr_assert_eq(sketch[j], 0);
            row[321] = 0x1p-58f;
            cr_assert_neq(hash_one(&k, &h, row, sketch), XP_HASH_NONE, "%s: small, but not too small", k.isa);
        }
        xp_hasher_fini(&h);
    }
}

/* A single spike spreads to equal magnitudes everywhere: the lowest index wins. */
static void check_ties(const struct xp_kernels *k, size_t dim, unsigned w, unsigned blocks)
{
    struct xp_hasher h = make_hasher((struct xp_hasher_desc){
        .dim = dim, .k = blocks, .w = w, .rounds = 1, .sketch = (unsigned)dim, .seed = dim + w});
    float row[512] = {0};
    int16_t r[512];
    uint32_t expected = 0;

    row[dim - 3] = 2.5f;
    const uint32_t id = hash_one(k, &h, row, r);
    for (unsigned b = 0; b < blocks; b++)
        expected = expected * h.combine + (r[b * w] < 0);
    cr_assert_eq(id, expected, "%s dim %zu w %u k %u: %08x, not %08x", k->isa, dim, w, blocks, id, expected);
    xp_hasher_fini(&h);
}

Test(polytope, ties_go_to_the_lowest_index)
{
    FOR_EACH_ISA(k)
        for (size_t dim = 32; dim <= 512; dim *= 2)
            for (unsigned w = 4; w <= dim; w *= 2)
                for (unsigned blocks = 1; blocks <= 8 && blocks * w <= dim; blocks++)
                    check_ties(&k, dim, w, blocks);
}

/* The tables are drawn from the streams that FORMAT.md and the GPU know. */
Test(polytope, tables_follow_the_sign_streams)
{
    struct xp_hasher h = make_hasher((struct xp_hasher_desc){.dim = 777, .rounds = 3, .seed = 31});
    uint32_t signs[32];

    xp_signs_fill(31, XP_SIGNS_FOLD, 777, signs);
    for (size_t i = 0; i < 1024; i++) {
        cr_assert_eq(xp_sign(h.fold_signs, i), xp_sign(signs, i));
        cr_assert_eq(h.fold_flips[i], xp_sign(signs, i) << 15);
    }
    for (unsigned round = 0; round < 2; round++) {
        xp_signs_fill(31, XP_SIGNS_ROUND + round, 512, signs);
        for (size_t i = 0; i < 512; i++)
            cr_assert_eq(h.round_scale[round * 512 + i], xp_sign(signs, i) ? -1448 : 1448);
    }
    xp_hasher_fini(&h);
}

/* The worst case of a rotation, all of a row in one coordinate, still fits int16. */
Test(polytope, an_aligned_row_does_not_overflow)
{
    FOR_EACH_ISA(k)
        for (size_t dim = 32; dim <= 512; dim *= 2) {
            struct xp_hasher h = make_hasher((struct xp_hasher_desc){.dim = dim, .rounds = 1, .sketch = (unsigned)dim, .seed = 9});
            float row[512];
            int16_t r[512];
            for (size_t i = 0; i < dim; i++)
                row[i] = h.fold_flips[i] ? -1.0f : 1.0f;
            cr_assert_eq(hash_one(&k, &h, row, r), 0u);
            cr_assert_eq(r[0], 31744, "%s dim %zu: %d", k.isa, dim, r[0]);
            for (size_t i = 1; i < dim; i++)
                cr_assert_eq(r[i], 0);
            xp_hasher_fini(&h);
        }
}

Test(polytope, ids_follow_from_the_rotated_row)
{
    srand(11);
    FOR_EACH_ISA(k)
        for (int round = 0; round < 60; round++) {
            const unsigned w = 4u << rand() % 8;
            struct xp_hasher_desc d = {.dim = 512 + (size_t)(rand() % 900), .w = w, .rounds = 1 + (unsigned)rand() % 3, .sketch = 512};
            d.k = 1 + (unsigned)rand() % (512 / w < 8 ? 512 / w : 8);
            d.seed = (uint64_t)rand();
            struct xp_hasher h = make_hasher(d);
            float row[1500];
            int16_t r[512];
            uint64_t exact = 0;
            uint32_t mixed = 0;
            for (size_t i = 0; i < d.dim; i++)
                row[i] = gauss();
            const uint32_t id = hash_one(&k, &h, row, r);
            for (unsigned b = 0; b < d.k; b++) {
                unsigned best = 0;
                for (unsigned i = 1; i < w; i++)
                    if (abs(r[b * w + i]) > abs(r[b * w + best]))
                        best = i;
                const uint32_t code = 2 * best + (r[b * w + best] < 0);
                exact = exact * 2 * w + code;
                mixed = mixed * h.combine + code;
            }
            cr_assert_eq(id, mixed, "%s k %u w %u", k.isa, d.k, w);
            if (d.k * (unsigned)lrint(log2(2.0 * w)) <= 32)
                cr_assert_eq(id, exact, "%s k %u w %u: codes that fit are concatenated", k.isa, d.k, w);
            xp_hasher_fini(&h);
        }
}

Test(polytope, the_rotation_keeps_the_energy)
{
    srand(12);
    FOR_EACH_ISA(k)
        for (unsigned rounds = 1; rounds <= 3; rounds++)
            for (size_t dim = 32; dim <= 512; dim *= 2) {
                struct xp_hasher h = make_hasher((struct xp_hasher_desc){.dim = dim, .rounds = rounds, .sketch = (unsigned)dim});
                float row[512];
                int16_t r[512];
                double energy = 0;
                for (size_t i = 0; i < dim; i++)
                    row[i] = gauss();
                hash_one(&k, &h, row, r);
                for (size_t i = 0; i < dim; i++)
                    energy += (double)r[i] * r[i];
                energy /= 31744.0 * 31744.0;
                cr_assert(fabs(energy - 1) < 0.01, "%s rounds %u dim %zu: %g", k.isa, rounds, dim, energy);
                xp_hasher_fini(&h);
            }
}

Test(polytope, the_norm_does_not_matter)
{
    srand(13);
    FOR_EACH_ISA(k)
    {
        struct xp_hasher h = make_hasher((struct xp_hasher_desc){.dim = 900, .rounds = 3, .sketch = 512, .seed = 4});
        float row[900], scaled[900];
        int16_t r[512], r_scaled[512];
        for (int i = 0; i < 900; i++)
            row[i] = gauss();
        const uint32_t id = hash_one(&k, &h, row, r);
        for (int power = -50; power <= 50; power += 10) {
            for (int i = 0; i < 900; i++)
                scaled[i] = ldexpf(row[i], power);
            cr_assert_eq(hash_one(&k, &h, scaled, r_scaled), id, "%s 2^%d", k.isa, power);
            cr_assert_arr_eq(r, r_scaled, sizeof(r));
        }
        xp_hasher_fini(&h);
    }
}

Test(polytope, the_opposite_row_has_the_opposite_sign)
{
    srand(14);
    FOR_EACH_ISA(k)
    {
        struct xp_hasher h = make_hasher((struct xp_hasher_desc){.dim = 2000, .rounds = 1, .seed = 5});
        for (int t = 0; t < 20; t++) {
            float row[2000], opposite[2000];
            for (int i = 0; i < 2000; i++)
                opposite[i] = -(row[i] = gauss());
            cr_assert_eq(hash_one(&k, &h, row, NULL), hash_one(&k, &h, opposite, NULL) ^ 1);
        }
        xp_hasher_fini(&h);
    }
}

/* On whole numbers the fold is exact, so hashing x with mean m equals hashing x - m. */
Test(polytope, centring_subtracts_the_mean_row)
{
    srand(15);
    FOR_EACH_ISA(k)
    {
        struct xp_hasher centred = make_hasher((struct xp_hasher_desc){.dim = 1111, .sketch = 512, .seed = 6});
        struct xp_hasher plain = make_hasher((struct xp_hasher_desc){.dim = 1111, .sketch = 512, .seed = 6});
        float row[1111], mean[1111], difference[1111];
        int16_t a[512], b[512];
        for (int i = 0; i < 1111; i++) {
            row[i] = (float)(rand() % 201 - 100);
            mean[i] = (float)(rand() % 201 - 100);
            difference[i] = row[i] - mean[i];
        }
        xp_hasher_set_mean(&centred, mean);
        cr_assert_eq(hash_one(&k, &centred, row, a), hash_one(&k, &plain, difference, b));
        cr_assert_arr_eq(a, b, sizeof(a));
        xp_hasher_set_mean(&centred, NULL);
        cr_assert_eq(hash_one(&k, &centred, difference, a), hash_one(&k, &plain, difference, b), "the mean can be taken back");
        xp_hasher_fini(&centred);
        xp_hasher_fini(&plain);
    }
}

/* Two Gaussian rows at this cosine. */
static void make_pair(float *a, float *b, size_t dim, double cosine)
{
    double aa = 0, ab = 0, bb = 0;

    for (size_t i = 0; i < dim; i++) {
        a[i] = gauss();
        b[i] = gauss();
        aa += (double)a[i] * a[i];
        ab += (double)a[i] * b[i];
    }
    for (size_t i = 0; i < dim; i++) {
        b[i] -= (float)(ab / aa) * a[i];
        bb += (double)b[i] * b[i];
    }
    for (size_t i = 0; i < dim; i++)
        b[i] = (float)(cosine * a[i] + sqrt(1 - cosine * cosine) * sqrt(aa / bb) * b[i]);
}

static double collisions(const struct xp_kernels *k, size_t dim, unsigned rounds, double cosine, int pairs)
{
    float *a = malloc(dim * sizeof(*a)), *b = malloc(dim * sizeof(*b));
    int equal = 0;

    for (int p = 0; p < pairs; p++) {
        struct xp_hasher h = make_hasher((struct xp_hasher_desc){.dim = dim, .rounds = rounds, .seed = 1000 + (uint64_t)p});
        make_pair(a, b, dim, cosine);
        equal += hash_one(k, &h, a, NULL) == hash_one(k, &h, b, NULL);
        xp_hasher_fini(&h);
    }
    free(a);
    free(b);
    return (double)equal / pairs;
}

Test(polytope, collisions_fall_with_the_angle_as_theory_says)
{
    static const struct {
        double cosine, probability;
    } expected[] = {{1.0, 1.0}, {0.999, 0.921}, {0.99, 0.762}, {0.95, 0.52}, {0.90, 0.38}, {0.70, 0.133}, {0.0, 0.0015}};
    enum { PAIRS = 800 };
    struct xp_kernels k;

    srand(16);
    xp_kernels_init(&k, XP_ISA_BEST);
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        const double p = expected[i].probability, sigma = sqrt(p * (1 - p) / PAIRS);
        for (size_t dim = 512; dim <= 1024; dim *= 2) {
            const double seen = collisions(&k, dim, 3, expected[i].cosine, PAIRS);
            cr_assert(fabs(seen - p) <= 4.5 * sigma + 0.015, "dim %zu cosine %g: %g, not %g", dim, expected[i].cosine, seen, p);
        }
    }
}

/* A few very large channels, as in language models, break one round and not two. */
Test(polytope, two_rounds_survive_outlier_channels)
{
    enum { PAIRS = 600, DIM = 1024 };
    struct xp_kernels k;
    float a[DIM], b[DIM];

    srand(17);
    xp_kernels_init(&k, XP_ISA_BEST);
    for (unsigned rounds = 2; rounds <= 3; rounds++) {
        int equal = 0;
        for (int p = 0; p < PAIRS; p++) {
            struct xp_hasher h = make_hasher((struct xp_hasher_desc){.dim = DIM, .rounds = rounds, .seed = 5000 + (uint64_t)p});
            double energy = 0, noise = 0, size;
            for (int i = 0; i < DIM; i++) {
                a[i] = gauss() * (i == 7 || i == 300 || i == 777 ? 30.0f : 1.0f);
                b[i] = gauss();
                energy += (double)a[i] * a[i];
                noise += (double)b[i] * b[i];
            }
            size = sqrt(energy / noise) * sqrt(1 - 0.9 * 0.9) / 0.9; /* nearly orthogonal noise: cosine about 0.9 */
            for (int i = 0; i < DIM; i++)
                b[i] = a[i] + (float)size * b[i];
            equal += hash_one(&k, &h, a, NULL) == hash_one(&k, &h, b, NULL);
            xp_hasher_fini(&h);
        }
        cr_assert(fabs((double)equal / PAIRS - 0.38) < 0.1, "%u rounds: %g", rounds, (double)equal / PAIRS);
    }
}
