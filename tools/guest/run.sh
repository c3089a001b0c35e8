#!/bin/bash
# The main job in one command: Debian 12's kernel and a shell on the serial line. Usage: tools/guest/run.sh POGO [OPTION...]
#
#   KERNEL=PACKAGE  the kernel's package (default linux-image-amd64; linux-image-cloud-amd64 starts sooner)
#
# The options are more ones for `pogo run`; what is set here can be set again there (-m, -append).
set -eu
cd "$(dirname "$0")/../.."
pogo=$1
shift
package=${KERNEL:-linux-image-amd64}

files=$(tools/guest/kernel.sh "$package")
{ read -r kernel && read -r modules; } <<<"$files"
initrd=build/guest/initrd
if [ ! -e $initrd ] || [ -n "$(find tools/guest -newer $initrd -type f)" ]; then
    echo "guest: making an initramfs of busybox" >&2
    tools/guest/initramfs.sh $initrd
fi
echo "guest: booting ${kernel##*/}. It unpacks itself first and is silent while it does; Ctrl-A x ends pogo" >&2
exec "$pogo" run -kernel "$kernel" -initrd "$initrd,$modules" -m 512 -append "console=ttyS0" "$@"
