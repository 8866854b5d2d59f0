/*
 * spawn.c - N ranks of one machine as child processes
 *
 * Each child gets the environment that a launcher would set: rank, size, the root's address on loopback, a fresh
 * secret, and the node it plays. Children die with their parent.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/spawn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GRACE_SECONDS 2.0

struct slot { /* shared between a child and the parent */
    char error[SPAWN_ERROR];
};

struct child {
    pid_t pid;
    int done;
};

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A listening socket of loopback for rank 0, so that its port is known and taken before any rank starts. */
static int listen_on_loopback(int n, unsigned *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -1;
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(fd, n) != 0 || getsockname(fd, (struct sockaddr *)&a, &len) != 0) {
        close(fd);
        return -1;
    }
    *port = ntohs(a.sin_port);
    return fd;
}

static int fresh_secret(char hex[33])
{
    unsigned char bytes[16];

    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return -1;
    for (int i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    return 0;
}

static void set_number(const char *name, long value)
{
    char text[32];

    snprintf(text, sizeof(text), "%ld", value);
    setenv(name, text, 1);
}

static void set_rank(int rank, int n, int nodes, int listen_fd)
{
    char name[32];

    snprintf(name, sizeof(name), "spawn%d", (int)((long)rank * nodes / n));
    setenv("CROSSPRESS_NODE", name, 1);
    set_number("CROSSPRESS_RANK", rank);
    if (rank == 0)
        set_number("CROSSPRESS_LISTEN_FD", listen_fd);
    else
        close(listen_fd);
}

/* All that the children of one run have in common. */
struct job {
    int n, nodes, listen_fd;
    int (*body)(void *arg, char *error);
    void *arg;
};

static int start(struct child *c, struct slot *slot, int rank, const struct job *job)
{
    pid_t parent = getpid();

    fflush(NULL);
    c->pid = fork();
    if (c->pid != 0)
        return c->pid < 0 ? -1 : 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    set_rank(rank, job->n, job->nodes, job->listen_fd);
    exit(job->body(job->arg, slot->error));
}

/* The exit code of an ended child; a signal counts as 1 and is put into words. */
static int verdict(int status, int rank, int killed, char *error)
{
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    if (!killed && error[0] == '\0')
        snprintf(error, SPAWN_ERROR, "rank %d: ended by signal %d (%s)", rank, WTERMSIG(status), strsignal(WTERMSIG(status)));
    return 1;
}

static int rank_of(const struct child *c, int n, pid_t pid)
{
    for (int r = 0; r < n; r++) {
        if (c[r].pid == pid)
            return r;
    }
    return -1;
}

static void kill_rest(const struct child *c, int n)
{
    for (int r = 0; r < n; r++) {
        if (c[r].pid > 0 && !c[r].done)
            kill(c[r].pid, SIGKILL);
    }
}

/* Reaps all children; see spawn_ranks. */
static int watch(struct child *c, struct slot *slots, int n, int code, char first[SPAWN_ERROR])
{
    const struct timespec nap = {.tv_nsec = 2000000};
    double failed_at = code != 0 ? seconds_now() - GRACE_SECONDS : 0.0;
    int left = 0, killed = 0, status;

    for (int r = 0; r < n; r++)
        left += c[r].pid > 0;
    while (left > 0) {
        pid_t pid = waitpid(-1, &status, WNOHANG);
        int r = pid > 0 ? rank_of(c, n, pid) : -1;

        if (r >= 0) {
            int v = verdict(status, r, killed, slots[r].error);

            c[r].done = 1;
            left--;
            if (v != 0 && code == 0) {
                failed_at = seconds_now();
                snprintf(first, SPAWN_ERROR, "%s", slots[r].error[0] ? slots[r].error : "a rank failed without a word");
            }
            code = v > code ? v : code;
            continue;
        }
        if (pid < 0 && errno != EINTR)
            break;
        if (code != 0 && !killed && seconds_now() - failed_at > GRACE_SECONDS) {
            kill_rest(c, n);
            killed = 1;
        }
        nanosleep(&nap, NULL);
    }
    return code;
}

/* What all children find in their environment. Returns 0, or -1 with errno set. */
static int set_group(struct job *job)
{
    char secret[33], root[32];
    unsigned port = 0;

    job->listen_fd = listen_on_loopback(job->n, &port);
    if (job->listen_fd < 0 || fresh_secret(secret) != 0)
        return -1;
    snprintf(root, sizeof(root), "127.0.0.1:%u", port);
    setenv("CROSSPRESS_ROOT", root, 1);
    setenv("CROSSPRESS_SECRET", secret, 1);
    setenv("CROSSPRESS_INTERFACE", "lo", 1);
    set_number("CROSSPRESS_SIZE", job->n);
    return 0;
}

int spawn_ranks(int n, int nodes, int (*body)(void *arg, char *error), void *arg, char first[SPAWN_ERROR])
{
    struct job job = {.n = n, .nodes = nodes, .listen_fd = -1, .body = body, .arg = arg};
    struct child *c = calloc((size_t)n, sizeof(*c));
    struct slot *slots = mmap(NULL, (size_t)n * sizeof(*slots), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int code = 0;

    first[0] = '\0';
    if (c == NULL || slots == MAP_FAILED || set_group(&job) != 0) {
        snprintf(first, SPAWN_ERROR, "cannot prepare %d ranks: %s", n, strerror(errno));
        code = 1;
    }
    for (int r = 0; r < n && code == 0; r++) {
        if (start(&c[r], &slots[r], r, &job) != 0) {
            snprintf(first, SPAWN_ERROR, "cannot start rank %d: %s", r, strerror(errno));
            code = 1;
        }
    }
    if (job.listen_fd >= 0)
        close(job.listen_fd);
    if (c != NULL && slots != MAP_FAILED)
        code = watch(c, slots, n, code, first);
    if (slots != MAP_FAILED)
        munmap(slots, (size_t)n * sizeof(*slots));
    free(c);
    return code;
}
