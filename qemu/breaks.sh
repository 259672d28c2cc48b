#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Breaks the module on purpose, in each way that qemu/breaks/ has a patch for, and sees that the test which is named at its top
# turns red by that: breaks.sh [NAME]. In a copy of the checkout, build/breaks/, so that nothing of this one is touched.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

copy=$BUILD/breaks log=$BUILD/log/breaks

# run_test TEST: in a guest of its own, which ends with the first oops.
run_test() {
    "$copy/qemu/boot.sh" --name breaks --limit 300 --append "init_on_alloc=0 oops=panic" mmapdev-test --exact "$1"
}

# change PATCH [-R]
change() {
    # shellcheck disable=SC2016 # expanded by the shell inside
    "$QEMU_DIR/enter.sh" sh -ec 'cd build/breaks && busybox patch -p1 "$@"' sh -i "/mmapdev/${1#"$CHECKOUT/"}" "${@:2}" >/dev/null
}

# test_of PATCH: the test that is to notice.
test_of() { sed -n 's/^Test: //p' "$1"; }

take_lock "$BUILD/breaks.lock" "another run breaks the module in this folder: waiting for it"
shopt -s nullglob
patches=("$QEMU_DIR/breaks/"*"${1:-}"*.patch)
((${#patches[@]})) || die "no patch in qemu/breaks/ has \"${1:-}\" in its name"
mkdir -p "$copy" "$log"
# What was built there stays.
find "$copy" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
find "$CHECKOUT" -mindepth 1 -maxdepth 1 ! -name build ! -name .git -exec cp -a {} "$copy/" \;
# The programs are the same.
if [[ ! -d $copy/build ]]; then
    mkdir "$copy/build"
    cp -a "$BUILD/target" "$copy/build/"
fi
# The module that was built there last may have been a broken one.
find "$copy/src" -type f -exec touch {} +
progress "a copy that is whole" "$log/whole.log" make -C "$copy" guest
for patch in "${patches[@]}"; do
    test=$(test_of "$patch")
    progress "$test" "$log/whole-$(basename "$patch" .patch).log" run_test "$test"
done

survived=()
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    test=$(test_of "$patch")
    change "$patch"
    status=0
    # As make would: an error that is in the way of building is no test that is red.
    make -C "$copy" guest >"$log/$name.log" 2>&1 || die "the module does not build with $name: $log/$name.log"
    run_test "$test" >>"$log/$name.log" 2>&1 || status=$?
    # The test is red, or its guest has come to no end by itself: a panic, or a hang.
    if ((status == 101 || status == 111 || status == 113 || status == 115)); then
        echo "$name: red, as it should be: $test"
    else
        echo "$name: NOT SEEN by $test; $log/$name.log"
        survived+=("$name")
    fi
    change "$patch" -R
done
((${#survived[@]} == 0)) || die "broken, and no test noticed: ${survived[*]}"
