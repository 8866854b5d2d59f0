/*
 * test_launcher.c - what launchers' environments say
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "lib/launcher.h"

/* The environment of a test: name, value, ..., NULL. */
static const char *const *vars;
static char err[512];

static const char *lookup(const char *name)
{
    for (const char *const *v = vars; v && *v; v += 2)
        if (strcmp(v[0], name) == 0)
            return v[1];
    return NULL;
}

static xp_status detect(struct xp_launch *l, const char *const *env, const char *root)
{
    struct xp_params p;

    memset(&p, 0, sizeof(p));
    snprintf(p.root, sizeof(p.root), "%s", root);
    vars = env;
    return xp_launch_detect(l, &p, lookup, err, sizeof(err));
}

Test(launcher, none)
{
    struct xp_launch l;

    cr_assert_eq(detect(&l, NULL, ""), XP_ERR_INVALID_ARG);
    cr_assert(strstr(err, "no launcher") && strstr(err, "WORLD_SIZE"), "%s", err);
}

Test(launcher, torchrun)
{
    const char *const env[] = {"RANK", "3", "WORLD_SIZE", "8", "LOCAL_RANK", "1", "MASTER_ADDR", "node07", "MASTER_PORT", "29500",
                               "TORCHELASTIC_RUN_ID", "job", NULL};
    struct xp_launch l;

    cr_assert_eq(detect(&l, env, ""), XP_OK, "%s", err);
    cr_assert_str_eq(l.name, "torchrun");
    cr_assert_eq(l.rank, 3);
    cr_assert_eq(l.size, 8);
    cr_assert_str_eq(l.host, "node07");
    cr_assert_eq(l.port, 29501, "torch's own store is on MASTER_PORT");
    cr_assert(l.pmi_fd < 0 && l.listen_fd < 0);
}

Test(launcher, root_outranks_the_launcher)
{
    const char *const env[] = {"RANK", "0", "WORLD_SIZE", "2", "MASTER_ADDR", "node07", "MASTER_PORT", "29500", NULL};
    struct xp_launch l;

    cr_assert_eq(detect(&l, env, "10.1.2.3:4000"), XP_OK, "%s", err);
    cr_assert_str_eq(l.host, "10.1.2.3");
    cr_assert_eq(l.port, 4000);
    cr_assert_eq(l.nports, 1);
    cr_assert_eq(detect(&l, env, "[fd00::1]:4000"), XP_OK, "%s", err);
    cr_assert_str_eq(l.host, "fd00::1");
}

Test(launcher, numbers_are_checked)
{
    static const char *const bad[][2] = {{"-1", "4"}, {"4", "4"}, {"x", "4"}, {"1x", "4"}, {"1", "0"}, {"0", "99999999"}, {" 1", "4"},
                                         {"1", ""}, {"99999999999999999999", "4"}};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const char *const env[] = {"OMPI_COMM_WORLD_RANK", bad[i][0], "OMPI_COMM_WORLD_SIZE", bad[i][1], NULL};
        struct xp_launch l;

        cr_assert_eq(detect(&l, env, ""), XP_ERR_INVALID_ARG, "rank \"%s\" of \"%s\" was taken", bad[i][0], bad[i][1]);
        cr_assert(strstr(err, "OMPI_COMM_WORLD_"), "%s", err);
    }
}

Test(launcher, openmpi_on_one_host)
{
    const char *const env[] = {"OMPI_COMM_WORLD_RANK", "1", "OMPI_COMM_WORLD_SIZE", "2", "OMPI_COMM_WORLD_LOCAL_SIZE", "2",
                               "OMPI_MCA_ess_base_jobid", "1155006465", "OMPI_MCA_orte_precondition_transports", "c4dc-40a4",
                               "OMPI_MCA_orte_hnp_uri", "1155006464.0;tcp://192.0.2.2:35273", NULL};
    struct xp_launch l, other;

    cr_assert_eq(detect(&l, env, ""), XP_OK, "%s", err);
    cr_assert_str_eq(l.host, "127.0.0.1");
    cr_assert(l.port >= 20000 && l.port + l.nports < 32768, "port %d", l.port);
    const char *const env2[] = {"OMPI_COMM_WORLD_RANK", "0", "OMPI_COMM_WORLD_SIZE", "2", "OMPI_COMM_WORLD_LOCAL_SIZE", "2",
                                "OMPI_MCA_ess_base_jobid", "1155006465", "OMPI_MCA_orte_precondition_transports", "c4dc-40a4", NULL};
    cr_assert_eq(detect(&other, env2, ""), XP_OK);
    cr_assert_eq(l.port, other.port, "ranks of one job must agree");
    cr_assert_str_eq(l.identity, other.identity);
}

Test(launcher, openmpi_on_several_hosts)
{
    const char *const env[] = {"OMPI_COMM_WORLD_RANK", "1", "OMPI_COMM_WORLD_SIZE", "4", "OMPI_COMM_WORLD_LOCAL_SIZE", "2",
                               "OMPI_MCA_ess_base_jobid", "7", "OMPI_MCA_orte_hnp_uri",
                               "1155006464.0;tcp://192.0.2.2,10.0.0.2:35273;tcp6://[fd00::2]:44895", NULL};
    const char *const mute[] = {"OMPI_COMM_WORLD_RANK", "1", "OMPI_COMM_WORLD_SIZE", "4", "OMPI_COMM_WORLD_LOCAL_SIZE", "2", NULL};
    struct xp_launch l;

    cr_assert_eq(detect(&l, env, ""), XP_OK, "%s", err);
    cr_assert_str_eq(l.host, "192.0.2.2");
    cr_assert_eq(detect(&l, mute, ""), XP_ERR_INVALID_ARG);
    cr_assert(strstr(err, "CROSSPRESS_ROOT"), "%s", err);
    cr_assert_eq(detect(&l, mute, "10.0.0.9:5000"), XP_OK, "%s", err);
    cr_assert_str_eq(l.host, "10.0.0.9");
}

Test(launcher, openmpi_uris)
{
    char host[32];

    cr_assert(xp_ompi_uri_host("1.0;tcp://10.0.0.1:99", host, sizeof(host)));
    cr_assert_str_eq(host, "10.0.0.1");
    cr_assert(!xp_ompi_uri_host(NULL, host, sizeof(host)));
    cr_assert(!xp_ompi_uri_host("", host, sizeof(host)));
    cr_assert(!xp_ompi_uri_host("1.0;tcp://", host, sizeof(host)));
    cr_assert(!xp_ompi_uri_host("1.0;tcp6://[::1]:9", host, sizeof(host)));
    cr_assert(!xp_ompi_uri_host("tcp://a-name-that-is-longer-than-the-room-for-it:1", host, sizeof(host)));
}

Test(launcher, mpich)
{
    const char *const env[] = {"PMI_RANK", "1", "PMI_SIZE", "2", "PMI_FD", "8", NULL};
    struct xp_launch l;

    cr_assert_eq(detect(&l, env, ""), XP_OK, "%s", err);
    cr_assert_eq(l.pmi_fd, 8);
    cr_assert_eq(l.rank, 1);
    cr_assert_eq(detect(&l, env, "127.0.0.1:4000"), XP_OK);
    cr_assert(l.pmi_fd < 0, "CROSSPRESS_ROOT makes PMI unnecessary");
}

Test(launcher, slurm)
{
    const char *const env[] = {"SLURM_PROCID", "5", "SLURM_NTASKS", "16", "SLURM_JOB_ID", "4711", "SLURM_STEP_ID", "0",
                               "SLURM_STEP_NODELIST", "gpu[03-07,12],x1", "SLURM_STEP_NUM_NODES", "6", NULL};
    const char *const single[] = {"SLURM_PROCID", "1", "SLURM_NTASKS", "2", "SLURM_JOB_ID", "4711", "SLURM_STEP_ID", "0",
                                  "SLURM_STEP_NODELIST", "gpu03", "SLURM_STEP_NUM_NODES", "1", NULL};
    const char *const batch[] = {"SLURM_PROCID", "0", "SLURM_NTASKS", "16", "SLURM_JOB_ID", "4711", NULL};
    struct xp_launch l;

    cr_assert_eq(detect(&l, env, ""), XP_OK, "%s", err);
    cr_assert_str_eq(l.host, "gpu03");
    cr_assert_eq(l.rank, 5);
    cr_assert_eq(l.size, 16);
    cr_assert_eq(detect(&l, single, ""), XP_OK, "%s", err);
    cr_assert_str_eq(l.host, "127.0.0.1");
    cr_assert_eq(detect(&l, batch, ""), XP_ERR_INVALID_ARG, "a batch script outside srun is not a rank");
}

Test(launcher, slurm_node_lists)
{
    static const char *const good[][2] = {{"a", "a"}, {"node1", "node1"}, {"node1,node2", "node1"}, {"node[1-4]", "node1"},
                                          {"node[007,009]", "node007"}, {"n[10-12]-x", "n10"}, {"a-b[3]", "a-b3"}};
    static const char *const bad[] = {"", ",", "[", "node[", "node[]", "node[x]", NULL};
    char host[16];

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        cr_assert(xp_slurm_first_host(good[i][0], host, sizeof(host)), "%s", good[i][0]);
        cr_assert_str_eq(host, good[i][1], "of \"%s\"", good[i][0]);
    }
    for (size_t i = 0; bad[i]; i++)
        cr_assert(!xp_slurm_first_host(bad[i], host, sizeof(host)), "\"%s\" gave \"%s\"", bad[i], host);
    cr_assert(!xp_slurm_first_host(NULL, host, sizeof(host)));
    cr_assert(!xp_slurm_first_host("a-host-name-too-long", host, sizeof(host)));
}

Test(launcher, spawn)
{
    const char *const env[] = {"CROSSPRESS_RANK", "0", "CROSSPRESS_SIZE", "2", "CROSSPRESS_ROOT", "127.0.0.1:4000",
                               "CROSSPRESS_LISTEN_FD", "5", "RANK", "7", "WORLD_SIZE", "8", "MASTER_ADDR", "x", NULL};
    struct xp_launch l;

    cr_assert_eq(detect(&l, env, "127.0.0.1:4000"), XP_OK, "%s", err);
    cr_assert_str_eq(l.name, "spawn");
    cr_assert_eq(l.listen_fd, 5);
    cr_assert_eq(l.size, 2);
}
