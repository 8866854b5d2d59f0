/*
 * fuzz.h - what a fuzz target is: one function for one input, and inputs to start from
 *
 * Built twice: with driver.c (always; replays seeds, corpus files and seeded mutations) and, with -Dfuzz=true and clang, with
 * libFuzzer. A target aborts on a broken promise.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TEST_FUZZ_H
#define XP_TEST_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Input number i to mutate from; returns its length, 0 behind the last. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t room);

/* Says what is broken and aborts. */
#define fuzz_require(condition, ...)                                  \
    do {                                                              \
        if (!(condition)) {                                           \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                             \
            fputc('\n', stderr);                                      \
            abort();                                                  \
        }                                                             \
    } while (0)

#endif
