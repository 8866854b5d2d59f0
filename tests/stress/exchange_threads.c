/*
 * exchange_threads.c - exchanges and MoE layers on ranks that are threads, two comms at a time: a plain program, for sanitizers
 *
 *     exchange_threads [SECONDS] [SEED]
 *
 * Random shapes, modes and algorithms until the time is up; every result is compared with the plain reference. Two worlds run at
 * once, so that different comms are used by different threads of one process. Exit code 0 passed, 1 failed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/clock.h"
#include "tests/harness/layer.h"
#include "tests/harness/random.h"
#include "tests/harness/ranks.h"
#include "tests/harness/world.h"

static const struct world worlds[] = {{{2}}, {{1, 1}}, {{2, 1}}, {{2, 2}, 1}, {{1, 2, 1}}, {{3, 1}, 1}};

struct half {
    struct random random;
    double until;
    unsigned cases;
    char why[2 * WORLD_TEXT];
};

static struct exchange random_exchange(struct random *r)
{
    static const char *const algos[] = {"flat", "hier", "leader", NULL};
    xp_mode mode = XP_MODE_RAW + (xp_mode)random_below(r, 3);
    return (struct exchange){.pattern = random_below(r, PATTERNS),
                             .filling = random_below(r, FILLINGS),
                             .rows = random_below(r, 60),
                             .dim = 1 + random_below(r, 400),
                             .dtype = XP_BF16 + random_below(r, mode == XP_MODE_BOUNDED ? 3 : 4),
                             .mode = mode,
                             .eps = mode == XP_MODE_BOUNDED ? 0.01 + 0.2 * random_unit(r) : 0,
                             .algo = algos[random_below(r, 4)],
                             .codec = mode == XP_MODE_BOUNDED && random_below(r, 2) ? "quant" : NULL,
                             .seed = random_bits(r),
                             .calls = 1 + (int)random_below(r, 4)};
}

static struct layer random_layer(struct random *r)
{
    static const char *const algos[] = {"flat", "hier", "leader", NULL};
    xp_mode mode = XP_MODE_RAW + (xp_mode)random_below(r, 3);
    int experts = 4 + (int)random_below(r, 20);
    return (struct layer){.choice = random_below(r, CHOICES),
                          .tokens = random_below(r, 50),
                          .dim = 1 + random_below(r, 200),
                          .experts = experts,
                          .topk = 1 + (int)random_below(r, 4),
                          .dtype = XP_BF16 + (unsigned)random_below(r, 3),
                          .mode = mode,
                          .eps = mode == XP_MODE_BOUNDED ? 0.01 + 0.2 * random_unit(r) : 0,
                          .algo = algos[random_below(r, 4)],
                          .combine = random_below(r, 3),
                          .moving = (int)random_below(r, 2),
                          .steps = 1 + (int)random_below(r, 2),
                          .seed = random_bits(r) >> 20};
}

/* Every fourth case is a MoE layer. */
static void run_case(struct half *h, struct world *w)
{
    if (random_below(&h->random, 4) == 0) {
        struct layer l = random_layer(&h->random);
        const char *why = world_run(w, layer_body, &l);
        if (why[0])
            snprintf(h->why, sizeof h->why, "%s: %s", layer_text(&l, w), why);
    } else {
        struct exchange e = random_exchange(&h->random);
        const char *why = world_run(w, exchange_body, &e);
        if (why[0])
            snprintf(h->why, sizeof h->why, "%s: %s", exchange_text(&e, w), why);
    }
    h->cases++;
}

static void *run_half(void *arg)
{
    struct half *h = arg;
    while (clock_now() < h->until && !h->why[0]) {
        struct world w = worlds[random_below(&h->random, sizeof worlds / sizeof *worlds)];
        w.timeout = 60;
        w.no_watchdog = 1;
        run_case(h, &w);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 3;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL);
    struct half halves[2] = {{.random = random_seeded(seed)}, {.random = random_seeded(seed + 1)}};
    pthread_t thread;
    printf("exchange_threads: seed %llu\n", (unsigned long long)seed);
    halves[0].until = halves[1].until = clock_now() + seconds;
    if (pthread_create(&thread, NULL, run_half, &halves[1]) != 0)
        return 1;
    run_half(&halves[0]);
    pthread_join(thread, NULL);
    for (int i = 0; i < 2; i++)
        if (halves[i].why[0])
            printf("failed: %s\n", halves[i].why);
    printf("%u cases\n", halves[0].cases + halves[1].cases);
    return halves[0].why[0] || halves[1].why[0] || halves[0].cases + halves[1].cases < 4;
}
