/*
 * xp_info.c - what this build and this machine can do, and every setting with its value
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "config.h"
#include "collectives/algo.h"
#include "hash/codec.h"
#include "lib/comm.h"
#include "lib/device.h"

#ifdef __clang__
#define COMPILER "" /* its version text begins with its name */
#else
#define COMPILER "gcc "
#endif

#ifdef __OPTIMIZE__
#define OPTIMISED 1
#else
#define OPTIMISED 0
#endif

static const char usage[] = "usage: xp_info\n"
                            "Prints version and build, CPU, transports, codecs, algorithms, and all settings.\n";

static void print_build(void)
{
    char why[100];

    printf("crosspress %s\n", xp_version());
    printf("  compiler    %s%s, %s\n", COMPILER, __VERSION__, OPTIMISED ? "optimised" : "not optimised");
    printf("  ucx         %s\n", XP_HAVE_UCX ? "yes (loaded when a comm needs it)" : "no");
    printf("  cuda        %s\n", xp_device_find(why, sizeof(why)) ? "yes" : why);
    printf("  x86 kernels %s\n", XP_ARCH_X86_64 ? "yes" : "no");
}

/* The kernels that a plan would use under CROSSPRESS_ISA. */
static void print_cpu(const struct xp_params *p)
{
    int asked = xp_isa_parse(p->isa);
    enum xp_isa best = xp_cpu_isa();

    printf("\ncpu\n");
    printf("  flags       c%s%s%s\n", best >= XP_ISA_AVX2 ? " avx2" : "", best >= XP_ISA_AVX512 ? " avx512" : "",
           best >= XP_ISA_AVX512BF16 ? " avx512bf16" : "");
    printf("  isa chosen  %s\n", xp_isa_name(asked >= 0 && asked < (int)best ? (enum xp_isa)asked : best));
}

static void print_transport(const struct xp_transport_ops *t)
{
    char why[200] = "";
    int there = t->available(why, sizeof(why));

    printf("  %-11s %s%s%s%s\n", t->name, t->about, there ? "" : " [not available: ", there ? "" : why, there ? "" : "]");
}

static void print_transports(void)
{
    printf("\ntransports\n");
    for (const struct xp_transport_ops *const *t = xp_transport_list(); *t; t++)
        print_transport(*t);
    print_transport(&xp_transport_nccl);
}

static void print_codecs(void)
{
    const char *name, *about;

    printf("\ncodecs\n");
    for (unsigned i = 0; (name = xp_codec_name(i, &about)) != NULL; i++)
        printf("  %-11s %s\n", name, about);
}

static void print_algorithms(void)
{
    printf("\nalgorithms\n");
    for (const struct xp_algo_ops *const *a = xp_algo_list(); *a; a++)
        printf("  %-11s %s\n", (*a)->name, (*a)->about);
}

static void print_settings(const struct xp_params *p)
{
    printf("\nsettings: name, value (where it comes from), what is accepted: help\n");
    for (const struct xp_param_info *t = xp_params_table(); t->name; t++) {
        char value[160];
        const char *source;

        xp_params_show(p, t->name, value, sizeof(value), &source);
        printf("  CROSSPRESS_%-10s %s (%s), %s: %s\n", t->name, value[0] ? value : "-", source, t->type, t->help);
    }
}

static void warn(void *user, const char *text)
{
    (void)user;
    fprintf(stderr, "xp_info: %s\n", text);
}

int main(int argc, char **argv)
{
    struct xp_params params;
    char err[256];

    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(usage, stdout);
        return 0;
    }
    if (argc > 1) {
        fprintf(stderr, "xp_info: unknown argument \"%s\"\n%s", argv[1], usage);
        return 2;
    }
    if (xp_params_read(&params, warn, NULL, err, sizeof(err)) != XP_OK) {
        fprintf(stderr, "xp_info: %s\n", err);
        return 2;
    }
    print_build();
    print_cpu(&params);
    print_transports();
    print_codecs();
    print_algorithms();
    print_settings(&params);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "xp_info: cannot write to stdout\n");
        return 1;
    }
    return 0;
}
