#!/usr/bin/env bash
# Lays out what is installed below a prefix: packaging/stage.sh BINARY FOLDER
# The manual page and the completions are printed by the binary, so it must run on this machine.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: $0 BINARY FOLDER" >&2; exit 2; }
binary=$1 folder=$2
project=$(cd "$(dirname "$0")/.." && pwd)

man=$folder/share/man/man1
bash=$folder/share/bash-completion/completions
zsh=$folder/share/zsh/site-functions
fish=$folder/share/fish/vendor_completions.d
doc=$folder/share/doc/cbroker
mkdir -p "$folder/bin" "$man" "$bash" "$zsh" "$fish" "$doc"

cp "$binary" "$folder/bin/cbroker"
chmod 755 "$folder/bin/cbroker"
# A home of its own: what is printed here depends on no settings.
home=$(mktemp -d "${TMPDIR:-/tmp}/cbroker-stage.XXXXXX")
trap 'rm -rf "$home"' EXIT
program() { CBROKER_HOME=$home/home "$folder/bin/cbroker" "$@"; }
program man >"$man/cbroker.1"
program completions bash >"$bash/cbroker"
program completions zsh >"$zsh/_cbroker"
program completions fish >"$fish/cbroker.fish"
cp "$project/LICENSE" "$project/README.md" "$project/CHANGELOG.md" "$project/SECURITY.md" "$doc"
find "$folder" -type f ! -path "$folder/bin/*" -exec chmod 644 {} +
