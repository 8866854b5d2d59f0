#!/bin/sh
# launchers.sh - ranks started by each launcher that is installed, and by torchrun's variables set by hand
# usage: launchers.sh PATH_OF_launch_rank LAUNCHER    (mpirun, hydra, torchrun, taken)
# SPDX-License-Identifier: Apache-2.0
program=$1
export CROSSPRESS_TIMEOUT=10 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
unset CROSSPRESS_RANK CROSSPRESS_ROOT RANK WORLD_SIZE MASTER_ADDR MASTER_PORT

fail() { echo "FAIL $*"; exit 1; }
# Both rounds of rank 0 must have said that everybody was there.
check() { [ "$(echo "$1" | grep -c "^$2 ranks on 1 nodes\$")" = 2 ] || fail "$3: $1"; echo "ok $3"; }

# N ranks with torchrun's variables. $2: MASTER_PORT.
by_hand() {
    pids=
    for r in $(seq 0 $(($1 - 1))); do
        RANK=$r WORLD_SIZE=$1 LOCAL_RANK=$r MASTER_ADDR=127.0.0.1 MASTER_PORT=$2 timeout 20 "$program" "$1" &
        pids="$pids $!"
    done
    code=0
    for p in $pids; do wait "$p" || code=1; done
    return $code
}

# mpirun ARG ... with a session directory of its own: two that make the common one at the same time fail.
mpirun_job() (
    TMPDIR=$(mktemp -d) && export TMPDIR || exit 1
    trap 'rm -rf "$TMPDIR"' EXIT
    timeout 40 "$mpirun" --oversubscribe "$@" 2>&1
)

case $2 in
mpirun)
    mpirun=$(command -v mpirun.openmpi || command -v mpirun) || exit 77
    "$mpirun" --version 2>/dev/null | grep -q 'open-mpi' || exit 77
    out=$(mpirun_job -np 3 "$program" 3) || fail "mpirun: $out"
    check "$out" 3 mpirun
    # Two jobs at once: their ports must not cross.
    mpirun_job -np 2 "$program" 2 >/dev/null & other=$!
    out=$(mpirun_job -np 2 "$program" 2) || fail "two jobs: $out"
    wait $other || fail "the other of two jobs"
    check "$out" 2 "two jobs of mpirun at once"
    ;;
hydra)
    hydra=$(command -v mpiexec.hydra) || exit 77
    out=$(timeout 40 "$hydra" -n 3 "$program" 3 2>&1) || fail "mpiexec.hydra: $out"
    check "$out" 3 mpiexec.hydra
    ;;
torchrun)
    out=$(by_hand 4 "$((23000 + $$ % 2000))" 2>&1) || fail "torchrun's variables: $out"
    check "$out" 4 "torchrun's variables"
    ;;
taken)
    # A stranger listens on MASTER_PORT + 1: rank 0 takes the next port, and the others find it.
    python=$(command -v python3) || exit 77
    port=$((25000 + $$ % 2000))
    "$python" -c "
import socket, time
s = socket.socket(); s.bind(('127.0.0.1', $port + 1)); s.listen(64)
time.sleep(15)" & stranger=$!
    sleep 0.5
    out=$(by_hand 3 $port 2>&1); code=$?
    kill $stranger
    [ $code = 0 ] || fail "a port that is taken: $out"
    check "$out" 3 "a port that is taken"
    ;;
*) fail "unknown launcher $2" ;;
esac
