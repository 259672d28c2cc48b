#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs the tests of what happens where memory is short, with TREE=sanitizer on that kernel: pressure.sh [NAME]. The guest has
# half of the memory that the largest device has bytes, and a disk for that.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

name=pressure limit=900 words=(env PRESSURE=1 AREA=pressure)
if [[ $TREE ]]; then name=pressure-debug limit=3000 words+=(SANITIZER=1); fi
mkdir -p "$BUILD/boot"
take_lock "$BUILD/boot/$name.lock" "another run has the disk of these tests: waiting for it"
disk=$BUILD/boot/$name.image
rm -f "$disk"
trap 'rm -f "$disk"' EXIT
"$QEMU_DIR/enter.sh" mke2fs -q -t ext4 -N 64 -E lazy_itable_init=0,lazy_journal_init=0 "/mmapdev/${disk#"$CHECKOUT/"}" 1536M
"$QEMU_DIR/boot.sh" --name "$name" --limit $limit --memory 512M --disk "$disk" ${TREE:+--append init_on_alloc=0} \
    "${words[@]}" mmapdev-test "$@"
