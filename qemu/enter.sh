#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs a command in the provisioned root: enter.sh COMMAND...
# There /mmapdev is the checkout, /cache the cache, and /kernel Debian's kernel: its source in src,
# the tree to build modules against in out, and in that the image that is booted. With TREE=sanitizer the tree is that of
# the sanitizer kernel.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$QEMU_DIR/steps.sh"

# Shared with all who use the products: who wants to remove some takes it alone.
[[ -e $CACHE/provision.lock ]] || die "nothing is provisioned in $CACHE: run qemu/provision.sh first"
exec {use_fd}>>"$CACHE/use.lock"
flock -s "$use_fd"
complete ||
    die "the tools are not (or no longer) in $CACHE: run qemu/provision.sh, or any make target, again"
out=$CACHE/$OUT
if [[ $TREE ]]; then
    out=$CACHE/$SANITIZER
    [[ -d $out ]] || die "there is no sanitizer kernel in $CACHE: run qemu/provision.sh sanitizer"
fi
mkdir -p "$BUILD"
in_root "$CACHE/$ROOT" --bind "$CHECKOUT" /mmapdev --bind "$CACHE" /cache \
    --bind "$CACHE/$SOURCE" /kernel --bind "$out" /kernel/out "$@"
