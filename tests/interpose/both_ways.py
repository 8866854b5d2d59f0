#!/usr/bin/env python3
# both_ways.py - runs an NCCL program on the doubles alone and with our layer in several ways, and compares what it prints
#
# usage: both_ways.py --nccl LIB --cuda LIB [--preload LIB] [--replacement LIB] [OPTION]... PROGRAM ARG...
#   --preload LIB       a run with the layer preloaded before NCCL
#   --replacement LIB   a run with the layer in NCCL's place, found through LD_LIBRARY_PATH
#   --host-blocking     one more run of the former without libcuda: calls then block instead of streams
#   --groups WHAT       CROSSPRESS_GROUPS (complete)
#   --per-node N        ranks on one node, as the layer is told (2)
#   --transport NAME    CROSSPRESS_TRANSPORT
#   --deadline S        CROSSPRESS_TIMEOUT, and CLIENT_DEADLINE, by which the program knows that there is one
#   --diverts           at least one rank must say that the layer took an exchange over
#   --unprotected       the host could touch device memory (protecting much of it takes long)
#   --before LIB        a sanitizer's library, which wants to come first
# SPDX-License-Identifier: Apache-2.0
import argparse
import os
import random
import re
import subprocess
import sys


def run(command, env, leg):
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done.log = done.stderr.decode(errors="replace")
    if done.returncode:
        sys.stderr.write("".join(f"{leg}: {line}\n" for line in done.log.splitlines()))
        print(f"{leg}: exit code {done.returncode}")
    return done


def complaint(alone, layered, leg, must_divert):
    if alone.stdout != layered.stdout:
        both = zip(alone.stdout.decode().splitlines(), layered.stdout.decode().splitlines())
        return f"{leg}: the program prints something else\n" + "".join(
            f"  alone  {a}\n  layer  {b}\n" for a, b in both if a != b)
    if "before NCCL" not in layered.log:
        return f"{leg}: the layer was not there"
    if must_divert and not re.search(r"[1-9][0-9]* exchanges diverted", layered.log):
        return f"{leg}: the layer took nothing over\n{layered.log}"
    return None


def legs(args, base):
    """Name and environment of each run with the layer."""
    common = dict(base, CROSSPRESS_GROUPS=args.groups, CROSSPRESS_MIN_SIZE="1", CROSSPRESS_LOG="info", CROSSPRESS_STATS="1",
                  CLIENT_PER_NODE=args.per_node)
    if args.transport:
        common["CROSSPRESS_TRANSPORT"] = args.transport
    if args.deadline:
        common["CROSSPRESS_TIMEOUT"] = common["CLIENT_DEADLINE"] = args.deadline
    if args.preload:
        preload = ":".join(filter(None, (args.before, args.preload)))
        yield "preloaded", dict(common, LD_PRELOAD=preload)
        if args.host_blocking:
            yield "preloaded, host-blocking", dict(common, LD_PRELOAD=preload, CUEMU_DRIVER="0")
    if args.replacement:
        path = os.path.dirname(args.replacement) + ":" + base["LD_LIBRARY_PATH"]
        yield "replacement", dict(common, LD_LIBRARY_PATH=path, CROSSPRESS_NCCL_PATH=args.nccl, VLLM_NCCL_SO_PATH=args.replacement)


def main():
    parser = argparse.ArgumentParser()
    for name in ("nccl", "cuda"):
        parser.add_argument("--" + name, required=True)
    for name, default in (("preload", ""), ("replacement", ""), ("before", ""), ("transport", ""), ("deadline", ""), ("groups", "complete"),
                          ("per-node", "2")):
        parser.add_argument("--" + name, default=default)
    for name in ("diverts", "host-blocking", "unprotected"):
        parser.add_argument("--" + name, action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()

    base = dict(os.environ)
    base.setdefault("CUEMU_SEED", str(random.randrange(1 << 20) * 64))
    print(f"CUEMU_SEED={base['CUEMU_SEED']}", flush=True)
    if not args.unprotected:
        base["CUEMU_PROTECT"] = "1"
    base["LD_LIBRARY_PATH"] = os.path.dirname(args.nccl) + ":" + os.path.dirname(args.cuda)

    alone = run(args.command, base, "alone")
    if alone.returncode:
        return alone.returncode
    for leg, env in legs(args, base):
        layered = run(args.command, env, leg)
        wrong = complaint(alone, layered, leg, args.diverts) if layered.returncode == 0 else f"{leg} failed"
        if wrong:
            print(wrong)
            return 1
    return 0


sys.exit(main())
