#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Builds the module without its tracepoints into build/mmapdev-untraced.ko (with TREE=sanitizer, build/sanitizer/):
# for the benchmark, which holds the other against it, and for a test that the kernel's own tracing is in the way of.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir -p "$GUEST/untraced"
take_lock "$GUEST/untraced/lock" "another run builds the module in this folder: waiting for it"
progress "a module without tracepoints" "$BUILD/log/untraced${TREE:+-$TREE}.log" \
    "$QEMU_DIR/kbuild.sh" . "${GUEST#"$CHECKOUT/"}/untraced" TRACEPOINTS_LEFT_OUT=1 \
    "KRUSTFLAGS=--cfg tracepoints_left_out" modules
cp "$GUEST/untraced/mmapdev.ko" "$GUEST/.mmapdev-untraced.ko"
mv "$GUEST/.mmapdev-untraced.ko" "$GUEST/mmapdev-untraced.ko"
