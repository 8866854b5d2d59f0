#!/bin/bash
# test_fabric.sh FABRIC_SH - hosts come up, run ranks, count what crosses the link, report failures, and leave nothing behind
#
# SPDX-License-Identifier: Apache-2.0
set -u
fabric=$1
export FABRIC=test-$$
trap '"$fabric" down' EXIT
fail() { echo "FAIL: $*"; exit 1; }

"$fabric" up 2 1gbit || exit $?
"$fabric" up 2 1gbit 2> /dev/null && fail "a second up under the same name was accepted"
"$fabric" rate 1gbits 2> /dev/null && fail "a rate that does not parse was accepted"

out=$("$fabric" run 2 2 -- sh -c 'echo $RANK/$WORLD_SIZE $LOCAL_RANK $(hostname) $(ls /sys/class/net | tr "\n" " ")${#CROSSPRESS_SECRET}') || fail "run"
[ "$(echo "$out" | grep -c .)" = 4 ] || fail "4 lines expected: $out"
echo "$out" | grep -qx '0/4 0 host1 eth0 lo 32' || fail "rank 0 is not plain: $out"
echo "$out" | grep -qx '\[3\] 3/4 1 host2 eth0 lo 32' || fail "rank 3 is not marked: $out"

# 4 MB from host 1 to host 2: they show in the counters, and take the time that 1 Gbit/s needs (32 ms).
sent() { "$fabric" counters | awk '$2 == 1 { print $4 }'; }
before=$(sent)
"$fabric" run 2 1 -- python3 -c '
import os, socket, sys, time
a = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if os.environ["RANK"] == "0":
    s = socket.create_server(a); s.settimeout(10); c = s.accept()[0]; c.sendall(b"x" * 4000000); c.recv(1)
else:
    for i in range(200):
        try: c = socket.create_connection(a, 5); break
        except OSError: time.sleep(0.02)
    t = time.time(); n = 0
    while n < 4000000: n += len(c.recv(1 << 20))
    ms = (time.time() - t) * 1e3; c.send(b"y")
    sys.exit(0 if ms > 25 else "4 MB in %.1f ms is more than 1 Gbit/s" % ms)
' || fail "transfer"
moved=$(($(sent) - before))
[ "$moved" -gt 4000000 ] && [ "$moved" -lt 4600000 ] || fail "$moved bytes counted for 4 MB"

# The first failure ends the others and is the exit code.
start=$SECONDS
"$fabric" run 2 1 -- sh -c '[ $RANK = 1 ] && exit 9; sleep 60'
rc=$?
[ $rc = 9 ] || fail "exit code $rc instead of 9"
[ $((SECONDS - start)) -lt 10 ] || fail "the other rank was left running"

"$fabric" down || fail "down"
"$fabric" counters 2> /dev/null && fail "counters after down"
echo ok
