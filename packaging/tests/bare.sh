#!/usr/bin/env bash
# Installs a binary in a bare Debian 12 in each way that it has, and plays `cbroker demo` with each,
# as a user without rights: packaging/tests/bare.sh BINARY [FOLDER]
#
# FOLDER keeps the bare Debian for the next run. Needs root, debootstrap, node's `npm` to be had
# from Debian, and a machine that allows namespaces: nothing in it sees more than its own loopback.
# CBROKER_TEST_NPM=no leaves npm out, which is half of what is fetched.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 BINARY [FOLDER]" >&2; exit 2; }
tests=$(cd "$(dirname "$0")" && pwd)
packaging=$(dirname "$tests")
binary=$(realpath "$1")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/cbroker-bare.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
root=${2:-$scratch/debian}

if [ ! -e "$root/etc/debian_version" ]; then
    echo "bare: debootstrap (curl and node are what the installer and npm need)"
    debootstrap --variant=minbase --include=ca-certificates,curl,nodejs bookworm "$root" \
        >"$scratch/log" 2>&1 || { tail -5 "$scratch/log" >&2; exit 1; }
fi
# debootstrap does not resolve the virtual packages that npm depends on; apt does.
if [ "${CBROKER_TEST_NPM:-}" != no ] && [ ! -e "$root/usr/bin/npm" ]; then
    DEBIAN_FRONTEND=noninteractive chroot "$root" \
        apt-get install -q -y --no-install-recommends npm \
        >"$scratch/log" 2>&1 || { tail -5 "$scratch/log" >&2; exit 1; }
fi

# Everything that a release has, as the test finds it in /packages.
export CBROKER_PACK_LEVEL=1
packages=$root/packages
rm -rf "$packages"
mkdir -p "$packages/releases/latest/download"
case $(uname -m) in
    x86_64) target=x86_64-unknown-linux-musl debian=amd64 ;;
    *) target=aarch64-unknown-linux-musl debian=arm64 ;;
esac
bash "$packaging/archive.sh" "$binary" "$target" "$packages/releases/latest/download" >/dev/null
bash "$packaging/sums.sh" "$packages/releases/latest/download" >/dev/null
bash "$packaging/deb.sh" "$binary" "$debian" "$packages" >/dev/null
bash "$packaging/npm/build.sh" "$packages/npm" "$target=$binary" >/dev/null
cp "$packaging/install.sh" "$packages"

cat >"$packages/try.sh" <<'INSIDE'
set -eu
id tester >/dev/null 2>&1 || useradd --create-home tester
# as_user COMMAND: in a user's login shell.
as_user() { su - tester -c "$1"; }
# plays WAY COMMAND
plays() {
    as_user "$2 demo" >/tmp/demo.log 2>&1 || {
        cat /tmp/demo.log
        echo "bare: $1: its demo fails"
        exit 1
    }
    echo "bare: $1: demo green"
}
gone() {
    if as_user 'command -v cbroker' >/dev/null; then
        echo "bare: $1: it is still there"
        exit 1
    fi
}

gone 'nothing yet'
dpkg --install /packages/*.deb >/dev/null
plays 'Debian package' cbroker
dpkg --purge cbroker >/dev/null
gone 'Debian package'

cat >/tmp/serve.js <<'JS'
const { createReadStream } = require("fs");
require("http").createServer((asked, answer) => {
  const file = createReadStream("/packages/releases" + asked.url);
  file.on("error", () => answer.writeHead(404).end()).pipe(answer);
}).listen(8000, "127.0.0.1");
JS
node /tmp/serve.js &
tries=0
until curl -s http://127.0.0.1:8000/ >/dev/null || [ $tries -ge 300 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
as_user 'CBROKER_RELEASES=http://127.0.0.1:8000 sh </packages/install.sh' >/dev/null
plays 'install.sh' '~/.local/bin/cbroker'
as_user 'sh /packages/install.sh --uninstall' >/dev/null
gone 'install.sh'
kill $!

if command -v npm >/dev/null; then
    npm install --global --offline --silent --no-audit --no-fund /packages/npm/*.tgz
    plays 'npm' cbroker
    npm uninstall --global --silent cbroker
    gone 'npm'
else
    echo 'NOT TRIED: npm is not there'
fi
INSIDE

# /proc shows its own processes, and pseudo-terminals are its own.
# The shell inside expands it.
# shellcheck disable=SC2016
unshare --mount --pid --net --fork bash -euc '
    ip link set lo up
    mount -t proc proc "$0/proc"
    mount --rbind /dev "$0/dev"
    exec chroot "$0" sh /packages/try.sh' "$root"
