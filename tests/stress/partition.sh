#!/bin/bash
# partition.sh - two test hosts lose sight of each other: both sides hear of it, in time, by name
# usage: partition.sh PATH_OF_live_rank PATH_OF_fabric.sh
# The limit is 10 heartbeats of 0.2 s. Exit code 77: namespaces are not permitted here.
# SPDX-License-Identifier: Apache-2.0
program=$1 fabric=$2
export FABRIC=part$$ CROSSPRESS_HEARTBEAT=0.2 CROSSPRESS_TIMEOUT=60
out=$(mktemp) failed=0
trap '"$fabric" down >/dev/null 2>&1; rm -f "$out"' EXIT

# $1: idle or busy; $2: how the link is cut
one() {
    "$fabric" up 2 1gbit > /dev/null || exit $?
    "$fabric" run 2 1 -- "$program" 12 "$1" > "$out" 2>&1 &
    ranks=$!
    for _ in $(seq 100); do grep -q ready "$out" && break; sleep 0.1; done
    sleep 0.5
    cut_at=$(cut -d" " -f1 /proc/uptime)
    "$fabric" exec 2 -- sh -c "$2" || { echo "FAIL cannot cut: $2"; failed=1; }
    wait $ranks
    worst=$(sed -n 's/.*rank [01]: at \([0-9.]*\): .*rank [01].*/\1/p' "$out" | awk -v c="$cut_at" '{d = $1 - c; if (d > w) w = d; n++} END {print n + 0, w + 0}')
    if echo "$worst" | awk '{exit !($1 == 2 && $2 < 4)}'; then
        echo "ok   $1, $2: noticed on both sides within ${worst#2 } s"
    else
        echo "FAIL $1, $2: [$worst] $(cat "$out")"; failed=1
    fi
    "$fabric" down > /dev/null
}

one idle 'ip link set eth0 down'
one busy 'ip link set eth0 down'
if command -v nft > /dev/null; then
    one busy 'nft add table ip cut && nft "add chain ip cut in { type filter hook input priority 0; policy drop; }"'
fi
exit $failed
