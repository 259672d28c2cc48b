#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# A shell in the guest, with the module loaded (MODULE_ARGS="size_mib=64" are its parameters).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ -t 0 && -t 1 ]] || die "make shell needs a terminal"
settings=$(stty -g)
trap 'stty "$settings"' EXIT
read -r rows columns < <(stty size)
# shellcheck disable=SC2016,SC2086 # expanded in the guest; MODULE_ARGS is several words
"$QEMU_DIR/boot.sh" --name shell --interactive --debian env "TERM=${TERM:-vt220}" ENV=/root/profile sh -c '
    exec </dev/ttyS1
    stty sane
    if [ "$1" -gt 0 ] && [ "$2" -gt 0 ]; then stty rows "$1" cols "$2"; fi
    shift 2
    insmod /lib/mmapdev/mmapdev.ko "$@" || echo "The module did not load; its messages: dmesg | tail"
    echo "PS1=\"guest# \"" >/root/profile
    echo
    echo "A shell in the guest; exit ends it. The module is loaded: ls -l /dev/mmapdev*; dmesg | tail"
    echo "To try: mmapdevctl --help; mmapdev-demo; mmapdev-test --list; head -c 16 /dev/mmapdev0 | hexdump -C"
    echo
    setsid -c sh
    exit 0' sh "$rows" "$columns" ${MODULE_ARGS:-}
