#!/usr/bin/env python3
# both_ways.py - runs an NCCL program on the doubles alone and with our layer preloaded, and compares what it prints
#
# usage: both_ways.py --nccl LIB --cuda LIB --preload LIB [--groups complete|sparse] [--per-node N] [--diverts] [--alone] PROGRAM ARG...
# --diverts: at least one rank must say that the layer took an exchange over
# --alone: without the layer only
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


def complaint(alone, preloaded, must_divert):
    if alone.stdout != preloaded.stdout:
        both = zip(alone.stdout.decode().splitlines(), preloaded.stdout.decode().splitlines())
        return "the program prints something else with the layer preloaded\n" + "".join(
            f"  alone      {a}\n  preloaded  {b}\n" for a, b in both if a != b)
    if "before NCCL" not in preloaded.log:
        return "the layer was not there"
    if must_divert and not re.search(r"[1-9][0-9]* exchanges diverted", preloaded.log):
        return "the layer took nothing over:\n" + preloaded.log
    return None


def main():
    parser = argparse.ArgumentParser()
    for name in ("nccl", "cuda", "preload"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--groups", default="complete")
    parser.add_argument("--per-node", default="2")
    parser.add_argument("--diverts", action="store_true")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()

    base = dict(os.environ)
    base.setdefault("CUEMU_SEED", str(random.randrange(1 << 20) * 64))
    print(f"CUEMU_SEED={base['CUEMU_SEED']}", flush=True)
    base["LD_LIBRARY_PATH"] = os.path.dirname(args.cuda) + ":" + base.get("LD_LIBRARY_PATH", "")
    layer = dict(base, LD_PRELOAD=args.preload, CROSSPRESS_GROUPS=args.groups, CROSSPRESS_MIN_SIZE="1", CROSSPRESS_LOG="info",
                 CROSSPRESS_STATS="1", CLIENT_PER_NODE=args.per_node)

    alone = run(args.command, base, "alone")
    if alone.returncode or args.alone:
        return alone.returncode
    preloaded = run(args.command, layer, "preloaded")
    if preloaded.returncode:
        return preloaded.returncode
    wrong = complaint(alone, preloaded, args.diverts)
    if wrong:
        print(wrong)
    return 1 if wrong else 0


sys.exit(main())
