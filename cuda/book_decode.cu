/*
 * book_decode.cu - book rows back to rows, two or four in every warp
 *
 * What is serial in a row, symbols from states, is done for all rows of a warp side by side, a lane for each state; symbols wait in shared
 * memory. What follows (low bits, escapes, base, step, order of channels) is done row by row with all lanes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/book.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned MOST_WARPS = 8;
constexpr unsigned WINDOW = XP_REORDER_WINDOW;
constexpr unsigned VALUES = WINDOW / 32; /* of a lane in a window */
constexpr unsigned NO_ESCAPE = 0;        /* the symbol */

struct Decode {
    xp_gpu_book b;
    const uint8_t *in;
    uint64_t len;
    size_t rows, row_bytes;
    const uint64_t *at;
    const xp_book_numbers *numbers;
    uint32_t *status;
    uint64_t key; /* of the dither */
    unsigned char *out;
    unsigned states, integers, steps; /* of a row; steps before the tail */
    unsigned symbol_bytes, each_warp; /* shared memory of a row's symbols; of a warp */
    bool wide;
};

/* The bytes of a row as its lanes take them: 16 bytes a lane at a time, through shared memory, the next piece on its way. */
template <unsigned W> struct Stream {
    static constexpr unsigned PIECE = 16 * W, RING = 2 * PIECE;

    const unsigned char *base; /* a multiple of 16 */
    unsigned char *ring;
    uint32_t pos, filled, end; /* from base; end: of the row's last 16 bytes */
    uint4 next;

    __device__ __forceinline__ void load(unsigned lane)
    {
        const uint32_t i = filled + 16 * lane;
        next = i < end ? *reinterpret_cast<const uint4 *>(base + i) : make_uint4(0, 0, 0, 0);
    }
    __device__ __forceinline__ void put(unsigned lane)
    {
        *reinterpret_cast<uint4 *>(ring + (filled + 16 * lane) % RING) = next;
        filled += PIECE;
        load(lane);
    }
    /* From `from` on; all lanes of the warp call it. */
    __device__ __forceinline__ void open(const unsigned char *from, const unsigned char *last, unsigned lane)
    {
        base = from - (uintptr_t)from % 16;
        pos = (uint32_t)((uintptr_t)from % 16);
        end = (uint32_t)((last - base + 15) / 16 * 16);
        filled = 0;
        __syncwarp(); /* what the ring held has been read */
        load(lane);
        put(lane);
        put(lane);
        __syncwarp();
    }
    /* Leaves at least a piece ahead of pos. All lanes of the warp call it. */
    __device__ __forceinline__ void refill(unsigned lane)
    {
        __syncwarp();
        if (filled - pos < PIECE)
            put(lane);
        __syncwarp();
    }
    __device__ __forceinline__ unsigned byte(uint32_t i) const { return ring[i % RING]; }
    __device__ __forceinline__ unsigned word(uint32_t i) const { return byte(i) | byte(i + 1) << 8; }
    __device__ __forceinline__ const unsigned char *here() const { return base + pos; }
};

/* A row in its lanes. */
struct Row {
    xp_book_numbers n;
    const unsigned char *from, *last;   /* its bytes */
    const unsigned char *planes, *rest; /* low bits; the escapes */
    bool coded, fine;
};

template <unsigned W> static __device__ __forceinline__ Row take_row(const Decode &d, size_t r)
{
    Row row = {};

    row.n = {XP_BOOK_NO_STEP, XP_BOOK_KIND_BAD, 0, 0};
    row.from = row.last = d.in;
    if (r < d.rows) {
        const xp_book_numbers n = d.numbers[r];
        const uint64_t at = d.at[r];
        if (at + n.length <= d.len) { /* else the status says so already */
            row.n = n;
            row.from = d.in + at;
            row.last = row.from + n.length;
        }
    }
    row.coded = row.fine = row.n.step != XP_BOOK_NO_STEP;
    return row;
}

/* States: e in 4 bits, then the 16 + e bits below the leading one. Leaves the stream behind them. */
template <unsigned W> static __device__ __forceinline__ uint32_t read_state(const Decode &d, Stream<W> &s, unsigned lane)
{
    const uint32_t begin = 8 * s.pos;
    uint32_t bit = begin, mine = begin;

    for (unsigned i = 0; i < d.states; i++) {
        mine = i == lane ? bit : mine;
        bit += 20 + (s.word(bit / 8) >> bit % 8 & 15);
    }
    s.pos += (bit - begin + 7) / 8;
    uint64_t v = 0;
    for (unsigned i = 0; i < 6; i++)
        v |= (uint64_t)s.byte(mine / 8 + i) << (8 * i);
    v >>= mine % 8;
    const unsigned bits = 16 + (unsigned)(v & 15);
    return 1u << bits | ((uint32_t)(v >> 4) & ((1u << bits) - 1));
}

/* Symbol of a slot, and its entry of the table. */
static __device__ __forceinline__ unsigned find(const uint32_t *even, uint32_t slot, uint32_t *entry)
{
    const uint32_t key = slot << 16 | 0xffff;
    unsigned pair = key >= even[8] ? 8 : 0;

    pair += key >= even[pair + 4] ? 4 : 0;
    pair += key >= even[pair + 2] ? 2 : 0;
    pair += key >= even[pair + 1] ? 1 : 0;
    const uint32_t odd = even[pair + 16];
    *entry = key >= odd ? odd : even[pair];
    return 2 * pair + (key >= odd);
}

/* The symbols of the rows in this warp. lane: in the row. */
template <class T, unsigned W>
static __device__ __forceinline__ void decode_symbols(const Decode &d, const uint32_t *spans, Row &row, Stream<W> &s, unsigned char *symbols)
{
    const unsigned lane = threadIdx.x % W, begin = threadIdx.x % 32 - lane, states = d.states;
    const unsigned classes_steps = W * XP_RANS_GROUP / states; /* steps of W groups */
    const bool has_state = lane < states;
    unsigned table = 0, zeros = 0;

    s.open(row.from, row.last, lane);
    uint32_t x = read_state(d, s, lane);
    const uint32_t plane_bytes = row.coded ? d.b.plane_bytes[row.n.offset] : 0;
    row.planes = s.here();
    row.fine = row.fine && row.planes <= row.last && plane_bytes <= (size_t)(row.last - row.planes);
    s.open(row.fine ? row.planes + plane_bytes : row.last, row.last, lane);
    for (unsigned step = 0; step < d.steps; step++) {
        if (step % 8 == 0)
            s.refill(lane);
        if (step % classes_steps == 0)
            table = xp_dev_table_number(xp_book_class_of<T>(d.b, step * states / XP_RANS_GROUP + lane, row.n.offset)) * XP_RANS_SYMBOLS;
        const unsigned group = step * states / XP_RANS_GROUP % W;
        const uint32_t *span = spans + __shfl_sync(XP_FULL_WARP, table, begin + group);
        const uint32_t slot = x & ((1u << XP_RANS_BITS) - 1);
        uint32_t entry;
        const unsigned symbol = find(span, slot, &entry);

        x = (entry & 0xffff) * (x >> XP_RANS_BITS) + slot - (entry >> 16);
        const bool wants = has_state && x < 0x10000u;
        const unsigned all = __ballot_sync(XP_FULL_WARP, wants) >> begin & ((1u << W) - 1);
        if (wants)
            x = x << 16 | s.word(s.pos + 2 * (unsigned)__popc(all & ((1u << lane) - 1)));
        s.pos += 2 * (unsigned)__popc(all);
        if (has_state) {
            symbols[step * states + lane] = (unsigned char)symbol;
            zeros += symbol == NO_ESCAPE;
        }
    }
    for (unsigned step = d.steps; has_state && step < d.steps + XP_RANS_TAIL; step++, x >>= 5) {
        const unsigned i = step * states + lane;
        if (i < d.integers) {
            symbols[i] = x & 31;
            zeros += (x & 31) == NO_ESCAPE;
        } else {
            row.fine = row.fine && (x & 31) == 0;
        }
    }
    row.fine = row.fine && (!has_state || x == 2);
    for (unsigned i = d.integers + lane; i < d.symbol_bytes; i += W)
        symbols[i] = 0; /* read, not used */
#pragma unroll
    for (unsigned o = W / 2; o > 0; o /= 2)
        zeros += __shfl_xor_sync(XP_FULL_WARP, zeros, o);
    row.rest = s.here();
    const unsigned together = __ballot_sync(XP_FULL_WARP, row.fine) >> begin & ((1u << W) - 1);
    row.fine = together == (1u << W) - 1 && row.rest + 2 * zeros == row.last;
}

/* ---- what is done with all lanes ---- */

/* Counts over the lanes before this one, and over all, of small numbers. */
static __device__ __forceinline__ unsigned sum_before(unsigned v, unsigned lane, unsigned *total)
{
    unsigned sum = v;

    if (!__any_sync(XP_FULL_WARP, v != 0)) {
        *total = 0;
        return 0;
    }
#pragma unroll
    for (unsigned o = 1; o < 32; o *= 2) {
        const unsigned other = __shfl_up_sync(XP_FULL_WARP, sum, o);
        sum += lane >= o ? other : 0;
    }
    *total = __shfl_sync(XP_FULL_WARP, sum, 31);
    return sum - v;
}

/* Where a row's low bits and escapes go on. */
struct Rest {
    const unsigned char *planes, *escapes;
};

/* `count` <= COUNT integers from symbols[0 ..), which lie in one half of a group of this class (0: none). odd: the second half. All lanes
 * call it with as many values each or none; lanes in order of their values, two a group. */
template <unsigned COUNT> static __device__ __forceinline__ void read_integers(Rest &rest, const unsigned (&symbol)[COUNT], unsigned count, unsigned scale,
                                                                               unsigned lane, int (&q)[COUNT])
{
    const unsigned low = count ? xp_dev_low_bits(scale) : 0, half = low ? 1u << (low - 1) : 0;
    unsigned escapes = 0, all_escapes, all_planes;

#pragma unroll
    for (unsigned k = 0; k < COUNT; k++)
        escapes += k < count && symbol[k] == NO_ESCAPE;
    const unsigned before = sum_before(escapes, lane, &all_escapes);
    const unsigned plane = sum_before(lane % 2 ? 0 : low, lane, &all_planes) - (lane % 2 ? low : 0);
    const unsigned char *escape = rest.escapes + 2 * before, *from = rest.planes + 2 * plane + lane % 2;

#pragma unroll
    for (unsigned k = 0; k < COUNT; k++)
        q[k] = ((int)symbol[k] - 16) * (1 << low) - (int)half;
    for (unsigned b = 0; b < low; b++) {
        const unsigned bits = from[2 * b];
#pragma unroll
        for (unsigned k = 0; k < COUNT; k++)
            q[k] += (int)((bits >> k & 1) << b);
    }
    if (escapes)
#pragma unroll
        for (unsigned k = 0; k < COUNT; k++)
            if (k < count && symbol[k] == NO_ESCAPE) {
                q[k] = (int16_t)xp_dev_get16(escape);
                escape += 2;
            }
    rest.planes += 2 * all_planes;
    rest.escapes += 2 * all_escapes;
}

static __device__ __forceinline__ void read_symbols(const unsigned char *symbols, unsigned (&v)[VALUES])
{
    const uint2 raw = *reinterpret_cast<const uint2 *>(symbols);

#pragma unroll
    for (unsigned k = 0; k < 4; k++) {
        v[k] = raw.x >> (8 * k) & 0xff;
        v[k + 4] = raw.y >> (8 * k) & 0xff;
    }
}

static __device__ __forceinline__ void read_floats(const float *from, float (&v)[VALUES])
{
#pragma unroll
    for (unsigned k = 0; k < VALUES; k += 4) {
        const uint4 raw = *reinterpret_cast<const uint4 *>(from + k);
        v[k] = __uint_as_float(raw.x);
        v[k + 1] = __uint_as_float(raw.y);
        v[k + 2] = __uint_as_float(raw.z);
        v[k + 3] = __uint_as_float(raw.w);
    }
}

/* The values of a window in book order, in shared memory, to their places of the row. */
template <class T> static __device__ __forceinline__ void store_window(const Decode &d, const typename T::word *values, const uint8_t *place, unsigned count,
                                                                       unsigned char *out, unsigned lane)
{
    typedef typename T::word word;
    constexpr unsigned PER = xp_per_load<T>;

    if (!d.wide) {
        for (unsigned i = lane; i < count; i += 32)
            reinterpret_cast<word *>(out)[i] = values[place[i]];
        return;
    }
#pragma unroll
    for (unsigned part = 0; part < VALUES; part += PER) {
        const unsigned i = part * 32 + lane * PER;
        unsigned w[4] = {};
        if (i >= count)
            continue;
#pragma unroll
        for (unsigned k = 0; k < PER; k++)
            w[k * sizeof(word) / 4] |= (unsigned)values[place[i + k]] << (8 * (k * sizeof(word) % 4));
        xp_store16(out + i * sizeof(word), make_uint4(w[0], w[1], w[2], w[3]));
    }
}

/* Integers less the dither of row r, of which they are values at, at + 1 ... in one half of a group. */
template <class T> static __device__ __forceinline__ void take_off_dither(const Decode &d, size_t r, unsigned at, const int (&q)[VALUES], float (&v)[VALUES])
{
    const uint4 block = T::dithered ? xp_dither_block(d.key, r, at / XP_RANS_GROUP) : make_uint4(0, 0, 0, 0);
    const unsigned bytes[2] = {at % XP_RANS_GROUP ? block.z : block.x, at % XP_RANS_GROUP ? block.w : block.y};

#pragma unroll
    for (unsigned k = 0; k < VALUES; k++)
        v[k] = T::dithered ? __fsub_rn((float)q[k], xp_dither_of(bytes[k / 4] >> (k % 4 * 8) & 255)) : (float)q[k];
}

/* Row r, a coded one, from its symbols. */
template <class T> static __device__ __forceinline__ void restore_row(const Decode &d, const Row &row, size_t r, const unsigned char *symbols, typename T::word *window,
                                                                      unsigned char *out)
{
    static_assert(VALUES == XP_RANS_GROUP / 2, "half a group in a lane");
    const unsigned lane = threadIdx.x % 32, first = d.b.rank / XP_RANS_GROUP, dim = (unsigned)d.b.dim;
    const float step = xp_dev_step_size(d.b, row.n.step), *base = d.b.centroids ? d.b.centroid + row.n.centroid * d.b.pad : d.b.mean;
    Rest rest = {row.planes, row.rest};
    float coordinate[VALUES] = {};
    unsigned symbol[VALUES] = {};
    int q[VALUES];

    if (d.b.rank) {
        const unsigned count = VALUES * lane < d.b.rank ? VALUES : 0;
        if (count)
            read_symbols(symbols + VALUES * lane, symbol);
        read_integers<VALUES>(rest, symbol, count, count ? d.b.coordinate_class[lane / 2 % 2] : 0, lane, q);
#pragma unroll
        for (unsigned k = 0; k < VALUES; k++)
            coordinate[k] = count ? (float)q[k] : 0;
    }
    for (unsigned w = 0; w < dim; w += WINDOW) {
        const unsigned in_window = min(WINDOW, dim - w), at = w + VALUES * lane, count = at < dim ? min(VALUES, dim - at) : 0;
        float v[VALUES] = {};

        if (count) {
            read_symbols(symbols + d.b.rank + at, symbol);
            read_floats(base + at, v);
        }
        read_integers<VALUES>(rest, symbol, count, xp_book_class_of<T>(d.b, first + at / XP_RANS_GROUP, row.n.offset), lane, q);
        for (unsigned j = 0; j < d.b.rank; j += VALUES)
#pragma unroll
            for (unsigned k = 0; k < VALUES; k++) {
                const float c = __shfl_sync(XP_FULL_WARP, coordinate[k], j / VALUES);
                float along[VALUES];
                if (c == 0 || count == 0)
                    continue;
                read_floats(d.b.direction + (j + k) * d.b.pad + at, along);
                const float factor = __fmul_rn(c, d.b.coordinate_step);
#pragma unroll
                for (unsigned i = 0; i < VALUES; i++)
                    v[i] = __fadd_rn(v[i], __fmul_rn(factor, along[i]));
            }
        float steps[VALUES];
        take_off_dither<T>(d, r, at, q, steps);
        __syncwarp(); /* the window before has been stored */
#pragma unroll
        for (unsigned k = 0; k < VALUES; k++)
            if (k < count)
                window[VALUES * lane + k] = T::store(__fadd_rn(__fmul_rn(steps[k], step), v[k]));
        __syncwarp();
        store_window<T>(d, window, d.b.place + w, in_window, out + w * sizeof(typename T::word), lane);
    }
}

/* A row that travels raw, or is zeros. */
template <class T> static __device__ __forceinline__ void copy_row(const Decode &d, const Row &row, unsigned char *out)
{
    typedef typename T::word word;

    for (size_t i = threadIdx.x % 32; i < d.b.dim; i += 32) {
        word v = 0;
        if (row.n.length)
            for (unsigned b = 0; b < sizeof(word); b++)
                v = (word)(v | (word)((word)row.from[i * sizeof(word) + b] << (8 * b)));
        reinterpret_cast<word *>(out)[i] = v;
    }
}

static __device__ __forceinline__ const unsigned char *pointer_of(const unsigned char *p, unsigned lane)
{
    return reinterpret_cast<const unsigned char *>((uintptr_t)__shfl_sync(XP_FULL_WARP, (unsigned long long)(uintptr_t)p, lane));
}

/* The row of another lane. */
static __device__ __forceinline__ Row row_of(const Row &row, unsigned lane)
{
    Row r = {};

    r.n.step = __shfl_sync(XP_FULL_WARP, row.n.step, lane);
    r.n.offset = __shfl_sync(XP_FULL_WARP, row.n.offset, lane);
    r.n.centroid = __shfl_sync(XP_FULL_WARP, row.n.centroid, lane);
    r.n.length = __shfl_sync(XP_FULL_WARP, row.n.length, lane);
    r.from = pointer_of(row.from, lane);
    r.planes = pointer_of(row.planes, lane);
    r.rest = pointer_of(row.rest, lane);
    r.coded = __shfl_sync(XP_FULL_WARP, (int)row.coded, lane);
    r.fine = __shfl_sync(XP_FULL_WARP, (int)row.fine, lane);
    return r;
}

template <class T, unsigned W> __global__ void __launch_bounds__(MOST_WARPS * 32, 2) book_decode_kernel(const __grid_constant__ Decode d)
{
    XP_DYNAMIC_SHARED(memory);
    constexpr unsigned ROWS = 32 / W;
    const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32, in_warp = threadIdx.x % 32 / W;
    uint32_t *spans = reinterpret_cast<uint32_t *>(memory);
    unsigned char *own = memory + sizeof(uint32_t) * XP_RANS_DISTRIBUTIONS * XP_RANS_SYMBOLS + warp * d.each_warp;
    unsigned char *rings = own + ROWS * d.symbol_bytes;
    typename T::word *window = reinterpret_cast<typename T::word *>(rings + ROWS * Stream<W>::RING);

    for (unsigned i = threadIdx.x; i < XP_RANS_DISTRIBUTIONS * XP_RANS_SYMBOLS; i += blockDim.x)
        spans[i] = d.b.spans[i];
    __syncthreads();
    for (size_t first = ((size_t)blockIdx.x * warps + warp) * ROWS; first < d.rows; first += (size_t)gridDim.x * warps * ROWS) {
        Stream<W> s;
        Row row = take_row<W>(d, first + in_warp);

        s.ring = rings + in_warp * Stream<W>::RING;
        __syncwarp(); /* the symbols of the rows before have been read */
        if (__any_sync(XP_FULL_WARP, row.coded))
            decode_symbols<T, W>(d, spans, row, s, own + in_warp * d.symbol_bytes);
        __syncwarp();
        for (unsigned k = 0; k < ROWS && first + k < d.rows; k++) {
            const Row r = row_of(row, k * W);
            unsigned char *out = d.out + (first + k) * d.row_bytes;
            if (r.coded && r.fine)
                restore_row<T>(d, r, first + k, own + k * d.symbol_bytes, window, out);
            else if (!r.coded && r.n.offset != XP_BOOK_KIND_BAD)
                copy_row<T>(d, r, out);
            else if (r.coded && threadIdx.x % 32 == 0)
                atomicOr(d.status, (uint32_t)XP_CUDA_BOOK_STREAM);
        }
    }
}

xp_shape shape_for(const struct xp_gpu *g, const Decode &d, unsigned rows_of_warp)
{
    const size_t tables = sizeof(uint32_t) * XP_RANS_DISTRIBUTIONS * XP_RANS_SYMBOLS;

    return xp_shape_of_warps(g, {g->shared_bytes / 2, tables, d.each_warp, MOST_WARPS, 4}, d.rows, rows_of_warp);
}

template <class T> int launch(const struct xp_gpu *g, const Decode &d, unsigned width)
{
    return xp_launch("book decode", shape_for(g, d, 32 / width), g->stream, width == 8 ? book_decode_kernel<T, 8> : book_decode_kernel<T, 16>, d);
}

} // namespace

extern "C" int xp_cuda_book_decode(const struct xp_gpu *g, const struct xp_gpu_book *b, const struct xp_book_dither *dither, const uint8_t *in, size_t len,
                                   xp_dtype t, size_t rows, void *scratch, void *out, uint32_t *status)
{
    const struct xp_rows to = {out, nullptr, rows, b->dim, t};
    const xp_book_source from = {in, len, rows, b->dim * xp_dtype_size(t), status};
    Decode d = {};
    const int error = xp_cuda_book_places(g, b, from, scratch, &d.numbers, &d.at);

    d.b = *b;
    d.in = in;
    d.len = len;
    d.rows = rows;
    d.row_bytes = from.row_bytes;
    d.status = status;
    d.key = dither ? dither->key : 0;
    d.out = static_cast<unsigned char *>(out);
    d.integers = xp_book_integers(*b);
    d.states = xp_rans_lanes(d.integers);
    d.steps = (unsigned)xp_rans_steps(d.integers, d.states);
    d.wide = xp_rows_are_wide(&to);
    const unsigned width = xp_book_width(d.states), in_warp = 32 / width;
    d.symbol_bytes = (unsigned)xp_ceil_div(d.integers, 16) * 16;
    d.each_warp = in_warp * (d.symbol_bytes + 32 * width) + WINDOW * (unsigned)xp_dtype_size(t);
    if (error || rows == 0)
        return error;
    return xp_for_type(t, [&](auto tag) {
        typedef decltype(tag) T;
        return dither && dither->on ? launch<xp_dithered<T>>(g, d, width) : launch<xp_plain<T>>(g, d, width);
    });
}
