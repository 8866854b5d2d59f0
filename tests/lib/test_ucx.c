/*
 * test_ucx.c - what loading and using UCX does to the process around it: nothing
 *
 * What the transport owes as such is in tests/stress/transport_cases.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "config.h"
#include "lib/transport/transport.h"
#include "tests/harness/clock.h"
#include "tests/harness/wires.h"

extern char **environ;

static void need_ucx(void)
{
    char why[256] = "";

    if (!xp_transport_ucx.available(why, sizeof(why)))
        cr_skip_test("%s", why);
}

#if XP_HAVE_UCX
static void signal_table(struct sigaction *table)
{
    memset(table, 0, 65 * sizeof(*table));
    for (int s = 1; s < 65; s++)
        sigaction(s, NULL, &table[s]);
}

static char *environment(void)
{
    size_t n = 1, at = 0;
    char *text;

    for (char **e = environ; *e != NULL; e++)
        n += strlen(*e) + 1;
    text = malloc(n);
    for (char **e = environ; *e != NULL; e++)
        at += (size_t)snprintf(text + at, n - at, "%s\n", *e);
    return text;
}

static int ping(struct wire *w, void *arg)
{
    struct xp_op in, out;
    char word[8];

    w->ops->recv(w->t, 1 - w->rank, XP_LANE_BULK, 1, word, 8, &in);
    w->ops->send(w->t, 1 - w->rank, XP_LANE_BULK, 1, "12345678", 8, &out);
    if (wire_wait(w, &in, 10) != XP_OK || wire_wait(w, &out, 10) != XP_OK || memcmp(word, "12345678", 8) != 0)
        return wire_fail(w, "ping");
    return 0;
}

/* Signal handlers, environment, standard output: as before, after loading and after a job. */
Test(ucx, leaves_the_process_alone)
{
    struct sigaction before[65], after[65];
    char name[] = "/tmp/xp-ucx-out-XXXXXX", printed[256] = "";
    int out = mkstemp(name), keep = dup(1);

    setenv("UCX_DEBUG_SIGNO", "HUP", 1);
    char *env_before = environment();
    signal_table(before);
    dup2(out, 1);
    need_ucx();
    struct wires all = {&xp_transport_ucx, 2, 1, NULL, NULL};
    const char *failure = wires_run(&all, ping, NULL, 30);
    fflush(stdout);
    dup2(keep, 1);
    signal_table(after);
    char *env_after = environment();
    unlink(name);
    cr_assert_null(failure, "%s", failure);
    for (int s = 1; s < 65; s++) {
        if (s == 32 || s == 33) /* the C library's own */
            continue;
        cr_assert_eq(before[s].sa_handler, after[s].sa_handler, "signal %d", s);
        cr_assert_eq(before[s].sa_flags, after[s].sa_flags, "signal %d", s);
    }
    cr_assert_str_eq(env_before, env_after);
    free(env_before);
    free(env_after);
    cr_assert_eq(pread(out, printed, sizeof(printed) - 1, 0), 0, "printed: %s", printed);
}

/* In the place of the C library's, for UCX too. */
static _Atomic int waits, waits_for_several;

__attribute__((visibility("default"))) int epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
    if (timeout == 0) { /* UCX in its progress; its own thread and Criterion's wait longer */
        waits++;
        waits_for_several += maxevents > 1;
    }
    return epoll_pwait(epfd, events, maxevents, timeout, NULL);
}

/* Of two events taken together, the first may close the connection of the second: UCX then aborts the process. */
Test(ucx, events_are_taken_one_by_one)
{
    need_ucx();
    struct wires all = {&xp_transport_ucx, 2, 1, NULL, NULL};
    const char *failure = wires_run(&all, ping, NULL, 30);
    cr_assert_null(failure, "%s", failure);
    cr_assert_gt(waits, 0);
    cr_assert_eq(waits_for_several, 0, "%d of %d", waits_for_several, waits);
}

/* A user's own choice of transports is theirs: one that cannot work is an error that says so. */
Test(ucx, the_users_environment_wins)
{
    need_ucx();
    static const int node_of[2] = {0, 1};
    struct xp_transport_env e = {0, 2, node_of, 1, 1, NULL, 1, NULL, NULL};
    struct xp_transport *t = NULL;
    char address[XP_ADDRESS_MAX], err[256] = "";
    size_t len;

    setenv("UCX_TLS", "no_such_transport", 1);
    cr_assert_neq(xp_transport_ucx.open(&t, &e, address, &len, err, sizeof(err)), XP_OK);
    cr_assert_not_null(strstr(err, "ucx:"), "%s", err);
    setenv("UCX_TLS", "tcp,self", 1);
    cr_assert_eq(xp_transport_ucx.open(&t, &e, address, &len, err, sizeof(err)), XP_OK, "%s", err);
    cr_assert_leq(len, (size_t)XP_ADDRESS_MAX);
    xp_transport_ucx.close(t);
}

Test(ucx, an_interface_that_is_not_there_is_an_error)
{
    need_ucx();
    static const int node_of[2] = {0, 1};
    struct xp_transport_env e = {0, 2, node_of, 1, 1, "nosuch0", 1, NULL, NULL};
    struct xp_transport *t = NULL;
    char address[XP_ADDRESS_MAX], err[256] = "";
    size_t len;

    cr_assert_neq(xp_transport_ucx.open(&t, &e, address, &len, err, sizeof(err)), XP_OK);
    cr_assert_not_null(strstr(err, "nosuch0"), "%s", err);
}

/* An address of nobody: connecting fails or the operations do, within seconds, and nothing hangs. */
Test(ucx, a_peer_that_is_gone_ends_the_operations)
{
    need_ucx();
    static const int node_of[2] = {0, 1};
    struct xp_transport_env e = {0, 2, node_of, 1, 1, "lo", 1, NULL, NULL}, other = e;
    struct xp_transport *t, *gone;
    char address[2][XP_ADDRESS_MAX], err[256] = "", byte = 1;
    size_t len[2];
    struct xp_op op = {XP_ERR_REMOTE, 0, NULL, NULL};

    other.rank = 1;
    cr_assert_eq(xp_transport_ucx.open(&t, &e, address[0], &len[0], err, sizeof(err)), XP_OK, "%s", err);
    cr_assert_eq(xp_transport_ucx.open(&gone, &other, address[1], &len[1], err, sizeof(err)), XP_OK, "%s", err);
    xp_transport_ucx.close(gone);
    xp_status s = xp_transport_ucx.connect(t, 1, address[1], len[1], err, sizeof(err));
    if (s == XP_OK) {
        xp_transport_ucx.send(t, 1, XP_LANE_CTRL, 1, &byte, 1, &op);
        for (double end = clock_now() + 10; op.status == XP_IN_PROGRESS && clock_now() < end;)
            xp_transport_ucx.progress(t);
        s = op.status;
    }
    cr_assert_eq(s, XP_ERR_REMOTE, "%s", xp_status_string(s));
    xp_transport_ucx.close(t);
}

Test(ucx, addresses_that_are_none_are_refused)
{
    need_ucx();
    static const int node_of[2] = {0, 1};
    struct xp_transport_env e = {0, 2, node_of, 1, 1, "lo", 1, NULL, NULL};
    struct xp_transport *t;
    char address[XP_ADDRESS_MAX], err[256] = "";
    size_t len;

    cr_assert_eq(xp_transport_ucx.open(&t, &e, address, &len, err, sizeof(err)), XP_OK, "%s", err);
    cr_assert_eq(xp_transport_ucx.connect(t, 1, address, len - 1, err, sizeof(err)), XP_ERR_MISMATCH);
    cr_assert_eq(xp_transport_ucx.connect(t, 1, address, 3, err, sizeof(err)), XP_ERR_MISMATCH);
    cr_assert_not_null(strstr(err, "rank 1"));
    cr_assert_eq(xp_transport_ucx.connect(t, 0, address, len, err, sizeof(err)), XP_ERR_INVALID_ARG);
    xp_transport_ucx.close(t);
}
#else
Test(ucx, a_build_without_it_says_so)
{
    char why[256] = "";

    (void)need_ucx;
    cr_assert_eq(xp_transport_ucx.available(why, sizeof(why)), 0);
    cr_assert_str_eq(why, "UCX not in this build");
}
#endif
