/*
 * procs.c - N ranks as processes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/harness/clock.h"
#include "tests/harness/procs.h"

int procs_open(struct procs *p)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    unsigned char bytes[16];

    if (p->n < 1 || p->n > PROCS_MAX || getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return -1;
    for (size_t i = 0; i < sizeof(bytes); i++)
        snprintf(p->secret + 2 * i, 3, "%02x", bytes[i]);
    p->listen_fd = socket(AF_INET, SOCK_STREAM, 0);
    if (p->listen_fd < 0 || bind(p->listen_fd, (struct sockaddr *)&a, sizeof(a)) != 0 ||
        listen(p->listen_fd, 512) != 0 || getsockname(p->listen_fd, (struct sockaddr *)&a, &len) != 0)
        return -1;
    snprintf(p->root, sizeof(p->root), "127.0.0.1:%u", ntohs(a.sin_port));
    memset(p->pid, 0, sizeof(p->pid));
    memset(p->code, 0, sizeof(p->code));
    return 0;
}

static void set_number(const char *name, int value)
{
    char text[16];

    snprintf(text, sizeof(text), "%d", value);
    setenv(name, text, 1);
}

int procs_start_rank(struct procs *p, int rank, proc_fn fn, void *arg)
{
    pid_t parent = getpid();
    char node[32];

    fflush(NULL);
    p->pid[rank] = fork();
    if (p->pid[rank] != 0)
        return p->pid[rank] > 0 ? 0 : -1;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    snprintf(node, sizeof(node), "node%d", (int)((long)rank * (p->nodes > 0 ? p->nodes : 1) / p->n));
    setenv("CROSSPRESS_NODE", node, 1);
    setenv("CROSSPRESS_ROOT", p->root, 1);
    setenv("CROSSPRESS_SECRET", p->secret, 1);
    set_number("CROSSPRESS_RANK", rank);
    set_number("CROSSPRESS_SIZE", p->n);
    if (rank == 0)
        set_number("CROSSPRESS_LISTEN_FD", p->listen_fd);
    else
        close(p->listen_fd);
    exit(fn(rank, arg));
}

int procs_start(struct procs *p, proc_fn fn, void *arg)
{
    int e = procs_open(p);

    for (int r = 0; r < p->n && e == 0; r++)
        e = procs_start_rank(p, r, fn, arg);
    if (e == 0) {
        close(p->listen_fd);
        p->listen_fd = -1;
    }
    return e;
}

/* Looks once whether a rank has ended. */
static int look(struct procs *p, int rank)
{
    siginfo_t info = {0};

    if (waitid(P_PID, (id_t)p->pid[rank], &info, WEXITED | WNOHANG | (p->no_reap ? WNOWAIT : 0)) != 0 || info.si_pid == 0)
        return 0;
    p->code[rank] = info.si_code == CLD_EXITED ? info.si_status : PROCS_KILLED;
    p->ended[rank] = clock_now();
    return 1;
}

int procs_wait(struct procs *p, double seconds)
{
    double until = clock_now() + seconds;
    char ended[PROCS_MAX] = {0};
    int left = 0, bad = 0, hung = 0;

    for (int r = 0; r < p->n; r++)
        left += p->pid[r] > 0;
    while (left > 0) {
        for (int r = 0; r < p->n; r++) {
            if (p->pid[r] <= 0 || ended[r] || !look(p, r))
                continue;
            ended[r] = 1;
            left--;
            if (hung)
                p->code[r] = PROCS_HUNG;
        }
        if (left > 0 && clock_now() > until && !hung) {
            hung = 1;
            for (int r = 0; r < p->n; r++)
                if (p->pid[r] > 0 && !ended[r])
                    kill(p->pid[r], SIGKILL);
        }
        clock_nap(0.001);
    }
    for (int r = 0; r < p->n; r++) {
        if (p->pid[r] <= 0)
            continue;
        if (p->no_reap)
            waitpid(p->pid[r], NULL, 0);
        bad += p->code[r] != 0;
    }
    return bad;
}
