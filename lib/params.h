/*
 * params.h - the settings: one table, read once at comm creation
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PARAMS_H
#define XP_PARAMS_H

#include "crosspress/crosspress.h"

struct xp_params {
    xp_mode mode;          /* MODE: raw, exact, bounded, bounded:EPS */
    double eps;            /* EPS */
    xp_eps_ref eps_ref;    /* EPS_REF: min, row */
    char codec[32];        /* CODEC */
    double rate;           /* RATE (folded mode) */
    char algo[16];         /* ALGO */
    char isa[16];          /* ISA */
    char transport[16];    /* TRANSPORT */
    char row[32];          /* ROW: type:dim (interposer) */
    double timeout;        /* TIMEOUT, seconds */
    char secret[128];      /* SECRET */
    char root[128];        /* ROOT: host:port of rank 0 */
    char node[128];        /* NODE */
    char interface_[32];   /* INTERFACE */
    int log;               /* LOG: none, error, warn, info, debug */
    int stats;             /* STATS */
    size_t chunk;          /* CHUNK: bytes of rows in one message */
    double heartbeat;      /* HEARTBEAT: seconds between heartbeats; a peer silent for 10 of them is gone */
    /* read by lib/interpose only */
    char groups[16];       /* GROUPS: off, auto, complete, sparse */
    size_t min_size;       /* MIN_SIZE: bytes of a message */
    char rules[512];       /* RULES: parsed in interpose/rules.c */
    char nccl_path[1024];  /* NCCL_PATH */
};

struct xp_param_info {
    const char *name, *type, *def, *help; /* name without CROSSPRESS_ */
};

/* The table, ended by a NULL name. */
const struct xp_param_info *xp_params_table(void);

/* Defaults, then the environment. On a value that does not parse: XP_ERR_INVALID_ARG and err names variable and value. warn is
 * called once per unknown CROSSPRESS_* variable with a finished sentence naming the nearest setting. */
xp_status xp_params_read(struct xp_params *p, void (*warn)(void *user, const char *text), void *user, char *err, size_t err_size);

/* Text of one value and where it came from ("default", "environment"), for xp_info. */
void xp_params_show(const struct xp_params *p, const char *name, char *value, size_t size, const char **source);

#endif
