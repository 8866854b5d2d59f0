#!/bin/sh
# run.sh - all tests, with all set-up: packages, configuration, build, meson test, one closing line
#
# usage: tests/run.sh [--suite NAME]... [--sanitize] [-- MESON_TEST_ARG...]
#   --suite NAME   only this suite (tests/README.md lists them); may be repeated
#   --sanitize     also ASan+UBSan (all suites), TSan (stress, checkkernels, interposer), clang with --werror, and a build without UCX and Criterion
# Exit code 0 when nothing failed. The last line is 'N passed, N failed, N skipped', counted from meson's JUnit files;
# it is also left in build/closing_line.txt.
# SPDX-License-Identifier: Apache-2.0
cd "$(dirname "$0")/.." || exit 1
. tests/setup.sh

usage() { sed -n 's/^# \{0,1\}//; 2,9p' tests/run.sh; }

suites= sanitize=
while [ $# -gt 0 ]; do
    case $1 in
    --suite) [ $# -ge 2 ] || { echo "run.sh: --suite needs a name" >&2; exit 2; }; suites="$suites --suite $2"; shift 2 ;;
    --sanitize) sanitize=1; shift ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) echo "run.sh: unknown option $1 (--help lists them)" >&2; exit 2 ;;
    esac
done

need_packages $build_packages $test_packages || exit 1
sass_tools

results=
# tested DIR SUITES ARG... : builds and tests one configuration; the verdict joins $results.
tested() {
    dir=$1 chosen=$2; shift 2
    say "$dir: build"
    built "$dir" && built "$dir" meson-test-prereq || { results="$results $dir-build=failed"; return 1; }
    say "$dir: test$chosen"
    rm -f "$dir"/meson-logs/testlog*.xml
    meson test -C "$dir" --no-rebuild --print-errorlogs $chosen "$@"
    results="$results $dir:$?"
}

# A leak inside a Criterion test is printed but does not fail it: the log is read as well.
no_reports() {
    log=$1/meson-logs/testlog.txt
    [ -f "$log" ] || return 0
    if grep -n -A12 -E 'ERROR: (Leak|Address|Thread)Sanitizer|WARNING: ThreadSanitizer|runtime error:' "$log" | head -80 | grep . ; then
        results="$results $1-reports=failed"
    else
        results="$results $1-reports=ok"
    fi
}

# intercept_tls_get_addr=0: the leak check misreads the thread-local storage of the loaded UCX and crashes (it finds leaks without).
sanitizers() {
    configured build-asan -Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false &&
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:intercept_tls_get_addr=0 \
            tested build-asan "$suites" --timeout-multiplier 4 && no_reports build-asan

    CC=clang configured build-tsan -Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false -Dtests=disabled &&
        TSAN_OPTIONS=halt_on_error=0:second_deadlock_stack=1 \
            tested build-tsan " --suite stress --suite checkkernels" --timeout-multiplier 4 && no_reports build-tsan

    CC=clang configured build-clang --werror -Dcuda=disabled &&
        tested build-clang " --suite checkkernels" --timeout-multiplier 3

    configured build-small -Ducx=disabled -Dtests=disabled -Dcuda=disabled &&
        tested build-small "$suites" --timeout-multiplier 3
}

configured build || { rm -rf build/.configured; exit 1; }
# Twice the time of a quiet machine is not enough where others work, too.
tested build "$suites" --timeout-multiplier 3 "$@"
[ -z "$sanitize" ] || sanitizers

python3 tests/closing_line.py $results >build/closing_line.txt
code=$?
cat build/closing_line.txt
exit $code
