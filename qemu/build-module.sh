#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Builds a module into build/: in the provisioned root for Debian's kernel (into build/sanitizer/ for the
# sanitizer kernel, with TREE=sanitizer), or with KDIR= on this host for any prepared kernel tree. The argument is the folder of its Kbuild in the checkout.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=${1:-.}

# Whether modules in Rust can be built against $KDIR, in one sentence if not.
check_kdir() {
    local rustc=${RUSTC:-rustc} want have
    [[ -d $KDIR ]] || die "KDIR=$KDIR is no folder: give a prepared kernel build tree"
    [[ -f $KDIR/.config ]] || die "KDIR=$KDIR has no .config: it is not a configured kernel tree"
    grep -qx CONFIG_RUST=y "$KDIR/.config" ||
        die "the kernel in KDIR=$KDIR is configured without CONFIG_RUST=y: enable it (make rustavailable says what is missing) and rebuild that kernel"
    grep -qx CONFIG_TRANSPARENT_HUGEPAGE=y "$KDIR/.config" ||
        die "the kernel in KDIR=$KDIR is configured without CONFIG_TRANSPARENT_HUGEPAGE=y, which the module needs: enable it and rebuild that kernel"
    [[ -f $KDIR/rust/libkernel.rmeta ]] ||
        die "KDIR=$KDIR has no rust/libkernel.rmeta: run make prepare and modules_prepare there, or install the package that has it (Ubuntu: linux-lib-rust-\$(uname -r))"
    want=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"$/\1/p' "$KDIR/.config")
    have=$("$rustc" --version 2>/dev/null) ||
        die "$rustc cannot be run, and KDIR=$KDIR was built by $want: install that, or name it with RUSTC="
    [[ $have == "$want" ]] ||
        die "KDIR=$KDIR was built by $want, and $rustc is $have: name the same compiler with RUSTC="
}

if [[ ${KDIR:-} && $folder == . && ! $TREE ]]; then
    check_kdir
    out=build/module-kdir
    arguments=()
    if grep -qx CONFIG_CC_IS_CLANG=y "$KDIR/.config"; then arguments=(LLVM=1); fi
    unset MAKEFLAGS MAKELEVEL MFLAGS
    build=(make -s -C "$(cd "$KDIR" && pwd -P)" -j"$(nproc)" "M=$CHECKOUT" "MO=$CHECKOUT/$out" "${arguments[@]}" ${RUSTC:+"RUSTC=$RUSTC"})
else
    out=${GUEST#"$CHECKOUT/"}/module
    [[ $folder == . ]] || out=${GUEST#"$CHECKOUT/"}/$folder
    build=("$QEMU_DIR/kbuild.sh" "$folder" "$out")
fi
mkdir -p "$CHECKOUT/$out"
take_lock "$CHECKOUT/$out/lock" "another run builds the module in this folder: waiting for it"
# kbuild says each time that it cannot make BTF without a vmlinux, which nobody misses here.
"${build[@]}" modules 2>&1 | { grep -v '^Skipping BTF generation' || true; } >&2 || die "the module did not build"
for module in "$CHECKOUT/$out"/*.ko; do
    # Renamed into place, so that a guest that is just being packed never sees half of it.
    cp "$module" "$GUEST/.${module##*/}"
    mv "$GUEST/.${module##*/}" "$GUEST/${module##*/}"
done
