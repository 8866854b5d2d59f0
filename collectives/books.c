/*
 * books.c - the kept books of a plan (books.h)
 *
 * When to fit: on the rows of the first call, as rows take a fifth more bytes until there is a book; again when the reservoir has four times
 * as many, until it is full; and anew, on the rows of one call again, when the measured bytes a row have risen. A fitted book must show on rows
 * of the next call that it is better than the one in use, by more than it takes to send it, else it is dropped and the next attempt waits
 * longer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/books.h"

#include <stdlib.h>
#include <string.h>

#include "collectives/wire.h"

#define SHELVES_BYTES ((size_t)256 << 20) /* of the books of all peers */
#define MOST_CENTROIDS 256
#define LEAST_CENTROIDS 16

#define FIRST_ROWS 1024     /* enough for a first book; copied from one call where there are so many */
#define FIRST_CENTROIDS 32  /* of it, where books have directions */
#define PATIENCE 8          /* calls after which 64 rows are */
#define LEARN_ONE_IN 8      /* rows copied while a better book is wanted, */
#define REFRESH_ONE_IN 64   /* and while the one in use is good */
#define LEARN_LEAST 32
#define BETTER 0.995        /* a new book's bytes a row, of the old one's */
#define LEAST_SERVICE 16    /* calls that a book is expected to serve; and no shorter than the one before it did */
#define WORSE 1.03          /* bytes a row that have risen this much */
#define WORSE_CALLS 2       /* in so many calls one after another */
#define DROPPED_WAIT 8      /* calls until the next attempt; doubled each time */
#define DROPPED_WAIT_MOST 256
#define SHARE 0.02          /* of a call's time that may go into fitting without idle moments */

struct peer {
    struct xp_book_shelf shelf;
    uint8_t *room;      /* a book on its way here */
    uint32_t holds[2];  /* of this rank's books, as its header of this call says */
};

struct xp_books {
    const struct xp_shape *shape;
    struct xp_kernels kernels;
    struct xp_book_fitter *fitter; /* NULL: this rank sends nothing */
    struct peer *peers;            /* [size] */
    uint8_t *rooms;
    size_t room_bytes, bytes;

    uint32_t next_version;
    size_t fitted_rows;            /* that the book in use, or being fitted, was fitted on */
    unsigned calls, wait_until, wait; /* no attempt before call number wait_until */
    unsigned worse;                /* calls in a row that were */
    int drifted;
    double usual;                  /* bytes a row of the book in use, when it was new; 0: not known */
    size_t rows, row_bytes;        /* of this call's frames: rows coded with the book, their bytes */
    size_t usual_rows;             /* such rows of the last call that had any */
    unsigned readers, asked;       /* ranks that they went to, and those of this call so far */
    unsigned since;                /* the call in which the book in use came into use */
    uint64_t fitted, shipped;      /* books; bytes of books sent */
    double started, worked;        /* this call: when, seconds of fitting */
};

/* ---- life ------------------------------------------------------------------------------------------------------------ */

/* Most ranks of other nodes that any rank has: equal on all ranks, as both ends must agree on how large a book may be. */
static size_t most_far(const struct xp_comm *c)
{
    int least = c->size;

    for (int i = 0; i < c->nodes; i++)
        least = c->node_size[i] < least ? c->node_size[i] : least;
    return (size_t)(c->size - least);
}

static unsigned most_centroids(const struct xp_shape *s)
{
    const size_t fit = SHELVES_BYTES / (2 * most_far(s->comm) * (s->dim + 32) * sizeof(float));

    return fit < MOST_CENTROIDS ? (unsigned)(fit / LEAST_CENTROIDS * LEAST_CENTROIDS) : MOST_CENTROIDS;
}

static xp_status create_shelves(struct xp_books *b, unsigned centroids)
{
    const struct xp_comm *c = b->shape->comm;
    size_t far = (size_t)(c->size - c->node_size[c->node]);
    xp_status st = XP_OK;

    b->room_bytes = xp_book_most_bytes(b->shape->dim, centroids, XP_BOOK_MAX_RANK);
    b->peers = calloc((size_t)c->size, sizeof *b->peers);
    b->rooms = calloc(far, b->room_bytes);
    if (!b->peers || !b->rooms)
        return XP_ERR_NO_MEMORY;
    far = 0;
    for (int i = 0; st == XP_OK && i < c->size; i++) {
        if (c->node_of[i] == c->node)
            continue;
        b->peers[i].room = b->rooms + far++ * b->room_bytes;
        st = xp_book_shelf_init(&b->peers[i].shelf, b->shape->dim, centroids);
    }
    b->bytes += far * (b->room_bytes + 2 * (size_t)(centroids + XP_BOOK_MAX_RANK + 1) * (b->shape->dim + 32) * sizeof(float));
    return st;
}

static int have_directions(const struct xp_books *b)
{
    return xp_coder_directions_pay(b->shape->coder, b->shape->link_bytes_per_s);
}

static xp_status create_fitter(struct xp_books *b, unsigned centroids)
{
    const struct xp_shape *s = b->shape;
    int isa = xp_isa_parse(s->comm->params.isa[0] ? s->comm->params.isa : NULL);
    struct xp_book_fit_desc d = {.dtype = s->dtype, .dim = s->dim, .seed = s->id + 1u};
    xp_status st;

    xp_kernels_init(&b->kernels, isa < 0 ? XP_ISA_C : (enum xp_isa)isa);
    /* A plan of short calls needs no large reservoir. */
    d.rows = s->max_send_rows < 512 ? 1024 : 0;
    d.centroids = d.rows ? 64 : centroids;
    d.centroids = d.centroids < centroids ? d.centroids : centroids;
    d.rank = have_directions(b) ? XP_BOOK_MAX_RANK : 0;
    st = xp_book_fitter_create(&b->fitter, &b->kernels, &d);
    if (st == XP_OK)
        b->bytes += xp_book_fitter_bytes(b->fitter);
    return st;
}

xp_status xp_books_create(struct xp_books **out, const struct xp_shape *s)
{
    struct xp_books *b;
    unsigned centroids;
    xp_status st;

    *out = NULL;
    if (s->mode != XP_MODE_BOUNDED || !s->coder || s->comm->nodes < 2 || (!s->automatic && xp_coder_codec(s->coder)->id != XP_CODEC_BOOK))
        return XP_OK;
    centroids = most_centroids(s);
    if (centroids < LEAST_CENTROIDS)
        return XP_OK;
    b = calloc(1, sizeof *b);
    if (!b)
        return XP_ERR_NO_MEMORY;
    b->shape = s;
    b->next_version = 1;
    b->wait = DROPPED_WAIT;
    st = create_shelves(b, centroids);
    if (st == XP_OK && s->max_send_rows > 0)
        st = create_fitter(b, centroids);
    if (st != XP_OK) {
        xp_books_destroy(b);
        return st;
    }
    *out = b;
    return XP_OK;
}

void xp_books_destroy(struct xp_books *b)
{
    if (!b)
        return;
    xp_coder_write_with(b->shape->coder, NULL);
    xp_coder_read_with(b->shape->coder, NULL);
    for (int i = 0; b->peers && i < b->shape->comm->size; i++)
        xp_book_shelf_fini(&b->peers[i].shelf);
    xp_book_fitter_destroy(b->fitter);
    free(b->peers);
    free(b->rooms);
    free(b);
}

/* ---- learning -------------------------------------------------------------------------------------------------------- */

/* Whether there is a book, and it fits. */
static int is_served(const struct xp_books *b)
{
    return xp_book_fitter_current(b->fitter) && !b->drifted;
}

/* How many bytes a row took in the last call: of its frames, or where none was coded with the book, of the trial. */
static void watch(struct xp_books *b)
{
    double now = b->rows ? (double)b->row_bytes / (double)b->rows : xp_coder_trial_bytes(b->shape->coder, XP_CODEC_BOOK);

    if (b->rows) {
        b->usual_rows = b->rows;
        b->readers = b->asked;
    }
    b->rows = b->row_bytes = b->asked = 0;
    if (!is_served(b) || now <= 0)
        return;
    if (b->usual <= 0 || now < b->usual)
        b->usual = now;
    b->worse = now > WORSE * b->usual ? b->worse + 1 : 0;
    if (b->worse < WORSE_CALLS || b->calls < b->wait_until || xp_book_fitter_busy(b->fitter))
        return;
    b->drifted = 1;
    xp_book_fitter_forget(b->fitter);
}

/* Whether a book that spares so many bytes a row is worth sending: what it will spare while it serves is more than it takes. */
static int is_worth_sending(const struct xp_books *b, const struct xp_book_writer *next, double spared)
{
    const unsigned age = b->calls - b->since, service = age > LEAST_SERVICE ? age : LEAST_SERVICE;

    return spared * (double)b->usual_rows * service > (double)next->len * b->readers;
}

/* A book that is finished is used when it is better on rows that it has not seen. */
static void decide(struct xp_books *b, const struct xp_rows *rows)
{
    const struct xp_book_writer *now = xp_book_fitter_current(b->fitter), *next = xp_book_fitter_candidate(b->fitter);
    double before, after;

    if (!next || !rows->rows)
        return;
    before = now ? xp_coder_try_book(b->shape->coder, rows, now) : 0;
    after = xp_coder_try_book(b->shape->coder, rows, next);
    if (now && (after > BETTER * before || !is_worth_sending(b, next, before - after))) {
        xp_book_fitter_decide(b->fitter, 0);
        b->wait_until = b->calls + b->wait;
        b->wait = 2 * b->wait < DROPPED_WAIT_MOST ? 2 * b->wait : DROPPED_WAIT_MOST;
        b->usual = 0; /* rows are harder to code, and there is no better book */
    } else {
        xp_book_fitter_decide(b->fitter, 1);
        b->fitted++;
        b->since = b->calls;
        b->wait = DROPPED_WAIT;
        b->usual = 0;
        xp_log(b->shape->comm, XP_LOG_INFO, "plan %u: book %u of %u centroids, %zu bytes, fitted on %zu rows; books take %.1f MB here",
               b->shape->id, next->book.version, next->book.centroids, next->len, b->fitted_rows, 1e-6 * (double)b->bytes);
    }
    b->drifted = 0;
    b->worse = 0;
}

static int wants_book(const struct xp_books *b)
{
    const size_t held = xp_book_fitter_rows(b->fitter), room = xp_book_fitter_room(b->fitter);
    const size_t enough = room < FIRST_ROWS ? room : FIRST_ROWS;

    if (b->calls < b->wait_until || !xp_coder_book_may_pay(b->shape->coder))
        return 0;
    if (!is_served(b))
        return held >= enough || (b->calls >= PATIENCE && held >= 64);
    return b->fitted_rows < room && (held >= 4 * b->fitted_rows || held == room);
}

/* Most centroids of the next book; 0: as many as its rows give. One fitted in haste serves as well with few, where it has directions. */
static unsigned most_of(const struct xp_books *b)
{
    return !is_served(b) && have_directions(b) ? FIRST_CENTROIDS : 0;
}

/* Copies rows of this call; few when there is a good book. */
static void learn(struct xp_books *b, const struct xp_rows *rows)
{
    const int settled = is_served(b) && b->fitted_rows == xp_book_fitter_room(b->fitter);
    const size_t held = xp_book_fitter_rows(b->fitter);
    size_t most = rows->rows / (settled ? REFRESH_ONE_IN : LEARN_ONE_IN);

    if (!xp_coder_book_may_pay(b->shape->coder))
        return;
    if (!is_served(b) && held + most < FIRST_ROWS)
        most = FIRST_ROWS - held;
    xp_book_fitter_add(b->fitter, rows, most < LEARN_LEAST ? LEARN_LEAST : most);
    if (!wants_book(b) || xp_book_fitter_begin(b->fitter, b->next_version, most_of(b)) != XP_OK)
        return;
    b->next_version++;
    b->fitted_rows = xp_book_fitter_rows(b->fitter);
}

void xp_books_begin(struct xp_books *b, const struct xp_rows *rows)
{
    if (!b)
        return;
    for (int i = 0; i < b->shape->comm->size; i++)
        b->peers[i].holds[0] = b->peers[i].holds[1] = 0;
    b->started = xp_now();
    b->worked = 0;
    b->calls++;
    if (!b->fitter)
        return;
    watch(b);
    decide(b, rows);
    learn(b, rows);
    xp_coder_write_with(b->shape->coder, xp_book_fitter_current(b->fitter));
}

int xp_books_work(struct xp_books *b, double seconds)
{
    if (!b || !b->fitter || !xp_book_fitter_busy(b->fitter))
        return 0;
    const double start = xp_now();
    double now;

    do {
        if (xp_book_fitter_step(b->fitter) == XP_ERR_STATE)
            b->wait_until = b->calls + b->wait; /* rows that no book can be fitted on */
        now = xp_now();
    } while (xp_book_fitter_busy(b->fitter) && now - start < seconds);
    b->worked += now - start;
    return 1;
}

void xp_books_end(struct xp_books *b, xp_stats *stats)
{
    const struct xp_book_writer *w;

    if (!b)
        return;
    const double left = SHARE * (xp_now() - b->started) - b->worked;
    if (left > 0)
        xp_books_work(b, left);
    w = b->fitter ? xp_book_fitter_current(b->fitter) : NULL;
    stats->book_version = w ? w->book.version : 0;
    stats->books_fitted = b->fitted;
    stats->books_sent_bytes = b->shipped;
    stats->books_memory = b->bytes;
}

void xp_books_note(struct xp_books *b, size_t rows, size_t bytes)
{
    if (!b || !b->fitter || !xp_book_fitter_current(b->fitter) || xp_coder_codec(b->shape->coder)->id != XP_CODEC_BOOK)
        return;
    b->rows += rows;
    b->row_bytes += bytes;
}

/* ---- shipping -------------------------------------------------------------------------------------------------------- */

void xp_books_say(const struct xp_books *b, int peer, uint8_t *out)
{
    uint32_t versions[2] = {0, 0};

    if (b && b->peers[peer].room)
        xp_book_shelf_versions(&b->peers[peer].shelf, versions);
    xp_put32(out, versions[0]);
    xp_put32(out + 4, versions[1]);
}

void xp_books_hear(struct xp_books *b, int peer, const uint8_t *in)
{
    if (!b)
        return;
    b->peers[peer].holds[0] = xp_get32(in);
    b->peers[peer].holds[1] = xp_get32(in + 4);
}

const uint8_t *xp_books_due(struct xp_books *b, int peer, size_t *len)
{
    const struct xp_book_writer *w = b && b->fitter ? xp_book_fitter_current(b->fitter) : NULL;
    const uint32_t *holds;

    if (!w || xp_coder_codec(b->shape->coder)->id != XP_CODEC_BOOK)
        return NULL;
    b->asked++;
    holds = b->peers[peer].holds;
    if (holds[0] == w->book.version || holds[1] == w->book.version)
        return NULL;
    b->shipped += w->len;
    *len = w->len;
    return w->bytes;
}

uint8_t *xp_books_room(struct xp_books *b, int peer, size_t *cap)
{
    *cap = b ? b->room_bytes : 0;
    return b ? b->peers[peer].room : NULL;
}

xp_status xp_books_take(struct xp_books *b, int peer, size_t len)
{
    const char *why;

    return xp_book_shelf_put(&b->peers[peer].shelf, b->peers[peer].room, len, &why);
}

const struct xp_book_shelf *xp_books_of(const struct xp_books *b, int peer)
{
    return b && b->peers[peer].room ? &b->peers[peer].shelf : NULL;
}

void xp_books_lose(struct xp_books *b)
{
    for (int i = 0; b && i < b->shape->comm->size; i++)
        xp_book_shelf_clear(&b->peers[i].shelf);
}
