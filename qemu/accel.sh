#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Prints "kvm" where a probe boot shows that KVM works, else "tcg". An openable /dev/kvm proves
# nothing: there are hosts where it answers and the kernel then hangs before its first line.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$QEMU_DIR/steps.sh"

case ${ACCEL:-} in
tcg | kvm)
    echo "$ACCEL"
    exit
    ;;
?*) die "ACCEL=$ACCEL is neither tcg nor kvm" ;;
esac
if [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
    echo tcg
    exit
fi
# The answer holds until the host boots again, or another QEMU or kernel comes.
kernel_names
answer=$CACHE/accel-$(hash_of "$(cat /proc/sys/kernel/random/boot_id)" "$ROOT" "$OUT" "$EUID")
if [[ ! -e $answer ]]; then
    take_lock "$CACHE/accel.lock" "another run is trying KVM: waiting for it"
fi
if [[ ! -e $answer ]]; then
    rm -f "$CACHE"/accel-*
    mkdir -p "$LOGS"
    # Without a root file system the kernel boots as far as it can, panics, and QEMU ends.
    if TREE='' "$QEMU_DIR/enter.sh" timeout -k 1 8 qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
        -machine q35 -accel kvm -cpu host -smp 2 -m 512 -serial file:/cache/logs/kvm-probe.console.log \
        -kernel /kernel/out/image -append "console=ttyS0 panic=-1" </dev/null >"$LOGS/kvm-probe.log" 2>&1 &&
        grep -q "Linux version" "$LOGS/kvm-probe.console.log"; then
        echo kvm >"$answer.tmp"
    else
        say "KVM does not boot a kernel on this host: emulating instead (slower; see $LOGS/kvm-probe.log)"
        echo tcg >"$answer.tmp"
    fi
    mv "$answer.tmp" "$answer"
fi
cat "$answer"
