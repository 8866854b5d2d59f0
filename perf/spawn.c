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

/* A port of loopback that was free a moment ago; 0 when there is none. */
static unsigned free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), bad;

    if (fd < 0)
        return 0;
    bad = bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 || getsockname(fd, (struct sockaddr *)&a, &len) != 0;
    close(fd);
    return bad ? 0 : ntohs(a.sin_port);
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

/* Variables of launchers that would be found first, should this run under one. */
static void forget_launchers(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE",
                                        "SLURM_PROCID", "SLURM_NTASKS", "CROSSPRESS_ROOT"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unsetenv(names[i]);
}

static void set_number(const char *name, long value)
{
    char text[32];

    snprintf(text, sizeof(text), "%ld", value);
    setenv(name, text, 1);
}

static void set_rank(int rank, int n, int nodes)
{
    int node = (int)((long)rank * nodes / n), first = rank;
    char name[32];

    while (first > 0 && (int)((long)(first - 1) * nodes / n) == node)
        first--;
    snprintf(name, sizeof(name), "spawn%d", node);
    setenv("CROSSPRESS_NODE", name, 1);
    set_number("RANK", rank);
    set_number("LOCAL_RANK", rank - first);
}

static int start(struct child *c, struct slot *slot, int rank, int n, int nodes, int (*body)(void *, char *), void *arg)
{
    pid_t parent = getpid();

    fflush(NULL);
    c->pid = fork();
    if (c->pid != 0)
        return c->pid < 0 ? -1 : 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    set_rank(rank, n, nodes);
    exit(body(arg, slot->error));
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

int spawn_ranks(int n, int nodes, int (*body)(void *arg, char *error), void *arg, char first[SPAWN_ERROR])
{
    struct child *c = calloc((size_t)n, sizeof(*c));
    struct slot *slots = mmap(NULL, (size_t)n * sizeof(*slots), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned port = free_port();
    char secret[33];
    int code = 0;

    first[0] = '\0';
    if (c == NULL || slots == MAP_FAILED || port == 0 || fresh_secret(secret) != 0) {
        snprintf(first, SPAWN_ERROR, "cannot prepare %d ranks: %s", n, strerror(errno));
        free(c);
        return 1;
    }
    forget_launchers();
    setenv("CROSSPRESS_SECRET", secret, 1);
    setenv("CROSSPRESS_INTERFACE", "lo", 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    set_number("MASTER_PORT", (long)port);
    set_number("WORLD_SIZE", n);
    for (int r = 0; r < n && code == 0; r++) {
        if (start(&c[r], &slots[r], r, n, nodes, body, arg) != 0) {
            snprintf(first, SPAWN_ERROR, "cannot start rank %d: %s", r, strerror(errno));
            code = 1;
        }
    }
    code = watch(c, slots, n, code, first);
    munmap(slots, (size_t)n * sizeof(*slots));
    free(c);
    return code;
}
