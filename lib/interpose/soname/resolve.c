/*
 * resolve.c - where a trampoline goes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/real.h"
#include "lib/interpose/soname/next.h"

extern void *xp_trampoline_slots[];
extern const char *const xp_trampoline_names[];

void *xp_trampoline_resolve(unsigned index);
extern const int *const xp_trampoline_next;

/* A reference, so that the library stays among those that are needed. */
const int *const xp_trampoline_next = &xp_nccl_next;

/* For a function that the real NCCL does not have, or when there is no real NCCL. */
static ncclResult_t missing(void)
{
    return ncclInvalidUsage;
}

/* Called by the trampolines' common part with all registers kept. What is not found is looked for again the next time. */
void *xp_trampoline_resolve(unsigned index)
{
    void *fn = xp_real_lookup(xp_trampoline_names[index]);
    if (!fn)
        return (void *)missing;
    __atomic_store_n(&xp_trampoline_slots[index], fn, __ATOMIC_RELEASE);
    return fn;
}
