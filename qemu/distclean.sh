#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Removes the cache: only what the scripts here have put there, since MMAPDEV_CACHE may name any
# folder, and not while another run uses it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[[ -e $CACHE/provision.lock ]] || exit 0
take_lock "$CACHE/provision.lock" "another run is preparing $CACHE: waiting for it"
take_lock "$CACHE/use.lock" "another run is using $CACHE: waiting for it"
shopt -s nullglob
discard "$CACHE"/{base,root,choice,packages,source,kernel,sanitizer,dependencies}-*
remove "$CACHE"/accel-* "$CACHE"/{cargo,logs}
rm -f "$CACHE"/*.lock
rmdir "$CACHE" 2>/dev/null || say "left in $CACHE: what is not this project's"
