/*
 * unroll.h - arrays of vectors live in registers only when every loop over them is unrolled
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_X86_UNROLL_H
#define XP_HASH_X86_UNROLL_H

#ifdef __clang__
#define XP_UNROLL _Pragma("clang loop unroll(full)")
#else
#define XP_UNROLL _Pragma("GCC unroll 32")
#endif

#define XP_INLINE static inline __attribute__((always_inline))

/* A vector that the compiler must keep: GCC else builds constants anew, from a scalar register, wherever they are used. */
#define XP_KEEP(v) __asm__("" : "+v"(v))

#endif
