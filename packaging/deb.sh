#!/usr/bin/env bash
# Makes the Debian package: packaging/deb.sh BINARY ARCHITECTURE FOLDER
# ARCHITECTURE is Debian's name: amd64 or arm64. Prints the package's path. Needs dpkg-deb alone.
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: $0 BINARY ARCHITECTURE FOLDER" >&2; exit 2; }
binary=$1 architecture=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
version=$("$binary" --version | awk '{ print $2 }')

work=$(mktemp -d "${TMPDIR:-/tmp}/cbroker-deb.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
bash "$here/stage.sh" "$binary" "$root/usr"
doc=$root/usr/share/doc/cbroker
gzip -9n "$root/usr/share/man/man1/cbroker.1" "$doc/CHANGELOG.md"
mv "$doc/CHANGELOG.md.gz" "$doc/changelog.gz"
mv "$doc/LICENSE" "$doc/copyright"
# Debian keeps zsh's functions of packages in a folder of its own.
mkdir -p "$root/usr/share/zsh/vendor-completions"
mv "$root/usr/share/zsh/site-functions/_cbroker" "$root/usr/share/zsh/vendor-completions/"
rmdir "$root/usr/share/zsh/site-functions"
install -D -m 644 "$here/cbroker.service" "$root/usr/lib/systemd/user/cbroker.service"

# The released binary is static and needs nothing; any other is linked with the system's library.
depends='libc6, libgcc-s1'
[[ $(LC_ALL=C ldd "$binary" 2>/dev/null) == *libc.so* ]] || depends=''

mkdir -p "$root/DEBIAN"
{
    echo "Package: cbroker"
    echo "Version: $version"
    echo "Architecture: $architecture"
    echo "Maintainer: The cbroker maintainers <cbroker@users.noreply.github.com>"
    echo "Installed-Size: $(du -sk "$root/usr" | cut -f1)"
    [ -z "$depends" ] || echo "Depends: $depends"
    echo "Section: utils"
    echo "Priority: optional"
    echo "Homepage: https://github.com/cbroker/cbroker"
    echo "Description: messages between terminal coding agents"
    echo " cbroker gives each terminal session of a coding agent a name, and delivers"
    echo " messages into it: whole, once, when that is safe. The same binary is the"
    echo " broker, an AMQP 0-9-1 server with a durable store."
} >"$root/DEBIAN/control"
find "$root" -type d -exec chmod 755 {} +
mkdir -p "$out"
package=$out/cbroker_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zgzip "-z${CBROKER_PACK_LEVEL:-9}" \
    --build "$root" "$package" >/dev/null
echo "$package"
