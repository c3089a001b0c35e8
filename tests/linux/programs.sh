#!/bin/bash
# Debian's programs for an initramfs, with the libraries they need. Usage: tests/linux/programs.sh OUTPUT SET...
#
#   base       dash, gzip, xz, zstd, perl, tcc with the C library's headers, LuaJIT, dynamically linked
#   gcc        the C compiler proper, the assembler and the linker
#   node       Node.js
#   stress-ng  stress-ng
#
# OUTPUT is an archive to go with tools/guest/initramfs.sh's, or a directory if it ends in a slash. Programs are in /usr/bin, beside busybox's in
# /bin. Everything comes out of packages that tools/guest/fetch.sh gets.
set -eu
cd "$(dirname "$0")/../.."
output=$1
shift
root=$(mktemp -d "${TMPDIR:-/tmp}/pogo-programs.XXXXXX")
trap 'rm -rf "$root"' EXIT
lib=x86_64-linux-gnu

# Files of a package, with shell patterns; what was in /bin goes to /usr/bin, so that no link of busybox is in the way.
add() { # package pattern...
    local dir from to
    dir=$(tools/guest/fetch.sh "$1")
    shift
    for pattern; do
        # shellcheck disable=SC2086
        for from in "$dir"/$pattern; do
            [ -e "$from" ] || [ -L "$from" ] || continue
            to=${from#"$dir"/}
            case $to in bin/* | sbin/*) to=usr/bin/${to#*/} ;; esac
            mkdir -p "$root/$(dirname "$to")"
            cp -a "$from" "$root/$(dirname "$to")/"
        done
    done
}
add_libraries() { # package...
    for package; do add "$package" "lib/$lib/*.so*" "usr/lib/$lib/*.so*"; done
}

add_base() {
    add libc6 'lib64/*' "lib/$lib/ld-linux-x86-64.so.2" "lib/$lib/lib"{c,m,dl,rt,pthread,util,resolv}.so.*
    add_libraries libgcc-s1 libstdc++6 zlib1g libcrypt1 liblzma5 libzstd1 liblz4-1
    add dash 'bin/dash'
    add gzip 'bin/gzip'
    add xz-utils 'usr/bin/xz'
    add zstd 'usr/bin/zstd'
    add perl-base 'usr/bin/perl' "usr/lib/$lib/perl-base"
    add luajit 'usr/bin/luajit'
    add libluajit-5.1-common 'usr/share/luajit*'
    add tcc 'usr/bin/tcc' "usr/lib/$lib/tcc"
    add libc6-dev usr/include "usr/lib/$lib/*crt[1in].o" "usr/lib/$lib/libc.so" "usr/lib/$lib/libc_nonshared.a" "usr/lib/$lib/libm.so"
    add linux-libc-dev "usr/include/$lib/asm" usr/include/asm-generic usr/include/linux/limits.h usr/include/linux/errno.h
}

add_gcc() {
    add_libraries libgmp10 libisl23 libmpc3 libmpfr6 libbinutils libctf0 libctf-nobfd0 libjansson4
    add cpp-12 "usr/lib/gcc/$lib/12/cc1"
    add binutils-x86-64-linux-gnu "usr/bin/$lib-as" "usr/bin/$lib-ld.bfd"
    add libgcc-12-dev "usr/lib/gcc/$lib/12/include" "usr/lib/gcc/$lib/12/crt*.o" "usr/lib/gcc/$lib/12/libgcc.a"
}

add_node() {
    add_libraries libnode108 libbrotli1 libc-ares2 libicu72 libnghttp2-14 libssl3 libuv1
    add nodejs usr/bin/node
    add node-acorn usr/share/nodejs
    add node-cjs-module-lexer usr/share/nodejs
    add node-undici usr/share/nodejs
}

add_stress_ng() {
    add stress-ng usr/bin/stress-ng
    add_libraries libapparmor1 libbsd0 libmd0 libegl1 libglvnd0 libgbm1 libdrm2 libexpat1 libwayland-server0 libffi8 libgles2 libipsec-mb1 \
        libjpeg62-turbo libjudydebian1 libkmod2 libssl3 libsctp1 libxxhash0
}

# Every library that something needs is there.
check_libraries() {
    local missing
    missing=$(find "$root" -type f \( -perm -100 -o -name '*.so*' \) -exec objdump -p {} + 2>/dev/null | awk '$1 == "NEEDED" { print $2 }' |
        sort -u | while read -r name; do
            [ -n "$(find "$root" -name "$name" -print -quit)" ] || echo "$name"
        done)
    [ -z "$missing" ] || {
        echo "programs.sh: nothing brings $(tr "\n" " " <<<"$missing")" >&2
        exit 1
    }
}

for set; do "add_${set//-/_}"; done
check_libraries
if [[ $output == */ ]]; then
    mkdir -p "$output"
    cp -a "$root/." "$output"
else
    (cd "$root" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc --owner=0:0 --quiet --reproducible) >"$output.tmp"
    mv "$output.tmp" "$output"
fi
