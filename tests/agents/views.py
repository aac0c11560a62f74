"""Claude Code's own situations: its dialogs, menus and views, its modes, and a slow one."""
import random
import signal
import time

from checks import CLAUDE, close, in_conversation, kept, once, opened, scene, send, tag, untouched
from scenes import small_window
from tally import Wrong


@scene(CLAUDE)
def dialog_escaped(room):
    mark = tag()
    room.work_on("TOOL{touch escaped}")
    opened(room, room.agent.dialog)
    send(room, mark)
    untouched(room, mark, room.agent.dialog)
    close(room, room.agent.dialog, "Escape")
    once(room, mark)


@scene(CLAUDE)
def question(room):
    mark = tag()
    room.work_on("ASK")
    # The question itself stays in the history.
    shown = "2. Beta"
    opened(room, shown)
    send(room, mark)
    untouched(room, mark, shown)
    close(room, shown, "Enter")
    once(room, mark)


@scene(CLAUDE, fresh=True)
def plan(room):
    """The dialog that asks whether a plan may be carried out."""
    mark = tag()
    for _ in range(4):
        if "plan mode on" in room.screen():
            break
        room.keys("BTab")
        room.wait(lambda screen: "plan mode on" in screen, 2)
    room.work_on("PLAN")
    shown = "Would you like to proceed"
    if room.wait(lambda screen: "Exit plan mode?" in screen or shown in screen, 20):
        shown = shown if shown in room.screen() else "Exit plan mode?"
    opened(room, shown)
    send(room, mark)
    untouched(room, mark, shown)
    close(room, shown, "Escape")
    once(room, mark)


def in_menu(room, command, shown, *closing):
    mark = tag()
    room.submit(command)
    opened(room, shown)
    send(room, mark)
    untouched(room, mark, shown, 6)
    close(room, shown, *closing)
    once(room, mark)


@scene(CLAUDE, fresh=True)
def menu(room):
    """Open for more than five seconds, in a fresh session."""
    in_menu(room, "/model", "Esc to cancel", "Escape")


@scene(CLAUDE)
def config(room):
    in_menu(room, "/config", "Esc to", "Escape", "Escape")


@scene(CLAUDE)
def resume(room):
    """The list of conversations; there is one to be listed."""
    room.work_on("a word before")
    room.at_rest()
    room.submit("/clear")
    room.at_rest()
    in_menu(room, "/resume", "Esc to", "Escape")


@scene(CLAUDE)
def transcript(room):
    """The view of the whole transcript; a message may come while it is shown."""
    mark = tag()
    room.keys("C-o")
    opened(room, "transcript")
    send(room, mark)
    if room.wait_seen(mark, 5) is None:
        room.keys("C-o")
    once(room, mark)
    if "transcript" in room.screen():
        room.keys("C-o")


@scene(CLAUDE, fresh=True, is_trusted=False, starts=False)
def trust(room):
    """Sent while Claude Code asks whether the folder is trusted."""
    mark = tag()
    room.begin(*room.options)
    opened(room, "trust")
    send(room, mark)
    untouched(room, mark, "trust", 3)
    close(room, "trust this folder", *room.agent.trust(room.screen()))
    once(room, mark)


@scene(CLAUDE)
def clear(room):
    mark = tag()
    room.submit("/clear")
    time.sleep(0.5)
    send(room, mark)
    once(room, mark)


@scene(CLAUDE)
def compact(room):
    mark = tag()
    room.work_on("a word before")
    room.at_rest()
    room.submit("/compact")
    time.sleep(0.3)
    send(room, mark)
    once(room, mark)


@scene(CLAUDE, fresh=True)
def subagent_view(room):
    first, mark = tag(), tag()
    room.work_on(first + " TASK{SLOW8}")
    time.sleep(2.5)
    for key in ("Down", "Down", "Enter"):
        room.keys(key)
        time.sleep(0.3)
    send(room, mark)
    once(room, mark)
    in_conversation(room, mark, first)
    room.keys("Escape")


@scene(CLAUDE, fresh=True)
def escape(room):
    """Held after Escape, and submitted with the person's next input."""
    first, second = tag(), tag()
    room.work_on("SLOW5")
    send(room, first)
    time.sleep(0.7)
    room.keys("Escape")
    time.sleep(1)
    room.keys("C-u")
    send(room, second)
    time.sleep(1)
    room.keys("C-u")
    room.submit("go on")
    once(room, first)
    once(room, second)


@scene(CLAUDE)
def refused(room):
    """A hook of the person's refuses the prompt: nothing is read, and the message is not acked."""
    mark, after = tag(), tag()
    send(room, "REFUSE " + mark)
    time.sleep(8)
    if room.seen(mark):
        raise Wrong("a key that nobody meant", "read although it was refused")
    held = room.held()
    send(room, after)
    try:
        once(room, after)
    finally:
        room.run("inbox", "peer", "--take")
    if mark not in held:
        raise Wrong("lost", "not held: " + held)


@scene(CLAUDE, fresh=True)
def agents_view(room):
    """The session moves to a process of its own; a message must not become a new session."""
    first, mark = tag(), tag()
    room.work_on(first)
    opened(room, "OK")
    room.at_rest()
    time.sleep(1)
    room.keys("Left")
    opened(room, "describe a task for a new session")
    time.sleep(random.uniform(0, 2))
    send(room, mark)
    is_read = room.wait_seen(mark, 20) is not None
    if mark in room.screen().split("describe a task")[-1]:
        raise Wrong("a key that nobody meant", "typed into the agents view")
    room.keys("Escape")
    if not is_read:
        # Where nothing leads into the new process, it waits, and outlives this session.
        if room.until(lambda: room.wrap() is None):
            room.start(*room.options)
            first = mark
    once(room, mark)
    in_conversation(room, mark, first)


# As root, Claude Code takes the mode only where it is told that this is a sandbox.
BYPASS = {"arguments": ["--permission-mode", "bypassPermissions"],
          "environment": {"IS_SANDBOX": "1"}}


def without_permissions(room):
    """At rest, with a draft, and between two tools."""
    first, second, third = tag(), tag(), tag()
    send(room, first)
    once(room, first)
    room.draft("half a thought")
    send(room, second)
    once(room, second)
    kept(room, "half a thought")
    room.work_on("TOOL{sleep 3}")
    time.sleep(1)
    send(room, third, "--when", "next")
    once(room, third)


@scene(CLAUDE, fresh=True, **BYPASS)
def bypass(room):
    """A session that asks for no permissions."""
    without_permissions(room)


@scene(CLAUDE, options=("--delivery", "inbox"), fresh=True, **BYPASS)
def bypass_inbox(room):
    """It holds what comes by its inbox from a process that is not its child."""
    without_permissions(room)


def slowly(room, keys, pause):
    """A slow agent: it reads nothing while the message comes and the person types."""
    mark, program = tag(), room.program()
    if keys == "before":
        room.kill(program, signal.SIGSTOP)
        room.type("x")
        time.sleep(pause)
        send(room, mark)
    else:
        send(room, mark)
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
    once(room, mark)


@scene(CLAUDE, options=("--delivery", "pty"))
def slow_after_paste(room):
    slowly(room, "after", random.uniform(0.0, 0.1))


@scene(CLAUDE, options=("--delivery", "pty"))
def slow_with_a_key(room):
    slowly(room, "before", 1.5)


@scene(CLAUDE, options=("--delivery", "pty"))
def small_window_typed(room):
    small_window(room)
