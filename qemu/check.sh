#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# All checks that need no guest: formatting, lints, documentation, unit tests on the host, shell
# scripts, the C header. Every one is made, and any that fails makes this fail.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$CHECKOUT"

export LOG_TAIL=60
failed=0
# check TITLE COMMAND...
check() { progress "$1" "$BUILD/log/check-${1//[^a-z]/-}.log" "${@:2}" || failed=$((failed + 1)); }
enter=$QEMU_DIR/enter.sh cargo=$QEMU_DIR/cargo.sh

module_clippy() { "$QEMU_DIR/kbuild.sh" . build/clippy CLIPPY=1 KRUSTFLAGS=-Dwarnings KCFLAGS=-Werror modules; }

# rustdoc with the very flags that kbuild gave to the compiler: a module has no target for it.
# Nothing of a module is public, so links to private items are fine.
module_rustdoc() {
    local command
    command=$(sed -n 's/^savedcmd_[^ ]* := //p' build/clippy/src/.mmapdev.o.cmd | cut -d';' -f1 |
        sed -E 's/ [^ ]*(clippy-driver|rustc) / rustdoc /; s/ --(emit|out-dir|crate-type)[= ][^ ]*//g; s/ -Wmissing_docs//')
    "$enter" sh -ec "cd /kernel/out; export RUSTC_BOOTSTRAP=1; $command --crate-name mmapdev --document-private-items -Dwarnings -Arustdoc::private_intra_doc_links --out-dir /mmapdev/build/doc"
}

header() {
    "$enter" sh -ec '
        gcc-14 -x c -std=c99 -Wall -Wextra -pedantic -Werror -fsyntax-only include/uapi/mmapdev.h
        g++-14 -x c++ -Wall -Wextra -pedantic -Werror -fsyntax-only include/uapi/mmapdev.h'
}

# Above the abstractions "unsafe" stands in lint attributes and comments only.
unsafe_code() {
    ! grep -rn unsafe src --include=*.rs | grep -v '^src/abstractions/' | grep -vE ':[0-9]+: *(//|#!?\[[a-z]+\(unsafe_code)'
}

licenses() {
    ! find . \( -name build -o -name .git \) -prune -o -type f \
        \( -name '*.rs' -o -name '*.[ch]' -o -name '*.sh' -o -name '*.toml' -o -name Makefile -o -name Kbuild -o -path './.ci/*' -o -path './qemu/guest/*' \) \
        -not -name '.*' -exec sh -c 'for f; do head -n 3 "$f" | grep -q SPDX-License-Identifier || echo "$f"; done' sh {} + |
        grep .
}

# Each patch that breaks the module fits it, and names the test that is to notice.
breaks() {
    local patch
    for patch in qemu/breaks/*.patch; do
        "$enter" busybox patch --dry-run -p1 -i "$patch" || { echo "$patch does not apply" && return 1; }
        grep -qE '^Test: [a-z_0-9]+::[a-z_0-9]+$' "$patch" || { echo "$patch names no test" && return 1; }
    done
}

# A document that names a test as area::test promises that there is one.
named_tests() {
    local name missing=0
    # shellcheck disable=SC2016 # they stand in backquotes
    for name in $(grep -rhoE '`[a-z0-9_]+::[a-z0-9_]+`' README.md docs | tr -d '`' | sort -u); do
        grep -qsF "\"${name##*::}\"" "userspace-test/src/bin/mmapdev-test/${name%%::*}.rs" ||
            { echo "no such test: $name" && missing=1; }
    done
    ((missing == 0))
}

check "rustfmt of the modules" "$enter" rustfmt --check --color never src/mmapdev.rs qemu/rig-test/rig_test.rs
check "rustfmt of user space" "$cargo" fmt --check -- --color never
check "clippy of the module" module_clippy
check "clippy of user space" "$cargo" clippy --locked --release --all-targets -- -D warnings
check "rustdoc of the module" module_rustdoc
check "rustdoc of user space" "$cargo" doc --locked --release --no-deps --document-private-items
# Not optimised, which takes longer than they do; and overflows are found.
check "unit tests of user space on the host" "$cargo" test --locked --tests
check "shellcheck" "$enter" shellcheck -x qemu/*.sh qemu/guest/init .ci/run
check "the header as C and as C++" header
check "unsafe only in the abstractions" unsafe_code
check "tests that documents name" named_tests
check "what breaks the module on purpose applies" breaks
check "licence lines" licenses
((failed == 0)) || die "$failed of the checks failed"
