/*
 * options.c - the command line of xp_perf
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/options.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char options_help[] =
    "usage: xp_perf links|hash|codec|alltoallv|moe|fold [option ...]\n"
    "\n"
    "  links        latency and bandwidth of each class of link (inside a node, between nodes)\n"
    "  hash         the folded hash beside memcpy of the same bytes\n"
    "  codec        encoding and decoding beside memcpy of the same bytes\n"
    "  alltoallv    the exchange: rows of every rank to every rank\n"
    "  moe          a layer's exchanges: route, dispatch, experts, combine\n"
    "  fold         what folding a layer's rows costs in error, by hash functions, refinement, alpha and rate\n"
    "\n"
    "  --spawn N        start N ranks here; without it the rank comes from the launcher (torchrun, mpirun, srun)\n"
    "  --nodes K        with --spawn: pretend that the ranks live on K nodes (default 1)\n"
    "  --rows T         rows a rank sends in all, spread evenly over the ranks, itself included (default 4096)\n"
    "  --dim D          values in a row (default 4096)\n"
    "  --dtype T        bf16, f16 or f32 (default bf16)\n"
    "  --data KIND      generated rows: gaussian, clustered, duplicates or noise (default gaussian)\n"
    "  --input X.npy    rows of a file instead: 2-D, <f2, <f4, or <u2 holding bf16; rows beyond it are blends of its rows\n"
    "  --mode M         raw, exact, bounded, or (moe) folded (default CROSSPRESS_MODE)\n"
    "  --eps E          bounded: largest relative error of a row, 0 < E < 1 (default CROSSPRESS_EPS); raw and exact lose nothing\n"
    "  --eps-ref R      min or row: what eps is relative to (default CROSSPRESS_EPS_REF)\n"
    "  --dither D       on or off: bounded rows' errors are made random (default: those of a layer's gradients)\n"
    "  --codec C        a codec of xp_info's list (default auto); codec: also kept, which is book with a book that both ends keep\n"
    "  --algo A         auto, flat, hier or leader\n"
    "  --memory M       host or device: where rows lie (default host; device is for alltoallv and moe, and for one GPU a rank or shared ones)\n"
    "  --transport T    auto, shm, tcp or ucx; of rows in device memory also nccl\n"
    "  --seed S         of generated rows and random signs\n"
    "  --iters N        timed exchanges (default 10)\n"
    "  --check          compare with a plain reference and the promise of the mode; exit code 1 on a miss\n"
    "  --json FILE      one JSON object a case, one a line; - is stdout\n"
    "\n"
    "moe and fold (--rows are the tokens of a rank):\n"
    "  --experts E      experts of the layer, in blocks over the ranks (default 16)\n"
    "  --topk T.npy     a trace: expert numbers [tokens][k], or gate logits [tokens][E]; begins again where it ends\n"
    "  --weights W.npy  its gate weights [tokens][k] (default: equal ones; of logits: their softmax)\n"
    "  --routing R      without a trace: uniform or zipf (default uniform)\n"
    "  --k K            experts of a token (default: the trace's columns, else 2)\n"
    "  --expert E       identity, or W1.npy,W2.npy[,b1.npy,b2.npy] (default identity)\n"
    "  --combine C      rows or sum: what comes home over the slow hop (default: rows in raw and exact mode, sum in bounded)\n"
    "  --backward       gradients too: combine_backward and dispatch_backward\n"
    "  --exposed        bounded: also time plain rows of as many bytes, and say how much of the codec's time shows\n"
    "  --rate R         folded: centroids per row (default CROSSPRESS_RATE)\n"
    "  --alpha A        folded: fit, or a number (default fit)\n"
    "  --centroid C     folded: mean or leader (default mean)\n"
    "  --refine N       folded: Lloyd rounds, 0 = none (default 2)\n"
    "  --preset paper   folded: six hash functions, alpha 1, no refinement\n"
    "\n"
    "Exit code 0 done, 1 failed or missed, 2 not understood.\n";

static int refuse(char *err, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int refuse(char *err, size_t size, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, size, fmt, ap);
    va_end(ap);
    return -1;
}

/* A whole number of min .. max, nothing behind it. */
static int whole(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end;
    unsigned long long v;

    errno = 0;
    v = strtoull(text, &end, 0);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || v < min || v > max)
        return -1;
    *out = v;
    return 0;
}

static int real(const char *text, double *out)
{
    char *end;

    *out = strtod(text, &end);
    return end == text || *end != '\0' || !isfinite(*out) ? -1 : 0;
}

/* The value of the name in a list that ends with a NULL name; -1 when unknown. */
struct word {
    const char *name;
    int value;
};

static int lookup(const struct word *words, const char *text)
{
    for (; words->name != NULL; words++) {
        if (strcmp(words->name, text) == 0)
            return words->value;
    }
    return -1;
}

static const struct word modes[] = {{"raw", XP_MODE_RAW}, {"exact", XP_MODE_EXACT}, {"bounded", XP_MODE_BOUNDED}, {"folded", XP_MODE_FOLDED}, {0}};
static const struct word dtypes[] = {{"bf16", XP_BF16}, {"f16", XP_F16}, {"f32", XP_F32}, {0}};
static const struct word refs[] = {{"min", XP_EPS_REF_MIN}, {"row", XP_EPS_REF_ROW}, {0}};
static const struct word dithers[] = {{"off", XP_DITHER_OFF}, {"on", XP_DITHER_ON}, {0}};
static const struct word memories[] = {{"host", XP_MEMORY_HOST}, {"device", XP_MEMORY_DEVICE}, {0}};
static const struct word centroids[] = {{"mean", XP_CENTROID_MEAN}, {"leader", XP_CENTROID_LEADER}, {0}};
static const struct word combines[] = {{"rows", XP_COMBINE_ROWS}, {"sum", XP_COMBINE_SUM}, {0}};
static const struct word routings[] = {{"uniform", 0}, {"zipf", 1}, {0}};
static const struct word presets[] = {{"paper", 0}, {0}};
static const struct word kinds[] = {{"gaussian", 0}, {"clustered", 1}, {"duplicates", 2}, {"noise", 3}, {0}};

const char *perf_mode_name(xp_mode m)
{
    for (const struct word *w = modes; w->name != NULL; w++) {
        if (w->value == (int)m)
            return w->name;
    }
    return "default";
}

const char *perf_dtype_name(xp_dtype t)
{
    for (const struct word *w = dtypes; w->name != NULL; w++) {
        if (w->value == (int)t)
            return w->name;
    }
    return "byte";
}

/* Options that are a whole number. */
static int set_number(struct options *o, const char *name, const char *text, char *err, size_t size)
{
    static const struct {
        const char *name;
        uint64_t min, max;
    } ranges[] = {{"--spawn", 1, 1024}, {"--nodes", 1, 1024}, {"--rows", 0, 1u << 30}, {"--dim", 1, 1u << 20},
                  {"--seed", 0, UINT64_MAX}, {"--iters", 1, 100000}, {"--experts", 1, 65535}, {"--k", 1, 64}, {"--refine", 0, 16}};
    uint64_t v = 0;
    size_t i = 0;

    while (strcmp(ranges[i].name, name) != 0)
        i++;
    if (whole(text, ranges[i].min, ranges[i].max, &v) != 0) {
        return refuse(err, size, "%s takes a whole number from %llu to %llu, not '%s'", name,
                      (unsigned long long)ranges[i].min, (unsigned long long)ranges[i].max, text);
    }
    switch (i) {
    case 0: o->spawn = (int)v; break;
    case 1: o->nodes = (int)v; break;
    case 2: o->rows = (size_t)v; o->rows_given = 1; break;
    case 3: o->dim = (size_t)v; break;
    case 4: o->seed = v; break;
    case 5: o->iters = (int)v; break;
    case 6: o->moe.experts = (int)v; break;
    case 7: o->moe.k = (int)v; break;
    default: o->moe.refine = v == 0 ? -1 : (int)v; break;
    }
    return 0;
}

/* Options that are one word of a list. */
static int set_word(struct options *o, const char *name, const char *text, char *err, size_t size)
{
    int v;

    if (strcmp(name, "--mode") == 0) {
        v = lookup(modes, text);
        o->mode = (xp_mode)v;
    } else if (strcmp(name, "--dtype") == 0) {
        v = lookup(dtypes, text);
        o->dtype = (xp_dtype)v;
        o->dtype_given = 1;
    } else if (strcmp(name, "--data") == 0) {
        v = lookup(kinds, text);
        o->data = text;
    } else if (strcmp(name, "--centroid") == 0) {
        v = lookup(centroids, text);
        o->moe.centroid = (xp_centroid)v;
    } else if (strcmp(name, "--combine") == 0) {
        v = lookup(combines, text);
        o->moe.combine = (xp_combine_sum)v;
    } else if (strcmp(name, "--routing") == 0) {
        v = lookup(routings, text);
        o->moe.routing = text;
    } else if (strcmp(name, "--dither") == 0) {
        v = lookup(dithers, text);
        o->dither = (xp_dither)v;
    } else if (strcmp(name, "--memory") == 0) {
        v = lookup(memories, text);
        o->memory = (xp_memory)v;
    } else if (strcmp(name, "--preset") == 0) {
        v = lookup(presets, text);
        o->moe.preset = text;
    } else {
        v = lookup(refs, text);
        o->eps_ref = (xp_eps_ref)v;
    }
    return v < 0 ? refuse(err, size, "%s does not know '%s' (--help lists what it takes)", name, text) : 0;
}

static int set_text(struct options *o, const char *name, const char *text, char *err, size_t size)
{
    const struct {
        const char *name;
        const char **where;
    } texts[] = {{"--input", &o->input}, {"--codec", &o->codec}, {"--algo", &o->algo}, {"--transport", &o->transport}, {"--json", &o->json},
                 {"--topk", &o->moe.topk}, {"--weights", &o->moe.weights}, {"--expert", &o->moe.expert}};
    size_t i = 0;

    while (strcmp(texts[i].name, name) != 0)
        i++;
    if (text[0] == '\0')
        return refuse(err, size, "%s needs a value", name);
    *texts[i].where = text;
    return 0;
}

static int set_eps(struct options *o, const char *name, const char *text, char *err, size_t size)
{
    if (real(text, &o->eps) != 0 || o->eps <= 0.0 || o->eps >= 1.0)
        return refuse(err, size, "%s takes a number between 0 and 1, not '%s'", name, text);
    return 0;
}

static int set_rate(struct options *o, const char *name, const char *text, char *err, size_t size)
{
    if (real(text, &o->moe.rate) != 0 || o->moe.rate <= 0.0 || o->moe.rate > 1.0)
        return refuse(err, size, "%s takes a number above 0, at most 1, not '%s'", name, text);
    return 0;
}

static int set_alpha(struct options *o, const char *name, const char *text, char *err, size_t size)
{
    o->moe.alpha_fixed = strcmp(text, "fit") != 0;
    if (o->moe.alpha_fixed && real(text, &o->moe.alpha) != 0)
        return refuse(err, size, "%s takes fit or a number, not '%s'", name, text);
    return 0;
}

typedef int (*set_fn)(struct options *o, const char *name, const char *text, char *err, size_t size);

static const struct {
    const char *name;
    set_fn set;
} options[] = {
    {"--spawn", set_number}, {"--nodes", set_number}, {"--rows", set_number}, {"--dim", set_number},
    {"--seed", set_number}, {"--iters", set_number}, {"--dtype", set_word}, {"--data", set_word},
    {"--mode", set_word}, {"--eps-ref", set_word}, {"--dither", set_word}, {"--memory", set_word}, {"--eps", set_eps}, {"--input", set_text},
    {"--codec", set_text}, {"--algo", set_text}, {"--transport", set_text}, {"--json", set_text},
    {"--experts", set_number}, {"--k", set_number}, {"--refine", set_number}, {"--centroid", set_word}, {"--combine", set_word}, {"--routing", set_word},
    {"--preset", set_word}, {"--topk", set_text}, {"--weights", set_text}, {"--expert", set_text}, {"--rate", set_rate},
    {"--alpha", set_alpha},
};

static set_fn find(const char *name)
{
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        if (strcmp(options[i].name, name) == 0)
            return options[i].set;
    }
    return NULL;
}

static int moe_given(const struct options *o)
{
    const struct moe_options *m = &o->moe;

    return m->experts || m->k || m->refine || m->topk || m->weights || m->routing || m->expert || m->preset || m->rate > 0 ||
           m->alpha_fixed || m->centroid || m->combine || m->backward || m->exposed;
}

/* What only makes sense together, or apart. */
static int consistent(const struct options *o, char *err, size_t size)
{
    int alone = strcmp(o->command, "hash") == 0 || strcmp(o->command, "codec") == 0, fold = strcmp(o->command, "fold") == 0;
    int moe = strcmp(o->command, "moe") == 0;

    if (o->nodes > 0 && o->spawn == 0)
        return refuse(err, size, "--nodes needs --spawn: under a launcher the nodes are what they are");
    if (o->nodes > o->spawn)
        return refuse(err, size, "--nodes %d needs at least that many ranks, not %d", o->nodes, o->spawn);
    if (o->input != NULL && (o->data != NULL || o->dim != 0 || o->dtype_given))
        return refuse(err, size, "--input brings its own rows: leave out --data, --dim and --dtype");
    if (o->mode == XP_MODE_FOLDED && !moe)
        return refuse(err, size, "--mode folded is for xp_perf moe: %s has no experts", o->command);
    if (!moe && !fold && moe_given(o))
        return refuse(err, size, "--experts, --topk, --rate and what goes with them are for xp_perf moe and fold");
    if (o->memory == XP_MEMORY_DEVICE && !moe && strcmp(o->command, "alltoallv") != 0)
        return refuse(err, size, "--memory device is for xp_perf alltoallv and moe");
    if (o->transport != NULL && strcmp(o->transport, "nccl") == 0 && o->mode == XP_MODE_FOLDED)
        return refuse(err, size, "--mode folded sends its rows from the host, not by NCCL");
    if (o->transport != NULL && strcmp(o->transport, "nccl") == 0 && o->memory != XP_MEMORY_DEVICE)
        return refuse(err, size, "--transport nccl moves rows in device memory: it needs --memory device");
    if (o->moe.exposed && (!moe || o->mode != XP_MODE_BOUNDED))
        return refuse(err, size, "--exposed is for xp_perf moe --mode bounded");
    if (o->moe.topk != NULL && o->moe.routing != NULL)
        return refuse(err, size, "--topk brings its own routing: leave out --routing");
    if (o->moe.weights != NULL && o->moe.topk == NULL)
        return refuse(err, size, "--weights needs --topk: they belong to its expert numbers");
    if ((alone || fold) && o->spawn > 0)
        return refuse(err, size, "%s measures one core: leave out --spawn", o->command);
    return 0;
}

/* Where an option without a value is kept; NULL: it is none. */
static int *find_flag(struct options *o, const char *name)
{
    if (strcmp(name, "--check") == 0)
        return &o->check;
    if (strcmp(name, "--backward") == 0)
        return &o->moe.backward;
    return strcmp(name, "--exposed") == 0 ? &o->moe.exposed : NULL;
}

int options_parse(struct options *o, int argc, char **argv, char *err, size_t err_size)
{
    for (int i = 0; i < argc; i++) {
        const char *name = argv[i];
        set_fn set = find(name);

        int *flag = find_flag(o, name);

        if (flag != NULL) {
            *flag = 1;
            continue;
        }
        if (set == NULL)
            return refuse(err, err_size, "unknown option '%s' (--help lists them)", name);
        if (i + 1 == argc)
            return refuse(err, err_size, "%s needs a value", name);
        if (set(o, name, argv[++i], err, err_size) != 0)
            return -1;
    }
    return consistent(o, err, err_size);
}
