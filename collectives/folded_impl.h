/*
 * folded_impl.h - the inside of folded mode: what a plan's folder and a step's fold hold
 *
 * Words: a *slot* is one (token, k) of the routing, numbered token * topk + k. A row that holds NaN or Inf, or so much energy that a
 * mean with it would be worthless, is *wild*: it is a cluster of its own. A *virtual token* is a centroid or a probe.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_FOLDED_IMPL_H
#define XP_FOLDED_IMPL_H

#include "collectives/folded.h"
#include "hash/cluster.h"
#include "hash/hasher.h"

/* A row with more energy is wild. */
#define XP_FOLD_WILD 1e30f

/* Most cells (folded_cells.c), and the nearest ones that each of them knows. */
#define XP_FOLD_CELLS 512
#define XP_FOLD_NEAR XP_MOST_CLOSEST
/* Cells whose distances from all are found together: so many that a near cache has them. */
#define XP_FOLD_APART 16

/* Sums over probes that fade from step to step. With a = <E(x) - E(c), x - c> and b = |x - c|^2 of a probe the slope is sum a / sum b;
 * the products say how far to trust it. */
struct xp_fold_slope {
    double a, b, aa, ab, bb;
};

/* Of one probe: E(x) - E(c) with itself and with x - c; x - c; E(x). */
struct xp_fold_products {
    double yy, yx, xx, ee;
};

/* What is learned about an expert, from step to step. */
struct xp_fold_expert {
    struct xp_fold_slope slope;
    float alpha;
    size_t extra;                 /* clusters that outlier guard or sequences made beyond those asked for, last time */
    size_t quota;                 /* probes of this step */
    uint32_t leaders, clusters;   /* leader mode: of this step so far; wild rows are not leaders */
};

struct xp_fold_leader {
    uint32_t token, cluster;
};

/* The knobs, defaults resolved. */
struct xp_fold_knobs {
    double rate, outlier;
    int fit;
    float alpha;
    xp_centroid centroid;
    unsigned hashes, width, rounds; /* width 0: tuned */
    unsigned refine;                /* Lloyd rounds */
    unsigned probes;
};

struct xp_folder {
    int elsewhere;          /* rows are: whoever has them says what is asked of them */
    xp_dtype dtype;
    size_t dim, row_bytes, max_tokens, max_slots;
    int experts;
    struct xp_fold_knobs knobs;
    struct xp_kernels kernels;
    struct xp_coder *coder; /* NULL: rows travel as they are */
    uint8_t *coded;         /* a row that nobody keeps */

    /* learned */
    struct xp_fold_expert *expert; /* [experts] */
    struct xp_fold_slope slope;    /* of all experts together */
    double err_sum, ref_sum;       /* decayed sums over steps: squared errors and squares of the expert outputs */
    uint64_t step;
    float *past_mean;              /* leader mode: mean row of earlier steps */
    double threshold;              /* leader mode: log2 of 1 + the squared sketch distance above which a row leads, */
    uint64_t led;                  /* and the rows that it was learned from */
    int threshold_known;           /* a distance has been met */

    /* scratch of one expert */
    struct xp_hasher hasher;
    unsigned sketch_values;
    struct xp_clusters clusters;
    uint32_t *ids;      /* [max_tokens] bucket ids */
    uint32_t *counter;  /* [max_tokens] zeros between uses */
    uint32_t *token;    /* [max_tokens] tokens of the expert's tame rows, and their */
    uint32_t *slot;     /* [max_tokens] slots */
    uint32_t *member_token; /* [max_slots] tokens of a step's slots by cluster */
    uint32_t *wild;     /* [max_tokens] slots of its wild rows */
    uint32_t *sequence; /* [max_tokens] number of a token's sequence, 0 .. */
    float *energy;      /* [max_tokens] with rows elsewhere not the folder's own memory, as is */
    int16_t *sketch;    /* [max_tokens][sketch_values] of all tokens, and those of */
    int16_t *part;      /* [max_tokens][sketch_values] the expert's tame rows */
    unsigned cells;     /* of the step */
    int16_t *cell;      /* [XP_FOLD_CELLS][sketch_values] their middles */
    uint16_t *near;     /* [XP_FOLD_CELLS][XP_FOLD_NEAR] the cells nearest to each */
    uint32_t *apart;    /* [XP_FOLD_APART][XP_FOLD_CELLS] how far some cells are from all */
    uint32_t *cell_of;  /* [max_tokens] cell of a token, */
    uint32_t *row_cell; /* and of a row of the expert */
    uint32_t *probe;    /* [max_tokens] rows by cell, */
    int16_t *probe_sketch; /* their sketches, */
    uint32_t *probe_start; /* [XP_FOLD_CELLS + 1] and where a cell's begin */
    uint32_t *seed;     /* the same of centroids */
    uint32_t *seed_start;
    uint32_t *seen;     /* [max_tokens] centroids that a row is compared with */
    uint32_t *next;     /* [XP_FOLD_CELLS + 1] scratch */
    int16_t *leaders;   /* leader mode: [max_slots][sketch_values] sketches of the leaders, expert by expert */
    struct xp_fold_leader *leader; /* [max_slots] likewise */
    struct xp_fold_products *product; /* [experts * knobs.probes], at most max_slots */
    float *result_energy;   /* rows elsewhere: [max_slots] of the result of a cluster of one row */
    uint32_t *expert_start, *expert_end;     /* [experts] an expert's first slot, and the one behind its last; */
    uint32_t *expert_clusters, *expert_probes; /* [experts] how many clusters it has, and how many probes */

    float *alpha;       /* [max_slots] of a cluster, */
    float *scale;       /* [max_tokens] and of a token's own row */
    float *tile;        /* [max_slots][XP_TILE] scratch of kernels, of clusters or rows */
    float *f32[4];      /* rows of dim values, padded */
};

struct xp_fold {
    struct xp_folder *f;
    struct xp_fold_tokens t; /* arrays belong to the routing */
    size_t slots;            /* with an expert */
    size_t clusters, probes;
    size_t chosen, spent;    /* so many experts of the order have their clusters; virtual tokens that they took */
    int32_t *cluster_of;     /* [tokens][topk] */
    float *alpha_of;         /* [tokens][topk] */
    uint32_t *start;         /* [clusters + 1] where a cluster's slots begin in */
    uint32_t *member;        /* [slots] */
    int32_t *expert;         /* [clusters + probes] in the order of the step */
    uint32_t *probe;         /* [probes] slots */
    uint8_t *is_wild;        /* [clusters] */
    char *rows, *seen;       /* [clusters + probes][dim]; the same memory without a coder. Elsewhere: NULL, as results and sums */
    struct xp_coded_rows *store; /* gets the virtual tokens as coded; NULL: nobody wants them */
    char *results, *sums;    /* [clusters + probes][dim] results of forward, sums G of backward */
    double residual_energy, energy; /* of the step's tame rows */
};

static inline size_t xp_fold_slot_expert(const struct xp_fold *s, uint32_t slot)
{
    return (size_t)s->t.expert[slot];
}

/* Most slots that speak for all in rho. */
#define XP_FOLD_MEASURED 512
/* Most rows that the mean row of a step is made of. */
#define XP_FOLD_SAMPLE 256

/* NaN, Inf, or too much energy. */
static inline int xp_fold_is_wild(const struct xp_folder *f, const void *row)
{
    return !(f->kernels.distance(row, NULL, f->dtype, f->dim) <= XP_FOLD_WILD);
}

static inline const void *xp_fold_token_row(const struct xp_fold *s, const void *x, uint32_t slot)
{
    return (const char *)x + slot / (unsigned)s->t.topk * s->f->row_bytes;
}

/* folded.c: rows of virtual tokens [first, end) are in s->rows; makes s->seen of them, and leaves them in `store` unless that is NULL. */
xp_status xp_fold_code(struct xp_fold *s, size_t first, size_t end, struct xp_coded_rows *store);

/*
 * folded_make.c, for rows elsewhere, with mean centroids and no bound for outliers: xp_fold_choose in parts. Of all tokens come f->energy; of the
 * sampled ones, which xp_fold_sample lists in f->token and counts, their mean row, which the hasher then gets; f->sketch, by that hasher.
 */
size_t xp_fold_sample(struct xp_folder *f, size_t tokens);
/* Then everything is chosen, as xp_fold_choose does. */
xp_status xp_fold_choose_surveyed(struct xp_fold *s, const struct xp_fold_tokens *t);
/* The slots that speak for all, wild ones left out: [XP_FOLD_MEASURED]. Returns how many. */
size_t xp_fold_measured(const struct xp_fold *s, uint32_t *slot);
/* The squared distances of their rows from their centroids as seen; in the place of xp_fold_end. */
void xp_fold_end_measured(struct xp_fold *s, const uint32_t *slot, const float *distance, size_t measured);

/* folded_cluster.c: clusters `in` (tame rows of one expert) into about `budget` clusters: f->clusters. Tokens: f->token. */
void xp_fold_cluster(struct xp_folder *f, const struct xp_rows *in, size_t budget);
/* Buckets of w coordinates of these sketches: f->clusters. Returns how many. */
size_t xp_fold_group_buckets(struct xp_folder *f, const int16_t *sketch, size_t rows, unsigned w);
/* Takes clusters apart that hold two rows of one sequence. */
void xp_fold_part_sequences(struct xp_folder *f, size_t rows);

/* folded_cells.c: clusters all tokens of the step: the cells. Uses f->clusters. */
void xp_fold_find_cells(struct xp_folder *f, size_t tokens);
/* The rows of an expert, cell by cell: f->clusters. */
void xp_fold_group_cells(struct xp_folder *f, size_t rows);
/* Lloyd rounds on them; the largest `budget` clusters are seeds. */
void xp_fold_refine(struct xp_folder *f, size_t budget);

/* folded_leader.c: clusters of all experts in the order of the rows, so that none depends on a later row; about `rate` of them per slot.
 * s->member has the slots by expert. Writes cluster_of: numbers inside the expert, by first appearance. */
void xp_fold_lead(struct xp_fold *s, const void *x, double rate);

/* The expert that is number i in the order of the step. */
static inline size_t xp_fold_ordered(const struct xp_fold *s, size_t i)
{
    return s->t.order ? (size_t)s->t.order[i] : i;
}

/* folded_probes.c: how many probes an expert with so many rows has in this step, of the virtual tokens that it may have. */
size_t xp_fold_probe_quota(const struct xp_folder *f, size_t expert, size_t rows, size_t budget);
/* Adds the probes of all experts behind the clusters. */
void xp_fold_pick_probes(struct xp_fold *s, const void *x);
/* Takes what the probes' results say: alpha of the experts, and the error estimate. Rows elsewhere: f->product and f->result_energy have it. */
void xp_fold_learn(struct xp_fold *s);
/* Whether a cluster is one row, whose result is therefore known. */
int xp_fold_is_known(const struct xp_fold *s, size_t v);

/* folded_combine.c: learns, and sets the alpha of every slot. */
void xp_fold_set_alphas(struct xp_fold *s);
/* out = E(c) + alpha (x - c) of a slot; x is its token's row. Uses f32[3]. */
void xp_fold_slot_result(const struct xp_fold *s, uint32_t slot, const float *x, float *out);

#endif
