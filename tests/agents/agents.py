"""The agents that the driver knows: what each is started with, and how its screen reads."""
import json
import os
import re

MODEL = "http://127.0.0.1:8787"
KEY = "sk-ant-not-a-key-for-tests"
# Refuses prompts that say so, as a person's own hook may.
HOOK = ('{"hooks":{"UserPromptSubmit":[{"hooks":[{"type":"command","command":'
        '"grep -q REFUSE && exit 2 || exit 0"}]}]}}')


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


class Agent:
    """An agent at its prompt, as far as its screen tells."""
    name, prompt, busy, arguments, command = "", re.compile("."), "", [], []
    # What a permission dialog says, and the keys that allow and refuse it.
    dialog, allow, refuse = "", "Enter", "Escape"
    # What it says where it asks whether a tool of an MCP server may be called.
    tool_dialog = "Do you want"
    # Keys that clear the input box.
    clear = "C-u"
    # Seconds until a turn has begun, on a machine that is busy with much else.
    patience = 120

    def environment(self, room):
        return {}

    def prepare(self, room):
        """Writes the files that answer its first questions; `room.prepared` may change them."""

    def box(self, screen):
        """What stands in its input box; None where that is not seen."""
        return None

    def is_ready(self, screen):
        return bool(self.prompt.search(screen)) and self.busy not in screen


class Claude(Agent):
    name, prompt, busy = "claude", re.compile(r"(?m)^❯"), "esc to interrupt"
    dialog, command = "Do you want", ["claude"]
    arguments = ["--permission-mode", "default", "--settings", HOOK]

    def environment(self, room):
        return {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": MODEL,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1",
                "DISABLE_AUTOUPDATER": "1", "DISABLE_ERROR_REPORTING": "1"}

    def prepare(self, room):
        answers = {"hasCompletedOnboarding": True, "theme": "dark", "numStartups": 5,
                   "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
                   "editorMode": room.prepared.get("editor", "normal"),
                   "bypassPermissionsModeAccepted": True,
                   "projects": {room.work: {
                       "hasTrustDialogAccepted": room.prepared.get("is_trusted", True),
                       "hasCompletedProjectOnboarding": True, "allowedTools": [],
                       "enabledMcpjsonServers": ["cbroker"]}}}
        write(os.path.join(room.home, ".claude.json"), json.dumps(answers))
        # Some versions move the editor's mode there.
        write(os.path.join(room.home, ".claude", "settings.json"), "{}")

    def trust(self, screen):
        """The keys that trust the folder: "No, exit" stands first in some versions."""
        chosen = next((line for line in screen.split("\n") if "❯" in line), "")
        return ("Enter",) if "Yes" in chosen else ("Down", "Enter")

    def box(self, screen):
        """Between the last two rules."""
        lines = screen.split("\n")
        rules = [at for at, line in enumerate(lines) if line.startswith("────")]
        return "\n".join(lines[rules[-2] + 1:rules[-1]]).strip("❯! \n\xa0") if rules[1:] else None


class Codex(Agent):
    name, prompt, busy = "codex", re.compile(r"(?m)^› "), "esc to interrupt"
    dialog, command = "Would you like", ["run", "--", "codex"]
    tool_dialog = "Allow the cbroker MCP server"

    def environment(self, room):
        return {"OPENAI_API_KEY": "not-a-key", "CODEX_HOME": os.path.join(room.home, ".codex")}

    def prepare(self, room):
        write(os.path.join(room.home, ".codex", "config.toml"), f'''model = "gpt-6-sol"
model_provider = "fake"
approval_policy = "on-request"
check_for_update_on_startup = false
[model_providers.fake]
name = "fake"
base_url = "{MODEL}/v1"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
[projects."{room.work}"]
trust_level = "trusted"
[analytics]
enabled = false
''')

    def box(self, screen):
        lines = [line[2:] for line in screen.split("\n") if line.startswith("› ")]
        return "" if not lines or lines[-1].startswith("Ask Codex") else lines[-1].strip()


class Opencode(Agent):
    name, prompt, busy = "opencode", re.compile("┃.*\n.*╹|Ask anything"), "esc interrupt"
    dialog, command = "ermission required", ["run", "--", "opencode"]

    def environment(self, room):
        return {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}

    def prepare(self, room):
        model = {"name": "m1", "tool_call": True, "limit": {"context": 100000, "output": 8000}}
        provider = {"npm": "@ai-sdk/openai-compatible", "name": "Fake",
                    "options": {"baseURL": f"{MODEL}/v1", "apiKey": "x"}, "models": {"m1": model}}
        write(os.path.join(room.home, ".config/opencode/opencode.json"), json.dumps({
            "autoupdate": False, "share": "disabled", "model": "fake/m1",
            "small_model": "fake/m1", "permission": {"bash": "ask"},
            "provider": {"fake": provider}}))

    def box(self, screen):
        """Inside the last frame, without its blank rows and its foot."""
        lines = screen.split("\n")
        feet = [at for at, line in enumerate(lines) if line.lstrip().startswith("╹")]
        if not feet:
            return None
        inside = []
        for line in reversed(lines[:feet[-1]]):
            if not line.lstrip().startswith("┃"):
                break
            inside.insert(0, line.strip().strip("┃").strip())
        text = "\n".join(inside[:-1]).strip()
        return "" if text.startswith("Ask anything") else text


class Gemini(Agent):
    name, prompt, busy = "gemini", re.compile(r"(?m)^ [>*] "), "esc to cancel"
    dialog, command = "Allow execution", ["run", "--", "gemini"]

    def environment(self, room):
        return {"GEMINI_API_KEY": "not-a-key", "GOOGLE_GEMINI_BASE_URL": MODEL}

    def prepare(self, room):
        folder = os.path.join(room.home, ".gemini")
        write(os.path.join(folder, "settings.json"), json.dumps({
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "general": {"disableAutoUpdate": True, "disableUpdateNag": True},
            "privacy": {"usageStatisticsEnabled": False},
            "model": {"name": "gemini-2.5-flash"}}))
        write(os.path.join(folder, "trustedFolders.json"), json.dumps({room.work: "TRUST_FOLDER"}))

    def box(self, screen):
        lines = [line[3:].rstrip() for line in screen.split("\n") if re.match(" [>*] ", line)]
        return "" if not lines or "Type your message" in lines[-1] else lines[-1].strip()


AGENTS = {agent.name: agent for agent in (Claude(), Codex(), Opencode(), Gemini())}
