/*
 * client_config.h - ncclConfig_t as programs built with NCCL 2.18 pass it; every later release takes it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef INTERPOSE_CLIENT_CONFIG_H
#define INTERPOSE_CLIENT_CONFIG_H

#include "lib/interpose/nccl_abi.h"

struct config_2_18 {
    size_t size;
    unsigned magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
};

static inline struct config_2_18 config_with(int blocking)
{
    return (struct config_2_18){.size = sizeof(struct config_2_18),
                                .magic = NCCL_CONFIG_MAGIC,
                                .version = XP_NCCL_VERSION(2, 18, 1),
                                .blocking = blocking,
                                .cga_cluster_size = NCCL_UNDEF_INT,
                                .min_ctas = NCCL_UNDEF_INT,
                                .max_ctas = NCCL_UNDEF_INT,
                                .net_name = NULL,
                                .split_share = NCCL_UNDEF_INT};
}

#endif
