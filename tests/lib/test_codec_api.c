/*
 * test_codec_api.c - the public codec interface: what it refuses and says, frames there and back
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "crosspress/codec.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

static xp_codec_desc describe(void)
{
    xp_codec_desc d;

    xp_codec_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = 40;
    d.mode = XP_MODE_BOUNDED;
    d.eps = 0.1;
    return d;
}

static void refused(const xp_codec_desc *d, xp_status want, const char *word)
{
    xp_codec *c = (xp_codec *)1;

    cr_assert_eq(xp_codec_create(&c, d), want, "%s", word);
    cr_assert_eq(c, (xp_codec *)1, "set on an error");
    cr_assert_not_null(strstr(xp_last_error(), word), "'%s' is not in '%s'", word, xp_last_error());
}

Test(codec_api, create_refuses_and_says_why)
{
    xp_codec_desc d;

    d = describe(); d.size = 0;
    refused(&d, XP_ERR_INVALID_ARG, "size");
    d = describe(); d.dtype = (xp_dtype)9;
    refused(&d, XP_ERR_INVALID_ARG, "type 9");
    d = describe(); d.dim = 0;
    refused(&d, XP_ERR_INVALID_ARG, "0 values");
    d = describe(); d.dim = 1 << 21;
    refused(&d, XP_ERR_INVALID_ARG, "values");
    d = describe(); d.codec = "nope";
    refused(&d, XP_ERR_UNSUPPORTED, "nope");
    d = describe(); d.isa = "mmx";
    refused(&d, XP_ERR_UNSUPPORTED, "mmx");
    d = describe(); d.mode = XP_MODE_FOLDED;
    refused(&d, XP_ERR_UNSUPPORTED, "mode");
    d = describe(); d.mode = XP_MODE_EXACT; d.codec = "int4";
    refused(&d, XP_ERR_UNSUPPORTED, "lossy");
    d = describe(); d.dtype = XP_BYTE;
    refused(&d, XP_ERR_UNSUPPORTED, "bytes");
    d = describe(); d.eps = NAN;
    refused(&d, XP_ERR_INVALID_ARG, "eps");
    d = describe(); d.eps = 1;
    refused(&d, XP_ERR_INVALID_ARG, "eps");
    d = describe(); d.eps_ref = (xp_eps_ref)7;
    refused(&d, XP_ERR_INVALID_ARG, "eps_ref");
    d = describe(); d.codec = "lsh"; d.lsh_hashes = 8; d.lsh_width = 512;
    refused(&d, XP_ERR_INVALID_ARG, "lsh");
    cr_assert_eq(xp_codec_create(NULL, &d), XP_ERR_INVALID_ARG);
    xp_codec_destroy(NULL);
}

Test(codec_api, frames_there_and_back)
{
    struct random rng = random_start("codec_api");
    static float rows[64][40], back[64][40];
    static unsigned char frame[1 << 15], again[1 << 15];
    xp_codec_stats st = { .size = sizeof(st) };
    xp_frame_info info = { .size = sizeof(info) };
    xp_codec_desc d = describe();
    size_t len, len2, n = 0;
    xp_codec *c;

    for (size_t i = 0; i < 64; i++)
        for (size_t j = 0; j < 40; j++)
            rows[i][j] = (float)random_normal(&rng);
    cr_assert_eq(xp_codec_create(&c, &d), XP_OK);
    cr_assert_eq(xp_codec_bound(c, 64), sizeof(rows) + 64 + 4 * 64);
    cr_assert_eq(xp_encode(c, rows, 64, frame, sizeof(frame), &len, &st), XP_OK);
    cr_assert_eq(xp_encode(c, rows, 64, again, sizeof(again), &len2, NULL), XP_OK);
    cr_assert_eq(len, len2);
    cr_assert_arr_eq(frame, again, len);
    cr_assert(st.rows == 64 && st.raw_bytes == sizeof(rows) && st.frame_bytes == len && len < sizeof(rows) / 2);
    cr_assert_eq(xp_frame_inspect(frame, len, &info), XP_OK);
    cr_assert(info.dtype == XP_F32 && info.dim == 40 && info.rows == 64 && !strcmp(info.codec, "quant"));
    cr_assert_eq(xp_decode(c, frame, len, back, 64, &n), XP_OK);
    cr_assert_eq(n, 64);
    for (size_t i = 0; i < 64; i++)
        cr_assert_leq(value_distance(rows[i], back[i], XP_F32, 40), 0.1 * value_norm(rows[i], XP_F32, 40));

    cr_assert_eq(xp_encode(c, rows, 64, frame, xp_codec_bound(c, 64) - 1, &len, NULL), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_encode(c, rows, SIZE_MAX / 8, frame, sizeof(frame), &len, NULL), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_encode(c, NULL, 64, frame, sizeof(frame), &len, NULL), XP_ERR_INVALID_ARG);
    st.size = 0;
    cr_assert_eq(xp_encode(c, rows, 64, frame, sizeof(frame), &len, &st), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_decode(c, again, len2, back, 63, &n), XP_ERR_INVALID_ARG);
    cr_assert_not_null(strstr(xp_last_error(), "64 rows"));
    cr_assert_eq(xp_decode(c, again, len2 - 1, back, 64, &n), XP_ERR_CORRUPT);
    again[80] ^= 1;
    cr_assert_eq(xp_frame_inspect(again, len2, &info), XP_OK, "the header alone is whole");
    cr_assert_eq(xp_decode(c, again, len2, back, 64, &n), XP_ERR_CORRUPT);
    cr_assert_not_null(strstr(xp_last_error(), "checksum"));
    cr_assert_eq(xp_frame_inspect(again, 10, &info), XP_ERR_CORRUPT);
    xp_codec_destroy(c);
    d.dim = 41;
    cr_assert_eq(xp_codec_create(&c, &d), XP_OK);
    again[80] ^= 1;
    cr_assert_eq(xp_decode(c, again, len2, back, 64, &n), XP_ERR_INVALID_ARG);
    cr_assert_not_null(strstr(xp_last_error(), "41"));
    xp_codec_destroy(c);
}

Test(codec_api, no_rows_and_opaque_bytes)
{
    static const char text[] = "abcabcabcabcabcabcabcabcabcabcabcxyz";
    unsigned char frame[512];
    char back[sizeof(text)];
    xp_codec_desc d = describe();
    size_t len, n = 7;
    xp_codec *c;

    cr_assert_eq(xp_codec_create(&c, &d), XP_OK);
    cr_assert_eq(xp_encode(c, NULL, 0, frame, sizeof(frame), &len, NULL), XP_OK);
    cr_assert_eq(len, 64);
    cr_assert_eq(xp_decode(c, frame, len, NULL, 0, &n), XP_OK);
    cr_assert_eq(n, 0);
    xp_codec_destroy(c);

    d.mode = XP_MODE_EXACT;
    d.dtype = XP_BYTE;
    d.dim = 3;
    cr_assert_eq(xp_codec_create(&c, &d), XP_OK);
    cr_assert_eq(xp_encode(c, text, 12, frame, sizeof(frame), &len, NULL), XP_OK);
    cr_assert_lt(len, 64 + 36);
    cr_assert_eq(xp_decode(c, frame, len, back, 12, &n), XP_OK);
    cr_assert_arr_eq(back, text, 36);
    xp_codec_destroy(c);
}
