"""Drives a real agent under cbroker, and counts what became of each message; see README.md.

    python3 drive.py --root FOLDER --cbroker PATH --agent claude --program PATH [--times 10]
                     [--only NAME,…] [--short]

The exit status is 0 when every message of every scene was delivered once.
"""
import argparse
import sys

from agents import AGENTS
from room import Room
from scenes import SCENES
from tally import KINDS, Tally, Wrong

SHORT = ["idle", "draft", "busy", "dialog_allowed", "killed"]


def play(room, scene, times, tally):
    options = list(scene.options)
    is_there = False
    for _ in range(times):
        if not is_there or scene.fresh:
            room.clear()
            room.start(*options)
        kind = KINDS[0]
        try:
            scene(room, tally)
        except Wrong as wrong:
            kind = wrong.kind
            print(f"  {scene.__name__}: {wrong}", flush=True)
        except Exception as error:  # A scene that cannot be played has not passed.
            kind = "not played"
            print(f"  {scene.__name__}: {error!r}", flush=True)
        tally.count(scene.__name__, kind)
        is_there = kind == KINDS[0] and room.at_rest()
    print(f"{scene.__name__:<24} {tally.scenes[scene.__name__][KINDS[0]]} of {times}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for option in ("--root", "--cbroker", "--program"):
        parser.add_argument(option, required=True)
    parser.add_argument("--agent", choices=AGENTS, default="claude")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--only", default="")
    parser.add_argument("--short", action="store_true", help="five scenes, twice each")
    options = parser.parse_args()
    names = SHORT if options.short else [name for name in options.only.split(",") if name]
    room = Room(options.root, options.cbroker, AGENTS[options.agent], options.program)
    tally = Tally()
    room.open()
    try:
        for scene in SCENES:
            if options.agent in scene.agents and (not names or scene.__name__ in names):
                play(room, scene, 2 if options.short else options.times, tally)
    finally:
        room.close()
        print(tally.table())
    return 0 if tally.is_good() else 1


if __name__ == "__main__":
    sys.exit(main())
