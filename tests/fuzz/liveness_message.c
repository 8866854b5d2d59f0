/*
 * liveness_message.c - fuzz target: bytes on the sockets of the start-up and of the liveness network
 *
 * The first byte chooses who reads: the parsers of the start-up, or the liveness thread of rank 0 or of rank 1 of a pair, with or
 * without a gather under way. Whatever comes, the thread ends, the gather ends with a status, and nothing is written past its
 * buffer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/comm.h"
#include "lib/handshake.h"
#include "lib/liveness.h"
#include "tests/fuzz/fuzz.h"

#define CANARY 0x5a
#define LEN 8u

static void read_start_up(const uint8_t *data, size_t size)
{
    static const uint8_t key[32] = {1}, nonce[XP_NONCE] = {2};
    struct xp_response r;
    struct xp_msg_head h;
    char text[64];

    if (size >= XP_MSG_HEAD && xp_msg_head_read(data, 4096, &h))
        fuzz_require(h.len <= 4096, "length %u", h.len);
    fuzz_require(!xp_response_read(data, size, key, nonce, &r), "a proof without the secret");
    fuzz_require(!xp_welcome_read(data, size, key, nonce, nonce, 1), "a proof without the secret");
    xp_msg_text(text, sizeof(text), data, size);
    fuzz_require(strlen(text) < sizeof(text), "text");
}

static void check_gather(struct xp_liveness *l)
{
    uint8_t out[2 * LEN + 16], in[LEN] = {3};
    char err[XP_BAD_NEWS_MAX] = "";
    xp_status s;

    memset(out, CANARY, sizeof(out));
    s = xp_liveness_gather(l, "fuzz", in, out, LEN, 0.2, err, sizeof(err));
    fuzz_require(s <= 0, "status %d", s);
    fuzz_require(s == XP_OK || err[0], "an error without a text");
    for (size_t i = 2 * LEN; i < sizeof(out); i++)
        fuzz_require(out[i] == CANARY, "byte %zu behind the buffer", i - 2 * LEN);
}

/* The peer says these bytes and hangs up. */
static void read_liveness(int rank, int gather, const uint8_t *data, size_t size)
{
    struct xp_bootstrap_net net = {.rank = rank, .size = 2};
    struct xp_liveness *l;
    int pair[2];
    size_t at = 0;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0 || !(net.fds = malloc(2 * sizeof(int))))
        abort();
    net.fds[0] = rank == 0 ? -1 : pair[0];
    net.fds[1] = pair[0];
    if (xp_liveness_start(&l, &net, 1.0) != XP_OK)
        abort();
    while (at < size) {
        ssize_t n = send(pair[1], data + at, size - at, MSG_NOSIGNAL);
        if (n <= 0)
            break; /* the reader has had enough */
        at += (size_t)n;
    }
    shutdown(pair[1], SHUT_WR);
    if (gather)
        check_gather(l);
    xp_liveness_stop(l);
    close(pair[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] % 5 == 0)
        read_start_up(data + 1, size - 1);
    else
        read_liveness((data[0] % 5 - 1) % 2, data[0] % 5 > 2, data + 1, size - 1);
    return 0;
}

static size_t put(uint8_t *out, size_t at, enum xp_msg_type type, uint32_t word, const void *body, uint32_t len)
{
    xp_msg_head_write(out + at, type, word, len);
    memcpy(out + at + XP_MSG_HEAD, body, len);
    return at + XP_MSG_HEAD + len;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room)
{
    static const uint8_t body[32] = {0};
    uint8_t piece[24] = {0};
    size_t n = 1;

    if (i >= 10 || room < 256)
        return 0;
    out[0] = (uint8_t)(i % 5);
    if (i >= 5) { /* one of each message, in an order that could happen */
        n = put(out, n, XP_MSG_HEARTBEAT, 0, body, 0);
        n = put(out, n, XP_MSG_GATHER, 0, body, LEN);
        n = put(out, n, XP_MSG_LATE, 0, body, 12);
        return put(out, n, XP_MSG_GOODBYE, 0, body, 0);
    }
    n = put(out, n, XP_MSG_LEFT, 1, body, 0);
    n = put(out, n, XP_MSG_GATHERED, 0, piece, 8 + LEN);
    xp_put64(piece, LEN);
    n = put(out, n, XP_MSG_GATHERED, 0, piece, 8 + LEN);
    n = put(out, n, XP_MSG_GATHER_FAILED, 1, body, 9);
    return put(out, n, XP_MSG_REVOKE, (uint32_t)XP_ERR_REMOTE, body, 12);
}
