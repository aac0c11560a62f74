"""What scenes are made of: how they are named, and what must have become of a message.

A scene is one message (or several) in one state of the agent. It takes the room, and raises
`Wrong` when something is not as it must be. Its attributes say which agents it is for, which
options the wrap needs, whether it needs a session of its own (`fresh`), and what the agent is
prepared with.
"""
import os
import random
import time

from tally import Wrong

ALL, CLAUDE = ("claude", "codex", "opencode", "gemini"), ("claude",)
# A message gets in beside a draft, or only by the keyboard, which needs an empty box.
BESIDE_A_DRAFT, BY_KEYBOARD = ("claude", "codex", "opencode"), ("gemini",)
SCENES = []


def scene(agents=ALL, options=(), fresh=False, **prepared):
    def add(function):
        function.agents, function.options, function.fresh = agents, options, fresh
        function.prepared = prepared
        SCENES.append(function)
        return function
    return add


def tag():
    return f"tag{random.randrange(10**9):09d}"


def send(room, mark, *options):
    if room.send(mark, *options) is None:
        raise Wrong("lost", f"not sent: {room.said}")


def once(room, mark, limit=0):
    """The model reads a message once, alone."""
    at = room.wait_seen(mark, max(limit, room.agent.patience))
    if at is None:
        raise Wrong("lost", f"not read; {room.held()[:300]}; screen: {room.screen()[-500:]}")
    room.delay = at - room.began
    time.sleep(0.6)
    alone(room, mark)


def alone(room, mark):
    """A message that was read: once, and with nothing beside it."""
    is_once(room, mark)
    if other := room.joined(mark):
        raise Wrong("joined to other text", other)


def is_once(room, mark):
    total, bare = room.readings(mark)
    if total > 1 and bare > 1:
        raise Wrong("doubled without its mark", f"read {total} times, {bare} without a mark")


def in_conversation(room, mark, first):
    """The message was read by the conversation in which the person said `first`."""
    if first not in room.seen(mark)[0]["tags"]:
        raise Wrong("a key that nobody meant", "read by another session")


def kept(room, draft, remove=None):
    """The draft is as it was typed; it is removed then."""
    is_kept = room.wait(lambda screen: room.agent.box(screen) == draft, 10)
    seen, screen = room.box(), room.screen()
    for key in remove or (room.agent.clear,):
        room.keys(key)
        time.sleep(0.2)
    if not is_kept:
        raise Wrong("a key that nobody meant",
                    f"the draft {draft!r} became {seen!r}; screen: {screen[-800:]}")


def opened(room, text):
    if not room.wait(lambda screen: text in screen, room.agent.patience):
        raise Wrong("not played", f"{text!r} is not shown: {room.screen()[-400:]}")


def queued_behind(room, work):
    """A message behind a running turn of opencode: shown as QUEUED, or read already."""
    mark = tag()
    room.work_on(work)
    send(room, mark, "--when", "next")
    room.wait(lambda screen: "QUEUED" in screen or room.seen(mark), room.agent.patience)
    return mark


def close(room, text, *keys):
    """A dialog that has only just opened may not take the key yet."""
    for _ in range(4):
        time.sleep(0.5)
        for key in keys:
            room.keys(key)
            time.sleep(0.3)
        if room.wait(lambda screen: text not in screen, 8):
            return
    raise Wrong("not played", f"{text!r} does not close: {room.screen()[-400:]}")


def untouched(room, mark, shown, seconds=1.0):
    """What stands on the screen stays as it is, and the message waits."""
    time.sleep(seconds)
    if shown not in room.screen():
        raise Wrong("a key that nobody meant", f"{shown!r} was answered by the message")
    if room.seen(mark):
        raise Wrong("a key that nobody meant", f"read while {shown!r} stood open")


def tool_runs(room):
    """A tool that runs for some seconds."""
    path = os.path.join(room.work, f"began{random.randrange(10**9)}")
    room.work_on(f"TOOL{{touch {path}; sleep 3}}")
    opened(room, room.agent.dialog)
    close(room, room.agent.dialog, room.agent.allow)
    if not room.until(lambda: os.path.exists(path)):
        raise Wrong("not played", f"the tool does not run: {room.screen()[-400:]}")


def repeated(room, mark, before):
    """After a new start: the message is read, or it was before; a repeat has its mark."""
    if not before and room.wait_seen(mark, 2 * room.agent.patience) is None:
        raise Wrong("lost", room.held()[:300])
    time.sleep(2 if before else 0.6)
    _, bare = room.readings(mark)
    if bare > 1:
        raise Wrong("doubled without its mark", f"read {bare} times without a mark")
