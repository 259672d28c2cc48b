#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs the tests on the sanitizer kernel: debug.sh [NAME], in each guest that has such tests, two guests at a time. With
# PART= only those of one: main has all that need no other, allocations those that let allocations fail, pressure, pci and
# vms those of little memory, of PCI devices and of two machines; and rig makes mistakes, which this kernel is to notice. What it
# is built with needs memory and makes all slower, so the guest has more of the one, and the tests have more time.
# Pages are not cleared when they are allocated, for which test.sh has the reason; that they are overwritten when they are
# freed, and looked at when they are allocated, takes a fifth of all time, and is done where most may go wrong, by make stress.
set -euo pipefail
export TREE=sanitizer
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

left_out=(
    # They need parts of a kernel that would take its build beyond what it may take.
    --skip tracing::perf --skip tracing::bpftrace --skip file_backing::a_disk_that_knows_no_requests_that_must_not_wait
    # The kernel's own part in each device takes so long there that 4096 of them would have a tenth of all time; and a GiB that is
    # written and looked at three times takes six minutes.
    --skip control::there_are_as_many_devices_as_are_documented --skip pressure::a_device_larger_than_memory_has_all_its_bytes
    # That kernel has no power management, no lockdown, and no hot-plugging by ACPI; that by PCI Express (pciehp) takes its own
    # locks in two orders, of which lockdep complains.
    --skip pci::a_bar_that_is_open_keeps_its_device_awake --skip pci::an_open_that_fails_keeps_no_device_awake
    --skip pci::a_kernel_that_is_locked_down
    --skip pci::a_bar_without_an_address --skip pci::a_device_that_is_unplugged
)

# has_part PART [NAME]: whether that part has such a test.
has_part() {
    local environment=(SANITIZER=1)
    case $1 in
    main) environment+=(ALLOCATIONS=none) ;;
    allocations) environment+=(ALLOCATIONS=only) ;;
    pressure) environment+=(PRESSURE=1 AREA=pressure) ;;
    pci) environment+=(PCI=1 AREA=pci) ;;
    vms) environment+=(VMS=0 AREA=vms) ;;
    rig) return $(($# > 1)) ;; # it has no test with a name
    *) die "PART=$1 is none of main, allocations, pressure, pci, vms, rig" ;;
    esac
    has_tests env "${environment[@]}" mmapdev-test "${left_out[@]}" "${@:2}"
}

# tests NAME CPUS COMMAND...: in a guest of that name.
tests() {
    local name=$1 cpus=$2
    shift 2
    "$QEMU_DIR/boot.sh" --name "$name" --limit 3000 --memory 2G --cpus "$cpus" --debian \
        --append "init_on_alloc=0 kunit.autorun=1 kunit.filter_glob=none" \
        env SANITIZER=1 "$@" "${left_out[@]}"
}

# Makes four mistakes, and fails unless the kernel says of each what the rig takes for a complaint: a kernel that looks for none
# passes all else. Lockdep comes before those after whose reports it does not go on. What was leaked is found by a test.
sees_mistakes() {
    local words log=$BUILD/log/rig-debug missed=0
    # shellcheck disable=SC2016 # expanded by the shell in the guest
    "$QEMU_DIR/boot.sh" --name rig-debug --limit 600 --memory 2G --expect-splat --append init_on_alloc=0 sh -c '
        for action in 8 7 6 5; do
            insmod /lib/mmapdev/rig_test.ko action=$action && rmmod rig_test || exit 1
        done
        SANITIZER=1 mmapdev-test --exact leaks::nothing_that_the_tests_have_made_the_kernel_allocate_is_lost
        [ $? = 101 ]' >"$log.txt" 2>&1 || { cat "$log.txt" && return 1; }
    for words in 'BUG: KASAN: slab-out-of-bounds in' 'BUG: sleeping function called from invalid context' \
        'possible circular locking dependency' 'unreferenced object'; do
        if { complaints "$log.console.log" && cat "$log.out.log"; } | grep -aF "$words" >/dev/null; then
            echo "rig: the sanitizer kernel says \"$words\" ... ok"
        else
            echo "rig: the sanitizer kernel says \"$words\" ... FAILED (it made that mistake; see $log.console.log)"
            missed=1
        fi
    done
    return $missed
}

run_part() {
    case $1 in
    main) tests test-debug 2 ALLOCATIONS=none mmapdev-test "${@:2}" ;;
    # Which allocation fails is one thread's doing, and no race; those of workers are in main.
    allocations) tests test-debug-allocations 1 ALLOCATIONS=only mmapdev-test "${@:2}" ;;
    pressure) "$QEMU_DIR/pressure.sh" "${left_out[@]}" "${@:2}" ;;
    pci) "$QEMU_DIR/pci.sh" "${left_out[@]}" "${@:2}" ;;
    vms) "$QEMU_DIR/vms.sh" test "${@:2}" ;;
    rig) sees_mistakes ;;
    esac
}

parts=()
for part in ${PART:-main allocations pressure pci vms rig}; do
    if has_part "$part" "$@"; then
        parts+=("$part")
    elif ((!$#)); then
        die "no tests in $part"
    fi
done
((${#parts[@]})) || die "no test that runs on this kernel${PART:+ in PART=$PART} has \"$*\" in its name"
if ((${#parts[@]} == 1)); then
    run_part "${parts[0]}" "$@"
    exit
fi

# The first is seen while it runs, the others when all are done.
said() { echo "$BUILD/log/test-debug-$1.txt"; }
in_background() {
    if [[ $1 == "${parts[0]}" ]]; then run_part "$@"; else run_part "$@" >"$(said "$1")" 2>&1; fi
}
mkdir -p "$BUILD/log"
trap end_groups EXIT
for part in "${parts[@]}"; do beside "$part" in_background "$part" "$@"; done
await_all
for part in "${parts[@]:1}"; do cat "$(said "$part")"; done
((${#failing[@]} == 0)) || die "red on the sanitizer kernel: ${failing[*]}"
