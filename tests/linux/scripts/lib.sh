# Sourced by the scripts that run in the guest: each check is a line "ok NAME" or "not ok NAME: why".
failed=0

ok() { echo "ok $1"; }
not_ok() {
    failed=$((failed + 1))
    echo "not ok $1: $2"
}
# The rest of the arguments is a command that must succeed.
check() { # name command...
    local name=$1
    shift
    if "$@" >/tmp/check.out 2>&1; then ok "$name"; else not_ok "$name" "$(tail -n 3 /tmp/check.out | tr '\n' ' ')"; fi
}
same() { # name got want
    if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "got '$2', expected '$3'"; fi
}
# What the runner says in the kernel's command line about the machine it made.
told() { sed -n "s/.*\\<pogo\\.$1=\\([^ ]*\\).*/\\1/p" /proc/cmdline; }
