#!/usr/bin/env bash
# Sets cbroker beside a RabbitMQ of its own (Debian's rabbitmq-server), on free ports, and prints the tables.
#   benches/compare/run.sh        all of it: the rows and their aims, growth, whole processes and terminals, the API
#   benches/compare/run.sh [--growth] [--fanout] [--programs PATH] [--management] [--only TEXT] [--seconds S] [--rounds N] [LABEL=URL,PID …]
# A LavinMQ that already runs is named as LavinMQ=amqp://user:password@host:port,PID. RABBITMQ=0 leaves RabbitMQ out.
set -euo pipefail
project=$(cd "$(dirname "$0")/../.." && pwd)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/cbroker-compare.XXXXXX")
cd "$project"
cargo build --quiet --locked --profile dist --bin cbroker
cargo build --quiet --locked --profile dist -p cbroker-compare
built=${CARGO_TARGET_DIR:-$project/target}/dist
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"

# Ends what was started here, by its process group.
finish() {
    local folder
    for folder in "$scratch"/*/; do
        [ ! -s "$folder/pid" ] || kill -KILL -- "-$(cat "$folder/pid")" 2>/dev/null || true
    done
    epmd -port "$epmd" -kill >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap finish EXIT

read -r amqp mgmt rabbit dist epmd rabbit_mgmt < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(6)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))')

mkdir -p "$scratch/ours" "$scratch/rabbitmq"
echo "amqp://guest:guest@127.0.0.1:$amqp" >"$scratch/ours/url"
echo "127.0.0.1:$mgmt" >"$scratch/ours/api"
cat >"$scratch/ours/start" <<END
#!/usr/bin/env bash
[ "\${1:-}" != fresh ] || rm -rf "$scratch/ours/data" "$scratch/ours/home"
mkdir -p -m 700 "$scratch/ours/home"
CBROKER_HOME=$scratch/ours/home setsid "$built/cbroker" serve --port $amqp --mgmt-port $mgmt --allow-guest \\
    --data-dir "$scratch/ours/data" >>"$scratch/ours/log" 2>&1 </dev/null &
echo \$! >"$scratch/ours/pid"
END

echo "amqp://guest:guest@127.0.0.1:$rabbit" >"$scratch/rabbitmq/url"
cat >"$scratch/rabbitmq/start" <<END
#!/usr/bin/env bash
d=$scratch/rabbitmq
[ "\${1:-}" != fresh ] || rm -rf "\$d/data"
mkdir -p "\$d/home" "\$d/data" "\$d/log"
export HOME=\$d/home RABBITMQ_NODENAME=compare@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$rabbit
export RABBITMQ_DIST_PORT=$dist ERL_EPMD_PORT=$epmd ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_CONFIG_FILE=\$d/rabbitmq
export RABBITMQ_MNESIA_BASE=\$d/data RABBITMQ_LOG_BASE=\$d/log RABBITMQ_ENABLED_PLUGINS_FILE=\$d/plugins RABBITMQ_PID_FILE=\$d/own
# Its management API runs only where it is measured: the other rows are without.
[ ! -e "\$d/api" ] || plugins=rabbitmq_management
printf 'management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = $rabbit_mgmt\n' >"\$d/api.conf"
printf 'vm_memory_high_watermark.absolute = 8GB\ndisk_free_limit.absolute = 1GB\n' >"\$d/rabbitmq.conf"
[ ! -e "\$d/api" ] || cat "\$d/api.conf" >>"\$d/rabbitmq.conf"
echo "[\${plugins:-}]." >"\$d/plugins"
setsid /usr/lib/rabbitmq/bin/rabbitmq-server >>"\$d/out" 2>&1 </dev/null &
echo \$! >"\$d/pid"
END
chmod +x "$scratch"/*/start

peers=("cbroker=$scratch/ours")
"$scratch/ours/start" fresh
if [ "${RABBITMQ:-1}" != 0 ]; then
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || { echo "rabbitmq-server is not installed; RABBITMQ=0 goes without"; exit 1; }
    "$scratch/rabbitmq/start" fresh
    peers+=("RabbitMQ=$scratch/rabbitmq")
    for _ in $(seq 120); do (exec 3<>"/dev/tcp/127.0.0.1/$rabbit") 2>/dev/null && break; sleep 0.5; done
fi
echo "$(uname -sr), $(nproc) cores, $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)"
echo "cbroker $("$built/cbroker" --version | head -1), profile dist; $(dpkg-query -W -f 'RabbitMQ ${Version}' rabbitmq-server 2>/dev/null || echo 'no RabbitMQ'), $(date -u +%F)"

# `--management` is followed by the address of the API, which only this script knows.
compare() {
    local arguments=() argument
    for argument in "$@"; do
        arguments+=("$argument")
        [ "$argument" != --management ] || arguments+=("127.0.0.1:$mgmt")
        [ "$argument" != --fanout ] || echo "127.0.0.1:$rabbit_mgmt" >"$scratch/rabbitmq/api"
    done
    local outcome=0
    "$built/cbroker-compare" "${peers[@]}" ${arguments[@]+"${arguments[@]}"} || outcome=$?
    rm -f "$scratch/rabbitmq/api"
    return $outcome
}

if [ $# -gt 0 ]; then
    compare "$@"
else
    failed=0
    compare || failed=1
    echo; compare --growth || failed=1
    echo; compare --fanout || failed=1
    echo; compare --programs "$built/cbroker" || failed=1
    echo; compare --management || failed=1
    exit $failed
fi
