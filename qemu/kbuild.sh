#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs kbuild in the provisioned root on a folder of the checkout, with its output in another:
#   kbuild.sh FOLDER OUTPUT ARGUMENTS...
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$QEMU_DIR/steps.sh"

kernel_names || die "nothing is provisioned: run qemu/provision.sh first"
arguments=("${KBUILD_ARGS[@]}" "LOCALVERSION=+${RELEASE#*+}")
if [[ $TREE ]]; then arguments=("${SANITIZER_ARGS[@]}"); fi
mkdir -p "$CHECKOUT/$2"
# The variables of the make that called this are not meant for that one.
unset MAKEFLAGS MAKELEVEL MFLAGS
# Paths in messages are those of the checkout, not of the root.
"$QEMU_DIR/enter.sh" make -s -C /kernel/out -j"$(nproc)" "M=$(realpath -m "/mmapdev/$1")" "MO=/mmapdev/$2" \
    "${arguments[@]}" "${@:3}" 2>&1 | sed -u 's|/mmapdev/||g'
