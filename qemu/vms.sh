#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs two guests of one CPU each at the same time, which have 64 MiB of memory in common, and a network:
#   vms.sh test [NAME] | demo | bench | run BOOT-OPTIONS... -- COMMAND...
# Its status is that of the guest that fails first. What they print is told apart by the guest's number before each line.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir -p "$BUILD/boot"
take_lock "$BUILD/boot/vms.lock" "another run has two guests in this folder: waiting for it"
socket=$BUILD/boot/vms.socket wire=$BUILD/boot/vms.wire
failure=$BUILD/boot/vms.failure
rm -f "$socket" "$failure"
# By a name relative to there: that of a socket must be short.
serve() { cd "$BUILD/boot" && exec "$BUILD/bin/mmapdev-ivshmem-server" --socket vms.socket --size 64M --vectors 2; }
in_group serve
server=$!
trap 'end_groups; rm -f "$socket" "$wire".* "$failure"' EXIT
until [[ -S $socket ]]; do
    kill -0 $server || die "the server of the shared memory has ended"
    sleep 0.02
done

# Only Debian's kernel has a driver for the network.
wired=(--wire "$wire") memory=512M
if [[ $TREE ]]; then wired=() memory=1G; fi

# guest SIDE ARGUMENTS...: one of them. Where it does not come to its end, it takes the other with it, which would wait.
guest() {
    local side=$1 status=0 pid
    "$QEMU_DIR/boot.sh" --name "vms-$1" --cpus 1 --memory "$memory" --shared "$socket" \
        ${wired[@]+"${wired[@]}" "$side"} "${@:2}" || status=$?
    if ((status > 0)); then (set -o noclobber && echo "$status" >"$failure") 2>/dev/null || true; fi
    if ((status > 110)); then
        # It may have come to its own end already.
        { read -r pid <"$BUILD/boot/vms-$((1 - side))/qemu.pid" && kill "$pid"; } 2>/dev/null || true
    fi
    return $status
}

# The same, with its number before each line.
told_apart() { guest "$@" 2>&1 | sed -u "s/^/$1: /"; }

# both BOOT-OPTIONS... -- COMMAND...: has each guest run the command, with its number, 0 or 1, for every SIDE in it.
both() {
    local boot=() side guests=()
    while [[ $1 != -- ]]; do boot+=("$1") && shift; done
    shift
    for side in 0 1; do
        in_group told_apart "$side" "${boot[@]}" "${@//SIDE/$side}"
        guests+=($!)
    done
    local guest status=0
    for guest in "${guests[@]}"; do wait "$guest" || status=1; done
    if [[ -e $failure ]]; then return "$(<"$failure")"; fi
    return $status
}

# What the guests printed goes from there to a program.
outputs=("$BUILD/log/vms-0.out.log" "$BUILD/log/vms-1.out.log")
case ${1:-} in
test)
    words=(env VMS=SIDE AREA=vms)
    if [[ $TREE ]]; then words+=(SANITIZER=1); fi
    both --limit "${TREE:+3}900" -- "${words[@]}" mmapdev-test "${@:2}"
    ;;
demo)
    progress "two guests, one memory" "$BUILD/log/vms.log" both --limit 900 -- mmapdev-vms run --side SIDE
    "$BUILD/bin/mmapdev-vms" demo "${outputs[@]}"
    ;;
bench)
    # The kernel tests its ciphers in the first seconds, which would be counted, too.
    progress "counting instructions in two guests" "$BUILD/log/vms.log" \
        both --limit 1500 --icount -- mmapdev-vms run --side SIDE --count --settle 20 --ring 64M --tcp 16M
    "$BUILD/bin/mmapdev-vms" bench --json "$BUILD/bench-vms.json" "${outputs[@]}"
    echo "build/bench-vms.json has the same for programs."
    ;;
run) both "${@:2}" ;;
*) die "vms.sh: test, demo, bench or run?" ;;
esac
