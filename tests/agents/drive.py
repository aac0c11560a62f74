"""Drives a real Claude Code under cbroker, and counts what became of each message.

    python3 drive.py --root FOLDER --cbroker PATH --claude PATH [--times 10] [--only NAME,…]

Each scene sends one message (or ten) in one state of the agent, repeats that, and passes when the
model read each message exactly once, no draft was touched and no key reached a dialog. The exit
status is 0 when every scene passed every time.
Claude Code comes from npm: `npm install --prefix DIR @anthropic-ai/claude-code`.
"""
import argparse
import os
import random
import signal
import statistics
import sys
import time

from room import Room

LONG = "The migration needs every consumer to be drained before the index is rebuilt. " * 7


def tag():
    return f"tag{random.randrange(10**9):09d}"


def once(room, mark, limit=20.0):
    """What is wrong with a message that the model should have read exactly once; None if nothing."""
    if room.wait_seen(mark, limit) is None:
        return "not read: " + room.screen()[-400:]
    time.sleep(0.5)
    count = len(room.seen(mark))
    return None if count == 1 else f"read {count} times"


def idle(room, delays):
    mark = tag()
    began = room.send(mark)
    wrong = once(room, mark)
    if not wrong:
        delays.append(room.seen(mark)[0]["at"] - began)
    return wrong


def draft(room, _):
    mark = tag()
    room.type("half a thought")
    time.sleep(0.4)
    room.send(mark)
    wrong = once(room, mark)
    kept = room.box()
    room.keys("C-u")
    return wrong or (None if kept == "half a thought" else f"the draft became {kept!r}")


def typing(room, _):
    """The person types while the message arrives."""
    mark = tag()
    room.type("abc")
    room.send(mark)
    for letter in "defgh":
        room.type(letter)
        time.sleep(0.05)
    wrong = once(room, mark)
    kept = room.box()
    room.keys("C-u")
    return wrong or (None if kept == "abcdefgh" else f"the draft became {kept!r}")


def busy(room, _):
    mark = tag()
    room.submit("work SLOW3")
    time.sleep(1)
    room.send(mark)
    return once(room, mark)


def answered(room, keys, script, shown):
    mark, path = tag(), f"file{random.randrange(10**9)}"
    room.submit(script.format(path=path))
    if not room.wait(lambda text: shown in text):
        return "no dialog: " + room.screen()[-300:]
    room.send(mark)
    time.sleep(1)
    if room.seen(mark):
        return "read before the dialog was answered"
    if shown not in room.screen() or os.path.exists(os.path.join(room.work, path)):
        return "the dialog was answered by the message"
    room.keys(keys)
    return once(room, mark)


def dialog_yes(room, _):
    return answered(room, "Enter", "TOOL{{touch {path}}}", "Do you want")


def dialog_escape(room, _):
    return answered(room, "Escape", "TOOL{{touch {path}}}", "Do you want")


def question(room, _):
    return answered(room, "Enter", "ASK", "Which one?")


def menu(room, _):
    mark = tag()
    room.submit("/model")
    if not room.wait(lambda text: "Esc to cancel" in text):
        return "no menu"
    room.send(mark)
    time.sleep(6)
    room.keys("Escape")
    return once(room, mark)


def clear(room, _):
    mark = tag()
    room.submit("/clear")
    time.sleep(0.5)
    room.send(mark)
    return once(room, mark)


def small_window(room, _):
    """80x24, and a message that does not fit the box."""
    mark = tag()
    room.tmux("resize-window", "-t", "=peer:", "-x", "80", "-y", "24")
    room.send(mark + " " + LONG)
    wrong = once(room, mark)
    room.tmux("resize-window", "-t", "=peer:", "-x", "120", "-y", "40")
    return wrong


def subagent_view(room, _):
    mark = tag()
    room.submit("TASK{SLOW6}")
    time.sleep(2.5)
    for key in ("Down", "Down", "Enter"):
        room.keys(key)
        time.sleep(0.3)
    room.send(mark)
    wrong = once(room, mark)
    time.sleep(4)
    room.keys("Escape")
    return wrong


def escape(room, _):
    """Held after Escape, and submitted with the person's next input."""
    first, second = tag(), tag()
    room.submit("work SLOW5")
    time.sleep(1)
    room.send(first)
    time.sleep(0.7)
    room.keys("Escape")
    time.sleep(1)
    room.keys("C-u")
    room.send(second)
    time.sleep(1)
    if room.seen(first) or room.seen(second):
        return "read after Escape"
    room.keys("C-u")
    room.submit("go on")
    return once(room, first) or once(room, second)


def ten(room, _):
    marks = [tag() for _ in range(10)]
    for mark in marks:
        room.send(mark)
    return next((wrong for wrong in (once(room, mark, 30) for mark in marks) if wrong), None)


def refused(room, _):
    """A hook of the person's refuses the prompt: nothing is read, and the message is not acked."""
    mark = tag()
    room.send("REFUSE " + mark)
    time.sleep(8)
    if room.seen(mark):
        return "read although it was refused"
    held = room.run("inbox", "peer")
    after = tag()
    room.send(after)
    wrong = once(room, after)
    room.run("inbox", "peer", "--take")
    return wrong or (None if mark in held else "not held: " + held)


def agents_view(room, _):
    """The session moves to a process of its own; a message must not become a new session."""
    mark = tag()
    room.submit("a first word")
    if not room.wait(lambda text: "OK" in text) or not room.at_rest():
        return "no first turn"
    time.sleep(1)
    room.keys("Left")
    if not room.wait(lambda text: "describe a task for a new session" in text):
        return "no agents view: " + room.screen()[-300:]
    room.send(mark)
    wrong = once(room, mark, 30)
    if not wrong:
        view = room.screen()
        if mark in view.split("describe a task")[-1]:
            wrong = "typed into the agents view"
    room.keys("Escape")
    time.sleep(2)
    return wrong


def killed(room, _):
    """Claude ends behind a dialog: the message is not lost, and comes again, marked or not."""
    mark = tag()
    room.submit("TOOL{touch x}")
    if not room.wait(lambda text: "Do you want" in text):
        return "no dialog"
    room.send(mark)
    time.sleep(random.uniform(0.1, 1.0))
    os.kill(room.agent(), signal.SIGKILL)
    time.sleep(1.5)
    if not room.seen(mark) and room.waiting() == 0:
        return "lost"
    room.start(*room.arguments)
    return once(room, mark, 40)


def killed_at_idle(room, _):
    """Claude ends somewhere between the hand-over and the row."""
    mark = tag()
    room.send(mark)
    time.sleep(random.uniform(0.0, 0.3))
    os.kill(room.agent(), signal.SIGKILL)
    time.sleep(1.5)
    before = room.seen(mark)
    room.start(*room.arguments)
    if room.wait_seen(mark, 30) is None:
        return "lost"
    time.sleep(1)
    after = room.seen(mark)[len(before):]
    marked = all(any("(possible repeat)" in text for text in each["texts"]) for each in after)
    return None if not before or marked else "read twice without its mark"


FRESH = [subagent_view, escape, agents_view]
SCENES = [idle, draft, typing, busy, dialog_yes, dialog_escape, question, menu, clear,
          small_window, subagent_view, escape, ten, refused, killed, killed_at_idle, agents_view]
HOOK = ('{"hooks":{"UserPromptSubmit":[{"hooks":[{"type":"command","command":'
        '"grep -q REFUSE && exit 2 || exit 0"}]}]}}')


def play(room, scene, times, delays):
    good = 0
    for _ in range(times):
        if scene in FRESH:
            room.start(*room.arguments)
        try:
            wrong = scene(room, delays)
        except Exception as error:  # A scene that cannot be played has not passed.
            wrong = repr(error)
        if wrong:
            print(f"  {scene.__name__}: {wrong}", flush=True)
            room.start(*room.arguments)
        else:
            good += 1
            room.at_rest()
    if scene in FRESH:
        room.start(*room.arguments)
    print(f"{scene.__name__:<16} {good} of {times}", flush=True)
    return good == times


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for option in ("--root", "--cbroker", "--claude"):
        parser.add_argument(option, required=True)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    room = Room(options.root, options.cbroker, options.claude)
    room.arguments = ["--permission-mode", "default", "--settings", HOOK]
    room.open()
    delays, names = [], [name for name in options.only.split(",") if name]
    try:
        room.start(*room.arguments)
        wanted = [scene for scene in SCENES if not names or scene.__name__ in names]
        passed = [play(room, scene, options.times, delays) for scene in wanted]
    finally:
        room.run("stop")
        room.close()
    if delays:
        print(f"from `send` to the model's request, median of {len(delays)}: "
              f"{statistics.median(delays):.2f} s")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
