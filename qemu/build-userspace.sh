#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Builds the programs and the examples of userspace-test/ in the provisioned root, static, into build/bin.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# cargo locks its folder itself and does nothing, network included, when nothing has changed.
quiet=--quiet
if [[ ! -d $BUILD/target ]]; then quiet=; fi # the first time takes a minute, and shows what it does
"$QEMU_DIR/cargo.sh" build --locked --release --bins --examples $quiet
mkdir -p "$BUILD/bin"
take_lock "$BUILD/bin.lock" "another run builds the programs in this folder: waiting for it"
cd "$BUILD/target/x86_64-unknown-linux-gnu/release"
# c_program NAME SOURCE: for 64 bits, and for 32 as NAME-32.
c_program() {
    # shellcheck disable=SC2016 # expanded by the shell inside
    "$QEMU_DIR/enter.sh" sh -ec '
        for bits in 64 32; do
            suffix=$([ $bits = 64 ] || echo "-$bits")
            gcc-14 -m$bits -std=gnu11 -O2 -Wall -Wextra -pedantic -Werror -static -I include/uapi -o "build/bin/.$1" "$2"
            mv "build/bin/.$1" "build/bin/$1$suffix"
        done' sh "$1" "userspace-test/$2"
}
c_program example-share-c examples/share.c
c_program requests abi/requests.c
for example in share ring; do
    cp "examples/$example" ".example-$example-rs"
    mv ".example-$example-rs" "$BUILD/bin/example-$example-rs"
done
for program in *; do
    [[ -f $program && -x $program ]] || continue
    cmp -s "$program" "$BUILD/bin/$program" && continue
    cp "$program" "$BUILD/bin/.$program"
    mv "$BUILD/bin/.$program" "$BUILD/bin/$program"
done
