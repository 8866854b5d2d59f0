/*
 * ucx_lib.c - libucp, loaded when it is first needed
 *
 * Left to itself, UCX takes over SEGV, BUS, FPE, ILL and HUP, patches mmap and munmap, and prints to stdout, all from the moment
 * it is loaded. It reads its environment in its constructors, so these switches must be there at that moment, and only then.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/transport/ucx_lib.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libucp.so.0"
#define SWITCHES (sizeof switches / sizeof switches[0])

static const struct {
    const char *name, *value;
    int keep; /* what the user has set is left */
} switches[] = {
    {"UCX_HANDLE_ERRORS", "none", 0},
    {"UCX_DEBUG_SIGNO", "", 0},
    {"UCX_LOG_LEVEL", "fatal", 1},
    {"UCX_MEM_EVENTS", "n", 1},
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct xp_ucx_lib lib;
static int loaded;
static char failure[256];

/* Without RDMA there is no registration cache, and nothing else needs to know about munmap. */
static int wanted(size_t i)
{
    if (strcmp(switches[i].name, "UCX_MEM_EVENTS") == 0 && access("/sys/class/infiniband", F_OK) == 0)
        return 0;
    return !(switches[i].keep && getenv(switches[i].name) != NULL);
}

static void *load_quietly(void)
{
    char *before[SWITCHES] = {NULL};
    int set[SWITCHES] = {0};

    for (size_t i = 0; i < SWITCHES; i++) {
        const char *old = getenv(switches[i].name);

        if (!wanted(i))
            continue;
        before[i] = old != NULL ? strdup(old) : NULL;
        set[i] = setenv(switches[i].name, switches[i].value, 1) == 0;
    }
    void *h = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    for (size_t i = 0; i < SWITCHES; i++) {
        if (set[i] && before[i] != NULL)
            setenv(switches[i].name, before[i], 1);
        else if (set[i])
            unsetenv(switches[i].name);
        free(before[i]);
    }
    return h;
}

static void load(void)
{
    void *h = dlopen(LIBRARY, RTLD_NOW | RTLD_NOLOAD);

    if (h == NULL)
        h = load_quietly();
    if (h == NULL) {
        const char *e = dlerror();

        snprintf(failure, sizeof failure, "%s not found: %s", LIBRARY, e != NULL ? e : "no reason given");
        return;
    }
#define XP_UCX_LOOK_UP(name)                                                                                           \
    *(void **)&lib.name = dlsym(h, #name);                                                                             \
    if (lib.name == NULL) {                                                                                            \
        snprintf(failure, sizeof failure, "%s has no %s", LIBRARY, #name);                                             \
        return;                                                                                                        \
    }
    XP_UCX_SYMBOLS(XP_UCX_LOOK_UP)
    loaded = 1;
}

const struct xp_ucx_lib *xp_ucx_load(char *why, size_t why_size)
{
    pthread_once(&once, load);
    if (loaded)
        return &lib;
    snprintf(why, why_size, "%s", failure);
    return NULL;
}
