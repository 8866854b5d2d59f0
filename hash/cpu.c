/*
 * cpu.c - what this CPU and its operating system can run
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config.h"
#include "hash/kernels.h"

#if XP_ARCH_X86_64
#include <cpuid.h>

/* State components the operating system saves (XCR0): SSE and AVX halves; AVX-512 masks and both zmm parts. */
#define XCR0_YMM 0x06u
#define XCR0_ZMM 0xe6u

static unsigned xgetbv0(void)
{
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

static int has_all(unsigned reg, unsigned mask)
{
    return (reg & mask) == mask;
}

enum xp_isa xp_cpu_isa(void)
{
    /* The flags our static libraries are compiled with (hash/meson.build). */
    const unsigned leaf1 = bit_FMA | bit_SSE4_1 | bit_SSSE3 | bit_AVX | bit_F16C | bit_OSXSAVE | bit_POPCNT;
    const unsigned leaf7_avx2 = bit_AVX2 | bit_BMI | bit_BMI2;
    const unsigned leaf7_avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    unsigned a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_all(c, leaf1))
        return XP_ISA_C;
    const unsigned xcr0 = xgetbv0();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has_all(b, leaf7_avx2) || !has_all(xcr0, XCR0_YMM))
        return XP_ISA_C;
    if (!has_all(b, leaf7_avx512) || !has_all(xcr0, XCR0_ZMM))
        return XP_ISA_AVX2;
    if (!has_all(c, bit_AVX512VNNI | bit_AVX512VBMI | bit_AVX512VBMI2 | bit_GFNI) || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !has_all(a, bit_AVX512BF16))
        return XP_ISA_AVX512;
    return XP_ISA_AVX512BF16;
}
#else
enum xp_isa xp_cpu_isa(void)
{
    return XP_ISA_C;
}
#endif
