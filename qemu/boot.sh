#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Boots the guest, runs a command in it, and ends with that command's exit status:
#   boot.sh [--name NAME] [--limit SECONDS] [--append "KERNEL PARAMETERS"] [--kernel FILE]
#           [--memory SIZE] [--cpus 1] [--nodes 2] [--disk IMAGE [--disk-log FILE]] [--expect-splat] [--interactive]
#           [--icount] [--debian] [--pci] [--bar SIZE] [--shared SOCKET] [--wire FILE 0|1] COMMAND...
# With TREE=sanitizer it is the sanitizer kernel's. The command's output goes to stdout and
# build/log/NAME.out.log, the kernel's log to build/log/NAME.console.log. Statuses of the rig's own, each with a sentence that says more:
PANICKED=111 NO_VERDICT=112 TIMED_OUT=113 SILENT=114 SPLAT=115 NO_QEMU=116 OUTPUT_LOST=117
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

name=guest limit=120 append='' kernel=/kernel/out/image memory=1G cpus=2 nodes=1 shared='' wire='' side='' disk_image='' disk_log='' expect_splat='' interactive='' icount='' debian='' pci='' bar=''
while [[ ${1:-} == --* ]]; do
    case $1 in
    --name) name=$2 && shift ;;
    --limit) limit=$2 && shift ;;
    --append) append=$2 && shift ;;
    --kernel) kernel=/mmapdev/${2#"$CHECKOUT/"} && shift ;;
    --memory) memory=$2 && shift ;;
    --cpus) cpus=$2 && shift ;;
    --nodes) nodes=$2 && shift ;; # 2: each CPU has half of the memory near it
    # A file system, which the guest mounts and which stays; else it has an empty one.
    --disk) disk_image=/mmapdev/${2#"$CHECKOUT/"} && shift ;;
    --disk-log) disk_log=/mmapdev/${2#"$CHECKOUT/"} && shift ;; # all that this disk is asked to write, and each flush
    # Where mmapdev-ivshmem-server listens: the guest has the memory of a PCI device together with others.
    --shared) shared=/mmapdev/${2#"$CHECKOUT/"} && shift ;;
    # A network of two guests, each of which says which of its ends it is: 10.0.0.1 or 10.0.0.2.
    --wire) wire=/mmapdev/${2#"$CHECKOUT/"} side=$3 && shift 2 ;;
    --expect-splat) expect_splat=yes ;; # the host does not look for complaints in the kernel's log
    # One CPU, whose clock counts instructions. The kernel unpacks itself, since the bars were set so: what lies where in
    # memory by then makes a difference of some instructions to what is counted.
    --icount) [[ ! $TREE ]] || die "boot.sh: --icount is for Debian's kernel" && icount=yes kernel=/kernel/vmlinuz ;;
    --debian) debian=yes ;; # the guest has the provisioned root, read-only, at /debian
    --pci) pci=yes ;; # the guest has PCI devices with memory of their own, and QEMU's monitor at its fourth serial port
    --bar) bar=$2 && shift ;; # one more PCI device, whose memory has this size
    --interactive) interactive=yes limit=0 ;; # stdin goes to the command; no time limit
    *) die "boot.sh knows no option $1" ;;
    esac
    shift
done
(($#)) || die "boot.sh: no command to run in the guest"

# quoted WORD...: the words as the guest's shell reads them back.
quoted() { printf " '%s'" "${@//\'/\'\\\'\'}"; }

log=$BUILD/log/$name files=$BUILD/boot/$name
console=$log.console.log verdict=$files/verdict
mkdir -p "$BUILD/log" "$files/job"
take_lock "$files/lock" "another run has a guest \"$name\" in this folder: waiting for it"
[[ -e $GUEST/guest.cpio ]] || die "$GUEST/guest.cpio is missing: run qemu/initramfs.sh"

# The guest's file system, and after it the job as a second archive.
environment=()
# How much longer than on Debian's kernel all takes on the other.
slowness=1
if [[ $TREE ]]; then
    slowness=8
    # Loading and unloading a module waits for RCU many times, which takes half a second there. What is freed is free the
    # sooner, for all that looks whether somebody has it still.
    append="rcupdate.rcu_expedited=1 $append"
fi
# The guest's programs see a terminal in any case.
if [[ ! -t 1 || ${NO_COLOR:-} ]]; then environment+=(NO_COLOR=1); fi
if [[ ${SLOWNESS:-} ]]; then
    [[ $SLOWNESS =~ ^[1-9][0-9]?$ ]] || die "SLOWNESS is a number from 1 to 99, not $SLOWNESS"
    limit=$((limit * SLOWNESS)) slowness=$((slowness * SLOWNESS))
fi
environment+=("SLOWNESS=$slowness")
printf '#!/bin/sh\nexec%s\n' "$(quoted env "${environment[@]}" "$@")" >"$files/job/job"
chmod 755 "$files/job/job"
# shellcheck disable=SC2016 # expanded by the shell inside
"$QEMU_DIR/enter.sh" sh -ec 'cd "$1/job"; { cat "$2"; echo job | cpio --quiet -o -H newc -R 0:0; } >../initrd' \
    sh "/mmapdev/build/boot/$name" "/mmapdev/${GUEST#"$CHECKOUT/"}/guest.cpio"

# One CPU for each node is one socket's: what shares a cache is near the same memory.
smp=$cpus
if ((nodes == 2)); then smp=2,sockets=2; fi
# While it identifies its first CPU, the kernel forgets for some instructions that page tables have five levels; KASAN, by
# which it then looks in an interrupt, takes its own memory for none.
cpu=''
if [[ $TREE ]]; then cpu=,-la57; fi
if [[ $icount ]]; then
    # One tick of the guest's clock is one instruction, and two runs are the same in every digit. What a
    # CPU draws from outside is off for that; and so are the string instructions, each step of which would
    # count as an instruction.
    accelerator=(-accel tcg -icount shift=0,sleep=off -smp 1 -cpu "max,-rdrand,-rdseed,-erms,-fsrm,-fsrs"
        -rtc base=2026-01-01T00:00:00,clock=vm -seed 1)
    append="nokaslr norandmaps $append"
elif [[ $("$QEMU_DIR/accel.sh") == kvm ]]; then
    accelerator=(-accel kvm -cpu "host$cpu" -smp "$smp")
else
    # String instructions are emulated byte by byte.
    accelerator=(-accel tcg,thread=multi -cpu "max,-erms,-fsrm,-fsrs$cpu" -smp "$smp")
fi
# A disk with an empty file system. A guest that counts has none: its clock jumps while it waits for the host, so that no
# two runs would be alike; the benchmark makes itself one in memory.
disk=()
if [[ $disk_image ]]; then
    disk=(-blockdev "driver=file,node-name=image,filename=$disk_image,discard=unmap")
    if [[ $disk_log ]]; then
        # A flush is noted when it is made, so that the cache must be one that is flushed.
        disk+=(-blockdev "driver=file,node-name=log,filename=$disk_log"
            -blockdev driver=blklogwrites,node-name=disk,file=image,log=log)
    else
        disk+=(-blockdev driver=raw,node-name=disk,file=image,discard=unmap,cache.no-flush=on)
    fi
    disk+=(-device virtio-blk-pci,drive=disk,write-cache=on)
elif [[ ! $icount ]]; then
    rm -f "$files/disk"
    # Made here, since the sanitizer kernel takes five seconds for it. A page has four blocks, each of which may be a hole.
    "$QEMU_DIR/enter.sh" mke2fs -q -t ext2 -b 1024 "/mmapdev/build/boot/$name/disk" 256M
    disk=(-drive "file=/mmapdev/build/boot/$name/disk,format=raw,if=none,id=disk,cache=unsafe,discard=unmap"
        -device virtio-blk-pci,drive=disk)
fi
# The root is shared by a server beside QEMU, which works in the guest's memory.
share=() server=()
if [[ $debian ]]; then
    socket=/mmapdev/build/boot/$name/debian.socket
    share=(-object "memory-backend-memfd,id=memory,size=$memory,share=on" -machine memory-backend=memory
        -chardev "socket,id=debian,path=$socket" -device vhost-user-fs-pci,chardev=debian,tag=debian)
    # It ends with its connection; where QEMU never comes, it is ended.
    # shellcheck disable=SC2016 # expanded by the shell inside
    server=(sh -c 'socket=$1 log=$2 && shift 2
        rm -f "$socket"
        /usr/libexec/virtiofsd --readonly --shared-dir / --socket-path "$socket" --sandbox none --cache always >"$log" 2>&1 &
        server=$!
        tries=0
        until [ -S "$socket" ]; do
            kill -0 "$server" 2>/dev/null && [ "$tries" -lt 100 ] || { cat "$log" >&2; exit 1; }
            tries=$((tries + 1))
            sleep 0.05
        done
        status=0
        "$@" || status=$?
        kill "$server" 2>/dev/null
        exit "$status"' sh "$socket" "/mmapdev/build/log/$name.debian.log")
fi
# Two nodes, between which the kernel can move pages.
if ((nodes == 2)); then
    [[ ! $debian && ! $icount ]] || die "boot.sh: --nodes 2 goes neither with --debian nor with --icount"
    half=$(($(numfmt --from=iec "$memory") / 2))
    for node in 0 1; do
        share+=(-object "memory-backend-ram,id=node$node,size=$half"
            -numa "node,nodeid=$node,cpus=$node,memdev=node$node")
    done
elif ((nodes != 1)); then
    die "boot.sh: --nodes is 1 or 2, not $nodes"
fi
# What the tests bind: memory that is shared, with room for entries of a page table of each size; registers; a device whose
# power can be taken away; I/O ports, and memory that only the guest has a use for. The monitor takes devices away and gives
# them back: its socket's other end is QEMU's own.
devices=()
if [[ $pci ]]; then
    monitor=/mmapdev/build/boot/$name/monitor.socket
    rm -f "$files/monitor.socket" "$files/shared"
    # A file, so that a device that is taken out and put back has what was in it.
    devices=(-object "memory-backend-file,id=shared,mem-path=/mmapdev/build/boot/$name/shared,size=16M,share=on" -object memory-backend-ram,id=large,size=2G,share=on
        -device pcie-root-port,id=port1,chassis=1,slot=1 -device ivshmem-plain,id=ivshmem,memdev=shared,bus=port1
        -device ivshmem-plain,id=ivshmem-large,memdev=large
        -device pcie-root-port,id=port2,chassis=2,slot=2 -device e1000e,id=network,bus=port2,romfile=
        -device edu,id=edu -device pci-testdev,id=testdev,membar=4M -device pci-bridge,id=bridge,chassis_nr=3
        -chardev "socket,id=monitor,path=$monitor,server=on,wait=off" -mon chardev=monitor,mode=control
        -chardev "socket,id=monitor-port,path=$monitor" -serial chardev:monitor-port)
    # What is plugged in gets its addresses in a window that the firmware has reserved as a whole.
    append="pci=no_e820 $append"
fi
if [[ $bar ]]; then
    devices+=(-object "memory-backend-ram,id=bar,size=$bar,share=on" -device ivshmem-plain,memdev=bar)
fi
# What it has together with another guest.
if [[ $shared ]]; then
    devices+=(-chardev "socket,id=peers,path=$shared" -device ivshmem-doorbell,chardev=peers,vectors=2)
fi
if [[ $wire ]]; then
    rm -f "$CHECKOUT/${wire#/mmapdev/}.$side"
    devices+=(-netdev "dgram,id=wire,local.type=unix,local.path=$wire.$side,remote.type=unix,remote.path=$wire.$((1 - side))"
        -device "virtio-net-pci,netdev=wire,mac=52:54:00:00:00:0$((side + 1)),host_mtu=65535")
    append="MMAPDEV_ADDRESS=10.0.0.$((side + 1))/24 $append"
fi
# A fifth of a boot is the kernel testing its ciphers, of which nothing here is a test.
# signal=off: an interrupt typed in the guest's shell is the guest's.
qemu=(
    timeout --foreground -k 2 "$limit" qemu-system-x86_64
    -nodefaults -no-user-config -display none -no-reboot -pidfile "/mmapdev/build/boot/$name/qemu.pid"
    -machine q35,dump-guest-core=off "${accelerator[@]}" -m "$memory" "${disk[@]}" "${share[@]}"
    -chardev "file,id=console,path=/mmapdev/build/log/$name.console.log" -serial chardev:console
    -chardev stdio,id=job,signal=off -serial chardev:job
    -chardev "file,id=verdict,path=/mmapdev/build/boot/$name/verdict" -serial chardev:verdict
    "${devices[@]}" ${NO_SHUTDOWN:+-no-shutdown}
    -kernel "$kernel" -initrd "/mmapdev/build/boot/$name/initrd"
    -append "console=ttyS0 loglevel=7 panic=-1 cryptomgr.notests $append"
)
printf '%s\n' "${qemu[*]}" >"$files/command"

# When the machine stands still for a moment while an emulated one takes the measure of its clocks, its kernel may be busy with
# its timers for ever after. What has not begun with its job by then never will.
starting=$((${STARTING:-100} * ${SLOWNESS:-1})) # STARTING and NO_SHUTDOWN are for the rig's own tests
# shellcheck disable=SC2317 # called in the background
end_what_does_not_start() {
    local waited=0
    until ((waited > starting)) && [[ -s $files/qemu.pid ]]; do
        sleep 1
        if [[ -s $verdict ]] || ! kill -0 $$; then return; fi
        waited=$((waited + 1))
    done
    # Before it has an effect.
    : >"$files/not-started"
    kill -KILL "$(<"$files/qemu.pid")" || rm -f "$files/not-started"
}

# attempt: runs the guest. Fails where it came to its end before it had started: it was ended, or QEMU ended by itself with an
# error; either is the host's doing, and nothing that the guest is about.
attempt() {
    local statuses
    { : >"$console" && : >"$log.out.log" && : >"$verdict"; } || {
        say "error: guest \"$name\": its logs, $log.*, cannot be written"
        exit $OUTPUT_LOST
    }
    rm -f "$files/qemu.pid" "$files/not-started"
    status=0 began=$SECONDS
    if [[ $interactive ]]; then
        "$QEMU_DIR/enter.sh" "${server[@]}" "${qemu[@]}" 2>"$files/qemu.log" || status=$?
        return 0
    fi
    in_group end_what_does_not_start 2>/dev/null
    set +e
    "$QEMU_DIR/enter.sh" "${server[@]}" "${qemu[@]}" </dev/null 2>"$files/qemu.log" | tee "$log.out.log"
    statuses=("${PIPESTATUS[@]}")
    set -e
    status=${statuses[0]} tee_status=${statuses[1]}
    end_groups
    if [[ -e $files/not-started ]]; then
        why="it had not started after $starting s"
        return 1
    fi
    [[ ! -s $verdict ]] || return 0
    case $status in
    0 | 124 | 129 | 130 | 137 | 143) ;; # by itself, or ended by a signal or its time limit
    *)
        why="QEMU ended with status $status before it had started"
        return 1
        ;;
    esac
}
# What the kernel's log says.
has_panicked() { grep -aq 'Kernel panic' "$console"; }
was_switched_off() { grep -aq 'reboot: Power down' "$console"; }
# Prints what the kernel complained of that the run is red for; false where there is nothing.
counting_complaints() { [[ ! $expect_splat ]] && complaints "$console"; }
qemu_says() { sed 's/^/    | /' "$files/qemu.log" >&2; }
trap end_groups EXIT
rm -f "$log.not-started.log"
tee_status=0 never_starts=''
if ! attempt; then
    # What it had to say by then counts.
    if has_panicked || counting_complaints >/dev/null; then
        never_starts=yes
    else
        mv "$console" "$log.not-started.log"
        warn "guest \"$name\": $why, so it is started once more ($log.not-started.log)"
        qemu_says
        attempt || never_starts=yes why+=", the second time"
    fi
fi
rm -f "$files/initrd" "$files/disk" "$files/shared"

# red STATUS SENTENCE: what went wrong, where the log is, and its end.
red() {
    say "error: guest \"$name\": $2"
    say "the kernel's log is $console, and ends so:"
    tail -n 15 "$console" | tr -d '\r' | sed 's/^/    | /' >&2
    exit "$1"
}

result=$(tr -d '\r' <"$verdict" | sed -n 's/^exit \([0-9]*\)$/\1/p')
if has_panicked; then red $PANICKED "its kernel panicked"; fi
if lines=$(counting_complaints); then
    say "error: guest \"$name\": its kernel complained, so this run is red whatever the job said"
    say "(the job's status was ${result:-not told}; the whole log: $console):"
    printf '    | %s\n' "${lines//$'\n'/$'\n    | '}" >&2
    exit $SPLAT
fi
if [[ $never_starts ]]; then
    qemu_says
    if [[ -e $files/not-started ]]; then red $TIMED_OUT "$why"; else red $NO_QEMU "$why"; fi
fi
if [[ ! -s $console ]]; then
    qemu_says
    red $SILENT "its kernel never printed anything (QEMU's status: $status)"
fi
if ((status == 124 || (status == 137 && limit > 0 && SECONDS - began >= limit))); then
    red $TIMED_OUT "it was not done after $limit s, and was ended"
fi
if ((status != 0)); then
    qemu_says
    # What comes after that is nobody's but QEMU's.
    if [[ ! $result ]] || ! was_switched_off; then
        if ((status == 137)); then why=': it was killed, perhaps as the host had no memory left'; else why=''; fi
        red $NO_QEMU "QEMU ended with status $status$why"
    fi
    warn "guest \"$name\": QEMU ended with status $status when the guest was done, whose job's status was $result"
fi
if ((tee_status != 0)); then red $OUTPUT_LOST "its output could not be written (status $tee_status)"; fi
[[ $result ]] || red $NO_VERDICT "it ended without a verdict"
was_switched_off || red $NO_VERDICT "its job ended with status $result, but it never came to switch itself off"
exit "$result"
