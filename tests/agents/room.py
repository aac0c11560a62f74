"""A room for one wrapped agent: a network namespace with loopback alone, a tmux server in it, a
home of its own, the scripted model, and a broker of its own.

Needs Linux with `unshare`, `nsenter` (util-linux), `ip` (iproute2), tmux and python3.
"""
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time

from tally import Wrong

HERE = os.path.dirname(os.path.abspath(__file__))
PORT = 8787
# What tmux says where a program has ended.
DEAD = "Pane is dead"
MARK = "(possible repeat)"
# What Claude Code itself writes around a text that came by its inbox, by a hook or by a paste.
FRAMES = ["SYSTEM NOTIFICATION", "cross-session-message", "task-notification", "pasted_content"]


class CannotIsolate(Exception):
    """This machine lets us have no network namespace."""


def squeezed(text):
    """Without white space and frames: agents break lines where they like."""
    return "".join(each for each in text if not each.isspace() and each != "┃")


class Room:
    def __init__(self, folder, cbroker, agent, program):
        self.folder, self.agent = os.path.abspath(folder), agent
        self.cbroker = self.path("bin", "cbroker")
        self.home, self.work = self.path("home"), self.path("work")
        for each in (self.home, self.work, self.path("bin")):
            os.makedirs(each, exist_ok=True)
        for name, target in ((agent.name, program), ("cbroker", cbroker)):
            link = self.path("bin", name)
            if os.path.lexists(link):
                os.unlink(link)
            os.symlink(os.path.abspath(target), link)
        self.env = {
            "HOME": self.home, "PATH": self.path("bin") + ":/usr/local/bin:/usr/bin:/bin",
            "TERM": "xterm-256color", "LANG": "C.UTF-8", "SHELL": "/bin/bash", "USER": "tester",
            "CBROKER_HOME": self.path("cbroker"), **agent.environment(self)}
        # What the scene wants of the agent: `arguments`, `environment`, and see `Agent.prepare`.
        self.prepared = {}
        # Options of the wrap, where a scene has none of its own.
        self.options = ()
        # One peer sends all of them, as fast as it can.
        os.makedirs(self.path("cbroker"), mode=0o700, exist_ok=True)
        with open(self.path("cbroker", "config.toml"), "w") as file:
            file.write("max_messages_per_minute = 100000\n")
        # When the last message was sent, and how long the model took to read one.
        self.began, self.delay = 0.0, None
        # Requests before each start of the agent: what came after it was read in another life.
        self.lives = []
        # The model's requests that were read from its file, and where the next one begins.
        self.known, self.read_to = [], 0

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    # The room and what runs in it.

    def tmux(self, *words):
        command = ["tmux", "-S", self.path("tmux.sock"), "-f", "/dev/null", *words]
        return subprocess.run(command, env=self.env, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True).stdout

    def open(self):
        model = shlex.join([sys.executable, os.path.join(HERE, "fake_model.py"), str(PORT),
                            self.folder])
        start = shlex.join(["tmux", "-S", self.path("tmux.sock"), "-f", "/dev/null",
                            "new-session", "-d", "-s", "model", model])
        own = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
        try:
            subprocess.run([*own, "bash", "-c", "ip link set lo up && " + start], env=self.env,
                           check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CannotIsolate(f"no network namespace of our own: {error}") from error
        self.tmux("set", "-g", "remain-on-exit", "on")
        self.server = int(self.tmux("display-message", "-p", "#{pid}"))
        self.namespace = os.readlink(f"/proc/{self.server}/ns/net")
        assert self.namespace != os.readlink("/proc/self/ns/net")

    def close(self):
        """Ends what runs in the namespace: agents leave processes of their own behind."""
        self.run("stop")
        self.tmux("kill-server")
        for pid, _, _ in self.processes():
            self.kill(pid)

    def enter(self):
        """The command that runs another one in the namespace."""
        own = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        return ["nsenter", "-t", str(self.server), "-n", *own]

    def processes(self):
        """Those in the namespace: id, parent, arguments."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{name}/ns/net") != self.namespace:
                    continue
                with open(f"/proc/{name}/cmdline") as file:
                    arguments = file.read().rstrip("\0").split("\0")
                with open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rsplit(") ", 1)[1].split()[:2]
            except OSError:
                continue
            if state != "Z":
                found.append((int(name), int(parent), arguments))
        return found

    def runs(self, pid):
        return any(pid == each for each, _, _ in self.processes())

    def kill(self, pid, how=signal.SIGKILL):
        try:
            os.kill(pid, how)
        except OSError:
            pass

    def wrap(self):
        """The wrap's process."""
        pids = [pid for pid, _, words in self.processes() if words[1:3] == ["--name", "peer"]]
        return pids[0] if pids else None

    def program(self):
        """The agent's process: the child of the wrap's monitor."""
        processes = self.processes()
        monitors = [pid for pid, _, words in processes if "__monitor" in words[1:2]]
        pids = [pid for pid, parent, _ in processes if parent in monitors]
        return pids[0] if pids else None

    def broker(self):
        pids = [pid for pid, _, words in self.processes() if words[1:2] == ["serve"]]
        return pids[0] if pids else None

    def clear(self):
        """Ends all but the model and the broker: sessions stay behind in the agents view."""
        for pid, parent, words in self.processes():
            if self.server not in (pid, parent) and words[1:2] != ["serve"]:
                self.kill(pid)
        self.tmux("kill-session", "-t", "=peer")
        self.until(lambda: self.wrap() is None and self.program() is None)

    def begin(self, *options, columns=120, rows=40):
        """A wrapped agent that is only just starting."""
        self.lives.append(len(self.requests()))
        self.agent.prepare(self)
        if self.prepared.get("has_mcp"):
            self.run("mcp", "install", self.agent.name, "--write")
        line = f"cd {shlex.quote(self.work)} && exec env -i " + " ".join(
            f"{name}={shlex.quote(value)}"
            for name, value in {**self.env, **self.prepared.get("environment", {})}.items()
        ) + " " + shlex.join(self.command(options))
        self.tmux("kill-session", "-t", "=peer")
        self.tmux("new-session", "-d", "-s", "peer", "-x", str(columns), "-y", str(rows), line)

    def command(self, options):
        return [self.cbroker, "--name", "peer", *options, *self.agent.command,
                *self.prepared.get("arguments", self.agent.arguments)]

    def start(self, *options, columns=120, rows=40):
        """A wrapped agent at its prompt. One that does not come up is started once more."""
        for times in (1, 2):
            self.begin(*options, columns=columns, rows=rows)
            self.wait(lambda screen: self.agent.prompt.search(screen) or DEAD in screen,
                      2 * self.agent.patience)
            if DEAD not in self.screen() and self.agent.prompt.search(self.screen()):
                return
            print(f"  start {times}: no prompt: {self.screen()[-400:].strip()!r}", flush=True)
            self.clear()
        raise Wrong("not played", "the agent did not come up, also when it was started once more")

    # The person.

    def screen(self):
        return self.tmux("capture-pane", "-p", "-t", "=peer:")

    def box(self):
        return self.agent.box(self.screen())

    def keys(self, *keys):
        self.tmux("send-keys", "-t", "=peer:", *keys)

    def type(self, text):
        self.keys("-l", text)

    def take_keys(self):
        """Until the agent takes keys: it draws its prompt up to seconds before."""
        def is_taken(screen):
            return set(self.agent.box(screen) or "") == {"x"}

        end = time.time() + self.agent.patience
        while time.time() < end:
            self.type("x")
            if self.wait(is_taken, 3):
                self.keys(self.agent.clear)
                if self.wait(lambda screen: not is_taken(screen), 5):
                    return
        raise Wrong("not played", f"no keys are taken: {self.screen()[-400:]}")

    def draft(self, text):
        """Types a text and leaves it in the box."""
        self.type(text)
        if not self.wait(lambda screen: self.agent.box(screen) == text):
            raise Wrong("not played", f"the box shows {self.box()!r} in place of {text!r}")

    def submit(self, text):
        self.type(text)
        if not self.wait(lambda screen: squeezed(text) in squeezed(screen)):
            raise Wrong("not played", f"{text!r} is not shown: {self.screen()[-400:]}")
        # Text and Enter that are read together make a line break.
        time.sleep(0.3)
        self.keys("Enter")

    def work_on(self, script):
        """A turn that the model has begun to answer."""
        mark = f"turn{random.randrange(10**9)}"
        self.submit(f"{mark} {script}")
        if not self.until(lambda: self.texts_with(mark), self.agent.patience):
            raise Wrong("not played", f"no turn began: {self.screen()[-400:]}")

    def resize(self, columns, rows):
        self.tmux("resize-window", "-t", "=peer:", "-x", str(columns), "-y", str(rows))

    def wait(self, is_so, limit=20.0):
        """Until `is_so(screen)`; whether it came to be."""
        return self.until(lambda: is_so(self.screen()), limit)

    def until(self, is_so, limit=20.0):
        """Until `is_so()`; whether it came to be."""
        end = time.time() + limit
        while not (is_there := is_so()) and time.time() < end:
            time.sleep(0.1)
        return is_there

    def at_rest(self, limit=20):
        time.sleep(0.3)
        return self.wait(self.agent.is_ready, limit)

    # The peer.

    def run(self, *words, limit=90):
        """A command of cbroker in the namespace."""
        command = [*self.enter(), self.cbroker, *words]
        return subprocess.run(command, env=self.env, cwd=self.work, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=limit).stdout

    def send(self, text, *options):
        """Sends a message; its id, if it was sent."""
        self.began = time.time()
        self.said = self.run("send", "--to", "peer", "--from", "tester", "-m", text, *options)
        # It may say first that it has started a broker.
        told = [line.split()[1] for line in self.said.splitlines() if line.startswith("sent ")]
        self.id = told[0] if told else None
        return self.id

    def held(self):
        """What waits in the session, and why."""
        return "inbox: " + " ".join(self.run("inbox", "peer").split())

    def waiting(self):
        """Messages that are still in the queue, or held by the session."""
        said = self.run("list", "--json")
        # A row for each session of the name: they have one queue.
        rows = json.loads(said) if said.startswith("[") else []
        rows = [row for row in rows if row["name"] == "peer"]
        return max((row["pending"] for row in rows), default=0) + sum(row["held"] for row in rows)

    # The model.

    def requests(self):
        """All requests so far; what is new in the file is read at each call."""
        try:
            with open(self.path("requests.jsonl"), "rb") as file:
                file.seek(self.read_to)
                new = file.read()
        except FileNotFoundError:
            return self.known
        # The last line may still be being written.
        whole = new[:new.rfind(b"\n") + 1]
        self.read_to += len(whole)
        self.known.extend(json.loads(line) for line in whole.splitlines())
        return self.known

    def seen(self, tag):
        """The requests in which the model reads a text for the first time."""
        return self.texts_with(tag)

    def texts_with(self, words):
        """The requests after the user said so."""
        return [each for each in self.requests()
                if each["tools"] and any(words in text for text in each["texts"])]

    def wait_seen(self, tag, limit=20.0):
        """When the model first read a text; None if it did not in time."""
        until = time.time() + limit
        while time.time() < until:
            if found := self.seen(tag):
                return found[0]["at"]
            time.sleep(0.02)
        return None

    def readings(self, tag):
        """How often it was read, and how often without the mark of a repeat.

        A conversation holds a message once for each time that it was read; the next life of the
        agent begins another one.
        """
        requests = self.requests()
        starts = sorted({0, *self.lives})
        total = bare = 0
        for start, end in zip(starts, [*starts[1:], len(requests)]):
            lives = [[peer for peer in each["peers"] if tag in peer]
                     for each in requests[start:end] if each["tools"]]
            peers = max(lives, key=len, default=[])
            total += len(peers)
            bare += sum(MARK not in peer for peer in peers)
        return total, bare

    def is_whole(self, tag, end):
        """Whether a message, or the file that it names, holds the text's end."""
        texts = [peer for each in self.seen(tag) for peer in each["peers"] if tag in peer]
        paths = [path for text in texts for path in re.findall(r"/\S+/spill/[^\s\])]+", text)]
        for path in filter(os.path.isfile, paths):
            with open(path) as file:
                texts.append(file.read())
        return any(end in text for text in texts)

    def joined(self, tag):
        """The text that was submitted together with a message, if any."""
        for each in self.seen(tag):
            for text in each["texts"]:
                rest = text
                for peer in each["peers"]:
                    rest = rest.replace(peer, "")
                is_framed = any(frame in text for frame in FRAMES)
                if tag in text and rest.strip() and not is_framed:
                    return rest.strip()
        return None
