/*
 * book_shelf.c - books of another rank, by version (book_keep.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/book_keep.h"
#include "hash/bytes.h"
#include "hash/frame.h"

#include <string.h>

xp_status xp_book_shelf_init(struct xp_book_shelf *s, size_t dim, unsigned max_centroids)
{
    const unsigned rank = dim <= XP_BOOK_RANK_DIM ? XP_BOOK_MAX_RANK : 0;
    xp_status status;

    memset(s, 0, sizeof(*s));
    status = xp_book_init(&s->book[0], dim, max_centroids, rank);
    if (!status)
        status = xp_book_init(&s->book[1], dim, max_centroids, rank);
    if (status)
        xp_book_shelf_fini(s);
    return status;
}

void xp_book_shelf_fini(struct xp_book_shelf *s)
{
    xp_book_fini(&s->book[0]);
    xp_book_fini(&s->book[1]);
    memset(s, 0, sizeof(*s));
}

xp_status xp_book_shelf_put(struct xp_book_shelf *s, const uint8_t *in, size_t len, const char **why)
{
    const int place = !s->last;
    size_t used;
    xp_status status;

    *why = "book: its checksum does not match";
    if (len < XP_BOOK_CHECK || xp_get64(in + len - XP_BOOK_CHECK) != xp_checksum(in, len - XP_BOOK_CHECK))
        return XP_ERR_CORRUPT;
    s->have[place] = 0;
    status = xp_book_read(&s->book[place], in, len - XP_BOOK_CHECK, &used, why);
    if (status)
        return status;
    *why = "book: bytes left over";
    if (used != len - XP_BOOK_CHECK)
        return XP_ERR_CORRUPT;
    s->have[place] = 1;
    s->last = place;
    *why = "";
    return XP_OK;
}

const struct xp_book *xp_book_shelf_find(const struct xp_book_shelf *s, uint32_t version)
{
    for (int i = 0; i < 2; i++)
        if (s->have[i] && s->book[i].version == version)
            return &s->book[i];
    return NULL;
}

void xp_book_shelf_versions(const struct xp_book_shelf *s, uint32_t versions[2])
{
    for (int i = 0; i < 2; i++) {
        const int place = i ? !s->last : s->last;
        versions[i] = s->have[place] ? s->book[place].version : 0;
    }
}

void xp_book_shelf_clear(struct xp_book_shelf *s)
{
    s->have[0] = s->have[1] = 0;
}
