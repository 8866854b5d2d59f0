/*
 * device_call.h - what the exchanges of rows in device memory share
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_DEVICE_CALL_H
#define XP_DEVICE_CALL_H

#include "collectives/algo.h"
#include "cuda/cuda_kernels.h"
#include "lib/device.h"

/* Everything happens on the device of the plan, and goes on while the program captures another stream, in this thread or another; the
 * caller's choices, which enter returns, are put back. */
struct xp_device_before {
    int device, captures;
};
struct xp_device_before xp_device_enter(const struct xp_device *dev, int device);
void xp_device_leave(const struct xp_device *dev, int device, struct xp_device_before before);

/* Whether the shape's device would take work on this stream: XP_ERR_STATE and a text where the work would become part of a graph, which an
 * exchange cannot be. For the time before anything is begun. */
xp_status xp_device_takes(const struct xp_shape *s, const char *what, void *stream);

/* What launches must know of the current device; its stream is left alone. 0 or a cudaError_t. */
int xp_device_describe(const struct xp_device *dev, struct xp_gpu *g);

/* Whether rows to and from this peer are coded: those between nodes, where the plan codes any. */
int xp_device_codes(const struct xp_shape *s, int peer);

/* An error of CUDA, said with what was being done. */
xp_status xp_device_failed(const struct xp_shape *s, int error, const char *what);

/* The plan's own streams, and their order with the caller's: what they are given comes behind what the caller's stream was given before the
 * call, and it goes on behind what `in` was given. */
struct xp_device_lanes {
    void *in, *out;       /* streams; out: NULL where one does everything */
    void *entered, *left; /* events: of the caller's stream at the beginning, of `in` at the end */
};
/* 0 or a cudaError_t, as the next two. both: with `out`. */
int xp_device_lanes_create(const struct xp_device *dev, struct xp_device_lanes *l, int both);
int xp_device_lanes_enter(const struct xp_device *dev, const struct xp_device_lanes *l, void *caller);
int xp_device_lanes_leave(const struct xp_device *dev, const struct xp_device_lanes *l, void *caller);
/* Waits for `in`: a call that is over may still be copying to its rows. */
void xp_device_lanes_destroy(const struct xp_device *dev, struct xp_device_lanes *l);

/* Begins a call. The rank's own rows are copied by `in`. */
xp_status xp_device_join(const struct xp_shape *s, const struct xp_call *c, const struct xp_device_lanes *l);

#endif
