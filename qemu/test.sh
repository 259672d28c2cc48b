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

# wanted ENVIRONMENT... -- [NAME]: whether there is such a test in that guest. Where all are asked for there has to be.
wanted() {
    local environment=()
    while [[ $1 != -- ]]; do environment+=("$1") && shift; done
    shift
    if has_tests env "${environment[@]}" mmapdev-test "$@"; then
        ran=yes
    elif (($#)); then
        return 1
    else
        die "no tests with ${environment[*]}"
    fi
}

ran=''
if wanted DEBIAN=none -- "$@"; then
    "$QEMU_DIR/boot.sh" --name test --limit 2400 --append init_on_alloc=0 env DEBIAN=none mmapdev-test "$@"
fi
if wanted DEBIAN=only -- "$@"; then
    "$QEMU_DIR/boot.sh" --name test-debian --limit 900 --debian --append init_on_alloc=1 env DEBIAN=only mmapdev-test "$@"
fi
if wanted PCI=1 AREA=pci -- "$@"; then "$QEMU_DIR/pci.sh" "$@"; fi
if wanted PRESSURE=1 AREA=pressure -- "$@"; then "$QEMU_DIR/pressure.sh" "$@"; fi
# All of those have a target of their own, as they need twice the memory.
if (($#)) && wanted VMS=0 AREA=vms -- "$@"; then "$QEMU_DIR/vms.sh" test "$@"; fi
[[ $ran ]] || die "no test has \"$*\" in its name; some are only for the kernel of make test-debug"
