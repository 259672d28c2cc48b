#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs the tests on the sanitizer kernel: debug.sh [NAME]; without one two guests at a time, one of them for all that are not
# about allocations that fail, PCI devices or two machines. What it is built with needs memory and makes all slower,
# so the guest has more of the one, and the tests have more time. Two tools have no place to stand on there: they
# need parts of a kernel that would take its build beyond what it may take. Pages are overwritten when they are freed,
# for which test.sh has the reason, and needs a second guest.
set -euo pipefail
export TREE=sanitizer
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# tests NAME COMMAND...: in a guest of that name.
tests() {
    local name=$1
    shift
    "$QEMU_DIR/boot.sh" --name "$name" --limit 3000 --memory 2G --debian \
        --append "init_on_alloc=0 page_poison=1 kunit.filter_glob=none" \
        env SANITIZER=1 "$@" --skip tracing::perf --skip tracing::bpftrace
}

if (($#)); then
    ran=''
    if has_tests env SANITIZER=1 mmapdev-test "$@"; then ran=yes && tests test-debug mmapdev-test "$@"; fi
    if has_tests env SANITIZER=1 PCI=1 AREA=pci mmapdev-test "$@"; then ran=yes && "$QEMU_DIR/pci.sh" "$@"; fi
    if has_tests env VMS=0 AREA=vms mmapdev-test "$@"; then ran=yes && "$QEMU_DIR/vms.sh" test "$@"; fi
    [[ $ran ]] || die "no test that runs on this kernel has \"$*\" in its name"
    exit
fi
# A test has one CPU busy: two guests at a time take half the time.
mkdir -p "$BUILD/log"
others=$BUILD/log/test-debug-others.txt
(
    status=0
    tests test-debug-allocations ALLOCATIONS=only mmapdev-test || status=$?
    "$QEMU_DIR/pci.sh" || status=$?
    "$QEMU_DIR/vms.sh" test || status=$?
    exit $status
) >"$others" 2>&1 &
trap 'kill $! 2>/dev/null || true' EXIT
status=0
tests test-debug ALLOCATIONS=none mmapdev-test || status=$?
wait $! || status=$?
trap - EXIT
cat "$others"
exit $status
