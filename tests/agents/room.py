"""A room for one wrapped agent: a network namespace with loopback alone, a tmux server in it, a
home of its own, the scripted model, and a broker of its own.

Needs Linux with `unshare`, `nsenter` (util-linux), `ip` (iproute2), tmux and python3.
"""
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
KEY = "sk-ant-not-a-key-for-tests"
PORT = 8787
PROMPT = re.compile(r"(?m)^❯")


class Room:
    def __init__(self, folder, cbroker, claude):
        self.folder, self.cbroker = os.path.abspath(folder), os.path.abspath(cbroker)
        self.home, self.work = self.path("home"), self.path("work")
        for each in (self.home, self.work, self.path("bin")):
            os.makedirs(each, exist_ok=True)
        for name, target in (("claude", claude), ("cbroker", cbroker)):
            link = self.path("bin", name)
            if os.path.lexists(link):
                os.unlink(link)
            os.symlink(os.path.abspath(target), link)
        self.env = {
            "HOME": self.home, "PATH": self.path("bin") + ":/usr/local/bin:/usr/bin:/bin",
            "TERM": "xterm-256color", "LANG": "C.UTF-8", "SHELL": "/bin/bash", "USER": "tester",
            "CBROKER_HOME": self.path("cbroker"), "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{PORT}",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1", "DISABLE_ERROR_REPORTING": "1"}
        self.prepare()

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def prepare(self):
        """Claude Code's first questions are answered: theme, key, trust."""
        answers = {"hasCompletedOnboarding": True, "theme": "dark", "numStartups": 5,
                   "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
                   "projects": {self.work: {"hasTrustDialogAccepted": True,
                                            "hasCompletedProjectOnboarding": True,
                                            "allowedTools": []}}}
        with open(os.path.join(self.home, ".claude.json"), "w") as file:
            json.dump(answers, file)

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
        subprocess.run([*own, "bash", "-c", "ip link set lo up && " + start], env=self.env,
                       check=True)
        self.tmux("set", "-g", "remain-on-exit", "on")
        self.server = int(self.tmux("display-message", "-p", "#{pid}"))

    def close(self):
        """Ends what runs in the namespace: agents leave processes of their own behind."""
        ours = os.readlink(f"/proc/{self.server}/ns/net")
        assert ours != os.readlink("/proc/self/ns/net")
        self.tmux("kill-server")
        for pid in self.processes():
            try:
                if os.readlink(f"/proc/{pid}/ns/net") == ours:
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                pass

    @staticmethod
    def processes():
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]

    def start(self, *arguments, columns=120, rows=40):
        """A wrapped Claude Code, at its prompt."""
        command = [self.cbroker, "--name", "peer", "claude", *arguments]
        line = f"cd {shlex.quote(self.work)} && exec env -i " + " ".join(
            f"{name}={shlex.quote(value)}" for name, value in self.env.items()
        ) + " " + shlex.join(command)
        self.tmux("kill-session", "-t", "=peer")
        self.tmux("new-session", "-d", "-s", "peer", "-x", str(columns), "-y", str(rows), line)
        assert self.wait(PROMPT.search, 60), self.screen()
        time.sleep(1.5)

    def screen(self):
        return self.tmux("capture-pane", "-p", "-t", "=peer:")

    def box(self):
        """What stands in the input box: between the last two rules."""
        lines = self.screen().split("\n")
        rules = [at for at, line in enumerate(lines) if line.startswith("────")]
        return "\n".join(lines[rules[-2] + 1:rules[-1]]).strip("❯ \n\xa0") if rules[1:] else None

    def keys(self, *keys):
        self.tmux("send-keys", "-t", "=peer:", *keys)

    def type(self, text):
        self.keys("-l", text)

    def submit(self, text):
        self.type(text)
        time.sleep(0.4)
        self.keys("Enter")

    def wait(self, is_so, limit=20.0):
        """Until `is_so(screen)`; whether it came to be."""
        until = time.time() + limit
        while time.time() < until:
            if is_so(self.screen()):
                return True
            time.sleep(0.1)
        return False

    def at_rest(self, limit=20):
        time.sleep(0.3)
        return self.wait(lambda text: PROMPT.search(text) and "esc to interrupt" not in text, limit)

    def run(self, *words, limit=90):
        """A command of cbroker in the namespace."""
        command = ["nsenter", "-t", str(self.server), "-n", self.cbroker, *words]
        return subprocess.run(command, env=self.env, cwd=self.work, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=limit).stdout

    def send(self, text):
        began = time.time()
        self.run("send", "--to", "peer", "--from", "tester", "-m", text)
        return began

    def waiting(self):
        """Messages that are still in the queue, with or without a session."""
        rows = [row.split() for row in self.run("list").splitlines()]
        return sum(int(row[2]) for row in rows if row[:1] == ["peer"])

    def requests(self):
        with open(self.path("requests.jsonl")) as file:
            return [json.loads(line) for line in file if line.endswith("\n")]

    def seen(self, tag):
        """The requests in which the model reads a text for the first time."""
        holds = [each for each in self.requests() if each["tools"]]
        return [each for each in holds if any(tag in text for text in each["texts"])]

    def wait_seen(self, tag, limit=20.0):
        until = time.time() + limit
        while time.time() < until:
            if found := self.seen(tag):
                return found[0]["at"]
            time.sleep(0.02)
        return None

    def agent(self):
        """The process of the wrapped Claude Code."""
        for pid in self.processes():
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    line = file.read().split("\0")
                same = os.readlink(f"/proc/{pid}/ns/net") == os.readlink(
                    f"/proc/{self.server}/ns/net")
            except OSError:
                continue
            if same and os.path.basename(line[0]) == "claude" and "--settings" in line:
                return pid
        return None
