"""The situations: one message (or ten) in one state of the agent, and what must become of it.

A scene takes the room and the tally, and raises `Wrong` when something is not as it must be. Its
attributes say which agents it is for, which options the wrap needs, and whether it needs a session
of its own.
"""
import os
import random
import signal
import time

from tally import Wrong

LONG = "The migration needs every consumer to be drained before the index is rebuilt. "
ALL, CLAUDE = ("claude", "codex", "opencode"), ("claude",)
SCENES = []


def scene(agents=ALL, options=(), fresh=False):
    def add(function):
        function.agents, function.options, function.fresh = agents, options, fresh
        SCENES.append(function)
        return function
    return add


def tag():
    return f"tag{random.randrange(10**9):09d}"


def once(room, mark, limit=0):
    """The model reads a message once, alone; when."""
    at = room.wait_seen(mark, max(limit, room.agent.patience))
    if at is None:
        held = " ".join(room.run("inbox", "peer").split())
        raise Wrong("lost", f"not read; inbox: {held[:300]}; screen: {room.screen()[-500:]}")
    time.sleep(0.6)
    total, bare = room.readings(mark)
    if total > 1 and bare > 1:
        raise Wrong("doubled without its mark", f"read {total} times, {bare} without a mark")
    if other := room.joined(mark):
        raise Wrong("joined to other text", other)
    return at


def kept(room, draft):
    """The draft is as it was typed; it is removed then."""
    seen = room.box()
    room.keys(room.agent.clear)
    time.sleep(0.2)
    if seen != draft:
        raise Wrong("a key that nobody meant", f"the draft {draft!r} became {seen!r}")


def opened(room, text):
    if not room.wait(lambda screen: text in screen, room.agent.patience):
        raise Wrong("not played", f"{text!r} is not shown: {room.screen()[-400:]}")


def close(room, text, key):
    """A dialog that has only just opened may not take the key yet."""
    for _ in range(5):
        time.sleep(0.3)
        room.keys(key)
        # An answered question stands in the history.
        if room.wait(lambda screen: text not in screen or "User answered" in screen, 3):
            return
    raise Wrong("not played", f"{text!r} does not close: {room.screen()[-400:]}")


@scene()
def idle(room, tally):
    mark = tag()
    began = room.send(mark)
    tally.delays.append(once(room, mark) - began)


@scene()
def draft(room, _):
    mark = tag()
    room.type("half a thought")
    time.sleep(0.5)
    room.send(mark)
    once(room, mark)
    kept(room, "half a thought")


@scene()
def typing(room, _):
    """The person types while the message arrives."""
    mark = tag()
    room.type("abc")
    room.send(mark)
    for letter in "defgh":
        room.type(letter)
        time.sleep(0.05)
    once(room, mark)
    kept(room, "abcdefgh")


@scene(CLAUDE)
def shell_draft(room, _):
    """A draft of Claude Code's `!` mode, which a shell would execute."""
    mark = tag()
    room.type("!")
    time.sleep(0.3)
    room.type("echo no")
    time.sleep(0.3)
    room.send(mark)
    once(room, mark)
    seen = room.box()
    room.keys("C-u")
    time.sleep(0.2)
    room.keys("BSpace")
    time.sleep(0.3)
    if seen != "echo no":
        raise Wrong("a key that nobody meant", f"the draft became {seen!r}")


@scene()
def busy(room, _):
    mark = tag()
    room.submit("work SLOW3")
    time.sleep(1)
    room.send(mark)
    once(room, mark)


@scene()
def tool_runs(room, _):
    mark = tag()
    room.submit("TOOL{touch slept; sleep 3}")
    opened(room, room.agent.dialog)
    close(room, room.agent.dialog, room.agent.allow)
    time.sleep(1)
    room.send(mark)
    once(room, mark)


@scene()
def between_tools(room, _):
    """`--when next`: into the running turn where the agent can, else after it."""
    mark = tag()
    room.submit("TOOL{touch slept; sleep 3}")
    opened(room, room.agent.dialog)
    close(room, room.agent.dialog, room.agent.allow)
    time.sleep(1)
    room.send(mark, "--when", "next")
    once(room, mark)


def answered(room, keys, script, shown):
    mark, path = tag(), f"file{random.randrange(10**9)}"
    room.submit(script.format(path=path))
    opened(room, shown)
    room.send(mark)
    time.sleep(1)
    is_answered = shown not in room.screen() or os.path.exists(os.path.join(room.work, path))
    if is_answered or room.seen(mark):
        raise Wrong("a key that nobody meant", "the dialog was answered by the message")
    close(room, shown, keys)
    once(room, mark)


@scene()
def dialog_allowed(room, _):
    answered(room, room.agent.allow, "TOOL{{touch {path}}}", room.agent.dialog)


@scene(CLAUDE)
def dialog_escaped(room, _):
    answered(room, "Escape", "TOOL{{touch {path}}}", room.agent.dialog)


@scene(CLAUDE)
def question(room, _):
    answered(room, "Enter", "ASK", "Which one?")


def in_menu(room, command, shown, closing=("Escape",)):
    mark = tag()
    room.submit(command)
    opened(room, shown)
    room.send(mark)
    time.sleep(6)
    for key in closing:
        room.keys(key)
        time.sleep(0.5)
    once(room, mark)


@scene(CLAUDE, fresh=True)
def menu(room, _):
    """Open for more than five seconds, in a fresh session."""
    in_menu(room, "/model", "Esc to cancel")


@scene(CLAUDE)
def config(room, _):
    in_menu(room, "/config", "Esc to", ("Escape", "Escape"))


@scene(CLAUDE)
def clear(room, _):
    mark = tag()
    room.submit("/clear")
    time.sleep(0.5)
    room.send(mark)
    once(room, mark)


@scene(CLAUDE)
def compact(room, _):
    mark = tag()
    room.submit("a word before")
    time.sleep(1.5)
    room.submit("/compact")
    time.sleep(0.3)
    room.send(mark)
    once(room, mark, 40)


@scene()
def small_window(room, _):
    """A message that does not fit the box of a small window."""
    mark = tag()
    columns, rows = random.choice([(80, 24), (60, 16), (80, 11)])
    room.resize(columns, rows)
    time.sleep(0.3)
    # A text that goes by file is known by its id alone.
    room.send(mark + " " + LONG * random.randrange(6, 11))
    mark = room.id or mark
    try:
        # The keyboard waits for a window in which it sees what it types.
        if room.wait_seen(mark, 5) is None:
            room.resize(120, 40)
        once(room, mark)
    finally:
        room.resize(120, 40)


@scene(CLAUDE, fresh=True)
def subagent_view(room, _):
    mark = tag()
    room.submit("TASK{SLOW6}")
    time.sleep(2.5)
    for key in ("Down", "Down", "Enter"):
        room.keys(key)
        time.sleep(0.3)
    room.send(mark)
    once(room, mark)
    time.sleep(4)
    room.keys("Escape")


@scene(CLAUDE, fresh=True)
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
    room.keys("C-u")
    room.submit("go on")
    once(room, first)
    once(room, second)


@scene()
def ten(room, _):
    marks = [tag() for _ in range(10)]
    for mark in marks:
        room.send(mark)
    for mark in marks:
        once(room, mark, 60)


@scene(CLAUDE)
def refused(room, _):
    """A hook of the person's refuses the prompt: nothing is read, and the message is not acked."""
    mark, after = tag(), tag()
    room.send("REFUSE " + mark)
    time.sleep(8)
    if room.seen(mark):
        raise Wrong("a key that nobody meant", "read although it was refused")
    held = room.run("inbox", "peer")
    room.send(after)
    try:
        once(room, after)
    finally:
        room.run("inbox", "peer", "--take")
    if mark not in held:
        raise Wrong("lost", "not held: " + held)


@scene(CLAUDE, fresh=True)
def agents_view(room, _):
    """The session moves to a process of its own; a message must not become a new session."""
    mark = tag()
    room.submit("a first word")
    opened(room, "OK")
    room.at_rest()
    time.sleep(1)
    room.keys("Left")
    opened(room, "describe a task for a new session")
    time.sleep(random.uniform(0, 2))
    room.send(mark)
    once(room, mark, 40)
    if mark in room.screen().split("describe a task")[-1]:
        raise Wrong("a key that nobody meant", "typed into the agents view")
    room.keys("Escape")
    time.sleep(2)


@scene()
def early(room, _):
    """Sent before the agent is ready, with keys that the person types meanwhile."""
    mark = tag()
    room.begin()
    time.sleep(random.uniform(0.1, 2))
    room.send(mark)
    room.wait(room.agent.prompt.search, 60)
    once(room, mark, 40)
    if not room.wait(lambda screen: mark in screen, 5):
        raise Wrong("a key that nobody meant", f"read, and not shown: {room.screen()[-400:]}")


def slowly(room, keys, pause):
    """A slow agent: it reads nothing while the message comes and the person types."""
    mark, program = tag(), room.program()
    if keys == "before":
        room.kill(program, signal.SIGSTOP)
        room.type("x")
        time.sleep(pause)
        room.send(mark)
    else:
        room.send(mark)
        time.sleep(pause)
        room.kill(program, signal.SIGSTOP)
        for letter in "xyz":
            room.type(letter)
            time.sleep(0.3)
    time.sleep(3)
    room.kill(program, signal.SIGCONT)
    time.sleep(2)
    room.keys("C-u")
    time.sleep(0.3)
    room.keys("C-u")
    once(room, mark, 30)


@scene(CLAUDE, options=("--delivery", "pty"))
def slow_after_paste(room, _):
    slowly(room, "after", random.uniform(0.0, 0.1))


@scene(CLAUDE, options=("--delivery", "pty"))
def slow_with_a_key(room, _):
    slowly(room, "before", 1.5)


@scene(CLAUDE, options=("--delivery", "pty"))
def small_window_typed(room, _):
    small_window(room, _)


def repeated(room, mark, before, limit=40):
    """After a new start: the message is read, or it was before; a repeat has its mark."""
    if not before and room.wait_seen(mark, limit) is None:
        raise Wrong("lost", " ".join(room.run("inbox", "peer").split())[:300])
    time.sleep(2 if before else 0.6)
    total, bare = room.readings(mark)
    if bare > 1:
        raise Wrong("doubled without its mark", f"read {total} times, {bare} without a mark")


def ends_behind_a_dialog(room, options):
    mark = tag()
    room.submit("TOOL{touch x}")
    opened(room, room.agent.dialog)
    room.send(mark)
    time.sleep(random.uniform(0.1, 1.0))
    room.kill(room.program())
    time.sleep(1.5)
    before = room.seen(mark)
    if not before and room.waiting() == 0:
        raise Wrong("lost", "neither read nor in the queue")
    room.start(*options)
    repeated(room, mark, before)


@scene()
def killed(room, _):
    ends_behind_a_dialog(room, ())


@scene(CLAUDE, options=("--delivery", "hook"))
def killed_after_the_hook(room, _):
    ends_behind_a_dialog(room, ("--delivery", "hook"))


def ends_at_idle(room, victim, options):
    mark = tag()
    room.send(mark)
    time.sleep(random.uniform(0.0, 0.3))
    room.kill(victim())
    time.sleep(1.5)
    before = room.seen(mark)
    room.start(*options)
    repeated(room, mark, before)


@scene()
def killed_at_idle(room, _):
    """The agent ends somewhere between the hand-over and the proof."""
    ends_at_idle(room, room.program, ())


@scene()
def wrap_killed(room, _):
    ends_at_idle(room, room.wrap, ())


@scene(CLAUDE, options=("--delivery", "pty"))
def wrap_killed_after_enter(room, _):
    ends_at_idle(room, room.wrap, ("--delivery", "pty"))
