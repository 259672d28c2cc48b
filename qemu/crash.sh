#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Kills guests that write to a device of a file, each at a moment of its own, and looks at what their disks have:
#   crash.sh [KILLS] [SEED]
# What a sync that returned was about must be there: on the image as it is, and on one that has what a disk's cache
# had last been told to store, and of what came later any part. Two guests run at a time. What belongs to a kill that
# left something wrong is kept in build/crash/.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

kills=${1:-5} seed=${2:-$(date +%s)}
[[ $kills =~ ^[1-9][0-9]{0,4}$ ]] || die "KILLS=$kills is no number of kills"
[[ $seed =~ ^[0-9]{1,12}$ ]] || die "SEED=$seed is no seed of at most 12 digits"
results=$BUILD/crash
take_lock "$BUILD/crash.lock" "another run kills guests in this folder: waiting for it"
rm -rf "$results"
mkdir -p "$results"

# As the guest has it: with a journal, extents, and in it a file half of which are holes.
# shellcheck disable=SC2016 # expanded by the shell inside
prepare='
    cd "$1"
    mkdir files
    /mmapdev/build/bin/mmapdev-crash --seed "$2" make files/file
    mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 -d files image 64M
    rm -r files
    cp --sparse=always image cut
    touch log'
# Without booting: the journal is replayed, and the file taken out.
# shellcheck disable=SC2016 # expanded by the shell inside
examine='
    cd "$1"
    program=/mmapdev/build/bin/mmapdev-crash
    "$program" --seed "$2" cut log cut
    failed=0
    for image in image cut; do
        echo "$image:"
        status=0
        e2fsck -fy "$image" || status=$?
        # 1: it has replayed or mended something.
        if [ "$status" -gt 1 ]; then
            echo "e2fsck: status $status"
            failed=1
        fi
        debugfs -R "dump /file $image.file" "$image"
        "$program" --seed "$2" check said "$image.file" || failed=1
    done
    exit $failed'

# kill_one NUMBER SEED SYNCS MILLISECONDS: kills a guest so long after so many syncs have returned.
kill_one() {
    local number=$1 folder=$results/$1 name=crash-$1 guest
    local said=$BUILD/log/crash-$1.out.log pid=$BUILD/boot/crash-$1/qemu.pid
    mkdir "$folder"
    "$QEMU_DIR/enter.sh" sh -ec "$prepare" sh "/mmapdev/build/crash/$number" "$2" >"$folder/prepare.log" 2>&1 ||
        { complain "$number" "no image was made" "$folder/prepare.log" && return 1; }
    rm -f "$said" "$pid"
    "$QEMU_DIR/boot.sh" --name "$name" --disk "$folder/image" --disk-log "$folder/log" --memory 512M --limit 600 \
        mmapdev-crash --seed "$2" write /mnt/disk/file >"$folder/boot.log" 2>&1 </dev/null &
    guest=$!
    until [[ -e $said ]] && (($(grep -c '^synced' "$said") >= $3)); do
        kill -0 $guest 2>/dev/null || { complain "$number" "the guest ended by itself" "$folder/boot.log" && return 1; }
        sleep 0.02
    done
    sleep "$(printf '0.%03d' "$4")"
    kill -KILL "$(<"$pid")"
    wait $guest || true
    cp "$said" "$folder/said"
    if complaints "$BUILD/log/$name.console.log" >"$folder/complaints"; then
        complain "$number" "the kernel complained" "$folder/complaints" && return 1
    fi
    if ! "$QEMU_DIR/enter.sh" sh -ec "$examine" sh "/mmapdev/build/crash/$number" "$2" >"$folder/check.log" 2>&1; then
        complain "$number" "the disk has not what was synced" "$folder/check.log" && return 1
    fi
    printf 'kill %s: %s\n' "$number" "$(grep -h '^[0-9]* requests' "$folder/check.log")"
    grep -h '^synced until' "$folder/check.log" | paste -d' ' <(printf '    as it is:\n    without power:\n') -
    rm -rf "$folder" "${BUILD:?}/boot/$name" "$BUILD/log/$name".*
}

complain() {
    printf 'kill %s: FAILED: %s; %s ends so:\n' "$1" "$2" "$3"
    tail -n 25 "$3" | sed 's/^/    | /'
}

trap end_groups EXIT
say "SEED=$seed"
RANDOM=$((seed % 32768))
start=$SECONDS
for ((number = 1; number <= kills; number++)); do
    beside $number kill_one $number $((seed * 1000 + number)) $((1 + RANDOM % 150)) $((RANDOM % 300))
done
await_all

echo "$((kills - ${#failing[@]})) kills passed, ${#failing[@]} failed, in $((SECONDS - start)) s (SEED=$seed)"
((${#failing[@]} == 0))
