/*
 * routing.c - which experts a benchmark's tokens go to: a real trace, or drawn from a distribution
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/routing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/tools/npy.h"
#include "perf/rows.h"

/* The k largest of n scores, largest first, the lowest index of equals first. */
static void largest(const float *score, int n, int k, int32_t *out)
{
    for (int j = 0; j < k; j++) {
        int best = -1;

        for (int e = 0; e < n; e++) {
            int taken = 0;

            for (int i = 0; i < j; i++)
                taken |= out[i] == e;
            if (!taken && (best < 0 || score[e] > score[best]))
                best = e;
        }
        out[j] = best;
    }
}

static void softmax(const float *logit, const int32_t *expert, int k, float *weight)
{
    float sum = 0.0f;

    for (int j = 0; j < k; j++)
        sum += weight[j] = expf(logit[expert[j]] - logit[expert[0]]);
    for (int j = 0; j < k; j++)
        weight[j] /= sum;
}

static void equal_weights(const int32_t *expert, int k, float *weight)
{
    int n = 0;

    for (int j = 0; j < k; j++)
        n += expert[j] >= 0;
    for (int j = 0; j < k; j++)
        weight[j] = expert[j] >= 0 ? 1.0f / (float)n : 0.0f;
}

static int refuse(char *err, size_t size, const char *path, const char *text)
{
    snprintf(err, size, "%s: %s", path, text);
    return -1;
}

static int check_trace(const struct routing_source *s, const char *path, char *err, size_t err_size)
{
    for (size_t i = 0; i < s->tokens * (size_t)s->k; i++) {
        if (s->expert[i] >= s->experts || s->expert[i] < -1) {
            snprintf(err, err_size, "%s: token %zu goes to expert %d, of %d", path, i / (size_t)s->k, s->expert[i], s->experts);
            return -1;
        }
    }
    return 0;
}

static int read_weights(struct routing_source *s, const char *path, char *err, size_t err_size)
{
    struct xp_npy_routing w;
    int bad;

    if (xp_npy_read_routing(&w, path, err, err_size) != 0)
        return -1;
    bad = w.whole || w.rows != s->tokens || w.columns != (size_t)s->k;
    if (!bad)
        memcpy(s->weight, w.data, s->tokens * (size_t)s->k * sizeof(float));
    free(w.data);
    return bad ? refuse(err, err_size, path, "not one <f4 weight for every expert number of the trace") : 0;
}

int routing_open_file(struct routing_source *s, const char *path, const char *weights, int k, int experts, char *err, size_t err_size)
{
    const char *slash = strrchr(path, '/');
    struct xp_npy_routing a;
    int bad = 0;

    if (xp_npy_read_routing(&a, path, err, err_size) != 0)
        return -1;
    if (k == 0)
        k = a.whole ? (a.columns < ROUTING_MAX_K ? (int)a.columns : ROUTING_MAX_K) : 2;
    *s = (struct routing_source){.kind = ROUTING_FILE, .k = k, .experts = experts, .tokens = a.rows};
    snprintf(s->name, sizeof(s->name), "%s", slash != NULL ? slash + 1 : path);
    s->expert = calloc(a.rows * (size_t)k + 1, sizeof(*s->expert));
    s->weight = calloc(a.rows * (size_t)k + 1, sizeof(*s->weight));
    if (a.rows == 0 || (size_t)k > a.columns || (!a.whole && a.columns != (size_t)experts))
        bad = refuse(err, err_size, path, a.rows == 0 ? "holds no tokens" : a.whole ? "has fewer columns than --k" : "is not a logit for every expert");
    else if (s->expert == NULL || s->weight == NULL)
        bad = refuse(err, err_size, path, "out of memory");
    for (size_t t = 0; !bad && t < a.rows; t++) {
        int32_t *expert = s->expert + t * (size_t)k;
        float *weight = s->weight + t * (size_t)k;

        if (a.whole) {
            memcpy(expert, (const int32_t *)a.data + t * a.columns, (size_t)k * sizeof(*expert));
            equal_weights(expert, k, weight);
        } else {
            largest((const float *)a.data + t * a.columns, experts, k, expert);
            softmax((const float *)a.data + t * a.columns, expert, k, weight);
        }
    }
    free(a.data);
    if (!bad)
        bad = check_trace(s, path, err, err_size);
    if (!bad && weights != NULL)
        bad = read_weights(s, weights, err, err_size);
    if (bad)
        routing_close(s);
    return bad;
}

int routing_open_generated(struct routing_source *s, const char *kind, int k, int experts, uint64_t seed)
{
    *s = (struct routing_source){.k = k, .experts = experts, .seed = seed};
    snprintf(s->name, sizeof(s->name), "%s", kind);
    if (strcmp(kind, "uniform") == 0)
        s->kind = ROUTING_UNIFORM;
    else if (strcmp(kind, "zipf") == 0)
        s->kind = ROUTING_ZIPF;
    else
        return -1;
    return 0;
}

void routing_close(struct routing_source *s)
{
    free(s->expert);
    free(s->weight);
    s->expert = NULL;
    s->weight = NULL;
}

/* An exponential race: the k experts whose clocks ring first are a draw without replacement. */
static void draw(const struct routing_source *s, uint64_t i, int32_t *expert, float *weight)
{
    double first[ROUTING_MAX_K];
    int n = 0;

    for (int e = 0; e < s->experts; e++) {
        double u = ((double)(rows_mix(s->seed ^ rows_mix(i * 65536 + (uint64_t)e)) >> 11) + 1.0) / 9007199254740993.0;
        double ring = -log(u) * (s->kind == ROUTING_ZIPF ? e + 1 : 1);
        int at = n < s->k ? n : s->k;

        while (at > 0 && first[at - 1] > ring)
            at--;
        if (at == s->k)
            continue;
        n += n < s->k;
        memmove(first + at + 1, first + at, (size_t)(n - 1 - at) * sizeof(*first));
        memmove(expert + at + 1, expert + at, (size_t)(n - 1 - at) * sizeof(*expert));
        first[at] = ring;
        expert[at] = e;
    }
    for (int j = n; j < s->k; j++)
        expert[j] = -1;
    equal_weights(expert, s->k, weight);
}

void routing_get(const struct routing_source *s, uint64_t i, int32_t *expert, float *weight)
{
    size_t k = (size_t)s->k, t;

    if (s->kind != ROUTING_FILE) {
        draw(s, i, expert, weight);
        return;
    }
    t = (size_t)(i % s->tokens);
    memcpy(expert, s->expert + t * k, k * sizeof(*expert));
    memcpy(weight, s->weight + t * k, k * sizeof(*weight));
}
