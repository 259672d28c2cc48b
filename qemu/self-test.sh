#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Tests of the rig itself: whatever goes wrong in a guest must reach the exit status, and be named.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

results=$BUILD/log/rig-self-test
mkdir -p "$BUILD/boot"
take_lock "$BUILD/boot/self-test.lock" "another run tests the rig in this folder: waiting for it"
rm -rf "$results"
mkdir -p "$results"
trap end_groups EXIT

# expect TITLE STATUS SENTENCE ARGUMENTS...: boot.sh with those arguments ends with that status and
# says that sentence. Two guests run at a time.
expect() {
    count=$((count + 1))
    beside "$1" run "rig-$count" "$1" "$2" "$3" "$QEMU_DIR/boot.sh" --name "rig-$count" "${@:4}"
}

# run NAME TITLE STATUS SENTENCE COMMAND...
run() {
    local name=$1 title=$2 want=$3 sentence=$4 status=0
    shift 4
    "$@" >"$results/$name.log" 2>&1 </dev/null || status=$?
    if ((status == want)) && grep -qF "$sentence" "$results/$name.log"; then
        echo "rig: $title ... ok"
    else
        echo "rig: $title ... FAILED (status $status, expected $want and \"$sentence\"); $results/$name.log ends so:"
        tail -n 25 "$results/$name.log" | sed 's/^/    | /'
        return 1
    fi
}

# trial NAME: one of the tests that go wrong on purpose.
trial() { words=(env RIG_SELF_TEST=1 mmapdev-test --exact "rig::$1"); }

# The slowest comes first, so that the others run beside it.
count=0
"$QEMU_DIR/enter.sh" head -c 1000000 /kernel/vmlinuz >"$BUILD/boot/truncated-vmlinuz"
trial hangs
expect "a hang turns the run red" 113 "was not done after 25 s" --limit 25 "${words[@]}"
expect "the job's own status is the run's" 0 "hello" sh -c 'echo "hello"'
trial fails
expect "a failing test turns the run red" 101 "test result: FAILED. 0 passed; 1 failed" "${words[@]}"
trial warns
expect "a WARN in a test fails that test" 101 "the kernel complained" --expect-splat "${words[@]}"
expect "a WARN outside any test turns the run red" 115 "its kernel complained" \
    sh -c 'insmod /lib/mmapdev/rig_test.ko action=1; exit 0'
trial panics
expect "a panic turns the run red" 111 "its kernel panicked" "${words[@]}"
expect "a guest that ends without a verdict turns the run red" 112 "ended without a verdict" poweroff -f
expect "a guest that ends otherwise than by switching itself off turns the run red" 112 "never came to switch itself off" \
    sh -c 'echo "exit 0" >/dev/ttyS2; echo b >/proc/sysrq-trigger; sleep 60'
expect "a kernel that never boots turns the run red" 114 "never printed anything" \
    --kernel "$BUILD/boot/truncated-vmlinuz" --limit 8 true
expect "a QEMU that always fails turns the run red" 116 "QEMU ended with status 1 before it had started, the second time" \
    --kernel "$BUILD/boot/no-kernel" true
STARTING=0 expect "a guest that never starts is started twice, and turns the run red" 113 \
    "had not started after 0 s, the second time" true
# crashes FILE WORDS ARGUMENTS...: boot.sh, where QEMU crashes as soon as those words are in that file.
crashes() {
    local boot
    rm -f "$1"
    "$QEMU_DIR/boot.sh" "${@:3}" &
    boot=$!
    until grep -aqs "$2" "$1"; do
        kill -0 "$boot" || { wait "$boot"; return; }
        sleep 0.02
    done
    kill -SEGV "$(<"$BUILD/boot/$4/qemu.pid")"
    wait "$boot"
}
beside "a crash before the start" run crash-1 "a guest whose QEMU crashes before it starts is started once more" 7 \
    "QEMU ended with status 139 before it had started, so it is started once more" \
    crashes "$BUILD/boot/rig-crash-1/qemu.pid" . --name rig-crash-1 sh -c 'exit 7'
NO_SHUTDOWN=yes beside "a crash at the end" run crash-2 "a guest that was done has its job's status, also where QEMU crashes" 7 \
    "QEMU ended with status 139 when the guest was done" \
    crashes "$BUILD/log/rig-crash-2.console.log" 'reboot: Power down' --name rig-crash-2 sh -c 'exit 7'
# shellcheck disable=SC2016 # expanded by the shell inside
beside "lost output" run full "output that cannot be written turns the run red" 117 "its output could not be written" \
    sh -c '"$0" "$@" >/dev/full' "$QEMU_DIR/boot.sh" --name rig-full echo hello
count=$((count + 3))
await_all
# Those of two guests are two already.
alone() { run "$@" || failing+=("$2"); }
# shellcheck disable=SC2016 # expanded in the guests
alone vms-1 "a failing guest of two turns the run red" 3 "1: the second" \
    "$QEMU_DIR/vms.sh" run -- sh -c '[ SIDE = 0 ] || { echo "the second"; exit 3; }'
alone vms-2 "a panic of one guest ends the other" 111 "1: error: guest \"vms-1\": its kernel panicked" \
    "$QEMU_DIR/vms.sh" run -- sh -c '[ SIDE = 1 ] || sleep 600; echo c >/proc/sysrq-trigger'
alone names "a name that no test has turns the run red" 1 'no test has "no_such_test" in its name' \
    "$QEMU_DIR/test.sh" no_such_test
count=$((count + 3))

echo "$((count - ${#failing[@]})) passed, ${#failing[@]} failed"
((${#failing[@]} == 0))
