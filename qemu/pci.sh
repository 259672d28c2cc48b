#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs the tests of memory of PCI devices: pci.sh [NAME]. The guest has such devices, each of which the module makes a device
# of its own when it is loaded; the other tests know what devices there are.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Debian's programs need pages that are cleared, see test.sh; there are no pages of the module's here.
words=(env PCI=1 AREA=pci mmapdev-test "$@")
if [[ $TREE ]]; then
    "$QEMU_DIR/boot.sh" --name test-pci-debug --limit 3000 --memory 1G --pci --debian --append init_on_alloc=1 \
        env SANITIZER=1 "${words[@]}"
else
    "$QEMU_DIR/boot.sh" --name test-pci --limit 1200 --pci --debian --append init_on_alloc=1 "${words[@]}"
fi
