#!/bin/bash
# Make an initramfs: busybox, its applets, and tools/guest's init. Usage: tools/guest/initramfs.sh OUTPUT [DIR...]
# Each DIR's contents are put on top. It is not compressed: the guest would have to unpack it.
#   ARCH=i386  (environment) programs for another processor than the host's
set -eu
cd "$(dirname "$0")/../.."
output=$1
shift
busybox=$(tools/guest/fetch.sh "busybox-static${ARCH:+:$ARCH}" 'bin/*')/bin/busybox
root=$(mktemp -d "${TMPDIR:-/tmp}/pogo-initramfs.XXXXXX")
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/{bin,dev,etc,proc,root,run,sys,tmp}
cp "$busybox" "$root/bin/busybox"
# The host's own can tell the names.
"$(tools/guest/fetch.sh busybox-static 'bin/*')/bin/busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
ln -s bin/busybox "$root/init"
ln -s bin "$root/sbin"
install -m 755 tools/guest/init.rc "$root/etc/rc"
install -m 644 tools/guest/inittab tools/guest/profile "$root/etc/"
echo 'root::0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
for dir; do cp -a "$dir/." "$root/"; done
# The kernel's own built-in archive brings /dev/console.
mkdir -p "$(dirname "$output")"
(cd "$root" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc --owner=0:0 --quiet --reproducible) >"$output.tmp"
mv "$output.tmp" "$output"
