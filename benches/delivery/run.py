"""How surely, and how fast, a message gets into a running agent: cbroker beside other tools.

    python3 benches/delivery/run.py --cbroker target/release/cbroker --root FOLDER
        [--tools cbroker,hcom,tmux] [--agents claude@2.1.332,codex,opencode] [--times 10]
        [--only idle,draft] [--json FILE]

Installs the agents from npm and hcom from PyPI below FOLDER, plays the scenes of tests/agents with
each, and prints a table for each; see README.md.
"""
import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "agents"))

import drive  # noqa: E402
from agents import AGENTS  # noqa: E402
from install import PINNED, CannotInstall, install  # noqa: E402
from peers import Hcom, SendKeys  # noqa: E402
from room import CannotIsolate, Room  # noqa: E402

HCOM = "0.7.31"
# What other tools can be asked for: they have no ways in to choose from, and no broker to kill.
PEERS = ["idle", "draft", "typing", "busy", "while_a_tool_runs", "dialog_allowed",
         "dialog_escaped", "question", "menu", "small_window", "long_text", "ten",
         "subagent_view", "escape", "agents_view", "killed", "killed_at_idle"]


def install_hcom(folder):
    """hcom's program, from PyPI."""
    program = os.path.join(os.path.abspath(folder), "hcom", "bin", "hcom")
    if not os.path.exists(program):
        python = os.path.join(os.path.dirname(program), "python")
        subprocess.run([sys.executable, "-m", "venv", os.path.join(folder, "hcom")], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"hcom=={HCOM}"], check=True)
    return program


def rooms(options, packages):
    """For each tool and agent: a name, the agent, its program, the kind of room, the scenes."""
    for wanted in options.agents.split(","):
        agent, _, version = wanted.partition("@")
        program, version = install(packages, agent, version or PINNED[agent])
        label = f"{agent} {version}"
        if "cbroker" in options.tools:
            yield f"cbroker, {label}", agent, program, Room, []
        # The others are asked where they are at their best: the newest Claude Code.
        if label != f"claude {PINNED['claude']}":
            continue
        if "hcom" in options.tools:
            Hcom.program_path = install_hcom(packages)
            yield f"hcom {HCOM}, {label}", agent, program, Hcom, PEERS
        if "tmux" in options.tools:
            yield f"tmux send-keys, {label}", agent, program, SendKeys, PEERS


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--cbroker", required=True)
    parser.add_argument("--packages", help="where the agents are installed")
    parser.add_argument("--tools", default="cbroker,hcom,tmux", type=lambda text: text.split(","))
    parser.add_argument("--agents", default="claude,codex,opencode")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", help="a file for the counts and each delay")
    options = parser.parse_args()
    packages = options.packages or os.path.join(options.root, "packages")
    only = [name for name in options.only.split(",") if name]
    results = {}
    for title, agent, program, kind, scenes in rooms(options, packages):
        print(f"\n## {title}\n", flush=True)
        names = [name for name in only if not scenes or name in scenes] or scenes
        folder = os.path.join(options.root, title.replace(" ", "-").replace(",", ""))
        room = kind(folder, options.cbroker, AGENTS[agent], program)
        tally = drive.drive(room, names, options.times)
        print(tally.table(), flush=True)
        results[title] = tally.scenes
        if options.json:
            with open(options.json, "w") as file:
                json.dump(results, file, indent=1)


if __name__ == "__main__":
    try:
        main()
    except (CannotInstall, CannotIsolate, subprocess.CalledProcessError) as error:
        sys.exit(f"real agents cannot be driven here: {error}")
