/*
 * qblock_avx512.c - FP8 and the search of steps, compiled for AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"

#define XP_VARIANT(name) name##_avx512
#include "hash/qblock_tmpl.c"
