#!/usr/bin/env bash
# Makes npm's packages: packaging/npm/build.sh FOLDER TARGET=BINARY…
# TARGET is Rust's name of a platform. Makes `cbroker`, whose optional dependencies are the packages
# of all platforms, and `@cbroker/PLATFORM` for each binary. Prints the tarballs' paths.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 FOLDER TARGET=BINARY…" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
here=$(cd "$(dirname "$0")" && pwd)
project=$here/../..
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$project/Cargo.toml" | head -1)
work=$(mktemp -d "${TMPDIR:-/tmp}/cbroker-npm.XXXXXX")
trap 'rm -rf "$work"' EXIT

# What all package.json files say.
about() {
    printf '  "version": "%s",\n  "license": "MIT",\n' "$version"
    printf '  "homepage": "https://github.com/cbroker/cbroker",\n'
    printf '  "repository": "github:cbroker/cbroker",\n'
}

# pack NAME: the tarball of $work/NAME/package, as npm packs it, without asking npm.
pack() {
    local tarball=$out/$1-$version.tgz
    tar -C "$work/$1" -cf - package | gzip "-${CBROKER_PACK_LEVEL:-9}" -n >"$tarball"
    echo "$tarball"
}

# platform TARGET: Node's words for it.
platform() {
    case $1 in
        x86_64-unknown-linux-*) echo linux-x64 ;;
        aarch64-unknown-linux-*) echo linux-arm64 ;;
        x86_64-apple-darwin) echo darwin-x64 ;;
        aarch64-apple-darwin) echo darwin-arm64 ;;
        *) echo "npm has no package for $1" >&2; return 1 ;;
    esac
}

for pair in "$@"; do
    place=$(platform "${pair%%=*}")
    folder=$work/cbroker-$place/package
    mkdir -p "$folder/bin"
    cp "${pair#*=}" "$folder/bin/cbroker"
    chmod 755 "$folder/bin/cbroker"
    cp "$project/LICENSE" "$folder"
    {
        printf '{\n  "name": "@cbroker/%s",\n' "$place"
        about
        printf '  "description": "The program cbroker for %s",\n' "$place"
        printf '  "os": ["%s"],\n  "cpu": ["%s"],\n' "${place%-*}" "${place#*-}"
        printf '  "files": ["bin"]\n}\n'
    } >"$folder/package.json"
    pack "cbroker-$place"
done

folder=$work/cbroker/package
mkdir -p "$folder/bin"
cp "$here/launch.js" "$folder/bin/cbroker.js"
chmod 755 "$folder/bin/cbroker.js"
cp "$project/LICENSE" "$project/README.md" "$folder"
{
    printf '{\n  "name": "cbroker",\n'
    about
    printf '  "description": "Messages between terminal coding agents",\n'
    printf '  "bin": { "cbroker": "bin/cbroker.js" },\n'
    printf '  "files": ["bin"],\n  "engines": { "node": ">=18" },\n'
    printf '  "optionalDependencies": {\n'
    for place in linux-x64 linux-arm64 darwin-x64; do
        printf '    "@cbroker/%s": "%s",\n' "$place" "$version"
    done
    printf '    "@cbroker/darwin-arm64": "%s"\n  }\n}\n' "$version"
} >"$folder/package.json"
pack cbroker
