/*
 * kept_book.c - codec book with a book that both ends keep (kept_book.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/kept_book.h"

#include <stdlib.h>

#include "hash/book_keep.h"

struct kept_book {
    struct xp_kernels kernels;
    struct xp_book_fitter *fitter;
    struct xp_book_shelf shelf;
    struct xp_coder *coder;
};

static xp_status learn(struct kept_book *k, const struct xp_rows *rows)
{
    /* No directions: plans have them on the slowest links only. */
    const struct xp_book_fit_desc d = {.dtype = rows->dtype, .dim = rows->dim, .seed = 1};
    const struct xp_book_writer *w;
    const char *why;
    xp_status s = xp_book_fitter_create(&k->fitter, &k->kernels, &d);

    if (s != XP_OK)
        return s;
    xp_book_fitter_add(k->fitter, rows, rows->rows);
    s = xp_book_fitter_begin(k->fitter, 1);
    for (s = s == XP_OK ? XP_IN_PROGRESS : s; s == XP_IN_PROGRESS;)
        s = xp_book_fitter_step(k->fitter);
    if (s != XP_OK)
        return s;
    xp_book_fitter_decide(k->fitter, 1);
    w = xp_book_fitter_current(k->fitter);
    s = xp_book_shelf_init(&k->shelf, rows->dim, XP_BOOK_MAX_CENTROIDS);
    return s == XP_OK ? xp_book_shelf_put(&k->shelf, w->bytes, w->len, &why) : s;
}

static xp_status create_coder(struct kept_book *k, const xp_codec_desc *d)
{
    struct xp_coder_desc cd = {.dtype = d->dtype, .dim = d->dim, .mode = d->mode, .eps = d->eps, .eps_ref = d->eps_ref,
                               .dither = d->dither == XP_DITHER_ON, .isa = (enum xp_isa)xp_isa_parse(d->isa)};
    xp_status s = xp_codec_parse("book", &cd.choice);

    if (s == XP_OK)
        s = xp_coder_create(&k->coder, &cd);
    if (s != XP_OK)
        return s;
    xp_coder_write_with(k->coder, xp_book_fitter_current(k->fitter));
    xp_coder_read_with(k->coder, &k->shelf);
    return XP_OK;
}

xp_status kept_book_create(struct kept_book **out, const xp_codec_desc *d, const struct xp_rows *rows)
{
    struct kept_book *k = calloc(1, sizeof(*k));
    xp_status s;

    *out = NULL;
    if (k == NULL)
        return XP_ERR_NO_MEMORY;
    xp_kernels_init(&k->kernels, (enum xp_isa)xp_isa_parse(d->isa));
    s = learn(k, rows);
    if (s == XP_OK)
        s = create_coder(k, d);
    if (s != XP_OK) {
        kept_book_destroy(k);
        return s;
    }
    *out = k;
    return XP_OK;
}

void kept_book_destroy(struct kept_book *k)
{
    if (k == NULL)
        return;
    xp_coder_destroy(k->coder);
    xp_book_shelf_fini(&k->shelf);
    xp_book_fitter_destroy(k->fitter);
    free(k);
}

xp_status kept_book_encode(struct kept_book *k, const struct xp_rows *in, void *frame, size_t cap, size_t *len, xp_codec_stats *st)
{
    return xp_coder_encode(k->coder, in, frame, cap, len, st);
}

xp_status kept_book_decode(struct kept_book *k, const void *frame, size_t len, void *out, size_t rows)
{
    return xp_coder_decode(k->coder, frame, len, out, rows);
}
