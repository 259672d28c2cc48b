#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Packs the guest's file system into build/guest.cpio: busybox, guest/init, the programs of user
# space in /bin, the modules in /lib/mmapdev, and of Debian's own modules those of disks, of device-dax and of the network (which
# the sanitizer kernel, with TREE=sanitizer and in build/sanitizer/, has built in or lacks). What is not built yet is left out.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir -p "$GUEST"
take_lock "$GUEST/guest.lock" "another run is packing the guest in this folder: waiting for it"
tree=$GUEST/guest
rm -rf "$tree"
mkdir -p "$tree"/{bin,lib/mmapdev}
cp "$QEMU_DIR/guest/init" "$tree/init"
for module in "$GUEST"/*.ko; do
    [[ ! -e $module ]] || cp "$module" "$tree/lib/mmapdev/"
done
for program in "$BUILD"/bin/*; do
    [[ ! -e $program ]] || cp "$program" "$tree/bin/"
done
cp "$CHECKOUT"/userspace-test/examples/*.py "$tree/lib/mmapdev/"
# shellcheck disable=SC2016 # expanded by the shell inside
"$QEMU_DIR/enter.sh" sh -ec '
    cd "$1"
    cp /usr/bin/busybox bin/
    # The kernel reads the whole file, and each test loads it.
    for module in lib/mmapdev/*.ko; do [ ! -e "$module" ] || strip --strip-debug "$module"; done
    for name in drivers/block/virtio_blk drivers/block/loop drivers/block/brd lib/lz4/lz4hc_compress drivers/block/zram/zram \
        drivers/nvdimm/libnvdimm drivers/nvdimm/nd_e820 drivers/dax/dax_pmem drivers/dax/device_dax \
        net/core/failover drivers/net/net_failover drivers/net/virtio_net; do
        [ "$2" ] || xzcat "/kernel/modules/$name.ko.xz" >"lib/${name##*/}.ko"
    done
    for name in $(busybox --list); do [ -e "bin/$name" ] || ln -s busybox "bin/$name"; done
    find . | sort | cpio --quiet -o -H newc -R 0:0 >../.guest.cpio
    mv ../.guest.cpio ../guest.cpio' sh "${tree#"$CHECKOUT/"}" "$TREE"
rm -rf "$tree"
