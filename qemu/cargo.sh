#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs cargo on userspace-test/ in the provisioned root: cargo.sh SUBCOMMAND ARGUMENTS...
# The programs are static, since the guest has no libraries; the explicit target keeps that flag
# from the procedural macros, which have to be dynamic.
# What the programs depend on is built once and kept in the cache, from which each new checkout takes it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$QEMU_DIR/steps.sh"

cargo() {
    local flags=(--target x86_64-unknown-linux-gnu)
    if [[ $1 == fmt ]]; then flags=(); fi
    "$QEMU_DIR/enter.sh" env -C userspace-test CARGO_HOME=/cache/cargo CARGO_TARGET_DIR=/mmapdev/build/target \
        RUSTFLAGS="-C target-feature=+crt-static" RUSTDOCFLAGS=-Dwarnings cargo "$1" "${flags[@]}" "${@:2}"
}

# inside SCRIPT FOLDER...: runs it in the root, where it can add_built FROM TO: that copies what is built of other packages, with
# the time at which it was made, by which cargo judges it. Of its own package nothing is: a checkout's files may be older than
# what another has built of them. cargo writes down that a package is built when it is; so that is copied first, and what it
# is just building, which may vanish meanwhile (24), is left out.
inside() {
    # shellcheck disable=SC2016 # expanded by the shell inside
    "$QEMU_DIR/enter.sh" sh -ec '
        copy() {
            rsync -a --exclude="*mmapdev[-_]userspace*" --exclude="mmapdev*" --exclude="rmeta*" --exclude=incremental \
                --exclude=examples --exclude=doc "$@" || [ $? = 24 ]
        }
        add_built() {
            copy --exclude=deps --exclude=build --include="*/" --include=".fingerprint/**" --exclude="*" "$1/" "$2/"
            copy --exclude=.fingerprint "$1/" "$2/"
        }
        trap "rm -rf \"\$2.tmp\"" EXIT
        rm -rf "$2.tmp"
        '"$1" sh "${@:2}"
}
# built FOLDER: what cargo has written down there of other packages.
built() { find "$1" -path '*/.fingerprint/*' -type f -not -path '*/mmapdev-userspace-*' -printf '%P\n' 2>/dev/null | sort; }
lock_dependencies() { take_lock "$CACHE/dependencies.lock" "another run copies what the programs depend on: waiting for it"; }

if [[ $1 == fmt ]]; then
    cargo "$@"
    exit
fi
target=$BUILD/target kept=$CACHE/$DEPENDENCIES
if [[ ! -d $target ]]; then
    lock_dependencies
    if [[ ! -d $target && -d $kept ]]; then
        # shellcheck disable=SC2016 # expanded by the shell inside
        inside 'add_built "$1" "$2.tmp"; mv -T "$2.tmp" "$2"' "/cache/$DEPENDENCIES" /mmapdev/build/target ||
            warn "what the programs depend on cannot be taken from $kept, and is built"
    fi
    mkdir -p "$target"
    # What is in it besides, later, is of other versions, and no other checkout needs it.
    echo "$DEPENDENCIES" >"$target/.dependencies"
    exec {lock_fd}>&-
fi
cargo "$@"
if [[ $(cat "$target/.dependencies" 2>/dev/null) == "$DEPENDENCIES" && $(comm -23 <(built "$target") <(built "$kept")) ]]; then
    lock_dependencies
    # shellcheck disable=SC2016 # expanded by the shell inside
    inside '
        [ ! -d "$2" ] || cp -a "$2" "$2.tmp"
        add_built "$1" "$2.tmp"
        rm -rf "$2.old"
        [ ! -d "$2" ] || mv -T "$2" "$2.old"
        mv -T "$2.tmp" "$2"
        rm -rf "$2.old"' /mmapdev/build/target "/cache/$DEPENDENCIES" ||
        warn "what the programs depend on is not kept in $kept: the next checkout builds it again"
fi
