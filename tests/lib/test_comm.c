/*
 * test_comm.c - communicators of threads, of a callback and of processes; arguments, misuse, messages
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/comm.h"
#include "tests/harness/expect.h"
#include "tests/harness/procs.h"
#include "tests/harness/ranks.h"

#define PASS(r) \
    do { \
        for (int i_ = 0; i_ < (r).n; i_++) \
            cr_assert_eq((r).status[i_], XP_OK, "rank %d of %d: %s: %s", i_, (r).n, xp_status_string((r).status[i_]), (r).error[i_]); \
    } while (0)

/* ------------------------------------------------------------------------------------------------ arguments */

Test(comm, arguments)
{
    xp_comm *c = (xp_comm *)&c;
    xp_bootstrap boot;
    xp_config cfg;

    cr_assert_eq(xp_comm_create(NULL, NULL, NULL), XP_ERR_INVALID_ARG);
    memset(&boot, 0, sizeof(boot));
    cr_assert_eq(xp_comm_create(&c, &boot, NULL), XP_ERR_INVALID_ARG, "a struct without size");
    cr_assert(strstr(xp_last_error(), "xp_bootstrap_init"), "%s", xp_last_error());
    xp_config_init(&cfg);
    cfg.transport = "carrier pigeon";
    cr_assert_eq(xp_comm_create(&c, NULL, &cfg), XP_ERR_INVALID_ARG);
    cr_assert(strstr(xp_last_error(), "carrier pigeon"), "%s", xp_last_error());
    xp_config_init(&cfg);
    cfg.timeout_s = -1;
    cr_assert_eq(xp_comm_create(&c, NULL, &cfg), XP_ERR_INVALID_ARG);
    setenv("CROSSPRESS_TIMEOUT", "soon", 1);
    cr_assert_eq(xp_comm_create(&c, NULL, NULL), XP_ERR_INVALID_ARG);
    cr_assert(strstr(xp_last_error(), "CROSSPRESS_TIMEOUT"), "%s", xp_last_error());
    cr_assert_eq(c, (xp_comm *)&c, "an output was written by a call that failed");
}

Test(comm, null_is_answered)
{
    xp_comm_destroy(NULL);
    xp_thread_group_destroy(NULL);
    xp_config_init(NULL);
    xp_bootstrap_init(NULL);
    cr_assert_eq(xp_comm_barrier(NULL), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_comm_allgather(NULL, NULL, NULL, 0), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_comm_rank(NULL), -1);
    cr_assert_eq(xp_comm_size(NULL), 0);
    cr_assert_eq(xp_comm_node_of(NULL, 0), -1);
    cr_assert_eq(xp_thread_group_create(NULL, 2), XP_ERR_INVALID_ARG);
    xp_thread_group *g;
    cr_assert_eq(xp_thread_group_create(&g, 0), XP_ERR_INVALID_ARG);
}

Test(comm, no_launcher)
{
    static const char *const vars[] = {"CROSSPRESS_RANK", "RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"};
    xp_comm *c;

    for (size_t i = 0; i < sizeof(vars) / sizeof(vars[0]); i++)
        unsetenv(vars[i]);
    cr_assert_eq(xp_comm_create(&c, NULL, NULL), XP_ERR_INVALID_ARG);
    cr_assert(strstr(xp_last_error(), "no launcher"), "%s", xp_last_error());
}

Test(comm, rank_outside_the_group)
{
    xp_thread_group *g;
    xp_bootstrap boot;
    xp_comm *c;

    cr_assert_eq(xp_thread_group_create(&g, 2), XP_OK);
    xp_bootstrap_init(&boot);
    boot.threads = g;
    boot.rank = 2;
    cr_assert_eq(xp_comm_create(&c, &boot, NULL), XP_ERR_INVALID_ARG);
    cr_assert(strstr(xp_last_error(), "rank 2"), "%s", xp_last_error());
    xp_thread_group_destroy(g);
}

/* -------------------------------------------------------------------------------------------------- threads */

static xp_status check_shape(xp_comm *c, void *arg)
{
    const int *nodes = arg;
    int n = xp_comm_size(c);
    int all[RANKS_MAX], mine = xp_comm_rank(c) * xp_comm_rank(c);
    xp_status s = xp_comm_allgather(c, &mine, all, sizeof(mine));

    for (int r = 0; r < n && s == XP_OK; r++)
        if (all[r] != r * r || xp_comm_node_of(c, r) != r * *nodes / n)
            s = XP_ERR_INTERNAL;
    if (xp_comm_nodes(c) != *nodes || xp_comm_node_of(c, n) != -1 || xp_comm_node_of(c, -1) != -1)
        s = XP_ERR_INTERNAL;
    return s == XP_OK ? xp_comm_barrier(c) : s;
}

Test(comm, threads, .timeout = 60)
{
    const int sizes[] = {1, 2, 3, 8, 11};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct expect log = {{0}};
        struct ranks r = {.n = sizes[i], .log = expect_log, .log_user = &log};
        int nodes = 1;

        ranks_run(&r, check_shape, &nodes);
        PASS(r);
        cr_assert_eq(log.unexpected, 0, "%s", log.first);
    }
}

Test(comm, a_group_can_be_used_again, .timeout = 60)
{
    for (int i = 0; i < 5; i++) {
        struct ranks r = {.n = 3};
        int nodes = 1;

        ranks_run(&r, check_shape, &nodes);
        PASS(r);
    }
}

struct pair {
    xp_thread_group *g;
    int rank;
    xp_status status;
    char error[512];
};

static void *create_one(void *arg)
{
    struct pair *p = arg;
    xp_bootstrap boot;
    xp_config cfg;
    xp_comm *c = NULL;

    xp_bootstrap_init(&boot);
    boot.threads = p->g;
    boot.rank = p->rank;
    xp_config_init(&cfg);
    cfg.timeout_s = 0.5;
    p->status = xp_comm_create(&c, &boot, &cfg);
    snprintf(p->error, sizeof(p->error), "%s", xp_last_error());
    xp_comm_destroy(c);
    return NULL;
}

Test(comm, a_missing_thread_is_named, .timeout = 20)
{
    struct pair p[2] = {{.rank = 0}, {.rank = 2}};
    pthread_t t[2];
    xp_thread_group *g;

    cr_assert_eq(xp_thread_group_create(&g, 3), XP_OK);
    for (int i = 0; i < 2; i++) {
        p[i].g = g;
        cr_assert_eq(pthread_create(&t[i], NULL, create_one, &p[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    xp_thread_group_destroy(g);
    cr_assert(p[0].status == XP_ERR_TIMEOUT || p[1].status == XP_ERR_TIMEOUT);
    for (int i = 0; i < 2; i++) {
        cr_assert(p[i].status == XP_ERR_TIMEOUT || p[i].status == XP_ERR_REMOTE, "%s", xp_status_string(p[i].status));
        cr_assert(strstr(p[i].error, "start-up: the deadline passed; missing: rank 1"), "%s", p[i].error);
    }
}

/* ------------------------------------------------------------------------------------------------- callback */

/* An allgather of a caller's own: threads and a barrier. Fails in call number `fail_at`. */
struct table {
    int n, fail_at;
    pthread_barrier_t barrier;
    char data[16][1024];
};

struct caller {
    struct table *t;
    int rank, calls;
    xp_status status;
    char error[512];
    int answer;
};

static int gather_by_table(void *user, const void *in, void *out, size_t len)
{
    struct caller *me = user;

    if (len > sizeof(me->t->data[0]) || ++me->calls == me->t->fail_at)
        return 42;
    memcpy(me->t->data[me->rank], in, len);
    pthread_barrier_wait(&me->t->barrier);
    for (int r = 0; r < me->t->n; r++)
        memcpy((char *)out + (size_t)r * len, me->t->data[r], len);
    pthread_barrier_wait(&me->t->barrier);
    return 0;
}

static void *create_by_callback(void *arg)
{
    struct caller *me = arg;
    xp_bootstrap boot;
    xp_comm *c = NULL;
    int all[16], mine = 7 + me->rank;

    xp_bootstrap_init(&boot);
    boot.rank = me->rank;
    boot.nranks = me->t->n;
    boot.allgather = gather_by_table;
    boot.allgather_user = me;
    me->status = xp_comm_create(&c, &boot, NULL);
    snprintf(me->error, sizeof(me->error), "%s", xp_last_error());
    if (me->status == XP_OK)
        me->status = xp_comm_allgather(c, &mine, all, sizeof(mine));
    if (me->status == XP_OK)
        me->answer = all[me->t->n - 1];
    xp_comm_destroy(c);
    return NULL;
}

static void run_callers(struct caller *callers, struct table *t)
{
    pthread_t threads[16];

    pthread_barrier_init(&t->barrier, NULL, (unsigned)t->n);
    for (int r = 0; r < t->n; r++) {
        callers[r] = (struct caller){.t = t, .rank = r};
        cr_assert_eq(pthread_create(&threads[r], NULL, create_by_callback, &callers[r]), 0);
    }
    for (int r = 0; r < t->n; r++)
        pthread_join(threads[r], NULL);
    pthread_barrier_destroy(&t->barrier);
}

Test(comm, callback, .timeout = 30)
{
    struct caller callers[16];
    struct table t = {.n = 5};

    run_callers(callers, &t);
    for (int r = 0; r < t.n; r++) {
        cr_assert_eq(callers[r].status, XP_OK, "rank %d: %s", r, callers[r].error);
        cr_assert_eq(callers[r].answer, 7 + 4);
    }
}

/* ---------------------------------------------------------------------------------------------------- door */

struct guest {
    const char *door;
    int rank, n, fd;
    xp_status status;
    char error[512];
};

static void *create_by_door(void *arg)
{
    struct guest *me = arg;
    xp_bootstrap boot;
    xp_config cfg;
    xp_comm *c = NULL;
    int all[16], mine = 7 + me->rank;

    xp_bootstrap_init(&boot);
    boot.rank = me->rank;
    boot.nranks = me->n;
    boot.door = me->door;
    boot.door_fd = me->fd;
    xp_config_init(&cfg);
    cfg.timeout_s = 5;
    me->status = xp_comm_create(&c, &boot, &cfg);
    snprintf(me->error, sizeof(me->error), "%s", xp_last_error());
    if (me->status == XP_OK)
        me->status = xp_comm_allgather(c, &mine, all, sizeof(mine));
    if (me->status == XP_OK && all[me->n - 1] != 7 + me->n - 1)
        me->status = XP_ERR_INTERNAL;
    xp_comm_destroy(c);
    return NULL;
}

static void run_guests(struct guest *guests, int n)
{
    pthread_t threads[16];

    for (int r = 0; r < n; r++)
        cr_assert_eq(pthread_create(&threads[r], NULL, create_by_door, &guests[r]), 0);
    for (int r = 0; r < n; r++)
        pthread_join(threads[r], NULL);
}

Test(comm, door, .timeout = 30)
{
    struct guest guests[5];
    char door[XP_DOOR_MAX];
    int fd;

    cr_assert_eq(xp_door_open(door, XP_DOOR_MAX - 1, &fd), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_door_open(NULL, XP_DOOR_MAX, &fd), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_door_open(door, sizeof(door), &fd), XP_OK, "%s", xp_last_error());
    for (int r = 0; r < 5; r++)
        guests[r] = (struct guest){.door = door, .rank = r, .n = 5, .fd = fd};
    run_guests(guests, 5);
    for (int r = 0; r < 5; r++)
        cr_assert_eq(guests[r].status, XP_OK, "rank %d: %s", r, guests[r].error);
    close(fd);
}

Test(comm, door_needs_its_secret, .timeout = 30)
{
    char door[XP_DOOR_MAX], other[XP_DOOR_MAX];
    int fd;

    cr_assert_eq(xp_door_open(door, sizeof(door), &fd), XP_OK, "%s", xp_last_error());
    snprintf(other, sizeof(other), "%s", door);
    other[strlen(other) - 1] ^= 1;
    struct guest guests[2] = {{.door = door, .rank = 0, .n = 2, .fd = fd}, {.door = other, .rank = 1, .n = 2}};
    run_guests(guests, 2);
    cr_assert(guests[0].status < 0 && guests[1].status < 0);
    close(fd);
}

Test(comm, door_that_is_none, .timeout = 30)
{
    static const char *const texts[] = {"", "door", "10.0.0.1 0123", "10.0.0.1:0 0123", "10.0.0.1:99999 0123", "[:1 0123", "]:1 0123", ":1 0123"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct guest g = {.door = texts[i], .rank = 1, .n = 2};
        create_by_door(&g);
        cr_assert_eq(g.status, XP_ERR_INVALID_ARG, "\"%s\": %s", texts[i], xp_status_string(g.status));
        cr_assert(strstr(g.error, "not the text of a door"), "%s", g.error);
    }
}

Test(comm, a_failing_callback_is_reported, .timeout = 30)
{
    for (int call = 1; call <= 2; call++) {
        struct caller callers[16];
        struct table t = {.n = 3, .fail_at = call};

        run_callers(callers, &t);
        for (int r = 0; r < t.n; r++) {
            cr_assert_eq(callers[r].status, XP_ERR_REMOTE, "rank %d: %s", r, xp_status_string(callers[r].status));
            cr_assert(strstr(callers[r].error, "42"), "%s", callers[r].error);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ processes */

static int check_process(int rank, void *arg)
{
    int nodes = *(const int *)arg;
    xp_comm *c;

    if (xp_comm_create(&c, NULL, NULL) != XP_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, xp_last_error());
        return 1;
    }
    if (xp_comm_rank(c) != rank || check_shape(c, &nodes) != XP_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, xp_comm_last_error(c));
        return 2;
    }
    xp_comm_destroy(c);
    return 0;
}

Test(comm, processes, .timeout = 60)
{
    const int sizes[] = {1, 2, 3, 8};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct procs p = {.n = sizes[i]};
        int nodes = 1;

        cr_assert_eq(procs_start(&p, check_process, &nodes), 0);
        cr_assert_eq(procs_wait(&p, 20), 0, "of %d processes; the first ended with %d", sizes[i], p.code[0]);
    }
}

/* ------------------------------------------------------------------------------------------------- messages */

/* Everybody sends everybody a message on both lanes and checks what came. */
static xp_status exchange_messages(xp_comm *c, void *arg)
{
    int n = c->size, me = c->rank, done = 0;
    struct xp_op ops[4 * RANKS_MAX];
    char in[2][RANKS_MAX][64], out[2][RANKS_MAX][64];
    double deadline = xp_now() + 10;
    int k = 0;

    (void)arg;
    for (int lane = 0; lane < 2; lane++)
        for (int r = 0; r < n; r++)
            if (r != me)
                xp_comm_recv(c, r, (enum xp_lane)lane, 5, in[lane][r], sizeof(in[lane][r]), &ops[k++]);
    if (xp_comm_barrier(c) != XP_OK)
        return XP_ERR_INTERNAL;
    for (int lane = 0; lane < 2; lane++) {
        for (int r = 0; r < n; r++) {
            if (r == me)
                continue;
            snprintf(out[lane][r], sizeof(out[lane][r]), "lane %d from %d to %d", lane, me, r);
            xp_comm_send(c, r, (enum xp_lane)lane, 5, out[lane][r], strlen(out[lane][r]) + 1, &ops[k++]);
        }
    }
    for (unsigned idle = 0; done < k && xp_now() < deadline;) {
        idle = xp_comm_progress(c) ? 0 : idle + 1;
        xp_comm_idle(c, idle);
        for (done = 0; done < k && ops[done].status == XP_OK;)
            done++;
        if (done < k && ops[done].status < 0)
            return ops[done].status;
    }
    if (done < k)
        return XP_ERR_TIMEOUT;
    for (int lane = 0; lane < 2; lane++) {
        for (int r = 0; r < n; r++) {
            char want[64];
            snprintf(want, sizeof(want), "lane %d from %d to %d", lane, r, me);
            if (r != me && strcmp(want, in[lane][r]) != 0)
                return XP_ERR_CORRUPT;
        }
    }
    return xp_comm_barrier(c);
}

Test(comm, messages_inside_a_node, .timeout = 30)
{
    struct ranks r = {.n = 4};

    ranks_run(&r, exchange_messages, NULL);
    PASS(r);
}

static int has_transport(const char *name)
{
    char why[128];

    for (const struct xp_transport_ops *const *t = xp_transport_list(); *t; t++)
        if (strcmp((*t)->name, name) == 0)
            return (*t)->available(why, sizeof(why));
    return 0;
}

Test(comm, messages_between_nodes, .timeout = 60)
{
    struct ranks r = {.n = 4, .nodes = 2};
    int nodes = 2;

    if (!has_transport("ucx"))
        cr_skip_test("no UCX");
    ranks_run(&r, check_shape, &nodes);
    PASS(r);
    ranks_run(&r, exchange_messages, NULL);
    PASS(r);
}

Test(comm, messages_over_each_transport, .timeout = 90)
{
    static const char *const transports[] = {"auto", "shm", "tcp", "ucx"};

    for (size_t i = 0; i < sizeof(transports) / sizeof(transports[0]); i++) {
        struct ranks r = {.n = 3, .transport = transports[i]};

        if (i >= 2 && !has_transport("ucx"))
            continue;
        ranks_run(&r, exchange_messages, NULL);
        PASS(r);
    }
}

static xp_status routes_of_two_nodes(xp_comm *c, void *arg)
{
    (void)arg;
    for (int r = 0; r < c->size; r++) {
        struct xp_transport *want = r == c->rank ? NULL : c->node_of[r] == c->node ? c->shm : c->ucx;
        if (c->route[r] != want || (r != c->rank && !want))
            return XP_ERR_INTERNAL;
    }
    return XP_OK;
}

Test(comm, routes, .timeout = 60)
{
    struct ranks one = {.n = 3}, two = {.n = 5, .nodes = 2};

    ranks_run(&one, routes_of_two_nodes, NULL);
    PASS(one);
    if (!has_transport("ucx"))
        cr_skip_test("no UCX");
    ranks_run(&two, routes_of_two_nodes, NULL);
    PASS(two);
}

static xp_status one_node_needs_no_ucx(xp_comm *c, void *arg)
{
    (void)arg;
    return c->ucx ? XP_ERR_INTERNAL : XP_OK;
}

Test(comm, one_node_never_opens_ucx, .timeout = 30)
{
    struct ranks r = {.n = 2};

    ranks_run(&r, one_node_needs_no_ucx, NULL);
    PASS(r);
}

/* --------------------------------------------------------------------------------------- the host is untouched */

Test(comm, signal_dispositions_stay, .timeout = 30)
{
    struct sigaction before[32], after;
    struct ranks r = {.n = 2};
    int nodes = 1;

    for (int s = 1; s < 32; s++)
        sigaction(s, NULL, &before[s]);
    ranks_run(&r, check_shape, &nodes);
    PASS(r);
    for (int s = 1; s < 32; s++) {
        sigaction(s, NULL, &after);
        cr_assert_eq((void *)after.sa_handler, (void *)before[s].sa_handler, "signal %d", s);
    }
}

/* A thousand interruptions a second: no call may fail or return early because of them. */
static void tick(int s)
{
    (void)s;
}

Test(comm, interrupted_system_calls, .timeout = 60)
{
    struct sigaction action = {.sa_handler = tick};
    struct itimerval every = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    struct ranks r = {.n = 4};
    int nodes = 1;

    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    for (int i = 0; i < 10; i++) {
        ranks_run(&r, check_shape, &nodes);
        PASS(r);
        ranks_run(&r, exchange_messages, NULL);
        PASS(r);
    }
    setitimer(ITIMER_REAL, &never, NULL);
}
