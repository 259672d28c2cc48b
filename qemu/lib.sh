# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by every script here: where things are, messages, locks, progress.

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${MMAPDEV_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME, or MMAPDEV_CACHE}/.cache}/mmapdev}
[[ $CACHE == /* ]] || CACHE=$PWD/$CACHE
# shellcheck disable=SC2034 # used by the scripts that source this file
BUILD=$CHECKOUT/build QEMU_DIR=$CHECKOUT/qemu LOGS=$CACHE/logs
# Which of two kernels a script is about: Debian's, or, with TREE=sanitizer, the one that finds mistakes; and
# where what belongs to that kernel alone is built: its modules, its guest.
TREE=${TREE:-}
[[ ! $TREE || $TREE == sanitizer ]] || { echo "error: TREE=$TREE is no kernel that is known here" >&2 && exit 1; }
export TREE
# shellcheck disable=SC2034
GUEST=$BUILD${TREE:+/$TREE}

say() { printf '%s\n' "$*" >&2; }
warn() { printf '%s\n' "WARNING: $*" >&2; }
die() {
    printf '%s\n' "error: $*" >&2
    exit 1
}

# The key of everything given: a step's product is named by what it depends on.
hash_of() { printf '%s\0' "$@" | sha256sum | cut -c1-12; }

# take_lock FILE SENTENCE: hold FILE alone until this process and its children end; SENTENCE if
# another run holds it, since nothing is worse than waiting without knowing why.
take_lock() {
    mkdir -p "$(dirname "$1")"
    exec {lock_fd}>>"$1"
    flock -n "$lock_fd" && return
    say "$2"
    flock "$lock_fd"
}

# Runs a command with root's rights over the cache: as root, in a mount namespace of its own (so
# that every mount goes with the process, whatever ends it); else as root of a user namespace.
namespace() {
    if ((EUID == 0)); then
        unshare --mount --propagation private -- "$@"
    else
        unshare --user --map-root-user --map-auto --mount --propagation private -- "$@"
    fi
}

# has_tests COMMAND...: whether that command, which is mmapdev-test in some environment, would run any test in a guest.
has_tests() {
    local found
    found=$(PATH=$BUILD/bin:$PATH "$@" --list) || die "the tests cannot be listed"
    [[ $found ]]
}

# Some files in the cache belong to subordinate users, whom only the namespace can remove.
remove() { rm -rf -- "$@" 2>/dev/null || namespace rm -rf -- "$@"; }

# discard PATH...: removes products. Renamed first: half of one must never have its name.
discard() {
    local path
    for path in "$@"; do
        if [[ $path != *.tmp ]]; then
            remove "$path.tmp"
            mv -T "$path" "$path.tmp"
        fi
        remove "${path%.tmp}.tmp"
    done
}

# complaints FILE: those of a kernel in its log; false where there are none. The tests in the guest look for the same.
complaints() { grep -aFf "$QEMU_DIR/complaints.txt" "$1" | tr -d '\r'; }

# in_group COMMAND...: runs it in the background, in a process group of its own, so that all of it can be ended: $! is its number.
in_group() {
    set -m
    "$@" </dev/null &
    set +m
}

# beside NAME COMMAND...: the same, once fewer than `lanes` such are left: an emulated machine has one CPU busy for most of its time.
lanes=2
beside() {
    while (($(jobs -rp | wc -l) >= lanes)); do wait -n || true; done
    in_group "${@:2}"
    beside_pids+=("$!") beside_names+=("$1")
}
beside_pids=() beside_names=()

# Waits for all of those, and has in `failing` the names of the ones that failed.
await_all() {
    local at
    failing=()
    for at in "${!beside_pids[@]}"; do
        wait "${beside_pids[at]}" || failing+=("${beside_names[at]}")
    done
}

# Ends all that runs in the background, each with its group; for a trap at the script's end.
end_groups() {
    local group
    for group in $(jobs -rp); do kill -TERM -- "-$group" 2>/dev/null || true; done
}

elapsed() { printf '%d:%02d' $(((SECONDS - $1) / 60)) $(((SECONDS - $1) % 60)); }

# progress TITLE LOG COMMAND...: runs COMMAND with its output in LOG, one line of progress; a
# failure names the log and shows its end.
progress() {
    local title=$1 log=$2 start=$SECONDS status=0 pid
    shift 2
    mkdir -p "$(dirname "$log")"
    in_group "$@" >"$log" 2>&1
    pid=$!
    # shellcheck disable=SC2064 # the process id of now is meant
    trap "kill -TERM -- -$pid 2>/dev/null; exit 130" INT TERM HUP
    if [[ -t 2 ]]; then
        while kill -0 "$pid" 2>/dev/null; do
            printf '\r  %-44s %s' "$title" "$(elapsed "$start")" >&2
            sleep 0.5
        done
        printf '\r' >&2
    else
        printf '  %-44s ...\n' "$title" >&2
    fi
    wait "$pid" || status=$?
    trap - INT TERM HUP
    if ((status == 0)); then
        printf '  %-44s %s ok\n' "$title" "$(elapsed "$start")" >&2
        return
    fi
    printf '  %-44s %s FAILED\n' "$title" "$(elapsed "$start")" >&2
    tail -n "${LOG_TAIL:-20}" "$log" | sed 's/^/    | /' >&2
    say "error: \"$title\" failed (status $status); the whole log: $log"
    return "$status"
}
