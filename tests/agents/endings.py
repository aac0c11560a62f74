"""The agent, the wrap or the broker ends while a message is on its way."""
import random
import time

from checks import CLAUDE, once, opened, queued_behind, repeated, scene, send, tag
from tally import Wrong


def ends_behind_a_dialog(room, options):
    mark = tag()
    room.work_on("TOOL{touch x}")
    opened(room, room.agent.dialog)
    send(room, mark)
    time.sleep(random.uniform(0.1, 1.0))
    room.kill(room.program())
    room.until(lambda: room.wrap() is None)
    if not room.until(lambda: room.seen(mark) or room.waiting()):
        raise Wrong("lost", "neither read nor in the queue")
    before = room.seen(mark)
    room.start(*options)
    repeated(room, mark, before)


@scene()
def killed(room):
    ends_behind_a_dialog(room, ())


@scene(CLAUDE, options=("--delivery", "hook"))
def killed_after_the_hook(room):
    ends_behind_a_dialog(room, ("--delivery", "hook"))


@scene(("opencode",))
def killed_while_queued(room):
    """What opencode shows as QUEUED is only in its memory."""
    mark = queued_behind(room, "SLOW30")
    if not room.waiting():
        raise Wrong("lost", "acked while it was queued")
    room.kill(room.program())
    room.until(lambda: room.wrap() is None)
    if room.seen(mark):
        raise Wrong("not played", "it was read before the end")
    if not room.until(room.waiting):
        raise Wrong("lost", "neither read nor in the queue")
    room.start()
    repeated(room, mark, [])


def ends_at_idle(room, victim, options):
    mark = tag()
    send(room, mark)
    time.sleep(random.uniform(0.0, 0.3))
    program = room.program()
    room.kill(victim())
    room.until(lambda: room.wrap() is None)
    # Some agents ignore the hang-up of their terminal.
    if not room.until(lambda: not room.runs(program)):
        raise Wrong("lost", "the agent goes on without its wrap")
    before = room.seen(mark)
    room.start(*options)
    repeated(room, mark, before)


@scene()
def killed_at_idle(room):
    """The agent ends somewhere between the hand-over and the proof."""
    ends_at_idle(room, room.program, ())


@scene()
def wrap_killed(room):
    ends_at_idle(room, room.wrap, ())


@scene(CLAUDE, options=("--delivery", "pty"))
def wrap_killed_after_enter(room):
    ends_at_idle(room, room.wrap, ("--delivery", "pty"))


@scene()
def broker_killed(room):
    """The session goes on, and a message that was taken by the broker is read."""
    first, second = tag(), tag()
    send(room, first)
    time.sleep(random.uniform(0.0, 0.3))
    room.kill(room.broker())
    room.until(lambda: room.broker() is None)
    room.run("start")
    send(room, second)
    repeated(room, first, room.seen(first))
    once(room, second)
