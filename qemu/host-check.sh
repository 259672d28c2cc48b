# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by provision.sh: what the host must have, installed where that is possible, and
# otherwise one sentence that says what is missing and how to mend it.

# install_on_host COMMAND PACKAGE...: by the host's own package manager, as root or by a sudo that
# asks nothing; false where that cannot be done.
install_on_host() {
    local command=$1 sudo=() how
    shift
    how=$(package_command "$@") || die "$command is missing, and this host's package manager is not known here: install the package that has it"
    if ((EUID != 0)); then
        sudo=(sudo -n)
        "${sudo[@]}" true 2>/dev/null || die "$command is missing: run this as root, or have root run: $how"
    fi
    progress "host: $how" "$LOGS/host-packages.log" "${sudo[@]}" sh -c "$how" ||
        die "$command is missing and could not be installed; have root run: $how"
    hash -r
}

package_command() {
    if command -v apt-get >/dev/null; then
        echo "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $* debian-archive-keyring"
    elif command -v dnf >/dev/null; then
        echo "dnf -qy install ${*/uidmap/shadow-utils} debian-keyring"
    elif command -v pacman >/dev/null; then
        echo "pacman -Sy --noconfirm --needed ${*/uidmap/shadow} debian-archive-keyring"
    elif command -v zypper >/dev/null; then
        echo "zypper -nq install ${*/uidmap/shadow}"
    elif command -v apk >/dev/null; then
        echo "apk add -q ${*/uidmap/shadow-subids} debian-archive-keyring"
    else
        return 1
    fi
}

# What every use of the root needs.
check_namespace() {
    [[ $(uname -sm) == "Linux x86_64" ]] || die "this rig runs on x86_64 Linux only, and this is $(uname -sm)"
    local tool
    for tool in unshare flock; do
        command -v "$tool" >/dev/null || die "$tool is missing: install util-linux"
    done
    if ((EUID == 0)); then
        unshare --mount true 2>/dev/null ||
            die "unshare --mount is refused (a container without CAP_SYS_ADMIN?): run on the host itself, or give the container that capability"
        return
    fi
    command -v newuidmap >/dev/null || install_on_host newuidmap uidmap
    namespace true 2>/dev/null && return
    local sysctl=/proc/sys/kernel
    unshare --help | grep -q map-auto ||
        die "working without root needs unshare --map-auto, that is util-linux 2.38 or newer: run this as root"
    if ! grep -qsE "^($(id -un)|$(id -u)):" /etc/subuid || ! grep -qsE "^($(id -un)|$(id -u)):" /etc/subgid; then
        die "$(id -un) has no subordinate user ids; have root run: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
    elif [[ $(cat $sysctl/apparmor_restrict_unprivileged_userns 2>/dev/null) == 1 ]]; then
        die "this host's AppArmor forbids unprivileged user namespaces: run this as root, or have root run: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    elif [[ $(cat $sysctl/unprivileged_userns_clone 2>/dev/null) == 0 ]]; then
        die "this host forbids unprivileged user namespaces: run this as root, or have root run: sysctl kernel.unprivileged_userns_clone=1"
    elif [[ $(cat /proc/sys/user/max_user_namespaces) == 0 ]]; then
        die "this host forbids user namespaces: run this as root, or have root run: sysctl user.max_user_namespaces=10000"
    fi
    die "an unprivileged user namespace is refused here ($(namespace true 2>&1 | head -n 1)): run this as root"
}

# What making the root needs besides.
check_provisioning() {
    if ((EUID == 0)); then
        command -v debootstrap >/dev/null || command -v mmdebstrap >/dev/null || install_on_host debootstrap debootstrap
    else
        command -v mmdebstrap >/dev/null || install_on_host mmdebstrap mmdebstrap
    fi
    local free
    free=$(df -Pm "$CACHE" | awk 'NR == 2 { print $4 }')
    ((free >= 7000)) || die "$CACHE has $free MB free and 7000 are needed: make room, or choose another place with MMAPDEV_CACHE="
}
