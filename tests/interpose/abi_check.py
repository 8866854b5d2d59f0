#!/usr/bin/env python3
# abi_check.py - our own declarations of NCCL and CUDA against the headers that are installed; skipped where there are none
#
# usage: abi_check.py CC SOURCE_ROOT [INCLUDE_DIR]...      CC: gcc, which can list prototypes (-aux-info)
# SPDX-License-Identifier: Apache-2.0
import os
import re
import subprocess
import sys
import tempfile

cc, root = sys.argv[1], os.path.abspath(sys.argv[2])
folders = sys.argv[3:] + ["/usr/include", "/usr/local/include", "/usr/local/cuda/include", "/opt/cuda/include"]


def header(name):
    return next((os.path.join(f, name) for f in folders if os.path.exists(os.path.join(f, name))), None)


def compile_c(text, *args):
    with tempfile.TemporaryDirectory() as folder:
        source, out = os.path.join(folder, "a.c"), os.path.join(folder, "out")
        with open(source, "w") as f:
            f.write(text)
        command = [cc, "-std=gnu11", "-w", "-I" + root, "-I" + os.path.join(root, "lib/include"), source] + [a.format(out=out) for a in args]
        done = subprocess.run(command, stderr=subprocess.PIPE, cwd=folder)
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        if "-aux-info" in args:
            with open(out) as f:
                return f.read()
        return subprocess.run([out], stdout=subprocess.PIPE, check=True).stdout.decode()


def prototypes(include, prefix, plain):
    text = compile_c(f'#include <stddef.h>\n#include "{include}"\n', "-fsyntax-only", "-aux-info", "{out}")
    found = {}
    for line in text.splitlines():
        line = re.sub(r"/\*.*?\*/", "", line).strip()
        match = re.match(rf"extern (.*?)\b({prefix}\w+) \((.*)\);", line)
        if match:
            found[match.group(2)] = " ".join(plain(f"{match.group(1)}({match.group(3) or 'void'})").split())
    return found


def compare(ours, theirs, prefix, plain=lambda s: s):
    mine, real = prototypes(ours, prefix, plain), prototypes(theirs, prefix, plain)
    both = sorted(mine.keys() & real.keys())
    print(f"{ours}: {len(both)} functions as in {theirs}; not there: {' '.join(sorted(mine.keys() - real.keys())) or 'none'}")
    return [f"{name}\n  ours  {mine[name]}\n  real  {real[name]}" for name in both if mine[name] != real[name]] + \
        ([] if len(both) > 20 else ["hardly anything was compared"])


def values(include, names):
    lines = "".join(f'    printf("{n} %lld\\n", (long long)({n}));\n' for n in names)
    return compile_c(f'#include <stddef.h>\n#include "{include}"\n#include <stdio.h>\nint main(void)\n{{\n{lines}    return 0;\n}}\n',
                     "-o", "{out}")


NCCL = ["ncclInvalidUsage", "ncclRemoteError", "ncclInProgress", "ncclChar", "ncclUint8", "ncclInt64", "ncclUint64", "ncclHalf",
        "ncclFloat", "ncclDouble", "ncclBfloat16", "ncclFloat8e4m3", "ncclFloat8e5m2", "ncclAvg", "ncclNumOps",
        "ncclScalarHostImmediate", "NCCL_SPLIT_NOCOLOR", "NCCL_SHRINK_ABORT", "NCCL_WIN_COLL_SYMMETRIC", "sizeof(ncclUniqueId)",
        "sizeof(ncclResult_t)", "sizeof(ncclDataType_t)", "sizeof(ncclRedOp_t)", "sizeof(ncclSimInfo_t)",
        "offsetof(ncclSimInfo_t, estimatedTime)"]
CUDA = ["cudaErrorNotReady", "cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaMemcpyDefault", "cudaEventDisableTiming",
        "cudaStreamNonBlocking", "cudaHostAllocPortable", "cudaHostAllocMapped", "cudaStreamCaptureModeRelaxed",
        "cudaStreamCaptureModeGlobal", "cudaStreamCaptureStatusActive", "cudaStreamCaptureStatusInvalidated"]


def cuda_plain(prototype):
    """Enumerations and error codes are ints with us, edges are not typed."""
    return re.sub(r"\b(enum \w+|cudaError_t|cudaMemoryType)\b", "int",
                  re.sub(r"\bunsigned int\b", "unsigned",
                         re.sub(r"struct CU(\w+)_st \*", r"cuda\1 ", prototype))).replace("const cudaGraphNode_t", "const void").replace(
        "cudaGraphEdgeData", "void")


def main():
    nccl, cuda, wrong = header("nccl.h"), header("cuda_runtime_api.h"), []
    if not nccl and not cuda:
        print("neither nccl.h nor cuda_runtime_api.h is installed")
        return 77
    if nccl:
        wrong += compare("lib/interpose/nccl_abi.h", nccl, "nccl")
        if values("lib/interpose/nccl_abi.h", NCCL) != values(nccl, NCCL):
            wrong.append("values of NCCL differ")
    if cuda:
        wrong += compare("tests/cuemu/cudart.h", cuda, "cuda", cuda_plain)
        ours = values("tests/cuemu/cudart.h", ["xp_" + n for n in CUDA]).replace("xp_", "")
        if ours != values(cuda, CUDA):
            wrong.append("values of CUDA differ")
    print("\n".join(wrong))
    return 1 if wrong else 0


sys.exit(main())
