/*
 * test_book_keep.c - kept books: what they save on later rows, versions, the shelf, harm done to their bytes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hash/book_keep.h"
#include "hash/bytes.h"
#include "hash/codec.h"
#include "hash/frame.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

#define DIM 128
#define ROWS 1024

static float rows[ROWS * DIM], back[ROWS * DIM];
static uint8_t frame[ROWS * DIM * 4 + 64 + 4 * ROWS];
static uint32_t of[ROWS];
static float room[DIM + 16];
static const struct xp_rows in = { .data = rows, .rows = ROWS, .dim = DIM, .dtype = XP_F32 };

/* Rows around 40 centres, which belong to a domain. */
static void fill(struct random *rng, uint64_t domain)
{
    for (size_t r = 0; r < ROWS; r++) {
        struct random centre = random_seeded(domain * 1000 + random_below(rng, 40));

        for (size_t i = 0; i < DIM; i++)
            rows[r * DIM + i] = (float)(3 * random_normal(&centre) + random_normal(rng));
    }
}

static struct xp_book_fitter *make(const struct xp_kernels *k, unsigned centroids, unsigned rank)
{
    const struct xp_book_fit_desc d = { .dtype = XP_F32, .dim = DIM, .rows = ROWS, .centroids = centroids, .rank = rank, .seed = 3 };
    struct xp_book_fitter *f;

    cr_assert_eq(xp_book_fitter_create(&f, k, &d), XP_OK);
    cr_assert_gt(xp_book_fitter_bytes(f), sizeof(rows));
    return f;
}

static const struct xp_book *own(const struct xp_book_fitter *f)
{
    return &xp_book_fitter_current(f)->book;
}

static void fit(struct xp_book_fitter *f, uint32_t version)
{
    xp_status s;
    int steps = 0;

    xp_book_fitter_add(f, &in, ROWS);
    cr_assert_eq(xp_book_fitter_begin(f, version, 0), XP_OK);
    cr_assert_eq(xp_book_fitter_begin(f, version, 0), XP_ERR_STATE);
    while ((s = xp_book_fitter_step(f)) == XP_IN_PROGRESS)
        cr_assert_lt(++steps, 2000);
    cr_assert_eq(s, XP_OK);
    cr_assert_eq(xp_book_fitter_candidate(f)->book.version, version);
    cr_assert_eq(xp_book_fitter_begin(f, version, 0), XP_ERR_STATE);
    xp_book_fitter_decide(f, 1);
    cr_assert_null(xp_book_fitter_candidate(f));
    cr_assert_eq(own(f)->version, version);
}

static size_t code(const struct xp_kernels *k, const struct xp_book *writer, const struct xp_book *reader, const uint32_t *centroid)
{
    const struct xp_book_promise promise = { 0.1, 0 };
    xp_codec_stats st = { .size = sizeof(st) };
    struct xp_book_room m;
    const char *why = "";
    size_t len;

    cr_assert_eq(xp_book_room_init(&m, k, XP_F32, DIM), XP_OK);
    cr_assert_eq(xp_book_room_reserve(&m, ROWS), XP_OK);
    cr_assert_eq(xp_book_encode_rows(&m, writer, &promise, NULL, &in, centroid, frame, sizeof(frame), &len, &st), XP_OK);
    cr_assert_eq(xp_book_decode_rows(&m, reader, NULL, frame, len, ROWS, back, &why), XP_OK, "%s", why);
    for (size_t r = 0; r < ROWS; r++)
        cr_assert_leq(value_distance(rows + r * DIM, back + r * DIM, XP_F32, DIM), 0.1 * value_norm(rows + r * DIM, XP_F32, DIM));
    xp_book_room_fini(&m);
    return len;
}

static void put(struct xp_book_shelf *s, const struct xp_book_fitter *f)
{
    const char *why = "";
    size_t len;
    const uint8_t *book = xp_book_fitter_current(f)->bytes;
    len = xp_book_fitter_current(f)->len;

    cr_assert_eq(xp_book_shelf_put(s, book, len, &why), XP_OK, "%s", why);
}

Test(book_keep, a_kept_book_saves_on_rows_it_has_not_seen)
{
    struct random rng = random_start("book_keep");
    struct xp_book_shelf shelf;
    struct xp_kernels k;
    size_t len[3];

    xp_kernels_init(&k, XP_ISA_BEST);
    cr_assert_eq(xp_book_shelf_init(&shelf, DIM, 64), XP_OK);
    for (int i = 0; i < 3; i++) {
        struct xp_book_fitter *f = make(&k, i == 0 ? 1 : 64, i == 2 ? 16 : 0);

        fill(&rng, 1);
        fit(f, (uint32_t)i + 1);
        put(&shelf, f);
        fill(&rng, 1);
        xp_book_assign(xp_book_fitter_current(f), &in, room, of);
        len[i] = code(&k, own(f), xp_book_shelf_find(&shelf, (uint32_t)i + 1), of);
        xp_book_fitter_destroy(f);
    }
    /* 3:1 between the spread of the centres and the rows around them is 1.66 bits a value. */
    cr_assert_lt(len[1] + ROWS * DIM * 1.2 / 8, len[0], "%zu bytes with centroids, %zu without", len[1], len[0]);
    /* These rows have no directions to gain by; what 16 of them cost depends on the draw. */
    cr_assert_lt(len[2], 1.08 * len[1], "%zu bytes with directions, %zu without", len[2], len[1]);
    xp_book_shelf_fini(&shelf);
}

/* Rows around 40 centres that are spread much along 16 directions: which centre is nearest says little. */
static void fill_spread(struct random *rng)
{
    struct random fixed = random_seeded(77);
    float direction[16][DIM];

    for (size_t i = 0; i < 16 * DIM; i++)
        direction[i / DIM][i % DIM] = (float)random_normal(&fixed);
    fill(rng, 1);
    for (size_t r = 0; r < ROWS; r++)
        for (int j = 0; j < 16; j++) {
            const float along = (float)(4 * random_normal(rng));

            for (size_t i = 0; i < DIM; i++)
                rows[r * DIM + i] += along * direction[j][i];
        }
}

/* The nearest centroids in the sketch. */
static void assign_nearest(const struct xp_book_writer *w)
{
    int16_t *sketch = malloc(ROWS * w->hasher.sketch * sizeof(*sketch));

    w->k->hash(&w->hasher, &in, NULL, sketch);
    w->k->assign(sketch, ROWS, w->hasher.sketch, w->sketch, w->book.centroids, of);
    free(sketch);
}

Test(book_keep, what_lies_along_directions_hardly_counts_when_a_centroid_is_chosen)
{
    struct random rng = random_start("book_along");
    struct xp_kernels k;
    size_t chosen, nearest;

    xp_kernels_init(&k, XP_ISA_BEST);
    struct xp_book_fitter *f = make(&k, 64, 16);
    fill_spread(&rng);
    fit(f, 1);
    fill_spread(&rng);
    xp_book_assign(xp_book_fitter_current(f), &in, room, of);
    chosen = code(&k, own(f), own(f), of);
    assign_nearest(xp_book_fitter_current(f));
    nearest = code(&k, own(f), own(f), of);
    cr_assert_lt(chosen + ROWS * DIM * 0.05 / 8, nearest, "%zu bytes with centroids as chosen, %zu with the nearest", chosen, nearest);
    xp_book_fitter_destroy(f);
}

/* Puts centroid c, and a little noise, in the place of row r. */
static void put_centroid(const struct xp_book *b, struct random *rng, unsigned c, size_t r, double noise)
{
    for (size_t i = 0; i < DIM; i++)
        rows[r * DIM + b->channel[i]] = b->centroid[c * b->pad + i] + (float)(noise * random_normal(rng));
    of[r] = c;
}

Test(book_keep, rows_of_which_nothing_needs_to_be_sent_widen_no_column)
{
    struct random rng = random_start("book_nothing");
    struct xp_kernels k;
    unsigned width;

    xp_kernels_init(&k, XP_ISA_BEST);
    struct xp_book_fitter *f = make(&k, 40, 0);
    fill(&rng, 1);
    fit(f, 1);
    fill(&rng, 1);
    xp_book_assign(xp_book_fitter_current(f), &in, room, of);
    code(&k, own(f), own(f), of);
    width = frame[2]; /* bits of a row's step */
    for (size_t r = 0; r < ROWS; r += 100)
        put_centroid(own(f), &rng, (unsigned)(r / 100), r, exp2(-(double)r / 100));
    code(&k, own(f), own(f), of);
    cr_assert_leq(frame[2], width + 2, "%u bits, %u before", frame[2], width);
    xp_book_fitter_destroy(f);
}

Test(book_keep, plain_c_fits_the_same_book)
{
    struct xp_kernels k[2];
    size_t len[2];
    uint8_t *book[2];

    for (int i = 0; i < 2; i++) {
        struct random rng = random_seeded(17);
        xp_kernels_init(&k[i], i ? XP_ISA_BEST : XP_ISA_C);
        struct xp_book_fitter *f = make(&k[i], 50, 16);

        fill(&rng, 1);
        fit(f, 9);
        const uint8_t *p = xp_book_fitter_current(f)->bytes;
        len[i] = xp_book_fitter_current(f)->len;
        book[i] = malloc(len[i]);
        memcpy(book[i], p, len[i]);
        xp_book_fitter_destroy(f);
    }
    cr_assert_eq(len[0], len[1]);
    cr_assert_arr_eq(book[0], book[1], len[0]);
    free(book[0]);
    free(book[1]);
}

Test(book_keep, a_shelf_holds_the_last_two_versions)
{
    struct random rng = random_start("book_shelf");
    struct xp_book_shelf shelf;
    struct xp_kernels k;

    xp_kernels_init(&k, XP_ISA_BEST);
    cr_assert_eq(xp_book_shelf_init(&shelf, DIM, 16), XP_OK);
    struct xp_book_fitter *f = make(&k, 16, 0);
    fill(&rng, 1);
    cr_assert_null(xp_book_shelf_find(&shelf, 0));
    for (uint32_t version = 1; version <= 4; version++) {
        fit(f, version);
        put(&shelf, f);
        for (uint32_t v = 0; v <= 6; v++)
            cr_assert_eq(xp_book_shelf_find(&shelf, v) != NULL, v > 0 && v <= version && v + 1 >= version, "%u of %u", v, version);
    }
    xp_book_fitter_destroy(f);

    /* A book with more centroids than the shelf has room for is refused and the newer of the old ones stays. */
    const char *why;
    size_t len;
    f = make(&k, 40, 0);
    fit(f, 5);
    const uint8_t *book = xp_book_fitter_current(f)->bytes;
    len = xp_book_fitter_current(f)->len;
    cr_assert_eq(xp_book_shelf_put(&shelf, book, len, &why), XP_ERR_CORRUPT);
    cr_assert(xp_book_shelf_find(&shelf, 4) && !xp_book_shelf_find(&shelf, 5));
    xp_book_fitter_destroy(f);
    xp_book_shelf_fini(&shelf);
}

Test(book_keep, every_flipped_bit_of_a_book_is_found)
{
    struct random rng = random_start("book_flips");
    struct xp_book_shelf shelf;
    struct xp_kernels k;
    const char *why;
    size_t len;

    xp_kernels_init(&k, XP_ISA_BEST);
    cr_assert_eq(xp_book_shelf_init(&shelf, DIM, 16), XP_OK);
    struct xp_book_fitter *f = make(&k, 4, 0);
    fill(&rng, 1);
    fit(f, 1);
    const uint8_t *book = xp_book_fitter_current(f)->bytes;
    len = xp_book_fitter_current(f)->len;
    uint8_t *bad = malloc(len);
    memcpy(bad, book, len);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_assert_eq(xp_book_shelf_put(&shelf, bad, len, &why), XP_ERR_CORRUPT, "bit %zu", bit);
        bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t cut = 0; cut < len; cut += 7)
        cr_assert_eq(xp_book_shelf_put(&shelf, bad, cut, &why), XP_ERR_CORRUPT);
    free(bad);
    xp_book_fitter_destroy(f);
    xp_book_shelf_fini(&shelf);
}

Test(book_keep, rows_of_another_domain_stay_within_the_promise)
{
    struct random rng = random_start("book_drift");
    struct xp_kernels k;

    xp_kernels_init(&k, XP_ISA_BEST);
    struct xp_book_fitter *f = make(&k, 64, 16);
    fill(&rng, 1);
    fit(f, 1);
    size_t home = 0, away = 0, again = 0;
    fill(&rng, 1);
    xp_book_assign(xp_book_fitter_current(f), &in, room, of);
    home = code(&k, own(f), own(f), of);
    for (int call = 0; call < 12; call++) {
        fill(&rng, 2);
        xp_book_assign(xp_book_fitter_current(f), &in, room, of);
        away = call ? away : code(&k, own(f), own(f), of);
        xp_book_fitter_add(f, &in, ROWS);
    }
    cr_assert_gt(away, home);
    fit(f, 2);
    xp_book_assign(xp_book_fitter_current(f), &in, room, of);
    again = code(&k, own(f), own(f), of);
    cr_assert_lt(again, away - (away - home) / 2, "%zu at home, %zu away, %zu after fitting again", home, away, again);
    xp_book_fitter_destroy(f);
}

/* Frames name the version of a kept book: the reader needs that very book, and says so where it is missing. */
Test(book_keep, frames_name_the_book_they_need)
{
    struct random rng = random_start("book_frames");
    struct xp_coder_desc d = { .dtype = XP_F32, .dim = DIM, .mode = XP_MODE_BOUNDED, .eps = 0.1, .eps_ref = XP_EPS_REF_ROW,
                               .isa = XP_ISA_AVX512 };
    struct xp_coder *coder;
    struct xp_book_shelf shelf;
    struct xp_kernels k;
    uint32_t versions[2];
    size_t own_len, len;

    cr_assert_eq(xp_codec_parse("book", &d.choice), XP_OK);
    cr_assert_eq(xp_coder_create(&coder, &d), XP_OK);
    xp_kernels_init(&k, XP_ISA_AVX512);
    cr_assert_eq(xp_book_shelf_init(&shelf, DIM, 64), XP_OK);
    struct xp_book_fitter *f = make(&k, 64, 0);
    fill(&rng, 1);
    fit(f, 7);
    put(&shelf, f);
    xp_book_shelf_versions(&shelf, versions);
    cr_assert(versions[0] == 7 && versions[1] == 0);

    fill(&rng, 1);
    cr_assert_eq(xp_coder_encode(coder, &in, frame, sizeof(frame), &own_len, NULL), XP_OK);
    xp_coder_write_with(coder, xp_book_fitter_current(f));
    cr_assert_eq(xp_coder_encode(coder, &in, frame, sizeof(frame), &len, NULL), XP_OK);
    cr_assert_lt(len, own_len, "%zu bytes with the kept book, %zu with one in the frame", len, own_len);

    cr_assert_eq(xp_coder_decode(coder, frame, len, back, ROWS), XP_ERR_CORRUPT);
    cr_assert_str_eq(xp_coder_why(coder), "book: coded with a book that is not here");
    xp_coder_read_with(coder, &shelf);
    cr_assert_eq(xp_coder_decode(coder, frame, len, back, ROWS), XP_OK, "%s", xp_coder_why(coder));
    for (size_t r = 0; r < ROWS; r++)
        cr_assert_leq(value_distance(rows + r * DIM, back + r * DIM, XP_F32, DIM), 0.1 * value_norm(rows + r * DIM, XP_F32, DIM));
    xp_book_shelf_clear(&shelf);
    cr_assert_eq(xp_coder_decode(coder, frame, len, back, ROWS), XP_ERR_CORRUPT);
    xp_coder_destroy(coder);
    xp_book_fitter_destroy(f);
    xp_book_shelf_fini(&shelf);
}

/* A sender of its own: rows learned from, then a frame of others. */
struct sender {
    enum xp_isa isa;
    uint8_t *frame;
    size_t len;
};

static void *send_rows(void *arg)
{
    struct sender *s = arg;
    struct xp_coder_desc d = { .dtype = XP_F32, .dim = DIM, .mode = XP_MODE_BOUNDED, .eps = 0.1, .eps_ref = XP_EPS_REF_ROW, .isa = s->isa };
    const struct xp_book_fit_desc fd = { .dtype = XP_F32, .dim = DIM, .rows = ROWS, .centroids = 32, .rank = 16, .seed = 3 };
    struct xp_rows half = { .data = rows, .rows = ROWS / 2, .dim = DIM, .dtype = XP_F32 };
    struct xp_book_fitter *f;
    struct xp_coder *coder;
    struct xp_kernels k;

    xp_kernels_init(&k, s->isa);
    s->len = 0;
    if (xp_codec_parse("book", &d.choice) || xp_coder_create(&coder, &d) || xp_book_fitter_create(&f, &k, &fd))
        return NULL;
    xp_book_fitter_add(f, &half, ROWS / 2);
    if (xp_book_fitter_begin(f, 1, 0) == XP_OK)
        while (xp_book_fitter_step(f) == XP_IN_PROGRESS)
            ;
    xp_book_fitter_decide(f, 1);
    half.data = rows + ROWS / 2 * DIM;
    xp_coder_write_with(coder, xp_book_fitter_current(f));
    xp_coder_encode(coder, &half, s->frame, sizeof(frame), &s->len, NULL);
    xp_coder_destroy(coder);
    xp_book_fitter_destroy(f);
    return NULL;
}

Test(book_keep, every_variant_and_thread_makes_the_same_frame)
{
    struct random rng = random_start("book_same");
    struct sender s[4];
    pthread_t thread[4];

    fill(&rng, 1);
    for (int i = 0; i < 4; i++) {
        s[i] = (struct sender){ .isa = i == 0 ? XP_ISA_C : i == 1 ? XP_ISA_AVX2 : XP_ISA_AVX512, .frame = malloc(sizeof(frame)) };
        cr_assert_eq(pthread_create(&thread[i], NULL, send_rows, &s[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        cr_assert(s[i].len > 0 && s[i].len == s[0].len, "%zu and %zu bytes", s[i].len, s[0].len);
        cr_assert_arr_eq(s[i].frame, s[0].frame, s[0].len);
    }
    for (int i = 0; i < 4; i++)
        free(s[i].frame);
}

Test(book_keep, too_few_rows_and_odd_wishes_are_refused)
{
    struct xp_book_fit_desc d = { .dtype = XP_F32, .dim = DIM, .rows = ROWS, .seed = 1 };
    struct xp_book_fitter *f;
    struct xp_kernels k;

    xp_kernels_init(&k, XP_ISA_BEST);
    d.rank = 8;
    cr_assert_eq(xp_book_fitter_create(&f, &k, &d), XP_ERR_INVALID_ARG);
    d.rank = 0;
    d.centroids = 2000;
    cr_assert_eq(xp_book_fitter_create(&f, &k, &d), XP_ERR_INVALID_ARG);
    d.centroids = 0;
    d.dtype = XP_BYTE;
    cr_assert_eq(xp_book_fitter_create(&f, &k, &d), XP_ERR_INVALID_ARG);
    f = make(&k, 0, 0);
    cr_assert_eq(xp_book_fitter_begin(f, 1, 0), XP_ERR_STATE);
    cr_assert_eq(xp_book_fitter_step(f), XP_ERR_STATE);
    /* NaN and zero rows are no ground for a book. */
    for (size_t i = 0; i < ROWS * DIM; i++)
        rows[i] = i % 2 ? NAN : 0;
    xp_book_fitter_add(f, &in, ROWS);
    cr_assert_eq(xp_book_fitter_rows(f), ROWS);
    cr_assert_eq(xp_book_fitter_begin(f, 1, 0), XP_OK);
    cr_assert_eq(xp_book_fitter_step(f), XP_ERR_STATE);
    xp_book_fitter_destroy(f);
}
