/*
 * test_handshake.c - the proofs of the start-up: accepted as written, refused with any bit changed
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <sodium.h>
#include <string.h>

#include "lib/handshake.h"
#include "tests/harness/random.h"

static struct xp_identity me;
static uint8_t nonce_root[XP_NONCE], nonce_leaf[XP_NONCE];

static void make_identity(void)
{
    cr_assert(sodium_init() >= 0);
    memset(&me, 0, sizeof(me));
    xp_handshake_key(me.key, "0123456789abcdef", 16);
    me.rank = 3;
    me.size = 8;
    me.job = 0x1122334455667788ull;
    strcpy(me.settings, "version 0.1.0\nCROSSPRESS_CHUNK 65536\n");
    xp_handshake_nonce(nonce_root);
    xp_handshake_nonce(nonce_leaf);
}

TestSuite(handshake, .init = make_identity);

Test(handshake, response_round_trip)
{
    uint8_t msg[XP_RESPONSE_MAX];
    size_t len = xp_response_write(msg, &me, nonce_root, nonce_leaf);
    struct xp_msg_head h;
    struct xp_response r;

    cr_assert(xp_msg_head_read(msg, XP_RESPONSE_MAX - XP_MSG_HEAD, &h));
    cr_assert_eq(h.type, XP_MSG_RESPONSE);
    cr_assert_eq(h.len + XP_MSG_HEAD, len);
    cr_assert(xp_response_read(msg + XP_MSG_HEAD, h.len, me.key, nonce_root, &r));
    cr_assert_eq(r.rank, 3);
    cr_assert_eq(r.size, 8);
    cr_assert_eq(r.job, me.job);
    cr_assert_str_eq(r.settings, me.settings);
    cr_assert_arr_eq(r.nonce, nonce_leaf, XP_NONCE);
}

Test(handshake, every_flipped_bit_is_refused)
{
    uint8_t msg[XP_RESPONSE_MAX];
    size_t len = xp_response_write(msg, &me, nonce_root, nonce_leaf);
    struct xp_response r;

    for (size_t i = XP_MSG_HEAD; i < len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            msg[i] ^= (uint8_t)(1 << bit);
            cr_assert(!xp_response_read(msg + XP_MSG_HEAD, len - XP_MSG_HEAD, me.key, nonce_root, &r), "byte %zu bit %d", i, bit);
            msg[i] ^= (uint8_t)(1 << bit);
        }
    }
}

Test(handshake, every_other_length_is_refused)
{
    uint8_t msg[2 * XP_RESPONSE_MAX] = {0};
    size_t len = xp_response_write(msg, &me, nonce_root, nonce_leaf) - XP_MSG_HEAD;
    struct xp_response r;

    for (size_t n = 0; n < XP_RESPONSE_MAX + 100; n++)
        if (n != len)
            cr_assert(!xp_response_read(msg + XP_MSG_HEAD, n, me.key, nonce_root, &r), "%zu bytes instead of %zu", n, len);
}

Test(handshake, a_replay_fails_the_next_challenge)
{
    uint8_t msg[XP_RESPONSE_MAX], next[XP_NONCE];
    size_t len = xp_response_write(msg, &me, nonce_root, nonce_leaf);
    struct xp_response r;

    xp_handshake_nonce(next);
    cr_assert(memcmp(next, nonce_root, XP_NONCE) != 0);
    cr_assert(!xp_response_read(msg + XP_MSG_HEAD, len - XP_MSG_HEAD, me.key, next, &r));
}

Test(handshake, another_secret_is_refused)
{
    uint8_t msg[XP_RESPONSE_MAX], key[32];
    size_t len = xp_response_write(msg, &me, nonce_root, nonce_leaf);
    struct xp_response r;

    xp_handshake_key(key, "0123456789abcdeF", 16);
    cr_assert(!xp_response_read(msg + XP_MSG_HEAD, len - XP_MSG_HEAD, key, nonce_root, &r));
}

Test(handshake, welcome_proves_the_root)
{
    uint8_t msg[XP_MSG_HEAD + XP_MAC], other[32];
    size_t len = xp_welcome_write(msg, me.key, nonce_root, nonce_leaf, 3);
    const uint8_t *body = msg + XP_MSG_HEAD;

    cr_assert_eq(len, sizeof(msg));
    cr_assert(xp_welcome_read(body, XP_MAC, me.key, nonce_root, nonce_leaf, 3));
    cr_assert(!xp_welcome_read(body, XP_MAC, me.key, nonce_root, nonce_leaf, 4), "another rank's welcome");
    cr_assert(!xp_welcome_read(body, XP_MAC, me.key, nonce_leaf, nonce_root, 3));
    cr_assert(!xp_welcome_read(body, XP_MAC - 1, me.key, nonce_root, nonce_leaf, 3));
    memset(other, 1, sizeof(other));
    cr_assert(!xp_welcome_read(body, XP_MAC, other, nonce_root, nonce_leaf, 3));
}

Test(handshake, a_proof_is_not_the_other_sides_proof)
{
    uint8_t response[XP_RESPONSE_MAX];
    size_t len = xp_response_write(response, &me, nonce_root, nonce_leaf);

    /* A root that knows nothing sends the leaf's own mac back. */
    cr_assert(!xp_welcome_read(response + len - XP_MAC, XP_MAC, me.key, nonce_root, nonce_leaf, 3));
}

Test(handshake, random_bytes_are_refused)
{
    struct random rnd = random_start("handshake");
    uint8_t body[XP_RESPONSE_MAX];
    struct xp_response r;

    for (int i = 0; i < 20000; i++) {
        size_t len = random_below(&rnd, sizeof(body) + 1);
        for (size_t j = 0; j < len; j++)
            body[j] = (uint8_t)random_bits(&rnd);
        cr_assert(!xp_response_read(body, len, me.key, nonce_root, &r));
    }
}

Test(handshake, heads)
{
    uint8_t head[XP_MSG_HEAD];
    struct xp_msg_head h;

    xp_msg_head_write(head, XP_MSG_GATHER, 0xdeadbeef, 1000);
    cr_assert(xp_msg_head_read(head, 1000, &h));
    cr_assert(h.type == XP_MSG_GATHER && h.word == 0xdeadbeef && h.len == 1000);
    cr_assert(!xp_msg_head_read(head, 999, &h), "longer than allowed");
    for (size_t i = 0; i < 4; i++) {
        head[i] ^= 1;
        cr_assert(!xp_msg_head_read(head, 1000, &h), "magic byte %zu", i);
        head[i] ^= 1;
    }
    head[6] = 1;
    cr_assert(!xp_msg_head_read(head, 1000, &h), "the zero bytes are not zero");
}

Test(handshake, settings_are_compared_line_by_line)
{
    char text[128];

    cr_assert(!xp_settings_differ("a 1\nb 2\n", "a 1\nb 2\n", text, sizeof(text)));
    cr_assert(!xp_settings_differ("", "", text, sizeof(text)));
    cr_assert(xp_settings_differ("a 1\nb 3\n", "a 1\nb 2\n", text, sizeof(text)));
    cr_assert_str_eq(text, "b 3 there, b 2 here");
    cr_assert(xp_settings_differ("a 1\n", "a 1\nb 2\n", text, sizeof(text)));
    cr_assert_str_eq(text, "nothing there, b 2 here");
    cr_assert(xp_settings_differ("a 1\nb", "a 1", text, sizeof(text)));
}
