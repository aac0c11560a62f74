"""Installs agents from npm: a program for each, and the version that it is.

    python3 install.py FOLDER AGENT [VERSION]    # prints the program's path
"""
import glob
import json
import os
import subprocess
import sys

# The versions that docs/delivery.md was measured with.
PINNED = {"claude": "2.1.332", "codex": "0.171.0", "opencode": "1.18.33", "gemini": "0.61.0"}
PACKAGES = {"claude": "@anthropic-ai/claude-code", "codex": "@openai/codex",
            "opencode": "opencode-ai", "gemini": "@google/gemini-cli"}
# Where a package of the platform keeps the program, below `node_modules`.
PROGRAMS = {"claude": "@anthropic-ai/claude-code-*/claude",
            "codex": "@openai/codex-*/vendor/*/bin/codex",
            "opencode": "opencode-*/bin/opencode",
            "gemini": "@google/gemini-cli/bundle/gemini.js"}


class CannotInstall(Exception):
    """An agent is not to be had here, and why."""


def run(command):
    """A command that is tried once more when it fails: registries have bad moments."""
    try:
        return run_once(command)
    except CannotInstall as error:
        print(f"  tried again: {error}", file=sys.stderr, flush=True)
        return run_once(command)


def run_once(command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise CannotInstall(f"{' '.join(command)}: {done.stdout[-600:].strip()}")


def install(folder, agent, version):
    """The agent's program below `folder`, and its version; `version` may be `latest`."""
    folder = os.path.join(os.path.abspath(folder), f"{agent}-{version}")
    os.makedirs(folder, exist_ok=True)
    modules = os.path.join(folder, "node_modules")
    if not glob.glob(os.path.join(modules, PROGRAMS[agent])):
        run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder,
             f"{PACKAGES[agent]}@{version}"])
    # npm may bring two builds of opencode; the longer name is for old processors.
    programs = sorted(glob.glob(os.path.join(modules, PROGRAMS[agent])), key=len)
    if not programs:
        raise CannotInstall(f"{PACKAGES[agent]}@{version} has no program for this machine")
    with open(os.path.join(modules, PACKAGES[agent], "package.json")) as file:
        return programs[0], json.load(file)["version"]


if __name__ == "__main__":
    try:
        print(install(sys.argv[1], sys.argv[2], (sys.argv[3:] or [PINNED[sys.argv[2]]])[0])[0])
    except CannotInstall as error:
        sys.exit(f"{sys.argv[2]} cannot be installed from npm: {error}")
