#!/usr/bin/env bash
# Writes SHA256SUMS of all packages in a folder: packaging/sums.sh FOLDER
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
cd "$1"
rm -f SHA256SUMS
if command -v sha256sum >/dev/null; then sum=(sha256sum); else sum=(shasum -a 256); fi
# Not into the folder that is listed.
sums=$("${sum[@]}" -- *)
echo "$sums" >SHA256SUMS
cat SHA256SUMS
