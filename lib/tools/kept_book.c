/*
 * kept_book.c - codec book with a book that both ends keep (kept_book.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/tools/kept_book.h"

#include <string.h>

xp_status kept_book_learn(struct kept_book *k, const struct xp_rows *rows, unsigned rank, enum xp_isa isa)
{
    const struct xp_book_fit_desc d = { .dtype = rows->dtype, .dim = rows->dim, .rank = rank, .seed = 1 };
    const struct xp_book_writer *w;
    const char *why;
    xp_status s;

    memset(k, 0, sizeof(*k));
    xp_kernels_init(&k->kernels, isa);
    s = xp_book_fitter_create(&k->fitter, &k->kernels, &d);
    if (s)
        return s;
    xp_book_fitter_add(k->fitter, rows, rows->rows);
    s = xp_book_fitter_begin(k->fitter, 1, 0);
    while (!s && (s = xp_book_fitter_step(k->fitter)) == XP_IN_PROGRESS)
        s = XP_OK;
    if (s)
        return s;
    xp_book_fitter_decide(k->fitter, 1);
    w = xp_book_fitter_current(k->fitter);
    s = xp_book_shelf_init(&k->shelf, rows->dim, XP_BOOK_MAX_CENTROIDS);
    return s ? s : xp_book_shelf_put(&k->shelf, w->bytes, w->len, &why);
}

void kept_book_fini(struct kept_book *k)
{
    xp_book_shelf_fini(&k->shelf);
    xp_book_fitter_destroy(k->fitter);
}

xp_status kept_book_coder(struct kept_book *k, struct xp_coder_desc *d, struct xp_coder **out)
{
    xp_status s = xp_codec_parse("book", &d->choice);

    if (!s)
        s = xp_coder_create(out, d);
    if (s)
        return s;
    xp_coder_write_with(*out, xp_book_fitter_current(k->fitter));
    xp_coder_read_with(*out, &k->shelf);
    return XP_OK;
}
