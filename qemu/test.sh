#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs the tests on Debian's kernel: test.sh [NAME], those with NAME in theirs. Without one, also those of a small guest.
# Those of PCI devices have a guest of their own, too, and come with a NAME that begins with pci.
#
# Debian's kernel clears every page that it hands out. In the first guest it does not, so that the tests see whether
# the module does. The programs of Debian run in another, where it does: their pages are filled by the server of the
# shared root, behind the back of an emulated CPU, which goes on with what it has translated of the code that was in
# such a page before, unless the CPU itself has written there since.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$QEMU_DIR/boot.sh" --name test --limit 900 --append init_on_alloc=0 env DEBIAN=none mmapdev-test "$@"
"$QEMU_DIR/boot.sh" --name test-debian --limit 300 --debian --append init_on_alloc=1 env DEBIAN=only mmapdev-test "$@"
if [[ $# -eq 0 || $1 == pci* ]]; then "$QEMU_DIR/pci.sh" "${@#pci::}"; fi
[ $# -gt 0 ] || "$QEMU_DIR/pressure.sh"
