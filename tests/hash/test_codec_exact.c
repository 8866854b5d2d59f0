/*
 * test_codec_exact.c - codec exact: bit for bit, smaller when rows repeat, and no payload is believed
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "hash/coder_impl.h"
#include "hash/frame.h"
#include "tests/harness/random.h"

static struct xp_coder *make(xp_dtype t, size_t dim)
{
    struct xp_coder_desc d = { .dtype = t, .dim = dim, .mode = XP_MODE_EXACT, .isa = XP_ISA_C };
    struct xp_coder *c;

    cr_assert_eq(xp_codec_parse("exact", &d.choice), XP_OK);
    cr_assert_eq(xp_coder_create(&c, &d), XP_OK);
    return c;
}

Test(codec_exact, round_trips_random_repeats_of_every_type)
{
    static const xp_dtype types[] = { XP_BF16, XP_F16, XP_F32, XP_BYTE };
    struct random rng = random_start("codec_exact");

    for (int round = 0; round < 80; round++) {
        xp_dtype t = types[round % 4];
        size_t dim = 1 + random_below(&rng, 40), rows = random_below(&rng, 300), len, kinds = 1 + random_below(&rng, 2 * rows + 1);
        size_t row_bytes = dim * xp_dtype_size(t), cap = xp_frame_bound(t, dim, rows);
        struct xp_coder *c = make(t, dim);
        unsigned char *data = malloc(rows * row_bytes + 1), *back = malloc(rows * row_bytes + 1), *frame = malloc(cap);
        struct xp_rows in = { .data = data, .rows = rows, .dim = dim, .dtype = t };
        xp_codec_stats st = { .size = sizeof(st) };

        for (size_t r = 0; r < rows; r++) {
            struct random row = random_seeded(random_below(&rng, kinds));
            for (size_t i = 0; i < row_bytes; i++)
                data[r * row_bytes + i] = (unsigned char)random_bits(&row);
        }
        cr_assert_eq(xp_coder_encode(c, &in, frame, cap, &len, &st), XP_OK);
        cr_assert_leq(len, cap);
        cr_assert_eq(st.frame_bytes, len);
        cr_assert_eq(xp_coder_decode(c, frame, len, back, rows), XP_OK);
        cr_assert_arr_eq(back, data, rows * row_bytes);
        if (st.rows_unique < rows / 2 && row_bytes >= 8)
            cr_assert_lt(len, XP_FRAME_HEADER + rows * row_bytes, "%zu distinct of %zu rows pay", (size_t)st.rows_unique, rows);
        free(data);
        free(back);
        free(frame);
        xp_coder_destroy(c);
    }
}

Test(codec_exact, distinct_rows_travel_raw)
{
    uint32_t rows[64], back[64];
    unsigned char frame[1024];
    struct xp_rows in = { .data = rows, .rows = 64, .dim = 1, .dtype = XP_F32 };
    struct xp_coder *c = make(XP_F32, 1);
    struct xp_frame_header h;
    size_t len;

    for (uint32_t i = 0; i < 64; i++)
        rows[i] = i * 77;
    cr_assert_eq(xp_coder_encode(c, &in, frame, sizeof(frame), &len, NULL), XP_OK);
    cr_assert_eq(xp_frame_read(frame, len, 1, &h, NULL), XP_OK);
    cr_assert_eq(h.codec, XP_CODEC_RAW);
    cr_assert_eq(len, XP_FRAME_HEADER + sizeof(rows));
    cr_assert_eq(xp_coder_decode(c, frame, len, back, 64), XP_OK);
    cr_assert_arr_eq(back, rows, sizeof(rows));
    xp_coder_destroy(c);
}

/* Payloads that pass every checksum but do not make sense: 6 rows of one u32, 2 distinct, map 0 0 1 0 1 1. */
Test(codec_exact, forged_payloads_are_refused)
{
    static const uint8_t good[] = { 2, 0, 0, 0, 1, 0, 0, 0, 0x34, 1, 1, 1, 1, 2, 2, 2, 2 };
    static const uint8_t want[] = { 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2 };
    static const struct {
        uint8_t at, value;
        const char *what;
    } forged[] = { { 0, 7, "more distinct rows than rows" },      { 0, 1, "fewer distinct rows than the length holds" },
                   { 3, 0x80, "a huge number of distinct rows" }, { 4, 2, "another width" },
                   { 8, 0x35, "a first row that is not first" },  { 8, 0x00, "a distinct row that is not used" },
                   { 8, 0x74, "stray bits behind the map" } };
    uint8_t p[sizeof(good)], out[24];
    struct xp_coder *c = make(XP_F32, 1);

    cr_assert_eq(xp_codec_exact.decode(c, good, sizeof(good), 6, out), XP_OK);
    cr_assert_arr_eq(out, want, sizeof(want));
    for (size_t len = 0; len < sizeof(good); len++)
        cr_assert_eq(xp_codec_exact.decode(c, good, len, 6, out), XP_ERR_CORRUPT, "length %zu", len);
    for (size_t i = 0; i < sizeof(forged) / sizeof(forged[0]); i++) {
        memcpy(p, good, sizeof(p));
        p[forged[i].at] = forged[i].value;
        c->why = "";
        cr_assert_eq(xp_codec_exact.decode(c, p, sizeof(p), 6, out), XP_ERR_CORRUPT, "%s", forged[i].what);
        cr_assert(xp_coder_why(c)[0], "%s", forged[i].what);
    }
    xp_coder_destroy(c);
}
