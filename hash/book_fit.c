/*
 * book_fit.c - mean, spread and directions of a sample of rows
 *
 * Every row counts alike, whatever its norm: it is brought to norm 1 a value after the mean is taken off. The directions are
 * those of most energy, found by orthogonal iteration (Golub and Van Loan, Matrix Computations, 8.2.4).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/book.h"
#include "hash/half.h"

#include <math.h>
#include <string.h>

#define LARGEST_ENERGY 1e30f /* rows with more stay out of the fit, as NaN and Inf do */
#define ITERATIONS 4
#define COARSE 3.5f          /* step of the coordinates in deviations of what is left: costs least bits */

size_t xp_book_pick(const struct xp_kernels *k, const struct xp_rows *in, uint32_t *order, size_t most)
{
    const size_t take = in->rows < most ? in->rows : most;
    size_t n = 0;

    for (size_t i = 0; i < take; i++) {
        const size_t r = (2 * i + 1) * in->rows / (2 * take);
        const float energy = k->distance(xp_row(in, r), NULL, in->dtype, in->dim);

        if (energy > 0 && energy <= LARGEST_ENERGY)
            order[n++] = (uint32_t)r;
    }
    return n;
}

static size_t padded(size_t dim)
{
    return (dim + 15) / 16 * 16 + 16;
}

size_t xp_book_fit_floats(size_t dim, size_t count, unsigned rank)
{
    return (count + 2 * rank + 2) * padded(dim) + count;
}

/* The scratch of one fit. */
struct fit {
    const struct xp_kernels *k;
    size_t dim, pad, count;
    unsigned rank;
    float *rows;      /* [count][pad] normalised, by channel */
    float *direction; /* [rank][pad] by channel */
    float *next;      /* [rank][pad] of the next iteration */
    float *mean, *spread;
    float *scale;     /* [count] a row's norm a value */
};

static struct fit cut(size_t dim, size_t count, unsigned rank, float *work)
{
    struct fit f = { .dim = dim, .pad = padded(dim), .count = count, .rank = rank, .rows = work };

    f.direction = f.rows + count * f.pad;
    f.next = f.direction + rank * f.pad;
    f.mean = f.next + rank * f.pad;
    f.spread = f.mean + f.pad;
    f.scale = f.spread + f.pad;
    return f;
}

static float dot(const struct fit *f, const float *a, const float *b)
{
    return f->k->vector_dot(a, b, f->pad / 16);
}

static void add_scaled(const struct fit *f, float *a, const float *b, float factor)
{
    f->k->vector_add(a, b, factor, f->pad / 16);
}

static void scale_to_unit(const struct fit *f, float *v)
{
    const size_t dim = f->dim;
    const float norm = sqrtf(dot(f, v, v));

    for (size_t i = 0; i < dim && norm > 1e-20f; i++)
        v[i] /= norm;
}

static void normalise_rows(struct fit *f, const struct xp_kernels *k, const struct xp_book_sample *s)
{
    memset(f->rows, 0, f->count * f->pad * sizeof(float));
    for (size_t r = 0; r < f->count; r++) {
        float *row = f->rows + r * f->pad;

        k->residual(xp_row(s->in, s->order[r]), s->in->dtype, s->of ? s->centroid + s->of[r] * f->dim : f->mean, f->dim, row);
        f->scale[r] = sqrtf(dot(f, row, row) / (float)f->dim);
        const float factor = f->scale[r] > 0 ? 1 / f->scale[r] : 0;
        for (size_t i = 0; i < f->dim; i++)
            row[i] *= factor;
    }
}

/* next = sum over rows of (row . old) row, for every direction; then orthonormal again, strongest first. */
static void iterate(struct fit *f)
{
    memset(f->next, 0, f->rank * f->pad * sizeof(float));
    for (size_t r = 0; r < f->count; r++)
        for (unsigned j = 0; j < f->rank; j++) {
            const float *row = f->rows + r * f->pad;
            add_scaled(f, f->next + j * f->pad, row, dot(f, row, f->direction + j * f->pad));
        }
    memcpy(f->direction, f->next, f->rank * f->pad * sizeof(float));
    for (unsigned j = 0; j < f->rank; j++) {
        float *v = f->direction + j * f->pad;

        scale_to_unit(f, v);
        for (unsigned i = 0; i < j; i++)
            add_scaled(f, v, f->direction + i * f->pad, -dot(f, v, f->direction + i * f->pad));
        scale_to_unit(f, v);
    }
}

static void find_directions(struct fit *f)
{
    for (unsigned j = 0; j < f->rank; j++)
        memcpy(f->direction + j * f->pad, f->rows + (size_t)j * f->count / f->rank * f->pad, f->pad * sizeof(float));
    for (int i = 0; i < ITERATIONS; i++)
        iterate(f);
}

static int clamp(int v, int low, int high)
{
    return v < low ? low : v > high ? high : v;
}

/* Takes the coordinates off the rows, as coding will: rounded to the step. Returns their deviations' classes in b. */
static void take_coordinates(struct fit *f, struct xp_book *b, float step)
{
    double sum[XP_BOOK_MAX_RANK / XP_RANS_GROUP] = { 0 };

    for (size_t r = 0; r < f->count; r++)
        for (unsigned j = 0; j < f->rank; j++) {
            float *row = f->rows + r * f->pad;
            const float a = dot(f, row, f->direction + j * f->pad);

            sum[j / XP_RANS_GROUP] += (double)a * a;
            add_scaled(f, row, f->direction + j * f->pad, -rintf(a / step) * step);
        }
    for (unsigned g = 0; g < f->rank / XP_RANS_GROUP; g++) {
        const double deviation = sqrt(sum[g] / ((double)f->count * XP_RANS_GROUP)) / step;
        b->coordinate_class[g] = (uint8_t)clamp(XP_RANS_UNIT_CLASS + xp_quarter_log2((float)fmax(deviation, 1e-3)), 0, XP_RANS_CLASSES - 1);
    }
}

/* Deviation a value of the rows with all directions taken off. */
static float left_over(const struct fit *f)
{
    double all = 0, along = 0;

    for (size_t r = 0; r < f->count; r++) {
        const float *row = f->rows + r * f->pad;
        all += dot(f, row, row);
        for (unsigned j = 0; j < f->rank; j++) {
            const float a = dot(f, row, f->direction + j * f->pad);
            along += (double)a * a;
        }
    }
    return (float)sqrt(fmax(all - along, 1e-6 * all) / ((double)f->count * (double)f->dim));
}

static void find_spread(struct fit *f, struct xp_book *b)
{
    int least = 1000, most = -1000;

    memset(f->spread, 0, f->pad * sizeof(float));
    for (size_t r = 0; r < f->count; r++)
        for (size_t i = 0; i < f->dim; i++)
            f->spread[i] += f->rows[r * f->pad + i] * f->rows[r * f->pad + i];
    for (size_t i = 0; i < f->dim; i++) {
        const float deviation = sqrtf(f->spread[i] / (float)f->count);
        const int class = deviation > 1e-9f ? xp_quarter_log2(deviation) : -120;

        least = class < least ? class : least;
        most = class > most ? class : most;
        f->spread[i] = (float)class;
    }
    least = least < most - XP_BOOK_MAX_CLASS ? most - XP_BOOK_MAX_CLASS : least;
    for (size_t i = 0; i < f->dim; i++)
        b->channel_class[i] = (uint8_t)clamp((int)f->spread[i] - least, 0, XP_BOOK_MAX_CLASS);
    b->has_spread = most > least;
}

static float mean_scale(const struct fit *f)
{
    double sum = 0;

    for (size_t r = 0; r < f->count; r++)
        sum += f->scale[r];
    return (float)(sum / (double)f->count);
}

/* Bits a value that coding against the mean saves, a row's own part in the mean left out. */
static double mean_gain(const struct fit *f, const struct xp_kernels *k, const struct xp_book_sample *s)
{
    const double others = (double)f->count / ((double)f->count - 1);
    double bits = 0;

    for (size_t r = 0; r < f->count; r++) {
        const double all = k->distance(xp_row(s->in, s->order[r]), NULL, s->in->dtype, s->in->dim);
        const double rest = (double)f->scale[r] * f->scale[r] * (double)f->dim * others * others;
        bits += 0.5 * log2(all / fmax(rest, 1e-6 * all));
    }
    return bits / (double)f->count;
}

/* Bits a value that knowing every channel's spread saves. */
static double spread_gain(const struct xp_book *b)
{
    double energy = 0, log = 0;

    for (size_t i = 0; i < b->dim; i++) {
        energy += exp2(b->channel_class[i] / 2.0);
        log += b->channel_class[i] / 4.0;
    }
    return 0.5 * log2(energy / (double)b->dim) - log / (double)b->dim;
}

static void find_mean(struct fit *f, struct xp_book *b, const struct xp_kernels *k, const struct xp_book_sample *s, size_t rows)
{
    const uint32_t start[2] = {0, (uint32_t)s->count};

    k->centroid(s->in, s->order, start, 1, f->mean);
    for (size_t i = 0; i < f->dim; i++)
        f->mean[i] = xp_bf16_to_f32(xp_f32_to_bf16(f->mean[i]));
    normalise_rows(f, k, s);
    if (s->of) {
        b->has_mean = 1;
        return;
    }
    b->has_mean = mean_gain(f, k, s) * (double)rows > 16;
    if (b->has_mean)
        return;
    memset(f->mean, 0, f->pad * sizeof(float));
    normalise_rows(f, k, s);
}

void xp_book_fit(struct xp_book *b, const struct xp_kernels *k, const struct xp_book_sample *s, unsigned rank, size_t rows,
                 float *work)
{
    struct fit f = cut(b->dim, s->count, rank, work);

    f.k = k;

    xp_book_clear(b);
    find_mean(&f, b, k, s, rows);
    if (rank) {
        find_directions(&f);
        const float step = COARSE * left_over(&f);
        take_coordinates(&f, b, step);
        b->coordinate_step = step * mean_scale(&f);
        b->rank = rank;
    }
    find_spread(&f, b);
    if (b->has_spread && spread_gain(b) * (double)rows < 6) {
        b->has_spread = 0;
        memset(b->channel_class, 0, b->dim);
    }
    xp_book_sort(b);
    xp_book_order(b, f.mean, b->mean);
    for (unsigned j = 0; j < rank; j++)
        xp_book_order(b, f.direction + j * f.pad, b->direction + j * b->pad);
    b->centroids = s->of ? s->centroids : 0;
    for (unsigned j = 0; j < b->centroids; j++)
        xp_book_order(b, s->centroid + j * f.dim, b->centroid + j * b->pad);
}
