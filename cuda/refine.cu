/*
 * refine.cu - Lloyd rounds on the sketches of clustered rows, all in one cooperative launch, which may also make the clusters
 *
 * A round: which clusters are seeds (all, but for a first round with a limit), their means, the nearest of them for every row, and
 * the clusters that this gives (group.cuh). Sums of means are taken by a warp over 64 rows in a row of the order, whatever clusters
 * they belong to; a cluster that lies in several such chunks is added up from the chunks' sums. Everything is integers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/assign.cuh"
#include "cuda/buckets.cuh"

namespace
{

constexpr unsigned THREADS = XP_GROUP_THREADS, WARPS = XP_GROUP_WARPS, STRIPS = XP_GROUP_STRIPS;
constexpr unsigned BLOCKS_PER_SM = 2;
constexpr uint32_t CHUNK = 64;   /* rows whose sums a warp takes */
constexpr unsigned COLUMNS = 64; /* values that a warp takes of a sketch, two a lane */
constexpr unsigned AHEAD = 8;    /* rows loaded before they are added */
constexpr uint32_t NO_SEED = UINT32_MAX;

static_assert(WARPS == XP_ASSIGN_WARPS, "one kernel does both");

struct Scratch {
    unsigned *counter;
    xp_group_sort sort;
    xp_buckets buckets;
    uint32_t *first;   /* [rows] first row of a seed */
    uint32_t *seed;    /* [rows] the seed that a cluster is, else NO_SEED */
    uint32_t *seeds;   /* how many */
    int *partial;      /* [chunks][2][s] sums of a chunk's first rows, and of a cluster that begins later in it and goes on behind it */
};

struct Job {
    const uint32_t *ids; /* NULL: the rows are clustered already */
    const int16_t *sketch;
    uint32_t rows;
    unsigned s, rounds;
    uint32_t most;     /* clusters that may be seeds of the first round; 0: all */
    int16_t *centroids;
};

union Shared {
    xp_group_shared group;
    xp_assign_shared assign;
};

/* ---- which clusters are seeds ---- */

static __device__ __forceinline__ uint32_t size_of(const xp_dev_clusters &c, uint32_t k)
{
    return c.start[k + 1] - c.start[k];
}

/* Clusters of at least this many rows; the same in all threads of the block. */
static __device__ __forceinline__ uint32_t count_large(const xp_dev_clusters &c, xp_group_shared &s, uint32_t clusters, uint32_t least)
{
    uint32_t mine = 0, all;

    for (uint32_t k = threadIdx.x; k < clusters; k += THREADS)
        mine += size_of(c, k) >= least;
    xp_group_scan(s, mine, &all);
    return all;
}

/* One block: the largest `most` clusters, the first of equals, are seeds, in the order of their numbers. */
static __device__ __forceinline__ void choose_seeds(const xp_dev_clusters &c, xp_group_shared &s, uint32_t clusters, uint32_t rows, uint32_t most,
                                                    const Scratch &x)
{
    uint32_t least = 1, beyond = rows + 1, equals, before = 0;

    while (beyond - least > 1) { /* at least `most` clusters have `least` rows, fewer have `beyond` */
        const uint32_t middle = least + (beyond - least) / 2;
        if (count_large(c, s, clusters, middle) >= most)
            least = middle;
        else
            beyond = middle;
    }
    equals = most - count_large(c, s, clusters, least + 1);
    for (uint32_t first = 0; first < clusters; first += THREADS) {
        const uint32_t k = first + threadIdx.x, size = k < clusters ? size_of(c, k) : 0;
        uint32_t equal_here, seeds_here;
        const uint32_t equals_before = xp_group_scan(s, size == least, &equal_here);
        const bool seed = size > least || (size == least && equals_before < equals);
        const uint32_t place = before + xp_group_scan(s, seed, &seeds_here);

        if (k < clusters)
            x.seed[k] = seed ? place : NO_SEED;
        before += seeds_here;
        equals -= equal_here < equals ? equal_here : equals;
    }
    if (threadIdx.x == 0)
        *x.seeds = before;
}

/* ---- their means ---- */

/* floor(sum / n + 1/2) */
static __device__ __forceinline__ unsigned rounded_mean(int sum, int n)
{
    int q = sum / n, rest = sum - q * n;

    if (rest < 0) {
        q--;
        rest += n;
    }
    return (unsigned)(q + (rest >= n - rest)) & 0xffff;
}

/* The part of a sketch that a lane has: two values. */
struct Sums {
    int low, high;
};

static __device__ __forceinline__ void store_mean(const Job &j, uint32_t seed, unsigned at, Sums sum, uint32_t n)
{
    if (at < j.s)
        *reinterpret_cast<unsigned *>(j.centroids + (size_t)seed * j.s + at) = rounded_mean(sum.low, (int)n) | rounded_mean(sum.high, (int)n) << 16;
}

/* Sums over the rows order[from .. to). */
static __device__ __forceinline__ Sums sum_rows(const Job &j, const uint32_t *order, uint32_t from, uint32_t to, unsigned at)
{
    Sums sum = {0, 0};

    for (uint32_t i = from; i < to; i += AHEAD) {
        unsigned v[AHEAD];
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++)
            v[a] = i + a < to && at < j.s ? *reinterpret_cast<const unsigned *>(j.sketch + (size_t)order[i + a] * j.s + at) : 0;
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++) {
            sum.low += xp_low16(v[a]);
            sum.high += xp_high16(v[a]);
        }
    }
    return sum;
}

static __device__ __forceinline__ int *partial_of(const Job &j, const Scratch &x, uint32_t chunk, bool from_its_begin)
{
    return x.partial + ((size_t)chunk * 2 + !from_its_begin) * j.s;
}

/* Sums of the clusters in one chunk of the order: means of those that lie in it, partial sums of others. */
static __device__ __forceinline__ void sum_chunk(const Job &j, const xp_dev_clusters &c, const Scratch &x, bool all_are_seeds, uint32_t chunk, unsigned at)
{
    const uint32_t begin = chunk * CHUNK, end = min(begin + CHUNK, j.rows);

    for (uint32_t from = begin; from < end;) {
        const uint32_t k = c.of[c.order[from]], last = c.start[k + 1], to = min(last, end);
        const uint32_t seed = all_are_seeds ? k : x.seed[k];

        if (seed != NO_SEED) {
            const Sums sum = sum_rows(j, c.order, from, to, at);
            if (c.start[k] >= begin && last <= end) {
                store_mean(j, seed, at, sum, last - c.start[k]);
            } else if (at < j.s) {
                int *partial = partial_of(j, x, chunk, from == begin);
                partial[at] = sum.low;
                partial[at + 1] = sum.high;
            }
        }
        from = to;
    }
}

/* Means of the clusters that lie in several chunks, from their sums. */
static __device__ __forceinline__ void join_chunks(const Job &j, const xp_dev_clusters &c, const Scratch &x, bool all_are_seeds, uint32_t k, unsigned at)
{
    const uint32_t begin = c.start[k], end = c.start[k + 1], seed = all_are_seeds ? k : x.seed[k];
    const uint32_t from = begin / CHUNK, to = (end - 1) / CHUNK;
    Sums sum = {0, 0};

    if (seed == NO_SEED || from == to)
        return;
    for (uint32_t chunk = from; chunk <= to; chunk++) {
        const int *partial = partial_of(j, x, chunk, chunk > from || begin % CHUNK == 0);
        sum.low += at < j.s ? partial[at] : 0;
        sum.high += at < j.s ? partial[at + 1] : 0;
    }
    store_mean(j, seed, at, sum, end - begin);
}

static __device__ __forceinline__ void take_means(const Job &j, const xp_dev_clusters &c, const Scratch &x, xp_grid_barrier &all, bool all_are_seeds,
                                                  uint32_t clusters)
{
    const unsigned lane = threadIdx.x % 32, warp = blockIdx.x * WARPS + threadIdx.x / 32, warps = gridDim.x * WARPS;
    const unsigned parts = (j.s + COLUMNS - 1) / COLUMNS;
    const uint32_t chunks = (j.rows + CHUNK - 1) / CHUNK;

    for (uint32_t item = warp; item < chunks * parts; item += warps)
        sum_chunk(j, c, x, all_are_seeds, item / parts, item % parts * COLUMNS + 2 * lane);
    xp_grid_wait(all);
    for (uint32_t item = warp; item < clusters * parts; item += warps)
        join_chunks(j, c, x, all_are_seeds, item / parts, item % parts * COLUMNS + 2 * lane);
}

/* ---- all of it ---- */

static __device__ __forceinline__ void do_round(const Job &j, const xp_dev_clusters &c, const Scratch &x, Shared &s, xp_grid_barrier &all, bool limited)
{
    const uint32_t clusters = *c.count;
    uint32_t first[STRIPS];

    for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < clusters; i += gridDim.x * THREADS)
        x.first[i] = XP_GROUP_NONE;
    if (limited) {
        if (blockIdx.x == 0)
            choose_seeds(c, s.group, clusters, j.rows, j.most, x);
        xp_grid_wait(all);
    }
    take_means(j, c, x, all, !limited, clusters);
    xp_grid_wait(all);
    xp_assign_all({j.sketch, j.centroids, j.rows, limited ? *x.seeds : clusters, j.s}, gridDim.x, s.assign, [&](uint32_t row, uint32_t seed) {
        c.of[row] = seed;
        atomicMin(&x.first[seed], row);
    });
    xp_grid_wait(all);
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++)
        first[i] = xp_group_row(i) < j.rows ? x.first[c.of[xp_group_row(i)]] : XP_GROUP_NONE;
    xp_group_clusters(x.sort, s.group, all, first, j.rows, c);
    xp_grid_wait(all);
}

__global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM) refine_kernel(Job j, xp_dev_clusters c, Scratch x)
{
    XP_SHARED(Shared, s);
    xp_grid_barrier all = {x.counter, 0};

    if (j.ids) {
        xp_group_ids(x.buckets, x.sort, s.group, all, j.ids, j.rows, c);
        xp_grid_wait(all);
    }
    const bool limited = j.most > 0 && j.most < *c.count;
    const unsigned rounds = j.rounds == 0 && limited ? 1 : j.rounds;

    for (unsigned r = 0; r < rounds; r++)
        do_round(j, c, x, s, all, limited && r == 0);
    take_means(j, c, x, all, true, *c.count);
    xp_grid_leave(all);
}

constexpr size_t HEAD_WORDS = 64; /* the counter, and far from it the number of seeds */

size_t partial_words(size_t rows, unsigned s)
{
    return xp_ceil_div(rows, CHUNK) * 2 * s;
}

} // namespace

extern "C" size_t xp_cuda_refine_scratch(size_t rows, unsigned s)
{
    return (HEAD_WORDS + xp_group_sort_words(rows) + xp_bucket_slots(rows) + 2 * rows + partial_words(rows, s)) * sizeof(uint32_t);
}

extern "C" int xp_cuda_refine(const struct xp_gpu *g, const uint32_t *ids, const int16_t *sketch, size_t rows, unsigned s, unsigned rounds, uint32_t most,
                              void *scratch, uint32_t *of, uint32_t *start, uint32_t *order, uint32_t *count, int16_t *centroids)
{
    uint32_t *head = static_cast<uint32_t *>(scratch), *w = head + HEAD_WORDS, *table = w + xp_group_sort_words(rows);
    uint32_t *first = table + xp_bucket_slots(rows);
    const Scratch x = {head, xp_group_sort_at(w, rows), xp_buckets_at(table, rows), first, first + rows, head + HEAD_WORDS / 2,
                       reinterpret_cast<int *>(first + 2 * rows)};
    const size_t tiles = xp_group_tiles(rows), wanted = xp_ceil_div(rows, WARPS * xp_assign_rows(s)), fill = (size_t)g->sms * BLOCKS_PER_SM;
    const size_t blocks = wanted < fill ? wanted : fill;
    const xp_shape shape = {dim3((unsigned)(blocks < tiles ? tiles : blocks)), dim3(THREADS), 0, true};

    if (rows == 0)
        return 0;
    if (rows > XP_CUDA_GROUP_ROWS || s == 0 || s % 32 || s > XP_HASH_MAX_WIDTH)
        return 1; /* cudaErrorInvalidValue */
    return xp_launch("refine", shape, g->stream, refine_kernel, Job{ids, sketch, (uint32_t)rows, s, rounds, most, centroids},
                     xp_dev_clusters{of, start, order, count}, x);
}
