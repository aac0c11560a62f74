#!/bin/sh
# Installs cbroker from a release, for this user alone:
#
#   curl --proto '=https' --tlsv1.2 -sSf \
#       https://github.com/cbroker/cbroker/releases/latest/download/install.sh | sh
#
# Options go behind `sh -s --`; --help lists them.
#
# It writes below the prefix and nowhere else, needs no root, and changes no file of a shell. The
# archive is checked against the release's SHA256SUMS before anything of it is used.
# CBROKER_RELEASES names another place of the releases: https, or http on loopback.
set -eu

releases=${CBROKER_RELEASES:-https://github.com/cbroker/cbroker/releases}
prefix=''
version=''
work=''

say() { printf '%s\n' "cbroker: $*"; }
fail() {
    printf '%s\n' "cbroker: $*" >&2
    exit 1
}
usage() {
    cat <<'END'
Installs cbroker from a release, for this user alone.

  --version VERSION   this release, and not the latest
  --prefix FOLDER     where to install (default: ~/.local)
  --uninstall         remove what this script installed
  --help              this text
END
}
clean_up() {
    if [ -n "$work" ]; then rm -rf "$work"; fi
}

# The platform by Rust's name.
target() {
    system=$(uname -s)
    machine=$(uname -m)
    case $machine in
        x86_64 | amd64) machine=x86_64 ;;
        aarch64 | arm64) machine=aarch64 ;;
        *) fail "there is no archive for the processor $machine; see README.md for cargo" ;;
    esac
    case $system in
        Linux) echo "$machine-unknown-linux-musl" ;;
        Darwin) echo "$machine-apple-darwin" ;;
        *) fail "there is no archive for $system" ;;
    esac
}

# fetch URL FILE
fetch() {
    case $1 in
        https://*) only='=https' ;;
        http://127.0.0.1[:/]* | http://localhost[:/]*) only='=http' ;;
        *) fail "$1 is not https" ;;
    esac
    if command -v curl >/dev/null 2>&1; then
        curl --proto "$only" --tlsv1.2 --fail --location --silent --show-error \
            --output "$2" "$1" || fail "cannot fetch $1"
    elif command -v wget >/dev/null 2>&1; then
        if [ "$only" = '=https' ]; then set -- "$1" "$2" --https-only; fi
        url=$1 file=$2
        shift 2
        wget --quiet "$@" --output-document="$file" "$url" || fail "cannot fetch $url"
    else
        fail "neither curl nor wget is there to fetch the archive"
    fi
}

sum_of() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum "$1" | cut -d ' ' -f 1
    elif command -v shasum >/dev/null 2>&1; then
        shasum -a 256 "$1" | cut -d ' ' -f 1
    elif command -v openssl >/dev/null 2>&1; then
        openssl dgst -sha256 "$1" | sed 's/^.* //'
    else
        fail "neither sha256sum, shasum nor openssl is there to check the archive"
    fi
}

# remove LIST: removes the files named in it, and the folders below the prefix that are empty then.
remove() {
    while read -r file; do
        case $file in
            '' | /* | *..*) continue ;;
        esac
        rm -f "$prefix/$file"
        folder=$(dirname "$file")
        while [ "$folder" != . ]; do
            rmdir "$prefix/$folder" 2>/dev/null || break
            folder=$(dirname "$folder")
        done
    done <"$1"
}

uninstall() {
    list=$prefix/share/cbroker/installed
    [ -f "$list" ] || fail "$list is missing: this script installed nothing below $prefix"
    cp "$list" "$work/installed"
    remove "$work/installed"
    say "removed what was installed below $prefix"
    say "your data stays in ${CBROKER_HOME:-$HOME/.cbroker}; a broker that runs goes on"
}

install() {
    target=$(target)
    where=$releases/latest/download
    if [ -n "$version" ]; then where=$releases/download/v$version; fi
    say "looking for an archive for $target at $where"
    fetch "$where/SHA256SUMS" "$work/SHA256SUMS"
    # One line: the sum, two spaces, the name.
    line=$(grep -E "^[0-9a-f]{64}  cbroker-[0-9][0-9A-Za-z.+-]*-$target\.tar\.gz\$" \
        "$work/SHA256SUMS") || fail "this release has no archive for $target"
    [ "$(printf '%s\n' "$line" | wc -l)" -eq 1 ] || fail "SHA256SUMS has more than one archive"
    expected=${line%% *}
    archive=${line##* }
    fetch "$where/$archive" "$work/$archive"
    found=$(sum_of "$work/$archive")
    [ "$found" = "$expected" ] || fail "the SHA-256 sum of $archive is $found, not $expected"
    say "$archive has the right SHA-256 sum"

    tar -C "$work" -xzf "$work/$archive" || fail "cannot unpack $archive"
    root=$work/${archive%.tar.gz}
    "$root/bin/cbroker" --version >/dev/null || fail "the program does not run on this machine"
    (cd "$root" && find . -type f | sed 's|^\./||' | sort) >"$work/new"
    echo share/cbroker/installed >>"$work/new"

    list=$prefix/share/cbroker/installed
    if [ -f "$list" ]; then
        # What the version before had and this one has not. The program is replaced in one step.
        grep -vxF -f "$work/new" "$list" >"$work/old" || true
        remove "$work/old"
    fi
    while read -r file; do
        mkdir -p "$(dirname "$prefix/$file")"
        [ "$file" != share/cbroker/installed ] || continue
        cp "$root/$file" "$prefix/$file.new"
        mv -f "$prefix/$file.new" "$prefix/$file"
    done <"$work/new"
    cp "$work/new" "$list"
    say "installed $("$prefix/bin/cbroker" --version) as $prefix/bin/cbroker"
    case :${PATH:-}: in
        *":$prefix/bin:"*) ;;
        *) say "add $prefix/bin to your PATH to run it by its name" ;;
    esac
    say "see it at work: cbroker demo"
}

main() {
    action=install
    while [ $# -gt 0 ]; do
        case $1 in
            --version | --prefix)
                [ $# -ge 2 ] || fail "$1 needs a value"
                if [ "$1" = --version ]; then version=${2#v}; else prefix=$2; fi
                shift
                ;;
            --uninstall) action=uninstall ;;
            --help)
                usage
                exit 0
                ;;
            *) fail "unknown option $1; there are --version, --prefix, --uninstall and --help" ;;
        esac
        shift
    done
    if [ -z "$prefix" ]; then prefix=${HOME:?is not set}/.local; fi
    case $prefix in
        /*) ;;
        *) prefix=$PWD/$prefix ;;
    esac
    trap clean_up EXIT
    trap 'exit 1' HUP INT TERM
    work=$(mktemp -d "${TMPDIR:-/tmp}/cbroker-install.XXXXXX")
    "$action"
}

# The last line, so that a script that was cut short on its way does nothing.
main "$@"
