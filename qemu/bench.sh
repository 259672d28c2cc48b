#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Measures in the guest and shows the figures, as a table and in build/bench.json (instructions, one CPU)
# and build/bench-time.json (nanoseconds, two CPUs): bench.sh [check]. With "check": instructions only, and
# a bar that is missed makes it fail.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# measure NAME FILE BOOT-OPTIONS... -- OPTIONS...: one boot; hugetlb's pages are set aside for comparison.
measure() {
    local name=$1 file=$2 boot=()
    shift 2
    while [[ $1 != -- ]]; do boot+=("$1") && shift; done
    "$QEMU_DIR/boot.sh" --name "$name" --limit 600 --append "hugepages=40" "${boot[@]}" \
        mmapdev-bench measure "${@:2}" >"$file.tmp"
    mv "$file.tmp" "$file"
}

# The kernel tests its ciphers in the first seconds, which would be counted, too.
progress "counting instructions" "$BUILD/log/bench.log" measure bench "$BUILD/bench.json" --icount -- \
    --unit instructions --settle 20
"$BUILD/bin/mmapdev-bench" report "$BUILD/bench.json"
if [[ ${1:-} == check ]]; then
    echo
    "$BUILD/bin/mmapdev-bench" check "$BUILD/bench.json"
    exit
fi
progress "taking the time" "$BUILD/log/bench-time.log" measure bench-time "$BUILD/bench-time.json" --
echo
"$BUILD/bin/mmapdev-bench" report "$BUILD/bench-time.json"
echo
echo "build/bench.json and build/bench-time.json have the same for programs."
