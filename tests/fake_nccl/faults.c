/*
 * faults.c - what the environment makes go wrong in the NCCL double, its call log, and the text of the last error
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/fake_nccl/fake_nccl.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char last_error[512];
static FILE *log_file;

#define MAX_NAMES 128
static struct {
    char name[48];
    uint64_t calls;
} counted[MAX_NAMES];

double fake_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

ncclResult_t fake_error(ncclResult_t code, const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&lock);
    va_start(args, format);
    vsnprintf(last_error, sizeof last_error, format, args);
    va_end(args);
    pthread_mutex_unlock(&lock);
    return code;
}

const char *fake_last_error(void)
{
    return last_error;
}

/* Finds "what", "what#n" and the value behind '='. */
static bool entry(const char *what, uint64_t n, long *value)
{
    const char *list = getenv("FAKE_NCCL_FAULTS");
    size_t length = strlen(what);

    for (const char *at = list; at && *at; at = strpbrk(at, ",;"), at += at != NULL) {
        char *end = (char *)at + length;
        if (strncmp(at, what, length) != 0 || (*end && !strchr("#=,;", *end)))
            continue;
        if (*end == '#' && strtoull(end + 1, &end, 10) != n)
            continue;
        *value = *end == '=' ? strtol(end + 1, NULL, 0) : 0;
        return true;
    }
    return false;
}

long fake_setting(const char *what, long otherwise)
{
    long value;

    return entry(what, 0, &value) ? value : otherwise;
}

static bool concerns(const struct ncclComm *comm)
{
    const char *rank = getenv("FAKE_NCCL_FAULT_RANK");

    return !rank || !*rank || !comm || atoi(rank) == comm->rank;
}

bool fake_fault_at(const char *what, const struct ncclComm *comm, uint64_t n, long *value)
{
    return getenv("FAKE_NCCL_FAULTS") && concerns(comm) && entry(what, n, value);
}

static uint64_t count(const char *call)
{
    uint64_t n = 0;

    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_NAMES; i++) {
        if (!counted[i].name[0])
            snprintf(counted[i].name, sizeof counted[i].name, "%s", call);
        if (strcmp(counted[i].name, call) == 0) {
            n = ++counted[i].calls;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return n;
}

int fake_fault(const char *call, const struct ncclComm *comm)
{
    char delayed[64];
    long value;

    if (!getenv("FAKE_NCCL_FAULTS"))
        return FAKE_NO_FAULT;
    uint64_t n = count(call);
    snprintf(delayed, sizeof delayed, "delay:%s", call);
    if (fake_fault_at(delayed, comm, n, &value))
        usleep((useconds_t)value * 1000);
    if (!fake_fault_at(call, comm, n, &value))
        return FAKE_NO_FAULT;
    return (int)fake_error((ncclResult_t)value, "%s: call %llu fails as FAKE_NCCL_FAULTS asks", call, (unsigned long long)n);
}

void fake_log(const char *format, ...)
{
    const char *prefix = getenv("FAKE_NCCL_LOG");
    char path[512];
    va_list args;

    if (!prefix || !*prefix)
        return;
    pthread_mutex_lock(&lock);
    if (!log_file) {
        snprintf(path, sizeof path, "%s.%d", prefix, (int)getpid());
        log_file = fopen(path, "w");
    }
    if (log_file) {
        va_start(args, format);
        vfprintf(log_file, format, args);
        va_end(args);
        fputc('\n', log_file);
        fflush(log_file);
    }
    pthread_mutex_unlock(&lock);
}
