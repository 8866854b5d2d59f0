/*
 * hostile_bootstrap.c - strangers at the door of rank 0 while 8 ranks start: they start, and hardly later
 *
 * Strangers: connect and close, connect and reset, silent, drop by drop, garbage, HTTP, the wrong secret, a replayed proof,
 * an honest head with a dishonest length. Also: two processes of the same rank, differing settings, a rank that never comes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sodium.h>

#include "lib/handshake.h"
#include "tests/harness/clock.h"
#include "tests/harness/procs.h"

#define RANKS 8

/* ------------------------------------------------------------------------------------------- the strangers */

static struct sockaddr_in door;

static int knock(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (struct sockaddr *)&door, sizeof(door)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void say(int fd, const void *bytes, size_t len)
{
    ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

    (void)n;
}

/* Reads the challenge that the root sends. 0: it did not come. */
static int hear_challenge(int fd, uint8_t nonce[XP_NONCE])
{
    uint8_t msg[XP_MSG_HEAD + XP_NONCE];

    if (recv(fd, msg, sizeof(msg), MSG_WAITALL) != (ssize_t)sizeof(msg))
        return 0;
    memcpy(nonce, msg + XP_MSG_HEAD, XP_NONCE);
    return 1;
}

static void come_and_go(void)
{
    for (int i = 0; i < 100; i++) {
        int fd = knock();
        if (fd >= 0)
            close(fd);
    }
}

static void come_and_reset(void)
{
    const struct linger abrupt = {1, 0};

    for (int i = 0; i < 100; i++) {
        int fd = knock();
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &abrupt, sizeof(abrupt));
        close(fd);
    }
}

static void stay_silent(void)
{
    for (int i = 0; i < 200; i++)
        knock(); /* the descriptors stay open until this process ends */
}

static void drip(void)
{
    uint8_t head[XP_MSG_HEAD];
    int fd = knock();

    xp_msg_head_write(head, XP_MSG_RESPONSE, 0, 200);
    for (size_t i = 0; i < sizeof(head) && fd >= 0; i++) {
        say(fd, head + i, 1);
        clock_nap(0.1);
    }
}

static void talk_garbage(void)
{
    static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    uint8_t noise[4096];

    for (int i = 0; i < 50; i++) {
        int fd = knock();
        if (fd < 0)
            continue;
        randombytes_buf(noise, sizeof(noise));
        say(fd, i % 2 ? (const void *)http : noise, i % 2 ? sizeof(http) - 1 : sizeof(noise));
        if (i % 3)
            close(fd);
    }
}

/* A head of ours that announces more than any answer may have. */
static void boast(void)
{
    uint8_t head[XP_MSG_HEAD];

    for (int i = 0; i < 20; i++) {
        int fd = knock();
        xp_msg_head_write(head, XP_MSG_RESPONSE, 0, i % 2 ? 0xffffffffu : XP_MSG_MAX);
        if (fd >= 0)
            say(fd, head, sizeof(head));
    }
}

static void guess_the_secret(void)
{
    struct xp_identity me = {.rank = 1, .size = RANKS};
    uint8_t root[XP_NONCE], leaf[XP_NONCE], msg[XP_RESPONSE_MAX];

    for (int i = 0; i < 50; i++) {
        int fd = knock();
        randombytes_buf(me.key, sizeof(me.key));
        randombytes_buf(leaf, sizeof(leaf));
        if (fd < 0)
            continue;
        if (hear_challenge(fd, root))
            say(fd, msg, xp_response_write(msg, &me, root, leaf));
        close(fd);
    }
}

/* What rank 1 said once, said again: the secret is right, the challenge is not. */
static void replay(const char *secret)
{
    struct xp_identity me = {.rank = 1, .size = RANKS};
    uint8_t root[XP_NONCE] = {7}, fresh[XP_NONCE], leaf[XP_NONCE] = {9}, msg[XP_RESPONSE_MAX];
    size_t len;

    xp_handshake_key(me.key, secret, strlen(secret));
    len = xp_response_write(msg, &me, root, leaf);
    for (int i = 0; i < 20; i++) {
        int fd = knock();
        if (fd < 0)
            continue;
        if (hear_challenge(fd, fresh))
            say(fd, msg, len);
        close(fd);
    }
}

static void besiege(const char *secret)
{
    come_and_go();
    stay_silent();
    come_and_reset();
    talk_garbage();
    boast();
    guess_the_secret();
    replay(secret);
    drip();
    clock_nap(20);
}

/* ----------------------------------------------------------------------------------------------- the ranks */

static double *ready_at; /* [PROCS_MAX], shared */
static int failed;

static void verdict(int ok, const char *what, double figure, const char *detail)
{
    printf("%s %s: %.0f ms%s%s\n", ok ? "ok  " : "FAIL", what, 1000 * figure, detail[0] ? ": " : "", detail);
    failed += !ok;
}

static int start_and_gather(int rank, void *arg)
{
    int all[PROCS_MAX];
    xp_comm *comm;

    (void)arg;
    if (rank != 0)
        clock_nap(0.3); /* the strangers have a head start */
    if (xp_comm_create(&comm, NULL, NULL) != XP_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, xp_last_error());
        return 1;
    }
    if (xp_comm_allgather(comm, &rank, all, sizeof(rank)) != XP_OK)
        return 2;
    for (int r = 0; r < xp_comm_size(comm); r++)
        if (all[r] != r)
            return 3;
    ready_at[rank] = clock_now();
    xp_comm_destroy(comm);
    return 0;
}

/* Seconds that a start of 8 ranks took, with or without strangers; < 0: it failed. */
static double timed_start(int hostile)
{
    struct procs p = {.n = RANKS};
    pid_t stranger = 0;
    double start = clock_now(), last = 0;
    int bad;

    if (procs_open(&p) != 0)
        return -1;
    if (hostile) {
        const char *colon = strchr(p.root, ':');
        door = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                    .sin_port = htons((uint16_t)atoi(colon + 1))};
        stranger = fork();
        if (stranger == 0) {
            close(p.listen_fd);
            besiege(p.secret);
            _exit(0);
        }
    }
    for (int r = 0; r < RANKS; r++)
        if (procs_start_rank(&p, r, start_and_gather, NULL) != 0)
            return -1;
    close(p.listen_fd);
    bad = procs_wait(&p, 30);
    if (stranger > 0) {
        kill(stranger, SIGKILL);
        waitpid(stranger, NULL, 0);
    }
    for (int r = 0; r < RANKS; r++)
        last = ready_at[r] > last ? ready_at[r] : last;
    return bad ? -1 : last - start;
}

/* Creates a comm that must fail with this status and a text that holds this part. */
struct refusal {
    xp_status status;
    const char *part;
    int odd_rank;         /* of this rank... */
    const char *name, *value; /* ...this variable is another */
};

static int expect_refusal(int rank, void *arg)
{
    const struct refusal *want = arg;
    xp_comm *comm;
    xp_status s;

    if (rank == want->odd_rank && want->name)
        setenv(want->name, want->value, 1);
    s = xp_comm_create(&comm, NULL, NULL);
    ready_at[rank] = clock_now();
    if (s == want->status && strstr(xp_last_error(), want->part))
        return 0;
    fprintf(stderr, "rank %d: %s: %s\n", rank, xp_status_string(s), s == XP_OK ? "" : xp_last_error());
    return 1;
}

/* All ranks of a start that cannot succeed must hear why within `limit`. Rank `absent` is not started. */
static void refused_start(const char *what, int n, int absent, struct refusal want, double limit)
{
    struct procs p = {.n = n};
    double start = clock_now(), last = 0;
    int bad;

    memset(ready_at, 0, PROCS_MAX * sizeof(*ready_at));
    if (procs_open(&p) != 0) {
        verdict(0, what, 0, "cannot listen");
        return;
    }
    for (int r = 0; r < n; r++)
        if (r != absent)
            procs_start_rank(&p, r, expect_refusal, &want);
    close(p.listen_fd);
    bad = procs_wait(&p, 20);
    for (int r = 0; r < n; r++)
        last = ready_at[r] > last ? ready_at[r] : last;
    verdict(!bad && last - start < limit, what, last - start, "");
}

int main(void)
{
    double calm, hostile;

    ready_at = mmap(NULL, PROCS_MAX * sizeof(*ready_at), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ready_at == MAP_FAILED || sodium_init() < 0)
        return 1;
    calm = timed_start(0);
    verdict(calm > 0, "8 ranks start undisturbed", calm, "");
    hostile = timed_start(1);
    verdict(hostile > 0 && hostile - calm < 1, "8 ranks start among strangers", hostile, "");

    setenv("CROSSPRESS_TIMEOUT", "2", 1);
    refused_start("a rank never comes", 4, 2, (struct refusal){XP_ERR_TIMEOUT, "rank 2", -1, NULL, NULL}, 3.5);
    refused_start("rank 1 of 2 never comes", 2, 1, (struct refusal){XP_ERR_TIMEOUT, "rank 1", -1, NULL, NULL}, 3.5);
    refused_start("rank 0 never comes", 3, 0, (struct refusal){XP_ERR_TIMEOUT, "rank 0", -1, NULL, NULL}, 3.5);
    refused_start("a setting differs", 3, -1,
                  (struct refusal){XP_ERR_MISMATCH, "CROSSPRESS_CHUNK", 2, "CROSSPRESS_CHUNK", "65536"}, 1);
    refused_start("the world size differs", 3, -1, (struct refusal){XP_ERR_MISMATCH, "of 4", 1, "CROSSPRESS_SIZE", "4"}, 1);
    refused_start("two processes say they are rank 1", 3, -1,
                  (struct refusal){XP_ERR_MISMATCH, "rank 1", 2, "CROSSPRESS_RANK", "1"}, 1);
    printf("%s\n", failed ? "failed" : "passed");
    return failed != 0;
}
