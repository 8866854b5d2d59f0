/*
 * book_nearest.c - which centroid of a kept book a row is coded against
 *
 * The nearest one in the sketch. Where a book has directions, what lies along them costs few bits, so that the nearest is not the cheapest:
 * of the nearest in each part of the centroids, that one is taken which is the fewest deviations away, of the coordinates along the
 * directions and of what is left across them. With d the directions and v the variance of their coordinates, in units of the variance of what
 * is left, that distance is |x - c|^2 - sum of (1 - 1/v) (d . (x - c))^2 = x . W x - 2 x . W c + c . W c, and W c is the same for all rows.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/book_keep.h"

#include <math.h>
#include <string.h>

#define PARTS 8 /* of the centroids; 16 save 0.05 to 0.2 % more bytes and take half as long again */
#define ROWS 96 /* whole blocks of kernel assign, of 24 rows or 32 */

/* ---- once for a book ---- */

static void by_channel(const struct xp_book *b, const float *in_order, float *out)
{
    memset(out, 0, b->pad * sizeof(*out));
    for (size_t i = 0; i < b->dim; i++)
        out[i / XP_REORDER_WINDOW * XP_REORDER_WINDOW + b->channel[i]] = in_order[i];
}

/* v becomes W v. */
static void weigh(const struct xp_book_writer *w, float *v)
{
    const struct xp_book *b = &w->book;
    float factor[XP_BOOK_MAX_RANK];

    w->k->vector_dots(v, b->direction, b->pad, b->rank, b->groups, factor);
    for (unsigned j = 0; j < b->rank; j++) {
        const float deviation = XP_BOOK_COARSE * xp_quarter_exp2(b->coordinate_class[j / XP_RANS_GROUP] - XP_RANS_UNIT_CLASS);

        factor[j] *= deviation > 1 ? 1 / (deviation * deviation) - 1 : 0;
    }
    w->k->vector_adds(v, b->direction, b->pad, factor, b->rank, b->groups);
}

void xp_book_weigh(struct xp_book_writer *w, unsigned i, float *room)
{
    const struct xp_book *b = &w->book;
    float *plain = room, *weighed = room + b->pad;

    if (i == 0)
        by_channel(b, b->mean, w->mean);
    for (size_t c = 0; c < b->pad; c++)
        weighed[c] = plain[c] = b->centroid[i * b->pad + c] - b->mean[c];
    weigh(w, weighed);
    w->k->vector_dots(plain, weighed, 0, 1, b->groups, &w->weight[i]);
    by_channel(b, weighed, w->weighed + i * b->pad);
}

/* ---- for every row ---- */

/* Of the centroids closest[..][i], the one that row x (less the mean) is the fewest deviations away from; the first of equal ones. */
static uint32_t cheapest(const struct xp_book_writer *w, const float *x, uint32_t (*closest)[ROWS], size_t count, size_t i)
{
    float least = INFINITY;
    uint32_t best = closest[0][i];

    for (size_t g = 0; g < count; g++) {
        const uint32_t c = closest[g][i];
        float along, distance;

        w->k->vector_dots(x, w->weighed + c * w->book.pad, 0, 1, w->book.groups, &along);
        distance = w->weight[c] - 2 * along;
        if (distance < least) {
            least = distance;
            best = c;
        }
    }
    return best;
}

/* At most ROWS rows of a book with directions. */
static void assign_cheapest(const struct xp_book_writer *w, const struct xp_rows *in, const int16_t *sketch, float *room, uint32_t *of)
{
    const unsigned s = w->hasher.sketch;
    const size_t all = w->book.centroids, parts = all < PARTS ? all : PARTS;
    uint32_t closest[PARTS][ROWS];

    for (size_t g = 0; g < parts; g++) {
        const size_t first = g * all / parts, end = (g + 1) * all / parts;

        w->k->assign(sketch, in->rows, s, w->sketch + first * s, end - first, closest[g]);
        for (size_t i = 0; i < in->rows; i++)
            closest[g][i] += (uint32_t)first;
    }
    for (size_t i = 0; i < in->rows; i++) {
        w->k->residual(xp_row(in, i), in->dtype, w->mean, w->book.dim, room);
        of[i] = cheapest(w, room, closest, parts, i);
    }
}

void xp_book_assign(const struct xp_book_writer *w, const struct xp_rows *in, float *room, uint32_t *of)
{
    uint32_t index[ROWS];
    int16_t sketch[ROWS * XP_BOOK_SKETCH_DIRECTIONS];

    memset(room, 0, w->book.pad * sizeof(*room));
    for (size_t r = 0; r < in->rows; r += ROWS) {
        struct xp_rows part = *in;

        part.rows = in->rows - r < ROWS ? in->rows - r : ROWS;
        for (size_t i = 0; i < part.rows; i++)
            index[i] = in->index ? in->index[r + i] : (uint32_t)(r + i);
        part.index = index;
        w->k->hash(&w->hasher, &part, NULL, sketch);
        if (w->book.rank)
            assign_cheapest(w, &part, sketch, room, of + r);
        else
            w->k->assign(sketch, part.rows, w->hasher.sketch, w->sketch, w->book.centroids, of + r);
    }
}
