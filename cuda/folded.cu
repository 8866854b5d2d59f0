/*
 * folded.cu - folded mode on the device: rows of the results of their centroids, their gradients, and what probes teach
 *
 * A warp for each 512 bytes of a row; every value is the work of one thread, slots (or members of a cluster) in order, as in
 * collectives/folded_combine.c and folded_backward.c. Gate weight, residual and rounding are in the one pass over the rows.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/columns.cuh"
#include "cuda/shape.cuh"

#include <initializer_list>

namespace
{

constexpr unsigned THREADS = 256;
constexpr unsigned BLOCKS_PER_SM = 8;
constexpr unsigned PARTIALS = 8; /* of the product that is a weight's gradient */
constexpr unsigned PROBE_THREADS = 64;

struct Fold {
    struct xp_gpu_fold f;
    size_t row_bytes;
    const unsigned char *x, *seen, *results, *grad_y, *sums, *jg;
    unsigned char *out;
    float *grad_weight;
};

/* Which 512 bytes of which row a warp has: items are walked by all warps of the grid. */
struct Item {
    size_t row, first; /* first: value */
};

template <class T> static __device__ __forceinline__ Item item_of(const Fold &d, size_t item)
{
    const unsigned tiles = (unsigned)((d.f.dim + 32 * xp_per_load<T> - 1) / (32 * xp_per_load<T>));
    const unsigned row = (unsigned)item / tiles; /* 32 bits: a wider division is a call */

    return {row, (size_t)((unsigned)item - row * tiles) * 32 * xp_per_load<T>};
}

template <class T> static size_t items_of(size_t rows, size_t dim)
{
    return rows * xp_ceil_div(dim, 32 * xp_per_load<T>);
}

/* A slot's numbers; the same in all lanes. */
struct Slot {
    int cluster;
    float weight, alpha;
};

static __device__ __forceinline__ Slot slot_of(const Fold &d, size_t slot)
{
    return {d.f.cluster_of[slot], d.f.weight[slot], d.f.alpha ? d.f.alpha[slot] : 0.0f};
}

/* E(c) + alpha (x - c). */
static __device__ __forceinline__ float result_of(float alpha, float x, float e, float c)
{
    return alpha == 0.0f ? e : __fadd_rn(__fmul_rn(alpha, x), __fsub_rn(e, __fmul_rn(alpha, c)));
}

/* ---- combine ---- */

template <class T, bool WIDE> __global__ void __launch_bounds__(THREADS, 4) fold_combine_kernel(const __grid_constant__ Fold d, size_t items)
{
    constexpr unsigned PER = xp_per_load<T>;
    const unsigned lane = threadIdx.x % 32;

    for (size_t i = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; i < items; i += gridDim.x * (THREADS / 32)) {
        const Item at = item_of<T>(d, i);
        xp_columns<T, WIDE> x, e, c;
        float scale = 0, sum[PER] = {};

        for (unsigned k = 0; k < d.f.topk; k++) {
            const Slot s = slot_of(d, at.row * d.f.topk + k);
            if (s.cluster >= 0)
                scale = __fadd_rn(scale, __fmul_rn(s.weight, s.alpha));
        }
        x.load(d.x + at.row * d.row_bytes, at.first, d.f.dim, lane, scale != 0.0f);
#pragma unroll
        for (unsigned v = 0; v < PER; v++)
            sum[v] = scale != 0.0f ? __fmul_rn(scale, x.value(v)) : 0.0f;
        for (unsigned k = 0; k < d.f.topk; k++) {
            const Slot s = slot_of(d, at.row * d.f.topk + k);
            if (s.cluster < 0)
                continue;
            e.load(d.results + (size_t)s.cluster * d.row_bytes, at.first, d.f.dim, lane, true);
            c.load(d.seen + (size_t)s.cluster * d.row_bytes, at.first, d.f.dim, lane, s.alpha != 0.0f);
#pragma unroll
            for (unsigned v = 0; v < PER; v++) {
                const float value = s.alpha == 0.0f ? e.value(v) : __fsub_rn(e.value(v), __fmul_rn(s.alpha, c.value(v)));
                sum[v] = __fadd_rn(sum[v], __fmul_rn(s.weight, value));
            }
        }
        x.store(d.out + at.row * d.row_bytes, at.first, d.f.dim, lane, sum);
    }
}

/* ---- backward of combine ---- */

template <class T, bool WIDE> __global__ void __launch_bounds__(THREADS, 4) fold_sums_kernel(const __grid_constant__ Fold d, size_t items)
{
    constexpr unsigned PER = xp_per_load<T>, AHEAD = 4; /* rows loaded before they are added */
    const unsigned lane = threadIdx.x % 32;

    for (size_t i = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; i < items; i += gridDim.x * (THREADS / 32)) {
        const Item at = item_of<T>(d, i);
        const uint32_t end = d.f.start[at.row + 1];
        float sum[PER] = {};

        for (uint32_t m = d.f.start[at.row]; m < end; m += AHEAD) {
            xp_columns<T, WIDE> g[AHEAD];
            float weight[AHEAD];
#pragma unroll
            for (unsigned a = 0; a < AHEAD; a++) {
                const uint32_t slot = m + a < end ? d.f.member[m + a] : 0;
                weight[a] = m + a < end ? d.f.weight[slot] : 0;
                g[a].load(d.grad_y + (size_t)(slot / d.f.topk) * d.row_bytes, at.first, d.f.dim, lane, m + a < end);
            }
#pragma unroll
            for (unsigned a = 0; a < AHEAD; a++) /* a row that is not there adds 0 to sums that are never -0 */
#pragma unroll
                for (unsigned v = 0; v < PER; v++)
                    sum[v] = __fadd_rn(sum[v], __fmul_rn(weight[a], g[a].value(v)));
        }
        xp_columns<T, WIDE>::store(d.out + at.row * d.row_bytes, at.first, d.f.dim, lane, sum);
    }
}

/* Eight lanes a slot, one for each partial of the product <grad_y, what the weight multiplied> in f64. */
template <class T> __global__ void __launch_bounds__(THREADS, 4) fold_weights_kernel(const __grid_constant__ Fold d, size_t slots)
{
    typedef typename T::word word;
    const unsigned lane = threadIdx.x % PARTIALS;
    const size_t per_grid = gridDim.x * (size_t)(THREADS / PARTIALS);

    for (size_t first = 0; first < slots; first += per_grid) {
        const size_t slot = first + blockIdx.x * (THREADS / PARTIALS) + threadIdx.x / PARTIALS;
        const Slot s = slot < slots ? slot_of(d, slot) : Slot{-1, 0, 0};
        const unsigned dim = s.cluster < 0 ? 0 : (unsigned)d.f.dim;
        const size_t token = (slot < slots ? slot : 0) / d.f.topk * d.row_bytes, cluster = (size_t)max(s.cluster, 0) * d.row_bytes;
        double partial = 0, sum = 0;

        for (unsigned i = lane; i < dim; i += PARTIALS) {
            const float g = T::load(reinterpret_cast<const word *>(d.grad_y + token)[i]), x = T::load(reinterpret_cast<const word *>(d.x + token)[i]);
            const float e = T::load(reinterpret_cast<const word *>(d.results + cluster)[i]);
            const float c = s.alpha == 0.0f ? 0.0f : T::load(reinterpret_cast<const word *>(d.seen + cluster)[i]);
            partial += (double)g * result_of(s.alpha, x, e, c);
        }
        for (unsigned p = 0; p < PARTIALS; p++)
            sum += __shfl_sync(XP_FULL_WARP, partial, threadIdx.x % 32 / PARTIALS * PARTIALS + p);
        if (lane == 0 && slot < slots)
            d.grad_weight[slot] = s.cluster < 0 ? 0.0f : (float)sum;
    }
}

/* ---- backward of dispatch ---- */

template <class T, bool WIDE> __global__ void __launch_bounds__(THREADS, 3) fold_backward_kernel(const __grid_constant__ Fold d, size_t items)
{
    constexpr unsigned PER = xp_per_load<T>;
    const unsigned lane = threadIdx.x % 32;

    for (size_t i = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; i < items; i += gridDim.x * (THREADS / 32)) {
        const Item at = item_of<T>(d, i);
        xp_columns<T, WIDE> g, jg, total;
        float sum[PER] = {};

        g.load(d.grad_y + at.row * d.row_bytes, at.first, d.f.dim, lane, true);
        for (unsigned k = 0; k < d.f.topk; k++) {
            const size_t slot = at.row * d.f.topk + k;
            const Slot s = slot_of(d, slot);
            if (s.cluster < 0)
                continue;
            const uint32_t begin = d.f.start[s.cluster], members = d.f.start[s.cluster + 1] - begin;
            const bool through = !d.f.leader || d.f.member[begin] == slot;
            const float direct = __fmul_rn(s.alpha, s.weight), n = d.f.leader ? 1.0f : (float)members;

            jg.load(d.jg + (size_t)s.cluster * d.row_bytes, at.first, d.f.dim, lane, through);
            total.load(d.sums + (size_t)s.cluster * d.row_bytes, at.first, d.f.dim, lane, through && s.alpha != 0.0f);
#pragma unroll
            for (unsigned v = 0; v < PER; v++) {
                if (direct != 0.0f)
                    sum[v] = __fadd_rn(sum[v], __fmul_rn(direct, g.value(v)));
                if (through)
                    sum[v] = __fadd_rn(sum[v], __fdiv_rn(s.alpha == 0.0f ? jg.value(v) : __fsub_rn(jg.value(v), __fmul_rn(s.alpha, total.value(v))), n));
            }
        }
        g.store(d.out + at.row * d.row_bytes, at.first, d.f.dim, lane, sum);
    }
}

/* ---- probes ---- */

struct Probes {
    const unsigned char *seen, *results;
    const struct xp_gpu_probe *probe;
    size_t probes, dim, row_bytes;
    struct xp_gpu_probe_products *out;
};

/*
 * A warp a probe. The sums are in f64 and in the order of the values, so every lane adds all of them up, value after value, out of what the
 * lanes have loaded together.
 */
template <class T> __global__ void __launch_bounds__(PROBE_THREADS, 4) fold_products_kernel(const __grid_constant__ Probes d)
{
    typedef typename T::word word;
    const unsigned lane = threadIdx.x % 32, dim = (unsigned)d.dim;

    for (size_t p = blockIdx.x * (PROBE_THREADS / 32) + threadIdx.x / 32; p < d.probes; p += gridDim.x * (PROBE_THREADS / 32)) {
        const size_t row = d.probe[p].row * d.row_bytes, centroid = d.probe[p].centroid * d.row_bytes;
        const word *x = reinterpret_cast<const word *>(d.seen + row), *c = reinterpret_cast<const word *>(d.seen + centroid);
        const word *y = reinterpret_cast<const word *>(d.results + row), *e = reinterpret_cast<const word *>(d.results + centroid);
        double yy = 0, yx = 0, xx = 0, ee = 0;

        for (unsigned first = 0; first < dim; first += 32) {
            const unsigned i = first + lane;
            const float mine[4] = {i < dim ? T::load(x[i]) : 0, i < dim ? T::load(c[i]) : 0, i < dim ? T::load(y[i]) : 0, i < dim ? T::load(e[i]) : 0};
            for (unsigned k = 0; k < 32; k++) { /* zeros behind the end add nothing */
                const double dx = (double)__shfl_sync(XP_FULL_WARP, mine[0], k) - (double)__shfl_sync(XP_FULL_WARP, mine[1], k);
                const double result = __shfl_sync(XP_FULL_WARP, mine[2], k), dy = result - (double)__shfl_sync(XP_FULL_WARP, mine[3], k);
                yy += dy * dy;
                yx += dy * dx;
                xx += dx * dx;
                ee += result * result;
            }
        }
        if (lane == 0)
            d.out[p] = {yy, yx, xx, ee};
    }
}

/* ---- launches ---- */

Fold fold_of(const struct xp_gpu_fold *f, unsigned char *out)
{
    Fold d = {};

    d.f = *f;
    d.row_bytes = f->dim * xp_dtype_size(f->dtype);
    d.out = out;
    return d;
}

const unsigned char *bytes_of(const void *p)
{
    return static_cast<const unsigned char *>(p);
}

bool is_wide(const Fold &d, std::initializer_list<const void *> rows)
{
    uintptr_t all = d.row_bytes;

    for (const void *p : rows)
        all |= reinterpret_cast<uintptr_t>(p);
    return all % 16 == 0;
}

template <class T, class K> int launch_items(const struct xp_gpu *g, const char *name, K *kernel, const Fold &d, size_t rows)
{
    const size_t items = items_of<T>(rows, d.f.dim), wanted = xp_ceil_div(items, THREADS / 32), fill = (size_t)g->sms * BLOCKS_PER_SM;
    const xp_shape shape = {xp_grid(wanted, fill), dim3(THREADS), 0, false};

    if (items >> 31)
        return 1; /* cudaErrorInvalidValue */
    return items ? xp_launch(name, shape, g->stream, kernel, d, items) : 0;
}

} // namespace

extern "C" int xp_cuda_fold_combine(const struct xp_gpu *g, const struct xp_gpu_fold *f, const void *x, const void *seen, const void *results, void *y)
{
    Fold d = fold_of(f, static_cast<unsigned char *>(y));
    const bool wide = is_wide(d, {x, seen, results, y});

    d.x = bytes_of(x);
    d.seen = bytes_of(seen);
    d.results = bytes_of(results);
    return xp_for_type(f->dtype, [&](auto t) {
        typedef decltype(t) T;
        return launch_items<T>(g, "fold combine", wide ? fold_combine_kernel<T, true> : fold_combine_kernel<T, false>, d, f->tokens);
    });
}

extern "C" int xp_cuda_fold_combine_backward(const struct xp_gpu *g, const struct xp_gpu_fold *f, const void *grad_y, const void *x, const void *seen,
                                             const void *results, void *sums, float *grad_weight)
{
    Fold d = fold_of(f, static_cast<unsigned char *>(sums));
    const bool wide = is_wide(d, {grad_y, sums});
    const size_t slots = f->tokens * f->topk, wanted = xp_ceil_div(slots, THREADS / PARTIALS), fill = (size_t)g->sms * BLOCKS_PER_SM;
    const xp_shape shape = {xp_grid(wanted, fill), dim3(THREADS), 0, false};

    d.grad_y = bytes_of(grad_y);
    d.x = bytes_of(x);
    d.seen = bytes_of(seen);
    d.results = bytes_of(results);
    d.grad_weight = grad_weight;
    return xp_for_type(f->dtype, [&](auto t) {
        typedef decltype(t) T;
        const int error = launch_items<T>(g, "fold sums", wide ? fold_sums_kernel<T, true> : fold_sums_kernel<T, false>, d, f->clusters);
        return error || !grad_weight || slots == 0 ? error : xp_launch("fold weights", shape, g->stream, fold_weights_kernel<T>, d, slots);
    });
}

extern "C" int xp_cuda_fold_dispatch_backward(const struct xp_gpu *g, const struct xp_gpu_fold *f, const void *grad_y, const void *sums, const void *jg,
                                              void *grad_x)
{
    Fold d = fold_of(f, static_cast<unsigned char *>(grad_x));
    const bool wide = is_wide(d, {grad_y, sums, jg, grad_x});

    d.grad_y = bytes_of(grad_y);
    d.sums = bytes_of(sums);
    d.jg = bytes_of(jg);
    return xp_for_type(f->dtype, [&](auto t) {
        typedef decltype(t) T;
        return launch_items<T>(g, "fold backward", wide ? fold_backward_kernel<T, true> : fold_backward_kernel<T, false>, d, f->tokens);
    });
}

extern "C" int xp_cuda_fold_products(const struct xp_gpu *g, xp_dtype t, size_t dim, const void *seen, const void *results, const struct xp_gpu_probe *probe,
                                     size_t probes, struct xp_gpu_probe_products *out)
{
    const Probes d = {bytes_of(seen), bytes_of(results), probe, probes, dim, dim * xp_dtype_size(t), out};
    const xp_shape shape = {xp_grid(xp_ceil_div(probes, PROBE_THREADS / 32), (size_t)g->sms * BLOCKS_PER_SM), dim3(PROBE_THREADS), 0, false};

    if (probes == 0)
        return 0;
    return xp_for_type(t, [&](auto tag) { return xp_launch("fold products", shape, g->stream, fold_products_kernel<decltype(tag)>, d); });
}
