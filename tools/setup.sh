#!/bin/bash
# Install the Debian packages that a make target needs. Usage: tools/setup.sh [run|check|check-long|fuzz|bench|format]
# Says which packages are missing and what each is for; silent and quick when all are present.
set -eu

goal=${1:-check}

# package | needed by | reason
packages() {
    cat <<'LIST'
gcc|run check check-long fuzz bench format|C compiler
make|run check check-long fuzz bench format|build driver
libc6-dev|run check check-long fuzz bench format|C library headers
libzydis-dev|run check check-long fuzz bench|disassembly in logs and dumps; the decoder is tested against it
libcmocka-dev|check check-long|unit tests
libjansson-dev|check check-long|reads the test data that is in JSON
gdb|check check-long|debugs our guests through the debugger's port
acpica-tools|check check-long|iasl judges the ACPI tables
cpio|run check check-long bench|makes initial RAM disks for Linux guests
clang|fuzz|libFuzzer is part of clang
libclang-rt-14-dev|fuzz|runtime libraries of libFuzzer and the sanitizers
clang-format|format|layout check
qemu-system-x86|check-long bench|runs the guests a second time: an opinion on the tests themselves, and what to compare numbers with
LIST
}

have() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "setup: not a Debian system; make sure that these are installed:" >&2
    packages | while IFS='|' read -r name goals why; do
        case " $goals " in *" $goal "*) echo "  $name ($why)" >&2 ;; esac
    done
    exit 0
fi

missing=()
while IFS='|' read -r name goals why; do
    case " $goals " in *" $goal "*) ;; *) continue ;; esac
    have "$name" && continue
    [ ${#missing[@]} -gt 0 ] || echo "setup: 'make $goal' needs packages that are not installed:"
    printf '  %-20s %s\n' "$name" "$why"
    missing+=("$name")
done < <(packages)
[ ${#missing[@]} -gt 0 ] || exit 0

install="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
    echo "setup: not root, so nothing was installed. Run this once, then try again:" >&2
    echo "  sudo $install" >&2
    exit 1
fi

# A fresh system or container has no package lists yet.
export DEBIAN_FRONTEND=noninteractive
if ! apt-cache show "${missing[0]}" >/dev/null 2>&1; then
    apt-get update -qq
fi
echo "setup: $install"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Lists that are too old name files that are gone from the mirror: the second try has fresh ones.
if ! $install >"$log" 2>&1 && ! { apt-get update -qq && $install >"$log" 2>&1; }; then
    cat "$log" >&2
    echo "setup: installation failed (see above); check the network and /etc/apt/sources.list" >&2
    exit 1
fi
