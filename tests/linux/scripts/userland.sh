# Debian's programs at work, whose results are known; tests/linux/programs.sh brings them. pogo.work: how many times.
. /tests/lib.sh

export PATH=/bin:/usr/bin LC_ALL=C HOME=/tmp
work=/tests/work
sum() { "$@" 2>&1 | md5sum | cut -d ' ' -f 1; }
# Names of what is wrong in its output.
says() { # name md5 command...
    local name=$1 want=$2
    shift 2
    "$@" >/tmp/out 2>&1
    if [ "$(sum cat /tmp/out)" = "$want" ]; then ok "$name"; else not_ok "$name" "$(tail -n 4 /tmp/out | tr '\n' ' ')"; fi
}

shells() {
    says 'busybox as a shell' d0dfb693ba2403e2f8215b6f3c428b5d busybox sh $work/work.sh
    says dash d0dfb693ba2403e2f8215b6f3c428b5d /usr/bin/dash $work/work.sh
}

text() {
    same 'text tools' "$(sum sh -c "seq 1 3000 | awk '{ print \$1 % 97, \$1 * \$1 }' | sort -k 1,1n -k 2,2nr | uniq -w 2 -c | sed 's/^ *//; s/\\([0-9]*\\)\$/<\\1>/' | tr 0-4 a-e")" \
        d45fd2061a3b250ec071a914a1a9a656
}

# Data that is easy to compress, and data that is not.
compression() {
    (seq 1 12000 && head -c 300000 /usr/bin/perl) >/tmp/data
    same 'the easy part' "$(seq 1 12000 | md5sum | cut -d ' ' -f 1)" 731d60dc283bdc75426fdd7856667cbf
    local want
    want=$(md5sum </tmp/data)
    for tool in 'gzip -9' 'gzip -1' 'xz -2' 'zstd -q -3' 'zstd -q -12'; do
        same "$tool" "$(/usr/bin/$tool -c </tmp/data | /usr/bin/${tool%% *} -dc | md5sum)" "$want"
    done
    same 'gzip for busybox' "$(/usr/bin/gzip -c </tmp/data | /bin/gunzip -c | md5sum)" "$want"
    same 'xz for busybox' "$(/usr/bin/xz -1 -c </tmp/data | /bin/unxz -c | md5sum)" "$want"
    same 'busybox for gzip' "$(/bin/gzip -c </tmp/data | /usr/bin/gzip -dc | md5sum)" "$want"
}

languages() {
    says perl bf60760ff70a2a7c1fb9a918438f6a29 /usr/bin/perl $work/work.pl
    says LuaJIT f9cc1c00aa2cd9dcab2ec96d908604e2 /usr/bin/luajit $work/work.lua
    says 'LuaJIT without its compiler' f9cc1c00aa2cd9dcab2ec96d908604e2 /usr/bin/luajit -joff $work/work.lua
    [ ! -x /usr/bin/node ] || says Node.js 9ee8b583bfd10df46273e2087b43884d /usr/bin/node $work/work.js
}

compilers() {
    check 'tcc compiles' /usr/bin/tcc -o /tmp/by-tcc $work/work.c
    says 'what tcc made' 4160efa65c2410426337600ae4e0f6a5 /tmp/by-tcc
    says 'tcc as it runs' 4160efa65c2410426337600ae4e0f6a5 /usr/bin/tcc -run $work/work.c
    local gcc=/usr/lib/gcc/x86_64-linux-gnu/12 lib=/usr/lib/x86_64-linux-gnu
    [ -x $gcc/cc1 ] || return 0
    for level in 0 2; do
        check "cc1 -O$level" $gcc/cc1 -quiet -O$level -imultiarch x86_64-linux-gnu -o /tmp/work.s $work/work.c
        check 'the assembler' /usr/bin/x86_64-linux-gnu-as -o /tmp/work.o /tmp/work.s
        check 'the linker' /usr/bin/x86_64-linux-gnu-ld.bfd -pie -dynamic-linker /lib64/ld-linux-x86-64.so.2 -o /tmp/by-gcc $lib/Scrt1.o $lib/crti.o \
            /tmp/work.o $gcc/libgcc.a -L/lib/x86_64-linux-gnu $lib/libc.so $lib/crtn.o
        says "what cc1 -O$level made" 4160efa65c2410426337600ae4e0f6a5 /tmp/by-gcc
    done
}

n=$(told work)
for i in $(seq "${n:-1}"); do
    shells
    text
    compression
    languages
    compilers
done
[ $failed -eq 0 ]
