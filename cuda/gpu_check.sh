#!/bin/bash
# gpu_check.sh - everything that needs a GPU, in one call, within a time limit
#
# usage: cuda/gpu_check.sh [STAGE...]     stages: env build unit planted sanitize bench exchange nccl profile; default: all
#   OUT=gpu-out          where log.txt, bench.txt and summary.txt go
#   GPU_LIMIT_S=540      of the whole run; stages that no time is left for say so
#   GPU_BUILD=build-gpu  build folder
#   GPU_BUILD_LIMIT_S    of the build: all but 40 s where there is no GPU, else half of GPU_LIMIT_S. What was built is kept: a second run goes on
# A tool that is missing is reported and skipped; without a GPU everything is built, and every row of the device says "no GPU". Exit code 0 when
# nothing failed. Clocks, power and partitions are left alone.
# SPDX-License-Identifier: Apache-2.0
set -u
cd "$(dirname "$0")/.." || exit 1
limit=${GPU_LIMIT_S:-540}
OUT=${OUT:-gpu-out}
build=${GPU_BUILD:-build-gpu}
stages=" ${*:-env build unit planted sanitize bench exchange nccl profile} "
device_stages="unit planted sanitize bench exchange nccl profile"
started=$SECONDS
table=()
mkdir -p "$OUT" || exit 1
log=$OUT/log.txt
: >"$log"
rm -f "$OUT/bench.txt" "$OUT/exchange.txt"
PATH=$PATH:/usr/local/cuda/bin

wanted() { [[ $stages == *" $1 "* ]]; }
have() { command -v "$1" >/dev/null 2>&1; }
note() { table+=("$1|$2|0"); }

# step NAME SECONDS COMMAND... : runs it under a time limit, its output goes to the log; never ends the script.
step() {
    local name=$1 cap=$2 left=$((limit - (SECONDS - started))) began=$SECONDS code verdict
    shift 2
    if [ "$left" -lt 15 ]; then
        note "$name" "not run: no time left"
        return 1
    fi
    [ "$cap" -gt $((left - 10)) ] && cap=$((left - 10))
    printf '\n===== %s (at most %d s): %s\n' "$name" "$cap" "$*" >>"$log"
    timeout -k 5 "$cap" "$@" >>"$log" 2>&1
    code=$?
    case $code in
    0) verdict=ok ;;
    77) verdict=skipped ;;
    124 | 137) verdict="FAILED: out of time" ;;
    *) verdict="FAILED: exit code $code" ;;
    esac
    table+=("$name|$verdict|$((SECONDS - began))")
    return $code
}

# need TOOL STAGE : false, and noted, when the tool is missing.
need() {
    have "$1" && return 0
    note "$2" "skipped: no $1"
    return 1
}

# Is there a GPU that answers?
have_gpu() {
    have nvidia-smi && timeout -k 2 20 nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

show_environment() {
    uname -srm
    have nvidia-smi || echo "no nvidia-smi"
    nvidia-smi -L
    nvidia-smi --query-gpu=driver_version,compute_cap,clocks.sm,clocks.mem,ecc.mode.current,mig.mode.current --format=csv
    nvcc --version | tail -2
    cc --version | head -1
    df -h /dev/shm . | cat
    return 0
}

# The architecture of the first GPU, as nvcc has it; the newest that it knows where it knows no such.
gpu_arch() {
    local arch
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
    nvcc --list-gpu-arch 2>/dev/null | grep -qx "compute_$arch" || arch=$(nvcc --list-gpu-arch | tail -1 | tr -dc 0-9)
    echo "$arch"
}

build_all() {
    if [ -f "$build/build.ninja" ]; then
        meson configure "$build" "-Dgpu_arch=$(gpu_arch)"
    else
        rm -rf "$build"
        meson setup "$build" -Dcuda=enabled -Dtests=disabled -Ducx=auto "-Dgpu_arch=$(gpu_arch)"
    fi && ninja -C "$build" tests/cuemu/checkcuda_gpu tests/cuemu/planted_gpu tests/device/device_graph_gpu perf/xp_perf
}

checks=$build/tests/cuemu/checkcuda_gpu
planted=$build/tests/cuemu/planted_gpu
graphs=$build/tests/device/device_graph_gpu
perf=$build/perf/xp_perf
sanitizer="compute-sanitizer --error-exitcode 9 --target-processes all --print-limit 20"

# The tool must find a planted bug, else what it says of the kernels means nothing.
finds_planted() { # TOOL BUG
    ! $sanitizer --tool "$1" "$planted" "$2"
}

bench() {
    "$checks" --bench | tee "$OUT/bench.txt"
}

# Ranks on one GPU and two pretended nodes: rows from device to device, each result checked. The arguments of xp_perf follow the number of ranks.
exchange() { # RANKS COMMAND ARG...
    local ranks=$1 command=$2
    shift 2
    CROSSPRESS_TRANSPORT=shm "$perf" "$command" --spawn "$ranks" --nodes 2 --memory device --rows 2048 --dim 4096 --iters 5 --check "$@" 2>&1 | tee -a "$OUT/exchange.txt"
    return "${PIPESTATUS[0]}"
}

staged_exchanges() {
    exchange 2 alltoallv --mode raw && exchange 2 alltoallv --mode exact && exchange 2 alltoallv --mode bounded --eps 0.05 &&
        exchange 4 moe --mode bounded --eps 0.05 --backward && exchange 4 moe --mode folded --backward
}

# NCCL as the loader or Python's packages have it.
find_nccl() {
    [ -n "${CROSSPRESS_NCCL_PATH:-}" ] && return
    CROSSPRESS_NCCL_PATH=$(python3 -c 'import glob, site
print(next((f for d in site.getsitepackages() for f in glob.glob(d + "/nvidia/nccl/lib/libnccl.so.2")), ""))' 2>/dev/null)
    export CROSSPRESS_NCCL_PATH
}

# Several ranks on one GPU, which xp_perf makes hosts of their own for NCCL. 77: NCCL is not there, or refuses.
nccl_exchange() { # RANKS
    local out code
    find_nccl
    out=$(NCCL_DEBUG=WARN NCCL_MAX_CTAS=2 exchange "$1" alltoallv --transport nccl --mode raw 2>&1)
    code=$?
    echo "$out"
    case $out in
    *"NCCL may refuse"* | *libnccl.so.2*) return 77 ;;
    esac
    return $code
}

# Why there was no exchange by NCCL.
nccl_reason() {
    case $(tail -20 "$log") in
    *"NCCL may refuse"*) note nccl "NCCL refuses ranks that share a GPU (log.txt has its words)" ;;
    *) note nccl "libnccl.so.2 cannot be used" ;;
    esac
}

# A communicator of one rank.
nccl_one_rank() {
    nvidia-smi -L || return 77
    python3 - <<'PY'
import ctypes, sys
try:
    lib = ctypes.CDLL("libnccl.so.2")
except OSError as e:
    print(e)
    sys.exit(77)
version = ctypes.c_int()
lib.ncclGetVersion(ctypes.byref(version))
print("NCCL", version.value)
comm = ctypes.c_void_p()


class Id(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_char * 128)]


unique = Id()
assert lib.ncclGetUniqueId(ctypes.byref(unique)) == 0
assert lib.ncclCommInitRank(ctypes.byref(comm), 1, unique, 0) == 0, "one rank"
assert lib.ncclCommDestroy(comm) == 0
PY
}
export -f have show_environment gpu_arch build_all finds_planted bench exchange staged_exchanges find_nccl nccl_exchange nccl_one_rank
export build checks planted perf sanitizer OUT PATH

# Stages that need a GPU.
check_device() {
    wanted unit && step unit 100 "$checks" --seed "$(date +%s)"
    wanted unit && step graphs 30 "$graphs"
    wanted planted && step planted-right-forms 20 "$planted" none
    if wanted sanitize && need compute-sanitizer sanitize; then
        if step sanitizer-finds-planted 60 bash -c 'finds_planted memcheck overrun && finds_planted racecheck barrier'; then
            for tool in memcheck racecheck synccheck initcheck; do
                step "$tool" 80 $sanitizer --tool "$tool" "$checks" --schedules 0
            done
        else
            note sanitize "not run: it does not find planted bugs here"
        fi
    fi
    if wanted bench; then
        step bench 90 bash -c bench
        step bench-again 90 bash -c 'OUT=$OUT/again; mkdir -p $OUT; bench'
    fi
    wanted exchange && step exchange 60 bash -c staged_exchanges
    if wanted nccl && need python3 nccl; then
        step nccl-one-rank 30 bash -c nccl_one_rank
        step nccl-2-ranks 45 bash -c 'nccl_exchange 2' || nccl_reason
    fi
    if wanted profile && need ncu profile; then
        step profile 60 ncu --clock-control none --set basic --launch-skip 3 --launch-count 6 --csv --log-file "$OUT/ncu.csv" "$checks" --bench --kernel hash
    fi
}

# The same reason for all of them.
skip_device() {
    local stage
    for stage in $device_stages; do
        wanted "$stage" && note "$stage" "$1"
    done
}

gpu=no
have_gpu && gpu=yes
if [ $gpu = yes ]; then build_limit=${GPU_BUILD_LIMIT_S:-$((limit / 2))}; else build_limit=${GPU_BUILD_LIMIT_S:-$((limit - 40))}; fi
wanted env && step env 30 bash -c show_environment
if wanted build; then
    if ! have nvcc || ! have meson || ! have ninja; then
        note build "skipped: needs nvcc, meson and ninja"
    elif ! step build "$build_limit" bash -c build_all; then
        tail -30 "$log"
    fi
fi
if [ $gpu = no ]; then
    skip_device "skipped: no GPU"
elif [ -x "$checks" ] && [ -x "$planted" ] && [ -x "$graphs" ] && [ -x "$perf" ]; then
    check_device
else
    skip_device "not run: nothing was built"
fi

printf '%s\n' "${table[@]}" >"$OUT/summary.txt"
echo "== kernels against a copy of as many bytes on the same device"
if [ -s "$OUT/bench.txt" ]; then grep -v '^#' "$OUT/bench.txt"; else echo "none were timed"; fi
echo "== exchanges of ranks that share this GPU"
if [ -s "$OUT/exchange.txt" ]; then cat "$OUT/exchange.txt"; else echo "none were made"; fi
echo "== stages"
awk -F'|' '{ printf "%-26s %-40s %4s s\n", $1, $2, $3 }' "$OUT/summary.txt"
failed=$(grep -c '|FAILED' "$OUT/summary.txt")
echo "$(grep -c '|ok|' "$OUT/summary.txt") passed, $failed failed, $(grep -cE '\|(skipped|not run)' "$OUT/summary.txt") skipped"
[ "$failed" = 0 ]
