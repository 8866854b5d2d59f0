/*
 * test_rans.c - the entropy coder: its tables, round trips, its cost beside the entropy, rows that are not rows
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash/kernels.h"
#include "hash/rans.h"
#include "tests/harness/random.h"

#define MOST 9000

static int16_t q[MOST + 16], back[MOST + 16];
static uint8_t classes[MOST / 16 + 1], row[6 * MOST + 1024], work[16 * MOST + 4096];

static size_t encode_into(const struct xp_kernels *k, size_t n, size_t cap)
{
    struct xp_rans_source s = { .q = q, .classes = classes, .work = work, .out = row, .cap = cap };

    k->rans_encode(&s, 1, n, xp_rans_lanes(n));
    return s.len;
}

static size_t encode(const struct xp_kernels *k, size_t n)
{
    size_t len = encode_into(k, n, sizeof(row) - XP_RANS_SLACK);

    cr_assert_gt(len, 0);
    cr_assert_leq(len, xp_rans_bound(n));
    return len;
}

static int decode(const struct xp_kernels *k, size_t n, size_t len)
{
    struct xp_rans_stream s = { .in = row, .len = len, .classes = classes, .q = back };

    k->rans_decode(&s, 1, n, xp_rans_lanes(n));
    return s.ok;
}

static void fill(struct random *rng, size_t n, unsigned class, double stretch)
{
    const double s = exp2(((double)class - XP_RANS_UNIT_CLASS) / 4) * stretch;

    memset(classes, (int)class, sizeof(classes));
    for (size_t i = 0; i < n; i++)
        q[i] = (int16_t)fmax(fmin(rint(s * random_normal(rng)), XP_RANS_MAX_Q), -XP_RANS_MAX_Q);
}

Test(rans, tables_are_whole)
{
    for (unsigned t = 0; t < XP_RANS_DISTRIBUTIONS; t++) {
        const struct xp_rans_table *table = &xp_rans_tables[t];
        unsigned sum = 0;

        for (unsigned s = 0; s < XP_RANS_SYMBOLS; s++) {
            uint32_t span = table->span[xp_rans_place(s)], f = span & 0xffff;
            float r = table->reciprocal[xp_rans_place(s)];

            cr_assert_eq(span >> 16, sum, "table %u symbol %u", t, s);
            cr_assert_eq(table->packed[xp_rans_place(s)], f ? sum << 20 | f : 0);
            cr_assert_eq(table->place[s], f ? xp_rans_place(s) : 0);
            cr_assert_eq(f > 0, s == 0 || (s >= table->first && s <= table->last));
            cr_assert_lt(f, 1u << XP_RANS_BITS);
            cr_assert(f == 0 || ((double)r * f < 1 && (double)r * f > 1 - 0x1p-20));
            sum += f;
        }
        cr_assert_eq(sum, 1u << XP_RANS_BITS);
    }
}

/* Where the vectorised decoder looks first: the symbol of a bucket of slots is a slot's own or the one behind it. */
Test(rans, buckets_miss_by_one_at_most)
{
    for (unsigned t = 0; t < XP_RANS_DISTRIBUTIONS; t++) {
        const struct xp_rans_table *table = &xp_rans_tables[t];

        for (int slot = 0, symbol = 0; slot < 1 << XP_RANS_BITS; slot++) {
            const int middle = 32 + (slot + 40) / 64, low = slot < middle ? slot : middle, high = slot - (1 << XP_RANS_BITS) + XP_RANS_BUCKETS;
            const int found = table->bucket[low > high ? low : high];

            while (symbol + 1 < XP_RANS_SYMBOLS && table->begin[symbol + 1] <= slot)
                symbol++;
            cr_assert(found == symbol || (found == symbol + 1 && table->begin[found] > slot), "table %u slot %d", t, slot);
        }
    }
}

/* What the vectorised encoder divides by: the reciprocal gives the quotient or one less, for every frequency. */
Test(rans, reciprocals_miss_by_one_at_most)
{
    struct random rng = random_start("rans_reciprocals");

    for (unsigned t = 0; t < XP_RANS_DISTRIBUTIONS; t++)
        for (unsigned s = 0; s < XP_RANS_SYMBOLS; s++) {
            uint32_t f = xp_rans_tables[t].span[s] & 0xffff;

            for (int i = 0; f && i < 300; i++) {
                uint32_t x = i == 0 ? (f << 20) - 1 : (uint32_t)(random_bits(&rng) % ((uint64_t)f << 20));
                uint32_t quotient = (uint32_t)((float)x * xp_rans_tables[t].reciprocal[s]);
                cr_assert(quotient == x / f || quotient + 1 == x / f, "%u / %u", x, f);
            }
        }
}

/* What AVX2 does instead: half of x, which is a signed number, by a factor that the frequency divides. The quotient is right or one
 * less, at the ends of the range that a quotient has. */
Test(rans, divisions_miss_by_one_at_most)
{
    for (uint32_t f = 1; f < 1u << XP_RANS_BITS; f++) {
        const float part = (2 - 0x1p-21f) / (float)f;

        for (uint32_t expected = (1u << 20) - 1; expected < 1u << 20; expected -= 1 + expected / 64)
            for (int last = 0; last < 2; last++) {
                uint32_t x = expected * f + (last ? f - 1 : 0);
                uint32_t quotient = (uint32_t)(((float)(int32_t)(x >> 1) + 0.5f) * part);
                cr_assert(quotient == expected || quotient + 1 == expected, "%u / %u", x, f);
            }
    }
}

Test(rans, every_length_and_class_comes_back)
{
    struct random rng = random_start("rans");
    struct xp_kernels k[2];

    xp_kernels_init(&k[0], XP_ISA_C);
    xp_kernels_init(&k[1], XP_ISA_BEST);
    for (size_t n = 1; n <= 300 + 3; n++) {
        size_t length = n <= 300 ? n : n == 301 ? 768 : n == 302 ? 4096 : 7168;

        for (unsigned class = n % 5; class < XP_RANS_CLASSES; class += 5) {
            fill(&rng, length, class, random_below(&rng, 4) ? 1 : 30);
            if (class % 3 == 0)
                q[random_below(&rng, length)] = class % 2 ? XP_RANS_MAX_Q : -XP_RANS_MAX_Q;
            for (int i = 0; i < 2; i++) {
                size_t len = encode(&k[i], length);
                cr_assert(decode(&k[1 - i], length, len), "n %zu class %u", length, class);
                cr_assert_arr_eq(back, q, 2 * length, "n %zu class %u", length, class);
            }
        }
    }
}

/* Bits a value that values of this spread hold at least. */
static double entropy(double s)
{
    double bits = 0;

    for (int v = -(int)(12 * s) - 3; v <= (int)(12 * s) + 3; v++) {
        double p = 0.5 * (erf((v + 0.5) / s / M_SQRT2) - erf((v - 0.5) / s / M_SQRT2));
        bits -= p > 0 ? p * log2(p) : 0;
    }
    return bits;
}

Test(rans, costs_little_more_than_the_entropy)
{
    struct random rng = random_start("rans_cost");
    struct xp_kernels k;

    xp_kernels_init(&k, XP_ISA_BEST);
    for (unsigned class = 8; class < 44; class++) {
        double held = 0, used = 0;

        for (int i = 0; i < 8; i++) {
            fill(&rng, 8192, class, 1);
            used += 8.0 * (double)encode(&k, 8192);
            held += 8192 * entropy(exp2(((double)class - XP_RANS_UNIT_CLASS) / 4));
        }
        /* The tables' share of Laplace, the wider cell of zero, 16 states. */
        cr_assert_leq(used, 1.04 * held + 8 * 8192 * 0.01 + 8 * 16 * 12, "class %u: %.3f bits a value, entropy %.3f", class,
                      used / (8 * 8192), held / (8 * 8192));
    }
}

Test(rans, other_lengths_are_no_row)
{
    struct random rng = random_start("rans_lengths");
    static const size_t lengths[] = { 1, 40, 300, 2048, 4096 };
    struct xp_kernels k[2];

    xp_kernels_init(&k[0], XP_ISA_C);
    xp_kernels_init(&k[1], XP_ISA_BEST);
    for (int i = 0; i < 5; i++) {
        fill(&rng, lengths[i], 15, 1);
        size_t len = encode(&k[0], lengths[i]);

        for (size_t cut = 0; cut < len; cut += 1 + cut / 40)
            cr_assert(!decode(&k[0], lengths[i], cut) && !decode(&k[1], lengths[i], cut), "%zu of %zu bytes", cut, len);
        memset(row + len, 0, 8);
        for (size_t more = 1; more <= 8; more++)
            cr_assert(!decode(&k[0], lengths[i], len + more) && !decode(&k[1], lengths[i], len + more));
        cr_assert(decode(&k[1], lengths[i], len));
    }
}

Test(rans, room_that_is_too_small_is_said)
{
    struct random rng = random_start("rans_room");
    struct xp_kernels k;

    xp_kernels_init(&k, XP_ISA_BEST);
    fill(&rng, 4096, 20, 1);
    size_t len = encode(&k, 4096);
    cr_assert_eq(encode_into(&k, 4096, len), len);
    cr_assert_eq(encode_into(&k, 4096, len - 1), 0);
    cr_assert_eq(encode_into(&k, 4096, 0), 0);
}
