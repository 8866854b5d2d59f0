/*
 * outfile.c - an output file that appears whole or not at all: a temporary file beside it, renamed at the end
 *
 * A signal that ends the tool (Ctrl-C, a job limit) takes the temporary file away first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/tools/outfile.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const int deadly[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXCPU, SIGXFSZ };
static char doomed[4096]; /* the temporary file of this process, "" when there is none */

static void clean_up(int sig)
{
    if (doomed[0])
        unlink(doomed);
    signal(sig, SIG_DFL);
    raise(sig);
}

/* While there is something to take away; a signal that is ignored stays ignored. */
static void watch_signals(const char *temp)
{
    struct sigaction now;

    snprintf(doomed, sizeof(doomed), "%s", temp);
    for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++)
        if (!sigaction(deadly[i], NULL, &now) && now.sa_handler == SIG_DFL)
            signal(deadly[i], clean_up);
}

static int fail(const struct xp_outfile *o, char *err, size_t err_size)
{
    snprintf(err, err_size, "%s: cannot be written: %s", o->path, strerror(errno));
    return -1;
}

/* The mode that a plain open would have given the file. */
static void plain_mode(int fd)
{
    mode_t mask = umask(0);

    umask(mask);
    fchmod(fd, 0666 & ~mask);
}

/* A link is followed: what it points to is replaced, not the link. */
static int set_path(struct xp_outfile *o, const char *path)
{
    char *real = realpath(path, NULL);
    int n = snprintf(o->path, sizeof(o->path), "%s", real ? real : path);

    free(real);
    errno = ENAMETOOLONG;
    return n < 0 || (size_t)n >= sizeof(o->path) ? -1 : 0;
}

int xp_outfile_open(struct xp_outfile *o, const char *path, char *err, size_t err_size)
{
    struct stat st;
    int fd;

    o->f = NULL;
    o->temp[0] = '\0';
    if (set_path(o, path))
        return fail(o, err, err_size);
    if (!stat(o->path, &st) && !S_ISREG(st.st_mode)) { /* a pipe, a device: nothing to rename over */
        o->f = fopen(o->path, "wb");
        return o->f ? 0 : fail(o, err, err_size);
    }
    if ((size_t)snprintf(o->temp, sizeof(o->temp), "%s.XXXXXX", o->path) >= sizeof(o->temp)) {
        o->temp[0] = '\0';
        errno = ENAMETOOLONG;
        return fail(o, err, err_size);
    }
    fd = mkstemp(o->temp);
    if (fd < 0) {
        o->temp[0] = '\0';
        return fail(o, err, err_size);
    }
    watch_signals(o->temp);
    plain_mode(fd);
    o->f = fdopen(fd, "wb");
    if (o->f)
        return 0;
    fail(o, err, err_size);
    close(fd);
    xp_outfile_abandon(o);
    return -1;
}

int xp_outfile_write(struct xp_outfile *o, const void *bytes, size_t len, char *err, size_t err_size)
{
    return len && fwrite(bytes, 1, len, o->f) != len ? fail(o, err, err_size) : 0;
}

int xp_outfile_finish(struct xp_outfile *o, char *err, size_t err_size)
{
    int failed = fclose(o->f);

    o->f = NULL;
    if (!failed && o->temp[0])
        failed = rename(o->temp, o->path);
    if (failed) {
        fail(o, err, err_size);
        xp_outfile_abandon(o);
        return -1;
    }
    o->temp[0] = doomed[0] = '\0';
    return 0;
}

void xp_outfile_abandon(struct xp_outfile *o)
{
    if (o->f)
        fclose(o->f);
    if (o->temp[0])
        unlink(o->temp);
    o->f = NULL;
    o->temp[0] = doomed[0] = '\0';
}
