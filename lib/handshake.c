/*
 * handshake.c - proving to each other that both ends know the job's secret
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <sodium.h>
#include <stdio.h>

#include "lib/handshake.h"

/* The two directions sign different words, so that one side's proof can never be sent back to it. */
static const char leaf_word[] = "crosspress leaf", root_word[] = "crosspress root";

static void mac_of(uint8_t mac[XP_MAC], const uint8_t key[32], const char *word, const uint8_t nonce_root[XP_NONCE],
                   const uint8_t *rest, size_t rest_len)
{
    crypto_auth_hmacsha256_state state;

    crypto_auth_hmacsha256_init(&state, key, 32);
    crypto_auth_hmacsha256_update(&state, (const uint8_t *)word, strlen(word));
    crypto_auth_hmacsha256_update(&state, nonce_root, XP_NONCE);
    crypto_auth_hmacsha256_update(&state, rest, rest_len);
    crypto_auth_hmacsha256_final(&state, mac);
}

void xp_handshake_key(uint8_t key[32], const void *secret, size_t len)
{
    crypto_hash_sha256(key, secret, len);
}

void xp_handshake_nonce(uint8_t nonce[XP_NONCE])
{
    randombytes_buf(nonce, XP_NONCE);
}

size_t xp_challenge_write(uint8_t *out, const uint8_t nonce[XP_NONCE])
{
    xp_msg_head_write(out, XP_MSG_CHALLENGE, 0, XP_NONCE);
    memcpy(out + XP_MSG_HEAD, nonce, XP_NONCE);
    return XP_MSG_HEAD + XP_NONCE;
}

/* Body: nonce 32, rank 4, size 4, job 8, settings (rest), mac 32. */
#define SETTINGS_AT (XP_NONCE + 4 + 4 + 8)

size_t xp_response_write(uint8_t *out, const struct xp_identity *me, const uint8_t nonce_root[XP_NONCE],
                         const uint8_t nonce_leaf[XP_NONCE])
{
    uint8_t *body = out + XP_MSG_HEAD;
    size_t settings = strlen(me->settings);
    size_t signed_len = SETTINGS_AT + settings;

    memcpy(body, nonce_leaf, XP_NONCE);
    xp_put32(body + XP_NONCE, (uint32_t)me->rank);
    xp_put32(body + XP_NONCE + 4, (uint32_t)me->size);
    xp_put64(body + XP_NONCE + 8, me->job);
    memcpy(body + SETTINGS_AT, me->settings, settings);
    mac_of(body + signed_len, me->key, leaf_word, nonce_root, body, signed_len);
    xp_msg_head_write(out, XP_MSG_RESPONSE, 0, (uint32_t)(signed_len + XP_MAC));
    return XP_MSG_HEAD + signed_len + XP_MAC;
}

int xp_response_read(const uint8_t *body, size_t len, const uint8_t key[32], const uint8_t nonce_root[XP_NONCE],
                     struct xp_response *out)
{
    uint8_t mac[XP_MAC];
    size_t settings;

    if (len < SETTINGS_AT + XP_MAC || len - SETTINGS_AT - XP_MAC >= XP_SETTINGS_MAX)
        return 0;
    settings = len - SETTINGS_AT - XP_MAC;
    mac_of(mac, key, leaf_word, nonce_root, body, len - XP_MAC);
    if (sodium_memcmp(mac, body + len - XP_MAC, XP_MAC) != 0)
        return 0;
    memset(out, 0, sizeof(*out));
    memcpy(out->nonce, body, XP_NONCE);
    out->rank = xp_get32(body + XP_NONCE);
    out->size = xp_get32(body + XP_NONCE + 4);
    out->job = xp_get64(body + XP_NONCE + 8);
    memcpy(out->settings, body + SETTINGS_AT, settings);
    return 1;
}

static void welcome_mac(uint8_t mac[XP_MAC], const uint8_t key[32], const uint8_t nonce_root[XP_NONCE],
                        const uint8_t nonce_leaf[XP_NONCE], uint32_t rank)
{
    uint8_t rest[XP_NONCE + 4];

    memcpy(rest, nonce_leaf, XP_NONCE);
    xp_put32(rest + XP_NONCE, rank);
    mac_of(mac, key, root_word, nonce_root, rest, sizeof(rest));
}

size_t xp_welcome_write(uint8_t *out, const uint8_t key[32], const uint8_t nonce_root[XP_NONCE],
                        const uint8_t nonce_leaf[XP_NONCE], uint32_t rank)
{
    xp_msg_head_write(out, XP_MSG_WELCOME, 0, XP_MAC);
    welcome_mac(out + XP_MSG_HEAD, key, nonce_root, nonce_leaf, rank);
    return XP_MSG_HEAD + XP_MAC;
}

int xp_welcome_read(const uint8_t *body, size_t len, const uint8_t key[32], const uint8_t nonce_root[XP_NONCE],
                    const uint8_t nonce_leaf[XP_NONCE], uint32_t rank)
{
    uint8_t mac[XP_MAC];

    if (len != XP_MAC)
        return 0;
    welcome_mac(mac, key, nonce_root, nonce_leaf, rank);
    return sodium_memcmp(mac, body, XP_MAC) == 0;
}

int xp_settings_differ(const char *theirs, const char *mine, char *text, size_t size)
{
    while (*theirs || *mine) {
        size_t nt = strcspn(theirs, "\n"), nm = strcspn(mine, "\n");

        if (nt != nm || memcmp(theirs, mine, nt) != 0) {
            snprintf(text, size, "%.*s there, %.*s here", nt > 0 ? (int)nt : 7, nt > 0 ? theirs : "nothing",
                     nm > 0 ? (int)nm : 7, nm > 0 ? mine : "nothing");
            return 1;
        }
        theirs += nt + (theirs[nt] == '\n');
        mine += nm + (mine[nm] == '\n');
    }
    return 0;
}
