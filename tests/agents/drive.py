"""Drives a real agent under cbroker, and counts what became of each message; see README.md.

    python3 drive.py --root FOLDER --cbroker PATH [--agent claude,codex] [--version V]
                     [--program PATH] [--times 10] [--only NAME,…] [--delivery WAY] [--short]
                     [--json FILE]

The exit status is 0 when every message of every scene was delivered once, 3 when real agents cannot
be driven on this machine.
"""
import argparse
import json
import os
import sys
import time

from agents import AGENTS
from checks import SCENES
from install import PINNED, CannotInstall, install
from room import CannotIsolate, Room
import scenes, views, endings, tools  # noqa: E401, F401  Each adds its scenes, in this order.
from tally import KINDS, Tally, Wrong

# How often the short form plays each scene: with Claude Code, and with the others.
SHORT_CLAUDE = {"idle": 2, "draft": 2, "dialog_allowed": 2, "busy": 2, "killed": 2,
                "answer_by_mcp": 1}
SHORT = {"idle": 1, "draft": 1, "dialog_allowed": 1, "answer_by_mcp": 1}


def play_once(room, scene):
    """Plays a scene; what became of the message."""
    try:
        scene(room)
        return KINDS[0]
    except Wrong as wrong:
        print(f"  {scene.__name__}: {wrong}", flush=True)
        return wrong.kind
    except Exception as error:  # A scene that cannot be played has not passed.
        print(f"  {scene.__name__}: {error!r}", flush=True)
        return "not played"


def play(room, scene, times, tally):
    """Plays a scene `times` times. What could not be played is tried again, three times at most."""
    options = scene.options or room.options
    is_there, played, missed, began = False, 0, 0, time.time()
    while played < times and missed <= 3:
        room.delay = None
        try:
            if not is_there or scene.fresh:
                room.clear()
                room.prepared = scene.prepared
                if scene.prepared.get("starts", True):
                    room.start(*options)
                    room.take_keys()
            kind = play_once(room, scene)
        except Wrong as wrong:
            print(f"  {scene.__name__}: {wrong}", flush=True)
            kind = wrong.kind
        tally.count(scene.__name__, kind, room.delay)
        played += kind != "not played"
        missed += kind == "not played"
        is_there = kind == KINDS[0] and room.at_rest()
    good = tally.scenes[scene.__name__][KINDS[0]]
    print(f"{scene.__name__:<24} {good} of {times} ({time.time() - began:.0f} s)", flush=True)


def drive(room, plays, options=()):
    """Plays the scenes of the room's agent, each so often; the counts."""
    agent, tally = room.agent.name, Tally(plays)
    room.options = options
    room.open()
    try:
        for scene in SCENES:
            if agent in scene.agents and scene.__name__ in plays:
                play(room, scene, plays[scene.__name__], tally)
    finally:
        room.close()
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--cbroker", required=True)
    parser.add_argument("--agent", default="claude", help="one or more of " + ", ".join(AGENTS))
    parser.add_argument("--program", help="the agent's program; else npm installs it")
    parser.add_argument("--version", help="what npm installs: a version, or latest")
    parser.add_argument("--packages", help="where npm installs")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--only", default="")
    parser.add_argument("--delivery", help="the way in, where a scene names none itself")
    parser.add_argument("--short", action="store_true", help="some scenes, once or twice each")
    parser.add_argument("--json", help="a file for the counts")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    results, is_good = {}, True
    for agent in options.agent.split(","):
        program, version = options.program, options.version or PINNED[agent]
        if program is None:
            packages = options.packages or os.path.join(options.root, "packages")
            program, version = install(packages, agent, version)
        plays = dict.fromkeys(only or (each.__name__ for each in SCENES), options.times)
        if options.short:
            plays = SHORT_CLAUDE if agent == "claude" else SHORT
        print(f"{agent} {version}", flush=True)
        folder = os.path.join(options.root, agent)
        room = Room(folder, options.cbroker, AGENTS[agent], program)
        ways = ("--delivery", options.delivery) if options.delivery else ()
        tally = drive(room, plays, ways)
        print(tally.table(), flush=True)
        results[f"{agent} {version}"] = tally.scenes
        bad = tally.bad()
        if bad and options.short:
            print(f"PLAYED AGAIN, since it failed: {', '.join(bad)}", flush=True)
            room = Room(f"{folder}-again", options.cbroker, AGENTS[agent], program)
            tally = drive(room, {scene: plays[scene] for scene in bad}, ways)
            print(tally.table(), flush=True)
            bad = tally.bad()
        is_good &= not bad
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CannotInstall, CannotIsolate) as error:
        print(f"real agents cannot be driven here: {error}", file=sys.stderr)
        sys.exit(3)
