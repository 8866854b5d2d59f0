/*
 * test_cpu.c - names of instruction sets, and what a table of kernels holds
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/kernels.h"

#include <criterion/criterion.h>
#include <string.h>

Test(cpu, names_and_parsing_agree)
{
    for (int isa = XP_ISA_C; isa <= XP_ISA_BEST; isa++)
        cr_assert_eq(xp_isa_parse(xp_isa_name((enum xp_isa)isa)), isa <= (int)xp_cpu_isa() ? isa : -2);
}

Test(cpu, automatic_is_the_best)
{
    cr_assert_eq(xp_isa_parse(NULL), (int)xp_cpu_isa());
    cr_assert_eq(xp_isa_parse("auto"), (int)xp_cpu_isa());
}

Test(cpu, unknown_names_are_refused)
{
    static const char *const wrong[] = {"", "AVX2", "avx", "avx-512", "sse2", "c "};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        cr_assert_eq(xp_isa_parse(wrong[i]), -1, "'%s'", wrong[i]);
    cr_assert_str_eq(xp_isa_name((enum xp_isa)99), "unknown");
}

#if defined(__x86_64__)
/* The compiler's own detection covers the CPU flags and the operating system's part. */
Test(cpu, agrees_with_the_compiler)
{
    __builtin_cpu_init();
    if (xp_cpu_isa() >= XP_ISA_AVX2)
        cr_assert(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
    if (xp_cpu_isa() >= XP_ISA_AVX512)
        cr_assert(__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"));
    else
        cr_assert(!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")));
    cr_assert_eq(xp_cpu_isa() >= XP_ISA_AVX512BF16, __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
                                                        __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("gfni"));
}
#endif

Test(cpu, every_table_is_complete)
{
    typedef void (*any_fn)(void);
    const size_t first = offsetof(struct xp_kernels, energy);

    for (int isa = XP_ISA_C; isa <= XP_ISA_BEST; isa++) {
        struct xp_kernels k;
        xp_kernels_init(&k, (enum xp_isa)isa);
        cr_assert_eq(k.size, sizeof(k));
        cr_assert_str_eq(k.isa, xp_isa_name(isa < (int)xp_cpu_isa() ? (enum xp_isa)isa : xp_cpu_isa()));
        for (size_t at = first; at < sizeof(k); at += sizeof(any_fn)) {
            any_fn f;
            memcpy(&f, (const char *)&k + at, sizeof(f));
            cr_assert(f != NULL, "%s has no kernel in slot %zu", k.isa, (at - first) / sizeof(f));
        }
    }
}
