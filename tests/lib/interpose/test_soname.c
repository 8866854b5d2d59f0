/*
 * test_soname.c - the libnccl.so.2 replacement: every name is there, trampolines keep all arguments, later functions are found
 *
 * usage: test_soname REPLACEMENT.so NEXT.so REAL.so nccl_symbols.txt
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/interpose/nccl_abi.h"
#define ncclGather future_gather /* another signature */
#include "tests/lib/interpose/real/future_nccl.h"

static int failed;

#define CHECK(x) check(x, #x, __LINE__)
static void check(int ok, const char *what, int line)
{
    if (!ok) {
        printf("%s:%d: %s\n", __FILE__, line, what);
        failed = 1;
    }
}

static char folder[] = "/tmp/xp-soname-XXXXXX";

static void put(const char *name, const char *target)
{
    char path[128], whole[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK(realpath(target, whole) != NULL && symlink(whole, path) == 0);
}

static void take_away(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
    rmdir(path);
}

static void check_names(void *lib, const char *list)
{
    char line[128];
    FILE *f = fopen(list, "r");
    int names = 0;

    CHECK(f != NULL);
    while (f && fgets(line, sizeof line, f)) {
        char twin[130];
        line[strcspn(line, "\n")] = '\0';
        if (line[0] == '#')
            continue;
        snprintf(twin, sizeof twin, "p%s", line);
        for (int i = 0; i < 2; i++) {
            Dl_info info;
            void *fn = dlsym(lib, i ? twin : line);
            check(fn && dladdr(fn, &info) && strncmp(info.dli_fname, folder, strlen(folder)) == 0 && !strstr(info.dli_fname, "/real/"),
                  i ? twin : line, __LINE__);
        }
        names++;
    }
    CHECK(names >= 97);
    if (f)
        fclose(f);
}

static void check_calls(void *lib)
{
    int version = 0;
    ncclResult_t (*get_version)(int *) = (ncclResult_t(*)(int *))dlsym(lib, "ncclGetVersion");
    double (*gather)(double, long, float, long, double, long, double, long, double, long, long, long, double) =
        (__typeof__(gather))dlsym(lib, "ncclGather");
    struct future_team (*world)(struct future_big) = (__typeof__(world))dlsym(lib, "ncclTeamWorld");
    struct future_big (*rail)(int) = (__typeof__(rail))dlsym(lib, "ncclTeamRail");
    ncclResult_t (*encrypt)(const void *) = (__typeof__(encrypt))dlsym(lib, "ncclSetEncryption");
    int (*future)(int) = (__typeof__(future))dlsym(lib, "ncclFutureThing");

    for (int again = 0; again < 2; again++) { /* the first call finds the function, the second has it */
        CHECK(get_version(&version) == ncclSuccess && version == FUTURE_VERSION);
        CHECK(gather(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13) == 819);
        struct future_big b = rail(100);
        CHECK(b.value[0] == 100 && b.value[31] == 131);
        struct future_team t = world(b);
        CHECK(t.ranks == 100 && t.rank == 131 && t.stride == 115);
        CHECK(encrypt(NULL) == ncclInvalidUsage); /* known by name, but not in the real library */
    }
    CHECK(future != NULL && future(41) == 42);
}

/* The folder as it would be installed. */
static void lay_out(char **argv)
{
    char path[128];
    CHECK(mkdtemp(folder) != NULL);
    put("libnccl.so.2", argv[1]);
    put("libcrosspress-nccl-next.so.0", argv[2]);
    snprintf(path, sizeof path, "%s/real", folder);
    CHECK(mkdir(path, 0700) == 0);
    put("real/libnccl.so.2", argv[3]);
}

static void clean_up(void)
{
    take_away("real/libnccl.so.2");
    take_away("real");
    take_away("libcrosspress-nccl-next.so.0");
    take_away("libnccl.so.2");
    take_away("");
}

/* The loader reads LD_LIBRARY_PATH at start: again, with the folder before what the test harness has put there. */
static void start_again(char **argv)
{
    const char *old = getenv("LD_LIBRARY_PATH");
    char list[8192];
    char *args[] = {argv[0], argv[1], argv[2], argv[3], argv[4], folder, NULL};

    snprintf(list, sizeof list, "%s:%s", folder, old ? old : "");
    setenv("LD_LIBRARY_PATH", list, 1);
    execv("/proc/self/exe", args);
    CHECK(!"execv");
}

int main(int argc, char **argv)
{
    char path[128];
    void *lib;

    if (argc == 5) {
        lay_out(argv);
        start_again(argv);
    } else if (argc == 6) {
        snprintf(folder, sizeof folder, "%s", argv[5]);
        snprintf(path, sizeof path, "%s/libnccl.so.2", folder);
        lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!lib)
            printf("%s\n", dlerror());
        CHECK(lib != NULL);
        if (lib) {
            check_names(lib, argv[4]);
            check_calls(lib);
            CHECK(dlopen("libnccl.so.2", RTLD_NOW | RTLD_NOLOAD) == lib); /* who asks by name gets the replacement */
        }
    } else {
        return 1;
    }
    clean_up();
    return failed;
}
