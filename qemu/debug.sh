#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs the tests on the sanitizer kernel: debug.sh [NAME]. What it is built with needs memory and makes all slower,
# so the guest has more of the one, and the tests have more time. Two tools have no place to stand on there: they
# need parts of a kernel that would take its build beyond what it may take. Pages are overwritten when they are freed,
# for which test.sh has the reason, and needs a second guest.
set -euo pipefail
export TREE=sanitizer
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$QEMU_DIR/boot.sh" --name test-debug --limit 3000 --memory 2G --debian --append "init_on_alloc=0 page_poison=1 kunit.filter_glob=none" \
    env SANITIZER=1 SLOWNESS=8 mmapdev-test --skip tracing::perf --skip tracing::bpftrace "$@"
if [[ $# -eq 0 || $1 == pci* ]]; then "$QEMU_DIR/pci.sh" "${@#pci::}"; fi
if [[ $# -eq 0 || $1 == vms* ]]; then "$QEMU_DIR/vms.sh" test "${@#vms::}"; fi
