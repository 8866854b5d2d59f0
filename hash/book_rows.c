/*
 * book_rows.c - coding rows with a book: its room, and what both ends do
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/book_rows_impl.h"
#include "hash/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SIDE_BYTES ((size_t)24 << 10)

/* ---- room ----------------------------------------------------------------------------------------------------- */

static void *cut(uint8_t **p, size_t bytes)
{
    void *at = *p;

    *p += (bytes + 127) / 64 * 64;
    return at;
}

/* Lays everything out from p on; returns the end. */
static uint8_t *lay_out(struct xp_book_room *m, uint8_t *p)
{
    const size_t groups = m->most_symbols / XP_RANS_GROUP;

    m->half = cut(&p, 4 * groups);
    m->restored = cut(&p, 4 * m->pad);
    for (size_t i = 0; i < m->side; i++) {
        m->rest[i] = cut(&p, 4 * m->pad);
        m->typed[i] = cut(&p, 4 * m->pad);
        m->spare[i] = cut(&p, 2 * m->most_symbols);
        m->base[i] = cut(&p, 4 * m->pad);
        m->dither[i] = cut(&p, 4 * (m->pad + XP_DITHER_ROOM));
    }
    for (size_t i = 0; i < m->batch; i++) {
        m->q[i] = cut(&p, 2 * m->most_symbols);
        m->bytes[i] = cut(&p, xp_rans_bound(m->most_symbols) + XP_RANS_SLACK);
        m->work[i] = cut(&p, xp_rans_work_bytes(m->most_symbols));
    }
    for (int i = 0; i < XP_BOOK_OFFSETS; i++) {
        m->classes[i] = cut(&p, groups);
        m->bias[i] = cut(&p, 4 * groups);
    }
    return p;
}

/* Rows side by side: as many as the second-level cache holds. Rows of few states are more, since those that share tables are looked for
 * among them; coding touches less than half of their room. */
static size_t batch_rows(size_t symbols)
{
    const int few = xp_rans_lanes(symbols) < XP_RANS_MAX_LANES;
    size_t fit = ((size_t)1 << (few ? 21 : 20)) / (16 * symbols);

    if (!few && fit > 6)
        fit -= fit % 6; /* what the decoder takes at a time */
    return fit < 1 ? 1 : fit < XP_BOOK_BATCH ? fit : XP_BOOK_BATCH;
}

/* Rows searched in turns: as many as leave room in the first-level cache. */
static size_t side_rows(const struct xp_book_room *m)
{
    const size_t fit = SIDE_BYTES / (4 * m->pad + m->row_bytes + 4 * m->most_symbols);

    return fit < 1 ? 1 : fit < XP_BOOK_SIDE ? fit : XP_BOOK_SIDE;
}

void xp_book_fill_mantissas(float *mantissa)
{
    double root = 2, v = 1;

    for (int i = 0; i < 6; i++)
        root = sqrt(root);
    for (int i = 0; i < XP_BOOK_STEPS_PER_OCTAVE; i++, v *= root)
        mantissa[i] = (float)v;
}

xp_status xp_book_room_init(struct xp_book_room *m, const struct xp_kernels *k, xp_dtype t, size_t dim)
{
    size_t bytes;

    memset(m, 0, sizeof(*m));
    if (!dim || dim > 1u << 20 || (t != XP_BF16 && t != XP_F16 && t != XP_F32))
        return XP_ERR_INVALID_ARG;
    m->k = k;
    m->dtype = t;
    m->dim = dim;
    m->row_bytes = dim * xp_dtype_size(t);
    m->pad = (dim + 15) / 16 * 16 + 16;
    m->most_symbols = m->pad + XP_BOOK_MAX_RANK;
    m->batch = batch_rows(m->most_symbols);
    m->side = side_rows(m);
    bytes = (size_t)(lay_out(m, (uint8_t *)64) - (uint8_t *)64);
    m->memory = aligned_alloc(64, bytes);
    if (!m->memory)
        return XP_ERR_NO_MEMORY;
    memset(m->memory, 0, bytes);
    lay_out(m, m->memory);
    xp_book_fill_mantissas(m->mantissa);
    for (size_t g = 0; g < m->most_symbols / XP_RANS_GROUP; g++)
        m->half[g] = 0.5f;
    return XP_OK;
}

void xp_book_room_fini(struct xp_book_room *m)
{
    free(m->memory);
    free(m->columns);
    memset(m, 0, sizeof(*m));
}

xp_status xp_book_room_reserve(struct xp_book_room *m, size_t rows)
{
    if (rows <= m->cap_rows)
        return XP_OK;
    free(m->columns);
    m->cap_rows = 0;
    m->columns = malloc(16 * rows);
    if (!m->columns)
        return XP_ERR_NO_MEMORY;
    for (int i = 0; i < 4; i++)
        m->column[i] = (uint32_t *)m->columns + (size_t)i * rows;
    m->cap_rows = rows;
    return XP_OK;
}

/* ---- what both sides do ------------------------------------------------------------------------------------------ */

float xp_book_step_size(const struct xp_book_room *m, int step)
{
    const int octave = (step - (step & (XP_BOOK_STEPS_PER_OCTAVE - 1))) / XP_BOOK_STEPS_PER_OCTAVE;

    return xp_f32_from_bits(xp_f32_bits(m->mantissa[step & (XP_BOOK_STEPS_PER_OCTAVE - 1)]) + ((uint32_t)octave << 23));
}

size_t xp_book_symbols(const struct xp_book *b)
{
    return b->rank + b->dim;
}

/* Begins coding with book b: what was filled for another one is forgotten. */
void xp_book_begin(struct xp_book_room *m, const struct xp_book_dither *d)
{
    memset(m->filled, 0, sizeof(m->filled));
    m->above = 0;
    m->dithers = d ? *d : (struct xp_book_dither){ 0 };
}

const float *xp_book_dither_of(const struct xp_book_room *m, const struct xp_book *b, size_t r, float *room)
{
    if (!m->dithers.on)
        return NULL;
    m->k->uniform_dither(m->dithers.key, r, b->groups, room);
    return room;
}

/* Fills classes and widths of the cell of zero for rows of this offset. Returns their place. */
int xp_book_use_offset(struct xp_book_room *m, const struct xp_book *b, int offset)
{
    const size_t first = b->rank / XP_RANS_GROUP;
    const int at = offset + XP_BOOK_LARGEST_OFFSET;

    if (m->filled[at])
        return at;
    m->filled[at] = 1;
    memcpy(m->classes[at], b->coordinate_class, first);
    for (size_t g = 0; g < b->groups; g++) {
        const int sum = b->group_class[g] + offset;
        const unsigned class = sum < 0 ? 0 : sum >= XP_RANS_CLASSES ? XP_RANS_CLASSES - 1 : (unsigned)sum;

        m->bias[at][g] = 0.5f - xp_rans_table(class)->dead_zone;
        m->classes[at][first + g] = (uint8_t)(m->dithers.on ? xp_book_dithered_class(class) : class);
    }
    return at;
}

/* What a row is coded against: its centroid or the mean, and its coordinates along the directions. */
const float *xp_book_base_of(const struct xp_book_room *m, const struct xp_book *b, uint32_t centroid, const int16_t *coordinate, float *room)
{
    const float *base = b->centroids ? b->centroid + centroid * b->pad : b->mean;
    float along[XP_BOOK_MAX_RANK];

    if (!b->rank)
        return base;
    memcpy(room, base, b->pad * sizeof(*base));
    for (unsigned j = 0; j < b->rank; j++)
        along[j] = (float)coordinate[j] * b->coordinate_step;
    m->k->vector_adds(room, b->direction, b->pad, along, b->rank, b->groups);
    return room;
}
