/*
 * agree.h - what the ranks of a joined communicator settle among one another, without a call that waits for another rank's
 *
 * Whether an exchange is diverted must come out alike on all ranks. Exchanges are counted; the threads of the ranks agree on what
 * changes and from which exchange on: the first that none of them has issued yet. While that number is on its way (all threads have
 * arrived by then: it takes as long as a message and its answer) a calling thread that would issue another exchange waits.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_AGREE_H
#define XP_AGREE_H

#include "lib/interpose/proxy.h"

#define XP_AGREE_JOIN (-1)

/* For the calling thread: the number of the next exchange, which is of this class; what has been agreed for it is in force.
 * divisor: of its messages, while the class has no unit. Where the exchange marked last is over, it waits for the agreement that this one
 * brought about, which is near then. */
uint64_t xp_agree_turn(struct xp_proxy *p, int klass, uint64_t divisor);

/* Marks the exchange that has just been enqueued on this stream. */
void xp_agree_mark(struct xp_proxy *p, cudaStream_t stream);

/* Asks the thread for an agreement about a class, after the exchanges that were issued, unless one is on its way. Collective. */
ncclResult_t xp_agree_request(struct xp_proxy *p, int klass);

/* The thread's part: unit and verdict of a class, whose pace is this (timing.h), or that the ranks have joined. Collective. */
xp_status xp_agree(struct xp_proxy *p, int klass, const double pace[2]);

/* Bytes of a row of messages with this common divisor. */
size_t xp_agree_unit(uint64_t divisor);

/* The greatest common divisor; of 0 and a: a. */
uint64_t xp_gcd(uint64_t a, uint64_t b);

#endif
