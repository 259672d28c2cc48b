#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Builds the programs of userspace-test/ in the provisioned root, static, into build/bin.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# cargo locks its folder itself and does nothing, network included, when nothing has changed.
quiet=--quiet
if [[ ! -d $BUILD/target ]]; then quiet=; fi # the first time takes a minute, and shows what it does
"$QEMU_DIR/cargo.sh" build --locked --release $quiet
mkdir -p "$BUILD/bin"
cd "$BUILD/target/x86_64-unknown-linux-gnu/release"
for program in *; do
    [[ -f $program && -x $program ]] || continue
    cmp -s "$program" "$BUILD/bin/$program" && continue
    cp "$program" "$BUILD/bin/.$program"
    mv "$BUILD/bin/.$program" "$BUILD/bin/$program"
done
