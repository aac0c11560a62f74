"""A model that answers by script, on loopback: the APIs that Claude Code (Anthropic Messages),
Codex (OpenAI Responses), opencode (OpenAI Chat) and Gemini CLI (generateContent) call.

Words in the newest user texts script the answer: SLOW<n> waits n seconds, TOOL{command} calls the
shell tool, MCP{to text} sends by `cbroker mcp`, ASK asks a question, PLAN shows a plan, TASK{text}
starts a subagent in the background. Words inside a peer message are not obeyed. Each request
becomes one line of `requests.jsonl`: when it came (`at`), whether it carried tools (`tools`), the
user texts after the last answer (`texts`), and, of the whole conversation and as often as they are
there, the peer messages (`peers`) and the tags that the driver's messages carry (`tags`).
"""
import json
import os
import re
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What agents say to the model in the user's name. A peer message may come in one.
REMINDER = re.compile(
    r"<system-reminder>(?!.*\[cbroker peer message).*?</system-reminder>\s*", re.S)
PEER = re.compile(r"\[cbroker peer message from=[^\n]*?\[end\]")
TAG = re.compile(r"tag\d{9}|\d{9}gat")
USAGE = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


def texts_of(content):
    if isinstance(content, str):
        return [content]
    parts = [part for part in content or [] if isinstance(part, dict)]
    return [part.get("text", "") for part in parts if part.get("type") in ("text", "input_text")]


def conversation(body):
    """Who speaks, what they say, and whether it is a tool's result: one of each in order."""
    for item in body.get("input", []):
        kind = item.get("type", "message")
        if kind == "message":
            yield item.get("role"), texts_of(item.get("content")), False
        elif kind.endswith("_call_output"):
            yield "user", [], True
        elif kind.endswith("_call"):
            yield "assistant", [], False
    for content in body.get("contents", []):
        parts = content.get("parts") or []
        role = "assistant" if content.get("role") == "model" else "user"
        is_result = any("functionResponse" in part for part in parts)
        yield role, [part["text"] for part in parts if "text" in part], is_result
    for message in body.get("messages", []):
        content = message.get("content")
        is_result = message.get("role") == "tool" or (isinstance(content, list) and any(
            isinstance(part, dict) and part.get("type") == "tool_result" for part in content))
        role, texts = message.get("role"), texts_of(content)
        if role == "tool":
            role, texts = "user", []
        elif role in ("system", "developer"):
            # Claude Code tells so what came while a turn runs.
            role, texts = "user", [text for text in texts if PEER.search(text)]
        yield role, texts, is_result


def fresh_texts(turns):
    """The user texts after the last answer, and whether a tool's result is among them."""
    texts, has_result = [], False
    for role, said, is_result in turns:
        if role == "assistant":
            texts, has_result = [], False
        elif role == "user":
            texts += said
            has_result |= is_result
    return [text for text in (REMINDER.sub("", text) for text in texts) if text.strip()], has_result


def plan(texts, has_result):
    """The pause before the answer, and the tool call that it is, if any: its kind and argument."""
    script = "\n".join(text for text in texts if "[cbroker peer message" not in text)
    outside = re.sub(r"\w+\{[^}]*\}", "", script)
    slow = re.search(r"SLOW(\d+)", outside)
    pause = float(slow[1]) if slow and not has_result else 0.0
    if has_result:
        return pause, None
    if tool := re.search(r"TOOL\{([^}]*)\}", script):
        return pause, ("shell", tool[1])
    if sent := re.search(r"MCP\{([^}]*)\}", script):
        return pause, ("send", sent[1])
    if task := re.search(r"TASK\{([^}]*)\}", script):
        return pause, ("task", task[1])
    if re.search(r"\bPLAN\b", outside):
        return pause, ("plan", "")
    return pause, ("ask", "") if "ASK" in outside else None


def tools_of(body):
    """The names of the tools that the model may call; a request for a title has none."""
    if (body.get("text") or {}).get("format"):
        return []
    tools = list(body.get("tools") or [])
    for item in body.get("input") or []:
        if isinstance(item, dict) and item.get("type") == "additional_tools":
            tools += item.get("tools", [])
    names = []
    for tool in tools:
        names += [each.get("name") for each in tool.get("tools", [])]
        names += [each.get("name") for each in tool.get("functionDeclarations", [])]
        names.append(tool.get("name") or tool.get("function", {}).get("name"))
    return names


def call_of(kind, argument, names):
    """The tool of this agent's that does it, and its arguments."""
    if kind == "task":
        return "Agent", {"description": "sub", "prompt": argument,
                         "subagent_type": "general-purpose", "run_in_background": True}
    if kind == "ask":
        options = [{"label": "Alpha", "description": "a"}, {"label": "Beta", "description": "b"}]
        return "AskUserQuestion", {"questions": [{
            "question": "Which one?", "header": "Pick", "multiSelect": False, "options": options}]}
    if kind == "plan":
        return "ExitPlanMode", {"plan": "1. look\n2. do it"}
    if kind == "send":
        return send_call(*argument.split(" ", 1), names)
    escalated = {"sandbox_permissions": "require_escalated", "justification": "by the script"}
    if "exec" in names:
        call = json.dumps(dict(escalated, cmd=argument))
        return "exec", f"await tools.exec_command({call})"
    if "exec_command" in names:
        return "exec_command", dict(escalated, cmd=argument)
    known = ("bash", "run_shell_command")
    name = next((name for name in known if name in names), "Bash")
    return name, {"command": argument, "description": "run it"}


def send_call(to, message, names):
    """A call of `send_message` of `cbroker mcp`."""
    arguments = {"to": to, "message": message}
    # Codex calls tools of servers from a script alone; its `send_message` is another tool.
    if "exec" in names:
        return "exec", f"await tools.mcp__cbroker__send_message({json.dumps(arguments)})"
    return "mcp__cbroker__send_message", arguments


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
        self.plain({"object": "list", "data": [], "models": [], "has_more": False})

    do_HEAD = do_GET

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = {}
        path = self.path.split("?")[0]
        speak = {"/messages": self.speak_anthropic, "/responses": self.speak_responses,
                 "/chat/completions": self.speak_chat, "enerateContent": self.speak_gemini}
        ending = next((end for end in speak if path.endswith(end)), None)
        if ending is None or not isinstance(body, dict):
            return self.plain({"input_tokens": 1000, "totalTokens": 1000})
        turns = list(conversation(body))
        texts, has_result = fresh_texts(turns)
        tools = tools_of(body)
        said = [text for role, texts, _ in turns if role == "user" for text in texts]
        self.server.note({"at": time.time(), "tools": bool(tools), "texts": texts,
                          "peers": [peer for text in said for peer in PEER.findall(text)],
                          "tags": TAG.findall(raw.decode(errors="replace"))})
        pause, wanted = plan(texts, has_result)
        call = call_of(*wanted, tools) if tools and wanted else None
        if tools:
            time.sleep(pause)
        try:
            speak[ending](body, call)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def speak_anthropic(self, body, call):
        blocks = [{"type": "text", "text": "OK"}]
        if call:
            blocks.append({"type": "tool_use", "id": "toolu_" + uuid.uuid4().hex[:20],
                           "name": call[0], "input": call[1]})
        message = {"id": "msg_" + uuid.uuid4().hex[:20], "type": "message", "role": "assistant",
                   "model": body.get("model", "fake"), "content": blocks,
                   "stop_reason": "tool_use" if call else "end_turn", "stop_sequence": None,
                   "usage": {"input_tokens": 10, "output_tokens": 5}}
        if not body.get("stream"):
            return self.plain(message)
        self.stream()
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

    def speak_responses(self, body, call):
        item = {"type": "message", "id": "msg_" + uuid.uuid4().hex[:12], "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "OK", "annotations": []}]}
        if call:
            is_script = isinstance(call[1], str)
            what = {"input": call[1]} if is_script else {"arguments": json.dumps(call[1])}
            item = {"type": "custom_tool_call" if is_script else "function_call",
                    "id": "fc_" + uuid.uuid4().hex[:12], "status": "completed",
                    "call_id": "call_" + uuid.uuid4().hex[:12], "name": call[0], **what}
        response = {"id": "resp_" + uuid.uuid4().hex[:20], "object": "response",
                    "created_at": int(time.time()), "status": "completed",
                    "model": body.get("model"), "output": [item], "usage": USAGE}
        if not body.get("stream"):
            return self.plain(response)
        self.stream()
        begun = dict(response, status="in_progress", output=[])
        self.event("response.created", response=begun)
        shell = dict(item, **({} if call else {"content": []}))
        self.event("response.output_item.added", output_index=0, item=shell)
        if not call:
            self.event("response.output_text.delta", item_id=item["id"], output_index=0,
                       content_index=0, delta="OK")
        self.event("response.output_item.done", output_index=0, item=item)
        self.event("response.completed", response=response)

    def speak_chat(self, body, call):
        delta = {"role": "assistant", "content": "OK"}
        if call:
            delta = {"role": "assistant", "tool_calls": [
                {"index": 0, "id": "call_" + uuid.uuid4().hex[:12], "type": "function",
                 "function": {"name": call[0], "arguments": json.dumps(call[1])}}]}
        reason = "tool_calls" if call else "stop"
        whole = {"id": "chatcmpl-" + uuid.uuid4().hex[:12], "created": int(time.time()),
                 "model": body.get("model")}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        if not body.get("stream"):
            choice = {"index": 0, "message": delta, "finish_reason": reason}
            return self.plain(dict(whole, object="chat.completion", choices=[choice], usage=usage))
        self.stream()
        for part, end in ((delta, None), ({}, reason)):
            choice = {"index": 0, "delta": part, "finish_reason": end}
            chunk = dict(whole, object="chat.completion.chunk", choices=[choice])
            self.line(json.dumps(dict(chunk, usage=usage) if end else chunk))
        self.line("[DONE]")

    def speak_gemini(self, body, call):
        parts = [{"text": "OK"}]
        if "json" in str((body.get("generationConfig") or {}).get("responseMimeType")):
            # Which model shall answer, or who speaks next.
            parts = [{"text": json.dumps({"reasoning": "by the script", "model_choice": "flash",
                                          "complexity_score": 1, "next_speaker": "user"})}]
        if call:
            parts.append({"functionCall": {"name": call[0], "args": call[1]}})
        answer = {"candidates": [{"index": 0, "finishReason": "STOP",
                                  "content": {"role": "model", "parts": parts}}],
                  "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5,
                                    "totalTokenCount": 15}}
        if "streamGenerateContent" not in self.path:
            return self.plain(answer)
        self.stream()
        self.line(json.dumps(answer))

    def stream(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def line(self, data, name=None):
        event = f"event: {name}\n" if name else ""
        self.wfile.write(f"{event}data: {data}\n\n".encode())
        self.wfile.flush()

    def event(self, name, **fields):
        self.line(json.dumps(dict(fields, type=name)), name)


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
    Model(int(sys.argv[1]), sys.argv[2]).serve_forever()
