#!/bin/bash
# demo.sh - the main job on one machine: real rows through an all-to-all, then a MoE layer, over slow links, beside Open MPI
#
# usage: perf/demo.sh [--hosts N] [--rate R] [--per-host P] [--rows T] [--iters N] [--input X.npy] [--eps-ref min|row] [--build DIR]
#   --hosts N      test hosts in network namespaces (default 4)
#   --rate R       of each host's link: 1gbit, 10gbit, 250mbit ... (default 1gbit)
#   --per-host P   ranks on each host (default 1)
#   --rows T       rows a rank sends (default: about 16 MiB)
#   --iters N      timed exchanges of each case (default 7)
#   --tokens T     of a rank, in the MoE part (2 hosts of 2 ranks, or the fewer that there are; default 8192; 0 leaves it out)
#   --input X.npy  rows to send (default: tests/data/smollm2_L15_x.npy, real activations)
#   --build DIR    an existing build folder, used as it is
# Results stay in build/demo/. Where network namespaces are not permitted it uses loopback and says so.
# SPDX-License-Identifier: Apache-2.0
cd "$(dirname "$0")/.." || exit 1
. tests/setup.sh

die() { echo "demo.sh: $*" >&2; exit 2; }
number() { [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || die "$1 takes a number from 1, not '$2'"; }

hosts=4 rate=1gbit per_host=1 rows= iters=7 tokens=8192 input=tests/data/smollm2_L15_x.npy eps_ref= build=
while [ $# -gt 0 ]; do
    [ "$1" = --help ] && { sed -n '2,13s/^# \{0,1\}//p' perf/demo.sh; exit 0; }
    [ $# -ge 2 ] || die "$1 needs a value, or is unknown (--help)"
    case $1 in
    --hosts) number "$@"; hosts=$2 ;;
    --rate) [[ $2 =~ ^[1-9][0-9]*[kmg]bit$|^none$ ]] || die "--rate takes 1gbit, 250mbit ... or none, not '$2'"; rate=$2 ;;
    --per-host) number "$@"; per_host=$2 ;;
    --rows) number "$@"; rows=$2 ;;
    --iters) number "$@"; iters=$2 ;;
    --tokens) [ "$2" = 0 ] || number "$@"; tokens=$2 ;;
    --input) [ -r "$2" ] || die "cannot read $2"; input=$2 ;;
    --eps-ref) [[ $2 =~ ^(min|row)$ ]] || die "--eps-ref takes min or row, not '$2'"; eps_ref="--eps-ref $2" ;;
    --build) [ -x "$2/perf/xp_perf" ] || die "nothing is built in $2"; build=$2 ;;
    *) die "unknown option $1 (--help)" ;;
    esac
    shift 2
done

if [ -z "$build" ]; then
    build=build
    need_packages $build_packages $demo_packages || exit 1
    configured build || exit 1
    say "build"
    built build || exit 1
fi
# The same exchanges through MPI: build/mpi_alltoallv, build/mpi_moe.
for peer in mpi_alltoallv mpi_moe; do
    sources="perf/peers/$peer.c perf/peers/mpi_peer.c $build/perf/libxp_perf.a $build/lib/tools/libxp_tools.a $build/lib/libxp_core.a"
    if [ ! -x "$build/$peer" ] || [ -n "$(find $sources -newer "$build/$peer")" ]; then
        mpicc.openmpi -std=c11 -D_GNU_SOURCE -O2 -I. -Ilib/include -o "$build/$peer" $sources -lm || exit 1
    fi
done

# 16 MiB a rank, by the file's own row size (its last dimension times two or four bytes).
[ -n "$rows" ] || rows=$(/usr/bin/python3 -c "
import numpy, sys
a = numpy.load(sys.argv[1], mmap_mode='r')
print((16 << 20) // (a.shape[-1] * a.itemsize))" "$input") || die "cannot read $input"

rm -rf "$build/demo"
mkdir -p "$build/demo/alltoallv" "$build/demo/moe"
export FABRIC=demo$$
fabric=1
child=
trap '[ -z "$child" ] || kill "$child" 2>/dev/null; perf/fabric.sh down' EXIT
trap 'exit 130' INT TERM HUP
perf/fabric.sh up "$hosts" "$rate" 2>"$build/demo/fabric.log"
case $? in
0) say "$hosts hosts in network namespaces, $rate links, $per_host ranks on each, $rows rows a rank of $input" ;;
77) fabric=
    cat "$build/demo/fabric.log"
    say "plain loopback instead, no limit on the rate: what a link would gain cannot be seen here" ;;
*) cat "$build/demo/fabric.log" >&2; exit 1 ;;
esac

# Runs a command in the background, so that a signal ends the demo at once.
watched() {
    "$@" &
    child=$!
    wait "$child"
    local code=$?
    child=
    return $code
}

# What is run: a command of xp_perf, its shape, how many hosts and ranks on each, where results go.
command= shape= on= each= out=

# ours NAME ARG... : one case of xp_perf
ours() {
    local name=$1; shift
    if [ -n "$fabric" ]; then
        watched perf/fabric.sh run "$on" "$each" -- "$build/perf/xp_perf" $command $shape "$@" --json "$out/$name.json" >"$out/$name.log" 2>&1
    else
        watched "$build/perf/xp_perf" $command --spawn $((on * each)) --nodes "$on" $shape "$@" --json "$out/$name.json" >"$out/$name.log" 2>&1
    fi
    [ $? = 0 ] || { failed=1; echo "$command, $name failed:" >&2; tail -5 "$out/$name.log" >&2; rm -f "$out/$name.json"; }
}

# open_mpi NAME MCA_ARG... : the same rows through MPI_Alltoallv
open_mpi() {
    local name=$1 peer; shift
    peer=$(realpath "$build/mpi_$command")
    if [ -n "$fabric" ]; then
        watched timeout 60 perf/fabric.sh mpirun "$on" "$each" "$@" -- "$peer" $shape --json "$(realpath "$out")/$name.json" >"$out/$name.log" 2>&1
    else
        watched timeout 60 mpirun.openmpi --oversubscribe --bind-to none -np $((on * each)) \
            --mca btl_tcp_if_include lo --mca mpi_yield_when_idle 1 "$@" "$peer" $shape --json "$out/$name.json" >"$out/$name.log" 2>&1
    fi
    [ $? = 0 ] || { failed=1; echo "$command, $name failed:" >&2; tail -5 "$out/$name.log" >&2; rm -f "$out/$name.json"; }
}

# Both of Open MPI's ways. UCX_TLS: shared memory would cross the "hosts". Eager sends over UCX: rendezvous replies would
# queue behind the peer's own bulk.
peers() {
    local eth=eth0 vader=vader,
    [ -n "$fabric" ] || eth=lo vader=
    open_mpi 1-Open_MPI,_default --mca pml ob1 --mca btl "self,${vader}tcp"
    open_mpi 2-Open_MPI,_tuned --mca pml ucx --mca pml_ucx_tls any --mca pml_ucx_devices any -x UCX_TLS=tcp,self -x UCX_NET_DEVICES=$eth -x UCX_RNDV_THRESH=inf
}

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
failed=

command=alltoallv on=$hosts each=$per_host out=$build/demo/alltoallv
shape="--rows $rows --iters $iters --input $input --check"
peers
ours 3-raw --mode raw
ours 4-exact --mode exact
ours 5-bounded_1_% --mode bounded --eps 0.01 $eps_ref
ours 6-bounded_3_% --mode bounded --eps 0.03 $eps_ref
ours 7-bounded_10_% --mode bounded --eps 0.1 $eps_ref
echo
/usr/bin/python3 perf/demo_table.py "$out" || failed=1
[ "$tokens" != 0 ] || exit ${failed:-0}

# A layer of real tokens with their real routing, to the experts and back.
command=moe on=$((hosts < 2 ? hosts : 2)) each=2 out=$build/demo/moe
data=tests/data/moe_layer2
shape="--rows $tokens --iters $iters --input ${data}_x.npy --topk ${data}_gate_logits.npy --experts 16 --k 2 --check"
echo
say "a MoE layer: $on hosts, $each ranks on each, $tokens tokens a rank of ${data}_x.npy to 2 of 16 experts and back"
peers
ours 3-raw,_flat --mode raw --algo flat
ours 4-exact --mode exact
ours 5-bounded_3_% --mode bounded --eps 0.03 $eps_ref
ours 6-bounded_10_% --mode bounded --eps 0.1 $eps_ref
ours 7-folded_to_20_% --mode folded --rate 0.2 --expert ${data}_expert_w1.npy,${data}_expert_w2.npy
echo
/usr/bin/python3 perf/demo_table.py "$out" || failed=1
echo "(folded: error of the results of the model's own experts; they also do a fifth of the work. Else experts return their rows.)"
exit ${failed:-0}
