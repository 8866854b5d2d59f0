/*
 * qblock_avx512.c - blocks that the AVX-512 quantiser has no registers for: tails and FP8, compiled for AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"

#define XP_VARIANT(name) name##_avx512
#include "hash/qblock_tmpl.c"
