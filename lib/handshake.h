/*
 * handshake.h - proving to each other that both ends know the job's secret
 *
 *     root -> leaf   CHALLENGE  nonce_r
 *     leaf -> root   RESPONSE   nonce_l, rank, size, job, settings, mac over all of it and nonce_r
 *     root -> leaf   WELCOME    mac over both nonces and the rank
 *
 * The macs are HMAC-SHA256 under a key made from the secret. A recorded RESPONSE is worthless: the next challenge differs.
 * The settings text travels inside the mac, so that a difference is named by an authenticated peer only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HANDSHAKE_H
#define XP_HANDSHAKE_H

#include "lib/message.h"

#define XP_NONCE 32u
#define XP_MAC 32u
#define XP_SETTINGS_MAX 640u
#define XP_RESPONSE_MAX (XP_MSG_HEAD + XP_NONCE + 4 + 4 + 8 + XP_SETTINGS_MAX + XP_MAC)

struct xp_identity {
    uint8_t key[32];
    int rank, size;
    uint64_t job;                   /* of the launcher's job, so that ranks of an earlier one are told apart */
    char settings[XP_SETTINGS_MAX]; /* lines "name value" that must be equal on all ranks */
};

/* What an authentic RESPONSE said. */
struct xp_response {
    uint8_t nonce[XP_NONCE];
    uint32_t rank, size;
    uint64_t job;
    char settings[XP_SETTINGS_MAX];
};

void xp_handshake_key(uint8_t key[32], const void *secret, size_t len);
void xp_handshake_nonce(uint8_t nonce[XP_NONCE]);

/* Each writes a whole message and returns its length. */
size_t xp_challenge_write(uint8_t *out, const uint8_t nonce[XP_NONCE]);
size_t xp_response_write(uint8_t *out, const struct xp_identity *me, const uint8_t nonce_root[XP_NONCE],
                         const uint8_t nonce_leaf[XP_NONCE]);
size_t xp_welcome_write(uint8_t *out, const uint8_t key[32], const uint8_t nonce_root[XP_NONCE],
                        const uint8_t nonce_leaf[XP_NONCE], uint32_t rank);

/* Each reads the body of a message whose head has been checked; 0 when it is malformed or the proof is wrong. */
int xp_response_read(const uint8_t *body, size_t len, const uint8_t key[32], const uint8_t nonce_root[XP_NONCE],
                     struct xp_response *out);
int xp_welcome_read(const uint8_t *body, size_t len, const uint8_t key[32], const uint8_t nonce_root[XP_NONCE],
                    const uint8_t nonce_leaf[XP_NONCE], uint32_t rank);

/* First line in which two settings texts differ, as "name value, but name value here"; 0 when they are equal. */
int xp_settings_differ(const char *theirs, const char *mine, char *text, size_t size);

#endif
