"""What became of the messages of a run."""
import statistics

KINDS = ["delivered once", "lost", "doubled without its mark", "joined to other text",
         "a key that nobody meant", "not played"]


class Wrong(Exception):
    """A scene found something that must not be: its kind, and what was seen."""

    def __init__(self, kind, seen):
        super().__init__(f"{kind}: {seen}")
        self.kind = kind


class Tally:
    def __init__(self):
        self.scenes, self.delays = {}, []

    def count(self, scene, kind):
        counts = self.scenes.setdefault(scene, dict.fromkeys(KINDS, 0))
        counts[kind] += 1

    def is_good(self):
        return all(count == 0 for counts in self.scenes.values()
                   for kind, count in counts.items() if kind != KINDS[0])

    def table(self):
        """A Markdown table of the scenes, and the median delay."""
        rows = ["| scene | " + " | ".join(KINDS) + " |", "|---|" + "---|" * len(KINDS)]
        for scene, counts in self.scenes.items():
            rows.append(f"| {scene} | " + " | ".join(str(counts[kind]) for kind in KINDS) + " |")
        if self.delays:
            rows.append("")
            rows.append(f"From `send` to the model's request at idle: median of "
                        f"{len(self.delays)} {statistics.median(self.delays):.2f} s, "
                        f"fastest {min(self.delays):.2f} s, slowest {max(self.delays):.2f} s.")
        return "\n".join(rows)
