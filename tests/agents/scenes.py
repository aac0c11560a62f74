"""The situations that all agents know: at rest, with a draft, busy, at a dialog, in a small window.
"""
import os
import random
import time

from checks import (BESIDE_A_DRAFT, BY_KEYBOARD, CLAUDE, alone, close, kept, once, opened,
                    queued_behind, scene, send, tag, tool_runs, untouched)
from tally import Wrong

LONG = "The migration needs every consumer to be drained before the index is rebuilt. "


@scene()
def idle(room):
    mark = tag()
    send(room, mark)
    once(room, mark)


@scene(BESIDE_A_DRAFT)
def draft(room):
    mark = tag()
    room.draft("half a thought")
    send(room, mark)
    once(room, mark)
    kept(room, "half a thought")


@scene(BY_KEYBOARD)
def draft_cleared(room):
    """It waits as long as the draft stands, and comes when the person has cleared it."""
    mark = tag()
    room.draft("half a thought")
    send(room, mark)
    untouched(room, mark, "half a thought", 4)
    kept(room, "half a thought")
    once(room, mark)


@scene(BY_KEYBOARD)
def draft_submitted(room):
    """The person types on while it waits, and submits: their prompt goes first, and alone."""
    mark, own = tag(), tag()
    room.draft("abc")
    send(room, mark)
    for letter in "def":
        room.type(letter)
        time.sleep(0.3)
    untouched(room, mark, "abcdef", 2)
    room.type(" " + own)
    time.sleep(0.6)
    room.keys("Enter")
    once(room, mark)
    texts = [text.strip() for each in room.seen(own) for text in each["texts"]]
    if f"abcdef {own}" not in texts:
        raise Wrong("joined to other text", f"the person's prompt became {texts}")


@scene(BESIDE_A_DRAFT)
def typing(room):
    """The person types while the message arrives."""
    mark = tag()
    room.draft("abc")
    send(room, mark)
    for letter in "defgh":
        room.type(letter)
        time.sleep(0.05)
    once(room, mark)
    kept(room, "abcdefgh")


@scene(CLAUDE)
def shell_draft(room):
    """A draft of Claude Code's `!` mode, which a shell would execute."""
    mark = tag()
    room.type("!")
    time.sleep(0.3)
    room.draft("echo no")
    send(room, mark)
    once(room, mark)
    kept(room, "echo no", ("C-u", "BSpace"))


@scene(CLAUDE)
def completion(room):
    """A draft with a list of completions below it, from which Enter would pick one."""
    mark = tag()
    room.draft("/mod")
    opened(room, "/model")
    send(room, mark)
    once(room, mark)
    kept(room, "/mod")


@scene(CLAUDE, fresh=True, editor="vim")
def vim_draft(room):
    """A draft in vim's NORMAL mode, in which letters are commands."""
    mark = tag()
    room.draft("half a thought")
    room.keys("Escape")
    time.sleep(0.5)
    send(room, mark)
    once(room, mark)
    kept(room, "half a thought", ("d", "d"))


@scene()
def busy(room):
    mark = tag()
    room.work_on("SLOW3")
    send(room, mark)
    once(room, mark)


@scene()
def while_a_tool_runs(room):
    mark = tag()
    tool_runs(room)
    send(room, mark)
    once(room, mark)


@scene()
def between_tools(room):
    """`--when next`: into the running turn where the agent can, else after it."""
    mark = tag()
    tool_runs(room)
    send(room, mark, "--when", "next")
    once(room, mark)


@scene(("opencode",))
def queued(room):
    """It stands as QUEUED below a running turn, and is read with the turn's next step."""
    mark = queued_behind(room, "SLOW12")
    if room.seen(mark):
        raise Wrong("not played", "it was read before it was shown as QUEUED")
    once(room, mark)


@scene()
def dialog_allowed(room):
    mark, path = tag(), f"file{random.randrange(10**9)}"
    room.work_on(f"TOOL{{touch {path}}}")
    opened(room, room.agent.dialog)
    send(room, mark)
    untouched(room, mark, room.agent.dialog)
    if os.path.exists(os.path.join(room.work, path)):
        raise Wrong("a key that nobody meant", "the message allowed the tool")
    close(room, room.agent.dialog, room.agent.allow)
    once(room, mark)


@scene()
def small_window(room):
    """A message that does not fit the box of a small window."""
    mark = tag()
    columns, rows = random.choice([(80, 24), (60, 16), (80, 11)])
    room.resize(columns, rows)
    time.sleep(0.3)
    # A text that goes by file is known by its id alone.
    send(room, mark + " " + LONG * random.randrange(6, 11))
    mark = room.id or mark
    try:
        # The keyboard waits for a window in which it sees what it types.
        if room.wait_seen(mark, 5) is None:
            room.resize(120, 40)
        once(room, mark)
    finally:
        room.resize(120, 40)


@scene()
def long_text(room):
    """64 KB: whole, or by a file that the message names."""
    mark = tag()
    send(room, mark + " " + LONG * 820 + mark[::-1])
    once(room, room.id or mark)
    if not room.is_whole(room.id or mark, mark[::-1]):
        raise Wrong("lost", "the model has not the whole text")


@scene()
def ten(room):
    marks = [tag() for _ in range(10)]
    for mark in marks:
        send(room, mark)
    for mark in marks:
        once(room, mark, 60)


@scene()
def hundred(room):
    marks = [tag() for _ in range(100)]
    for mark in marks:
        send(room, mark)
    for mark in marks:
        if room.wait_seen(mark, 300) is None:
            raise Wrong("lost", f"{mark} not read; {room.held()[:300]}")
    time.sleep(0.6)
    for mark in marks:
        alone(room, mark)


@scene(fresh=True, starts=False)
def early(room):
    """Sent before the agent is ready, with keys that the person types meanwhile."""
    mark = tag()
    room.begin(*room.options)
    time.sleep(random.uniform(0.1, 2))
    send(room, mark)
    room.wait(room.agent.prompt.search, 60)
    once(room, mark, 90)
    # By Claude Code's hook the screen shows that a message came, and not which.
    if not room.wait(lambda screen: mark in screen or "cbroker peer message" in screen, 10):
        raise Wrong("a key that nobody meant", f"read, and not shown: {room.screen()[-400:]}")
