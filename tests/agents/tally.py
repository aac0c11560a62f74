"""What became of the messages of a run."""
import statistics

KINDS = ["delivered once", "lost", "doubled without its mark", "joined to other text",
         "a key that nobody meant", "not played"]


class Wrong(Exception):
    """A scene found something that must not be: its kind, and what was seen."""

    def __init__(self, kind, seen):
        super().__init__(f"{kind}: {seen}")
        self.kind = kind


def share(delays, part):
    """The delay that `part` of all do not exceed."""
    return sorted(delays)[min(len(delays) - 1, int(part * len(delays)))]


class Tally:
    """Counts of the scenes; `plays` says how often each is played."""

    def __init__(self, plays):
        self.plays, self.scenes = plays, {}

    def count(self, scene, kind, delay):
        counts = self.scenes.setdefault(scene, dict.fromkeys(KINDS, 0) | {"delays": []})
        counts[kind] += 1
        if kind == KINDS[0] and delay is not None:
            counts["delays"].append(round(delay, 3))

    def bad(self):
        """The scenes in which not every message was delivered once, or too few were played."""
        return [scene for scene, counts in self.scenes.items()
                if counts[KINDS[0]] != self.plays[scene]
                or any(counts[kind] for kind in KINDS[1:-1])]

    def table(self):
        """A Markdown table of the scenes; the delays are from `send` to the model's request."""
        heads = ["scene", *KINDS, "median s", "p99 s"]
        rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for scene, counts in self.scenes.items():
            delays = counts["delays"]
            times = ["-", "-"]
            if delays:
                times = [f"{statistics.median(delays):.2f}", f"{share(delays, 0.99):.2f}"]
            cells = [scene, *(str(counts[kind]) for kind in KINDS), *times]
            rows.append("| " + " | ".join(cells) + " |")
        return "\n".join(rows)
