"""Chaos with a real Claude Code: random messages, drafts, dialogs, views, sizes, and kills of the
agent, the wrap and the broker. At the end each message that was sent is accounted for.

    python3 chaos.py --root FOLDER --cbroker PATH [--program PATH] [--minutes 30] [--seed N]

The exit status is 0 when as many messages were sent as the model has read and the queue still has,
and none was read twice without its mark. What was done is in FOLDER/chaos.log.
"""
import argparse
import glob
import json
import os
import random
import subprocess
import sys
import time

from agents import AGENTS
from install import PINNED, install
from room import MARK, Room
from tally import Wrong

# Each action's share, and the longest pause after it.
SHARES = {"send": 40, "burst": 6, "send_next": 6, "draft": 10, "clear_draft": 5, "work": 8,
          "tool": 8, "ask": 3, "answer": 12, "escape": 4, "menu": 3, "new_conversation": 2,
          "agents_view": 3, "subagent": 2, "small": 4, "large": 4, "kill_agent": 2,
          "kill_wrap": 2, "kill_broker": 2}


class Chaos:
    def __init__(self, room, seed):
        self.room, self.random = room, random.Random(seed)
        self.sent, self.unsure, self.counts = [], [], dict.fromkeys(SHARES, 0)
        self.log = open(room.path("chaos.log"), "a")

    def note(self, text):
        self.log.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self.log.flush()

    def act(self):
        name = self.random.choices(list(SHARES), SHARES.values())[0]
        self.counts[name] += 1
        self.note(name)
        getattr(self, name)()
        if self.room.program() is None:
            self.note("start")
            self.room.run("start")
            self.room.start(*self.room.options)
        time.sleep(self.random.uniform(0, 1.5))

    # The peers.

    def send(self, *options):
        tag = f"tag{self.random.randrange(10**9):09d}"
        words = tag + " and so on" * self.random.choice([0, 0, 1, 80])
        self.room.said = "no answer in time"
        try:
            self.room.send(words, *options)
        except subprocess.TimeoutExpired:
            pass
        is_sent = self.room.said.startswith("sent")
        (self.sent if is_sent else self.unsure).append(tag)
        self.note(f"  {tag} {'sent' if is_sent else self.room.said.strip()}")

    def burst(self):
        for _ in range(self.random.randrange(2, 6)):
            self.send()

    def send_next(self):
        self.send("--when", "next")

    # The person.

    def draft(self):
        self.room.type(self.random.choice(["half a thought ", "x", "a longer draft of a prompt "]))

    def clear_draft(self):
        self.room.keys("C-u")

    def prompt(self, text):
        """Whatever stands open: the person types on."""
        self.room.keys("C-u")
        self.room.type(text)
        time.sleep(0.6)
        self.room.keys("Enter")

    def work(self):
        self.prompt(f"work SLOW{self.random.randrange(1, 4)}")

    def tool(self):
        self.prompt(f"TOOL{{sleep {self.random.randrange(0, 3)}}}")

    def ask(self):
        self.prompt("ASK")

    def answer(self):
        screen = self.room.screen()
        if "Do you want" in screen or "Which one?" in screen:
            self.room.keys(self.random.choice(["Enter", "Enter", "Escape"]))

    def escape(self):
        self.room.keys("Escape")

    def menu(self):
        self.prompt("/model")
        time.sleep(self.random.uniform(0.5, 4))
        self.room.keys("Escape")

    def new_conversation(self):
        self.prompt("/clear")

    def agents_view(self):
        self.room.keys("C-u")
        self.room.keys("Left")
        time.sleep(self.random.uniform(0.5, 5))
        self.room.keys("Escape")

    def subagent(self):
        self.prompt("TASK{SLOW4}")
        time.sleep(2)
        for key in ("Down", "Down", "Enter"):
            self.room.keys(key)
            time.sleep(0.2)
        time.sleep(self.random.uniform(0, 3))
        self.room.keys("Escape")

    def small(self):
        self.room.resize(*self.random.choice([(80, 24), (60, 16), (80, 11)]))

    def large(self):
        self.room.resize(120, 40)

    # What ends.

    def kill_agent(self):
        self.room.kill(self.room.program())
        time.sleep(1.5)

    def kill_wrap(self):
        if pid := self.room.wrap():
            self.room.kill(pid)
        time.sleep(1.5)

    def kill_broker(self):
        if pid := self.room.broker():
            self.room.kill(pid)
        time.sleep(self.random.uniform(0, 2))
        self.room.run("start")

    # The account.

    def settle(self, limit):
        """Until nothing waits: the person closes what is open and says a word now and then."""
        self.room.resize(120, 40)
        until = time.time() + limit
        while time.time() < until:
            try:
                if self.room.program() is None:
                    self.room.start(*self.room.options)
            except Wrong as wrong:
                self.note(f"not done: {wrong}")
            self.answer()
            if self.room.waiting() == 0:
                return
            self.room.keys("Escape")
            time.sleep(1)
            self.prompt("go on")
            time.sleep(4)

    def transcripts(self):
        for path in glob.glob(os.path.join(self.room.home, ".claude/projects/*/*.jsonl")):
            with open(path) as file:
                yield [line for line in file if '"uuid"' in line]

    def rows(self):
        """The rows with messages, a copy in a conversation that goes on counted once."""
        texts = {}
        for lines in self.transcripts():
            for line in lines:
                if "[cbroker peer message" in line:
                    row = json.loads(line)
                    if row.get("type") in ("user", "attachment"):
                        texts[row["uuid"]] = line
        return list(texts.values())

    def was_interrupted(self, tag):
        """The person ended its turn before the model answered."""
        for lines in self.transcripts():
            is_open = False
            for line in lines:
                if tag in line:
                    is_open = True
                elif '"type":"assistant"' in line:
                    is_open = False
                elif is_open and "[Request interrupted by user" in line:
                    return True
        return False

    def was_cut_short(self, tag):
        """It is the last word of a conversation: the agent ended before the model answered."""
        for lines in self.transcripts():
            at = max((at for at, line in enumerate(lines) if tag in line), default=None)
            if at is not None and not any('"type":"assistant"' in line for line in lines[at:]):
                return True
        return False

    def account(self):
        requests = "\n".join(peer for each in self.room.requests() if each["tools"]
                             for peer in each["peers"])
        rows = self.rows()
        waiting = self.room.waiting()
        unread = [tag for tag in self.sent if tag not in requests]
        # The person's Escape came between the row and the request.
        interrupted = [tag for tag in unread if self.was_interrupted(tag)]
        unread = [tag for tag in unread if tag not in interrupted]
        # So did the end of the agent.
        cut_short = [tag for tag in unread if self.was_cut_short(tag)]
        unread = [tag for tag in unread if tag not in cut_short]
        repeats, doubled = [], []
        for tag in self.sent:
            of_tag = [row for row in rows if tag in row]
            if len(of_tag) > 1:
                repeats.append(tag)
                if sum(MARK not in row for row in of_tag) > 1:
                    doubled.append(tag)
        return {"sent": len(self.sent),
                "seen by the model": len(self.sent) - len(unread + interrupted + cut_short),
                "in a turn that the person interrupted": interrupted,
                "in a conversation that ended before the model answered": cut_short,
                "still queued": waiting, "not confirmed by the broker": len(self.unsure),
                "neither": unread, "read again with the mark": len(repeats) - len(doubled),
                "doubled without it": doubled, "actions": self.counts}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for option in ("--root", "--cbroker"):
        parser.add_argument(option, required=True)
    parser.add_argument("--program", help="Claude Code; else npm installs the pinned version")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    program = options.program or install(
        os.path.join(options.root, "packages"), "claude", PINNED["claude"])[0]
    room = Room(options.root, options.cbroker, AGENTS["claude"], program)
    room.options = []
    room.open()
    try:
        chaos = Chaos(room, options.seed)
        chaos.note(f"seed {options.seed}")
        room.start()
        until = time.time() + options.minutes * 60
        while time.time() < until:
            try:
                chaos.act()
            except (Wrong, subprocess.TimeoutExpired) as wrong:
                chaos.note(f"not done: {wrong}")
        chaos.note("settle")
        chaos.settle(180)
        account = chaos.account()
        print(json.dumps(account, indent=1))
        print(room.run("inbox", "peer"))
        chaos.note(json.dumps(account))
    finally:
        room.close()
    found = account["seen by the model"] + account["still queued"]
    found += len(account["in a turn that the person interrupted"])
    found += len(account["in a conversation that ended before the model answered"])
    is_whole = account["sent"] == found
    return 0 if is_whole and not account["doubled without it"] else 1


if __name__ == "__main__":
    sys.exit(main())
