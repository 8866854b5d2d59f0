/*
 * codec_plot.c - the rate-error plot of xp_codec stats, drawn by Python where it has matplotlib (rate_error.py)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/tools/codec_table.h"
#include "rate_error_script.h"

/* Exit code of the script, -1: it did not run. */
static int run(const char *python, const char *json, const char *png)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        execlp(python, python, "-c", rate_error_script, json, png, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

int codec_plot(const char *json, const char *png)
{
    static const char *const pythons[] = { "python3", "/usr/bin/python3" };
    int code = -1;

    for (size_t i = 0; i < sizeof(pythons) / sizeof(pythons[0]); i++) {
        code = run(pythons[i], json, png);
        if (code == 0)
            return 0;
        if (code != 3 && code != 127)
            return tool_fail("drawing %s failed (python's exit code %d)", png, code);
    }
    fprintf(stderr, "xp_codec: no plot, because %s; the table has its figures\n", code == 3 ? "python3 has no matplotlib" : "there is no python3");
    return 0;
}
