# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154,SC2086,SC2116 # variables are shared with the scripts that source this file
# Sourced after lib.sh. What is provisioned: the pins, one function for each step, and the name
# of each product, which ends in a hash of all that the product depends on.

SUITE=trixie
# The kernel that this project is tested with. Packages leave the archive when newer ones come:
# then the newest of the same series is taken, with a warning. KERNEL= chooses another, as a
# release (7.3.5+deb13-cloud-amd64), a version (7.3.5) or a series (7.3).
PIN_SERIES=7.3
PIN_RELEASE=7.3.4+deb13-cloud-amd64
PIN_VERSION=7.3.4-1~bpo13+1
FLAVOUR=cloud-amd64
PACKAGES=(
    rustc rust-src rustfmt rust-clippy cargo bindgen          # the module, user space
    gcc-14 g++-14 libc6-dev clang llvm lld make flex bison bc # kbuild
    gcc-14-multilib libc6-dev-i386                            # a 32-bit program for the guest
    libelf-dev libssl-dev dwarves kmod xz-utils zstd rsync perl python3
    qemu-system-x86 busybox-static cpio virtiofsd             # the guest
    gdb python3-numpy e2fsprogs trace-cmd bpftrace linux-perf # what is run in it, from this root
    shellcheck ca-certificates
)
# kbuild's arguments: the compiler that Debian's .config names.
KBUILD_ARGS=(ARCH=x86 CC=x86_64-linux-gnu-gcc-14 HOSTCC=x86_64-linux-gnu-gcc-14)
SANITIZER_ARGS=(ARCH=x86 LLVM=1 LOCALVERSION=-sanitizer)

# in_root ROOT [--bind FROM TO]... COMMAND...: see chroot.sh.
in_root() { namespace bash "$QEMU_DIR/chroot.sh" "$@"; }

# A step that works inside a root is a function named inside_*, whose text is handed over.
# in_root_do ROOT [--bind FROM TO]... FUNCTION ARGUMENTS...
in_root_do() {
    local options=("$1")
    shift
    while [[ $1 == --bind ]]; do
        options+=("$1" "$2" "$3")
        shift 3
    done
    in_root "${options[@]}" bash -euo pipefail -c "$(declare -f inside_apt "$1"); \"\$@\"" bash "$@"
}

# Sets up $apt, the options of apt. With /product bound, the lists go there, since a finished root
# is not written to.
inside_apt() {
    # Without the error mode a list that cannot be fetched is no error, and its packages seem gone.
    apt=(-o Acquire::Retries=3 -o APT::Update::Error-Mode=any -o APT::Sandbox::User=root -o APT::Get::Assume-Yes=true -o Acquire::Languages=none)
    if [[ ${MIRROR:-} ]]; then # also where the root was made from another mirror
        sed "s|^deb .* \([^ ]* main\)|deb $MIRROR \1|" /etc/apt/sources.list >/run/mirror.list
        apt+=(-o Dir::Etc::sourcelist=/run/mirror.list)
    fi
    # The host's certificates, for a proxy that has its own.
    if [[ -e /run/host-ca.crt ]]; then apt+=(-o Acquire::https::CaInfo=/run/host-ca.crt); fi
    if mountpoint -q /product; then
        mkdir -p /product/apt/lists/partial /product/apt/cache/archives/partial
        apt+=(-o Dir::State::lists=/product/apt/lists -o Dir::Cache=/product/apt/cache)
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get "${apt[@]}" update
}

# Every step below makes $PRODUCT, a folder beside the place of the finished product.

# A minimal Debian, with the suite and its backports as package sources.
step_base() {
    local tool=(debootstrap)
    # debootstrap has to make device nodes, which a user namespace does not allow.
    if ((EUID != 0)) || ! command -v debootstrap >/dev/null; then tool=(mmdebstrap --mode=root); fi
    namespace "${tool[@]}" --variant=minbase "$SUITE" "$PRODUCT" ${MIRROR:+"$MIRROR"}
    # The mirror's name comes from what the tool wrote: none stands in this project.
    namespace sed -i -n "s/^\(deb .*\) $SUITE main.*/\1 $SUITE main\n\1 $SUITE-backports main/p; t end; b; :end q" \
        "$PRODUCT/etc/apt/sources.list"
    namespace mkdir -p "$PRODUCT"/{mmapdev,cache,product,kernel}
    namespace rm -rf "$PRODUCT"/var/cache/apt "$PRODUCT"/var/lib/apt/lists
    namespace mkdir -p "$PRODUCT"/var/{cache/apt/archives,lib/apt/lists}/partial
}

# That Debian with the compilers, QEMU and the checkers.
step_root() {
    namespace cp -a --reflink=auto "$CACHE/$BASE/." "$PRODUCT"
    in_root_do "$PRODUCT" inside_install "${PACKAGES[@]}"
}
inside_install() {
    inside_apt
    apt-get "${apt[@]}" install --no-install-recommends "$@"
    apt-get clean
    rm -rf /var/lib/apt/lists/* /usr/share/doc/*
}

# Which kernel it is, as three words: release, package version, and how it was chosen.
step_choice() {
    in_root_do "$CACHE/$BASE" --bind "$PRODUCT" /product inside_choose \
        "${KERNEL:-}" "$PIN_SERIES" "$PIN_RELEASE" "$PIN_VERSION" "$FLAVOUR"
}
inside_choose() {
    local wanted=$1 series=$2 pin=$3 version=$4 flavour=$5 how=newest release found
    if [[ $wanted ]]; then how=asked; fi
    inside_apt
    # versions PACKAGE: those that the archive has, newest first.
    versions() { apt-cache "${apt[@]}" madison "$1" | cut -d'|' -f2 | tr -d ' '; }
    # choose RELEASE VERSION WORD: unless the source of that version is not there.
    choose() {
        [[ $2 ]] && versions "linux-source-$(cut -d. -f1,2 <<<"$1")" | grep -xF -- "$2" >/dev/null || return
        echo "$1 $2 $3" >/product/choice
        rm -rf /product/apt
        exit 0
    }
    if [[ -z $wanted ]] && versions "linux-headers-$pin" | grep -xF -- "$version" >/dev/null; then
        choose "$pin" "$version" pinned || true
    fi
    found=$(apt-cache "${apt[@]}" pkgnames linux-headers- | sed -n "s/^linux-headers-\([0-9].*+deb.*-$flavour\)$/\1/p" | sort -rV)
    for release in $found; do
        if [[ $release == "${wanted:-$series}" || $release == "${wanted:-$series}"[.+]* ]]; then
            choose "$release" "$(versions "linux-headers-$release" | head -n 1)" "$how" || true
        fi
    done
    # The last line of a failing step's log is what its user sees.
    echo "Debian's archive has no Linux ${wanted:-$series} ($flavour) any more; choose another with KERNEL=," \
        "one of:" "$(echo ${found:-none})" "(for example: make demo KERNEL=$(head -n 1 <<<"$found"))"
    return 1
}

# Debian's kernel packages, until step_source has unpacked them.
step_packages() {
    in_root_do "$CACHE/$BASE" --bind "$PRODUCT" /product inside_download "linux-source-$SERIES=$VERSION" \
        "linux-headers-$RELEASE=$VERSION" "linux-binary-unsigned-$RELEASE=$VERSION" "linux-modules-$RELEASE=$VERSION"
}
inside_download() {
    inside_apt
    cd /product || return
    apt-get "${apt[@]}" download "$@"
    rm -rf apt
}

# The kernel's source, and of the binary packages what is used.
step_source() {
    in_root_do "$CACHE/$ROOT" --bind "$PRODUCT" /product --bind "$CACHE/$DEBS" /mnt inside_unpack
}
inside_unpack() {
    cd /product || return
    mkdir src out unpacked
    for deb in /mnt/*.deb; do dpkg-deb -x "$deb" unpacked; done
    tar -xJf unpacked/usr/src/linux-source-*.tar.xz -C src --strip-components=1 --no-same-owner
    cp unpacked/usr/src/linux-headers-*/.config config
    cp unpacked/usr/src/linux-headers-*/Module.symvers .
    cp unpacked/usr/lib/modules/*/vmlinuz* vmlinuz
    mv unpacked/usr/lib/modules/*/kernel modules
    rm -rf unpacked
}

# The tree that modules are built against, with the Rust metadata that Debian does not ship; and the kernel unpacked, since
# an emulated guest takes half of the time of its boot to do that itself.
step_kernel() {
    if ! grep -qx CONFIG_RUST=y "$CACHE/$SOURCE/config"; then
        echo "Debian configures Linux $RELEASE without Rust: choose a newer one with KERNEL="
        return 1
    fi
    in_root_do "$CACHE/$ROOT" --bind "$CACHE/$SOURCE" /kernel --bind "$PRODUCT" /kernel/out \
        inside_prepare "${KBUILD_ARGS[@]}" "LOCALVERSION=+${RELEASE#*+}"
}
inside_prepare() {
    local kbuild=(make -C /kernel/src O=/kernel/out -j"$(nproc)" "$@")
    cp /kernel/config /kernel/out/.config
    "${kbuild[@]}" olddefconfig
    # Another configuration would be another kernel than the one that is booted.
    diff /kernel/config /kernel/out/.config
    "${kbuild[@]}" prepare
    cp /kernel/Module.symvers /kernel/out/
    "${kbuild[@]}" modules_prepare
    test -e /kernel/out/rust/libkernel.rmeta
    # Not by the name that kbuild looks for, which would add type information to modules then.
    /kernel/src/scripts/extract-vmlinux /kernel/vmlinuz >/kernel/out/image
    test -s /kernel/out/image
}

# The kernel that make test-debug boots: the same source, built by clang (which KASAN with Rust needs),
# with sanitizer.config and nothing that no test needs.
step_sanitizer() {
    cp "$QEMU_DIR/sanitizer.config" "$PRODUCT/sanitizer.config"
    in_root_do "$CACHE/$ROOT" --bind "$CACHE/$SOURCE" /kernel --bind "$PRODUCT" /kernel/out \
        inside_build_sanitizer "${SANITIZER_ARGS[@]}"
}
inside_build_sanitizer() {
    local kbuild=(make -C /kernel/src O=/kernel/out -s -j"$(nproc)" "$@") line lost=0
    KCONFIG_ALLCONFIG=/kernel/out/sanitizer.config "${kbuild[@]}" allnoconfig
    # kconfig drops without a word what something else stands against.
    while read -r line; do
        [[ $line == CONFIG_*=* || $line == "# CONFIG_"*" is not set" ]] || continue
        grep -qxF "$line" /kernel/out/.config || { echo "not in the configuration: $line" && lost=1; }
    done </kernel/out/sanitizer.config
    ((lost == 0))
    "${kbuild[@]}" vmlinux modules
    llvm-strip -s -o /kernel/out/image /kernel/out/vmlinux
    # What building a module against it does not ask for.
    find /kernel/out \( -name '*.o' -o -name '*.a' -o -name '*.cmd' \) -not -path '*/scripts/*' -not -path '*/tools/*' -not -path '*/rust/*' \
        -not -name module-common.o -delete
    rm -f /kernel/out/vmlinux /kernel/out/vmlinux.unstripped
}

# Neither MIRROR nor the way to the network is part of what a product is.
BASE=base-$(hash_of "$SUITE" "$(declare -f step_base)")
ROOT=root-$(hash_of "$BASE" "${PACKAGES[@]}" "$(declare -f step_root inside_install)")
# Kept by cargo.sh. What Cargo.toml has of the project's own programs makes no difference.
DEPENDENCIES=dependencies-$(hash_of "$ROOT" "$(awk '/^\[/ { told = /dependencies|profile/ } told' "$CHECKOUT/userspace-test/Cargo.toml")" \
    "$(<"$CHECKOUT/userspace-test/Cargo.lock")")
CHOICE=choice-$(hash_of "$BASE" "${KERNEL:-}" "$PIN_SERIES" "$PIN_RELEASE" "$PIN_VERSION" "$FLAVOUR" "$(declare -f inside_choose)")

# The names that depend on which kernel was chosen; false when none is chosen yet.
kernel_names() {
    [[ -e $CACHE/$CHOICE/choice ]] || return
    read -r RELEASE VERSION CHOSEN <"$CACHE/$CHOICE/choice"
    SERIES=$(cut -d. -f1,2 <<<"$RELEASE")
    DEBS=packages-$(hash_of "$BASE" "$RELEASE" "$VERSION" "$(declare -f step_packages inside_download)")
    SOURCE=source-$(hash_of "$RELEASE" "$VERSION" "$(declare -f inside_unpack)")
    OUT=kernel-$(hash_of "$ROOT" "$SOURCE" "${KBUILD_ARGS[@]}" "$(declare -f inside_prepare)")
    SANITIZER=sanitizer-$(hash_of "$ROOT" "$SOURCE" "${SANITIZER_ARGS[@]}" "$(<"$QEMU_DIR/sanitizer.config")" \
        "$(declare -f inside_build_sanitizer)")
}

# Whether all is there that enter.sh needs.
complete() { kernel_names && [[ -d $CACHE/$ROOT && -d $CACHE/$SOURCE && -d $CACHE/$OUT ]]; }
