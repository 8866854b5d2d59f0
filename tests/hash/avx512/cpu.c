/*
 * cpu.c - takes the place of hash/cpu.c: with the emulator every instruction set is there
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/kernels.h"

/* The emulator itself needs AVX2, as half a vector is left to the hardware. */
enum xp_isa xp_cpu_isa(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? XP_ISA_BEST : XP_ISA_C;
}
