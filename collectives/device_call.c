/*
 * device_call.c - what the exchanges of rows in device memory share (device_call.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/device_call.h"

#define ATTRIBUTE_MULTIPROCESSORS 16
#define ATTRIBUTE_SHARED_BYTES 97

/* Some calls, looking at events among them, are refused to threads beside a capture, and end it, unless the thread says that it knows. */
struct xp_device_before xp_device_enter(const struct xp_device *dev, int device)
{
    struct xp_device_before before = {device, XP_DEVICE_RELAXED};
    dev->get(&before.device);
    if (before.device != device)
        dev->set(device);
    dev->captures(&before.captures);
    return before;
}

void xp_device_leave(const struct xp_device *dev, int device, struct xp_device_before before)
{
    dev->captures(&before.captures);
    if (before.device != device)
        dev->set(before.device);
}

xp_status xp_device_takes(const struct xp_shape *s, const char *what, void *stream)
{
    int capturing = 0;
    struct xp_device_before before = xp_device_enter(s->device, s->device_number);
    int e = s->device->stream_capturing(stream, &capturing);
    xp_device_leave(s->device, s->device_number, before);
    if (capturing || e == XP_DEVICE_CAPTURE_IMPLICIT)
        return xp_error(s->comm, XP_ERR_STATE, "%s: rank %d: the stream is being captured in a graph, but an exchange needs the host", what, s->comm->rank);
    return e ? xp_error(s->comm, XP_ERR_INVALID_ARG, "%s: rank %d: the stream: CUDA: %s", what, s->comm->rank, s->device->text(e)) : XP_OK;
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

int xp_device_lanes_create(const struct xp_device *dev, struct xp_device_lanes *l, int both)
{
    int e = dev->stream_create(&l->in);
    if (!e && both)
        e = dev->stream_create(&l->out);
    if (!e)
        e = dev->event_create(&l->entered);
    return e ? e : dev->event_create(&l->left);
}

int xp_device_lanes_enter(const struct xp_device *dev, const struct xp_device_lanes *l, void *caller)
{
    int e = dev->event_record(l->entered, caller);
    if (!e)
        e = dev->stream_wait(l->in, l->entered);
    return e || !l->out ? e : dev->stream_wait(l->out, l->entered);
}

int xp_device_lanes_leave(const struct xp_device *dev, const struct xp_device_lanes *l, void *caller)
{
    int e = dev->event_record(l->left, l->in);
    return e ? e : dev->stream_wait(caller, l->left);
}

void xp_device_lanes_destroy(const struct xp_device *dev, struct xp_device_lanes *l)
{
    if (l->in) {
        dev->stream_synchronize(l->in);
        dev->stream_destroy(l->in);
    }
    if (l->out)
        dev->stream_destroy(l->out);
    if (l->entered)
        dev->event_destroy(l->entered);
    if (l->left)
        dev->event_destroy(l->left);
}

xp_status xp_device_join(const struct xp_shape *s, const struct xp_call *c, const struct xp_device_lanes *l)
{
    int e = xp_device_lanes_enter(s->device, l, c->stream);
    if (!e)
        e = copy_own_rows(s, c, l->in);
    return e ? xp_device_failed(s, e, "joining the caller's stream") : XP_OK;
}
