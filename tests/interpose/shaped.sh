#!/bin/sh
# shaped.sh - times an all-to-all of an NCCL program between hosts in namespaces, on the NCCL double alone and with our layer; needs root
#
# usage: tests/interpose/shaped.sh HOSTS PER_HOST RATE random|routed [ROWS [DIM [ITERATIONS]]]      e.g. 4 1 1gbit routed 512 2048 10
# BUILD: the build folder (build). ROUNDS: how often all legs run (3). Lines: leg, milliseconds of the fastest and the median exchange.
# SPDX-License-Identifier: Apache-2.0
cd "$(dirname "$0")/../.." || exit 1
[ $# -ge 4 ] || { sed -n '4,5s/^# //p' "$0" >&2; exit 2; }
build=$PWD/${BUILD:-build} hosts=$1 per_host=$2 rate=$3 dim=${6:-1024}
shift 3
scratch=$(mktemp -d) || exit 1
perf/fabric.sh up "$hosts" "$rate" || exit 1
trap 'perf/fabric.sh down; rm -rf "$scratch"' EXIT

leg() { # name, then settings
    printf '%-8s ' "$1"; shift
    rm -f "$scratch/board"
    timeout 120 perf/fabric.sh run "$hosts" "$per_host" -- env FAKE_NCCL_TCP=eth0 CLIENT_SHARED="$scratch/board" \
        CUEMU_LOOK_US="${CUEMU_LOOK_US:-500}" \
        LD_LIBRARY_PATH="$build/tests/cuemu:$build/tests/fake_nccl" "$@" 2>"$scratch/log" || { echo failed; cat "$scratch/log"; }
}

round=0
while [ $round -lt "${ROUNDS:-3}" ]; do
    round=$((round + 1))
    layer="LD_PRELOAD=$build/lib/interpose/libcrosspress-nccl.so CROSSPRESS_GROUPS=complete"
    leg alone "$build/tests/interpose/bench_alltoall" "$@"
    leg exact $layer "$build/tests/interpose/bench_alltoall" "$@"
    [ "$1" = random ] || leg bounded $layer CROSSPRESS_MODE=bounded:0.03 CROSSPRESS_EPS_REF=row CROSSPRESS_ROW="bf16:$dim" \
        "$build/tests/interpose/bench_alltoall" "$@"
done
