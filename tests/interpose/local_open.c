/*
 * local_open.c - NCCL comes in as Python brings it: a plugin that is linked to it is opened with RTLD_LOCAL
 *
 * The plugin is the program grouped.c, the way torch's library is; RTLD_NEXT finds nothing behind it.
 *
 * usage: local_open PLUGIN ARG...
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    void *plugin = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    int (*plugin_main)(int, char **, int) = plugin ? (int (*)(int, char **, int))dlsym(plugin, "plugin_main") : NULL;

    if (!plugin_main) {
        fprintf(stderr, "%s\n", argc > 1 ? dlerror() : "usage: local_open PLUGIN ARG...");
        return 1;
    }
    return plugin_main(argc, argv, 1);
}
