/*
 * transport_cases.c - the cases of tests/harness/wire_cases.c over one transport, as a plain program
 *
 *     transport_cases shm|ucx threads|processes|unreadable [CASE ...]
 *
 * Also what the sanitizers are pointed at. unreadable: processes that may not read each other's memory.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tests/harness/clock.h"
#include "tests/harness/wire_cases.h"

/* No privileges, and not dumpable: process_vm_readv is refused. */
static void become_unreadable(int rank)
{
    if (getuid() == 0 && (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0))
        exit(77);
    if (prctl(PR_SET_DUMPABLE, 0) != 0)
        exit(1);
}

static const struct xp_transport_ops *find(const char *name)
{
    for (const struct xp_transport_ops *const *o = xp_transport_list(); *o != NULL; o++) {
        if (strcmp((*o)->name, name) == 0)
            return *o;
    }
    return NULL;
}

static int wanted(const char *name, char **names)
{
    if (*names == NULL)
        return 1;
    for (; *names != NULL; names++) {
        if (strcmp(*names, name) == 0)
            return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct xp_transport_ops *ops = argc > 2 ? find(argv[1]) : NULL;
    int passed = 0, failed = 0;
    char why[256];

    if (ops == NULL)
        return fprintf(stderr, "usage: transport_cases shm|ucx threads|processes|unreadable [CASE ...]\n"), 1;
    if (!ops->available(why, sizeof(why)))
        return printf("skipped: %s\n", why), 77;
    int threads = strcmp(argv[2], "threads") == 0;
    for (int i = 0; wire_cases[i].name != NULL; i++) {
        if (!wanted(wire_cases[i].name, argv + 3) || (threads && wire_cases[i].processes))
            continue;
        if (strcmp(wire_cases[i].name, "huge") == 0 && getenv("XP_TEST_HUGE") == NULL) {
            printf("%-28s skipped: XP_TEST_HUGE is not set\n", wire_cases[i].name);
            continue;
        }
        double start = clock_now();
        const char *failure = wire_case_run(ops, i, threads, strcmp(argv[2], "unreadable") == 0 ? become_unreadable : NULL);
        printf("%-28s %s (%.2f s)\n", wire_cases[i].name, failure != NULL ? failure : "ok", clock_now() - start);
        fflush(stdout);
        passed += failure == NULL;
        failed += failure != NULL;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return passed == 0 || failed > 0;
}
