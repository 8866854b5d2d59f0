/*
 * test_pipeline.c - streams between two ranks: segments, chunks, windows, relays, and messages that lie
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/pipeline.h"
#include "collectives/rowmap.h"
#include "tests/harness/random.h"
#include "tests/harness/world.h"

enum { DIM = 12, MAX_ROWS = 400, MAX_SEG = 6 };

/* One stream from rank 0 to rank 1. Segments are cut at random and differ between plain ends only in where they lie. */
struct streaming {
    uint64_t seed;
    size_t rows[MAX_SEG], nseg, chunk_rows;
    unsigned copies; /* one row in `copies` is a copy; 0 = none */
    int may_code, gaps;
};

struct end {
    struct xp_shape shape;
    struct xp_pipe pipe;
    xp_stats stats;
    xp_codec_stats codec_stats;
    struct xp_segment seg[MAX_SEG];
    char *memory;
    size_t total;
};

/* The values of row r: equal for copies. */
static void fill_row(const struct streaming *t, uint32_t *row, size_t r)
{
    uint64_t number = t->copies && r % t->copies == 1 ? 7 : r + 100;
    for (size_t i = 0; i < DIM; i++)
        row[i] = (uint32_t)(number * 2654435761u + i);
}

static int open_end(struct end *e, struct xp_comm *c, const struct streaming *t, int filled)
{
    memset(e, 0, sizeof *e);
    e->shape = (struct xp_shape){.comm = c, .id = 77, .dtype = XP_F32, .dim = DIM, .row_bytes = DIM * 4, .max_send_rows = MAX_ROWS,
                                 .max_recv_rows = MAX_ROWS, .chunk_rows = t->chunk_rows, .mode = XP_MODE_EXACT, .dedup = 1,
                                 .codec_stats = &e->codec_stats};
    struct xp_pipe_limits l = {MAX_ROWS, 1, MAX_ROWS, MAX_SEG, MAX_ROWS, 1};
    struct xp_call call = {.send_rows = (size_t[2]){0, 0}, .seq = 3};
    if (xp_pipe_create(&e->pipe, &e->shape, &l) != XP_OK)
        return -1;
    xp_pipe_begin(&e->pipe, &call, &e->stats);
    for (size_t i = 0; i < t->nseg; i++)
        e->total += t->rows[i];
    e->memory = calloc(2 * e->total + MAX_SEG, DIM * 4);
    size_t at = 0, r = 0;
    for (size_t i = 0; i < t->nseg; i++) {
        at += t->gaps ? i % 3 : 0;
        e->seg[i] = (struct xp_segment){e->memory + at * DIM * 4, t->rows[i]};
        for (size_t k = 0; k < t->rows[i]; k++, r++)
            if (filled)
                fill_row(t, (uint32_t *)(void *)(e->seg[i].base + k * DIM * 4), r);
        at += t->rows[i];
    }
    return 0;
}

static void close_end(struct end *e)
{
    xp_pipe_destroy(&e->pipe);
    free(e->memory);
}

static xp_status send_all(struct end *e, const struct streaming *t)
{
    struct xp_send_stream s;
    xp_status st = XP_OK;
    xp_send_begin(&s, &e->pipe, 1, XP_STREAM_PLAIN, e->seg, t->nseg, t->may_code);
    size_t ready = t->may_code ? s.rows : 0; /* plain: released a row at a time, as a relay does */
    while (st == XP_OK && !(xp_send_done(&s) && xp_pipe_idle(&e->pipe))) {
        int work = 1, moved = 0;
        s.ready = ready < s.rows ? ++ready : s.rows;
        xp_comm_progress(e->shape.comm);
        st = xp_pipe_reap(&e->pipe, &moved);
        if (st == XP_OK)
            st = xp_send_progress(&s, &work, &moved);
    }
    xp_send_cancel(&s);
    return st;
}

static xp_status receive_all(struct end *e, const struct streaming *t, struct xp_recv_stream *s)
{
    xp_status st = XP_OK;
    while (st == XP_OK && !xp_recv_done(s)) {
        int work = 1, moved = 0;
        xp_comm_progress(e->shape.comm);
        st = xp_recv_progress(s, &work, &moved);
    }
    xp_recv_cancel(s);
    return st;
}

static void check_rows(const struct end *e, const struct streaming *t, char *why)
{
    uint32_t want[DIM];
    size_t r = 0;
    for (size_t i = 0; i < t->nseg && !why[0]; i++) {
        for (size_t k = 0; k < t->rows[i]; k++, r++) {
            fill_row(t, want, r);
            if (memcmp(e->seg[i].base + k * DIM * 4, want, sizeof want) == 0)
                continue;
            snprintf(why, WORLD_TEXT, "row %zu differs", r);
            return;
        }
    }
}

static void stream_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct streaming *t = arg;
    struct end e;
    xp_status st;
    if (open_end(&e, comm, t, rank == 0) != 0) {
        snprintf(why, WORLD_TEXT, "no memory");
        return;
    }
    if (rank == 0) {
        st = xp_comm_barrier(comm); /* the receives are posted */
        if (st == XP_OK)
            st = send_all(&e, t);
        xp_comm_barrier(comm);
    } else {
        struct xp_recv_stream s;
        xp_recv_begin(&s, &e.pipe, 0, XP_STREAM_PLAIN, e.seg, t->nseg, t->may_code);
        st = xp_comm_barrier(comm);
        if (st == XP_OK)
            st = receive_all(&e, t, &s);
        xp_comm_barrier(comm);
        check_rows(&e, t, why);
    }
    if (st != XP_OK)
        snprintf(why, WORLD_TEXT, "%s: %.300s", xp_status_string(st), xp_comm_last_error(comm));
    close_end(&e);
}

Test(pipeline, streams_of_random_segments)
{
    struct random r = random_start("pipeline, streams");
    static const struct world w = {{1, 1}};
    for (int i = 0; i < 80; i++) {
        struct streaming t = {.nseg = 1 + random_below(&r, MAX_SEG), .chunk_rows = 1 + random_below(&r, 20),
                              .copies = (unsigned)(i % 3 ? 2 + random_below(&r, 5) : 0), .may_code = i & 1, .gaps = i & 2};
        for (size_t k = 0; k < t.nseg; k++)
            t.rows[k] = random_below(&r, 3) ? random_below(&r, 60) : 0;
        const char *why = world_run(&w, stream_body, &t);
        cr_assert(why[0] == 0, "case %d: %zu segments, chunks of %zu, copies %u, may_code %d: %s", i, t.nseg, t.chunk_rows, t.copies,
                  t.may_code, why);
    }
}

/* A stream of a call that goes ahead: it may have up to `most` rows, and has `rows`, of which more and more are written. */
struct going_ahead {
    size_t most, rows, chunk_rows;
};

static xp_status send_ahead(struct end *e, const struct going_ahead *g)
{
    struct xp_send_stream s;
    xp_status st = XP_OK;
    int ended = 0;
    xp_send_begin(&s, &e->pipe, 1, XP_STREAM_PLAIN, e->seg, 1, 0);
    s.ready = 0;
    while (st == XP_OK && !(ended && xp_send_done(&s))) {
        int work = 1, moved = 0;
        xp_comm_progress(e->shape.comm);
        st = xp_send_progress(&s, &work, &moved);
        if (s.ready < g->rows)
            s.ready++;
        else if (!ended++)
            xp_send_end(&s, g->rows);
    }
    xp_send_cancel(&s);
    return st;
}

/* Rows are found where they belong only when that has been said. */
static xp_status receive_ahead(struct end *e, const struct going_ahead *g, struct xp_recv_stream *s)
{
    xp_status st = XP_OK;
    for (int round = 0; st == XP_OK && !xp_recv_done(s); round++) {
        int work = 1, moved = 0;
        xp_comm_progress(e->shape.comm);
        st = xp_recv_progress(s, &work, &moved);
        if (st == XP_OK && s->ahead && s->complete != 0)
            st = XP_ERR_INTERNAL;
        if (st == XP_OK && round == 50)
            st = xp_recv_end(s, g->rows, NULL, NULL);
    }
    xp_recv_cancel(s);
    return st;
}

static void ahead_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct going_ahead *g = arg;
    struct streaming all = {.rows = {g->most}, .nseg = 1, .chunk_rows = g->chunk_rows}, there = {.rows = {g->rows < g->most ? g->rows : g->most}, .nseg = 1};
    struct end e;
    xp_status st, want = g->rows > g->most ? XP_ERR_CORRUPT : XP_OK;
    if (open_end(&e, comm, &all, rank == 0) != 0)
        return;
    if (rank == 0) {
        xp_comm_barrier(comm);
        st = want == XP_OK ? send_ahead(&e, g) : want;
    } else {
        struct xp_recv_stream s;
        xp_recv_begin(&s, &e.pipe, 0, XP_STREAM_PLAIN, e.seg, 1, 0);
        s.ahead = 1;
        xp_comm_barrier(comm);
        st = receive_ahead(&e, g, &s);
        if (st == XP_OK)
            check_rows(&e, &there, why);
    }
    xp_comm_barrier(comm);
    if (st != want)
        snprintf(why, WORLD_TEXT, "%s: %.300s", xp_status_string(st), xp_comm_last_error(comm));
    close_end(&e);
}

Test(pipeline, streams_that_begin_before_their_rows_are_known)
{
    static const struct world w = {{1, 1}, .allow = {"is not what it claims"}};
    struct going_ahead cases[] = {{50, 50, 7}, {50, 49, 7}, {50, 1, 7}, {50, 0, 7}, {49, 14, 7}, {9, 9, 20}, {9, 3, 20}, {0, 0, 7}, {10, 11, 7}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *why = world_run(&w, ahead_body, &cases[i]);
        cr_assert(why[0] == 0, "%zu rows of %zu: %s", cases[i].rows, cases[i].most, why);
    }
}

/* Rank 0 sends what is not a head, or a chunk of another length. */
struct lie {
    unsigned form;
    size_t bytes;
};

static void lie_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct lie *lie = arg;
    struct streaming t = {.rows = {50}, .nseg = 1, .chunk_rows = 10, .may_code = 1};
    struct end e;
    if (open_end(&e, comm, &t, rank == 0) != 0)
        return;
    if (rank == 0) {
        struct xp_op op;
        static const char noise[4096] = "this is no head and no chunk";
        xp_comm_barrier(comm);
        xp_comm_send(comm, 1, XP_LANE_BULK, xp_tag(77, 3, lie->form, 0), noise, lie->bytes, &op);
        while (op.status == XP_IN_PROGRESS)
            xp_comm_progress(comm);
    } else {
        struct xp_recv_stream s;
        xp_recv_begin(&s, &e.pipe, 0, XP_STREAM_PLAIN, e.seg, t.nseg, 1);
        xp_comm_barrier(comm);
        xp_status st = receive_all(&e, &t, &s);
        if (st != XP_ERR_CORRUPT || !strstr(xp_comm_last_error(comm), "rank 0"))
            snprintf(why, WORLD_TEXT, "status %d: %.300s", st, xp_comm_last_error(comm));
    }
    xp_comm_barrier(comm);
    close_end(&e);
}

Test(pipeline, messages_that_lie)
{
    static const struct world w = {{1, 1}, .allow = {"is not what it claims", "receiving"}};
    struct lie lies[] = {{XP_STREAM_HEAD, 10}, {XP_STREAM_HEAD, 100}, {XP_STREAM_HEAD, 4000}, {XP_STREAM_PLAIN, 5},
                         {XP_STREAM_PLAIN, 0}, {XP_STREAM_PLAIN, 4000}};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        const char *why = world_run(&w, lie_body, &lies[i]);
        cr_assert(why[0] == 0, "form %u, %zu bytes: %s", lies[i].form, lies[i].bytes, why);
    }
}

Test(pipeline, tags_tell_everything_apart)
{
    struct random r = random_start("pipeline, tags");
    for (int i = 0; i < 1000; i++) {
        uint32_t plan = (uint32_t)random_below(&r, 1 << 14), seq = (uint32_t)random_below(&r, 4);
        unsigned form = (unsigned)random_below(&r, 4096);
        size_t chunk = random_below(&r, XP_STREAM_MAX_CHUNKS);
        uint64_t tag = xp_tag(plan, seq, form, chunk);
        cr_assert(tag >> XP_TAG_BITS == 0);
        cr_assert(tag >> 34 == plan && (tag >> 32 & 3) == seq && (tag >> 20 & 4095) == form && (tag & 0xfffff) == chunk);
    }
}
