#!/bin/bash
# fabric.sh - test hosts on one machine: network namespaces on a bridge, links shaped with tbf
#
#   fabric.sh up HOSTS RATE [CONGCTL]              RATE: 1gbit, 10gbit, 250mbit ... or none; CONGCTL: cubic (default), bbr, ... or -
#   fabric.sh rate RATE                            shape the links anew
#   fabric.sh run HOSTS PER_HOST -- CMD ...        PER_HOST processes on each host, ranks in the environment (as torchrun sets them)
#   fabric.sh mpirun HOSTS PER_HOST [ARG ...] -- CMD ...   the same under Open MPI; ARGs go to mpirun (--mca ...)
#   fabric.sh exec HOST -- CMD ...                 one command on host 1, 2, ...
#   fabric.sh counters                             bytes every host has sent and received: what crossed the links
#   fabric.sh down
#
# Hosts are 10.77.0.1, .2, ... with one interface, eth0. The bridge has a namespace of its own and there is no route out.
# Several fabrics can stand side by side: FABRIC=name chooses one. Exit code 77: namespaces are not permitted here.
#
# SPDX-License-Identifier: Apache-2.0
set -u
NAME=${FABRIC:-default}
STATE_DIR=${XDG_RUNTIME_DIR:-/tmp}/crosspress-fabric-$(id -u)
STATE=$STATE_DIR/$NAME
SELF=$(readlink -f "$0")

say() { echo "fabric.sh: $*" >&2; }
die() { say "$*"; exit 1; }
usage() { sed -n '4,10s/^# \{0,3\}//p' "$SELF" >&2; exit 1; }
is_number() { [[ $1 =~ ^[1-9][0-9]{0,2}$ ]]; }
host_ns() { echo "$PREFIX-$1"; }

# ---------------------------------------------------------------- state: "PREFIX HOSTS RATE"

load_state() {
    PREFIX='' HOSTS_UP='' RATE_UP=''
    [ -r "$STATE" ] && [ -O "$STATE" ] && read -r PREFIX HOSTS_UP RATE_UP < "$STATE"
    [[ $PREFIX =~ ^xpf[0-9a-f]{6}$ ]] && is_number "$HOSTS_UP"
}

need_fabric() { load_state || die "no fabric \"$NAME\" is up (fabric.sh up HOSTS RATE)"; }

save_state() {
    mkdir -p -m 700 "$STATE_DIR" && [ -O "$STATE_DIR" ] || die "cannot use $STATE_DIR"
    echo "$PREFIX $HOSTS_UP $RATE_UP" > "$STATE"
}

# ---------------------------------------------------------------- up, rate, down

check_permitted() {
    local why
    for tool in ip tc unshare; do
        command -v $tool > /dev/null || { say "$tool is not installed"; exit 77; }
    done
    why=$(ip netns add "$PREFIX-sw" 2>&1) && return
    say "network namespaces are not permitted here: $why"
    exit 77
}

# A burst shows as a link that is too fast for short messages: 0.4 ms of the rate, but no less than two large segments.
burst_bytes() {
    local n=${1%?bit} unit=${1: -4:1} bits
    case $unit in k) bits=$((n * 1000)) ;; m) bits=$((n * 1000000)) ;; g) bits=$((n * 1000000000)) ;; esac
    local b=$((bits / 8 / 2500))
    echo $((b < 131072 ? 131072 : b))
}

check_rate() { [[ $1 =~ ^[1-9][0-9]*[kmg]bit$ || $1 == none ]] || die "bad rate \"$1\" (1gbit, 250mbit, none)"; }

shape() { # namespace, interface, rate
    ip netns exec "$1" tc qdisc del dev "$2" root 2> /dev/null
    [ "$3" = none ] || ip netns exec "$1" tc qdisc add dev "$2" root tbf rate "$3" burst "$(burst_bytes "$3")" latency "${FABRIC_LATENCY:-50ms}"
}

shape_all() {
    local i
    for ((i = 1; i <= HOSTS_UP; i++)); do
        shape "$(host_ns "$i")" eth0 "$1" && shape "$PREFIX-sw" "p$i" "$1" || die "cannot shape the link of host $i to $1"
    done
}

add_host() { # number, congestion control
    local ns sw=$PREFIX-sw
    ns=$(host_ns "$1")
    ip netns add "$ns" &&
        ip link add eth0 netns "$ns" type veth peer name "p$1" netns "$sw" &&
        ip netns exec "$ns" sh -c "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up; ip addr add 10.77.0.$1/24 dev eth0 && ip link set eth0 up" 2> /dev/null &&
        ip netns exec "$sw" ip link set "p$1" master br0 up || return 1
    [ "$2" = - ] || ip netns exec "$ns" ip route replace 10.77.0.0/24 dev eth0 src "10.77.0.$1" congctl "$2" ||
        { say "congestion control $2 is not available here"; return 1; }
}

remove_all() {
    local ns pids
    for ns in $(ip netns list 2> /dev/null | awk -v p="$PREFIX-" 'index($1, p) == 1 { print $1 }'); do
        pids=$(ip netns pids "$ns")
        [ -z "$pids" ] || kill -KILL $pids 2> /dev/null
        ip netns del "$ns"
    done
    rm -f "$STATE"
}

cmd_up() {
    [ $# -ge 2 ] && [ $# -le 3 ] || usage
    is_number "$1" && [ "$1" -le 200 ] || die "bad number of hosts \"$1\""
    check_rate "$2"
    ! load_state || die "fabric \"$NAME\" is up already ($HOSTS_UP hosts, $RATE_UP); fabric.sh down removes it"
    PREFIX=xpf$(od -An -N3 -tx1 /dev/urandom | tr -d ' \n') HOSTS_UP=$1 RATE_UP=$2
    local i
    check_permitted
    save_state
    trap remove_all EXIT
    ip netns exec "$PREFIX-sw" sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link add br0 type bridge && ip link set br0 up' 2> /dev/null ||
        die "cannot make a bridge"
    for ((i = 1; i <= $1; i++)); do
        add_host "$i" "${3:-cubic}" || die "cannot make host $i"
    done
    shape_all "$2"
    trap - EXIT
}

cmd_rate() {
    [ $# -eq 1 ] || usage
    check_rate "$1"
    need_fabric
    RATE_UP=$1
    shape_all "$1"
    save_state
}

cmd_down() {
    load_state || return 0
    remove_all
}

cmd_counters() {
    need_fabric
    local i dir
    for ((i = 1; i <= HOSTS_UP; i++)); do
        dir=/sys/class/net/eth0/statistics
        ip netns exec "$(host_ns "$i")" sh -c "echo host $i sent \$(cat $dir/tx_bytes) received \$(cat $dir/rx_bytes)"
    done
}

# ---------------------------------------------------------------- run

# Becomes CMD on a host: its namespace, its /sys, its host name.
on_host() {
    local i=$1
    shift
    exec ip netns exec "$(host_ns "$i")" unshare -u sh -c 'hostname "$0"; exec "$@"' "host$i" "$@"
}

cmd_exec() {
    [ $# -ge 3 ] && [ "$2" = -- ] || usage
    need_fabric
    is_number "$1" && [ "$1" -le "$HOSTS_UP" ] || die "there is no host $1"
    local host=$1
    shift 2
    on_host "$host" "$@"
}

take_hosts() { # HOSTS PER_HOST
    need_fabric
    is_number "${1:-}" && is_number "${2:-}" || usage
    [ "$1" -le "$HOSTS_UP" ] || die "$1 hosts wanted, $HOSTS_UP are up"
    N_HOSTS=$1 PER_HOST=$2
}

# Ranks run in process groups of their own, so that what they started goes with them.
kill_ranks() {
    local pid
    for pid in "${RANKS[@]}"; do kill "-$1" -- "-$pid" 2> /dev/null; done
}

stop_ranks() {
    local i
    kill_ranks TERM
    for ((i = 0; i < 20; i++)); do
        kill_ranks 0 || true
        [ -n "$(jobs -rp | grep -Fx -f <(printf '%s\n' "${RANKS[@]}"))" ] || break
        sleep 0.1
    done
    kill_ranks KILL
}

start_rank() { # rank; the rest is the command
    local r=$1 host
    shift
    host=$((r / PER_HOST + 1))
    export RANK=$r WORLD_SIZE=$((N_HOSTS * PER_HOST)) LOCAL_RANK=$((r % PER_HOST)) LOCAL_WORLD_SIZE=$PER_HOST GROUP_RANK=$((host - 1))
    if [ "$r" = 0 ]; then
        setsid "$SELF" exec "$host" -- "$@" < /dev/null &
    else
        mkfifo "$SCRATCH/out$r" "$SCRATCH/err$r"
        sed -u "s/^/[$r] /" < "$SCRATCH/out$r" &
        READERS+=($!)
        sed -u "s/^/[$r] /" < "$SCRATCH/err$r" >&2 &
        READERS+=($!)
        setsid "$SELF" exec "$host" -- "$@" < /dev/null > "$SCRATCH/out$r" 2> "$SCRATCH/err$r" &
    fi
    RANKS+=($!)
}

# Waits for all ranks; the first failure ends the others. Sets RC.
wait_ranks() {
    local waiting=" ${RANKS[*]} " rc pid
    RC=0
    while [ -n "${waiting// /}" ]; do
        wait -n -p pid $waiting
        rc=$?
        [ -n "${pid:-}" ] || break
        waiting=${waiting/" $pid "/" "}
        if [ $rc -ne 0 ]; then
            RC=$rc
            stop_ranks
            break
        fi
    done
    kill_ranks KILL # children that outlived their rank
    wait "${READERS[@]}" 2> /dev/null
}

cmd_run() {
    take_hosts "$@"
    [ "${3:-}" = -- ] && [ $# -ge 4 ] || usage
    shift 3
    RANKS=() READERS=()
    SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/fabric-run-XXXXXX") || exit 1
    trap 'rm -rf "$SCRATCH"' EXIT
    trap 'stop_ranks; exit 130' INT TERM HUP
    export MASTER_ADDR=10.77.0.1 MASTER_PORT=$((20000 + RANDOM % 10000)) CROSSPRESS_INTERFACE=eth0 UCX_NET_DEVICES=eth0
    CROSSPRESS_SECRET=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    export CROSSPRESS_SECRET
    local r
    for ((r = 0; r < N_HOSTS * PER_HOST; r++)); do start_rank "$r" "$@"; done
    wait_ranks
    exit "$RC"
}

# ---------------------------------------------------------------- mpirun

# mpirun's remote shell: HOST is an address of ours, the rest a command line for a shell.
cmd_rsh() {
    need_fabric
    local host=${1##*.}
    shift
    on_host "$host" sh -c "$*"
}

# --bind-to none: every daemon would bind its ranks to core 0. yield: each of them believes that its host has idle cores.
cmd_mpirun() {
    take_hosts "$@"
    shift 2
    local args=() list= i
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        args+=("$1")
        shift
    done
    [ $# -ge 2 ] || usage
    shift
    for ((i = 1; i <= N_HOSTS; i++)); do list=$list,10.77.0.$i:$PER_HOST; done
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    on_host 1 mpirun --bind-to none --oversubscribe --mca plm_rsh_agent "$SELF rsh" --mca plm_rsh_no_tree_spawn 1 \
        --mca oob_tcp_if_include eth0 --mca btl_tcp_if_include eth0 --mca mpi_yield_when_idle 1 \
        --host "${list#,}" -np $((N_HOSTS * PER_HOST)) "${args[@]}" "$@"
}

[[ $NAME =~ ^[A-Za-z0-9_.-]+$ ]] || die "bad name \"$NAME\" in FABRIC"
verb=${1:-}
[ $# -eq 0 ] || shift
case $verb in
up | rate | run | mpirun | exec | counters | down | rsh) "cmd_$verb" "$@" ;;
*) usage ;;
esac
