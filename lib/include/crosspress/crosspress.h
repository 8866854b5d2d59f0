/*
 * crosspress - cheap all-to-all for Mixture-of-Experts on ordinary networks
 *
 * This header is the manual. Contents:
 *   1 introduction and a complete example   2 version   3 status   4 rows
 *   5 settings and log   6 communicator   7 plan   8 exchange   9 requests   10 statistics
 *   11 MoE: routing, dispatch, combine and their backward passes   12 rows in the memory of a GPU
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CROSSPRESS_H
#define CROSSPRESS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define XP_API __attribute__((visibility("default")))

/* ---------------------------------------------------------------------------------------------------------
 * 1 Introduction
 *
 * A **comm** is a group of ranks (processes, or threads of one process). A **plan** fixes the shape of the
 * rows, the mode and the maxima, and owns every buffer; the exchanges of a plan allocate nothing. A
 * **request** is an exchange under way. Objects are destroyed in the opposite order.
 *
 *     xp_comm *comm; xp_plan *plan;
 *     xp_comm_create(&comm, NULL, NULL);                 // ranks found through the launcher's environment
 *     xp_plan_desc d; xp_plan_desc_init(&d);
 *     d.dtype = XP_BF16; d.dim = 4096; d.max_send_rows = d.max_recv_rows = 8192;
 *     d.mode = XP_MODE_BOUNDED; d.eps = 0.03;            // every row within 3 % of its norm
 *     xp_plan_create(&plan, comm, &d);
 *     xp_alltoallv(plan, send, send_rows, recv, recv_rows, NULL);
 *     xp_plan_destroy(plan); xp_comm_destroy(comm);
 *
 * Conventions. Functions return an xp_status; outputs are set on success only. A struct parameter begins
 * with its size, is filled by its _init function and then changed; zero in a field means the default.
 * Destroy functions return nothing and accept NULL. Nothing here prints (unless a log level was asked for),
 * traps, exits, or waits for ever: every wait has a deadline (CROSSPRESS_TIMEOUT, 300 s).
 * Threads: different comms may be used from different threads at once; one comm, with its plans and
 * requests, belongs to one thread at a time (a violation is detected: XP_ERR_STATE).
 */

/* ---------------------------------------------------------------------------------------------------------
 * 2 Version
 */
#define XP_VERSION_MAJOR 0
#define XP_VERSION_MINOR 1
#define XP_VERSION_PATCH 0

/* Returns the version of the library that was loaded, such as "0.1.0". Static text. */
XP_API const char *xp_version(void);

/* ---------------------------------------------------------------------------------------------------------
 * 3 Status: 0 done, positive in progress, negative an error, grouped by whom to ask
 */
typedef enum xp_status {
    XP_OK = 0,
    XP_IN_PROGRESS = 1,
    /* the caller */
    XP_ERR_INVALID_ARG = -1, /* an argument is out of its documented range */
    XP_ERR_STATE = -2,       /* not now: a request is under way, the comm has failed, another thread is inside */
    XP_ERR_UNSUPPORTED = -3, /* this build, machine or type cannot do it */
    /* the machine */
    XP_ERR_NO_MEMORY = -10,
    XP_ERR_SYSTEM = -11, /* a system call or a library below failed; the text names it */
    /* the group */
    XP_ERR_TIMEOUT = -20,  /* the deadline passed; the text lists who had not arrived */
    XP_ERR_REMOTE = -21,   /* a peer died, left, or reported an error; the text names it */
    XP_ERR_MISMATCH = -22, /* ranks disagree about a call or a setting; the text gives both sides */
    /* the data, us */
    XP_ERR_CORRUPT = -30, /* bytes from outside (a frame, a message) are not what they claim */
    XP_ERR_INTERNAL = -40 /* a defect of this library */
} xp_status;

/* Returns a short static text for a status ("deadline passed"). Never NULL. */
XP_API const char *xp_status_string(xp_status s);

/* ---------------------------------------------------------------------------------------------------------
 * 4 Rows: `dim` values of one type, contiguous
 */
typedef enum xp_dtype {
    XP_BF16 = 1,
    XP_F16 = 2,
    XP_F32 = 3,
    XP_BYTE = 4 /* opaque bytes: raw and exact mode only, never lossy */
} xp_dtype;

/* Returns the bytes of one value (2, 2, 4, 1), or 0 for an unknown type. */
XP_API size_t xp_dtype_size(xp_dtype t);

typedef enum xp_mode {
    XP_MODE_DEFAULT = 0, /* what CROSSPRESS_MODE says; else exact */
    XP_MODE_RAW = 1,     /* the bytes, plain all-to-all */
    XP_MODE_EXACT = 2,   /* the bytes; bit-identical rows bound for one place cross the slow link once */
    XP_MODE_BOUNDED = 3, /* every row rebuilt at the receiver within eps, checked at the sender; opt-in */
    XP_MODE_FOLDED = 4   /* LSH-MoE: centroids travel; dispatch and combine only; approximate, opt-in (section 11) */
} xp_mode;

/* What eps is relative to. */
typedef enum xp_eps_ref {
    XP_EPS_REF_DEFAULT = 0, /* what CROSSPRESS_EPS_REF says; else XP_EPS_REF_MIN */
    XP_EPS_REF_MIN = 1,     /* min(|x|, |x - mean row|), not below 2^-8 |x|: a constant outlier channel hides nothing */
    XP_EPS_REF_ROW = 2      /* |x| */
} xp_eps_ref;

/* Whose errors are made random. Rounding alone makes the same error of the same value every time: where rows are summed over many steps, as
 * gradients are, such errors add up, and training is worse than the same error at random would leave it. With dither (codec book) a
 * pseudo-random part of a step is added before rounding and taken off again by the receiver, so that the errors of a row, each within eps as
 * ever, know nothing of its values, of other rows or of other steps; on gradients it costs 2 to 4 % more bytes. Codecs quant and lsh have random signs of
 * their own for each frame instead, which makes errors differ from frame to frame only. */
typedef enum xp_dither {
    XP_DITHER_DEFAULT = 0, /* bounded mode: the gradients of a MoE layer; nothing else */
    XP_DITHER_OFF = 1,
    XP_DITHER_ON = 2       /* all rows of the plan */
} xp_dither;

/* Where rows are. */
typedef enum xp_memory {
    XP_MEMORY_HOST = 0,
    XP_MEMORY_DEVICE = 1 /* the memory of a CUDA device (section 12) */
} xp_memory;

/* ---------------------------------------------------------------------------------------------------------
 * 5 Settings and log
 *
 * Every setting has an environment variable CROSSPRESS_<NAME>, read once at comm creation; xp_info prints
 * the table with values and sources. Fields set here win over the environment.
 */
typedef enum xp_log_level { XP_LOG_NONE = 0, XP_LOG_ERROR = 1, XP_LOG_WARN = 2, XP_LOG_INFO = 3, XP_LOG_DEBUG = 4 } xp_log_level;

typedef void (*xp_log_fn)(void *user, xp_log_level level, const char *text);

typedef struct xp_config {
    size_t size;            /* sizeof(xp_config), set by xp_config_init */
    double timeout_s;       /* deadline of every wait; 0 = CROSSPRESS_TIMEOUT, else 300 */
    const char *node;       /* ranks with equal text share a node; NULL = CROSSPRESS_NODE, else boot id + network namespace */
    const char *transport;  /* "auto", "shm", "tcp", "ucx"; NULL = CROSSPRESS_TRANSPORT, else auto */
    const char *interface_; /* network interface for bootstrap and tcp; NULL = CROSSPRESS_INTERFACE, else the route to the root */
    xp_log_fn log;          /* NULL: stderr, when CROSSPRESS_LOG asks for a level */
    void *log_user;
} xp_config;

/* Fills *cfg with defaults. */
XP_API void xp_config_init(xp_config *cfg);

/* ---------------------------------------------------------------------------------------------------------
 * 6 Communicator
 */
typedef struct xp_comm xp_comm;

/*
 * A user's allgather: every rank contributes `len` bytes at `in` and receives nranks * len bytes at `out`, in rank
 * order. Returns 0 on success. Called a few times inside xp_comm_create only, by the creating thread.
 */
typedef int (*xp_allgather_fn)(void *user, const void *in, void *out, size_t len);

/* A group of threads of one process that will each create one rank of a comm. */
typedef struct xp_thread_group xp_thread_group;

/*
 * Creates a group for nranks threads. Each thread passes it in xp_bootstrap with its own rank.
 * Returns XP_OK; XP_ERR_INVALID_ARG (out NULL, nranks < 1); XP_ERR_NO_MEMORY.
 * Owns: the caller owns *out and destroys it after every xp_comm_create that uses it has returned.
 */
XP_API xp_status xp_thread_group_create(xp_thread_group **out, int nranks);
XP_API void xp_thread_group_destroy(xp_thread_group *g);

#define XP_DOOR_MAX 128

/*
 * For ranks that can pass one text from one of them to all, once: rank 0 of a comm to be opens the door at which the others will
 * meet it, on CROSSPRESS_INTERFACE or the first network interface.
 *   text   at least XP_DOOR_MAX characters: address and secret, for xp_bootstrap.door on every rank. Who knows it can join.
 *   fd     for xp_bootstrap.door_fd on rank 0; the caller closes it after xp_comm_create.
 * Returns XP_OK; XP_ERR_INVALID_ARG; XP_ERR_SYSTEM (cannot listen). One door serves one comm.
 */
XP_API xp_status xp_door_open(char *text, size_t size, int *fd);

/*
 * Where the ranks come from. Exactly one of: `threads` set; `allgather` set; `door` set; none (the environment of
 * torchrun, Open MPI, MPICH/PMI or Slurm, or of the --spawn option of our tools).
 * Environment: rank 0 listens where CROSSPRESS_ROOT says; else under torchrun on MASTER_ADDR, MASTER_PORT + 1 (torch's own
 * store sits on MASTER_PORT) or one of the 7 ports after it; else on an address and port made from the launcher's job.
 * One such comm is created at a time. A program that calls MPI_Init under MPICH passes an allgather instead.
 * Without CROSSPRESS_SECRET the start-up's secret comes from the launcher's variables: that keeps out strangers and ranks of
 * earlier jobs, not an attacker who can read them.
 */
typedef struct xp_bootstrap {
    size_t size;               /* sizeof(xp_bootstrap), set by xp_bootstrap_init */
    int rank, nranks;          /* used with threads, allgather and door; ignored for the environment */
    xp_thread_group *threads;  /* (c) threads of one process */
    xp_allgather_fn allgather; /* (b) MPI, NCCL, a torch store ... */
    void *allgather_user;
    const char *door;          /* (d) the text of xp_door_open */
    int door_fd;               /* rank 0: its socket */
} xp_bootstrap;

/* Fills *boot so that the environment is used. */
XP_API void xp_bootstrap_init(xp_bootstrap *boot);

/*
 * Creates one rank of a communicator. Collective over all ranks.
 *   out   the new comm.   boot  NULL = the environment.   cfg  NULL = defaults.
 * Returns XP_OK; XP_ERR_INVALID_ARG (no launcher found, rank outside its range, a setting that does not
 *   parse); XP_ERR_TIMEOUT (ranks missing: listed in xp_last_error); XP_ERR_MISMATCH (ranks run different
 *   versions or settings); XP_ERR_REMOTE; XP_ERR_SYSTEM; XP_ERR_NO_MEMORY.
 * Owns: the caller owns *out. boot and cfg are not kept.
 */
XP_API xp_status xp_comm_create(xp_comm **out, const xp_bootstrap *boot, const xp_config *cfg);

/*
 * Leaves the group and frees the comm. Not collective: peers that still wait for this rank get XP_ERR_REMOTE.
 * What the exchanges have sent still arrives: waits for peers that have not taken it yet, at most 5 s when one of them stays
 * away from the library; after a failure at most 2 s in all. Plans and requests of the comm must be gone. NULL is accepted.
 */
XP_API void xp_comm_destroy(xp_comm *comm);

XP_API int xp_comm_rank(const xp_comm *comm);   /* this rank, 0 .. size - 1 */
XP_API int xp_comm_size(const xp_comm *comm);   /* number of ranks */
XP_API int xp_comm_nodes(const xp_comm *comm);  /* number of nodes */
XP_API int xp_comm_node_of(const xp_comm *comm, int rank); /* node of a rank, numbered by its lowest rank; -1 if out of range */

/*
 * Waits until every rank of the comm has arrived. Collective.
 * Returns XP_OK, XP_ERR_TIMEOUT, XP_ERR_REMOTE, XP_ERR_STATE.
 */
XP_API xp_status xp_comm_barrier(xp_comm *comm);

/*
 * Gathers `len` bytes (at most 1 MiB) of every rank at every rank, in rank order. For set-up and reports, not for
 * bulk data. Collective. Returns as xp_comm_barrier, and XP_ERR_MISMATCH when lengths differ.
 */
XP_API xp_status xp_comm_allgather(xp_comm *comm, const void *in, void *out, size_t len);

/*
 * Returns the text of the last error on this comm ("alltoallv: rank 3 sends 17 rows, rank 0 expects 16"), naming
 * rank, peer and operation; "" when there was none. Valid until the next call on the comm.
 */
XP_API const char *xp_comm_last_error(const xp_comm *comm);

/* The same for calls that have no comm (a failed xp_comm_create, codec calls): the calling thread's last error. */
XP_API const char *xp_last_error(void);

/* ---------------------------------------------------------------------------------------------------------
 * 7 Plan
 */
typedef struct xp_plan xp_plan;
typedef struct xp_moe_desc xp_moe_desc; /* section 11 */

typedef struct xp_plan_desc {
    size_t size;          /* sizeof(xp_plan_desc), set by xp_plan_desc_init */
    xp_dtype dtype;       /* required */
    size_t dim;           /* values in a row, 1 .. 2^20; required */
    size_t max_send_rows; /* most rows one call sends, all peers together */
    size_t max_recv_rows; /* most rows one call receives, all peers together */
    xp_mode mode;         /* default: CROSSPRESS_MODE */
    double eps;           /* bounded: 0 < eps < 1; 0 = CROSSPRESS_EPS */
    xp_eps_ref eps_ref;   /* bounded: what eps is relative to */
    xp_dither dither;     /* bounded: whose errors are made random */
    const char *codec;    /* NULL or "auto": chosen by measurement; else a name of xp_info's list */
    const char *algo;     /* NULL or "auto"; "flat", "hier", "leader" */
    uint64_t seed;        /* of the random signs; equal on all ranks; 0 = built-in */
    const xp_moe_desc *moe; /* NULL: a plan for xp_alltoallv. Else a plan for xp_route (section 11); not kept */
    xp_memory memory;     /* where rows are: send and recv of xp_alltoallv; with moe set those of dispatch, combine and their backward passes */
    void *stream;         /* XP_MEMORY_DEVICE: the cudaStream_t that calls are ordered on; NULL = the default stream */
    const char *transport;/* XP_MEMORY_DEVICE: NULL or "auto": NCCL where nccl_comm is given, else those of the comm; "nccl" */
    void *nccl_comm;      /* XP_MEMORY_DEVICE: an ncclComm_t of the comm's ranks in the same order; NULL = "nccl" makes one */
} xp_plan_desc;

/* Fills *d with defaults. */
XP_API void xp_plan_desc_init(xp_plan_desc *d);

/*
 * Creates a plan: checks that all ranks ask for the same, chooses the algorithm, allocates every buffer. Collective.
 * max_send_rows and max_recv_rows may differ between ranks; everything else must be equal.
 * Returns XP_OK; XP_ERR_INVALID_ARG; XP_ERR_MISMATCH (names two ranks and the field); XP_ERR_UNSUPPORTED (unknown
 *   codec or algorithm, folded mode without moe, a lossy mode for XP_BYTE, device memory where there is none);
 *   XP_ERR_NO_MEMORY; XP_ERR_TIMEOUT; XP_ERR_REMOTE.
 * Owns: the caller owns *out, which keeps a reference to comm. d is not kept.
 */
XP_API xp_status xp_plan_create(xp_plan **out, xp_comm *comm, const xp_plan_desc *d);

/* Frees a plan; a request still under way is abandoned (its buffers may be written until this returns). NULL is accepted. */
XP_API void xp_plan_destroy(xp_plan *plan);

/* ---------------------------------------------------------------------------------------------------------
 * 8 Exchange
 */
typedef struct xp_request xp_request;

/*
 * Sends rows to every rank and receives rows from every rank (MPI_Alltoallv, counted in rows).
 *   send       rows for rank 0, then for rank 1, ...: sum(send_rows) rows. May be NULL when that is 0.
 *   send_rows  [size] rows for each rank; zero is fine.
 *   recv       room for sum(recv_rows) rows; rank 0's rows first, each rank's in the order sent.
 *   recv_rows  [size] rows expected of each rank; must equal what that rank sends.
 *   req        NULL: the call returns when all is done. Else: *req is a request to test or wait for.
 * Returns XP_OK (done, or with req: started); XP_ERR_INVALID_ARG (counts above the plan's maxima, overlapping
 *   buffers); XP_ERR_STATE (a request of this plan is under way); XP_ERR_MISMATCH (on both ranks, with both counts);
 *   XP_ERR_TIMEOUT; XP_ERR_REMOTE; XP_ERR_CORRUPT.
 * Owns: both buffers belong to the exchange until it is complete; any alignment of the type's size is accepted.
 *   Counts are copied.
 * Order: collective; every rank issues the calls of one plan in the same order. Source: MPI-4, section 6.8.
 * In bounded mode a row that holds NaN or Inf, or cannot be rebuilt within eps, arrives bit for bit.
 */
XP_API xp_status xp_alltoallv(xp_plan *plan, const void *send, const size_t *send_rows, void *recv,
                              const size_t *recv_rows, xp_request **req);

/*
 * xp_alltoallv for rows that are still being written, by copies of a device, say: the exchange starts, and the rows for a rank are read
 * once xp_request_ready has been called for it. Algorithms other than flat, and bounded mode, begin when the rows for all ranks are ready.
 * Returns as xp_alltoallv with req; XP_ERR_INVALID_ARG also without req; XP_ERR_UNSUPPORTED for rows in device memory. An exchange some
 * of whose rows never get ready ends at its deadline.
 */
XP_API xp_status xp_alltoallv_early(xp_plan *plan, const void *send, const size_t *send_rows, void *recv,
                                    const size_t *recv_rows, xp_request **req);

/* xp_alltoallv with rows_per_rank rows to and from every rank. */
XP_API xp_status xp_alltoall(xp_plan *plan, const void *send, void *recv, size_t rows_per_rank, xp_request **req);

/* ---------------------------------------------------------------------------------------------------------
 * 9 Requests
 */

/*
 * Moves the exchange on and says how it stands. Returns XP_OK (done), XP_IN_PROGRESS, or the error that ended it.
 * The request stays valid until xp_request_free.
 */
XP_API xp_status xp_request_test(xp_request *req);

/* The rows for `rank` of an xp_alltoallv_early are written. Returns XP_OK; XP_ERR_INVALID_ARG (no such rank, not such a request). */
XP_API xp_status xp_request_ready(xp_request *req, int rank);

/*
 * How many rows from `rank`, from its first on, are in their places and may be read while others are on their way. 0 where that is not
 * known before the end: algorithms other than flat, rows in device memory, other operations than xp_alltoallv.
 */
XP_API size_t xp_request_arrived(const xp_request *req, int rank);

/* How many xp_request_test in a row have found nothing to do. Who tests in a loop gives the core away meanwhile. */
XP_API int xp_request_idle(const xp_request *req);

/* Waits until the exchange is done or its deadline has passed. Returns XP_OK or the error that ended it. */
XP_API xp_status xp_request_wait(xp_request *req);

/* Frees a request that has ended; one under way is first waited for. NULL is accepted. */
XP_API void xp_request_free(xp_request *req);

/* ---------------------------------------------------------------------------------------------------------
 * 10 Statistics
 */
typedef struct xp_stats {
    size_t size;             /* sizeof(xp_stats), set by the caller before the call */
    uint64_t calls;          /* exchanges completed */
    uint64_t bypassed;       /* of these, how many sent plain rows although a codec or deduplication was allowed */
    uint64_t rows_sent;      /* rows handed in, rows for this rank itself left out */
    uint64_t rows_unique;    /* rows that this rank sent over a slow link, copies left out (leader: for its whole node) */
    uint64_t rows_raw;       /* coded exchanges: rows that travelled raw (missed eps, NaN, Inf) */
    uint64_t raw_bytes;      /* bytes of rows_sent in their own type */
    uint64_t wire_bytes_slow;/* bytes sent to other nodes, headers and maps included */
    uint64_t wire_bytes_fast;/* bytes sent inside the node */
    double err_mean, err_max;/* relative L2 error of the coded rows, |x' - x| / |x|: mean and worst */
    double err_ref_max;      /* worst |x' - x| / (the reference of eps) */
    double seconds_total, seconds_encode, seconds_decode, seconds_wait;
    char algo[16], codec[16];/* what the last exchange used */
    uint64_t books_fitted;   /* codec book: books learned since the plan's creation, */
    uint64_t books_sent_bytes; /* bytes of them sent (part of wire_bytes_slow), */
    uint64_t books_memory;   /* and the memory that the plan's books take here */
    uint32_t book_version;   /* of the book in use; 0: none yet */
    /* plans for xp_route only */
    uint64_t hop_rows_slow, hop_rows_fast; /* rows sent to other nodes, and inside the node, by all hops of all calls */
    uint64_t clusters;       /* folded: centroids made */
    double rate;             /* folded: centroids (probes included) / rows, of the last dispatch */
    double rho;              /* folded: residual energy / row energy, of the last dispatch (up to 2048 of its rows) */
    double fold_err;         /* folded: relative error of the expert outputs, estimated from the probes; 0 = no probes yet */
    uint64_t fold_fallbacks; /* folded: steps that went bounded because fold_err was above the limit */
} xp_stats;

/*
 * Copies the figures of this rank since the plan's creation or the last reset.
 * Returns XP_OK; XP_ERR_INVALID_ARG (NULL, size not set).
 */
XP_API xp_status xp_plan_stats(const xp_plan *plan, xp_stats *out);

/* Sets the figures to zero. */
XP_API void xp_plan_stats_reset(xp_plan *plan);

/* ---------------------------------------------------------------------------------------------------------
 * 11 MoE: routing, dispatch, combine and their backward passes
 *
 * A plan whose description has `moe` set serves one MoE layer. Each step: xp_route once, then xp_dispatch (token rows go to the
 * ranks of their experts), the experts, xp_combine (results come home and are summed with their gate weights); in training
 * xp_combine_backward, the experts' backward, xp_dispatch_backward, with the same routing.
 *
 *     xp_moe_desc m; xp_moe_desc_init(&m);
 *     m.experts = 16; m.max_topk = 2;
 *     d.moe = &m; d.max_send_rows = tokens; d.max_recv_rows = most_rows_for_my_experts;
 *     xp_plan_create(&plan, comm, &d);
 *     xp_route_desc r; xp_route_desc_init(&r);
 *     r.tokens = tokens; r.topk = 2; r.expert = topk_idx; r.weight = topk_weight;
 *     xp_route(plan, &r, &routing);
 *     xp_dispatch(plan, routing, x, rows, NULL);        // rows grouped by local expert
 *     ... for each local expert e: run it on rows offsets[e] .. offsets[e + 1] - 1
 *     xp_combine(plan, routing, rows_out, x, y, NULL);
 *     xp_routing_destroy(routing);
 *
 * How rows travel. `flat`: one copy per (token, rank) goes directly. `hier`: one copy per (token, node) crosses the slow hop, to the
 * rank of the same local index, which fans it out inside the node. `leader`: the same through the lowest rank of each node (HetuMoE,
 * arXiv 2203.14685). Raw mode sends one copy per (token, expert), as plain libraries do. Rows are coded on slow hops only.
 *
 * Expert layout: rows grouped by local expert (ascending expert number); inside a group ascending (source rank, token). One
 * row per (token, expert), as Megatron-Core, DeepEP and Tutel expect.
 *
 * Sums. y[t] = sum over slots k of weight[t][k] * E_k(x[t]), in f32, slots ascending. With XP_COMBINE_ROWS (default of raw and
 * exact mode) every expert row comes home unchanged, so all algorithms give the same bits. With XP_COMBINE_SUM (default of
 * bounded mode) what one node (flat: one rank) has for a token is summed in f32 there, rounded once to the row type, and crosses
 * the slow hop as one row.
 *
 * Folded mode (LSH-MoE, arXiv 2411.08446). For every (rank, expert) the rows are clustered (cross-polytope buckets as seeds, refined in
 * the sketch); centroids travel, experts see centroids only, and the home rank adds what the centroid left out:
 *     y_k = E(c_j) + alpha * (x_k - c_j)                               equation (5) of the paper, with its alpha = 1
 *     G_j = sum over k in j of g_k;  dx_k = alpha * g_k + (J^T G_j - alpha * G_j) / N_j          (g_k: gate weight applied)
 * It is approximate without a bound: watch fold_err in the statistics. It also divides the experts' own work by the rate.
 * WARNING: a mean centroid mixes later tokens into earlier ones; a causal model then learns to read the future. Use
 * XP_CENTROID_LEADER or XP_CENTROID_SEQUENCES when training one.
 */
typedef enum xp_combine_sum {
    XP_COMBINE_DEFAULT = 0, /* rows in raw and exact mode, sum in bounded mode; folded: centroids come home as they are */
    XP_COMBINE_ROWS = 1,    /* every expert row comes home */
    XP_COMBINE_SUM = 2      /* partial sums cross the slow hop */
} xp_combine_sum;

/* Folded mode: alpha, the weight of the residual. */
typedef enum xp_alpha {
    XP_ALPHA_FIT = 0,   /* default: per expert, least squares over probe rows, whose true E(x) travels */
    XP_ALPHA_FIXED = 1  /* moe.alpha: 1 is the paper, 0 adds nothing */
} xp_alpha;

/* Folded mode: the row that stands for a cluster. */
typedef enum xp_centroid {
    XP_CENTROID_MEAN = 0,     /* default: the mean row */
    XP_CENTROID_LEADER = 1,   /* the cluster's earliest row: no output depends on a later row; gradients of a cluster go to it */
    XP_CENTROID_SEQUENCES = 2 /* mean rows, clusters hold at most one row of each sequence (route.sequence is needed) */
} xp_centroid;

struct xp_moe_desc {
    size_t size;           /* sizeof(xp_moe_desc), set by xp_moe_desc_init */
    int experts;           /* of the layer, all ranks together; required, 1 .. 65535 */
    int max_topk;          /* most experts per token, 1 .. 64; required */
    xp_combine_sum combine;/* where partial results are summed */
    double eps_combine;    /* bounded: of the expert outputs; 0 = the plan's eps */
    double eps_grad;       /* bounded: of the gradients, both ways; 0 = the plan's eps. They are dithered unless the plan's dither is off */
    /* folded mode */
    const char *preset;    /* NULL; "paper": 6 hash functions, alpha 1, no refinement, no probes */
    double rate;           /* wanted centroids per row, 0 < rate <= 1; 0 = CROSSPRESS_RATE (0.2). The plan keeps it within 10 % */
    xp_alpha alpha_rule;
    double alpha;          /* for XP_ALPHA_FIXED */
    xp_centroid centroid;
    int hashes, width, rounds; /* cross-polytope hash: functions concatenated, their width, rotation rounds; 0 = tuned, see hash/README.md */
    int refine;            /* Lloyd rounds in the sketch; 0 = 2; -1 = none */
    int probes;            /* probe rows per (rank, expert) and step; 0 = 2 with XP_ALPHA_FIT, none else; -1 = none */
    double outlier;        /* a row whose residual holds more than this part of its energy becomes its own cluster; 0 = none */
    double error_limit;    /* fold_err above it: all ranks go bounded (plan's eps) in the same step, until it is tried again; 0 = none */
};

/* Fills *m with defaults. */
XP_API void xp_moe_desc_init(xp_moe_desc *m);

/* One step's routing: who gets which token, agreed on by all ranks; reused by dispatch, combine and both backward passes. */
typedef struct xp_routing xp_routing;

typedef struct xp_route_desc {
    size_t size;                /* sizeof(xp_route_desc), set by xp_route_desc_init */
    size_t tokens;              /* of this rank, at most the plan's max_send_rows; may differ between ranks, may be 0 */
    int topk;                   /* columns of expert and weight, 0 .. max_topk; may differ between ranks */
    const int32_t *expert;      /* [tokens][topk] expert of each slot, -1 = none; no expert twice for a token */
    const float *weight;        /* [tokens][topk] gate weights; NULL = 1 */
    const int32_t *expert_rank; /* [experts] rank of each expert, equal on all ranks; NULL: blocks, expert e on rank e * size / experts.
                                 * May change from routing to routing */
    const int32_t *sequence;    /* [tokens] sequence of each token, for XP_CENTROID_SEQUENCES; NULL = none */
} xp_route_desc;

/* Fills *r with defaults. */
XP_API void xp_route_desc_init(xp_route_desc *r);

/*
 * Agrees on one step's routing. Collective; blocks for two exchanges of small messages.
 * Returns XP_OK; XP_ERR_INVALID_ARG (tokens or topk above the maxima, an expert number out of range, an expert twice for one token, a
 *   weight that is NaN or Inf, missing sequences); XP_ERR_MISMATCH (expert_rank differs between ranks: names two);
 *   XP_ERR_STATE (a request of this plan is under way); XP_ERR_NO_MEMORY; XP_ERR_TIMEOUT; XP_ERR_REMOTE. An error of one rank's
 *   arguments, or more rows than a rank's max_recv_rows, is an error on all ranks, which names it; the comm stays usable.
 * Owns: the caller owns *out; nothing of d is kept. Several routings may be alive (micro-batches).
 */
XP_API xp_status xp_route(xp_plan *plan, const xp_route_desc *d, xp_routing **out);

/* Gives the routing back to its plan; its memory is used again. Before the plan is destroyed. NULL is accepted. */
XP_API void xp_routing_destroy(xp_routing *r);

/* Rows that this rank's experts get: room needed for xp_dispatch's output. Folded mode: an upper bound before xp_dispatch has
 * ended, the number of centroids and probes after it. */
XP_API size_t xp_routing_rows(const xp_routing *r);
/* Experts of this rank; their numbers, ascending [local]; where the rows of each begin [local + 1] (folded: valid after xp_dispatch
 * has ended). Valid until the routing is destroyed. */
XP_API int xp_routing_local_experts(const xp_routing *r);
XP_API const int32_t *xp_routing_expert_ids(const xp_routing *r);
XP_API const size_t *xp_routing_offsets(const xp_routing *r);

/*
 * Folded mode: the clusters of the last xp_dispatch with this routing, for tests and reports.
 *   cluster   [tokens][topk] out: number of the slot's cluster on this rank, -1 where there is no expert.
 *   alpha     [tokens][topk] out: weight of its residual as xp_combine used it (valid after xp_combine). May be NULL.
 *   centroid  [clusters][dim] out: the centroids as the experts saw them, row type of the plan. May be NULL.
 *   clusters  out: their number, probes not counted.
 * Returns XP_OK; XP_ERR_INVALID_ARG; XP_ERR_STATE (not folded, or not dispatched).
 */
XP_API xp_status xp_routing_clusters(const xp_routing *r, int32_t *cluster, float *alpha, void *centroid, size_t *clusters);

/*
 * Sends token rows to the ranks of their experts. Collective over the comm.
 *   x     [tokens][dim] this rank's rows.
 *   rows  [xp_routing_rows][dim] out: rows in expert layout.
 *   req   NULL: returns when done. Else a request, as in xp_alltoallv; buffers belong to it until it is complete.
 * Returns as xp_alltoallv; XP_ERR_STATE also when the routing is of another plan.
 * In bounded mode every row arrives within eps of x, NaN and Inf rows bit for bit; in raw and exact mode bit for bit.
 */
XP_API xp_status xp_dispatch(xp_plan *plan, xp_routing *routing, const void *x, void *rows, xp_request **req);

/*
 * Brings expert results home and sums them: y[t] = sum over k of weight[t][k] * result. Collective.
 *   rows  [xp_routing_rows][dim] results in expert layout.
 *   x     [tokens][dim] as given to xp_dispatch; folded mode needs it, other modes ignore it (may be NULL).
 *   y     [tokens][dim] out; a token without experts gets zeros.
 * Returns as xp_dispatch; folded mode: XP_ERR_STATE before xp_dispatch.
 */
XP_API xp_status xp_combine(xp_plan *plan, xp_routing *routing, const void *rows, const void *x, void *y, xp_request **req);

/*
 * Backward of xp_combine: gradients of the expert results and of the gate weights. Collective.
 *   grad_y       [tokens][dim] dL/dy.
 *   rows         [xp_routing_rows][dim] as given to xp_combine; NULL: no gradients of the weights. On all ranks or none (else
 *                XP_ERR_MISMATCH): a rank with neither rows nor tokens tells by a grad_weight that is not NULL.
 *   grad_rows    [xp_routing_rows][dim] out, expert layout: weight * grad_y (folded: the sums G_j).
 *   grad_weight  [tokens][topk] out: dL/dweight, 0 where there is no expert; NULL together with rows.
 * Returns as xp_dispatch.
 */
XP_API xp_status xp_combine_backward(xp_plan *plan, xp_routing *routing, const void *grad_y, const void *rows, void *grad_rows,
                                     float *grad_weight, xp_request **req);

/*
 * Backward of xp_dispatch: gradients of the token rows. Collective.
 *   grad_rows  [xp_routing_rows][dim] dL/d(rows) of the experts, expert layout.
 *   grad_y     [tokens][dim] as given to xp_combine_backward; folded mode needs it, other modes ignore it (may be NULL).
 *   grad_x     [tokens][dim] out: the sum over the slots, weights not applied again.
 * Returns as xp_dispatch; folded mode: XP_ERR_STATE before xp_combine_backward.
 */
XP_API xp_status xp_dispatch_backward(xp_plan *plan, xp_routing *routing, const void *grad_rows, const void *grad_y, void *grad_x,
                                      xp_request **req);

/* ---------------------------------------------------------------------------------------------------------
 * 12 Rows in the memory of a GPU
 *
 * With memory = XP_MEMORY_DEVICE a plan exchanges rows that lie in the memory of the CUDA device that is current when the plan is
 * created; all later calls use that device, whatever is current then. It needs a library that was built with CUDA (xp_info says so); which
 * CUDA runtime the program itself uses does not matter.
 *
 *     d.memory = XP_MEMORY_DEVICE; d.stream = stream;
 *     xp_plan_create(&plan, comm, &d);
 *     kernel<<<..., stream>>>(send);
 *     xp_alltoallv(plan, send, send_rows, recv, recv_rows, NULL);
 *     kernel<<<..., stream>>>(recv);                     // no synchronisation in between
 *
 * Order. A call is ordered on the plan's stream as a kernel would be: it reads send and writes recv after everything that was given to the
 * stream before the call; what is given to the stream after the exchange is complete (the call without req, or the request, has
 * returned XP_OK) finds send free and recv written. The host is needed while rows travel, so a call without req returns when the
 * rows are through, and work that shall run beside an exchange goes to another stream; the stream itself is not waited for.
 * Counts are in host memory.
 *
 * Graphs. An exchange cannot become part of a graph, because the host takes part in it. A call on a stream that is being captured is
 * refused (XP_ERR_STATE) before anything is begun: it counts as not made, the comm and the plan are as they were, and so is the capture. A request whose
 * stream is captured meanwhile stays under way: xp_request_test and xp_request_wait are refused, and xp_request_free does nothing, until the
 * capture is over. Streams that are captured elsewhere, in this thread or another, do not matter.
 *
 * How rows travel. Between device and network they pass through pinned memory, in chunks (CROSSPRESS_CHUNK), copies and messages
 * side by side; transports that take device memory (UCX with CUDA) get plain rows without. Memory is allocated at plan creation: pinned
 * room for max_recv_rows rows and a few chunks; in bounded mode as much again, and a few batches of rows, on the device. Ranks exchange
 * directly (algorithm flat); the statistics name the algorithm "staged".
 *
 * Exact mode between nodes. Copies of rows are left out, and rows packed where that pays (codecs exact and pack), by the host: the rows for each
 * rank are copied to pinned memory, an algorithm of the host exchanges them there, with the messages of a plan for host memory, and what has come is
 * copied to the device. All algorithms serve; the statistics name the one that does. Rows for a rank travel while those for the next are copied
 * (flat). Pinned memory: max_send_rows and max_recv_rows rows. Where UCX takes device memory between nodes, rows go from there as they are
 * unless a codec is named; with codec "raw" and inside a node they travel as they are, too. With NCCL the device looks for copies, and rows are not
 * packed: more rows for a rank than one message may have (CROSSPRESS_CHUNK) are compared, the host makes a row map of what the device has found, and
 * the group of NCCL has the distinct rows where that saves 2 % of the bytes.
 *
 * NCCL. With a communicator, given or made, all rows of a call go from device to device in one group of ncclSend and ncclRecv (the statistics
 * name the algorithm "nccl"), or, where nothing is coded or compared, all counts are equal and every rank's NCCL has it, by ncclAlltoAll; coded
 * rows travel as bytes. NCCL is loaded when such a plan is created: the library that the program has
 * loaded, else CROSSPRESS_NCCL_PATH, else libnccl.so.2. The counts, and what a receiver must know of coded or left out rows beforehand, still go through the
 * comm. A communicator that is given must not be used by anything else during a call, and is not destroyed with the plan. When a rank is lost or a
 * deadline passes while a group is under way the communicator, also a given one, is aborted (ncclCommAbort), because nothing else ends
 * what waits on the device. Memory on the device: in bounded mode twice max_send_rows and once max_recv_rows rows, in exact mode once each.
 *
 * Bounded mode. Rows for other nodes are coded and decoded on the device, into the bytes that a plan for host memory would send: codec quant
 * ("auto"), or one of its fixed formats (fp8, int8 ... int2); others are refused (XP_ERR_UNSUPPORTED), as are rows that do not fit
 * the shared memory of a multiprocessor (some 15,000 values). Every row is within eps, checked on the device by decoding it; the
 * statistics count rows_raw, but err_mean, err_max and err_ref_max stay 0. Where rows are dithered, each frame's random signs are made on the device.
 *
 * MoE layers. A plan with moe set takes device memory as well: x, rows, y and their gradients are device pointers, ordered on the plan's stream as
 * above. What xp_route takes, what the routing's functions return and grad_weight are in host memory: xp_route exchanges them as messages
 * of the host, and its copies to the device are waited for by the stream alone; xp_combine_backward with grad_weight returns when the weights'
 * gradients are here. All modes, all algorithms and both sums. The results are those of a plan for host memory with the same codec, bit for
 * bit, but for which NaN it is where a sum is none, and, in bounded mode by the leaders, for tokens that go to several nodes: a plan for
 * host memory codes these once, this one for each. Exact mode sends one copy of a token to a rank or node, as in host memory.
 * Memory on the device beside that of the exchanges: three times the most rows that a hop may bring, and for each routing in use some
 * 50 bytes a row; folded mode has its own rules:
 *
 * Folded mode with rows in device memory. The host chooses the clusters, from what the device tells it of every token (the energy and 64 values
 * of 16 bits), and the rows stay where they are: centroids are made, coded and sent from there, by NCCL or by the transports of the comm,
 * results and gradients come back there. Dispatch asks the device three times before it sends, and combine once where there are probes, so these
 * do not return before the stream has come to them. What comes out is what a plan for host memory gives, bit for bit, steps that fall back
 * included, where these have the same codec. Memory on the device: for each routing in use max_send_rows rows, and three times as many rows as a
 * rank has slots at most (max_send_rows * max_topk), since all could be wild; for the plan once as many. Where steps may fall back (error_limit)
 * their codec is that of bounded mode.
 *
 * Leaders (XP_CENTROID_LEADER) and a bound for outliers need all rows while clusters are chosen, and some rows are too long to be coded on the
 * device; such a layer is folded on the host, and sends from there by the transports of the comm: transport "nccl" or nccl_comm is
 * refused (XP_ERR_UNSUPPORTED). Each operation copies the rows that it takes to pinned memory, behind what the stream has been given, and those that it gives
 * to the device; neither copy runs beside the exchange. Memory: that of a plan for host memory, and, pinned, rows for twice the larger of
 * max_send_rows and max_recv_rows and for once max_send_rows; with error_limit for three times the larger. None on the device.
 */

/*
 * Changes the stream of a plan for the calls that follow.
 *   stream  a cudaStream_t of the plan's device; NULL = the default stream.
 * Returns XP_OK; XP_ERR_INVALID_ARG (not a plan for rows in device memory); XP_ERR_STATE (a request of this plan is under way).
 */
XP_API xp_status xp_plan_set_stream(xp_plan *plan, void *stream);

#ifdef __cplusplus
}
#endif
#endif
