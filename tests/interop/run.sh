#!/usr/bin/env bash
# Runs the vendored AMQP test kit against the embedded broker. Each runner gets a new server with an
# empty store and its own ports.
#   tests/interop/run.sh [RUNNER…]
#   The default runners are: blackbox fuzz amqp-tools celery-app nmap rabbitmqadmin asked
#   `asked` sends the requests of kit/features.txt that the other runners leave out, and compares
#   what a relay recorded of all of them with that list. It needs the results of blackbox,
#   amqp-tools and celery-app.
#   STRICT=1 forbids skips; CBROKER names a built binary; KIT_WORK names the scratch folder
#   (default: a temporary one).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
if [ -z "${CBROKER:-}" ]; then
    (cd "$project" && cargo build --quiet --locked --bin cbroker)
    CBROKER=${CARGO_TARGET_DIR:-$project/target}/debug/cbroker
fi
own_work=''
[ -n "${KIT_WORK:-}" ] || { KIT_WORK=$(mktemp -d "${TMPDIR:-/tmp}/cbroker-kit.XXXXXX"); own_work=$KIT_WORK; }
mkdir -p "$KIT_WORK"
export KIT_WORK CBROKER

# Starts a server. Its folder contains home, ports and pid, so the restart command needs only that.
cat >"$KIT_WORK/restart" <<'END'
#!/usr/bin/env bash
# restart FOLDER: stops the server of FOLDER if it runs, starts it, and waits until it answers.
set -euo pipefail
folder=$1
read -r amqp_port mgmt_port <"$folder/ports"
if [ -s "$folder/pid" ]; then
    pid=$(cat "$folder/pid")
    kill -TERM "$pid" 2>/dev/null || true
    for _ in $(seq 1800); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -0 "$pid" 2>/dev/null && { echo "server $pid ignores SIGTERM" >&2; exit 1; }
fi
CBROKER_HOME=$folder/home setsid "$CBROKER" serve --port "$amqp_port" --mgmt-port "$mgmt_port" \
    --data-dir "$folder/data" --allow-guest >>"$folder/log" 2>&1 </dev/null &
echo $! >"$folder/pid"
for _ in $(seq 3600); do
    (exec 3<>"/dev/tcp/127.0.0.1/$amqp_port" && exec 4<>"/dev/tcp/127.0.0.1/$mgmt_port") 2>/dev/null && exit 0
    kill -0 "$(cat "$folder/pid")" 2>/dev/null || break
    sleep 0.05
done
echo "the server did not start:" >&2
tail -5 "$folder/log" >&2
exit 1
END
chmod +x "$KIT_WORK/restart"

# Starts the kit's relay between a runner and its server; it counts requests and responses.
relay=''
start_relay() {
    local port
    read -r port _ < <(free_ports)
    python3 "$here/kit/tools/trace.py" "$port" "$KIT_WORK/asked-$1.json" &
    relay=$!
    for _ in $(seq 3600); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            export AMQP_PORT=$port
            return
        fi
        kill -0 "$relay" 2>/dev/null || break
        sleep 0.05
    done
    echo "the relay did not start" >&2
    return 1
}
stop_relay() {
    [ -n "$relay" ] || return 0
    kill -TERM "$relay" 2>/dev/null || true
    wait "$relay" || true
    relay=''
}

ask_the_rest() {
    local traces=("$KIT_WORK"/asked-{blackbox,amqp-tools,celery-app}.json)
    start_relay rest || return 1
    python3 "$here/asked.py" ask || return 1
    stop_relay
    python3 "$here/asked.py" compare "$here/kit/features.txt" "${traces[@]}" "$KIT_WORK/asked-rest.json"
}

run() {
    case $1 in
        asked) ask_the_rest ;;
        blackbox | amqp-tools | celery-app)
            start_relay "$1" || return 1
            bash "$here/kit/$1.sh"
            ;;
        *) bash "$here/kit/$1.sh" ;;
    esac
}

running=''
stop_server() {
    stop_relay
    [ -z "$running" ] || kill -TERM "$(cat "$running/pid")" 2>/dev/null || true
    running=''
}
finish() {
    local status=$?
    stop_server
    if [ -n "$own_work" ]; then
        if [ "$status" = 0 ]; then rm -rf "$own_work"; else echo "kept for a look: $own_work"; fi
    fi
    exit "$status"
}
trap finish EXIT

free_ports() {
    python3 -c '
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))'
}

start_server() {
    local folder=$KIT_WORK/server-$1
    mkdir -p "$folder/home"
    chmod 700 "$folder/home"
    free_ports >"$folder/ports"
    "$KIT_WORK/restart" "$folder"
    running=$folder
    read -r AMQP_PORT mgmt_port <"$folder/ports"
    export AMQP_HOST=127.0.0.1 AMQP_PORT AMQP_USER=guest AMQP_PASS=guest AMQP_VHOST=/ AMQP_VHOST2=second
    export MGMT_URL=http://127.0.0.1:$mgmt_port RESTART_CMD="$KIT_WORK/restart $folder"
    local api=(curl --silent --show-error --fail --noproxy '*' --user guest:guest --header 'content-type: application/json')
    "${api[@]}" --request PUT "$MGMT_URL/api/vhosts/second"
    "${api[@]}" --request PUT "$MGMT_URL/api/permissions/second/guest" --data '{"configure":".*","write":".*","read":".*"}'
}

# The script from Debian's RabbitMQ package, for the runner of the same name.
RABBITMQADMIN=$(find /usr/lib/rabbitmq/lib -name rabbitmqadmin -path '*management*' 2>/dev/null | head -1)
export RABBITMQADMIN

failed=()
[ $# -gt 0 ] || set -- blackbox fuzz amqp-tools celery-app nmap rabbitmqadmin asked
for runner in "$@"; do
    echo "kit: $runner"
    start_server "$runner"
    if ! run "$runner"; then
        failed+=("$runner")
        for list in failed skipped missing; do
            [ ! -s "$KIT_WORK/results/$runner/$list" ] || sed "s/^/kit: $runner $list: /" "$KIT_WORK/results/$runner/$list"
        done
        [ ! -s "$KIT_WORK/results/$runner/log" ] || tail -40 "$KIT_WORK/results/$runner/log"
    fi
    stop_server
done
[ ${#failed[@]} -eq 0 ] || { echo "kit: failed: ${failed[*]}"; exit 1; }
echo "kit: all runners passed: $*"
