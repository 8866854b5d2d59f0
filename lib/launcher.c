/*
 * launcher.c - what a launcher's environment says: which rank of how many, and where rank 0 is
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/launcher.h"

struct reading {
    struct xp_launch *l;
    xp_getenv_fn env;
    int root_given; /* CROSSPRESS_ROOT, which outranks what the launcher says */
    char *err;
    size_t err_size;
};

static const char *get(const struct reading *r, const char *name)
{
    const char *v = r->env(name);

    return v && v[0] ? v : NULL;
}

/* A whole number in a variable. Returns 0 (and the text) when it is missing or not one. */
static int get_number(const struct reading *r, const char *name, long low, long high, int *out)
{
    const char *v = get(r, name);
    char *end;
    long n;

    if (!v) {
        snprintf(r->err, r->err_size, "%s: %s is not set", r->l->name, name);
        return 0;
    }
    n = strtol(v, &end, 10);
    if (!isdigit((unsigned char)v[0]) || *end != '\0' || n < low || n > high) {
        snprintf(r->err, r->err_size, "%s: %s is \"%.40s\", which is not a number from %ld to %ld", r->l->name, name, v, low,
                 high);
        return 0;
    }
    *out = (int)n;
    return 1;
}

static int get_place(const struct reading *r, const char *rank_name, const char *size_name)
{
    return get_number(r, size_name, 1, 1 << 20, &r->l->size) && get_number(r, rank_name, 0, r->l->size - 1, &r->l->rank);
}

int xp_launch_port(const char *text)
{
    unsigned long h = 5381;

    for (; *text; text++)
        h = (h * 33 ^ (unsigned char)*text) & 0xffffffffu;
    return 20000 + (int)(h % 1500) * XP_LAUNCH_PORTS;
}

static void local_root(struct xp_launch *l)
{
    snprintf(l->host, sizeof(l->host), "127.0.0.1");
    l->port = xp_launch_port(l->identity);
    l->nports = XP_LAUNCH_PORTS;
}

/* Our own tools: the parent listens before it forks, so that the port is known and free. */
static int read_spawn(const struct reading *r)
{
    struct xp_launch *l = r->l;

    l->name = "spawn";
    snprintf(l->identity, sizeof(l->identity), "spawn");
    if (!get_place(r, "CROSSPRESS_RANK", "CROSSPRESS_SIZE"))
        return 0;
    if (l->rank == 0 && get(r, "CROSSPRESS_LISTEN_FD") &&
        !get_number(r, "CROSSPRESS_LISTEN_FD", 0, 1 << 20, &l->listen_fd))
        return 0;
    if (l->size > 1 && !r->root_given) {
        snprintf(r->err, r->err_size, "spawn: CROSSPRESS_ROOT is not set");
        return 0;
    }
    return 1;
}

/* torchrun: torch's own store listens on MASTER_PORT, so rank 0 listens on the next one. */
static int read_torchrun(const struct reading *r)
{
    struct xp_launch *l = r->l;
    const char *run = get(r, "TORCHELASTIC_RUN_ID"), *restart = get(r, "TORCHELASTIC_RESTART_COUNT");
    int port;

    l->name = "torchrun";
    if (!get_place(r, "RANK", "WORLD_SIZE") || !get_number(r, "MASTER_PORT", 1, 65535 - XP_LAUNCH_PORTS, &port))
        return 0;
    snprintf(l->host, sizeof(l->host), "%s", get(r, "MASTER_ADDR"));
    l->port = port + 1;
    l->nports = XP_LAUNCH_PORTS;
    snprintf(l->identity, sizeof(l->identity), "torchrun %.100s %d %.100s %.20s", l->host, port, run ? run : "",
             restart ? restart : "");
    return 1;
}

int xp_ompi_uri_host(const char *uri, char *out, size_t size)
{
    const char *start = uri ? strstr(uri, "tcp://") : NULL;
    size_t n;

    if (!start)
        return 0;
    start += strlen("tcp://");
    n = strcspn(start, ",:;");
    if (n == 0 || n >= size)
        return 0;
    memcpy(out, start, n);
    out[n] = '\0';
    return 1;
}

static int read_ompi(const struct reading *r)
{
    struct xp_launch *l = r->l;
    const char *job = get(r, "OMPI_MCA_ess_base_jobid"), *key = get(r, "OMPI_MCA_orte_precondition_transports");
    const char *uri = get(r, "OMPI_MCA_orte_hnp_uri");
    int local = 0;

    l->name = "Open MPI";
    if (!get_place(r, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"))
        return 0;
    if (!job)
        job = get(r, "PMIX_NAMESPACE");
    snprintf(l->identity, sizeof(l->identity), "ompi %.100s %.100s", job ? job : "", key ? key : "");
    if (get(r, "OMPI_COMM_WORLD_LOCAL_SIZE") &&
        !get_number(r, "OMPI_COMM_WORLD_LOCAL_SIZE", 1, 1 << 20, &local))
        return 0;
    local_root(l);
    if (local == l->size || r->root_given)
        return 1;
    /* mpirun's own host is usually the first of the job; when it is not, rank 0 cannot listen there and says so. */
    if (xp_ompi_uri_host(uri ? uri : get(r, "PMIX_SERVER_URI2"), l->host, sizeof(l->host)))
        return 1;
    snprintf(r->err, r->err_size, "Open MPI: several hosts and no address of the first one; set CROSSPRESS_ROOT=host:port");
    return 0;
}

static int read_pmi(const struct reading *r)
{
    struct xp_launch *l = r->l;
    const char *job = get(r, "PMI_JOBID");

    l->name = "PMI";
    snprintf(l->identity, sizeof(l->identity), "pmi %.200s", job ? job : "");
    return get_place(r, "PMI_RANK", "PMI_SIZE") && get_number(r, "PMI_FD", 0, 1 << 20, &l->pmi_fd);
}

int xp_slurm_first_host(const char *list, char *out, size_t size)
{
    size_t prefix = list ? strcspn(list, "[,") : 0;
    size_t digits = 0;

    if (!list || list[0] == '\0' || list[0] == ',')
        return 0;
    if (list[prefix] == '[') {
        digits = strspn(list + prefix + 1, "0123456789");
        if (digits == 0)
            return 0;
    }
    if (prefix + digits + 1 > size)
        return 0;
    memcpy(out, list, prefix);
    memcpy(out + prefix, list + prefix + 1, digits);
    out[prefix + digits] = '\0';
    return out[0] != '\0';
}

static int read_slurm(const struct reading *r)
{
    struct xp_launch *l = r->l;
    const char *job = get(r, "SLURM_JOB_ID"), *step = get(r, "SLURM_STEP_ID"), *nodes = get(r, "SLURM_STEP_NUM_NODES");

    l->name = "Slurm";
    if (!get_place(r, "SLURM_PROCID", get(r, "SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS"))
        return 0;
    snprintf(l->identity, sizeof(l->identity), "slurm %.60s.%.60s", job ? job : "", step ? step : "");
    local_root(l);
    if (r->root_given || (nodes && strcmp(nodes, "1") == 0))
        return 1;
    if (xp_slurm_first_host(get(r, "SLURM_STEP_NODELIST"), l->host, sizeof(l->host)))
        return 1;
    snprintf(r->err, r->err_size, "Slurm: SLURM_STEP_NODELIST names no host");
    return 0;
}

static int apply_root(struct xp_launch *l, const char *root)
{
    const char *colon = strrchr(root, ':');
    size_t n = (size_t)(colon - root);

    if (root[0] == '[' && n > 2 && root[n - 1] == ']') {
        root++;
        n -= 2;
    }
    if (n >= sizeof(l->host))
        return 0;
    memcpy(l->host, root, n);
    l->host[n] = '\0';
    l->port = atoi(colon + 1); /* params.c has checked it */
    l->nports = 1;
    l->pmi_fd = -1;
    return 1;
}

xp_status xp_launch_detect(struct xp_launch *l, const struct xp_params *p, xp_getenv_fn env, char *err, size_t err_size)
{
    struct reading r = {l, env, p->root[0] != '\0', err, err_size};
    int ok;

    memset(l, 0, sizeof(*l));
    l->listen_fd = l->pmi_fd = -1;
    if (get(&r, "CROSSPRESS_RANK"))
        ok = read_spawn(&r);
    else if (get(&r, "RANK") && get(&r, "WORLD_SIZE") && get(&r, "MASTER_ADDR"))
        ok = read_torchrun(&r);
    else if (get(&r, "OMPI_COMM_WORLD_RANK"))
        ok = read_ompi(&r);
    else if (get(&r, "PMI_RANK") && get(&r, "PMI_FD"))
        ok = read_pmi(&r);
    else if (get(&r, "SLURM_PROCID") && get(&r, "SLURM_STEP_NODELIST"))
        ok = read_slurm(&r);
    else {
        snprintf(err, err_size, "start-up: no launcher found (looked for the variables of torchrun: RANK, WORLD_SIZE, "
                                "MASTER_ADDR; Open MPI: OMPI_COMM_WORLD_RANK; MPICH: PMI_RANK, PMI_FD; Slurm: SLURM_PROCID)");
        return XP_ERR_INVALID_ARG;
    }
    if (!ok)
        return XP_ERR_INVALID_ARG;
    if (p->root[0] && !apply_root(l, p->root)) {
        snprintf(err, err_size, "CROSSPRESS_ROOT is too long");
        return XP_ERR_INVALID_ARG;
    }
    return XP_OK;
}
