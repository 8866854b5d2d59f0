/*
 * qblock_avx2.c - blocks that the AVX2 quantiser has no registers for: FP8 and the search of steps, compiled for AVX2
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"

#define XP_VARIANT(name) name##_avx2
#include "hash/qblock_tmpl.c"
