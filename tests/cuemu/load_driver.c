/*
 * load_driver.c - brings libcuda.so.1 of the double into the process, as CUDA's runtime brings the driver
 *
 * Only in the shared library, which knows where it lies. CUEMU_DRIVER=0: not at all.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((constructor)) static void load_driver(void)
{
    const char *wanted = getenv("CUEMU_DRIVER");
    char path[4096];
    Dl_info self;

    if ((wanted && strcmp(wanted, "0") == 0) || !dladdr((void *)load_driver, &self) || !strrchr(self.dli_fname, '/'))
        return;
    snprintf(path, sizeof path, "%.*s/libcuda.so.1", (int)(strrchr(self.dli_fname, '/') - self.dli_fname), self.dli_fname);
    dlopen(path, RTLD_LAZY | RTLD_LOCAL);
}
