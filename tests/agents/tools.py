"""Scenes in which the agent sends by the tools of `cbroker mcp`, from inside its own sandbox."""
import json

from checks import alone, close, opened, scene, send, tag
from tally import Wrong


@scene(("claude", "codex"), fresh=True, has_mcp=True)
def answer_by_mcp(room):
    """It reads a message, and answers its sender with `send_message`."""
    mark, answer = tag(), tag()
    send(room, mark)
    if room.wait_seen(mark, room.agent.patience) is None:
        raise Wrong("lost", f"not read; {room.held()[:300]}")
    room.at_rest()
    room.work_on(f"MCP{{tester {answer}}}")
    opened(room, room.agent.tool_dialog)
    if answer in room.run("tail", "tester", "--no-ack"):
        raise Wrong("a key that nobody meant", "sent before the person allowed the tool")
    close(room, room.agent.tool_dialog, room.agent.allow)
    if not room.until(lambda: answers(room, answer), room.agent.patience):
        raise Wrong("lost", f"no answer came: {room.screen()[-500:]}")
    if (found := answers(room, answer)) != ["peer"]:
        raise Wrong("doubled without its mark", f"the answer came from {found}")
    alone(room, mark)


def answers(room, answer):
    """Whose messages to the sender hold this answer; those of earlier plays still wait there."""
    return [each["from"] for each in waiting(room, "tester") if each["message"] == answer]


def waiting(room, name):
    """The messages in a queue that nobody reads."""
    said = room.run("tail", name, "--no-ack", "--json")
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]
