#!/usr/bin/env bash
# Makes the archive of a platform: packaging/archive.sh BINARY TARGET FOLDER
# TARGET is Rust's name of the platform. Prints the archive's path. CBROKER_PACK_LEVEL=1 packs
# faster and larger.
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 BINARY TARGET FOLDER" >&2; exit 2; }
binary=$1 target=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
# The version that the binary says, so that a wrong binary is noticed.
version=$("$binary" --version | awk '{ print $2 }')
expected=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/../Cargo.toml" | head -1)
if [ "$version" != "$expected" ]; then
    echo "$binary says version $version, and Cargo.toml $expected" >&2
    exit 1
fi

name=cbroker-$version-$target
work=$(mktemp -d "${TMPDIR:-/tmp}/cbroker-archive.XXXXXX")
trap 'rm -rf "$work"' EXIT
bash "$here/stage.sh" "$binary" "$work/$name"
mkdir -p "$out"
# The same files make the same archive where tar can say so (GNU's).
owner=()
if [[ $(tar --version 2>/dev/null) == *'GNU tar'* ]]; then
    owner=(--sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-0}")
fi
tar -C "$work" ${owner[@]+"${owner[@]}"} -cf - "$name" |
    gzip "-${CBROKER_PACK_LEVEL:-9}" -n >"$out/$name.tar.gz"
echo "$out/$name.tar.gz"
