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
#define STEP_VALUES ((size_t)1 << 18) /* what a step takes, in multiplications */

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

static float dot(const struct xp_book_fit *f, const float *a, const float *b)
{
    float sum;

    f->k->vector_dots(a, b, 0, 1, f->pad / 16, &sum);
    return sum;
}

static void add_scaled(const struct xp_book_fit *f, float *a, const float *b, float factor)
{
    f->k->vector_adds(a, b, 0, &factor, 1, f->pad / 16);
}

static void scale_to_unit(const struct xp_book_fit *f, float *v)
{
    const size_t dim = f->dim;
    const float norm = sqrtf(dot(f, v, v));

    for (size_t i = 0; i < dim && norm > 1e-20f; i++)
        v[i] /= norm;
}

/* Rows that a step takes, `each` values a row. */
static size_t piece(const struct xp_book_fit *f, size_t each)
{
    const size_t rows = STEP_VALUES / (each * f->pad) + 1, left = f->count - f->at;

    return rows < left ? rows : left;
}

static void normalise_row(struct xp_book_fit *f, size_t r)
{
    const struct xp_book_sample *s = &f->sample;
    float *row = f->rows + r * f->pad;

    memset(row + f->dim, 0, (f->pad - f->dim) * sizeof(float));
    f->k->residual(xp_row(s->in, s->order[r]), s->in->dtype, s->of ? s->centroid + s->of[r] * f->dim : f->mean, f->dim, row);
    f->scale[r] = sqrtf(dot(f, row, row) / (float)f->dim);
    const float factor = f->scale[r] > 0 ? 1 / f->scale[r] : 0;
    for (size_t i = 0; i < f->dim; i++)
        row[i] *= factor;
}

/* next = sum over rows of (row . old) row, for every direction. */
static void iterate_row(struct xp_book_fit *f, size_t r)
{
    const float *row = f->rows + r * f->pad;
    float along[XP_BOOK_MAX_RANK];

    f->k->vector_dots(row, f->direction, f->pad, f->rank, f->pad / 16, along);
    for (unsigned j = 0; j < f->rank; j++)
        add_scaled(f, f->next + j * f->pad, row, along[j]);
}

/* The directions are what has been summed up: orthonormal again, strongest first. */
static void take_next(struct xp_book_fit *f)
{
    memcpy(f->direction, f->next, f->rank * f->pad * sizeof(float));
    memset(f->next, 0, f->rank * f->pad * sizeof(float));
    for (unsigned j = 0; j < f->rank; j++) {
        float *v = f->direction + j * f->pad;

        scale_to_unit(f, v);
        for (unsigned i = 0; i < j; i++)
            add_scaled(f, v, f->direction + i * f->pad, -dot(f, v, f->direction + i * f->pad));
        scale_to_unit(f, v);
    }
}

static void begin_directions(struct xp_book_fit *f)
{
    for (unsigned j = 0; j < f->rank && !f->again; j++)
        memcpy(f->direction + j * f->pad, f->rows + (size_t)j * f->count / f->rank * f->pad, f->pad * sizeof(float));
    memset(f->next, 0, f->rank * f->pad * sizeof(float));
}

static int clamp(int v, int low, int high)
{
    return v < low ? low : v > high ? high : v;
}

/* Energy of a row, and what of it lies along the directions. */
static void measure_row(struct xp_book_fit *f, size_t r)
{
    const float *row = f->rows + r * f->pad;
    float along[XP_BOOK_MAX_RANK];

    f->energy += dot(f, row, row);
    f->k->vector_dots(row, f->direction, f->pad, f->rank, f->pad / 16, along);
    for (unsigned j = 0; j < f->rank; j++)
        f->along += (double)along[j] * along[j];
}

/* Deviation a value of the rows with all directions taken off. */
static float left_over(const struct xp_book_fit *f)
{
    return (float)sqrt(fmax(f->energy - f->along, 1e-6 * f->energy) / ((double)f->count * (double)f->dim));
}

/* Takes the coordinates off a row, as coding will: rounded to the step. */
static void take_coordinates(struct xp_book_fit *f, size_t r)
{
    float *row = f->rows + r * f->pad;

    for (unsigned j = 0; j < f->rank; j++) {
        const float a = dot(f, row, f->direction + j * f->pad);

        f->coordinate_energy[j / XP_RANS_GROUP] += (double)a * a;
        add_scaled(f, row, f->direction + j * f->pad, -rintf(a / f->step) * f->step);
    }
}

static void add_spread(struct xp_book_fit *f, size_t r)
{
    const float *row = f->rows + r * f->pad;

    for (size_t i = 0; i < f->dim; i++)
        f->spread[i] += row[i] * row[i];
}

static void class_coordinates(struct xp_book_fit *f)
{
    for (unsigned g = 0; g < f->rank / XP_RANS_GROUP; g++) {
        const double deviation = sqrt(f->coordinate_energy[g] / ((double)f->count * XP_RANS_GROUP)) / f->step;
        const int class = XP_RANS_UNIT_CLASS + xp_quarter_log2((float)fmax(deviation, 1e-3));

        f->book->coordinate_class[g] = (uint8_t)clamp(class, 0, XP_RANS_CLASSES - 1);
    }
}

static void class_spread(struct xp_book_fit *f)
{
    struct xp_book *b = f->book;
    int least = 1000, most = -1000;

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

static float mean_scale(const struct xp_book_fit *f)
{
    double sum = 0;

    for (size_t r = 0; r < f->count; r++)
        sum += f->scale[r];
    return (float)(sum / (double)f->count);
}

/* Bits a value that coding against the mean saves, a row's own part in the mean left out. */
static double mean_gain(const struct xp_book_fit *f)
{
    const struct xp_book_sample *s = &f->sample;
    const double others = (double)f->count / ((double)f->count - 1);
    double bits = 0;

    for (size_t r = 0; r < f->count; r++) {
        const double all = f->k->distance(xp_row(s->in, s->order[r]), NULL, s->in->dtype, s->in->dim);
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

static void set_mean(struct xp_book_fit *f)
{
    const uint32_t start[2] = { 0, (uint32_t)f->count };

    if (f->sample.mean)
        memcpy(f->mean, f->sample.mean, f->dim * sizeof(float));
    else
        f->k->centroid(f->sample.in, f->sample.order, start, 1, f->mean);
    for (size_t i = 0; i < f->dim; i++)
        f->mean[i] = xp_bf16_to_f32(xp_f32_to_bf16(f->mean[i]));
}

/* A mean that does not pay for its bytes is taken as zero: returns whether the rows must be taken anew. */
static int drop_mean(struct xp_book_fit *f)
{
    struct xp_book *b = f->book;

    if (f->mean_dropped)
        return 0;
    b->has_mean = f->sample.of || mean_gain(f) * (double)f->uses > 16;
    if (b->has_mean)
        return 0;
    f->mean_dropped = 1;
    memset(f->mean, 0, f->pad * sizeof(float));
    return 1;
}

void xp_book_fit_begin(struct xp_book_fit *f, struct xp_book *b, const struct xp_kernels *k, const struct xp_book_sample *s,
                       unsigned rank, size_t rows, float *work)
{
    *f = (struct xp_book_fit){ .book = b, .k = k, .sample = *s, .dim = b->dim, .pad = padded(b->dim), .count = s->count,
                               .rank = rank, .uses = rows, .rows = work };
    f->direction = f->rows + f->count * f->pad;
    f->next = f->direction + rank * f->pad;
    f->mean = f->next + rank * f->pad;
    f->spread = f->mean + f->pad;
    f->scale = f->spread + f->pad;
    xp_book_clear(b);
}

static void finish(struct xp_book_fit *f)
{
    struct xp_book *b = f->book;

    class_spread(f);
    if (b->has_spread && spread_gain(b) * (double)f->uses < 6) {
        b->has_spread = 0;
        memset(b->channel_class, 0, b->dim);
    }
    xp_book_sort(b);
    xp_book_order(b, f->mean, b->mean);
    for (unsigned j = 0; j < f->rank; j++)
        xp_book_order(b, f->direction + j * f->pad, b->direction + j * b->pad);
    b->centroids = f->sample.of ? f->sample.centroids : 0;
}

/* What a stage does to each row, and with how many values of it; NULL: it is one piece of work. */
static const struct {
    void (*row)(struct xp_book_fit *f, size_t r);
    int by_rank;
} stages[] = { [XP_FIT_MEAN] = { NULL, 0 },           [XP_FIT_NORMALISE] = { normalise_row, 0 },
               [XP_FIT_ITERATE] = { iterate_row, 1 }, [XP_FIT_MEASURE] = { measure_row, 1 },
               [XP_FIT_COORDINATES] = { take_coordinates, 1 }, [XP_FIT_SPREAD] = { add_spread, 0 },
               [XP_FIT_CENTROIDS] = { NULL, 0 } };

/* The stage is over: what comes of it, and the next one. */
static void next_stage(struct xp_book_fit *f)
{
    switch (f->stage) {
    case XP_FIT_MEAN: set_mean(f); break;
    case XP_FIT_NORMALISE:
        if (drop_mean(f))
            return;
        memset(f->spread, 0, f->pad * sizeof(float));
        begin_directions(f);
        if (f->rank == 0)
            f->stage = XP_FIT_COORDINATES;
        break;
    case XP_FIT_ITERATE:
        take_next(f);
        if (++f->iteration < ITERATIONS)
            return;
        break;
    case XP_FIT_MEASURE: f->step = XP_BOOK_COARSE * left_over(f); break;
    case XP_FIT_COORDINATES:
        class_coordinates(f);
        f->book->coordinate_step = f->step * mean_scale(f);
        f->book->rank = f->rank;
        break;
    case XP_FIT_SPREAD: finish(f); break;
    case XP_FIT_CENTROIDS:
    case XP_FIT_DONE: break;
    }
    f->stage++;
}

int xp_book_fit_step(struct xp_book_fit *f)
{
    if (f->stage == XP_FIT_DONE)
        return 0;
    if (f->stage == XP_FIT_CENTROIDS && f->at < f->book->centroids) {
        xp_book_order(f->book, f->sample.centroid + f->at * f->dim, f->book->centroid + f->at * f->book->pad);
        f->at++;
        return 1;
    }
    if (stages[f->stage].row) {
        const size_t end = f->at + piece(f, stages[f->stage].by_rank ? 2 * f->rank : 1);

        for (; f->at < end; f->at++)
            stages[f->stage].row(f, f->at);
        if (f->at < f->count)
            return 1;
    }
    f->at = 0;
    next_stage(f);
    return f->stage != XP_FIT_DONE;
}

void xp_book_fit(struct xp_book *b, const struct xp_kernels *k, const struct xp_book_sample *s, unsigned rank, size_t rows,
                 float *work)
{
    struct xp_book_fit f;

    xp_book_fit_begin(&f, b, k, s, rank, rows, work);
    while (xp_book_fit_step(&f))
        ;
}
