/*
 * staging.c - a diverted exchange on the program's streams: copies to staging, the wait, copies back
 *
 * Everything that must happen before the wait is released is enqueued before it. The device never waits for anything that this
 * process enqueues later, and no CUDA call is made on behalf of an exchange after its wait has been enqueued, except the copies
 * behind it. Where there is no stream memory operation, the calling thread waits instead.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "lib/interpose/divert.h"
#include "lib/interpose/options.h"

#define PART_LEAST ((size_t)256 << 10) /* bytes of a copy that is worth being one of its own */
#define SPARE_MAX ((size_t)64 << 20) /* staging buffers up to this size are made for all slots at once */

static size_t message_bytes(const struct xp_call *c)
{
    return c->count * xp_nccl_type_size(c->type);
}

static size_t unit_of(const struct xp_divert *d)
{
    return d->side->classes[d->slot->klass].unit;
}

static size_t rows_of(const struct xp_divert *d, size_t bytes)
{
    size_t unit = unit_of(d);
    return bytes / unit + (bytes % unit != 0);
}

/* ---- layout: messages by peer, each from a row on; in a peer's part in the order of the calls --------------------- */

static void add_rows(const struct xp_divert *d, size_t *rows, int peer, size_t bytes)
{
    if (xp_divert_takes(d, peer, bytes))
        rows[peer] += rows_of(d, bytes);
}

static void count_rows(struct xp_divert *d)
{
    struct xp_slot *s = d->slot;
    const struct xp_call *c = &d->calls[d->first];

    memset(s->send_rows, 0, (size_t)d->side->size * sizeof *s->send_rows);
    memset(s->recv_rows, 0, (size_t)d->side->size * sizeof *s->recv_rows);
    if (d->collective)
        for (int p = 0; p < d->side->size; p++) {
            add_rows(d, s->send_rows, p, message_bytes(c));
            add_rows(d, s->recv_rows, p, message_bytes(c));
        }
    else
        for (size_t i = d->first; i < d->ncalls; i++)
            if (d->calls[i].op == d->op)
                add_rows(d, d->calls[i].kind == XP_CALL_SEND ? s->send_rows : s->recv_rows, d->calls[i].peer,
                         message_bytes(&d->calls[i]));
    s->total_send = s->total_recv = 0;
    for (int p = 0; p < d->side->size; p++) {
        s->total_send += s->send_rows[p];
        s->total_recv += s->recv_rows[p];
    }
    s->rows = d->collective ? rows_of(d, message_bytes(c)) : 0;
}

static int reserve_pieces(struct xp_piece **pieces, size_t *cap, size_t need)
{
    struct xp_piece *more;
    if (need <= *cap)
        return 1;
    more = realloc(*pieces, need * sizeof *more);
    if (!more)
        return 0;
    *pieces = more;
    *cap = need;
    return 1;
}

/* Messages that follow one another on both sides are one copy. */
static void add_piece(struct xp_piece *pieces, size_t *n, char *user, size_t offset, size_t bytes)
{
    struct xp_piece *last = *n ? &pieces[*n - 1] : NULL;
    if (last && last->user + last->bytes == user && last->offset + last->bytes == offset)
        last->bytes += bytes;
    else
        pieces[(*n)++] = (struct xp_piece){user, offset, bytes};
}

static void place(struct xp_divert *d, int peer, char *send, char *recv, size_t bytes)
{
    struct xp_slot *s = d->slot;
    size_t unit = unit_of(d), rows, offset;

    if (!xp_divert_takes(d, peer, bytes))
        return;
    rows = rows_of(d, bytes);
    offset = s->cursor[peer] * unit;
    s->cursor[peer] += rows;
    if (recv) {
        add_piece(s->in, &s->nin, recv, offset, bytes);
        return;
    }
    memset(s->send + offset + bytes, 0, rows * unit - bytes); /* the rest of its last row */
    add_piece(s->out, &s->nout, send, offset, bytes);
}

static void place_all(struct xp_divert *d, enum xp_call_kind direction)
{
    const size_t *rows = direction == XP_CALL_SEND ? d->slot->send_rows : d->slot->recv_rows;
    const struct xp_call *c = &d->calls[d->first];
    size_t at = 0, bytes = message_bytes(c);

    for (int p = 0; p < d->side->size; at += rows[p++])
        d->slot->cursor[p] = at;
    if (d->collective) {
        for (int p = 0; p < d->side->size; p++)
            place(d, p, (char *)(uintptr_t)c->send + (size_t)p * bytes,
                  direction == XP_CALL_SEND ? NULL : (char *)c->recv + (size_t)p * bytes, bytes);
        return;
    }
    for (size_t i = d->first; i < d->ncalls; i++) {
        c = &d->calls[i];
        if (c->op == d->op && c->kind == direction)
            place(d, c->peer, (char *)(uintptr_t)c->send, direction == XP_CALL_SEND ? NULL : c->recv, message_bytes(c));
    }
}

static int grow(const struct xp_gpu *g, char **buf, size_t *cap, size_t need)
{
    void *fresh = NULL;

    if (need <= *cap)
        return 1;
    if (*buf)
        g->cudaFreeHost(*buf);
    *buf = NULL;
    *cap = 0;
    if (g->cudaHostAlloc(&fresh, need, xp_cudaHostAllocPortable) != xp_cudaSuccess)
        return 0;
    *buf = fresh;
    *cap = need;
    return 1;
}

/* Pinned memory. Its allocation may wait for the device, so nothing of ours may then be waiting in a stream. Not to wait again soon, the
 * other slots get as much, and all of them something to spare. */
static int reserve(struct xp_divert *d, size_t send, size_t recv)
{
    struct xp_proxy *p = d->side->proxy;

    if (send <= d->slot->send_cap && recv <= d->slot->recv_cap)
        return 1;
    xp_proxy_drain(p);
    if (!grow(p->gpu, &d->slot->send, &d->slot->send_cap, send + send / 4) || !grow(p->gpu, &d->slot->recv, &d->slot->recv_cap, recv + recv / 4))
        return 0;
    for (int i = 0; i < XP_SLOTS; i++) {
        struct xp_slot *s = &p->slot[i];
        if (s == d->slot || (s->pending && xp_gpu_is_over(p->gpu, s->done) != 1))
            continue;
        if (d->slot->send_cap <= SPARE_MAX)
            grow(p->gpu, &s->send, &s->send_cap, d->slot->send_cap);
        if (d->slot->recv_cap <= SPARE_MAX)
            grow(p->gpu, &s->recv, &s->recv_cap, d->slot->recv_cap);
    }
    return 1;
}

/* ---- parts --------------------------------------------------------------------------------------------------------- */

static int parts_of(size_t bytes, size_t copies)
{
    size_t parts = bytes / PART_LEAST / (copies ? copies : 1);
    return parts < 1 ? 1 : parts > XP_PARTS ? XP_PARTS : (int)parts;
}

/* Of the send buffer: the rows for some ranks, beginning with those that the exchange sends first. */
static void cut_send(struct xp_divert *d)
{
    struct xp_slot *s = d->slot;
    int size = d->side->size, parts = parts_of(s->total_send * unit_of(d), 1);
    size_t sum = 0;

    s->out_parts = 0;
    for (int i = 0; i < size; i++) {
        sum += s->send_rows[(d->side->rank + 1 + i) % size];
        if (i + 1 == size || sum * (size_t)parts >= s->total_send * (size_t)(s->out_parts + 1)) {
            s->part_end[s->out_parts] = i + 1;
            s->out_parts += s->out_parts < XP_PARTS - 1 && sum < s->total_send;
        }
    }
    s->out_parts++;
}

/* Of the receive buffer: some rows of every rank, as they come. */
static void cut_recv(struct xp_divert *d)
{
    struct xp_slot *s = d->slot;
    size_t most = 0, peers = 0;

    for (int p = 0; p < d->side->size; p++) {
        most = s->recv_rows[p] > most ? s->recv_rows[p] : most;
        peers += s->recv_rows[p] > 0;
    }
    s->in_parts = parts_of(s->total_recv * unit_of(d), peers);
    s->part_rows = (most + (size_t)s->in_parts - 1) / (size_t)s->in_parts;
}

static int lay_out(struct xp_divert *d)
{
    struct xp_slot *s = d->slot;
    size_t pieces = d->collective ? (size_t)d->side->size : d->ncalls, unit = unit_of(d);

    count_rows(d);
    if (!reserve_pieces(&s->out, &s->out_cap, pieces) || !reserve_pieces(&s->in, &s->in_cap, pieces) ||
        !reserve(d, s->total_send * unit, s->total_recv * unit))
        return 0;
    s->nout = s->nin = 0;
    place_all(d, XP_CALL_SEND);
    place_all(d, XP_CALL_RECV);
    cut_send(d);
    cut_recv(d);
    return 1;
}

/* ---- lossy or not ------------------------------------------------------------------------------------------------- */

static int may_be_lossy(const struct xp_divert *d, const struct xp_call *c)
{
    const struct xp_options *o = xp_options();
    size_t bytes = message_bytes(c);
    return o->row_type == c->type && !o->row_is_bytes && c->count % o->row_dim == 0 &&
           xp_rules_find(&o->rules, d->side->size, c->type, bytes, o->mode) == XP_RULE_BOUNDED;
}

static int is_bounded(const struct xp_divert *d)
{
    for (size_t i = d->first; i < d->ncalls; i++) {
        const struct xp_call *c = &d->calls[i];
        if (c->op == d->op && (d->collective || xp_divert_takes(d, c->peer, message_bytes(c))) && !may_be_lossy(d, c))
            return 0;
    }
    return 1;
}

/* ---- streams: the exchange is on the stream of its first call, after all of them and before all of them ------------ */

static int is_first_use(const struct xp_divert *d, size_t i)
{
    for (size_t j = d->first; j < i; j++)
        if (d->calls[j].op == d->op && d->calls[j].stream == d->calls[i].stream)
            return 0;
    return 1;
}

/* Orders the other streams before the main one, or after it. */
static int join_streams(const struct xp_divert *d, int after)
{
    const struct xp_gpu *g = d->side->proxy->gpu;
    cudaStream_t main_stream = d->calls[d->first].stream, last = main_stream;
    cudaEvent_t event;
    int e = xp_cudaSuccess;

    for (size_t i = d->first + 1; e == xp_cudaSuccess && i < d->ncalls; i++) {
        cudaStream_t other = d->calls[i].stream;
        if (d->calls[i].op != d->op || other == last || !is_first_use(d, i))
            continue;
        last = other;
        e = g->cudaEventCreateWithFlags(&event, xp_cudaEventDisableTiming);
        if (e != xp_cudaSuccess)
            break;
        e = g->cudaEventRecord(event, after ? main_stream : other);
        if (e == xp_cudaSuccess)
            e = g->cudaStreamWaitEvent(after ? other : main_stream, event, 0);
        g->cudaEventDestroy(event);
    }
    return e == xp_cudaSuccess;
}

/* ---- begin and finish ---------------------------------------------------------------------------------------------- */

/* The other ranks must not wait for this one: its proxy leaves the group. */
static ncclResult_t give_up(struct xp_divert *d, ncclResult_t r, const char *what)
{
    xp_side_fail(d->side, r == ncclSystemError ? XP_ERR_NO_MEMORY : XP_ERR_SYSTEM, what);
    xp_proxy_abort(d->side->proxy);
    return r;
}

static int enter_device(const struct xp_divert *d, int *previous)
{
    const struct xp_gpu *g = d->side->proxy->gpu;
    *previous = -1;
    return g->cudaGetDevice(previous) == xp_cudaSuccess &&
           (*previous == d->side->device || g->cudaSetDevice(d->side->device) == xp_cudaSuccess);
}

static void leave_device(const struct xp_divert *d, int previous)
{
    if (previous >= 0 && previous != d->side->device)
        d->side->proxy->gpu->cudaSetDevice(previous);
}

/* Copies what of the pieces lies in [from, to) of the staging buffer: out of the user's memory, or into it. */
static int copy_range(const struct xp_divert *d, int out, size_t from, size_t to)
{
    const struct xp_slot *s = d->slot;
    const struct xp_piece *pieces = out ? s->out : s->in;
    cudaStream_t stream = d->calls[d->first].stream;
    int e = xp_cudaSuccess;

    for (size_t i = 0; e == xp_cudaSuccess && i < (out ? s->nout : s->nin); i++) {
        size_t begin = pieces[i].offset > from ? pieces[i].offset : from, end = pieces[i].offset + pieces[i].bytes;
        end = end < to ? end : to;
        if (begin >= end)
            continue;
        char *user = pieces[i].user + (begin - pieces[i].offset), *staged = (out ? s->send : s->recv) + begin;
        e = d->side->proxy->gpu->cudaMemcpyAsync(out ? staged : user, out ? user : staged, end - begin, xp_cudaMemcpyDefault, stream);
    }
    return e == xp_cudaSuccess;
}

static size_t first_row(const size_t *rows, int peer)
{
    size_t first = 0;
    for (int p = 0; p < peer; p++)
        first += rows[p];
    return first;
}

static int copy_out(const struct xp_divert *d, int part)
{
    const struct xp_slot *s = d->slot;
    size_t unit = unit_of(d);
    int ok = 1;

    if (s->out_parts == 1)
        return copy_range(d, 1, 0, s->total_send * unit);
    for (int i = part ? s->part_end[part - 1] : 0; ok && i < s->part_end[part]; i++) {
        int peer = (d->side->rank + 1 + i) % d->side->size;
        size_t at = first_row(s->send_rows, peer);
        ok = copy_range(d, 1, at * unit, (at + s->send_rows[peer]) * unit);
    }
    return ok;
}

static int copy_in(const struct xp_divert *d, int part)
{
    const struct xp_slot *s = d->slot;
    size_t unit = unit_of(d), at = 0;
    int ok = 1;

    if (s->in_parts == 1)
        return copy_range(d, 0, 0, s->total_recv * unit);
    for (int p = 0; ok && p < d->side->size; at += s->recv_rows[p++]) {
        size_t begin = (size_t)part * s->part_rows, end = begin + s->part_rows;
        end = end < s->recv_rows[p] ? end : s->recv_rows[p];
        if (begin < end)
            ok = copy_range(d, 0, (at + begin) * unit, (at + end) * unit);
    }
    return ok;
}

static ncclResult_t fill(struct xp_divert *d)
{
    struct xp_proxy *p = d->side->proxy;
    cudaStream_t stream = d->calls[d->first].stream;
    struct xp_slot *s;

    d->slot = s = xp_proxy_next(p);
    if (!s)
        return give_up(d, ncclUnhandledCudaError, "an earlier exchange failed on the device");
    s->klass = 2 * d->calls[d->first].type + d->collective;
    s->collective = d->collective;
    s->bounded = is_bounded(d);
    if (!lay_out(d))
        return give_up(d, ncclSystemError, "no memory for the staging buffers of an exchange");
    if (!join_streams(d, 0))
        return give_up(d, ncclUnhandledCudaError, "the streams of an exchange cannot be joined");
    for (int k = 0; k < s->out_parts; k++) {
        if (!copy_out(d, k))
            return give_up(d, ncclUnhandledCudaError, "a copy to the staging buffer failed");
        if (p->gpu->cudaEventRecord(s->packed[k], stream) != xp_cudaSuccess)
            return give_up(d, ncclUnhandledCudaError, "cudaEventRecord failed");
    }
    xp_proxy_submit(p, s);
    return ncclSuccess;
}

/* The work on the communicator's device; the caller's is kept. */
static ncclResult_t on_device(struct xp_divert *d, ncclResult_t (*work)(struct xp_divert *d))
{
    int previous;
    ncclResult_t r = enter_device(d, &previous) ? work(d) : give_up(d, ncclUnhandledCudaError, "cudaSetDevice failed");
    leave_device(d, previous);
    return r;
}

ncclResult_t xp_divert_begin(struct xp_divert *d)
{
    return on_device(d, fill);
}

static ncclResult_t unpack(struct xp_divert *d)
{
    struct xp_proxy *p = d->side->proxy;
    const struct xp_gpu *g = p->gpu;
    cudaStream_t stream = d->calls[d->first].stream;
    struct xp_slot *s = d->slot;

    for (int k = 0; k < s->in_parts; k++) {
        uint32_t value = s->number - (uint32_t)(s->in_parts - 1 - k);
        if (!g->cuStreamWaitValue32 ||
            g->cuStreamWaitValue32(stream, s->flag_address, value, xp_CU_STREAM_WAIT_VALUE_GEQ) != xp_cudaSuccess)
            xp_proxy_wait(p, s, value);
        if (!copy_in(d, k))
            return give_up(d, ncclUnhandledCudaError, "a copy from the staging buffer failed");
    }
    if (g->cudaEventRecord(s->done, stream) != xp_cudaSuccess || !join_streams(d, 1))
        return give_up(d, ncclUnhandledCudaError, "the streams of an exchange cannot be joined");
    s->pending = 1;
    return ncclSuccess;
}

ncclResult_t xp_divert_finish(struct xp_divert *d)
{
    return on_device(d, unpack);
}
