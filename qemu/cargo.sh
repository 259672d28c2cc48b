#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs cargo on userspace-test/ in the provisioned root: cargo.sh SUBCOMMAND ARGUMENTS...
# The programs are static, since the guest has no libraries; the explicit target keeps that flag
# from the procedural macros, which have to be dynamic.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

flags=(--target x86_64-unknown-linux-gnu)
if [[ $1 == fmt ]]; then flags=(); fi
exec "$QEMU_DIR/enter.sh" env -C userspace-test CARGO_HOME=/cache/cargo CARGO_TARGET_DIR=/mmapdev/build/target \
    RUSTFLAGS="-C target-feature=+crt-static" RUSTDOCFLAGS=-Dwarnings cargo "$1" "${flags[@]}" "${@:2}"
