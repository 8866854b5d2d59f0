/*
 * device_coder.c - codec quant on the device (device_coder.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/device_coder.h"
#include "collectives/device_call.h"
#include "hash/bytes.h"

#include <string.h>

#define BATCH_BYTES ((size_t)8 << 20) /* of rows: enough for every multiprocessor, while the batch before is on its way */

static size_t round16(size_t n)
{
    return (n + 15) / 16 * 16;
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

/* A warp has a row in shared memory: as it came, rotated, coded twice, and its base. */
int xp_device_coder_fits(const struct xp_shape *s, const char **why)
{
    struct xp_gpu g = {0};
    *why = "the device's attributes cannot be read";
    if (xp_device_describe(s->device, &g) != 0)
        return 0;
    *why = "rows are too long to be coded on the device";
    if (s->row_bytes + s->dim * 9 + 4096 > g.shared_bytes)
        return 0;
    *why = "CROSSPRESS_CHUNK has room for too many rows to be coded on the device";
    return s->chunk_rows < (size_t)1 << 20;
}

int xp_device_coder_open(struct xp_device_coder *d, const struct xp_shape *s, size_t frames_out, size_t frames_in, size_t staging_bytes, int whole)
{
    d->shape = s;
    d->dev = s->device;
    d->kernels = s->device->kernels;
    d->coder = s->coder;
    d->stride = round16(s->row_bytes);
    d->batches = whole ? 1 : XP_DEVICE_BATCHES;
    d->batch_frames = BATCH_BYTES / (s->chunk_rows * s->row_bytes);
    d->batch_frames = d->batch_frames < 1 ? 1 : d->batch_frames;
    if (whole || d->batch_frames > frames_out)
        d->batch_frames = frames_out;
    d->batch_rows = d->batch_frames * s->chunk_rows;
    if (d->batch_rows > s->max_send_rows)
        d->batch_rows = s->max_send_rows;
    d->staging_bytes = staging_bytes;
    d->sign_words = d->coder->desc.dither ? xp_sign_words(s->dim) : 0;
    d->frames_in = frames_in;
    d->notes_cap = s->max_recv_rows * (sizeof(uint64_t) + 2 * sizeof(uint32_t) + 1) + frames_in * (s->dim * sizeof(float) + sizeof(uint64_t) + 64);
    d->quantiser.dim = s->dim;
    d->store.cap = s->places;
    xp_row_plan_init(&d->plan, d->coder, d->coder->formats, NULL);
    int e = xp_device_describe(d->dev, &d->gpu);
    for (size_t i = 0; !e && i < d->batches; i++)
        e = d->dev->event_create(&d->batch[i].known);
    return e;
}

/* Row by row nothing but the row itself is looked at. */
static int has_means(const struct xp_device_coder *d)
{
    return !d->coder->desc.row_wise;
}

/* Room for so many frames of `rows` rows in all, `coded` of which are coded. */
static void take_codes(const struct xp_device_coder *d, struct xp_device_codes *c, size_t frames, size_t rows, size_t coded, struct xp_pool *device)
{
    const int refers = d->coder->desc.eps_ref != XP_EPS_REF_ROW;
    const size_t means = has_means(d) ? frames : 0;
    c->frame = xp_pool_take(device, frames * sizeof *c->frame);
    c->base_of = xp_pool_take(device, rows * sizeof *c->base_of);
    c->reference_of = refers ? xp_pool_take(device, rows * sizeof *c->reference_of) : NULL;
    c->lengths = xp_pool_take(device, coded * sizeof *c->lengths);
    c->means = xp_pool_take(device, means * d->shape->dim * sizeof *c->means);
    c->errors = xp_pool_take(device, coded * sizeof *c->errors);
    c->formats = xp_pool_take(device, coded);
    c->pays = xp_pool_take(device, frames);
    c->typed = xp_pool_take(device, means * d->shape->row_bytes);
    c->slots = xp_pool_take(device, coded * d->stride);
    if (!d->sign_words)
        return;
    c->signs.sums = xp_pool_take(device, rows * sizeof *c->signs.sums);
    c->signs.seeds = xp_pool_take(device, frames * sizeof *c->signs.seeds);
    c->signs.of = xp_pool_take(device, rows * sizeof *c->signs.of);
    c->signs.signs = xp_pool_take(device, frames * d->sign_words * sizeof *c->signs.signs);
}

static void take_batch(struct xp_device_coder *d, struct xp_device_batch *b, struct xp_pool *device, struct xp_pool *pinned)
{
    const size_t rows = d->batch_rows, frames = d->batch_frames, stored = d->store.cap ? rows : 0;
    b->frame = xp_pool_take(pinned, frames * sizeof *b->frame);
    b->index = xp_pool_take(pinned, rows * sizeof *b->index);
    b->order = xp_pool_take(pinned, stored * sizeof *b->order);
    b->at = xp_pool_take(pinned, (rows + 1) * sizeof *b->at);
    b->formats = xp_pool_take(pinned, rows);
    b->pays = xp_pool_take(pinned, frames);
    b->typed = xp_pool_take(pinned, has_means(d) ? frames * d->shape->row_bytes : 0);
    b->seeds = xp_pool_take(pinned, d->sign_words ? frames * sizeof *b->seeds : 0);
    b->dev.index = xp_pool_take(device, rows * sizeof *b->dev.index);
    b->dev.order = xp_pool_take(device, stored * sizeof *b->dev.order);
    b->dev.at = xp_pool_take(device, (rows + 1) * sizeof *b->dev.at);
    b->dev.payload = xp_pool_take(device, rows * d->stride);
    take_codes(d, &b->dev.codes, frames, rows, rows, device);
}

static void take_store(struct xp_device_coder *d, struct xp_pool *device, struct xp_pool *pinned)
{
    struct xp_device_store *s = &d->store;
    const size_t all = d->shape->max_send_rows;
    s->which = xp_pool_take(pinned, s->cap * sizeof *s->which);
    s->frame = xp_pool_take(pinned, sizeof *s->frame);
    s->list = xp_pool_take(pinned, all * sizeof *s->list);
    s->index = xp_pool_take(pinned, s->cap * sizeof *s->index);
    s->formats = xp_pool_take(pinned, s->cap);
    s->pays = xp_pool_take(pinned, 1);
    s->typed = xp_pool_take(pinned, d->shape->row_bytes);
    s->seed = xp_pool_take(pinned, sizeof *s->seed);
    s->dev.list = xp_pool_take(device, all * sizeof *s->dev.list);
    s->dev.index = xp_pool_take(device, s->cap * sizeof *s->dev.index);
    take_codes(d, &s->dev.codes, 1, all, s->cap, device);
}

void xp_device_coder_parts(struct xp_device_coder *d, struct xp_pool *device, struct xp_pool *pinned)
{
    for (size_t i = 0; i < d->batches; i++)
        take_batch(d, &d->batch[i], device, pinned);
    if (d->store.cap)
        take_store(d, device, pinned);
    d->quantiser.signs = xp_pool_take(device, xp_sign_words(d->shape->dim) * sizeof(uint32_t));
    d->scratch = xp_pool_take(device, d->kernels->pack_scratch(&d->gpu));
    d->staging = xp_pool_take(device, d->staging_bytes);
    d->notes = xp_pool_take(pinned, d->notes_cap);
    d->dev_notes = xp_pool_take(device, d->notes_cap);
    d->signs_in = xp_pool_take(device, d->frames_in * d->sign_words * sizeof *d->signs_in);
}

int xp_device_coder_fill(struct xp_device_coder *d, void *stream)
{
    int e = d->dev->copy(d->quantiser.signs, d->coder->quantiser.signs, xp_sign_words(d->shape->dim) * sizeof(uint32_t), stream);
    if (!e)
        e = d->dev->zero(d->scratch, d->kernels->pack_scratch(&d->gpu), stream);
    return e ? e : d->dev->stream_synchronize(stream);
}

void xp_device_coder_close(struct xp_device_coder *d)
{
    for (int i = 0; d->dev && i < XP_DEVICE_BATCHES; i++)
        if (d->batch[i].known)
            d->dev->event_destroy(d->batch[i].known);
}

/* ---- encode -------------------------------------------------------------------------------------------------------- */

/* The rows to peers whose rows are coded, each place once. */
static void list_distinct(struct xp_device_coder *d, const struct xp_call *call)
{
    struct xp_device_store *s = &d->store;
    size_t row = 0;
    s->distinct = 0;
    memset(s->which, 0xff, s->cap * sizeof *s->which);
    for (int peer = 0; peer < d->shape->comm->size; peer++)
        for (size_t end = row + call->send_rows[peer]; row < end; row++) {
            const uint32_t place = call->at[row];
            if (!xp_device_codes(d->shape, peer) || s->which[place] != UINT32_MAX)
                continue;
            s->which[place] = (uint32_t)s->distinct;
            s->index[s->distinct++] = place;
        }
}

void xp_device_call_begin(struct xp_device_coder *d, const struct xp_call *call)
{
    struct xp_device_store *s = &d->store;
    s->active = call->all && s->cap && call->all_rows < (size_t)1 << 20; /* what a frame may hold */
    s->coded = 0;
    if (!s->active)
        return;
    s->all = call->all_rows;
    *s->frame = (struct xp_gpu_frame){0, (uint32_t)s->all};
    memcpy(s->list, call->all, s->all * sizeof *s->list);
    list_distinct(d, call);
}

void xp_device_batch_begin(struct xp_device_batch *b, const struct xp_call *call)
{
    b->frames = b->rows = 0;
    b->list = call->at;
    b->from = call->at ? call->from : call->send;
}

void xp_device_batch_add(const struct xp_device_coder *d, struct xp_device_batch *b, size_t row, size_t rows)
{
    b->frame[b->frames++] = (struct xp_gpu_frame){(uint32_t)b->rows, (uint32_t)rows};
    for (size_t r = row; r < row + rows; r++) {
        b->index[b->rows] = b->list ? b->list[r] : (uint32_t)r;
        if (d->store.active)
            b->order[b->rows] = d->store.which[b->list[r]];
        b->rows++;
    }
}

/* Copies that go together. */
struct part {
    void *to;
    const void *from;
    size_t bytes;
};

static int copy_parts(const struct xp_device_coder *d, const struct part *parts, size_t count, void *stream)
{
    int e = 0;
    for (size_t i = 0; !e && i < count; i++)
        e = d->dev->copy(parts[i].to, parts[i].from, parts[i].bytes, stream);
    return e;
}

/* Means and signs of the frames that the rows `all` are in; codes of the rows `in`, row by row those of `all` or, where there is one frame, any of them:
 * base_of and what is like it say the same of every row then. */
static int run_kernels(struct xp_device_coder *d, const struct xp_device_codes *c, size_t frames, const struct xp_rows *all, const struct xp_rows *in)
{
    const struct xp_gpu_means means = {c->means, c->typed, c->pays, c->base_of, c->reference_of};
    const struct xp_gpu_bases bases = {has_means(d) ? c->means : NULL, c->base_of, c->reference_of, d->sign_words ? c->signs.of : NULL};
    const struct xp_quantiser q = {.dim = d->shape->dim, .signs = d->sign_words ? c->signs.signs : d->quantiser.signs};
    int e = has_means(d) ? d->kernels->means(&d->gpu, all, c->frame, frames, &means) : 0;
    if (!e && d->sign_words)
        e = d->kernels->frame_signs(&d->gpu, all, c->frame, frames, d->coder->desc.seed, &c->signs);
    return e ? e : d->kernels->row_encode(&d->gpu, &d->plan, &q, in, &bases, c->slots, d->stride, c->formats, c->lengths, c->errors);
}

static struct xp_rows rows_at(const struct xp_device_coder *d, const char *from, const uint32_t *index, size_t rows)
{
    return (struct xp_rows){.data = from, .index = index, .rows = rows, .dim = d->shape->dim, .dtype = d->shape->dtype};
}

static int code_store(struct xp_device_coder *d, const char *from, void *stream)
{
    struct xp_device_store *s = &d->store;
    const struct xp_device_codes *c = &s->dev.codes;
    const struct xp_rows all = rows_at(d, from, s->dev.list, s->all), in = rows_at(d, from, s->dev.index, s->distinct);
    const struct part up[] = {{c->frame, s->frame, sizeof *s->frame}, {s->dev.list, s->list, s->all * sizeof *s->list},
                              {s->dev.index, s->index, s->distinct * sizeof *s->index}};
    const struct part down[] = {{s->formats, c->formats, s->distinct}, {s->pays, c->pays, 1}, {s->typed, c->typed, d->shape->row_bytes},
                                {s->seed, c->signs.seeds, d->sign_words ? sizeof *s->seed : 0}};
    s->coded = 1;
    int e = copy_parts(d, up, sizeof up / sizeof *up, stream);
    if (!e)
        e = run_kernels(d, c, 1, &all, &in);
    return e ? e : copy_parts(d, down, sizeof down / sizeof *down, stream);
}

/* A batch of rows that are in the store: its bytes are packed. */
static int encode_stored(struct xp_device_coder *d, struct xp_device_batch *b, void *stream)
{
    const struct xp_device_store *s = &d->store;
    const struct part up[] = {{b->dev.index, b->index, b->rows * sizeof *b->index}, {b->dev.order, b->order, b->rows * sizeof *b->order}};
    int e = s->coded ? 0 : code_store(d, b->from, stream);
    if (!e)
        e = copy_parts(d, up, sizeof up / sizeof *up, stream);
    if (!e)
        e = d->kernels->pack(&d->gpu, s->dev.codes.slots, d->stride, s->dev.codes.lengths, b->dev.order, b->rows, d->scratch, b->dev.at, b->dev.payload);
    return e ? e : d->dev->copy(b->at, b->dev.at, (b->rows + 1) * sizeof *b->at, stream);
}

static int encode_batch(struct xp_device_coder *d, struct xp_device_batch *b, void *stream)
{
    const struct xp_device_codes *c = &b->dev.codes;
    const struct xp_rows in = rows_at(d, b->from, b->dev.index, b->rows);
    const struct part up[] = {{c->frame, b->frame, b->frames * sizeof *b->frame}, {b->dev.index, b->index, b->rows * sizeof *b->index}};
    const size_t means = has_means(d) ? b->frames : 0;
    const struct part down[] = {{b->at, b->dev.at, (b->rows + 1) * sizeof *b->at}, {b->formats, c->formats, b->rows}, {b->pays, c->pays, means},
                                {b->typed, c->typed, means * d->shape->row_bytes}, {b->seeds, c->signs.seeds, d->sign_words ? b->frames * sizeof *b->seeds : 0}};
    int e = copy_parts(d, up, sizeof up / sizeof *up, stream);
    memset(b->pays, 0, b->frames);
    if (!e)
        e = run_kernels(d, c, b->frames, &in, &in);
    if (!e)
        e = d->kernels->pack(&d->gpu, c->slots, d->stride, c->lengths, NULL, b->rows, d->scratch, b->dev.at, b->dev.payload);
    return e ? e : copy_parts(d, down, sizeof down / sizeof *down, stream);
}

int xp_device_encode(struct xp_device_coder *d, struct xp_device_batch *b, void *stream)
{
    d->gpu.stream = stream;
    int e = d->store.active ? encode_stored(d, b, stream) : encode_batch(d, b, stream);
    return e ? e : d->dev->event_record(b->known, stream);
}

void xp_device_known(const struct xp_device_coder *d, struct xp_device_batch *b)
{
    if (!d->store.active)
        return;
    for (size_t r = 0; r < b->rows; r++)
        b->formats[r] = d->store.formats[b->order[r]];
    memset(b->pays, *d->store.pays, b->frames);
}

/* Bytes of the rows of frame i. */
static size_t length_of(const struct xp_device_batch *b, size_t i)
{
    const struct xp_gpu_frame *f = &b->frame[i];
    return b->at[f->first + f->rows] - b->at[f->first];
}

static int pays(const struct xp_device_coder *d, const struct xp_device_batch *b, size_t i)
{
    return xp_quant_pays(d->coder, b->frame[i].rows, b->pays[i], length_of(b, i));
}

static const void *mean_of(const struct xp_device_coder *d, const struct xp_device_batch *b, size_t i)
{
    return !b->pays[i] ? NULL : d->store.active ? d->store.typed : b->typed + i * d->shape->row_bytes;
}

/* What rows were packed from is free once the host knows the outcome: listed rows are gathered there. */
int xp_device_raw_rows(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, void *stream, const void **rows)
{
    const struct xp_gpu_frame *f = &b->frame[i];
    const struct xp_rows in = rows_at(d, b->from, b->dev.index + f->first, f->rows);
    uint8_t *gathered = b->dev.codes.slots + f->first * d->shape->row_bytes;
    *rows = b->list ? (const void *)gathered : b->from + b->index[f->first] * d->shape->row_bytes;
    d->gpu.stream = stream;
    return b->list ? d->kernels->rows_gather(&d->gpu, &in, NULL, gathered) : 0;
}

int xp_device_fetch(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, uint8_t *out, void *stream)
{
    const struct xp_gpu_frame *f = &b->frame[i];
    if (!pays(d, b, i)) {
        const void *rows;
        int e = xp_device_raw_rows(d, b, i, stream, &rows);
        return e ? e : d->dev->copy(out + XP_FRAME_HEADER, rows, f->rows * d->shape->row_bytes, stream);
    }
    return d->dev->copy(out + xp_quant_head_bytes(d->coder, f->rows, b->pays[i]), b->dev.payload + b->at[f->first], length_of(b, i), stream);
}

static uint64_t seed_of(const struct xp_device_coder *d, const struct xp_device_batch *b, size_t i)
{
    return !d->sign_words ? d->coder->desc.seed : d->store.active ? *d->store.seed : b->seeds[i];
}

/* A frame of so many bytes for the statistics. */
static void count(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, size_t bytes)
{
    const struct xp_gpu_frame *f = &b->frame[i];
    xp_codec_stats *st = d->shape->codec_stats;
    const size_t coded = pays(d, b, i) ? f->rows : 0;
    for (size_t r = 0; r < coded; r++)
        st->rows_raw += b->formats[f->first + r] == XP_Q_RAW;
    st->rows += f->rows;
    st->rows_unique += f->rows;
    st->raw_bytes += f->rows * d->shape->row_bytes;
    st->frame_bytes += bytes;
}

size_t xp_device_close(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, uint8_t *out)
{
    const struct xp_gpu_frame *f = &b->frame[i];
    const uint64_t seed = seed_of(d, b, i);
    const size_t bytes = !pays(d, b, i) ? xp_raw_close(d->coder, out, seed, f->rows)
                                        : xp_quant_close(d->coder, out, seed, mean_of(d, b, i), b->formats + f->first, f->rows, length_of(b, i));
    count(d, b, i, bytes);
    return bytes;
}

void *xp_device_payload(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, size_t *length)
{
    *length = length_of(b, i);
    return pays(d, b, i) ? b->dev.payload + b->at[b->frame[i].first] : NULL;
}

size_t xp_device_write_head(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, uint8_t *out)
{
    const struct xp_gpu_frame *f = &b->frame[i];
    size_t head = 1;
    out[0] = (uint8_t)pays(d, b, i);
    if (out[0] && d->sign_words) {
        xp_put64(out + head, seed_of(d, b, i));
        head += sizeof(uint64_t);
    }
    if (out[0])
        head += xp_quant_write_head(d->coder, out + head, mean_of(d, b, i), b->formats + f->first, f->rows);
    count(d, b, i, head + (out[0] ? length_of(b, i) : f->rows * d->shape->row_bytes));
    return head;
}

/* ---- decode -------------------------------------------------------------------------------------------------------- */

/* Where the notes of a run are, of `rows` rows in at most `frames` frames. */
static void place_notes(struct xp_device_notes *n, uint8_t *notes, size_t rows, size_t frames, size_t dim)
{
    n->mean = (float *)(void *)notes;
    n->seeds = (uint64_t *)(void *)(notes + round16(frames * dim * sizeof(float)));
    n->at = n->seeds + frames;
    n->of = (uint32_t *)(n->at + rows);
    n->signs_of = n->of + rows;
    n->formats = (uint8_t *)(n->signs_of + rows);
}

void xp_device_run_begin(struct xp_device_coder *d, struct xp_device_run *run, size_t rows, size_t frames)
{
    const size_t dim = d->shape->dim;
    memset(run, 0, sizeof *run);
    run->notes = d->notes_used;
    run->bytes = round16(frames * dim * sizeof(float)) + frames * sizeof(uint64_t) + rows * (sizeof(uint64_t) + 2 * sizeof(uint32_t) + 1);
    run->signs = d->signs_in + d->frames_used * d->sign_words;
    d->frames_used += frames;
    place_notes(&run->host, d->notes + run->notes, rows, frames, dim);
    place_notes(&run->dev, d->dev_notes + run->notes, rows, frames, dim);
    d->notes_used += round16(run->bytes);
}

void xp_device_decode_begin(struct xp_device_coder *d, const struct xp_call *call)
{
    size_t rows = 0, frames = 0;
    d->notes_used = d->frames_used = 0;
    if (!call->result)
        return;
    for (int i = 0; i < d->shape->comm->size; i++) {
        rows += call->recv_rows[i];
        frames += xp_device_codes(d->shape, i) ? (call->recv_rows[i] + d->shape->chunk_rows - 1) / d->shape->chunk_rows : 0;
    }
    xp_device_run_begin(d, &d->kept, rows, frames);
    d->kept_rows = rows;
    memset(d->kept.host.formats, XP_GPU_PLAIN, rows);
}

void xp_device_run_add(struct xp_device_coder *d, struct xp_device_run *run, const struct xp_quant_parts *p, size_t rows, size_t at)
{
    const size_t dim = d->shape->dim;
    if (p->mean)
        memcpy(run->host.mean + run->means * dim, p->mean, dim * sizeof(float));
    for (size_t r = 0; r < rows; r++, run->rows++) {
        const uint8_t format = p->formats ? p->formats[r] : XP_Q_RAW;
        run->host.at[run->rows] = at;
        run->host.of[run->rows] = p->mean ? (uint32_t)run->means : XP_GPU_NO_ROW;
        run->host.signs_of[run->rows] = (uint32_t)run->frames;
        run->host.formats[run->rows] = format;
        at += d->plan.bytes[format];
    }
    run->host.seeds[run->frames++] = p->seed;
    run->means += p->mean != NULL;
}

void xp_device_keep(struct xp_device_coder *d, const struct xp_quant_parts *p, size_t row, size_t rows, size_t at)
{
    d->kept.rows = row;
    xp_device_run_add(d, &d->kept, p, rows, at);
}

/* Notes to the device, and signs that follow from them; what kernels get of them. */
static int open_run(struct xp_device_coder *d, const struct xp_device_run *run, void *stream, struct xp_gpu_bases *bases, struct xp_quantiser *q)
{
    *bases = (struct xp_gpu_bases){run->dev.mean, run->dev.of, NULL, d->sign_words ? run->dev.signs_of : NULL};
    *q = (struct xp_quantiser){.dim = d->shape->dim, .signs = d->sign_words ? run->signs : d->quantiser.signs};
    int e = d->dev->copy(d->dev_notes + run->notes, d->notes + run->notes, run->bytes, stream);
    d->gpu.stream = stream;
    return e || !d->sign_words ? e : d->kernels->signs_of_seeds(&d->gpu, run->dev.seeds, run->frames, d->shape->dim, run->signs);
}

int xp_device_run_end(struct xp_device_coder *d, const struct xp_device_run *run, void *to, void *stream)
{
    struct xp_gpu_bases bases;
    struct xp_quantiser q;
    int e = open_run(d, run, stream, &bases, &q);
    return e ? e : d->kernels->row_decode(&d->gpu, &q, run->dev.formats, XP_Q_RAW, d->staging, run->dev.at, 0, &bases, d->shape->dtype,
                                          run->rows, to);
}

int xp_device_result(struct xp_device_coder *d, const struct xp_call *call, void *stream)
{
    struct xp_gpu_coded_rows rows = {.formats = d->kept.dev.formats, .bytes = d->staging, .at = d->kept.dev.at, .plain = call->recv};
    const struct xp_call_result *r = call->result;
    struct xp_quantiser q;
    int e = open_run(d, &d->kept, stream, &rows.bases, &q);
    if (e)
        return e;
    return r->terms ? d->kernels->decode_sums(&d->gpu, &q, &rows, d->shape->dtype, r->terms, r->sums, r->out)
                    : d->kernels->row_spread(&d->gpu, &q, &rows, d->shape->dtype, d->kept_rows, r->places, r->out);
}

xp_status xp_device_decode(struct xp_device_coder *d, const struct xp_call *call, const struct xp_device_frame *frames, size_t count, size_t row, void *stream,
                           int *error)
{
    struct xp_device_run run;
    size_t rows = 0;
    *error = 0;
    for (size_t i = 0; i < count; i++)
        rows += frames[i].rows;
    if (!call->result)
        xp_device_run_begin(d, &run, rows, count);
    rows = row;
    for (size_t i = 0; i < count && !*error; rows += frames[i++].rows) {
        struct xp_quant_parts p;
        xp_status st = xp_quant_open(d->coder, &d->plan, frames[i].frame, frames[i].len, frames[i].rows, &p);
        if (st != XP_OK)
            return st;
        const size_t at = frames[i].offset + (size_t)(p.bytes - frames[i].frame);
        if (call->result)
            xp_device_keep(d, &p, rows, frames[i].rows, at);
        else
            xp_device_run_add(d, &run, &p, frames[i].rows, at);
        *error = d->dev->copy(d->staging + at, p.bytes, p.length, stream);
    }
    if (!*error && !call->result)
        *error = xp_device_run_end(d, &run, (char *)call->recv + row * d->shape->row_bytes, stream);
    return XP_OK;
}
