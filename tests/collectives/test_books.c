/*
 * test_books.c - kept books in exchanges: learned, shipped once, lost and shipped again, two plans side by side, drift, lies
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/books.h"
#include "collectives/pipeline.h"
#include "collectives/rowmap.h"
#include "lib/plan.h"
#include "tests/harness/random.h"
#include "tests/harness/world.h"

enum { DIM = 64, EACH = 300, KINDS = 24, DOMAINS = 4, ALONG = DOMAINS };

#define EPS 0.1

/* What a body needs of one plan. */
struct side {
    xp_plan *plan;
    float *send, *recv;
    uint64_t domain;
    size_t each; /* rows to each rank in a call */
    unsigned call;
};

static float centres[DOMAINS][KINDS][DIM];

static void make_centres(void)
{
    struct random rng = random_seeded(7919);
    for (size_t i = 0; i < sizeof centres / sizeof(float); i++)
        (&centres[0][0][0])[i] = (float)(4 * random_normal(&rng));
}

/* Rows around the centres of a domain, or (ALONG) along those of the first; what a rank sends in a call is known to all. Noise of deviation 1. */
static void fill(float *rows, size_t n, uint64_t domain, int from, int to, unsigned call)
{
    struct random rng = random_seeded(((domain * 64 + (uint64_t)from) * 64 + (uint64_t)to) * 1000 + call);
    for (size_t r = 0; r < n; r++) {
        float along[DIM] = {0};
        for (size_t k = 0; domain == ALONG && k < KINDS; k++) {
            float much = (float)random_normal(&rng);
            for (size_t i = 0; i < DIM; i++)
                along[i] += much * centres[0][k][i];
        }
        const float *centre = domain == ALONG ? along : centres[domain][random_below(&rng, KINDS)];
        for (size_t i = 0; i < DIM; i++) {
            uint64_t bits = random_bits(&rng);
            float sum = (float)(bits & 0xffff) + (float)(bits >> 16 & 0xffff) + (float)(bits >> 32 & 0xffff) + (float)(bits >> 48);
            rows[r * DIM + i] = centre[i] + (sum / 32768 - 4) * 0.866f;
        }
    }
}

static int open_side_with(struct side *s, xp_comm *comm, const char *algo, const char *codec, uint64_t domain, char *why)
{
    xp_plan_desc d;
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = DIM;
    d.max_send_rows = d.max_recv_rows = (size_t)(xp_comm_size(comm) * EACH);
    d.mode = XP_MODE_BOUNDED;
    d.eps = EPS;
    d.eps_ref = XP_EPS_REF_ROW;
    d.codec = codec;
    d.algo = algo;
    *s = (struct side){.domain = domain, .each = EACH, .send = calloc(d.max_send_rows, DIM * 4), .recv = calloc(d.max_recv_rows, DIM * 4)};
    if (xp_plan_create(&s->plan, comm, &d) == XP_OK)
        return 0;
    snprintf(why, WORLD_TEXT, "plan: %.300s", xp_comm_last_error(comm));
    free(s->send);
    free(s->recv);
    return -1;
}

static int open_side(struct side *s, xp_comm *comm, const char *algo, uint64_t domain, char *why)
{
    return open_side_with(s, comm, algo, "book", domain, why);
}

static void close_side(struct side *s)
{
    xp_plan_destroy(s->plan);
    free(s->send);
    free(s->recv);
}

static double distance(const float *a, const float *b)
{
    double sum = 0;
    for (size_t i = 0; i < DIM; i++)
        sum += ((double)a[i] - (b ? (double)b[i] : 0)) * ((double)a[i] - (b ? (double)b[i] : 0));
    return sqrt(sum);
}

/* One call: everybody sends as many rows to everybody. A book that is being fitted is finished afterwards, so that what happens does not
 * depend on how much idle time a call has. Returns the bytes that went to other nodes, or 0 with why. */
static uint64_t exchange_once(struct side *s, xp_comm *comm, int rank, char *why)
{
    int ranks = xp_comm_size(comm);
    uint64_t before = s->plan->stats.wire_bytes_slow;
    static _Thread_local float want[EACH * DIM];
    for (int i = 0; i < ranks; i++)
        fill(s->send + (size_t)i * s->each * DIM, s->each, s->domain, rank, i, s->call);
    if (xp_alltoall(s->plan, s->send, s->recv, s->each, NULL) != XP_OK) {
        snprintf(why, WORLD_TEXT, "call %u: %.300s", s->call, xp_comm_last_error(comm));
        return 0;
    }
    for (int i = 0; i < ranks; i++) {
        fill(want, s->each, s->domain, i, rank, s->call);
        for (size_t r = 0; r < s->each; r++) {
            const float *w = want + r * DIM;
            if (distance(s->recv + ((size_t)i * s->each + r) * DIM, w) <= EPS * distance(w, NULL) * 1.000001)
                continue;
            snprintf(why, WORLD_TEXT, "call %u: row %zu of rank %d is too far off", s->call, r, i);
            return 0;
        }
    }
    s->call++;
    while (xp_books_work(s->plan->shape.books, 1))
        ;
    return s->plan->stats.wire_bytes_slow - before;
}

static uint32_t version_of(const struct side *s)
{
    return s->plan->stats.book_version;
}

/* Calls until this rank has a book in use, at most `most`. All ranks make as many. */
static uint64_t calls(struct side *s, xp_comm *comm, int rank, unsigned n, char *why)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < n && !why[0]; i++)
        bytes = exchange_once(s, comm, rank, why);
    return bytes;
}

static void learn_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct side s;
    if (open_side(&s, comm, arg, 1, why))
        return;
    uint64_t first = calls(&s, comm, rank, 1, why), soon = calls(&s, comm, rank, 5, why), later = calls(&s, comm, rank, 19, why);
    uint64_t sent = s.plan->stats.books_sent_bytes;
    uint32_t version = version_of(&s);
    if (!why[0] && (!version || !sent || !s.plan->stats.books_memory))
        snprintf(why, WORLD_TEXT, "no book after 25 calls: version %u, %zu bytes sent", version, (size_t)sent);
    /* 4 : 1 between centres and what lies around them is 2 bits a value; a frame's own book knows nothing of centres. */
    if (!why[0] && (double)later > 0.75 * (double)first)
        snprintf(why, WORLD_TEXT, "%zu bytes in the first call, %zu with a book", (size_t)first, (size_t)later);
    if (!why[0] && (double)soon > 0.8 * (double)first)
        snprintf(why, WORLD_TEXT, "%zu bytes in the first call, still %zu in the sixth", (size_t)first, (size_t)soon);
    calls(&s, comm, rank, 5, why);
    if (!why[0] && version_of(&s) == version && s.plan->stats.books_sent_bytes != sent)
        snprintf(why, WORLD_TEXT, "a book was shipped again without need");
    close_side(&s);
}

Test(books, are_learned_and_shipped_once)
{
    static const struct world worlds[] = {{{1, 1}}, {{2, 2}}, {{1, 2}}};
    make_centres();
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++) {
        static char flat[] = "flat", hier[] = "hier";
        const char *why = world_run(&worlds[i], learn_body, flat);
        cr_assert(why[0] == 0, "flat, world %zu: %s", i, why);
        why = world_run(&worlds[i], learn_body, hier);
        cr_assert(why[0] == 0, "hier, world %zu: %s", i, why);
    }
}

struct link {
    double speed;
    const char *codec;
    int directions;
};

static void link_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct link *link = arg;
    struct side s;
    comm->link_bytes_per_s = link->speed;
    if (open_side_with(&s, comm, "flat", link->codec, ALONG, why))
        return;
    calls(&s, comm, rank, 12, why);
    uint32_t versions[2];
    xp_book_shelf_versions(xp_books_of(s.plan->shape.books, 1 - rank), versions);
    const struct xp_book *book = xp_book_shelf_find(xp_books_of(s.plan->shape.books, 1 - rank), versions[0]);
    if (!why[0] && !book)
        snprintf(why, WORLD_TEXT, "no book after 12 calls");
    else if (!why[0] && (book->rank > 0) != link->directions)
        snprintf(why, WORLD_TEXT, "codec %s: %u directions at %g bytes/s", link->codec, book->rank, link->speed);
    close_side(&s);
}

Test(books, have_directions_on_slow_links_or_by_name)
{
    static const struct world w = {{1, 1}};
    struct link links[] = {{5e6, "book", 1}, {30e6, "book", 0}, {30e6, "book+directions", 1}};
    make_centres();
    for (size_t i = 0; i < 3; i++) {
        const char *why = world_run(&w, link_body, &links[i]);
        cr_assert(why[0] == 0, "%s", why);
    }
}

struct loss {
    const char *algo;
    int sender; /* one whose books rank 1 keeps */
};

/* Rank 1 loses what it holds, again and again: its peers ship their books again, and nobody notices otherwise. */
static void loss_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct loss *loss = arg;
    struct side s;
    if (open_side(&s, comm, loss->algo, 1, why))
        return;
    calls(&s, comm, rank, 25, why);
    for (int i = 0; i < 4 && !why[0]; i++) {
        uint64_t sent = s.plan->stats.books_sent_bytes;
        uint32_t version = version_of(&s);
        if (rank == 1)
            xp_books_lose(s.plan->shape.books);
        calls(&s, comm, rank, 1, why);
        if (!why[0] && rank == loss->sender && s.plan->stats.books_sent_bytes == sent)
            snprintf(why, WORLD_TEXT, "book %u was not shipped again", version);
        calls(&s, comm, rank, 1, why);
    }
    close_side(&s);
}

Test(books, are_shipped_again_to_who_has_lost_them)
{
    static const struct world two = {{1, 1}}, four = {{2, 2}};
    struct loss flat = {"flat", 0}, hier = {"hier", 3}; /* rank 1 takes in for its node what rank 3 sends there */
    make_centres();
    const char *why = world_run(&two, loss_body, &flat);
    cr_assert(why[0] == 0, "flat: %s", why);
    why = world_run(&four, loss_body, &hier);
    cr_assert(why[0] == 0, "hier: %s", why);
}

/* Two plans in turn, each with a book of its own; then one of them is made anew, as after a restart. */
static void plans_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct side a, b;
    (void)arg;
    if (open_side(&a, comm, "flat", 1, why))
        return;
    if (open_side(&b, comm, "flat", 2, why) == 0) {
        uint64_t first[2] = {0, 0}, last[2] = {0, 0};
        for (int i = 0; i < 25 && !why[0]; i++) {
            last[0] = calls(&a, comm, rank, 1, why);
            if (!why[0])
                last[1] = calls(&b, comm, rank, 1, why);
            if (i == 0)
                memcpy(first, last, sizeof first);
        }
        for (int i = 0; i < 2 && !why[0]; i++)
            if ((double)last[i] > 0.75 * (double)first[i])
                snprintf(why, WORLD_TEXT, "plan %d: %zu bytes at first, %zu at last", i, (size_t)first[i], (size_t)last[i]);
        close_side(&b);
        if (!why[0] && open_side(&b, comm, "flat", 3, why) == 0) {
            for (int i = 0; i < 10 && !why[0]; i++) {
                calls(&b, comm, rank, 1, why);
                if (!why[0])
                    calls(&a, comm, rank, 1, why);
            }
            if (!why[0] && !version_of(&b))
                snprintf(why, WORLD_TEXT, "the plan made anew has no book");
            close_side(&b);
        }
    }
    close_side(&a);
}

Test(books, of_two_plans_do_not_mix)
{
    static const struct world w = {{1, 1}};
    make_centres();
    const char *why = world_run(&w, plans_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
}

static void drift_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct side s;
    (void)arg;
    if (open_side(&s, comm, "flat", 1, why))
        return;
    uint64_t home = calls(&s, comm, rank, 25, why), away = 0, again = 0;
    uint32_t version = version_of(&s);
    s.domain = 2;
    if (!why[0])
        away = calls(&s, comm, rank, 1, why);
    if (!why[0])
        again = calls(&s, comm, rank, 20, why);
    if (!why[0] && !((double)away > 1.1 * (double)home))
        snprintf(why, WORLD_TEXT, "%zu bytes at home, %zu away: no drift to speak of", (size_t)home, (size_t)away);
    if (!why[0] && (version_of(&s) == version || (double)again - (double)home > 0.4 * ((double)away - (double)home)))
        snprintf(why, WORLD_TEXT, "%zu bytes at home, %zu away, %zu after 20 calls; book %u, then %u", (size_t)home, (size_t)away,
                 (size_t)again, version, version_of(&s));
    close_side(&s);
}

Test(books, adapt_within_20_calls)
{
    static const struct world w = {{1, 1}};
    make_centres();
    const char *why = world_run(&w, drift_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
}

/* Rows of another domain, and so few of them that what a book for them would spare is less than it takes. */
static void few_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct side s;
    (void)arg;
    if (open_side(&s, comm, "flat", 1, why))
        return;
    calls(&s, comm, rank, 12, why);
    uint64_t sent = s.plan->stats.books_sent_bytes;
    s.domain = 2;
    s.each = 2;
    calls(&s, comm, rank, 36, why);
    if (!why[0] && s.plan->stats.books_sent_bytes != sent)
        snprintf(why, WORLD_TEXT, "%zu bytes of books sent for calls of %zu rows", (size_t)(s.plan->stats.books_sent_bytes - sent), s.each);
    close_side(&s);
}

Test(books, are_not_sent_for_less_than_they_take)
{
    static const struct world w = {{1, 1}};
    make_centres();
    const char *why = world_run(&w, few_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
}

/* ---- messages that lie ------------------------------------------------------------------------------------------------ */

/* Rank 0 announces a book and sends what is none, or nothing that fits. */
static void lie_body(xp_comm *comm, int rank, void *arg, char *why)
{
    size_t bytes = *(size_t *)arg;
    struct side s;
    static uint8_t noise[1 << 20];
    if (open_side(&s, comm, "flat", 1, why))
        return;
    struct xp_shape *shape = &s.plan->shape;
    struct xp_pipe pipe;
    xp_stats stats = {0};
    struct xp_call call = {.send_rows = (size_t[2]){0, 0}, .seq = 3};
    struct xp_pipe_limits l = {EACH, 1, EACH, 1, EACH, 1};
    if (xp_pipe_create(&pipe, shape, &l) != XP_OK)
        return;
    xp_pipe_begin(&pipe, &call, &stats);
    if (rank == 0) {
        struct xp_op op[2];
        uint8_t head[64];
        size_t len = xp_rowmap_write(head, EACH, EACH, NULL, 1);
        xp_rowmap_announce_book(head);
        xp_comm_barrier(comm);
        xp_comm_send(comm, 1, XP_LANE_BULK, xp_tag(shape->id, 3, XP_STREAM_HEAD, 0), head, len, &op[0]);
        xp_comm_send(comm, 1, XP_LANE_BULK, xp_tag(shape->id, 3, XP_STREAM_BOOK, 0), noise, bytes, &op[1]);
        while (op[0].status == XP_IN_PROGRESS || op[1].status == XP_IN_PROGRESS)
            xp_comm_progress(comm);
    } else {
        struct xp_segment seg = {(char *)s.recv, EACH};
        struct xp_recv_stream in;
        xp_status st = XP_OK;
        xp_recv_begin(&in, &pipe, 0, XP_STREAM_PLAIN, &seg, 1, 1);
        xp_comm_barrier(comm);
        while (st == XP_OK && !xp_recv_done(&in)) {
            int work = 1, moved = 0;
            xp_comm_progress(comm);
            st = xp_recv_progress(&in, &work, &moved);
        }
        xp_recv_cancel(&in);
        if (st != XP_ERR_CORRUPT || !strstr(xp_comm_last_error(comm), "rank 0"))
            snprintf(why, WORLD_TEXT, "status %d: %.300s", st, xp_comm_last_error(comm));
    }
    xp_comm_barrier(comm);
    xp_pipe_destroy(&pipe);
    close_side(&s);
}

Test(books, what_is_no_book_is_refused)
{
    static const struct world w = {{1, 1}, .allow = {"is not what it claims", "receiving a book"}};
    size_t sizes[] = {0, 5, 100, 4000, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const char *why = world_run(&w, lie_body, &sizes[i]);
        cr_assert(why[0] == 0, "%zu bytes: %s", sizes[i], why);
    }
}
