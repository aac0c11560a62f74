"""Rooms in which another tool brings the messages: `tmux send-keys`, and hcom.

Each in its best documented mode. What a tool does not have (a queue, a list of what waits) counts
as nothing: a message that it does not bring to the model is lost.
"""
import os
import subprocess
import time

from room import Room

# What the person types in the scenes.
DRAFTS = ("half a thought", "abc", "echo no", "xyz")


class Bare(Room):
    """The agent alone, in tmux."""

    def command(self, options):
        return [self.agent.name, *self.prepared.get("arguments", self.agent.arguments)]

    def program(self):
        pane = self.tmux("list-panes", "-t", "=peer:", "-F", "#{pane_pid}").strip()
        return int(pane) if pane.isdigit() and os.path.exists(f"/proc/{pane}/exe") else None

    def wrap(self):
        return self.program()

    def run(self, *words, limit=90):
        """There is no cbroker."""
        return ""

    def waiting(self):
        """Unknown: only the next start shows it."""
        return 1

    def seen(self, tag):
        return [each for each in self.requests() if each["tools"] and tag in each["tags"]]

    def readings(self, tag):
        """There are no marks for repeats."""
        starts, requests = sorted({0, *self.lives}), self.requests()
        total = sum(max((each["tags"].count(tag) for each in requests[start:end] if each["tools"]),
                        default=0)
                    for start, end in zip(starts, [*starts[1:], len(requests)]))
        return total, total

    def is_whole(self, tag, end):
        return any(end in each["tags"] for each in self.seen(tag))

    def joined(self, tag):
        """The person's unsent words, read together with a message."""
        for each in self.seen(tag)[:1]:
            for words in DRAFTS:
                if any(words in text for text in each["texts"]):
                    return words
        return None


class SendKeys(Bare):
    """`tmux send-keys`: the text, half a second for its redraw, Enter."""
    tool = "tmux send-keys"

    def send(self, text, *options):
        self.began, self.said, self.id = time.time(), "sent", None
        # One command takes no more than the system's limit for an argument.
        for at in range(0, len(text), 8000):
            self.keys("-l", text[at:at + 8000])
        time.sleep(0.5)
        self.keys("Enter")
        return "sent"


class Hcom(Bare):
    """`hcom claude`, whose plugin in Claude Code submits what `hcom send` queues."""
    tool, program_path = "hcom", None

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.name = None
        link = self.path("bin", "hcom")
        if not os.path.lexists(link):
            os.symlink(self.program_path, link)

    def command(self, options):
        """After the agent's end the session goes on as its documentation has it."""
        if self.name:
            return ["hcom", "r", self.name]
        return ["hcom", *super().command(options)]

    def clear(self):
        super().clear()
        self.name = None

    def program(self):
        pids = [pid for pid, _, words in self.processes()
                if os.path.basename(words[0]) == "claude" and "--plugin-dir" in words]
        return pids[0] if pids else None

    def wrap(self):
        pids = [pid for pid, _, words in self.processes() if words[1:2] == ["pty"]]
        return pids[0] if pids else None

    def hcom(self, *words, given=None):
        command = [*self.enter(), self.program_path, *words]
        return subprocess.run(command, env=self.env, cwd=self.work, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, input=given, timeout=90).stdout

    def send(self, text, *options):
        self.id = None
        if self.name is None:
            self.until(lambda: self.hcom("list", "--names").split(), 60)
            self.name = self.hcom("list", "--names").split()[-1]
        self.began = time.time()
        # Longer than the system's limit for an argument: by its standard input, as documented.
        self.said = self.hcom("send", f"@{self.name}", "--from", "tester", given=text)
        return "sent" if self.said.startswith("Sent") else None

    def held(self):
        return self.hcom("list")[:300]
