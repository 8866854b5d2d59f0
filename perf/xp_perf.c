/*
 * xp_perf.c - the benchmarks of crosspress: xp_perf links|hash|codec|alltoallv|moe|fold (--help explains)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/xp_perf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hash/kernels.h"
#include "lib/comm.h"
#include "perf/options.h"
#include "perf/spawn.h"

static const struct command {
    const char *name;
    int (*run)(struct perf *p);
} commands[] = {
    {"links", bench_links},
    {"hash", bench_hash},
    {"codec", bench_codec},
    {"alltoallv", bench_alltoallv},
    {"fold", bench_fold},
    {"moe", bench_moe},
};

int perf_fail(struct perf *p, const char *fmt, ...)
{
    va_list ap;

    if (p->error[0] == '\0') {
        va_start(ap, fmt);
        vsnprintf(p->error, p->error_size, fmt, ap);
        va_end(ap);
    }
    return 1;
}

void perf_progress(const char *what, int done, int all)
{
    if (!isatty(STDERR_FILENO))
        return;
    if (all == 0)
        fprintf(stderr, "\r\033[K");
    else
        fprintf(stderr, "\r%s: %d of %d ", what, done, all);
    fflush(stderr);
}

static int is_nccl(const struct options *o)
{
    return o->transport != NULL && strcmp(o->transport, "nccl") == 0;
}

const char *perf_plan_name(const struct options *o, const struct memory *m)
{
    return is_nccl(o) && m->shared ? "plan of ranks that share a GPU, which NCCL may refuse" : "plan";
}

const char *perf_plan_transport(const struct options *o)
{
    return is_nccl(o) ? "nccl" : NULL;
}

/* NCCL refuses two ranks on one GPU. It takes ranks with host ids of their own for separate hosts, which may share what they like (and talk over
 * sockets then), and from 2.30 on it can be told to allow it. What the environment says of it stays. */
static void let_nccl_share(const struct memory *m, const xp_comm *c, int ranks)
{
    char id[64];

    if (!m->shared)
        return;
    snprintf(id, sizeof(id), "xp_perf-rank-%d", c->rank);
    setenv("NCCL_HOSTID", id, 0);
    setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1", 0);
    if (c->rank == 0)
        fprintf(stderr, "xp_perf: %d ranks share GPUs: for NCCL each is a host of its own (NCCL_HOSTID)\n", ranks);
}

/* The ranks of this rank's machine, and which of them it is. Started here they are all on one, whatever nodes they play. */
static int ranks_here(const struct options *o, const xp_comm *c, int *ranks)
{
    int before = 0;

    *ranks = 0;
    for (int r = 0; r < c->size; r++) {
        const int here = o->spawn > 0 || c->node_of[r] == c->node;

        *ranks += here;
        before += here && r < c->rank;
    }
    return before;
}

int perf_comm(struct perf *p, xp_comm **comm, struct memory *memory)
{
    char err[SPAWN_ERROR];
    xp_config cfg;
    xp_status s;
    int local, ranks;

    xp_config_init(&cfg);
    cfg.transport = is_nccl(p->opt) ? NULL : p->opt->transport;
    s = xp_comm_create(comm, NULL, &cfg);
    if (s != XP_OK)
        return perf_fail(p, "cannot join the ranks: %s (%s)", xp_last_error(), xp_status_string(s));
    if (memory == NULL)
        return 0;
    local = ranks_here(p->opt, *comm, &ranks);
    if (memory_open(memory, p->opt->memory, local, ranks, err, sizeof(err)) != 0)
        return perf_fail(p, "%s", err);
    if (is_nccl(p->opt))
        let_nccl_share(memory, *comm, ranks);
    return 0;
}

void perf_name_transports(const struct perf *p, const xp_comm *c, char *text, size_t size)
{
    snprintf(text, size, "%s", is_nccl(p->opt) ? "nccl" : "");
    for (int r = 0; r < c->size; r++) {
        const char *name = c->route[r] != NULL ? c->route[r]->ops->name : NULL;

        if (name != NULL && strstr(text, name) == NULL)
            snprintf(text + strlen(text), size - strlen(text), "%s%s", text[0] != '\0' ? "+" : "", name);
    }
    if (text[0] == '\0')
        snprintf(text, size, "self");
}

const char *perf_isa(const xp_comm *c)
{
    int isa = xp_isa_parse(c->params.isa);

    return xp_isa_name(isa >= 0 ? (enum xp_isa)isa : xp_cpu_isa());
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static int refuse(const char *text)
{
    fprintf(stderr, "xp_perf: %s\n", text);
    return 2;
}

static int open_rows(const struct options *o, struct row_source *rows, char *err, size_t err_size)
{
    if (o->input != NULL)
        return rows_open_file(rows, o->input, o->seed, err, err_size);
    return rows_open_generated(rows, o->data != NULL ? o->data : "gaussian", o->dtype, o->dim != 0 ? o->dim : 4096, o->seed);
}

/* One rank from beginning to end. The JSON file appears only when all went well. */
static int run_rank(void *arg, char *error)
{
    struct perf p = *(const struct perf *)arg;
    int code;

    p.error = error;
    p.error_size = SPAWN_ERROR;
    code = find_command(p.opt->command)->run(&p);
    if (p.json.len > 0 && p.opt->json != NULL && code == 0)
        code = json_save(&p.json, p.opt->json, error, SPAWN_ERROR) != 0;
    json_free(&p.json);
    return code;
}

/* In place of the command, or right behind it. */
static int asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc && i < 3; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return 1;
    return 0;
}

int main(int argc, char **argv)
{
    struct options o = {.rows = 4096, .dtype = XP_BF16, .seed = 1, .iters = 10};
    struct perf p = {.opt = &o};
    char err[SPAWN_ERROR] = "";
    int code;

    if (asks_for_help(argc, argv)) {
        fputs(options_help, stdout);
        return 0;
    }
    if (argc < 2)
        return refuse("what to measure? links, hash, codec, alltoallv, moe or fold (--help explains)");
    o.command = argv[1];
    if (find_command(o.command) == NULL) {
        snprintf(err, sizeof(err), "unknown command '%s' (links, hash, codec, alltoallv, moe or fold)", o.command);
        return refuse(err);
    }
    if (options_parse(&o, argc - 2, argv + 2, err, sizeof(err)) != 0)
        return refuse(err);
    if (open_rows(&o, &p.rows, err, sizeof(err)) != 0)
        return refuse(err);
    if (o.json != NULL && json_writable(o.json, err, sizeof(err)) != 0)
        return refuse(err);
    if (o.spawn > 0)
        code = spawn_ranks(o.spawn, o.nodes > 0 ? o.nodes : 1, run_rank, &p, err);
    else
        code = run_rank(&p, err);
    if (err[0] != '\0')
        fprintf(stderr, "xp_perf: %s\n", err);
    rows_close(&p.rows);
    return code;
}
