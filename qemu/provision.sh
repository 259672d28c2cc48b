#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Makes what is missing of the Debian root and the kernel tree in the cache; see steps.sh for the
# steps. Each product is built beside its place and renamed when it is complete, so that neither
# an interruption nor a second run can leave half of one.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$QEMU_DIR/steps.sh"
. "$QEMU_DIR/host-check.sh"

wanted() {
    echo "$BASE" "$ROOT" "$CHOICE" "$DEPENDENCIES"
    kernel_names || return 0
    echo "$SOURCE" "$OUT" "$SANITIZER"
    [[ -d $CACHE/$SOURCE ]] || echo "$DEBS"
}

# Products of other versions of the steps, and what interrupted runs have left.
stale() {
    local path wanted
    wanted=" $(wanted | tr '\n' ' ') "
    for path in "$CACHE"/{base,root,choice,packages,source,kernel,sanitizer,dependencies}-*; do
        [[ ! -e $path || $wanted == *" ${path##*/} "* ]] || echo "$path"
    done
}

# Removed only while nobody uses the cache; else the next run does it.
remove_stale() {
    local paths fd
    mapfile -t paths < <(stale)
    ((${#paths[@]})) || return 0
    exec {fd}>>"$CACHE/use.lock"
    if flock -n "$fd"; then discard "${paths[@]}"; fi
    exec {fd}>&-
}

# product NAME TITLE: makes it unless it is there.
product() {
    local name=$1 kind=${1%-*}
    [[ ! -d $CACHE/$name ]] || return 0
    PRODUCT=$CACHE/$name.tmp
    remove "$PRODUCT"
    mkdir -p "$PRODUCT"
    # Not "progress ... || exit": bash would then go on after a failing command within the step.
    progress "$2" "$LOGS/$kind.log" "step_$kind"
    mv -T "$PRODUCT" "$CACHE/$name"
}

# What is stale here is deleted, so this must be nobody else's folder.
if [[ ! -e $CACHE/provision.lock && $(ls -A --ignore=provision.lock "$CACHE" 2>/dev/null) ]]; then
    die "$CACHE holds other things: choose an empty folder with MMAPDEV_CACHE="
fi
{ mkdir -p "$CACHE" && touch "$CACHE/provision.lock" && mkdir -p "$LOGS"; } 2>/dev/null ||
    die "cannot write to $CACHE: choose another place with MMAPDEV_CACHE="
check_namespace
if ! complete; then take_lock "$CACHE/provision.lock" "another run is preparing $CACHE: waiting for it"; fi
if ! complete; then
    check_provisioning
    say "Preparing the tools and the kernel, once, in $CACHE:"
    product "$BASE" "Debian $SUITE"
    # A choice whose packages were never fetched may be out of date by now.
    if kernel_names && [[ ! -d $CACHE/$SOURCE && ! -d $CACHE/$DEBS ]]; then discard "$CACHE/$CHOICE"; fi
    product "$CHOICE" "which kernel"
    kernel_names
    # Not before there is a choice: a mistyped KERNEL= must not cost what was working. And not after
    # the rest is made: the cache would hold everything twice.
    remove_stale
    product "$ROOT" "compilers, QEMU, checkers"
    if [[ ! -d $CACHE/$SOURCE ]]; then product "$DEBS" "packages of Linux $RELEASE"; fi
    product "$SOURCE" "source of Linux $RELEASE"
    product "$OUT" "Rust metadata for Linux $RELEASE"
fi
if [[ ${1:-} == sanitizer && ! -d $CACHE/$SANITIZER ]]; then
    [[ ${lock_fd:-} ]] || take_lock "$CACHE/provision.lock" "another run is preparing $CACHE: waiting for it"
    # Whoever tests at the same time has limits of time, and this has none.
    (($(nice) >= 10)) || renice -n 10 $$ >/dev/null
    say "Building the sanitizer kernel, once, in $CACHE (about 20 minutes on 2 cores):"
    product "$SANITIZER" "Linux $RELEASE with sanitizers"
fi
if [[ -n $(stale) ]]; then
    [[ ${lock_fd:-} ]] || exec {lock_fd}>>"$CACHE/provision.lock"
    if flock -n "$lock_fd"; then remove_stale; fi
fi
if [[ $CHOSEN == newest ]]; then
    warn "Linux $PIN_RELEASE ($PIN_VERSION), with which this project is tested, has left Debian's archive."
    warn "In its place: $RELEASE ($VERSION). KERNEL= chooses another."
fi
