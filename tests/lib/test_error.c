/*
 * test_error.c - texts of errors, and where log lines go
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/comm.h"

struct lines {
    int n;
    xp_log_level level[16];
    char text[16][128];
};

static void collect(void *user, xp_log_level level, const char *text)
{
    struct lines *l = user;

    l->level[l->n] = level;
    snprintf(l->text[l->n++], sizeof(l->text[0]), "%s", text);
}

Test(error, text_and_status)
{
    struct xp_comm c = {.rank = 1};

    cr_assert_eq(xp_error(&c, XP_ERR_MISMATCH, "rank %d sends %d rows", 3, 17), XP_ERR_MISMATCH);
    cr_assert_str_eq(xp_comm_last_error(&c), "rank 3 sends 17 rows");
    cr_assert_str_eq(xp_last_error(), "rank 3 sends 17 rows");
    cr_assert_eq(xp_error(NULL, XP_ERR_STATE, "elsewhere"), XP_ERR_STATE);
    cr_assert_str_eq(xp_comm_last_error(&c), "rank 3 sends 17 rows", "another call changed the comm's text");
    cr_assert_str_eq(xp_last_error(), "elsewhere");
}

Test(error, no_error_is_an_empty_text)
{
    struct xp_comm c = {.rank = 1};

    cr_assert_str_eq(xp_comm_last_error(&c), "");
    cr_assert_str_eq(xp_last_error(), "");
    cr_assert_str_eq(xp_comm_last_error(NULL), "");
}

Test(error, may_quote_the_text_it_replaces)
{
    struct xp_comm c = {.rank = 0};

    xp_error(&c, XP_ERR_REMOTE, "rank 3 is gone");
    xp_error(&c, XP_ERR_REMOTE, "alltoallv: %s", c.error);
    cr_assert_str_eq(xp_comm_last_error(&c), "alltoallv: rank 3 is gone");
}

Test(error, a_long_text_is_cut)
{
    struct xp_comm c = {.rank = 0};
    char text[2000];

    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    xp_error(&c, XP_ERR_REMOTE, "%s", text);
    cr_assert_eq(strlen(c.error), sizeof(c.error) - 1);
}

static void *other_thread(void *arg)
{
    xp_error(NULL, XP_ERR_STATE, "the other thread's");
    return NULL;
}

Test(error, threads_have_their_own_text)
{
    pthread_t t;

    xp_error(NULL, XP_ERR_STATE, "mine");
    cr_assert_eq(pthread_create(&t, NULL, other_thread, NULL), 0);
    pthread_join(t, NULL);
    cr_assert_str_eq(xp_last_error(), "mine");
}

Test(error, every_status_has_a_text)
{
    const xp_status all[] = {XP_OK, XP_IN_PROGRESS, XP_ERR_INVALID_ARG, XP_ERR_STATE, XP_ERR_UNSUPPORTED, XP_ERR_NO_MEMORY,
                             XP_ERR_SYSTEM, XP_ERR_TIMEOUT, XP_ERR_REMOTE, XP_ERR_MISMATCH, XP_ERR_CORRUPT, XP_ERR_INTERNAL};
    const int n = (int)(sizeof(all) / sizeof(all[0]));

    for (int i = 0; i < n; i++) {
        cr_assert_str_neq(xp_status_string(all[i]), "unknown status", "%d", all[i]);
        for (int j = 0; j < i; j++)
            cr_assert_str_neq(xp_status_string(all[i]), xp_status_string(all[j]), "%d and %d", all[i], all[j]);
    }
    cr_assert_str_eq(xp_status_string((xp_status)-99), "unknown status");
}

Test(log, a_function_gets_all_but_debug_lines)
{
    struct lines l = {0};
    struct xp_comm c = {.log = collect, .log_user = &l};

    for (int level = XP_LOG_ERROR; level <= XP_LOG_DEBUG; level++)
        xp_log(&c, (xp_log_level)level, "level %d", level);
    cr_assert_eq(l.n, 3);
    cr_assert_str_eq(l.text[2], "level 3");
    c.params.log = XP_LOG_DEBUG;
    xp_log(&c, XP_LOG_DEBUG, "wanted");
    cr_assert_eq(l.n, 4);
    cr_assert_eq(l.level[3], XP_LOG_DEBUG);
}

Test(log, an_error_is_logged_once)
{
    struct lines l = {0};
    struct xp_comm c = {.log = collect, .log_user = &l};

    xp_error(&c, XP_ERR_REMOTE, "rank 2 is gone");
    cr_assert_eq(l.n, 1);
    cr_assert_eq(l.level[0], XP_LOG_ERROR);
    cr_assert_str_eq(l.text[0], "rank 2 is gone");
}

/* What a call wrote to stderr. */
static void captured(char *out, size_t size, struct xp_comm *c, xp_log_level level)
{
    FILE *f = tmpfile();
    int keep = dup(2);
    size_t n;

    cr_assert(f && keep >= 0);
    fflush(stderr);
    dup2(fileno(f), 2);
    xp_log(c, level, "hello");
    fflush(stderr);
    dup2(keep, 2);
    close(keep);
    rewind(f);
    n = fread(out, 1, size - 1, f);
    out[n] = '\0';
    fclose(f);
}

Test(log, stderr_only_when_asked)
{
    struct xp_comm c = {.rank = 5};
    char text[128];

    captured(text, sizeof(text), &c, XP_LOG_ERROR);
    cr_assert_str_eq(text, "", "printed unasked: %s", text);
    c.params.log = XP_LOG_WARN;
    captured(text, sizeof(text), &c, XP_LOG_INFO);
    cr_assert_str_eq(text, "");
    captured(text, sizeof(text), &c, XP_LOG_WARN);
    cr_assert_str_eq(text, "crosspress warn: rank 5: hello\n");
}
