/*
 * next.h - what keeps the empty library of next.c among the replacement's own
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_NCCL_NEXT_H
#define XP_NCCL_NEXT_H

__attribute__((visibility("default"))) extern const int xp_nccl_next;

#endif
