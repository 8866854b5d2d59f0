/*
 * board.h - what the processes of a trial in which a rank dies tell each other: when it died, and the first complaint
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BOARD_H
#define BOARD_H

#include <stdatomic.h>

struct board {
    atomic_int joined;  /* the victim has its communicator */
    double when;        /* the victim met its fate, clock_now */
    double worst;       /* longest time from then to an error */
    char failure[512];  /* first complaint of a survivor */
};

extern struct board *board;

/* Shared with the processes that are forked after it. 0, or -1. */
int board_open(void);

/* For the next trial. */
void board_clear(void);

/* Notes what is wrong, unless somebody has. Returns 1. */
int board_complain(const char *text, const char *detail);

#endif
