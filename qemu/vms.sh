#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs two guests of one CPU each at the same time, which have 64 MiB of memory in common, and a network:
#   vms.sh test [NAME]
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

case ${1:-} in
test) both --limit 300 -- env VMS=SIDE mmapdev-test "vms::${2:-}" ;;
*) die "vms.sh: test?" ;;
esac
