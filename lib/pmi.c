/*
 * pmi.c - an allgather through the PMI-1 server of MPICH's launchers
 *
 * PMI-1 is lines of "key=value" on an inherited socket: init once, then put, barrier_in, get. The values are hexadecimal.
 * A program that also calls MPI_Init talks to the same server; it should pass MPI's allgather to xp_comm_create instead.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "crosspress/crosspress.h"
#include "lib/comm.h"
#include "lib/fork.h"
#include "lib/pmi.h"
#include "lib/socket.h"

#define LINE_MAX_LEN 2048

/* The server's socket is the process's, and so is the state of the conversation. */
static pthread_mutex_t talking = PTHREAD_MUTEX_INITIALIZER;
static int initialised;
static int server_fd;
static unsigned rounds;
static char kvs_name[256];

static int fail(struct xp_pmi *pmi, xp_status s, const char *what)
{
    snprintf(pmi->err, sizeof(pmi->err), "start-up: PMI server: %s", what);
    return s;
}

/* One line, byte by byte: nothing of a later line may be taken from the socket, which others may read too. */
static int read_line(struct xp_pmi *pmi, char *line, size_t size)
{
    size_t n = 0;

    while (n + 1 < size) {
        ssize_t got;
        int w = xp_socket_wait(pmi->fd, 1 /* POLLIN */, pmi->deadline);

        if (w == 0)
            return fail(pmi, XP_ERR_TIMEOUT, "no answer before the deadline (ranks missing?)");
        got = w < 0 ? -1 : read(pmi->fd, line + n, 1);
        if (got < 0 && w > 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got <= 0)
            return fail(pmi, XP_ERR_SYSTEM, "the connection is closed");
        if (line[n] == '\n') {
            line[n] = '\0';
            return 0;
        }
        n++;
    }
    return fail(pmi, XP_ERR_SYSTEM, "a line too long");
}

/* Sends a line and reads the answer, which must be of the given command. */
static int ask(struct xp_pmi *pmi, char *answer, const char *command, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static int ask(struct xp_pmi *pmi, char *answer, const char *command, const char *fmt, ...)
{
    char line[LINE_MAX_LEN], expected[64];
    va_list args;
    size_t len, at = 0;
    int e;

    va_start(args, fmt);
    len = (size_t)vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    while (at < len) {
        ssize_t n = send(pmi->fd, line + at, len - at, MSG_NOSIGNAL);
        if (n < 0 && errno == ENOTSOCK)
            n = write(pmi->fd, line + at, len - at);
        if (n < 0 && errno != EINTR)
            return fail(pmi, XP_ERR_SYSTEM, strerror(errno));
        at += n > 0 ? (size_t)n : 0;
    }
    e = read_line(pmi, answer, LINE_MAX_LEN);
    if (e != 0)
        return e;
    snprintf(expected, sizeof(expected), "cmd=%s", command);
    if (strncmp(answer, expected, strlen(expected)) != 0 || (strstr(answer, "rc=") && !strstr(answer, "rc=0")))
        return fail(pmi, XP_ERR_SYSTEM, answer);
    return 0;
}

static int initialise(struct xp_pmi *pmi)
{
    char answer[LINE_MAX_LEN];
    const char *name;
    int e;

    if (initialised)
        return 0;
    e = ask(pmi, answer, "response_to_init", "cmd=init pmi_version=1 pmi_subversion=1\n");
    if (e == 0)
        e = ask(pmi, answer, "my_kvsname", "cmd=get_my_kvsname\n");
    if (e != 0)
        return e;
    name = strstr(answer, "kvsname=");
    if (!name || strlen(name + 8) >= sizeof(kvs_name))
        return fail(pmi, XP_ERR_SYSTEM, "no key-value space");
    snprintf(kvs_name, sizeof(kvs_name), "%s", name + 8);
    kvs_name[strcspn(kvs_name, " ")] = '\0';
    server_fd = pmi->fd;
    initialised = 1;
    return 0;
}

/* A process that has said init and ends without finalize counts as crashed, and the launcher kills the others. It can be said once
 * only, and later comms still need the server; hence at the end of the process. */
__attribute__((destructor)) static void finalise(void)
{
    struct xp_pmi pmi = {.fd = server_fd, .deadline = xp_now() + 1};
    char answer[LINE_MAX_LEN];

    if (initialised && xp_fork_count() == 0)
        ask(&pmi, answer, "finalize_ack", "cmd=finalize\n");
}

static void to_hex(char *out, const uint8_t *in, size_t len)
{
    for (size_t i = 0; i < len; i++)
        snprintf(out + 2 * i, 3, "%02x", in[i]);
}

static int from_hex(uint8_t *out, const char *in, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned v;
        if (sscanf(in + 2 * i, "%2x", &v) != 1)
            return 0;
        out[i] = (uint8_t)v;
    }
    return 1;
}

static int exchange(struct xp_pmi *pmi, const void *in, uint8_t *out, size_t len)
{
    char answer[LINE_MAX_LEN], hex[2 * XP_PMI_MAX + 1];
    int e = initialise(pmi);

    to_hex(hex, in, len);
    if (e == 0)
        e = ask(pmi, answer, "put_result", "cmd=put kvsname=%s key=crosspress-%u-%d value=%s\n", kvs_name, rounds, pmi->rank,
                hex);
    if (e == 0)
        e = ask(pmi, answer, "barrier_out", "cmd=barrier_in\n");
    for (int r = 0; r < pmi->size && e == 0; r++) {
        const char *value;

        e = ask(pmi, answer, "get_result", "cmd=get kvsname=%s key=crosspress-%u-%d\n", kvs_name, rounds, r);
        value = e == 0 ? strstr(answer, "value=") : NULL;
        if (e == 0 && (!value || strlen(value + 6) < 2 * len || !from_hex(out + (size_t)r * len, value + 6, len)))
            e = fail(pmi, XP_ERR_SYSTEM, "a value that is not ours");
    }
    rounds++;
    return e;
}

int xp_pmi_allgather(void *user, const void *in, void *out, size_t len)
{
    struct xp_pmi *pmi = user;
    int e;

    if (len > XP_PMI_MAX)
        return fail(pmi, XP_ERR_INTERNAL, "record too long");
    pthread_mutex_lock(&talking);
    e = exchange(pmi, in, out, len);
    pthread_mutex_unlock(&talking);
    return e;
}
