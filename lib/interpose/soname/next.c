/*
 * next.c - an empty library that stands between the libnccl.so.2 replacement and the real one
 *
 * It names real/libnccl.so.2 beside itself as an auxiliary filter: where that file (or link) exists, the loader puts it right behind
 * the replacement, and functions of a later NCCL, which the replacement has never heard of, are found there. Where it does not
 * exist nothing happens.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/soname/next.h"

const int xp_nccl_next = 1;
