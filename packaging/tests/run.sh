#!/usr/bin/env bash
# Packs a binary in each way and installs it from there: packaging/tests/run.sh BINARY [WAY…]
# The ways: archive installer formula deb npm image. A way whose tool is missing is left out, and
# said; with CBROKER_TEST_OUTSIDE=required that is a failure. CBROKER_TEST_DEMO=1 also plays
# `cbroker demo` with each installed program; in the image it is played always.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 BINARY [WAY…]" >&2; exit 2; }
tests=$(cd "$(dirname "$0")" && pwd)
packaging=$(dirname "$tests")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/cbroker-packaging.XXXXXX")
server=''
finish() {
    local status=$?
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ ! -f "$scratch/log" ] || [ "$status" -eq 0 ] || cat "$scratch/log" >&2
    rm -rf "$scratch"
}
trap finish EXIT

fail() { echo "packaging: $*" >&2; exit 1; }
skip() {
    [ "${CBROKER_TEST_OUTSIDE:-}" != required ] || fail "required here: $*"
    echo "NOT TRIED: $*"
}
# refuses TEXT COMMAND…: the command fails and says the text.
refuses() {
    local text=$1
    shift
    if "$@" >"$scratch/log" 2>&1; then fail "this must fail: $*"; fi
    grep -qF -- "$text" "$scratch/log" || fail "it does not say '$text': $*"
}
# has PREFIX: what an installation holds, and that its program runs.
has() {
    local file
    for file in "$1/share/man/man1/cbroker.1" \
        "$1/share/bash-completion/completions/cbroker" \
        "$1/share/fish/vendor_completions.d/cbroker.fish"; do
        [ -s "$file" ] || [ -s "$file.gz" ] || fail "$file is missing"
    done
    runs "$1/bin/cbroker"
}
runs() {
    [ "$(CBROKER_HOME=$scratch/home "$@" --version)" = "cbroker $version" ] ||
        fail "it says another version: $*"
    [ -z "${CBROKER_TEST_DEMO:-}" ] || CBROKER_HOME=$scratch/home "$@" demo >"$scratch/log" 2>&1 ||
        fail "its demo fails: $*"
}
# Nothing is left of an installation.
is_empty() {
    local left
    left=$(find "$1" ! -type d)
    [ -z "$left" ] || fail "left behind: $left"
}

# Packing takes most of the time: quickly, and without symbols.
export CBROKER_PACK_LEVEL=1
binary=$scratch/binary/cbroker
mkdir "$scratch/binary"
if ! { strip -o "$binary" "$1" && "$binary" --version; } >/dev/null 2>&1; then
    cp "$1" "$binary"
fi
shift
version=$("$binary" --version | awk '{ print $2 }')
case $(uname -m) in
    x86_64) processor=x86_64 debian=amd64 ;;
    *) processor=aarch64 debian=arm64 ;;
esac
case $(uname -s) in
    Darwin) target=$processor-apple-darwin ;;
    *) target=$processor-unknown-linux-musl ;;
esac
archive=cbroker-$version-$target.tar.gz
releases=$scratch/releases

# The releases as the installer sees them: the latest, and each by its version.
try_archive() {
    local latest=$releases/latest/download
    bash "$packaging/archive.sh" "$binary" "$target" "$latest" >"$scratch/log"
    bash "$packaging/sums.sh" "$latest" >"$scratch/log"
    mkdir -p "$releases/download"
    cp -R "$latest" "$releases/download/v$version"
    # cargo-binstall finds it by what Cargo.toml says.
    local name=cbroker-$version-$target
    local manifest=$packaging/../Cargo.toml
    grep -qF '/v{ version }/cbroker-{ version }-{ target }.tar.gz"' "$manifest" ||
        fail "Cargo.toml names another archive for cargo-binstall"
    grep -qF 'bin-dir = "cbroker-{ version }-{ target }/bin/{ bin }"' "$manifest" ||
        fail "Cargo.toml names another place of the program for cargo-binstall"
    tar -tzf "$latest/$archive" >"$scratch/log"
    grep -qx "$name/bin/cbroker" "$scratch/log" || fail "$archive has no $name/bin/cbroker"
}

# Serves the releases on a free port of loopback; sets `url`.
serve_releases() {
    [ -z "$server" ] || return 0
    python3 -u -m http.server 0 --bind 127.0.0.1 --directory "$releases" \
        >"$scratch/served" 2>/dev/null &
    server=$!
    local tries port=''
    for tries in $(seq 600); do
        port=$(sed -n 's/^Serving HTTP on 127\.0\.0\.1 port \([0-9]*\).*/\1/p' "$scratch/served")
        [ -z "$port" ] || break
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    [ -n "$port" ] || fail "the server on loopback did not start ($tries tries)"
    url=http://127.0.0.1:$port
}

# from_readme MORE: the README's own line, with MORE at its end, from the server on loopback.
from_readme() {
    local line
    line=$(grep '^curl .*/latest/download/install\.sh | sh$' "$packaging/../README.md") ||
        fail "the README has no line to install by"
    line=${line//https:\/\/github.com\/cbroker\/cbroker\/releases/$url}
    line=${line//=https/=http}
    CBROKER_RELEASES=$url HOME=$scratch/user sh -euc "$line$1"
}
installer() { CBROKER_RELEASES=$url HOME=$scratch/user sh "$packaging/install.sh" "$@"; }

try_installer() {
    serve_releases
    local prefix=$scratch/user/.local
    mkdir -p "$prefix/share/man/man1"
    touch "$prefix/share/man/man1/other.1"

    # As the README has it: from a pipe, the latest release, into the home.
    cp "$packaging/install.sh" "$releases/latest/download"
    from_readme '' >"$scratch/log"
    grep -q 'has the right SHA-256 sum' "$scratch/log" || fail "it does not say what it checked"
    grep -qF "add $prefix/bin to your PATH" "$scratch/log" || fail "it does not speak of PATH"
    has "$prefix"

    # Again over it, where the version before had a file more.
    touch "$prefix/share/doc/cbroker/older"
    echo share/doc/cbroker/older >>"$prefix/share/cbroker/installed"
    installer --version "v$version" >"$scratch/log"
    has "$prefix"
    [ ! -e "$prefix/share/doc/cbroker/older" ] || fail "a file of the version before is left"

    # Backquotes of Markdown.
    # shellcheck disable=SC2016
    grep -qF '`sh -s -- --uninstall`' "$packaging/../README.md" ||
        fail "the README does not say how to uninstall"
    from_readme ' -s -- --uninstall' >"$scratch/log"
    [ -e "$prefix/share/man/man1/other.1" ] || fail "it removed a file of others"
    rm "$prefix/share/man/man1/other.1"
    is_empty "$scratch/user"
    refuses 'installed nothing below' installer --uninstall

    # A byte more than was summed, and what is not there.
    local changed=$releases/download/v0.0.1
    cp -R "$releases/download/v$version" "$changed"
    echo >>"$changed/$archive"
    refuses 'the SHA-256 sum of' installer --version 0.0.1 --prefix "$scratch/refused"
    refuses 'cannot fetch' installer --version 0.0.2 --prefix "$scratch/refused"
    : >"$changed/SHA256SUMS"
    refuses 'no archive for' installer --version 0.0.1 --prefix "$scratch/refused"
    url=http://192.0.2.1 refuses 'is not https' installer --prefix "$scratch/refused"
    refuses 'unknown option' installer --root
    [ ! -e "$scratch/refused" ] || fail "a refused archive was installed"
}

try_formula() {
    command -v ruby >/dev/null || { echo "NOT TRIED: the formula's syntax: no ruby"; return; }
    local sums=$scratch/all-sums other
    for other in {x86_64,aarch64}-{apple-darwin,unknown-linux-musl}; do
        printf '%064d  cbroker-%s-%s.tar.gz\n' 7 "$version" "$other"
    done >"$sums"
    bash "$packaging/homebrew.sh" "$sums" >"$scratch/cbroker.rb"
    ruby -c "$scratch/cbroker.rb" >"$scratch/log"
    [ "$(grep -c '^ *sha256 "0*7"$' "$scratch/cbroker.rb")" -eq 4 ] || fail "a sum is missing"
    sed '/aarch64-apple/d' "$sums" >"$sums.less"
    refuses 'has no cbroker-' bash "$packaging/homebrew.sh" "$sums.less"
}

try_deb() {
    if ! command -v dpkg-deb >/dev/null; then
        echo "NOT TRIED: the Debian package: no dpkg-deb"
        return
    fi
    local root=$scratch/debian package
    package=$(bash "$packaging/deb.sh" "$binary" "$debian" "$scratch")
    mkdir -p "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/info"
    touch "$root/var/lib/dpkg/status"
    # An empty system: what the package depends on is not there. It has no scripts to run.
    local options=(--root="$root" --force-depends --force-not-root --force-bad-path)
    dpkg "${options[@]}" --install "$package" >"$scratch/log" 2>&1
    has "$root/usr"
    [ -s "$root/usr/share/zsh/vendor-completions/_cbroker" ] || fail "zsh's completions are missing"
    grep -q '^ExecStart=/usr/bin/cbroker serve$' "$root/usr/lib/systemd/user/cbroker.service" ||
        fail "the user unit is missing"
    dpkg "${options[@]}" --remove cbroker >"$scratch/log" 2>&1
    [ ! -d "$root/usr/lib/systemd" ] || fail "dpkg left the unit's folder"
}

try_npm() {
    command -v npm >/dev/null || { skip "npm's packages: no npm"; return; }
    local prefix=$scratch/npm/installed status=0
    mkdir -p "$prefix"
    bash "$packaging/npm/build.sh" "$scratch/npm" "$target=$binary" >"$scratch/log"
    # Offline: the packages of other platforms are looked for nowhere.
    npm install --offline --silent --no-audit --no-fund --ignore-scripts \
        --cache "$scratch/npm/cache" --prefix "$prefix" "$scratch"/npm/*.tgz >"$scratch/log" 2>&1
    runs "$prefix/node_modules/.bin/cbroker"
    # The exit code is the program's.
    CBROKER_HOME=$scratch/home "$prefix/node_modules/.bin/cbroker" --no-such-option \
        >"$scratch/log" 2>&1 || status=$?
    [ "$status" -eq 2 ] || fail "exit code $status, not 2"
    rm -r "$prefix/node_modules/@cbroker"
    refuses 'is not installed' "$prefix/node_modules/.bin/cbroker" --version
}

# The libraries that a dynamic binary is linked with, as an image: the released one needs none.
library_base() {
    local root=$scratch/libraries library
    mkdir -p "$root"
    for library in $(ldd "$binary" | grep -o '/[^ ]*'); do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    tar -C "$root" -cf - . | docker import - "$1" >"$scratch/log"
}

try_image() {
    if ! docker info >/dev/null 2>&1; then
        echo "NOT TRIED: the image: no Docker engine answers"
        return
    fi
    local tag=cbroker-packaging-test:$$ base=scratch name=cbroker-packaging-test-$$ tries url=''
    if [[ $(LC_ALL=C ldd "$binary" 2>/dev/null) == *libc.so* ]]; then
        base=cbroker-packaging-base:$$
        library_base "$base"
    fi
    bash "$packaging/image.sh" "$binary" "$tag" "$base" >"$scratch/log"
    docker run --detach --name "$name" --network none "$tag" >"$scratch/log"
    for tries in $(seq 300); do
        url=$(docker exec "$name" /usr/bin/cbroker status 2>"$scratch/log") && break
        url=''
        sleep 0.2
    done
    docker logs "$name" >>"$scratch/log" 2>&1 || true
    local user status demo=0
    docker exec "$name" /usr/bin/cbroker demo >"$scratch/demo" 2>&1 || demo=$?
    user=$(docker inspect --format '{{.Config.User}}' "$name")
    docker stop --time 120 "$name" >/dev/null
    status=$(docker inspect --format '{{.State.ExitCode}}' "$name")
    docker rm --force --volumes "$name" >/dev/null
    docker image rm --force "$tag" >/dev/null
    [ "$base" = scratch ] || docker image rm --force "$base" >/dev/null
    [ -n "$url" ] || fail "the broker in the container does not answer ($tries tries)"
    [ "$user" = 10001:10001 ] || fail "the broker in the container runs as '$user'"
    [ "$status" -eq 0 ] || fail "the broker in the container ends with $status"
    [ "$demo" -eq 0 ] || { cat "$scratch/demo" >>"$scratch/log"; fail "the image's demo fails"; }
}

ways=("$@")
[ ${#ways[@]} -gt 0 ] || ways=(archive installer formula deb npm image)
# The installer takes the archive.
case " ${ways[*]} " in *" archive "*) ;; *" installer "*) try_archive ;; esac
for way in "${ways[@]}"; do
    began=$SECONDS
    "try_$way"
    echo "packaging: $way ($((SECONDS - began)) s)"
done
