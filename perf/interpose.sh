#!/bin/bash
# interpose.sh - what the NCCL interposer gains and costs, on the doubles of NCCL and CUDA between shaped test hosts; needs root
#
#   perf/interpose.sh [noise|real|forward ...]     what to measure (all)
#   BUILD (build), DATA (../shared/data), RATE (1gbit), HOSTS (4, of the real rows), TOKENS (2048), ITERS (12), ROUNDS (3)
#   CUEMU_LOOK_US (500): how often the doubles' waiting threads look; more often takes cores from those that work
#
# Legs run in turns, ROUNDS times. A line: the median of all medians and the best of all exchanges, milliseconds of the slowest rank;
# how many times as fast as NCCL alone; what the issue of the interposer asks.
# SPDX-License-Identifier: Apache-2.0
set -u
cd "$(dirname "$0")/.." || exit 1
build=$PWD/${BUILD:-build} data=${DATA:-../shared/data} rate=${RATE:-1gbit} hosts=${HOSTS:-4} tokens=${TOKENS:-2048} iters=${ITERS:-12} rounds=${ROUNDS:-3}
layer=$build/lib/interpose/libcrosspress-nccl.so bench=$build/perf/nccl_alltoallv
export FABRIC=interpose$$ CUEMU_LOOK_US=${CUEMU_LOOK_US:-500}
for needed in "$layer" "$bench" "$build/tests/fake_nccl/libnccl.so.2" "$build/tests/cuemu/libcuda.so.1"; do
    [ -e "$needed" ] || { echo "interpose.sh: $needed is not built (ninja -C ${BUILD:-build})" >&2; exit 1; }
done
scratch=$(mktemp -d) || exit 1
trap 'perf/fabric.sh down; rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# leg NAME HOSTS SETTING ... -- ARGUMENT ... : one run; its two times join $scratch/NAME
leg() {
    local name=$1 n=$2 settings=()
    shift 2
    while [ "$1" != -- ]; do settings+=("$1"); shift; done
    shift
    rm -f "$scratch/id"
    timeout 120 perf/fabric.sh run "$n" 1 -- env FAKE_NCCL_TCP=eth0 NCCL_ID_FILE="$scratch/id" \
        LD_LIBRARY_PATH="$build/tests/cuemu:$build/tests/fake_nccl" "${settings[@]}" "$bench" --iters "$iters" "$@" >"$scratch/out" 2>"$scratch/log" ||
        { echo "interpose.sh: $name failed" >&2; cat "$scratch/log" >&2; exit 1; }
    sed -n 's/.*best \([0-9.]*\) ms, median \([0-9.]*\) ms.*/\2 \1/p' "$scratch/out" >>"$scratch/$name"
}

with=(LD_PRELOAD="$layer" CROSSPRESS_GROUPS=complete)

measure_noise() {
    local shape=(--data noise --dim 2048 --even --tokens "$tokens") i
    perf/fabric.sh up 2 "$rate" || exit 1
    for ((i = 0; i < rounds; i++)); do
        leg "noise, NCCL alone" 2 -- "${shape[@]}"
        leg "noise, exact" 2 "${with[@]}" -- "${shape[@]}"
    done
    perf/fabric.sh down
}

measure_real() {
    local shape=(--input "$data/smollm2_L15_x.npy" --topk "$data/moe_layer2_gate_logits.npy" --k 8 --experts 16 --tokens "$tokens") i
    [ -r "$data/smollm2_L15_x.npy" ] || { echo "interpose.sh: no rows in $data (DATA=...)" >&2; exit 1; }
    perf/fabric.sh up "$hosts" "$rate" || exit 1
    for ((i = 0; i < rounds; i++)); do
        leg "real, NCCL alone" "$hosts" -- "${shape[@]}"
        leg "real, exact" "$hosts" "${with[@]}" CROSSPRESS_ROW=bf16:576 -- "${shape[@]}"
        leg "real, bounded 3 %" "$hosts" "${with[@]}" CROSSPRESS_ROW=bf16:576 CROSSPRESS_MODE=bounded:0.03 CROSSPRESS_EPS_REF=row -- "${shape[@]}"
    done
    perf/fabric.sh down
}

# line NAME BASE ASKED
line() {
    [ -s "$scratch/$1" ] || return
    awk -v name="$1" -v asked="$3" '
        function middle(a, n,   i, j, t) { for (i = 2; i <= n; i++) for (j = i; j > 1 && a[j] < a[j-1]; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t } return a[int((n + 1) / 2)] }
        FNR == 1 { file++ }
        file == 1 { base[++nb] = $1; if (nb == 1 || $2 < base_best) base_best = $2 }
        file == 2 { own[++no] = $1; if (no == 1 || $2 < own_best) own_best = $2 }
        END { b = middle(base, nb); o = middle(own, no)
              printf "%-20s %9.2f ms %9.2f ms %9.3fx %9.3fx   %s\n", name, o, own_best, b / o, base_best / own_best, asked }' \
        "$scratch/$2" "$scratch/$1"
}

[ $# -gt 0 ] || set -- noise real forward
for what in "$@"; do
    case $what in
    noise | real) "measure_$what" ;;
    forward) ;;
    *) sed -n '4,6s/^# \{0,3\}//p' "$0" >&2; exit 2 ;;
    esac
done
echo "$(nproc) cores, links of $rate, $tokens rows or tokens a rank, $rounds rounds of $iters exchanges"
printf '%-20s %12s %12s %10s %10s   %s\n' "" median best "by median" "by best" asked
line "noise, NCCL alone" "noise, NCCL alone" ""
line "noise, exact" "noise, NCCL alone" ">= 0.97x"
line "real, NCCL alone" "real, NCCL alone" ""
line "real, exact" "real, NCCL alone" ">= 1.6x"
line "real, bounded 3 %" "real, NCCL alone" ">= 2.3x"
case " $* " in *" forward "*) ;; *) exit 0 ;; esac
echo "calls that go straight through (asked: at most 1000 ns more):"
for groups in off complete; do
    LD_LIBRARY_PATH=$build/tests/lib/interpose/null:$build/collectives LD_PRELOAD=$layer CROSSPRESS_GROUPS=$groups \
        "$build/tests/lib/interpose/test_forward" | sed "s/^/  GROUPS=$groups: /"
done
