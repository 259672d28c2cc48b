#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Measures in the guest and shows the figures, as tables and in build/bench.json: instructions on one CPU, and
# nanoseconds on two: bench.sh [check]. With "check": instructions only, and a bar that is missed makes it fail.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# measure NAME BOOT-OPTIONS... -- OPTIONS...: one boot. For comparison with a PCI device's 256 MiB there are hugetlb's pages, and
# memory that is set aside for device-dax, with room for what it notes at the start.
measure() {
    local name=$1 boot=()
    shift
    while [[ $1 != -- ]]; do boot+=("$1") && shift; done
    "$QEMU_DIR/boot.sh" --name "$name" --limit 1800 --memory 2G --pci --bar 256M \
        --append "hugepages=140 memmap=258M!1G memmap=258M!1344M" "${boot[@]}" mmapdev-bench measure "${@:2}" >"$BUILD/boot/$name/results.json"
}

"$QEMU_DIR/build-untraced.sh"
"$QEMU_DIR/initramfs.sh"

boots=()
# run TITLE NAME ARGUMENTS...: measures, and notes that for the collection.
run() {
    mkdir -p "$BUILD/boot/$2"
    progress "$1" "$BUILD/log/$2.log" measure "${@:2}"
    boots+=("$BUILD/boot/$2/results.json" "$BUILD/boot/$2/command")
}

# What the kernel still does in its first seconds would be counted, too.
run "counting instructions" bench --icount -- --unit instructions --settle 20
if [[ ${1:-} != check ]]; then run "taking the time" bench-time --; fi
emulator=$("$QEMU_DIR/enter.sh" qemu-system-x86_64 --version | head -n 1)
"$BUILD/bin/mmapdev-bench" collect --emulator "$emulator" "${boots[@]}" >"$BUILD/bench.json.tmp"
mv "$BUILD/bench.json.tmp" "$BUILD/bench.json"
"$BUILD/bin/mmapdev-bench" report "$BUILD/bench.json"
echo
if [[ ${1:-} == check ]]; then
    "$BUILD/bin/mmapdev-bench" check "$BUILD/bench.json"
else
    echo "build/bench.json has the same for programs."
fi
