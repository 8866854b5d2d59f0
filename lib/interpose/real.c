/*
 * real.c - finds the NCCL below us
 *
 * In order: RTLD_NEXT, which fails when NCCL came in as a dependency of something that was opened RTLD_LOCAL (Python's
 * extension modules); the libnccl.so.2 that is already loaded; CROSSPRESS_NCCL_PATH; and, when this library itself goes by the
 * name libnccl.so.2 and so hides the real one, the places where a real one usually lies (real_path.c). Failure is not remembered:
 * NCCL may be loaded later.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/real.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "lib/interpose/real_path.h"

static const char *const names[XP_REAL_COUNT] = {
#define F(name) #name,
    XP_REAL_FUNCTIONS(F)
#undef F
};

static _Atomic(void *) found[XP_REAL_COUNT];
static _Atomic(void *) opened; /* the library opened by path */
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;

static const void *own_base(void)
{
    Dl_info info;
    return dladdr((const void *)own_base, &info) ? info.dli_fbase : NULL;
}

/* A function that is not one of ours, or NULL. */
static void *foreign(void *fn)
{
    Dl_info info;
    if (!fn || !dladdr(fn, &info) || info.dli_fbase == own_base())
        return NULL;
    return fn;
}

static void *in_handle(void *handle, const char *name)
{
    char twin[80];
    void *fn = foreign(dlsym(handle, name));
    if (fn || name[0] == 'p')
        return fn;
    snprintf(twin, sizeof twin, "p%s", name);
    return foreign(dlsym(handle, twin));
}

static void *in_loaded(const char *name)
{
    void *handle = dlopen("libnccl.so.2", RTLD_LAZY | RTLD_NOLOAD), *fn;
    if (!handle)
        return NULL;
    fn = in_handle(handle, name);
    dlclose(handle); /* the library stays: someone else opened it */
    return fn;
}

static void *in_opened(const char *name)
{
    void *handle = atomic_load_explicit(&opened, memory_order_acquire);
    if (!handle) {
        pthread_mutex_lock(&open_lock);
        handle = atomic_load(&opened);
        if (!handle)
            atomic_store(&opened, handle = xp_real_open(own_base()));
        pthread_mutex_unlock(&open_lock);
    }
    return handle ? in_handle(handle, name) : NULL;
}

void *xp_real_lookup(const char *name)
{
    void *fn = foreign(dlsym(RTLD_NEXT, name));
    if (!fn)
        fn = in_loaded(name);
    return fn ? fn : in_opened(name);
}

void *xp_real_find(enum xp_real_fn f)
{
    void *fn = atomic_load_explicit(&found[f], memory_order_acquire);
    if (!fn && (fn = xp_real_lookup(names[f])))
        atomic_store_explicit(&found[f], fn, memory_order_release);
    return fn;
}

void xp_real_path(char *path, size_t size)
{
    Dl_info info;
    void *fn = xp_real_find(XP_REAL_ncclGetVersion);
    snprintf(path, size, "%s", fn && dladdr(fn, &info) && info.dli_fname ? info.dli_fname : "");
}
