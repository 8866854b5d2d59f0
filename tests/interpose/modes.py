#!/usr/bin/env python3
"""Token rows to their experts through the NCCL double, under the interposer in its modes: errors within the promise, bytes saved.

usage: modes.py BENCH PRELOAD NCCL CUDA ROWS.npy      (nccl_alltoallv and the libraries)

SPDX-License-Identifier: Apache-2.0
"""
import os
import re
import subprocess
import sys
import tempfile

RANKS, PER_NODE = 4, 2


def run(paths, settings, args, iters=3):
    """Output of rank 0, and what all ranks said."""
    bench, preload, nccl, cuda, rows = paths
    with tempfile.TemporaryDirectory() as folder:
        env = dict(os.environ, WORLD_SIZE=str(RANKS), NCCL_ID_FILE=folder + "/id", CROSSPRESS_STATS="1", CROSSPRESS_LOG="warn",
                   CROSSPRESS_GROUPS="complete", CROSSPRESS_TIMEOUT="60", LD_PRELOAD=preload,
                   LD_LIBRARY_PATH=os.path.dirname(nccl) + ":" + os.path.dirname(cuda))
        env.update(settings)
        ranks = []
        for r in range(RANKS):
            env.update(RANK=str(r), CROSSPRESS_NODE=f"node{r // PER_NODE}")
            ranks.append(subprocess.Popen([bench, "--tokens", "512", "--input", rows, "--iters", str(iters), "--check"] + args, env=env,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        ended = [p.communicate(timeout=100) for p in ranks]
    said = "".join(err for _, err in ended)
    if any(p.returncode for p in ranks):
        sys.exit(f"{settings} {args}: exit codes {[p.returncode for p in ranks]}\n{ended[0][0]}{said}")
    error = float(re.search(r"largest error of a row (\S+)", ended[0][0]).group(1))
    diverted = [int(n) for n in re.findall(r"(\d+) exchanges diverted", said)]
    saved = [float(x) for x in re.findall(r"saved \((\S+) %\)", said)]
    if len(diverted) != RANKS:
        sys.exit(f"{settings}: {len(diverted)} ranks printed figures\n{said}")
    return error, min(diverted), min(saved), said


def report(i, ok, text, said):
    print(f"{'ok' if ok else 'not ok'} {i} - {text}", flush=True)
    if not ok:
        print("".join(f"# {line}\n" for line in said.splitlines()))


# Fast links would make the choice of codec and algorithm depend on the machine: bounded cases name the codec.
# name, settings, arguments, largest error allowed, whether it must be lossy, diverted at all, saved at least (per cent)
SHAPE = {"CROSSPRESS_ROW": "bf16:576"}
BOUNDED = {"CROSSPRESS_MODE": "bounded:0.03", "CROSSPRESS_CODEC": "quant"}
EPS = ["--eps", "0.03"]
CASES = [
    ("exact, rows declared", SHAPE, [], 0, False, True, 45),
    ("exact, rows from the counts", {}, [], 0, False, True, 45),
    ("bounded", {**SHAPE, **BOUNDED}, EPS, 0.03, True, True, 70),
    ("bounded without declared rows stays exact", BOUNDED, [], 0, False, True, 45),
    ("bounded with rows of another type stays exact", {**BOUNDED, "CROSSPRESS_ROW": "f32:288"}, [], 0, False, True, 45),
    ("bounded by ncclAlltoAll", {**SHAPE, **BOUNDED}, EPS + ["--even"], 0.03, True, True, 40),
    ("raw", {"CROSSPRESS_MODE": "raw"}, [], 0, False, False, 0),
    ("groups off", {"CROSSPRESS_GROUPS": "off"}, [], 0, False, False, 0),
    ("a rule that turns it off", {**SHAPE, "CROSSPRESS_RULES": "4/bf16=off"}, [], 0, False, False, 0),
    ("a rule that makes it lossy", {**SHAPE, "CROSSPRESS_RULES": "2-4/bf16/1K=bounded", "CROSSPRESS_EPS": "0.05", "CROSSPRESS_CODEC": "quant"}, ["--eps", "0.05"], 0.05, True, True, 70),
    ("a rule that keeps it exact", {**SHAPE, **BOUNDED, "CROSSPRESS_RULES": "*/bf16=exact"}, [], 0, False, True, 45),
    ("too small", {"CROSSPRESS_MIN_SIZE": "64M"}, ["--even"], 0, False, False, 0),
]


# What the ranks conclude from times that the CUDA double makes up: name, times, what is said, whether what follows is diverted
# An exchange that is diverted has a group, too: what stays inside its node. With so few tokens it waits for a value once, not for parts.
FEW = ["--tokens", "128"]
VERDICTS = [
    ("an exchange that NCCL does sooner is left to it", "NCCL group=1000,wait for a value=4000", "in 5.00 of NCCL's time: the next ones go straight through", False),
    ("one that takes a little longer is not", "NCCL group=1000,wait for a value=90", "in 1.09 of NCCL's time: goes on", True),
    ("one that takes longer than that is", "NCCL group=1000,wait for a value=110", "in 1.11 of NCCL's time: the next ones go straight through", False),
]
EXCHANGES = 30  # of which the first joins the ranks, 4 bring the first verdict, and the one after 12 compares times


def verdict(paths, name, times, text, goes_on):
    settings = {**SHAPE, "CROSSPRESS_LOG": "info", "CUEMU_TIMES": times}
    _, diverted, _, said = run(paths, settings, FEW, EXCHANGES - 10)
    ok = text in said and (diverted > EXCHANGES / 2) == goes_on
    return ok, f"{name}: {diverted} of {EXCHANGES} diverted", said


def main():
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    print(f"1..{len(CASES) + len(VERDICTS)}")
    for i, (name, settings, args, allowed, lossy, must_divert, least) in enumerate(CASES, 1):
        error, diverted, saved, said = run(sys.argv[1:], settings, args)
        ok = error <= allowed and (error > 0) == lossy and saved >= least and (diverted > 0) == must_divert
        report(i, ok, f"{name}: error {error}, {diverted} diverted, {saved} % saved", said)
    for i, case in enumerate(VERDICTS, len(CASES) + 1):
        report(i, *verdict(sys.argv[1:], *case))


if __name__ == "__main__":
    main()
