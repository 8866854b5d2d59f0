/*
 * board.c - what the processes of a trial in which a rank dies tell each other
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/harness/board.h"

struct board *board;

int board_open(void)
{
    void *p = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return -1;
    board = p;
    return 0;
}

void board_clear(void)
{
    memset(board, 0, sizeof(*board));
}

int board_complain(const char *text, const char *detail)
{
    if (board->failure[0] == '\0')
        snprintf(board->failure, sizeof(board->failure), "%s: %s", text, detail);
    return 1;
}
