# setup.sh - what tests/run.sh and perf/demo.sh share: Debian packages, and build folders configured once
#
# Sourced, from the root of the tree. Nothing here runs by itself.
# SPDX-License-Identifier: Apache-2.0

build_packages="meson ninja-build gcc g++ libc6-dev pkg-config python3 libucx-dev libxxhash-dev libsodium-dev"
test_packages="libcriterion-dev libsimde-dev ucx-utils python3-numpy python3-torch iproute2 nftables openmpi-bin libopenmpi-dev mpich clang libclang-rt-14-dev"
demo_packages="iproute2 openmpi-bin libopenmpi-dev python3-numpy"

say() { printf '== %s\n' "$*"; }

# need_packages NAME... : installs what dpkg does not know as installed; without root prints the one line that would.
need_packages() {
    command -v dpkg-query >/dev/null || return 0
    missing=
    have=" $(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null | awk '$2 == "installed" { printf "%s ", $1 }')"
    for p in "$@"; do
        case $have in *" $p "*) ;; *) missing="$missing $p" ;; esac
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "missing packages; as root: apt-get install -y --no-install-recommends$missing" >&2
        return 1
    fi
    say "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends $missing >build-packages.log 2>&1 ||
        { apt-get update >build-packages.log 2>&1 && apt-get install -y --no-install-recommends $missing >>build-packages.log 2>&1; } ||
        { tail -20 build-packages.log >&2; echo "could not install$missing" >&2; return 1; }
    rm -f build-packages.log
}

# configured DIR ARG... : runs meson setup unless DIR was configured with the same arguments. CC chooses the compiler.
configured() {
    dir=$1; shift
    want="${CC:-cc} $*"
    [ -f "$dir/build.ninja" ] && [ "$(cat "$dir/.configured" 2>/dev/null)" = "$want" ] && return 0
    [ ! -f "$dir/build.ninja" ] || [ -f "$dir/.configured" ] || [ "$dir" != build ] || { echo "$want" >"$dir/.configured"; return 0; }
    say "configuring $dir: meson setup $*"
    rm -rf "$dir"
    meson setup "$dir" "$@" >"$dir.log" 2>&1 || { tail -30 "$dir.log" >&2; rm -f "$dir.log"; return 1; }
    rm -f "$dir.log"
    echo "$want" >"$dir/.configured"
}

# built DIR [TARGET...] : ninja, quiet unless it fails.
built() {
    dir=$1; shift
    ninja -C "$dir" "$@" >"$dir/build.log" 2>&1 || { tail -40 "$dir/build.log" >&2; return 1; }
}

# sass_tools : what check_sass.py reads device code with, from PyPI; where that fails the test is skipped and says so.
sass_tools() {
    [ ! -d build-sass-tools ] && ! command -v cuobjdump >/dev/null || return 0
    command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || return 0
    say "installing nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    python3 -m pip install -q --no-deps --target build-sass-tools nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm >build-sass-tools.log 2>&1 ||
        { tail -3 build-sass-tools.log >&2; rm -rf build-sass-tools; }
    rm -f build-sass-tools.log
}
