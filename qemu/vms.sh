#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs two guests of one CPU each at the same time, which have 64 MiB of memory in common, and a network:
#   vms.sh test [NAME] | demo | bench
# Its status is the first guest's, or the second's where that of the first is 0. What they print is told apart by a word
# before each line.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

memory=$BUILD/boot/vms.memory wire=$BUILD/boot/vms.wire
mkdir -p "$BUILD/boot"
take_lock "$BUILD/boot/vms.lock" "another run has two guests in this folder: waiting for it"
rm -f "$memory"
truncate -s 64M "$memory"
trap 'rm -f "$memory" "$wire".*' EXIT

# both BOOT-OPTIONS... -- COMMAND...: has each guest run the command, with its number, 0 or 1, for every SIDE in it.
both() {
    local boot=() side guests=() status=0 result
    while [[ $1 != -- ]]; do boot+=("$1") && shift; done
    shift
    for side in 0 1; do
        ("$QEMU_DIR/boot.sh" --name "vms-$side" --cpus 1 --memory 512M --shared "$memory" --wire "$wire" "$side" \
            "${boot[@]}" "${@//SIDE/$side}" 2>&1 | sed -u "s/^/$side: /") &
        guests+=($!)
    done
    for side in 0 1; do
        result=0
        wait "${guests[side]}" || result=$?
        ((status != 0)) || status=$result
    done
    return "$status"
}

# What the guests printed goes from there to a program.
outputs=("$BUILD/log/vms-0.out.log" "$BUILD/log/vms-1.out.log")
case ${1:-} in
test) both --limit 300 -- env VMS=SIDE mmapdev-test "vms::${2:-}" ;;
demo)
    progress "two guests, one memory" "$BUILD/log/vms.log" both --limit 300 -- mmapdev-vms run --side SIDE
    "$BUILD/bin/mmapdev-vms" demo "${outputs[@]}"
    ;;
bench)
    # The kernel tests its ciphers in the first seconds, which would be counted, too.
    progress "counting instructions in two guests" "$BUILD/log/vms.log" \
        both --limit 500 --icount -- mmapdev-vms run --side SIDE --count --settle 20 --ring 64M --tcp 16M
    "$BUILD/bin/mmapdev-vms" bench --json "$BUILD/bench-vms.json" "${outputs[@]}"
    echo "build/bench-vms.json has the same for programs."
    ;;
*) die "vms.sh: test, demo or bench?" ;;
esac
