"""Many sessions on one machine: what each costs, and how long the last one takes to start.

    python3 benches/delivery/sessions.py --cbroker target/release/cbroker --root FOLDER
        [--sessions 200] [--program cat]

Each session wraps a program that does nothing, in a terminal of its own, with a broker of the run's
own. Prints a table; needs Linux.
"""
import argparse
import json
import os
import pty
import signal
import socket
import statistics
import subprocess
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
# The longest that anything may take.
LIMIT = 300


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Machine:
    """A broker, and sessions with it."""

    def __init__(self, cbroker, root):
        self.cbroker, self.home = os.path.abspath(cbroker), os.path.join(root, "home")
        os.makedirs(self.home, mode=0o700, exist_ok=True)
        self.env = {"HOME": root, "PATH": os.environ["PATH"], "TERM": "xterm-256color",
                    "LANG": "C.UTF-8", "CBROKER_HOME": self.home}
        self.sessions = []

    def run(self, *words):
        return subprocess.run([self.cbroker, *words], env=self.env, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=LIMIT).stdout

    def start(self):
        said = self.run("start", "--port", str(free_port()), "--mgmt-port", str(free_port()))
        if self.attached() is None:
            raise SystemExit(f"no broker: {said}")

    def open(self, name, program):
        """A session in a terminal of its own, whose output is read and forgotten."""
        ours, its = pty.openpty()
        command = [self.cbroker, "--name", name, "run", "--", program]
        self.sessions.append(subprocess.Popen(
            command, env=self.env, stdin=its, stdout=its, stderr=its, start_new_session=True,
            preexec_fn=lambda: os.close(ours)))
        os.close(its)
        threading.Thread(target=drain, args=(ours,), daemon=True).start()

    def attached(self):
        """How many sessions have a queue that is read; None where no broker answers."""
        said = self.run("list", "--json")
        if not said.startswith("["):
            return None
        return sum(row["consumers"] > 0 for row in json.loads(said))

    def until_attached(self, count):
        end = time.time() + LIMIT
        while self.attached() != count:
            if time.time() > end:
                raise SystemExit(f"{self.attached()} of {count} sessions attached in {LIMIT} s")
            time.sleep(0.1)

    def close(self):
        for session in self.sessions:
            # Closing the terminal alone would tell it nothing: `drain` still reads from there.
            session.send_signal(signal.SIGHUP)
        for session in self.sessions:
            try:
                session.wait(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                session.kill()
        self.run("stop")


def drain(terminal):
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass


def processes():
    """Each process: its parent, its arguments, its CPU time in seconds."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline") as file:
                words = file.read().rstrip("\0").split("\0")
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        found[int(name)] = (int(fields[1]), words, (int(fields[11]) + int(fields[12])) / TICKS)
    return found


def is_of(pid, home):
    """Whether a process belongs to this home."""
    with open(f"/proc/{pid}/environ") as file:
        return f"CBROKER_HOME={home}" in file.read().split("\0")


def private(pid):
    """Memory of this process alone, in MiB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    kept = ("Private_Clean", "Private_Dirty")
    return sum(int(fields[name].split()[0]) for name in kept) / 1024


def measure(machine, count, program):
    names = [f"s{number:03d}" for number in range(count)]
    for name in names[:-1]:
        machine.open(name, program)
    machine.until_attached(count - 1)
    began = time.time()
    machine.open(names[-1], program)
    machine.until_attached(count)
    last = time.time() - began
    wraps = {session.pid for session in machine.sessions}
    known = processes()
    monitors = {pid for pid, (parent, words, _) in known.items()
                if parent in wraps and "__monitor" in words}
    ours = wraps | monitors
    memory = [private(pid) for pid in ours]
    times = []
    for _ in range(7):
        began = time.time()
        machine.run("list")
        times.append(time.time() - began)
    time.sleep(2)
    broker = [pid for pid, (_, words, _) in known.items()
              if words[1:2] == ["serve"] and is_of(pid, machine.home)]
    before = processes()
    time.sleep(10)
    after = processes()

    def spent(pids):
        return sum(after[pid][2] - before[pid][2] for pid in pids if pid in after) / 10

    print(f"| {count} sessions of `{program}` | figure |\n|---|---|")
    print(f"| memory of a session's two processes, private, mean | {sum(memory) / count:.1f} MiB |")
    for pid in broker:
        print(f"| memory of the broker, private | {private(pid):.1f} MiB |")
    print(f"| the last one, from its start until `list` shows it attached | {last:.2f} s |")
    print(f"| `list`, median of 7 | {statistics.median(times) * 1000:.0f} ms |")
    print(f"| CPU of all sessions in 10 idle s | {spent(ours) * 100:.2f} % of a core |")
    print(f"| CPU of the broker in 10 idle s | {spent(broker) * 100:.2f} % of a core |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cbroker", required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--program", default="cat", help="what each session wraps")
    options = parser.parse_args()
    machine = Machine(options.cbroker, os.path.abspath(options.root))
    machine.start()
    try:
        measure(machine, options.sessions, options.program)
    finally:
        machine.close()


if __name__ == "__main__":
    main()
