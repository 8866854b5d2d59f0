/*
 * wire_message.h - filled buffers and single messages, for cases that run over a transport
 *
 * Buffers come from mmap with an inaccessible page behind them: a byte too far, or a byte after a buffer was given back, is a crash.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WIRE_MESSAGE_H
#define WIRE_MESSAGE_H

#include "tests/harness/wires.h"

#define WIRE_WAIT 15.0
#define MIB ((size_t)1 << 20)

struct area {
    unsigned char *map, *at; /* at: n bytes that end where the guard page begins */
    size_t mapped, n;
};

struct area area_take(size_t n);
void area_give_back(struct area *a);
void area_fill(struct area *a, uint64_t key);
/* The first byte of the first len that is not as filled, or -1. */
long area_wrong(const struct area *a, uint64_t key, size_t len);
uint64_t wire_key(int from, int to, uint64_t tag);
int wire_send_filled(struct wire *w, int to, enum xp_lane lane, uint64_t tag, size_t len);
int wire_check(struct wire *w, struct xp_op *op, const struct area *a, int from, uint64_t tag, size_t len);
int wire_recv_filled(struct wire *w, int from, enum xp_lane lane, uint64_t tag, size_t len, size_t cap);
/* Ends with every rank having heard of every other: all that was sent has arrived. */
int wire_meet(struct wire *w, uint64_t tag);

#endif
