/*
 * book_encode.cu - rows coded with a book, a warp a row: the search for its step, then its integers through the entropy coder
 *
 * Rows of a run begin their search where its first row that was searched for (its leader) ended: leaders have a launch of their own. A coded row is
 * put together in the shared memory that its values had, low bits and escapes from the front, words from the end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/book_search.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned MOST_WARPS = 8;
constexpr unsigned MOST_STATE_WORDS = 20; /* 16 states of up to 35 bits, and two more */

struct Encode {
    Job job;
    uint8_t *slots;
    size_t stride;
    xp_book_numbers *numbers;
    float *errors;
    unsigned integers, states, steps;
};

static __device__ __forceinline__ void copy_tables(Tables &t, const xp_gpu_book &b)
{
    for (unsigned i = threadIdx.x; i < XP_RANS_DISTRIBUTIONS * XP_RANS_SYMBOLS; i += blockDim.x)
        t.span[i] = b.spans[i];
    for (unsigned i = threadIdx.x; i < XP_RANS_DISTRIBUTIONS; i += blockDim.x) {
        t.dead_zone[i] = b.dead_zone[i];
        t.first[i] = b.first[i];
        t.last[i] = b.last[i];
    }
    __syncthreads();
}

template <class T> static __device__ __forceinline__ Subject<T> subject_of(const Job &j, const Tables &t, unsigned char *own)
{
    Subject<T> s = {};

    s.job = &j;
    s.tables = &t;
    s.lane = threadIdx.x % 32;
    s.dim = (unsigned)j.b.dim;
    s.padded = j.b.groups * XP_RANS_GROUP;
    s.rest = reinterpret_cast<float *>(own);
    s.own_base = s.rest + (j.b.rank ? j.rest_room / sizeof(float) : 0);
    s.typed = reinterpret_cast<typename T::word *>(own + (j.b.rank ? 2 : 1) * j.rest_room);
    s.window = reinterpret_cast<typename T::word *>(own + (j.b.rank ? 2 : 1) * j.rest_room + j.row_room);
    s.dither = own + j.each_warp - j.dither_room;
    return s;
}

/* ---- leaders ---- */

template <class T> __global__ void __launch_bounds__(MOST_WARPS * 32, 2) book_leaders_kernel(const __grid_constant__ Job j)
{
    XP_DYNAMIC_SHARED(memory);
    Tables &tables = *reinterpret_cast<Tables *>(memory);
    const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const size_t runs = xp_ceil_div(j.in.rows, XP_BOOK_RUN);
    Subject<T> s = subject_of<T>(j, tables, memory + sizeof(Tables) + warp * j.each_warp);

    copy_tables(tables, j.b);
    for (size_t run = (size_t)blockIdx.x * warps + warp; run < runs; run += (size_t)gridDim.x * warps) {
        const size_t end = min(j.in.rows, (run + 1) * XP_BOOK_RUN);
        double above = 0;
        bool searched = false;
        size_t r = run * XP_BOOK_RUN;

        for (; r < end; r++) {
            take_row(s, r);
            const double rest = examine(s, j.b.centroids ? j.centroid[r] : 0);
            above = 0;
            if (rest >= 0)
                estimate_step(s, rest, &above, &searched);
            if (searched)
                break;
        }
        if (s.lane == 0) {
            j.above[run] = above;
            j.leader[run] = (uint32_t)r;
        }
    }
}

/* ---- integers to symbols, low bits and escapes ---- */

/* A row being put together. All the same in all lanes. */
struct Pieces {
    unsigned char *room;               /* of a row in its type: planes, escapes, free, words */
    uint32_t *states;                  /* MOST_STATE_WORDS */
    unsigned planes, escapes, words;   /* bytes of each */
    unsigned state_bytes, size;        /* size: of room */
};

/* One integer of each lane: its place in its table, with its low bits and escapes put down. counts: it is one of the row's. */
static __device__ __forceinline__ unsigned split(const Tables &t, Pieces &p, unsigned plane_limit, unsigned lane, int q, unsigned scale, bool counts,
                                                bool in_group)
{
    const unsigned low = in_group ? xp_dev_low_bits(scale) : 0, half = low ? 1u << (low - 1) : 0, table = xp_dev_table_number(scale);
    int u = (counts ? q : 0) + (int)half, symbol = (u >> low) + 16;
    const bool escapes = counts && (symbol < t.first[table] || symbol > t.last[table]);
    const unsigned all = __ballot_sync(XP_FULL_WARP, escapes);
    const unsigned other = __shfl_xor_sync(XP_FULL_WARP, low, 16), most = low > other ? low : other;

    if (escapes) {
        const unsigned to = plane_limit + p.escapes + 2 * (unsigned)__popc(all & ((1u << lane) - 1));
        if (to + 2 <= p.size)
            *reinterpret_cast<uint16_t *>(p.room + to) = (uint16_t)q;
        u = symbol = 0;
    }
    for (unsigned b = 0; b < most; b++) {
        const unsigned bits = __ballot_sync(XP_FULL_WARP, (int)((unsigned)u >> b & 1));
        if (lane % 16 == 0 && b < low)
            *reinterpret_cast<uint16_t *>(p.room + p.planes + 2 * (lane ? other + b : b)) = (uint16_t)(bits >> lane);
    }
    p.planes += 2 * (low + other);
    p.escapes += 2 * (unsigned)__popc(all);
    return (unsigned)symbol >> 1 | ((unsigned)symbol & 1) << 4;
}

/* The class of value i's group, as the entropy coder has it. */
template <class T> static __device__ __forceinline__ unsigned coded_class_at(const Subject<T> &s, unsigned i)
{
    return T::dithered ? xp_book_dithered_class(class_at(s, i)) : class_at(s, i);
}

/* All integers of the row, their places to symbols. */
template <class T> static __device__ __forceinline__ void split_row(const Subject<T> &s, Pieces &p, unsigned plane_bytes, unsigned char *symbols)
{
    const xp_gpu_book &b = s.job->b;
    const float inverse = __fdiv_rn(1.0f, xp_dev_step_size(b, s.step));
    unsigned coordinate = 0;

    if (b.rank)
        coordinate = split(*s.tables, p, plane_bytes, s.lane, s.coordinate, b.coordinate_class[s.lane / XP_RANS_GROUP], s.lane < b.rank, s.lane < b.rank);
    for (unsigned first = 0; first < s.padded; first += 32) {
        const unsigned i = first + s.lane;
        const bool in_group = i < s.padded;
        const int q = in_group ? integer_at(s, i, inverse) : 0;
        const unsigned place = split(*s.tables, p, plane_bytes, s.lane, q, in_group ? coded_class_at(s, i) : 0, i < s.dim, in_group);

        __syncwarp(); /* these values have been read: symbols take their place */
        if (first == 0 && s.lane < b.rank)
            symbols[s.lane] = (unsigned char)coordinate;
        if (in_group)
            symbols[b.rank + i] = (unsigned char)place;
    }
    __syncwarp();
}

/* ---- symbols to states and words ---- */

static __device__ __forceinline__ uint32_t begin_state(const Encode &e, const unsigned char *symbols, unsigned lane)
{
    uint32_t x = 2;

    for (unsigned step = e.steps + XP_RANS_TAIL; lane < e.states && step-- > e.steps;) {
        const unsigned i = step * e.states + lane, place = i < e.integers ? symbols[i] : 0;
        x = x << 5 | (place & 15) << 1 | place >> 4;
    }
    return x;
}

/* Words go down from the end of the room. False when they meet what is there. */
template <class T>
static __device__ __forceinline__ bool encode_symbols(const Encode &e, const Subject<T> &s, Pieces &p, const unsigned char *symbols, uint32_t *state)
{
    const unsigned states = e.states, taken = p.planes + p.escapes;
    uint32_t x = begin_state(e, symbols, s.lane);

    for (unsigned step = e.steps; step-- > 0;) {
        const unsigned i = step * states + s.lane, group = step * states / XP_RANS_GROUP;
        bool flush = false;
        uint32_t span = 1;

        if (s.lane < states) {
            span = s.tables->span[xp_dev_table_number(xp_book_class_of<T>(s.job->b, group, s.offset)) * XP_RANS_SYMBOLS + symbols[i]];
            flush = x >= (span & 0xffff) << 20;
        }
        const unsigned all = __ballot_sync(XP_FULL_WARP, flush);
        p.words += 2 * (unsigned)__popc(all);
        if (taken + p.words > p.size)
            return false;
        if (flush) {
            *reinterpret_cast<uint16_t *>(p.room + p.size - p.words + 2 * (unsigned)__popc(all & ((1u << s.lane) - 1))) = (uint16_t)x;
            x >>= 16;
        }
        const uint32_t f = span & 0xffff, quotient = x / f;
        x = (quotient << XP_RANS_BITS) + (x - quotient * f) + (span >> 16);
    }
    *state = x;
    return true;
}

/* Each state: e in 4 bits, then the 16 + e bits below its leading one. */
static __device__ __forceinline__ void write_states(Pieces &p, uint32_t state, unsigned states, unsigned lane)
{
    const unsigned bits = lane < states ? 31 - (unsigned)__clz((int)state) : 0, own = lane < states ? 4 + bits : 0;
    unsigned end = own;

    if (lane < MOST_STATE_WORDS)
        p.states[lane] = 0;
#pragma unroll
    for (unsigned d = 1; d < 32; d *= 2) {
        const unsigned other = __shfl_up_sync(XP_FULL_WARP, end, d);
        end += lane >= d ? other : 0;
    }
    __syncwarp();
    if (own) {
        const unsigned at = end - own, shift = at % 32;
        const uint64_t field = (uint64_t)(state ^ 1u << bits) << 4 | (bits - 16);
        atomicOr(&p.states[at / 32], (uint32_t)(field << shift));
        atomicOr(&p.states[at / 32 + 1], (uint32_t)(field << shift >> 32));
        if (shift)
            atomicOr(&p.states[at / 32 + 2], (uint32_t)(field >> (64 - shift)));
    }
    p.state_bytes = (__shfl_sync(XP_FULL_WARP, end, 31) + 7) / 8;
    __syncwarp();
}

static __device__ __forceinline__ unsigned byte_of(const Pieces &p, unsigned i)
{
    if (i < p.state_bytes)
        return p.states[i / 4] >> (8 * (i % 4)) & 0xff;
    i -= p.state_bytes;
    if (i < p.planes)
        return p.room[i];
    i -= p.planes;
    if (i < p.words)
        return p.room[p.size - p.words + i];
    i -= p.words;
    return i < p.escapes ? p.room[p.planes + i] : 0;
}

static __device__ __forceinline__ unsigned total_of(const Pieces &p)
{
    return p.state_bytes + p.planes + p.words + p.escapes;
}

/* The row's bytes to its slot, up to the end of the last 16. */
static __device__ __forceinline__ void put_pieces(const Pieces &p, uint8_t *slot, unsigned lane)
{
    for (unsigned i = 16 * lane; i < total_of(p); i += 16 * 32) {
        unsigned w[4] = {};
#pragma unroll
        for (unsigned k = 0; k < 16; k++)
            w[k / 4] |= byte_of(p, i + k) << (8 * (k % 4));
        xp_store16(slot + i, make_uint4(w[0], w[1], w[2], w[3]));
    }
}

/* Codes the row whose step has been found. Returns its bytes, 0 when they are not fewer than those of the row. */
template <class T> static __device__ __forceinline__ unsigned code_row(const Encode &e, const Subject<T> &s, uint8_t *slot)
{
    const unsigned plane_bytes = s.job->b.plane_bytes[s.offset];
    unsigned char *symbols = reinterpret_cast<unsigned char *>(s.rest);
    Pieces p = {};
    uint32_t state;

    p.room = reinterpret_cast<unsigned char *>(s.typed);
    p.states = reinterpret_cast<uint32_t *>(s.window);
    p.size = s.dim * sizeof(typename T::word);
    if (plane_bytes >= p.size)
        return 0;
    __syncwarp(); /* the row in its type is no longer needed */
    split_row(s, p, plane_bytes, symbols);
    if (p.planes + p.escapes >= p.size || !encode_symbols(e, s, p, symbols, &state))
        return 0;
    write_states(p, state, e.states, s.lane);
    if (total_of(p) >= p.size)
        return 0;
    put_pieces(p, slot, s.lane);
    return total_of(p);
}

/* A row as it is, or zeros in no bytes. */
template <class T> static __device__ __forceinline__ xp_book_numbers put_plain(const Encode &e, const Subject<T> &s, size_t r, uint8_t *slot)
{
    const xp_dev_rows &in = e.job.in;
    const unsigned char *row = in.data + (in.index ? (size_t)in.index[r] : r) * in.row_bytes;

    if (s.zero)
        return {XP_BOOK_NO_STEP, XP_BOOK_KIND_ZERO, 0, 0};
    for (size_t i = s.lane; i < s.dim; i += 32)
        reinterpret_cast<typename T::word *>(slot)[i] = reinterpret_cast<const typename T::word *>(row)[i];
    for (size_t i = in.row_bytes + s.lane; i < e.stride; i += 32)
        slot[i] = 0;
    return {XP_BOOK_NO_STEP, XP_BOOK_KIND_RAW, 0, (uint32_t)in.row_bytes};
}

template <class T> __global__ void __launch_bounds__(MOST_WARPS * 32, 2) book_encode_kernel(const __grid_constant__ Encode e)
{
    XP_DYNAMIC_SHARED(memory);
    Tables &tables = *reinterpret_cast<Tables *>(memory);
    const Job &j = e.job;
    const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32;
    Subject<T> s = subject_of<T>(j, tables, memory + sizeof(Tables) + warp * j.each_warp);

    copy_tables(tables, j.b);
    for (size_t r = (size_t)blockIdx.x * warps + warp; r < j.in.rows; r += (size_t)gridDim.x * warps) {
        const uint32_t centroid = j.b.centroids ? j.centroid[r] : 0;
        uint8_t *slot = e.slots + r * e.stride;
        xp_book_numbers n = {};
        bool searched;

        take_row(s, r);
        const double rest = examine(s, centroid);
        double above = r > j.leader[r / XP_BOOK_RUN] ? j.above[r / XP_BOOK_RUN] : 0;
        if (rest >= 0 && find_step(s, rest, estimate_step(s, rest, &above, &searched)))
            n = {s.step, s.offset, centroid, code_row(e, s, slot)};
        const float error = n.length ? (float)s.error : 0;
        if (n.length == 0)
            n = put_plain(e, s, r, slot);
        if (s.lane == 0) {
            e.numbers[r] = n;
            e.errors[r] = error;
        }
    }
}

xp_shape shape_for(const struct xp_gpu *g, const Job &j, size_t items)
{
    return xp_shape_of_warps(g, {g->shared_bytes, sizeof(Tables), j.each_warp, MOST_WARPS, 2}, items, 1);
}

Job job_for(const struct xp_gpu_book *b, const struct xp_book_promise *p, const struct xp_book_dither *d, const struct xp_rows *in, const uint32_t *centroid,
            const xp_book_scratch &x)
{
    const unsigned size = (unsigned)xp_dtype_size(in->dtype), window = XP_REORDER_WINDOW * size;
    Job j = {};

    j.b = *b;
    j.in = xp_rows_for_device(in);
    j.centroid = centroid;
    j.eps = p->eps;
    j.to_mean = p->to_mean;
    j.rounding = in->dtype == XP_BF16 ? XP_BOOK_ROUNDING_BF16 : in->dtype == XP_F16 ? XP_BOOK_ROUNDING_F16 : 0;
    j.wide = xp_rows_are_wide(in);
    j.row_room = (unsigned)xp_ceil_div(b->dim * size, 16) * 16;
    j.rest_room = b->groups * XP_RANS_GROUP * (unsigned)sizeof(float);
    j.dither_room = d && d->on ? b->groups * XP_RANS_GROUP : 0;
    j.key = d ? d->key : 0;
    j.each_warp = (b->rank ? 2 : 1) * j.rest_room + j.row_room + window + j.dither_room;
    j.above = x.above;
    j.leader = x.leader;
    return j;
}

template <class T> int launch(const struct xp_gpu *g, const Encode &e)
{
    const size_t rows = e.job.in.rows;
    const int failed = xp_launch("book leaders", shape_for(g, e.job, xp_ceil_div(rows, XP_BOOK_RUN)), g->stream, book_leaders_kernel<T>, e.job);

    return failed ? failed : xp_launch("book encode", shape_for(g, e.job, rows), g->stream, book_encode_kernel<T>, e);
}

} // namespace

extern "C" int xp_cuda_book_encode(const struct xp_gpu *g, const struct xp_gpu_book *b, const struct xp_book_promise *p,
                                   const struct xp_book_dither *d, const struct xp_rows *in, const uint32_t *centroid, void *scratch, uint8_t *out,
                                   uint64_t *len, float *errors)
{
    const xp_book_scratch x = xp_book_scratch_at(g, in, scratch);
    Encode e = {};
    int error;

    e.job = job_for(b, p, d, in, centroid, x);
    e.slots = x.slots;
    e.stride = x.stride;
    e.numbers = x.numbers;
    e.errors = errors;
    e.integers = xp_book_integers(*b);
    e.states = xp_rans_lanes(e.integers);
    e.steps = (unsigned)xp_rans_steps(e.integers, e.states);
    if (in->rows >> 31 || b->dim != in->dim)
        return 1; /* cudaErrorInvalidValue */
    if (in->rows == 0)
        return xp_cuda_book_pack(g, b, x, 0, out, len);
    error = xp_for_type(in->dtype, [&](auto tag) {
        typedef decltype(tag) T;
        return e.job.dither_room ? launch<xp_dithered<T>>(g, e) : launch<xp_plain<T>>(g, e);
    });
    return error ? error : xp_cuda_book_pack(g, b, x, in->rows, out, len);
}
