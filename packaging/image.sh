#!/usr/bin/env bash
# Builds the container image of the broker: packaging/image.sh BINARY TAG [BASE]
# The binary must be static, unless BASE is an image with the libraries that it is linked with.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 BINARY TAG [BASE]" >&2; exit 2; }
binary=$1 tag=$2 base=${3:-scratch}
here=$(cd "$(dirname "$0")" && pwd)
if [ "$base" = scratch ] && [[ $(LC_ALL=C ldd "$binary" 2>/dev/null) == *libc.so* ]]; then
    echo "$binary is not static: name an image with its libraries" >&2
    exit 1
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/cbroker-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/usr/bin" "$work/state/data" "$work/state/tmp"
chmod 700 "$work/state/data" "$work/state/tmp"
cp "$binary" "$work/usr/bin/cbroker"
chmod 755 "$work/usr/bin/cbroker"
docker build --quiet --build-arg "BASE=$base" --tag "$tag" --file "$here/Dockerfile" "$work"
