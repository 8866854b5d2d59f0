/*
 * driver.c - runs a fuzz target without a fuzzer: its seeds, the files given, and mutations of both
 *
 * usage: <target> [--runs N] [--seed S] [--write DIR] [corpus file ...]
 *   --write   only writes the seeds into DIR, for a fuzzer to start from
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/harness/random.h"

#define ROOM (1 << 16)
#define MOST 256

static uint8_t *inputs[MOST];
static size_t lengths[MOST], count;

static void remember(const uint8_t *data, size_t size)
{
    if (count == MOST)
        return;
    inputs[count] = malloc(size + 1);
    memcpy(inputs[count], data, size);
    lengths[count++] = size;
}

static void read_file(const char *path)
{
    static uint8_t data[ROOM];
    FILE *f = fopen(path, "rb");
    size_t size;

    if (!f) {
        perror(path);
        exit(1);
    }
    size = fread(data, 1, sizeof(data), f);
    fclose(f);
    remember(data, size);
}

static const uint64_t corners[] = { 0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0xffffffff, 1ull << 32, UINT64_MAX, 1ull << 63 };

/* One change; returns the new length. */
static size_t mutate(struct random *r, uint8_t *data, size_t size)
{
    size_t at = size ? random_below(r, size) : 0, n, k;
    uint64_t v;

    switch (random_below(r, 8)) {
    case 0: case 1:
        if (size)
            data[at] ^= (uint8_t)(1 << random_below(r, 8));
        return size;
    case 2:
        if (size)
            data[at] = (uint8_t)random_bits(r);
        return size;
    case 3: /* a number of 1 to 8 bytes */
        v = corners[random_below(r, sizeof(corners) / sizeof(corners[0]))];
        for (n = 1u << random_below(r, 4), k = 0; k < n && at + k < size; k++)
            data[at + k] = (uint8_t)(v >> 8 * k);
        return size;
    case 4: /* cut */
        return random_below(r, 4) ? size : at;
    case 5: /* take out */
        n = random_below(r, 16) + 1;
        if (at + n > size)
            return size;
        memmove(data + at, data + at + n, size - at - n);
        return size - n;
    case 6: /* put in */
        n = random_below(r, 16) + 1;
        if (size + n > ROOM)
            return size;
        memmove(data + at + n, data + at, size - at);
        for (k = 0; k < n; k++)
            data[at + k] = (uint8_t)random_bits(r);
        return size + n;
    default: /* a piece of another input */
        k = random_below(r, count);
        if (lengths[k] == 0)
            return size;
        v = random_below(r, lengths[k]);
        n = random_below(r, lengths[k] - (size_t)v) + 1;
        if (at + n > ROOM)
            n = ROOM - at;
        memcpy(data + at, inputs[k] + v, n);
        return at + n > size ? at + n : size;
    }
}

static int write_seeds(const char *folder)
{
    char path[4096];

    for (size_t i = 0; i < count; i++) {
        FILE *f;

        snprintf(path, sizeof(path), "%s/seed%zu", folder, i);
        f = fopen(path, "wb");
        if (!f || fwrite(inputs[i], 1, lengths[i], f) != lengths[i] || fclose(f)) {
            perror(path);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    static uint8_t data[ROOM];
    unsigned long runs = 20000;
    const char *folder = NULL;
    struct random rng = random_start(argv[0]);
    size_t size;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--runs") && i + 1 < argc)
            runs = strtoul(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            rng = random_seeded(strtoull(argv[++i], NULL, 0));
        else if (!strcmp(argv[i], "--write") && i + 1 < argc)
            folder = argv[++i];
        else
            read_file(argv[i]);
    }
    for (unsigned i = 0; (size = fuzz_seed(i, data, ROOM)) > 0; i++)
        remember(data, size);
    if (folder)
        return write_seeds(folder);
    if (!count) {
        printf("no inputs\n");
        return 1;
    }
    for (size_t i = 0; i < count; i++)
        LLVMFuzzerTestOneInput(inputs[i], lengths[i]);
    for (unsigned long run = 0; run < runs; run++) {
        size_t from = random_below(&rng, count), changes = 1 + random_below(&rng, 6);
        uint8_t *exact;

        memcpy(data, inputs[from], lengths[from]);
        size = lengths[from];
        while (changes--)
            size = mutate(&rng, data, size);
        exact = malloc(size + 1); /* so that a read behind the input is seen by ASan */
        memcpy(exact, data, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("%zu inputs, %lu mutations\n", count, runs);
    return 0;
}
