/*
 * moe.h - dispatch and combine: what one MoE layer keeps, how rows hop, and the map of one step
 *
 * Words
 *   entry   one expert of one token: (source rank, token, slot, expert, weight)
 *   item    a row on its way with the entries it still has to serve. Raw mode: one entry an item, as plain libraries do
 *   level   where an entry is: level 0 is its home, level `hops` the rank of its expert
 *   hop     an exchange that brings every item from one level to the next: one copy for each distinct next rank
 *   unit    what a hop brings back on combine: the row of one entry, or the sum over the entries that one node has of a token
 *
 * In folded mode the tokens of a map are virtual: centroids and probes, each with one expert (folded.h).
 *
 * A map says all of this for one step and one rank. Rows travel over inner plans ("channels"), which lib/moe_plan.c opens: plain
 * flat exchanges that code rows between nodes and nowhere else, each with a coder of its own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_MOE_H
#define XP_MOE_H

#include "collectives/algo.h"
#include "collectives/folded.h"
#include "hash/kernels.h"

#define XP_MOE_HOPS 3
#define XP_MOE_RECORD 16 /* bytes of an entry in a message */

enum xp_moe_path { XP_PATH_FLAT, XP_PATH_HIER, XP_PATH_LEADER };

/* ---- the map of one step ------------------------------------------------------------------------------------------ */

struct xp_entry {
    uint32_t token;
    uint16_t source, expert;
    float weight;
    uint32_t slot;
};

struct xp_map_level {
    size_t entries;
    struct xp_entry *entry;
    uint32_t *row;  /* its row in the level's buffer of dispatch (level 0: the token) */
    uint32_t *unit; /* combine: its row in what comes back to this level (last level: in the expert layout) */
    uint32_t *back; /* the same when every entry comes back for itself */
};

/* Entries begin .. end - 1 of a level. */
struct xp_span {
    uint32_t begin, end;
};

struct xp_map_hop {
    size_t rows_out, units_in;
    uint32_t *gather;                  /* [rows_out] rows to send, in the buffer of the level before */
    struct xp_span *unit;              /* [units_in] entries, at the level behind, of every unit to send back */
    size_t *rows_to, *rows_from;       /* [size] dispatch */
    size_t *units_to, *units_from;     /* [size] combine: the way back */
    size_t *entries_to, *entries_from; /* [size] records one way, scalars the other */
};

struct xp_map {
    struct xp_map_level level[XP_MOE_HOPS + 1];
    struct xp_map_hop hop[XP_MOE_HOPS];
    int sum;             /* units of far nodes are sums */
    int direct;          /* one hop: rows and units of this rank for itself stay where they are; row and unit say where that is */
    int virtual_tokens;  /* as many as a rank has slots */
    size_t tokens;
    size_t *sends, *gets; /* [size] entries from here for every rank, from every rank for here */
    uint16_t *rank_of;    /* [experts] */
    size_t rows;          /* of the expert layout */
    int local_experts;
    int32_t *expert_ids;  /* [local_experts] ascending */
    size_t *offsets;      /* [local_experts + 1] */
};

struct xp_moe;
struct xp_moe_lists; /* moe_device.h */

struct xp_routing {
    struct xp_moe *moe;       /* NULL: the plan is gone */
    struct xp_routing *next;  /* of all routings of the plan */
    int used;
    struct xp_map map;
    struct xp_moe_lists *lists; /* of the map that rows follow, in device memory; NULL: rows are in the host's */
    int topk;
    int32_t *expert;          /* [tokens][topk] copies of the caller's arrays */
    float *weight;
    int32_t *sequence;
    /* folded mode */
    int folded;               /* this step is; else it fell back */
    enum { XP_ROUTED, XP_DISPATCHED, XP_COMBINED, XP_COMBINED_BACKWARD } stage;
    struct xp_fold *fold;
    struct xp_map virtual_map;
    char *x;                  /* [tokens][dim] for combine_backward, which needs the residuals again */
    struct xp_fold_rows *fold_rows; /* folded_device.h: rows in device memory, x too; NULL: they are in the host's */
};

/* ---- one layer ------------------------------------------------------------------------------------------------------ */

/* An inner plan as it is used here. */
struct xp_channel {
    const struct xp_shape *shape;
    const struct xp_algo_ops *ops;
    void *state;
    uint32_t calls;
};

/* What rows travel on, by direction. Without a lossy coder the first serves all. */
enum xp_moe_channel { XP_CHANNEL_DISPATCH, XP_CHANNEL_COMBINE, XP_CHANNEL_GRAD_OUT, XP_CHANNEL_GRAD_BACK, XP_CHANNEL_FOLDED,
                      XP_CHANNEL_HELLO, XP_CHANNEL_RECORDS, XP_CHANNEL_SCALARS, XP_CHANNELS };

struct xp_moe_shape {
    struct xp_comm *comm;
    xp_dtype dtype;
    size_t dim, row_bytes;
    xp_mode mode;
    int experts, max_topk;
    int sum;                                      /* XP_COMBINE_SUM is in force */
    int sequences;                                /* routings must give sequences */
    double error_limit;                           /* folded: above it steps fall back to bounded; 0: never */
    enum xp_moe_path path;
    const struct xp_device *device;               /* rows are in its memory; NULL: in the host's */
    int device_number;                            /* as in struct xp_shape */
    int staged;                                   /* they come to the host's and go from there: moe_staged.h */
    const size_t *peer_max_tokens, *peer_max_rows; /* [size] of every rank */
};

enum xp_moe_kind { XP_MOE_AGREE, XP_MOE_RECORDS, XP_MOE_DISPATCH, XP_MOE_COMBINE, XP_MOE_COMBINE_BACKWARD, XP_MOE_DISPATCH_BACKWARD };

/* One operation. */
struct xp_moe_op {
    enum xp_moe_kind kind;
    struct xp_routing *routing;
    const void *in;     /* dispatch: x; combine: rows; combine_backward: grad_y; dispatch_backward: grad_rows */
    const void *second; /* combine: x; combine_backward: rows or NULL; dispatch_backward: grad_y */
    void *out;
    float *grad_weight; /* combine_backward */
    int scalars;        /* combine_backward: gradients of the weights are wanted, on all ranks alike */
};

enum xp_moe_step_kind { XP_STEP_HELLO, XP_STEP_RECORDS, XP_STEP_FORWARD, XP_STEP_ARRIVE, XP_STEP_BACK, XP_STEP_HOME, XP_STEP_SCALARS,
                        XP_STEP_SCALARS_HOME, XP_STEP_FOLD, XP_STEP_FOLD_GRAD, XP_STEP_FOLD_END };
struct xp_moe_step {
    enum xp_moe_step_kind kind;
    int hop;
    enum xp_moe_channel channel;
};

/* The rows of a hop are put to use while others of it are on their way (intake.c): where that goes on. */
struct xp_intake {
    const char *from, *own;    /* what the hop brings; where rows are that stay */
    const size_t *count;       /* [size] rows, or units, that it brings from every peer */
    size_t *first;             /* [size] and before those of that peer */
    size_t *entry, *entry_end; /* [size] rows outward: the next entry of every peer; behind its last */
    size_t token, at;          /* units home: the next token; its first entry */
    int placed;                /* the exchange itself puts the rows of other ranks in their places */
};

/* What is done with rows: dispatch.c and combine.c at either end of a hop, or launches that do the same (moe_device.c). */
struct xp_moe_row_ops {
    int piecewise; /* arrive and units_home do what they are asked for, and may be asked while rows come; else all when all are there */
    void (*leave)(struct xp_moe *m, const struct xp_map *map, int hop, const void *from);
    size_t (*arrive)(struct xp_moe *m, const struct xp_map *map, size_t most);
    void (*units_leave)(struct xp_moe *m, const struct xp_map *map, int hop, const void *from, int weighted);
    size_t (*units_home)(struct xp_moe *m, const struct xp_map *map, int weighted, size_t most);
    /* The map of the operation, m->map, is complete. */
    void (*map_known)(struct xp_moe *m, const struct xp_routing *r);
    /* An operation on a routing's rows begins, and ends. */
    xp_status (*begin)(struct xp_moe *m, const struct xp_routing *r, void *stream);
    void (*end)(struct xp_moe *m);
    /* Whether m->dots has what arrive has made of the rows. XP_OK, XP_IN_PROGRESS, error. */
    xp_status (*dots_known)(struct xp_moe *m);
    /* XP_OK, or the first error of the above since it was last asked for. */
    xp_status (*error)(struct xp_moe *m);
};

/* What a folded step does with rows of tokens: moe_folded.c, or moe_folded_device.c. XP_OK, XP_IN_PROGRESS (the device must be asked again), error. */
struct xp_moe_fold_ops {
    /* Chooses the virtual tokens of a step; makes their entries, and the hello about them. */
    xp_status (*choose)(struct xp_moe *m, struct xp_routing *r);
    /* G of the virtual tokens. */
    xp_status (*gradients)(struct xp_moe *m, struct xp_routing *r);
    /* Rows of virtual tokens have come home: results of combine, or gradients. */
    xp_status (*home)(struct xp_moe *m, struct xp_routing *r);
    /* The operation ends: figures of dispatch, gradients of weights. */
    xp_status (*end)(struct xp_moe *m, struct xp_routing *r);
    /* What the first hop outward takes from; what comes home goes to. */
    const void *(*first_rows)(const struct xp_moe *m);
    char *(*home_rows)(const struct xp_moe *m);
};

struct xp_moe {
    struct xp_moe_shape shape;
    const struct xp_moe_row_ops *rows;
    const struct xp_moe_fold_ops *fold;
    struct xp_moe_device *device;       /* NULL: rows are in the host's memory, or come there and go from there by */
    struct xp_moe_stage *stage;         /* moe_staged.h; NULL: nothing does */
    void *stream;                       /* rows in device memory: of the operation */
    int hops, slow_hop;                 /* the hop between nodes */
    size_t cap[XP_MOE_HOPS + 1];        /* most entries at every level */
    size_t cap_most;                    /* of these, the largest */
    size_t *maxima;                     /* [2 size] behind shape's peer_max */
    struct xp_channel channel[XP_CHANNELS];
    struct xp_routing *routings;
    struct xp_folder *folder;           /* NULL: not folded */
    struct xp_fold_device *fold_device; /* its part in device memory (folded_device.h) */
    int hold, trial;                    /* folded: steps left to fall back; the next step is folded whatever the error was */
    double fold_err;                    /* folded: the error estimate after the last operation */
    char *virtual_rows;                 /* [cap[0]] rows of virtual tokens */
    struct xp_filling {                 /* of a folded dispatch: rows of virtual tokens are made while others are on their way */
        int left;                       /* some are to be made, */
        size_t next;                    /* from this one on; */
        int averaged;                   /* clusters have their means */
    } filling;
    struct xp_going_ahead {             /* of a folded dispatch whose rows leave while others are chosen (moe_ahead.c) */
        enum { XP_AHEAD_NONE, XP_AHEAD_CLUSTERS, XP_AHEAD_PROBES, XP_AHEAD_TOLD } stage; /* not under way; what is chosen; nothing more */
        struct xp_ahead ahead;
        size_t *most_to, *most_from;    /* [size] rows, at most */
        size_t *first, *made;           /* [size] where in `list` the rows for a rank begin; how many are there */
        uint32_t *list;                 /* [cap_most] virtual tokens */
        size_t averaged;                /* virtual tokens before this one have their rows but for coding, */
        size_t filled;                  /* before this one are made */
    } going;
    int own_home;                       /* folded, on the way back: rows that needed no message, on the device all, are where they belong */
    xp_stats *stats;
    /* staging */
    char *out, *in[2];                  /* [cap_most] rows: to send; received, in turn; where the rows are */
    float *scalars[2];                  /* [cap_most] received, in turn */
    uint8_t *records_out, *records_in;  /* [cap_most] records */
    float *dots;                        /* [cap_most] scalars at the experts */
    uint8_t *hello_out, *hello_in;      /* [size] hellos */
    size_t hello_bytes;
    size_t *ones;                       /* [size] counts of hellos */
    int32_t *order;                     /* [experts] in which they are folded */
    uint32_t *sort, *sort2, *bucket;    /* [cap_most] twice, [max(size, experts) + 1]; of a hop of rows: its lists of rows sent and received */
    struct xp_coded_rows *store;        /* of the tokens, where they go to several nodes, or of the virtual ones; else NULL */
    struct xp_kernels kernels;
    struct xp_sum_term *term;           /* [max_topk] */
    /* the operation under way */
    struct xp_moe_op op;
    struct xp_moe_step step[24];
    int steps, at, calling;
    int folded;                         /* it is about virtual tokens */
    struct xp_map *map;                 /* what its hops follow */
    struct xp_call call;
    struct xp_intake intake;
    uint64_t bypassed_before, row_calls;
    char codec_before[16];
};

/* Whether the operation under way moves rows, or only messages of the host. */
static inline int xp_moe_moves_rows(const struct xp_moe *m)
{
    return m->op.kind != XP_MOE_AGREE && m->op.kind != XP_MOE_RECORDS;
}

/* Whether the expert of an entry is on another node than its token. */
static inline int xp_entry_is_far(const struct xp_moe *m, const struct xp_map *map, const struct xp_entry *e)
{
    const int *node_of = m->shape.comm->node_of;
    return node_of[e->source] != node_of[map->rank_of[e->expert]];
}

/* Whether an entry, at home or at its expert, needs no hop. */
static inline int xp_entry_stays(const struct xp_moe *m, const struct xp_map *map, const struct xp_entry *e)
{
    return map->direct && e->source == m->shape.comm->rank && map->rank_of[e->expert] == e->source;
}

/* moe_create.c. folder: NULL: not a folded layer. */
xp_status xp_moe_create(struct xp_moe **out, const struct xp_moe_shape *shape, const struct xp_channel *channels,
                        const struct xp_folder_desc *folder);
void xp_moe_destroy(struct xp_moe *m);
/* Most rows that a row channel must carry, known before the channels are opened. */
size_t xp_moe_most_rows(const struct xp_moe_shape *shape);

/* moe.c: begins m->call on a channel. */
xp_status xp_moe_start_call(struct xp_moe *m, enum xp_moe_channel channel);
/* The state machine. ops is the table that an outer plan drives. */
extern const struct xp_algo_ops xp_moe_ops;
/* What start() of xp_moe_ops will run. */
void xp_moe_prepare(struct xp_moe *m, const struct xp_moe_op *op);

/* path.c: where an entry of `source` for `dest` is at a level; how many hops; the hop that crosses; the most entries at a level. */
int xp_path_hops(enum xp_moe_path path);
int xp_path_slow_hop(enum xp_moe_path path);
int xp_path_at(const struct xp_comm *c, enum xp_moe_path path, int source, int dest, int level);
size_t xp_path_most(const struct xp_moe_shape *s, int level);
/* Whether a hop between nodes, the first, may take a row to several ranks. */
int xp_path_copies(const struct xp_moe_shape *s);
/* The path of that name, or for "auto" the one that fits; -1: unknown. */
int xp_path_choose(const struct xp_comm *c, xp_mode mode, const char *name);

/* routing.c */
struct xp_routing *xp_routing_get(struct xp_moe *m); /* a free one, or a new one; NULL: no memory */
void xp_routing_put(struct xp_routing *r);
void xp_routing_free(struct xp_routing *r);
/* The caller's arrays, checked and copied. The error is told to all ranks by the hello. */
xp_status xp_routing_take(struct xp_routing *r, const xp_route_desc *d, char *why, size_t why_size);
/* Bytes of the hello of one rank, known before the channels are opened. */
size_t xp_moe_hello_bytes(const struct xp_moe_shape *shape);
/* Writes the hellos of this rank; fold: of a map of virtual tokens, else NULL; status and why: of its arguments; flag: this rank wants the step to
 * fall back. */
void xp_hello_write(struct xp_moe *m, const struct xp_map *map, const struct xp_fold *fold, xp_status status, const char *why, int flag);
/* What all ranks said: XP_OK, or the error that all ranks see. */
xp_status xp_hello_verdict(struct xp_moe *m, struct xp_map *map);
int xp_hello_flags(const struct xp_moe *m); /* whether any rank set its flag */
/* Whether hellos about virtual tokens say all about them; and then, instead of an exchange, the records that it would have brought. */
int xp_hello_tells_all(const struct xp_moe_shape *s);
xp_status xp_hello_records(struct xp_moe *m, const struct xp_map *map);
/* The entries at home, from the routing's arrays. */
void xp_map_home(struct xp_moe *m, struct xp_routing *r);
/* The experts of this rank and no rows: what is known before a folded step is dispatched. */
void xp_map_no_rows(struct xp_moe *m, struct xp_map *map);
/* One hop of the map: sorts entries by next rank, writes their records; reads those that came. Counts from the hellos. */
void xp_map_leave(struct xp_moe *m, struct xp_map *map, int hop);
xp_status xp_map_enter(struct xp_moe *m, struct xp_map *map, int hop);
/* Expert layout, when the last hop is done. */
void xp_map_layout(struct xp_moe *m, struct xp_map *map);

/* intake.c: before the last hop of a direction is called. */
void xp_intake_begin(struct xp_moe *m, int hop, int outward, const void *from, const void *own);
/* How many rows or units of a peer are here, from its first on: what the call under way says, or all. */
size_t xp_intake_here(const struct xp_moe *m, int peer);

/* dispatch.c: rows outward */
/* To m->out, of all rows those of this rank for itself: others are taken from where they lie. */
void xp_rows_leave(struct xp_moe *m, const struct xp_map *map, int hop, const void *from);
/* Rows that are here to the experts' rows, not more than `most`. Returns how many. */
size_t xp_rows_arrive(struct xp_moe *m, const struct xp_map *map, size_t most);
void xp_scalars_leave(struct xp_moe *m, const struct xp_map *map, int hop, const float *from);
void xp_scalars_home(struct xp_moe *m, const struct xp_routing *r, const float *from, float *grad_weight);

/* combine.c: rows back. weighted 0: all weights are 1. */
/* To m->out, all of them where some are sums; else as xp_rows_leave, with the list of the rows in m->sort. */
void xp_units_leave(struct xp_moe *m, const struct xp_map *map, int hop, const void *from, int weighted);
/* Results of tokens all of whose units are here, not more than `most`. Returns how many. */
size_t xp_units_home(struct xp_moe *m, const struct xp_map *map, int weighted, size_t most);

/* moe_folded.c: virtual tokens in the place of tokens */
/* After the hellos of xp_route: whether the step is folded. Equal on all ranks. */
int xp_folded_step(struct xp_moe *m, struct xp_routing *r);
/* Whether this rank asks for a fall-back. */
int xp_folded_alarm(const struct xp_moe *m);
extern const struct xp_moe_fold_ops xp_folded_by_host, xp_folded_by_device;
/* The virtual tokens are chosen, or st says why not: their entries, and the hello about them. Returns whether there are any to be made. */
int xp_folded_chosen(struct xp_moe *m, struct xp_routing *r, xp_status st);
/* The order in which `source` folds experts, to m->order: those of the rank behind it come first, and so on, its own last; ascending on each. So
 * the rows for one rank have numbers one behind the other, and those that travel are known before those that stay. Uses m->bucket. */
void xp_folded_order(struct xp_moe *m, const uint16_t *rank_of, int source);
/* The tokens of a step, in this rank's order. */
struct xp_fold_tokens xp_folded_tokens(struct xp_moe *m, const struct xp_routing *r);
/* Makes the next rows of virtual tokens, while m->filling.left says that there are any. */
xp_status xp_folded_fill(struct xp_moe *m, struct xp_routing *r);
/* moe_ahead.c: whether rows of a folded dispatch leave before all are chosen. Equal on all ranks. */
int xp_ahead_may(const struct xp_moe *m);
/* One piece of it: the exchange begins; a few experts get their clusters; a few virtual tokens their rows; the hello is written. XP_IN_PROGRESS until
 * then, and XP_OK. */
xp_status xp_ahead_choose(struct xp_moe *m, struct xp_routing *r);
/* The exchange while it is nobody else's: one round of it. */
xp_status xp_ahead_progress(struct xp_moe *m, int *moved);
/* All ranks have agreed: m->call says what comes, and where it belongs. The exchange is now that of the step. */
xp_status xp_ahead_agreed(struct xp_moe *m);
/* The operation ends before that. */
void xp_ahead_finish(struct xp_moe *m);
/* r->x = the rows of the tokens, before anything is made of them: the way home wants them, and they lie in large pages there. */
void xp_folded_keep(const struct xp_moe *m, const struct xp_routing *r);
/* Rows for the first hop, where none are kept as coded: far experts' as the coder takes them, near ones' as the far ones will be decoded. */
void xp_folded_leave(struct xp_moe *m, const struct xp_routing *r);
/* Those of this rank's own experts, which need no message, to where they belong, unless they are there. */
void xp_folded_own_home(struct xp_moe *m, const struct xp_routing *r);
void xp_folded_stats(struct xp_moe *m, const struct xp_routing *r, xp_stats *stats);

#endif
