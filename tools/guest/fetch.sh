#!/bin/bash
# Get files out of Debian packages without installing them. Usage: tools/guest/fetch.sh PACKAGE [PATH...]
#
#   PACKAGE  a name of apt's; one that only depends on another (linux-image-amd64) stands for that one. NAME:i386 is another
#            architecture's: the host's apt need not know it, its package lists are fetched to build/guest/debian, too
#   PATH     files or directories of the package that are wanted, with shell patterns; default: all. What the package does not
#            have is left out. A package that is there already is not looked at again
#
# They end up in build/guest/debian/PACKAGE/ (with . for the colon), and stay there: the network is needed once. Progress goes to standard error, one
# line a step; the directory is printed on standard output.
set -eu
cd "$(dirname "$0")/../.."
top=build/guest/debian
package=${1%:*} arch=
[[ $1 != *:* ]] || arch=${1#*:}
shift
home=$top/$package${arch:+.$arch}
apt=(-o APT::Sandbox::User=root)

say() { echo "guest: $*" >&2; }
die() {
    say "$*"
    exit 1
}

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    die "apt-get and dpkg-deb are not here; unpack Debian's package $package${arch:+ for $arch} into $home yourself and touch $home/.complete"

mkdir -p "$top"
exec 9>"$top/.lock"
flock 9
if [ -e "$home/.complete" ]; then
    echo "$home"
    exit 0
fi
may_update=
[ "$(id -u)" -ne 0 ] || may_update=1
if [ -n "$arch" ] && [ "$arch" != "$(dpkg --print-architecture)" ]; then
    lists=$PWD/$top/.apt-$arch
    mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial"
    apt+=(-o APT::Architecture="$arch" -o APT::Architectures="$arch" -o Dir::State::status=/dev/null -o Acquire::Languages=none
        -o Dir::State::Lists="$lists/lists" -o Dir::Cache="$lists/cache")
    may_update=1
fi

# The package that has the files: a metapackage's is the one it depends on.
known() { [ -n "$(apt-cache "${apt[@]}" show "$1" 2>/dev/null | head -n 1)" ]; }
if ! known "$package"; then
    [ -n "$may_update" ] || die "apt does not know $package; run 'sudo apt-get update' and try again"
    say "fetching the package lists"
    apt-get "${apt[@]}" update -qq >/dev/null 2>&1 || known "$package" ||
        die "apt-get update failed; check the network and /etc/apt/sources.list"
    known "$package" || die "apt does not know $package; is Debian 12 in /etc/apt/sources.list?"
fi
real=$package
while [[ $real == linux-image-* && $real != linux-image-[0-9]*.[0-9]* ]]; do
    next=$(apt-cache "${apt[@]}" depends --important "$real" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$next" ] || die "$real depends on no kernel; run 'apt-get update' and try again"
    real=$next
done
[ "$real" = "$package" ] && what=$package || what="$package, which is $real"

tmp=$(mktemp -d "$top/.new.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
size=$(apt-cache "${apt[@]}" show "$real" 2>/dev/null | sed -n 's/^Size: //p' | head -n 1)
say "downloading $what ($(((${size:-0} + 999999) / 1000000)) MB)"
# The version that is installed may be from elsewhere; then it is the newest that an archive has.
download() {
    local version
    (cd "$tmp" && apt-get "${apt[@]}" download -qq "$real") >>"$tmp/log" 2>&1 && return
    version=$(apt-cache "${apt[@]}" madison "$real" 2>/dev/null | awk -F ' *[|] *' '$3 ~ /Packages/ { print $2; exit }')
    [ -n "$version" ] && (cd "$tmp" && apt-get "${apt[@]}" download -qq "$real=$version") >>"$tmp/log" 2>&1
}
if ! download; then
    # Lists that are too old name versions that are gone from the mirror.
    [ -z "$may_update" ] || apt-get "${apt[@]}" update -qq >>"$tmp/log" 2>&1 || true
    if [ -z "$may_update" ] || ! download; then
        sed -n 's/^E: /guest:   /p' "$tmp/log" | sort -u | head -n 3 >&2
        die "cannot download $real: the network is needed once; check it, run 'apt-get update', and try again"
    fi
fi
say "unpacking $real"
mkdir "$tmp/files"
wanted=()
for path; do wanted+=("./$path"); done
set +e
dpkg-deb --fsys-tarfile "$tmp"/*.deb | tar -x -C "$tmp/files" --no-same-owner --wildcards "${wanted[@]}" 2>"$tmp/log"
status=(${PIPESTATUS[@]})
set -e
# tar complains of patterns that match nothing, and reads on.
[ "${status[0]}" -eq 0 ] && ! grep -qv 'Not found in archive\|Exiting with failure' "$tmp/log" && [ -n "$(ls "$tmp/files")" ] ||
    die "cannot unpack $real: is there room in $top?"
echo "$real" >"$tmp/files/.complete"
rm -rf "$home"
mv "$tmp/files" "$home"
echo "$home"
