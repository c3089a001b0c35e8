#!/bin/bash
# Debian's installer on the serial line. Usage: tools/guest/installer.sh POGO amd64|i386 [OPTION...]
# The options are more ones for `pogo run`; what is set here can be set again there.
set -eu
cd "$(dirname "$0")/../.."
pogo=$1 arch=$2
shift 2
case $arch in
amd64 | i386) ;;
*)
    echo "guest: ARCH=$arch: must be amd64 or i386" >&2
    exit 1
    ;;
esac

images=usr/lib/debian-installer/images/12/$arch/text/debian-installer/$arch
files=$(tools/guest/fetch.sh debian-installer-12-netboot-$arch $images/linux $images/initrd.gz)
echo "guest: booting the installer for $arch; Ctrl-A x ends pogo" >&2
exec "$pogo" run -kernel "$files/$images/linux" -initrd "$files/$images/initrd.gz" -m 1024 \
    -append "console=ttyS0 TERM=vt102" "$@"
