#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs the tests on Debian's kernel: test.sh [NAME], those with NAME in theirs, each in the guest that it needs: those of PCI
# devices, of little memory and of two machines have guests of their own. Without a NAME all but those of two machines.
#
# Debian's kernel clears every page that it hands out. In the first guest it does not, so that the tests see whether
# the module does. The programs of Debian run in another, where it does: their pages are filled by the server of the
# shared root, behind the back of an emulated CPU, which goes on with what it has translated of the code that was in
# such a page before, unless the CPU itself has written there since.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Of a guest that has no such test there is nothing to see.
ran=''
if has_tests env DEBIAN=none mmapdev-test "$@"; then
    ran=yes
    "$QEMU_DIR/boot.sh" --name test --limit 900 --append init_on_alloc=0 env DEBIAN=none mmapdev-test "$@"
fi
if has_tests env DEBIAN=only mmapdev-test "$@"; then
    ran=yes
    "$QEMU_DIR/boot.sh" --name test-debian --limit 300 --debian --append init_on_alloc=1 env DEBIAN=only mmapdev-test "$@"
fi
if has_tests env PCI=1 AREA=pci mmapdev-test "$@"; then ran=yes && "$QEMU_DIR/pci.sh" "$@"; fi
if has_tests env PRESSURE=1 AREA=pressure mmapdev-test "$@"; then ran=yes && "$QEMU_DIR/pressure.sh" "$@"; fi
# All of those have a target of their own, as they need twice the memory.
if (($#)) && has_tests env VMS=0 AREA=vms mmapdev-test "$@"; then ran=yes && "$QEMU_DIR/vms.sh" test "$@"; fi
[[ $ran ]] || die "no test has \"$*\" in its name; some are only for the kernel of make test-debug"
