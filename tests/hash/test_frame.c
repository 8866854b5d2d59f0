/*
 * test_frame.c - the header of a frame: what is written is read, and nothing else is believed
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <string.h>

#include "hash/frame.h"
#include "tests/harness/random.h"

#define PAYLOAD 37

static uint8_t frame[XP_FRAME_HEADER + PAYLOAD + 8];
static const struct xp_frame_header wrote = { .version = XP_FRAME_VERSION, .dtype = XP_F16, .codec = 0x0203, .dim = 4097,
                                              .rows = 0x1122334455667788, .payload_bytes = PAYLOAD, .seed = 0x99aabbccddeeff01 };

static void make(void)
{
    struct xp_frame_header h = wrote;

    for (int i = 0; i < PAYLOAD; i++)
        frame[XP_FRAME_HEADER + i] = (uint8_t)(i * 7);
    h.checksum = xp_checksum(frame + XP_FRAME_HEADER, PAYLOAD);
    xp_frame_write(frame, &h);
}

TestSuite(frame, .init = make);

Test(frame, is_read_as_written)
{
    struct xp_frame_header h;
    const char *why = "unset";

    cr_assert_eq(xp_frame_read(frame, XP_FRAME_HEADER + PAYLOAD, 1, &h, &why), XP_OK);
    cr_assert_null(why);
    cr_assert(h.version == wrote.version && h.dtype == wrote.dtype && h.codec == wrote.codec && h.dim == wrote.dim);
    cr_assert(h.rows == wrote.rows && h.payload_bytes == wrote.payload_bytes && h.seed == wrote.seed);
}

Test(frame, lies_in_memory_as_documented)
{
    static const uint8_t head[24] = { 'X', 'P', 'F', '1', 1, XP_F16, 0x03, 0x02, 0x01, 0x10, 0, 0, 0, 0, 0, 0,
                                      0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11 };

    cr_assert_arr_eq(frame, head, sizeof(head));
    cr_assert(frame[24] == PAYLOAD && frame[32] == 0x01 && frame[39] == 0x99);
}

Test(frame, every_flipped_bit_is_noticed)
{
    struct xp_frame_header h;
    const char *why;

    for (size_t bit = 0; bit < 8 * (XP_FRAME_HEADER + PAYLOAD); bit++) {
        frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
        why = NULL;
        cr_assert_eq(xp_frame_read(frame, XP_FRAME_HEADER + PAYLOAD, 1, &h, &why), XP_ERR_CORRUPT, "bit %zu", bit);
        cr_assert_not_null(why, "bit %zu", bit);
        frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

Test(frame, every_other_length_is_refused)
{
    struct xp_frame_header h;
    const char *why;

    for (size_t len = 0; len <= sizeof(frame); len++) {
        xp_status s = xp_frame_read(frame, len, 1, &h, &why);
        cr_assert_eq(s, len == XP_FRAME_HEADER + PAYLOAD ? XP_OK : XP_ERR_CORRUPT, "length %zu", len);
    }
}

/* A header that is consistent in itself but asks for what no frame has. */
Test(frame, impossible_values_are_refused_even_with_a_right_checksum)
{
    struct xp_frame_header h, bad[5];

    for (int i = 0; i < 5; i++)
        bad[i] = wrote;
    bad[0].version = 2;
    bad[1].dtype = 0;
    bad[2].dtype = 9;
    bad[3].dim = 0;
    bad[4].dim = XP_FRAME_MAX_DIM + 1;
    for (int i = 0; i < 5; i++) {
        xp_frame_write(frame, &bad[i]);
        cr_assert_eq(xp_frame_peek(frame, &h, NULL), XP_ERR_CORRUPT, "case %d", i);
    }
    make();
    frame[13] = 1; /* reserved */
    memset(frame + 56, 0, 8);
    uint64_t sum = xp_checksum(frame, 56);
    for (int i = 0; i < 8; i++)
        frame[56 + i] = (uint8_t)(sum >> 8 * i);
    cr_assert_eq(xp_frame_peek(frame, &h, NULL), XP_ERR_CORRUPT);
}

Test(frame, the_checksum_is_xxh3_64)
{
    /* Published test values of XXH3 with seed 0: the empty input. */
    cr_assert_eq(xp_checksum("", 0), 0x2d06800538d394c2u);
}

/* Pieces of random lengths, most of them final long before the end is known. */
Test(frame, a_running_checksum_is_that_of_the_whole)
{
    enum { MOST = 200000 };
    struct xp_running *run = xp_running_create();
    uint8_t *data = malloc(MOST);
    struct random rng = random_start("a_running_checksum");

    cr_assert(run && data);
    for (size_t i = 0; i < MOST; i++)
        data[i] = (uint8_t)random_bits(&rng);
    for (int round = 0; round < 200; round++) {
        const size_t len = random_below(&rng, round % 4 ? MOST : 1500), step = 1 + random_below(&rng, round % 2 ? 3000 : 60000);

        xp_running_start(run, data);
        for (size_t at = 0; at < len; at += step)
            xp_running_reach(run, data + at);
        if (round % 8 == 7)
            xp_running_drop(run);
        cr_assert_eq(xp_running_finish(run, data, len), xp_checksum(data, len), "round %d, %zu bytes", round, len);
    }
    free(data);
    xp_running_destroy(run);
}

/* What was summed is of other bytes, of more than are asked for, or has been asked for before. */
Test(frame, a_running_checksum_that_does_not_apply_is_taken_anew)
{
    static uint8_t data[100000];
    struct xp_running *run = xp_running_create();

    cr_assert(run);
    xp_running_start(run, data);
    xp_running_reach(run, data + 50000);
    cr_assert_eq(xp_running_finish(run, data + 1, 60000), xp_checksum(data + 1, 60000));
    cr_assert_eq(xp_running_finish(run, data, 40000), xp_checksum(data, 40000));
    cr_assert_eq(xp_running_finish(run, data, 60000), xp_checksum(data, 60000));
    data[7] = 1;
    cr_assert_eq(xp_running_finish(run, data, 60000), xp_checksum(data, 60000));
    xp_running_destroy(run);
}
