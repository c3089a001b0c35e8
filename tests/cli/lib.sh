# What the command-line tests share. Sets $pogo and $tmp from the build directory in $1; sourced from the top of the tree.
pogo=$1/pogo
tmp=$(mktemp -d "${TMPDIR:-/tmp}/pogo-cli.XXXXXX") || exit 1
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$tmp"' EXIT
passed=0 failed=0
exit_dev=(-device isa-debug-exit,iobase=0xf4,iosize=4)

verdict() { # name problem
    if [ -z "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1: $2"
        sed 's/^/    /' "$tmp/out" "$tmp/err" 2>/dev/null | cut -c 1-200 | head -n 20
    fi
}

guest() { # NAME: builds $tmp/NAME.elf
    gcc -m32 -nostdlib -static -no-pie -Wl,-Ttext=0x100000 -Wl,--build-id=none -DTEST_"$1" -o "$tmp/$1.elf" tests/cli/guests.S
}

finish() {
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
}
