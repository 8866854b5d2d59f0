/*
 * real_path.c - opens the real libnccl.so.2 by its path
 *
 * A path with a slash is never matched against names of loaded libraries, so it finds the real one even when this library goes
 * by the name libnccl.so.2. Looked at, in order: CROSSPRESS_NCCL_PATH (a file or its folder); real/libnccl.so.2 beside this
 * library; the NVIDIA wheel beside a loaded libtorch; the folders of LD_LIBRARY_PATH; the usual system folders.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/real_path.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SONAME "libnccl.so.2"
#define PATH_SIZE 4096

/* The real library's calls to its own functions stay inside it. AddressSanitizer cannot live with that flag. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OPEN_FLAGS (RTLD_LAZY | RTLD_LOCAL)
#else
#define OPEN_FLAGS (RTLD_LAZY | RTLD_LOCAL | RTLD_DEEPBIND)
#endif

/* Built as libnccl.so.2, this library hides the real one from everybody who asks by name. */
#ifdef XP_SONAME_BUILD
static const int hides_the_real_one = 1;
#else
static const int hides_the_real_one = 0;
#endif

struct search {
    char own[PATH_SIZE]; /* the file of this library */
    char path[PATH_SIZE];
    void *handle;
};

static int same_file(const char *a, const char *b)
{
    struct stat sa, sb;
    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* Takes folder/tail if that is a library which is not this one. */
static int try_path(struct search *s, const char *folder, size_t len, const char *tail)
{
    if (s->handle || len == 0 || (size_t)snprintf(s->path, PATH_SIZE, "%.*s%s", (int)len, folder, tail) >= PATH_SIZE)
        return s->handle != NULL;
    if (access(s->path, R_OK) == 0 && !same_file(s->path, s->own))
        s->handle = dlopen(s->path, OPEN_FLAGS);
    return s->handle != NULL;
}

static void try_setting(struct search *s)
{
    const char *text = getenv("CROSSPRESS_NCCL_PATH");
    struct stat st;
    if (!text || text[0] != '/' || stat(text, &st) != 0)
        return;
    try_path(s, text, strlen(text), S_ISDIR(st.st_mode) ? "/" SONAME : "");
}

static void try_beside(struct search *s)
{
    const char *slash = strrchr(s->own, '/');
    if (slash)
        try_path(s, s->own, (size_t)(slash - s->own), "/real/" SONAME);
}

static int look_at_torch(struct dl_phdr_info *info, size_t size, void *user)
{
    struct search *s = user;
    const char *at = info->dlpi_name ? strstr(info->dlpi_name, "/torch/lib/libtorch") : NULL;
    return at ? try_path(s, info->dlpi_name, (size_t)(at - info->dlpi_name), "/nvidia/nccl/lib/" SONAME) : 0;
}

static void try_folders(struct search *s, const char *list)
{
    while (list && *list && !s->handle) {
        size_t len = strcspn(list, ":");
        try_path(s, list, len, "/" SONAME);
        list += len + (list[len] == ':');
    }
}

void *xp_real_open(const void *own)
{
    static struct search s; /* under the caller's lock */
    Dl_info info;
    memset(&s, 0, sizeof s);
    if (own && dladdr(own, &info) && info.dli_fname)
        snprintf(s.own, sizeof s.own, "%s", info.dli_fname);
    try_setting(&s);
    if (!hides_the_real_one)
        return s.handle;
    try_beside(&s);
    if (!s.handle)
        dl_iterate_phdr(look_at_torch, &s);
    try_folders(&s, getenv("LD_LIBRARY_PATH"));
    try_folders(&s, "/usr/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu:/usr/lib64:/usr/lib:/usr/local/cuda/lib64:/usr/local/cuda/lib:"
                    "/usr/local/lib");
    return s.handle;
}
