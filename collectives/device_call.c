/*
 * device_call.c - what the exchanges of rows in device memory share (device_call.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/device_call.h"

#define ATTRIBUTE_MULTIPROCESSORS 16
#define ATTRIBUTE_SHARED_BYTES 97

int xp_device_enter(const struct xp_device *dev, int device)
{
    int before = device;
    dev->get(&before);
    if (before != device)
        dev->set(device);
    return before;
}

void xp_device_leave(const struct xp_device *dev, int device, int before)
{
    if (before != device)
        dev->set(before);
}

int xp_device_describe(const struct xp_device *dev, struct xp_gpu *g)
{
    int device = 0, sms = 0, shared = 0, e = dev->get(&device);
    if (!e)
        e = dev->attribute(&sms, ATTRIBUTE_MULTIPROCESSORS, device);
    if (!e)
        e = dev->attribute(&shared, ATTRIBUTE_SHARED_BYTES, device);
    g->sms = (unsigned)sms;
    g->shared_bytes = (size_t)shared;
    return e;
}

int xp_device_codes(const struct xp_shape *s, int peer)
{
    return s->coder && s->comm->node_of[peer] != s->comm->node;
}

xp_status xp_device_failed(const struct xp_shape *s, int error, const char *what)
{
    return xp_error(s->comm, XP_ERR_SYSTEM, "alltoallv: rank %d: %s: CUDA: %s", s->comm->rank, what, s->device->text(error));
}

static int copy_own_rows(const struct xp_shape *s, const struct xp_call *c, void *stream)
{
    int me = s->comm->rank;
    size_t from = 0, to = 0;
    for (int i = 0; i < me; i++) {
        from += c->send_rows[i];
        to += c->recv_rows[i];
    }
    if (c->send_rows[me] != c->recv_rows[me]) /* counts.c reports it */
        return 0;
    return s->device->copy((char *)c->recv + to * s->row_bytes, (const char *)c->send + from * s->row_bytes, c->send_rows[me] * s->row_bytes, stream);
}

xp_status xp_device_join(const struct xp_shape *s, const struct xp_call *c, void *entered, void *stream, void *other)
{
    const struct xp_device *dev = s->device;
    int capturing = 0, e = dev->stream_capturing(c->stream, &capturing);
    if (capturing)
        return xp_error(s->comm, XP_ERR_STATE, "alltoallv: rank %d: the stream is being captured, but this exchange needs the host", s->comm->rank);
    if (!e)
        e = dev->event_record(entered, c->stream);
    if (!e)
        e = dev->stream_wait(stream, entered);
    if (!e && other)
        e = dev->stream_wait(other, entered);
    if (!e)
        e = copy_own_rows(s, c, stream);
    return e ? xp_device_failed(s, e, "joining the caller's stream") : XP_OK;
}
