#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# Runs a command in a Debian root, to be started in a mount namespace of its own:
#   chroot.sh ROOT [--bind FROM TO]... COMMAND...
# Nothing of the host's environment gets in but what the network needs.
set -euo pipefail

root=$1
shift
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
for file in /etc/resolv.conf /etc/hosts; do
    if [[ -r $file && -f $root$file && ! -L $root$file ]]; then mount --bind "$file" "$root$file"; fi
done
while [[ $1 == --bind ]]; do
    mount --bind "$2" "$root$3"
    shift 3
done

environment=(PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 "TERM=${TERM:-dumb}")
for name in $(compgen -e); do
    case $name in
    CARGO_HOME | CARGO_TARGET_DIR | CARGO_BUILD_TARGET*) ;;
    [hH][tT][tT][pP]_[pP][rR][oO][xX][yY] | [hH][tT][tT][pP][sS]_[pP][rR][oO][xX][yY] | \
        [aA][lL][lL]_[pP][rR][oO][xX][yY] | [nN][oO]_[pP][rR][oO][xX][yY] | CARGO_* | MIRROR)
        environment+=("$name=${!name}")
        ;;
    esac
done
# The host's certificates, so that https works behind a proxy that has its own.
for bundle in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
    /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
    if [[ -n $bundle && -r $bundle ]]; then
        cp "$bundle" "$root/run/host-ca.crt"
        environment+=(SSL_CERT_FILE=/run/host-ca.crt CARGO_HTTP_CAINFO=/run/host-ca.crt)
        break
    fi
done
# /mmapdev is the checkout where it is bound, and anywhere else there is nothing to see there.
exec env -i "${environment[@]}" chroot "$root" /bin/sh -c 'cd /mmapdev && exec "$@"' sh "$@"
