/*
 * book_search.c - the largest step of a row whose decoded row keeps the promise
 *
 * The steps of a few rows are searched in turns: what is to be done with a row comes of sums over its values, and those of the other rows
 * are taken meanwhile.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/book_rows_impl.h"
#include "hash/log2.h"

#include <float.h>
#include <math.h>

/* A row with a step. */
struct attempt {
    int step, offset; /* offset: its place, from 0 */
    double error;     /* the square of what was reached */
    int16_t *q;       /* coordinates, then the values */
};

enum subject_state { RAW, FIRST_STEPS, SMALLER_STEPS, LARGER_STEPS, CODED };

struct subject {
    struct xp_book_room *m;
    const struct xp_book *b;
    const float *base, *dither, *x; /* x: what is left to code */
    const uint8_t *typed;
    enum subject_state state;
    double energy, ref, allowed, rest; /* squares: |x|^2, reference, what the promise allows, |x - base|^2 */
    double level;     /* 64 log2 of the deviation of class 0 */
    double room;      /* the error of the first steps, before rounding to the type */
    double fine;      /* the step of which that were the error, were every cell full */
    int searched;     /* whether there were first steps */
    int larger;       /* steps tried, beyond the first that kept the promise */
    struct attempt best, next; /* best: what kept the promise */
};

/* Neither lets NaN pass, as fmax and fmin of a C library. */
static double at_least(double v, double least)
{
    return v > least ? v : least;
}

static double at_most(double v, double most)
{
    return v < most ? v : most;
}

static double within(double v, double limit)
{
    return at_most(at_least(v, -limit), limit);
}

static void set_step(struct subject *s, int step)
{
    const int unit = XP_BOOK_STEPS_PER_OCTAVE / 4;
    const double offset = floor((s->level - step) / unit + 0.5) + XP_RANS_UNIT_CLASS;

    s->next.step = step;
    s->next.offset = xp_book_use_offset(s->m, s->b, (int)within(offset, XP_BOOK_LARGEST_OFFSET));
}

/* Where rounding goes up; dither wants all cells alike. */
static const float *bias(const struct subject *s)
{
    return s->dither ? s->m->half : s->m->bias[s->next.offset];
}

/* Squared error of rounding to the row's type, about. */
static double rounding_error(const struct subject *s)
{
    return s->energy * (s->m->dtype == XP_BF16 ? XP_BOOK_ROUNDING_BF16 : s->m->dtype == XP_F16 ? XP_BOOK_ROUNDING_F16 : 0);
}

static int bounded(double step)
{
    return (int)within(step, XP_BOOK_LARGEST_STEP);
}

static void begin_search(struct subject *s)
{
    s->room = at_least(s->allowed - rounding_error(s), 0.2 * s->allowed);
    s->fine = 32 * xp_log2(s->room * 12 / (double)s->b->dim);
    s->state = FIRST_STEPS;
    s->searched = 1;
    s->next.step = bounded(floor(s->fine + s->m->above));
    if (s->rest <= s->room && !s->dither) { /* nothing needs to be sent */
        s->state = SMALLER_STEPS;
        s->searched = 0;
        s->next.step = bounded(floor(s->fine) + XP_BOOK_NOTHING);
    }
}

/* The next step by the error of this one. */
static void correct_step(struct subject *s)
{
    struct xp_book_room *m = s->m;
    double size, error, change;

    set_step(s, s->next.step);
    size = xp_book_step_size(m, s->next.step);
    error = size * size * m->k->uniform_error(s->x, s->b->groups, (float)(1 / size), bias(s), s->dither);
    change = floor(32 * xp_log2(s->room / error));
    s->next.step = bounded(s->next.step + at_most(at_least(change, -256), 128));
    s->state = fabs(change) <= XP_BOOK_SMALL_CHANGE ? SMALLER_STEPS : FIRST_STEPS;
}

/* The steps by which the errors, before rounding to the type, are about what is allowed. */
static void estimate_steps(struct subject *s, size_t n)
{
    for (int turn = 0; turn < 5; turn++)
        for (size_t i = 0; i < n; i++)
            if (s[i].state == FIRST_STEPS)
                correct_step(&s[i]);
    for (size_t i = 0; i < n; i++)
        if (s[i].state == FIRST_STEPS)
            s[i].state = SMALLER_STEPS;
}

/* Quantises, decodes and measures. */
static void try_step(struct subject *s, int step)
{
    struct xp_book_room *m = s->m;
    float size;

    set_step(s, step);
    size = xp_book_step_size(m, step);
    s->next.error = m->k->uniform_code(&(struct xp_uniform_row){ .x = s->x, .bias = bias(s), .dither = s->dither, .base = s->base, .step = size,
                                                                 .inverse = 1 / size, .dtype = m->dtype, .dim = s->b->dim, .row = s->typed },
                                       s->next.q + s->b->rank);
}

/* Steps by which the error could still grow. */
static double slack(const struct subject *s, const struct attempt *a)
{
    return 32 * xp_log2(s->allowed / a->error);
}

static void keep_next(struct subject *s)
{
    const struct attempt next = s->next;

    s->next = s->best;
    s->best = next;
}

/* Whether one step more may do, too: there is slack for 0.6 steps, 2^(0.6 / 32) = 1.01308.. times the error. */
static int may_grow(const struct subject *s)
{
    if (s->larger == XP_BOOK_LARGER_STEPS || s->allowed < s->best.error * 1.01307)
        return 0;
    return s->allowed > s->best.error * 1.01309 || slack(s, &s->best) > 0.6;
}

/* The errors of short rows jump from step to step, so that a few steps on there may be one that is still allowed. */
static int is_short(const struct subject *s)
{
    return s->b->dim < XP_BOOK_LONG_ROW && (s->rest > s->allowed || s->dither) && s->best.step < XP_BOOK_LARGEST_STEP - XP_BOOK_LARGER_STEPS;
}

/* After try number `turn` of a step. */
static void judge_smaller(struct subject *s, int turn)
{
    if (s->next.error <= s->allowed) {
        keep_next(s);
        s->state = is_short(s) && may_grow(s) ? LARGER_STEPS : CODED;
    } else {
        s->next.step = bounded(s->next.step - at_least(at_most(floor(-slack(s, &s->next)), 256), XP_BOOK_STEPS_BACK(turn)));
    }
}

static void judge_larger(struct subject *s)
{
    s->larger++;
    if (s->next.error <= s->allowed) {
        keep_next(s);
        s->state = may_grow(s) ? LARGER_STEPS : CODED;
    } else {
        s->state = CODED;
    }
}

/* Errors are looked at when all are known. Rows that have no step at the end go raw. */
static void find_steps(struct subject *s, size_t n)
{
    for (int turn = 0; turn < XP_BOOK_STEP_TRIES; turn++) {
        for (size_t i = 0; i < n; i++)
            if (s[i].state == SMALLER_STEPS)
                try_step(&s[i], s[i].next.step);
        for (size_t i = 0; i < n; i++)
            if (s[i].state == SMALLER_STEPS)
                judge_smaller(&s[i], turn);
    }
    for (int turn = 0; turn < XP_BOOK_LARGER_STEPS; turn++) {
        for (size_t i = 0; i < n; i++)
            if (s[i].state == LARGER_STEPS)
                try_step(&s[i], s[i].best.step + 1);
        for (size_t i = 0; i < n; i++)
            if (s[i].state == LARGER_STEPS)
                judge_larger(&s[i]);
    }
}

/* ---- what is left of a row to code ---- */

/* Rows that are searched by one call. */
struct batch {
    struct xp_book_room *m;
    const struct xp_book *b;
    const struct xp_book_promise *p;
    const struct xp_rows *in;
    const uint32_t *centroid; /* of row `first` on; NULL: there are none */
    size_t first, n;
};

/* Without coordinates. */
static const float *base_of(const struct batch *t, size_t i)
{
    return t->b->centroids ? t->b->centroid + t->centroid[i] * t->b->pad : t->b->mean;
}

/* Coordinates along the directions, of what was left without them. Returns the spread of what is left with them. */
static float take_coordinates(struct subject *s, const struct batch *t, size_t i, size_t side)
{
    struct xp_book_room *m = s->m;
    const struct xp_book *b = s->b;
    float along[XP_BOOK_MAX_RANK];

    m->k->vector_dots(s->x, b->direction, b->pad, b->rank, b->groups, along);
    for (unsigned j = 0; j < b->rank; j++)
        s->next.q[j] = s->best.q[j] = (int16_t)rintf(fminf(fmaxf(along[j] / b->coordinate_step, -XP_RANS_MAX_Q), XP_RANS_MAX_Q));
    s->base = xp_book_base_of(m, b, b->centroids ? t->centroid[i] : 0, s->next.q, m->base[side]);
    m->k->residual(s->typed, m->dtype, s->base, b->dim, m->rest[side]);
    s->rest = m->k->energy(s->x, b->dim);
    return m->k->uniform_spread(s->x, b->groups, b->weight);
}

/* Reads row i, with the memory of row `side` of those that are searched in turns: energies, coordinates, rest. It stays RAW where that
 * leaves nothing that can be coded. */
static void examine(struct subject *s, const struct batch *t, size_t i, size_t side)
{
    struct xp_book_room *m = s->m;
    const struct xp_book *b = s->b;
    const double margin = ((double)b->dim / 16 + 16) * 0x1p-24; /* as in quant_rows.c */
    const int to_mean = t->p->to_mean && b->has_mean, more = i + 1 < t->n;
    struct xp_uniform_sums sums;
    float spread;

    s->base = base_of(t, i);
    m->k->uniform_view(&(struct xp_uniform_view){ .row = xp_row(t->in, t->first + i), .dtype = m->dtype, .dim = m->dim, .index = b->channel,
                                                  .base = s->base, .mean = to_mean ? b->mean : NULL, .weight = b->weight,
                                                  .row_ahead = more ? xp_row(t->in, t->first + i + 1) : NULL,
                                                  .base_ahead = more && b->centroids ? base_of(t, i + 1) : NULL },
                       m->typed[side], m->rest[side], &sums);
    s->typed = m->typed[side];
    s->x = m->rest[side];
    s->energy = sums.row;
    s->rest = sums.rest;
    if (!(s->energy <= FLT_MAX))
        return;
    s->ref = to_mean ? at_least(at_most(s->energy, sums.to_mean), s->energy * 0x1p-16) : s->energy;
    s->allowed = t->p->eps * t->p->eps * s->ref * (1 - margin) / (1 + margin);
    if (!(s->allowed >= (double)b->dim * 1e-37))
        return;
    spread = b->rank ? take_coordinates(s, t, i, side) : sums.spread;
    if (!(s->rest <= 1e36 && spread <= 1e36f))
        return;
    s->level = 32 * xp_log2(at_least(spread / (double)b->dim, 1e-37));
    s->rest = at_least(s->rest, 1e-37);
    begin_search(s);
}

/* ---- rows in turns ---- */

static struct xp_book_found found(const struct subject *s)
{
    if (s->state != CODED)
        return (struct xp_book_found){ .coded = 0 };
    return (struct xp_book_found){ .coded = 1, .step = s->best.step, .offset = s->best.offset, .error = sqrt(s->best.error / s->energy),
                                   .ref_error = sqrt(s->best.error / s->ref) };
}

/* Rows [i, i + n). The first row of a run that has first steps is alone, and those of the others begin where its ended. */
static void search_turns(const struct batch *t, size_t i, size_t n, struct xp_book_found *out)
{
    struct xp_book_room *m = t->m;
    struct subject s[XP_BOOK_SIDE];

    for (size_t j = 0; j < n; j++) {
        s[j].m = m;
        s[j].b = t->b;
        s[j].state = RAW;
        s[j].searched = s[j].larger = 0;
        s[j].next.q = m->q[i + j];
        s[j].best.q = m->spare[j];
        s[j].dither = xp_book_dither_of(m, t->b, t->first + i + j, m->dither[j]);
        examine(&s[j], t, i + j, j);
    }
    estimate_steps(s, n);
    if (!m->above_known && s->searched) {
        m->above = at_most(at_least(s->next.step - s->fine, 0), 512);
        m->above_known = 1;
    }
    find_steps(s, n);
    for (size_t j = 0; j < n; j++) {
        m->q[i + j] = s[j].best.q;
        m->spare[j] = s[j].next.q;
        out[j] = found(&s[j]);
    }
}

void xp_book_search(struct xp_book_room *m, const struct xp_book *b, const struct xp_book_promise *p, const struct xp_rows *in,
                    const uint32_t *centroid, size_t r, size_t n, struct xp_book_found *out)
{
    const struct batch t = { .m = m, .b = b, .p = p, .in = in, .centroid = centroid ? centroid + r : NULL, .first = r, .n = n };

    for (size_t i = 0, side; i < n; i += side) {
        const size_t run = XP_BOOK_RUN - (r + i) % XP_BOOK_RUN; /* rows up to its end */

        if (run == XP_BOOK_RUN) {
            m->above = 0;
            m->above_known = 0;
        }
        side = m->above_known ? m->side : 1;
        side = side < run ? side : run;
        side = side < n - i ? side : n - i;
        search_turns(&t, i, side, out + i);
    }
}
