#!/bin/bash
# Disks as Linux uses them: read and written by the guest, compared on the host. Usage: tests/linux/disks.sh POGO ENGINE
#
#   vda  modern, read-only    vdb  modern    vdc  legacy layout, INTx    vdd  snapshot=on    vde  gets shorter while it is used
#   vdf  on a file system of 2 MiB, less than the disk: writes fail    vdg  bad between 1 MiB and 64 KiB more; then flushes fail
#
# Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 engine=$2
passed=0 failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/pogo-disk.XXXXXX") || exit 1
trap '[ -z "${child:-}" ] || kill "$child" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

verdict() { # name got want
    if [ "$2" = "$3" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1: got '$2', expected '$3'"
    fi
}

paths=$(tools/guest/kernel.sh linux-image-cloud-amd64 2>"$work/fetch") || {
    tail -n 1 "$work/fetch"
    exit 77
}
{ read -r kernel && read -r modules; } <<<"$paths"
mkdir -p "$work/tree/tests"
cp tests/linux/scripts/{lib,disks}.sh "$work/tree/tests/"
tools/guest/initramfs.sh "$work/initrd" || exit 1
(cd "$work/tree" && find tests | cpio -o -H newc --owner=0:0 --quiet) >"$work/tests"

head -c 4M /dev/urandom >"$work/a"
head -c 4M /dev/urandom >"$work/snap"
cp "$work/snap" "$work/snap.before"
for name in b c shrink bad; do head -c 4M /dev/zero >"$work/$name"; done
mkdir "$work/small"

# Mounts of our own, as root or as who may be root of a namespace.
if unshare -m true 2>/dev/null; then own=(unshare -m); elif unshare -rm true 2>/dev/null; then own=(unshare -rm); else
    echo 'no file system can be mounted here'
    exit 77
fi
gcc -shared -fPIC -O1 -D_GNU_SOURCE -o "$work/eio.so" tests/linux/eio.c || exit 1

# The host's part, on what the guest says: say -> do.
on_host() {
    local line
    while IFS= read -r line; do
        case $line in
        'shrink now'*) truncate -s 1M "$work/shrink" ;;
        'no flushes now'*) : >"$work/no-flush" ;;
        'flushes again'*) rm "$work/no-flush" ;;
        esac
    done
}
drive=format=raw,if=none
(
    export EIO_FILE=$work/bad EIO_FROM=1048576 EIO_TO=1114112 EIO_FLUSH=$work/no-flush
    exec timeout --foreground 500 "${own[@]}" bash -c 'mount -t tmpfs -o size=2m none "$1/small" && truncate -s 4M "$1/small/full" && shift && LD_PRELOAD=$1 && export LD_PRELOAD && shift && exec "$@"' \
        bash "$work" "$work/eio.so" "$pogo" run -accel "$engine" -no-reboot -m 256 \
        -kernel "$kernel" -initrd "$work/initrd,$modules,$work/tests" \
        -append 'console=ttyS0 panic=-1 quiet cryptomgr.notests pogo.run=/tests/disks.sh' \
        -drive file="$work/a",format=raw,if=virtio,readonly=on -drive file="$work/b",$drive,id=b \
        -device virtio-blk-pci,drive=b,serial=number-b,disable-legacy=on,addr=10 -drive file="$work/c",$drive,id=c \
        -device virtio-blk-pci,drive=c,disable-modern=on,vectors=0,addr=11 -drive file="$work/snap",$drive,id=d,snapshot=on \
        -device virtio-blk-pci,drive=d,addr=12 -drive file="$work/shrink",$drive,id=e -device virtio-blk-pci,drive=e,addr=13 \
        -drive file="$work/small/full",$drive,id=f -device virtio-blk-pci,drive=f,addr=14 \
        -drive file="$work/bad",$drive,id=g -device virtio-blk-pci,drive=g,addr=15
) </dev/null 2>&1 | tee >(on_host) >"$work/log" &
child=$!
wait $child
child=

verdict 'exit of the script' "$(grep -ac '^== exit status 0' "$work/log")" 1
passed=$((passed + $(grep -ac '^ok ' "$work/log")))
verdict 'checks in the guest' "$(grep -a '^not ok ' "$work/log")" ''
sum() { md5sum <"$1" | cut -d ' ' -f 1; }
told() { sed -n "s/^sum $1 \\([0-9a-f]*\\).*/\\1/p" "$work/log"; }
verdict 'what the guest read' "$(told a)" "$(sum "$work/a")"
verdict 'what the guest wrote' "$(sum "$work/b")" "$(told b)"
verdict 'what the guest wrote by the legacy layout' "$(sum "$work/c")" "$(told c)"
verdict 'a snapshot leaves the image alone' "$(sum "$work/snap")" "$(sum "$work/snap.before")"
verdict 'a shorter image stays short' "$(stat -c %s "$work/shrink")" $((1 << 20))
[ $failed -eq 0 ] || tail -n 40 "$work/log" | cut -c 1-160 | sed 's/^/     /'
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
