/*
 * reduce.c - sums of the NCCL double, in the order of ranks
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "tests/fake_nccl/fake_nccl.h"
#include <string.h>

#define MAX_OPS 64

/* Operations that users made: a factor for each contribution. Numbers are never used twice. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static double factors[MAX_OPS];
static int nfactors;

ncclResult_t fake_reduce_check(struct ncclComm *comm, int op, int type)
{
    if (op < 0 || op >= ncclNumOps + nfactors)
        return fake_error(ncclInvalidArgument, "rank %d: reduction %d is not known", comm->rank, op);
    if (type == ncclFloat8e4m3 || type == ncclFloat8e5m2)
        return fake_error(ncclInvalidArgument, "the double does not reduce 8-bit floats");
    return ncclSuccess;
}

static bool is_float(int type)
{
    return type >= ncclFloat16 && type <= ncclBfloat16;
}

static double load_float(const char *p, int type, size_t i)
{
    double d;

    if (type == ncclFloat64) {
        memcpy(&d, p + 8 * i, 8);
        return d;
    }
    return xp_load_f32(p, type == ncclFloat32 ? XP_F32 : type == ncclBfloat16 ? XP_BF16 : XP_F16, i);
}

static void store_float(char *p, int type, size_t i, double v)
{
    if (type == ncclFloat64)
        memcpy(p + 8 * i, &v, 8);
    else
        xp_store_f32(p, type == ncclFloat32 ? XP_F32 : type == ncclBfloat16 ? XP_BF16 : XP_F16, i, (float)v);
}

static double join_float(double a, double b, int op)
{
    switch (op) {
    case ncclProd: return a * b;
    case ncclMax: return a > b ? a : b;
    case ncclMin: return a < b ? a : b;
    default: return a + b;
    }
}

static void reduce_float(int n, char *out, const char *in, size_t count, int type, int op)
{
    double factor = op >= ncclNumOps ? factors[op - ncclNumOps] : 1;

    for (size_t i = 0; i < count; i++) {
        double v = factor * load_float(in, type, i);
        for (int r = 1; r < n; r++)
            v = join_float(v, factor * load_float(in, type, (size_t)r * count + i), op);
        store_float(out, type, i, op == ncclAvg ? v / n : v);
    }
}

/* Integers of one to eight bytes; the even types are the signed ones. */
static int64_t load_int(const char *p, int type, size_t i)
{
    size_t bytes = fake_type_bytes(type);
    uint64_t v = 0;

    memcpy(&v, p + bytes * i, bytes);
    if (type % 2 == 0 && bytes < 8 && v >> (8 * bytes - 1))
        v |= ~(uint64_t)0 << 8 * bytes;
    return (int64_t)v;
}

static int64_t join_int(int64_t a, int64_t b, int type, int op)
{
    bool less = type % 2 ? (uint64_t)a < (uint64_t)b : a < b;

    switch (op) {
    case ncclProd: return (int64_t)((uint64_t)a * (uint64_t)b);
    case ncclMax: return less ? b : a;
    case ncclMin: return less ? a : b;
    default: return (int64_t)((uint64_t)a + (uint64_t)b);
    }
}

static void reduce_int(int n, char *out, const char *in, size_t count, int type, int op)
{
    size_t bytes = fake_type_bytes(type);
    int64_t factor = op >= ncclNumOps ? (int64_t)factors[op - ncclNumOps] : 1;

    for (size_t i = 0; i < count; i++) {
        int64_t v = factor * load_int(in, type, i);
        for (int r = 1; r < n; r++)
            v = join_int(v, factor * load_int(in, type, (size_t)r * count + i), type, op);
        if (op == ncclAvg)
            v = type % 2 ? (int64_t)((uint64_t)v / (uint64_t)n) : v / n;
        memcpy(out + bytes * i, &v, bytes);
    }
}

void fake_reduce(struct ncclComm *comm, void *out, const char *in, size_t count, int type, int op)
{
    (is_float(type) ? reduce_float : reduce_int)(comm->n, out, in, count, type, op);
}

ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t *op, void *scalar, ncclDataType_t type, ncclScalarResidence_t residence,
                                      ncclComm_t comm);
ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t comm);

NCCL_API(ncclResult_t, ncclRedOpCreatePreMulSum, ncclRedOp_t *op, void *scalar, ncclDataType_t type,
         ncclScalarResidence_t residence, ncclComm_t comm)
{
    ncclResult_t result = fake_check_comm(comm);

    if (result)
        return result;
    if (!op || !scalar || !fake_type_bytes(type))
        return fake_error(ncclInvalidArgument, "ncclRedOpCreatePreMulSum: an argument is not valid");
    if (residence != ncclScalarHostImmediate)
        return fake_error(ncclInvalidUsage, "the double takes factors from host memory only");
    pthread_mutex_lock(&lock);
    if (nfactors == MAX_OPS) {
        result = fake_error(ncclInternalError, "the double has no room for more reductions");
    } else {
        factors[nfactors] = is_float(type) ? load_float(scalar, type, 0) : (double)load_int(scalar, type, 0);
        *op = (ncclRedOp_t)(ncclNumOps + nfactors++);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

NCCL_API(ncclResult_t, ncclRedOpDestroy, ncclRedOp_t op, ncclComm_t comm)
{
    if ((int)op < ncclNumOps || (int)op >= ncclNumOps + nfactors)
        return fake_error(ncclInvalidArgument, "ncclRedOpDestroy: %d was not made by ncclRedOpCreate", (int)op);
    return ncclSuccess;
}
