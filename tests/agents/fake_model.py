"""A model that answers by script, on loopback: the Anthropic Messages API as Claude Code calls it.

Words in the newest user text script the answer: SLOW<n> waits n seconds, TOOL{command} calls the
Bash tool, ASK asks a question, TASK{text} starts a subagent in the background. Words inside a peer
message are not obeyed. Each request becomes one line of `requests.jsonl`: when it came, whether it
carried tools, and the user texts after the last answer.
"""
import json
import os
import re
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Reminders of its own are left out; a hook brings peer messages in one.
REMINDER = re.compile(
    r"<system-reminder>(?!.*\[cbroker peer message).*?</system-reminder>\s*", re.S)


def texts_of(content):
    if isinstance(content, str):
        return [content]
    return [part.get("text", "") for part in content or [] if part.get("type") == "text"]


def fresh_texts(messages):
    """The user texts after the last answer, and whether a tool's result is among them."""
    texts, has_result = [], False
    for message in messages:
        if message.get("role") == "assistant":
            texts, has_result = [], False
            continue
        content = message.get("content")
        texts += texts_of(content)
        has_result |= isinstance(content, list) and any(
            part.get("type") == "tool_result" for part in content
        )
    return [text for text in (REMINDER.sub("", text) for text in texts) if text.strip()], has_result


def plan(texts, has_result):
    """The pause before the answer, and the tool call that it is, if any."""
    script = "\n".join(text for text in texts if "[cbroker peer message" not in text)
    outside = re.sub(r"\w+\{[^}]*\}", "", script)
    slow = re.search(r"SLOW(\d+)", outside)
    pause = float(slow[1]) if slow and not has_result else 0.0
    if has_result:
        return pause, None
    if tool := re.search(r"TOOL\{([^}]*)\}", script):
        return pause, ("Bash", {"command": tool[1], "description": "run it"})
    if task := re.search(r"TASK\{([^}]*)\}", script):
        return pause, ("Agent", {"description": "sub", "prompt": task[1],
                                 "subagent_type": "general-purpose", "run_in_background": True})
    if "ASK" in outside:
        options = [{"label": "Alpha", "description": "a"}, {"label": "Beta", "description": "b"}]
        question = {"question": "Which one?", "header": "Pick", "multiSelect": False,
                    "options": options}
        return pause, ("AskUserQuestion", {"questions": [question]})
    return pause, None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def plain(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self):
        self.plain({"data": [], "has_more": False})

    do_HEAD = do_GET

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = {}
        if not self.path.split("?")[0].endswith("/messages"):
            return self.plain({"input_tokens": 1000})
        texts, has_result = fresh_texts(body.get("messages", []))
        has_tools = bool(body.get("tools"))
        self.server.note({"at": time.time(), "tools": has_tools, "texts": texts})
        pause, tool = plan(texts, has_result)
        if has_tools:
            time.sleep(pause)
        try:
            self.answer(body, tool if has_tools else None)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, body, tool):
        blocks = [{"type": "text", "text": "OK"}]
        if tool:
            name, arguments = tool
            call = "toolu_" + uuid.uuid4().hex[:20]
            blocks.append({"type": "tool_use", "id": call, "name": name, "input": arguments})
        message = {"id": "msg_" + uuid.uuid4().hex[:20], "type": "message", "role": "assistant",
                   "model": body.get("model", "fake"), "content": blocks,
                   "stop_reason": "tool_use" if tool else "end_turn", "stop_sequence": None,
                   "usage": {"input_tokens": 10, "output_tokens": 5}}
        if not body.get("stream"):
            return self.plain(message)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        self.event("message_start", message=dict(message, content=[], stop_reason=None))
        for index, block in enumerate(blocks):
            is_text = block["type"] == "text"
            empty = {"type": "text", "text": ""} if is_text else dict(block, input={})
            delta = {"type": "text_delta", "text": block["text"]} if is_text else {
                "type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            self.event("content_block_start", index=index, content_block=empty)
            self.event("content_block_delta", index=index, delta=delta)
            self.event("content_block_stop", index=index)
        stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
        self.event("message_delta", delta=stop, usage={"output_tokens": 5})
        self.event("message_stop")

    def event(self, name, **fields):
        line = json.dumps(dict(fields, type=name))
        self.wfile.write(f"event: {name}\ndata: {line}\n\n".encode())
        self.wfile.flush()


class Model(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port, folder):
        super().__init__(("127.0.0.1", port), Handler)
        self.log = open(os.path.join(folder, "requests.jsonl"), "a")
        self.lock = threading.Lock()

    def note(self, record):
        with self.lock:
            self.log.write(json.dumps(record) + "\n")
            self.log.flush()


if __name__ == "__main__":
    import sys
    Model(int(sys.argv[1]), sys.argv[2]).serve_forever()
