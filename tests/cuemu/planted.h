/*
 * planted.h - the bugs of planted.cu
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUEMU_PLANTED_H
#define XP_CUEMU_PLANTED_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum planted_bug {
    PLANTED_NO_BARRIER,
    PLANTED_NO_BARRIER_BEFORE_WRITE,
    PLANTED_NO_SYNCWARP,
    PLANTED_RACE,
    PLANTED_NO_FENCE,
    PLANTED_OVERRUN,
    PLANTED_SHARED_OVERRUN,
    PLANTED_HOST_POINTER,
    PLANTED_UNWRITTEN,
    PLANTED_UNWRITTEN_GLOBAL,
    PLANTED_WRONG_MASK,
    PLANTED_ABSENT_LANE,
    PLANTED_DIVERGED_BARRIER,
    PLANTED_DEADLOCK,
    /* Two right kernels: fills a; b = a + 1. */
    PLANTED_FILL,
    PLANTED_ADD_ONE
};

/* a: 192 words that nothing wrote; b: 64 words of zeros, c: 128 words. Launches the kernel with its bug, or its right form. */
int planted_launch(enum planted_bug bug, bool wrong, void *stream, unsigned *a, unsigned *b, unsigned *c);

#ifdef __cplusplus
}
#endif

#endif
