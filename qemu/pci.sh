#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs the tests of memory of PCI devices: pci.sh [NAME]. The guest has such devices, each of which the module makes a device
# of its own when it is loaded; the other tests know what devices there are.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Debian's programs need pages that are cleared, see test.sh; there are no pages of the module's here.
words=(env PCI=1 AREA=pci mmapdev-test "$@")
if [[ $TREE ]]; then
    # That kernel has no power management, no lockdown, and no hot-plugging by ACPI; that by PCI Express (pciehp) takes its own locks
    # in two orders, of which lockdep complains.
    "$QEMU_DIR/boot.sh" --name test-pci-debug --limit 3000 --memory 2G --pci --debian --append init_on_alloc=1 \
        env SANITIZER=1 "${words[@]}" --skip pci::a_bar_that_is_open_keeps_its_device_awake \
        --skip pci::an_open_that_fails_keeps_no_device_awake --skip pci::a_kernel_that_is_locked_down \
        --skip pci::a_bar_without_an_address --skip pci::a_device_that_is_unplugged
else
    "$QEMU_DIR/boot.sh" --name test-pci --limit 1200 --pci --debian --append init_on_alloc=1 "${words[@]}"
fi
