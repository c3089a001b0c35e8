#!/bin/bash
# Make the Linux guest of the whole-program benchmark. Usage: tools/guest/bench.sh LOADS_PROGRAM
#
# Prints a kernel, an initramfs for it, and the directory with the same files for native runs, one a line. The programs and their
# libraries come out of Debian's packages. What is there and newer than its sources is not made again.
set -eu
cd "$(dirname "$0")/../.."
program=$1
top=build/guest/bench
kernel=$(tools/guest/kernel.sh "${KERNEL:-linux-image-cloud-amd64}" | head -n 1)
lib=lib/x86_64-linux-gnu

# package and the files that are wanted of it
packages() {
    cat <<LIST
libc6 lib64/* $lib/ld-linux-x86-64.so.2 $lib/libc.so.6 $lib/libm.so.6
zlib1g $lib/*
liblzma5 $lib/*
liblz4-1 usr/$lib/*
libzstd1 usr/$lib/*
libtinfo6 $lib/* usr/$lib/*
libreadline8 $lib/* usr/$lib/*
libexpat1 $lib/* usr/$lib/*
libsqlite3-0 usr/$lib/*
libgmp10 usr/$lib/*
libmpfr6 usr/$lib/*
libmpc3 usr/$lib/*
libisl23 usr/$lib/*
libssl3 usr/$lib/libcrypto.so.3 usr/$lib/libssl.so.3
xz-utils usr/bin/xz
zstd usr/bin/zstd
sqlite3 usr/bin/sqlite3
cpp-12 usr/lib/gcc/x86_64-linux-gnu/12/cc1
python3.11-minimal usr/bin/python3.11
libpython3.11-minimal usr/lib/python3.11
openssl usr/bin/openssl usr/lib/ssl/openssl.cnf etc/ssl/openssl.cnf
LIST
}

# `noglob`: the patterns are those of the packages' files.
set -f
files=()
while read -r package patterns; do
    # shellcheck disable=SC2086
    files+=("$(tools/guest/fetch.sh "$package" $patterns)")
done < <(packages)
set +f

if [ -e $top/initrd ] && [ -z "$(find "$program" bench/loads bench/loads.list tools/guest -newer $top/initrd -type f)" ]; then
    printf '%s\n' "$kernel" $top/initrd $top/root
    exit 0
fi
echo "guest: making the benchmark's guest" >&2
rm -rf $top
mkdir -p $top/tree/bench $top/root
for dir in "${files[@]}"; do cp -a "$dir"/*/ $top/tree/; done
cp bench/loads.list bench/loads/run.sh bench/loads/interpret.py bench/loads/query.sql $top/tree/bench/
cp "$program" $top/tree/bench/loads
# What the compiler and the compressors get: this project's own source, a program.
gcc -E -P -Iinclude -Isrc -Ibuild/gen -D_GNU_SOURCE -o $top/tree/bench/source.i src/core/mmu.c
cat src/*/*.c src/*/*/*.c | head -c 1000000 >$top/tree/bench/text
head -c 6000000 $top/tree/usr/lib/gcc/x86_64-linux-gnu/12/cc1 >$top/tree/bench/image
tools/guest/initramfs.sh $top/initrd $top/tree
rm -rf $top/tree
(cd $top/root && cpio -idm --quiet <../initrd)
touch $top/initrd
printf '%s\n' "$kernel" $top/initrd $top/root
