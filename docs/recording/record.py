"""Records `cbroker demo` in a terminal, and draws the recording as an animated SVG.

    python3 docs/recording/record.py record target/debug/cbroker docs/recording/demo.cast
    python3 docs/recording/record.py draw docs/recording/demo.cast docs/images/demo.svg

The recording is an asciicast, version 2, as the program wrote it; asciinema plays it too. Only what
the demo prints is drawn: lines with colours. Any other control sequence is an error. Needs Python
3.9 and a system with pseudo-terminals.
"""
import codecs
import fcntl
import html
import json
import os
import pty
import re
import struct
import sys
import termios
import time

COLUMNS, ROWS = 122, 40
# Width and height of a character, and the margin, in pixels.
WIDTH, HEIGHT, MARGIN = 8.4, 18, 16
# How long the end stays before it begins again, in seconds.
REST = 5.0
COLOURS = {30: "#484f58", 31: "#ff7b72", 32: "#3fb950", 33: "#d29922", 34: "#58a6ff",
           35: "#bc8cff", 36: "#39c5cf", 37: "#b1bac4", 90: "#6e7681", 91: "#ffa198",
           92: "#56d364", 93: "#e3b341", 94: "#79c0ff", 95: "#d2a8ff", 96: "#56d4dd",
           97: "#ffffff"}
TEXT = "#c9d1d9"


def record(program, cast):
    """Runs the demo in a terminal of its own and writes when it printed what."""
    child, terminal = pty.fork()
    if child == 0:
        environment = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"),
                       "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        os.execve(program, ["cbroker", "demo"], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    began, decoder = time.monotonic(), codecs.getincrementaldecoder("utf-8")()
    events = []
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that nobody has the terminal any more.
            data = b""
        text = decoder.decode(data)
        if text:
            events.append([round(time.monotonic() - began, 3), "o", text])
        if not data:
            break
    _, status = os.waitpid(child, 0)
    if status != 0:
        sys.exit(f"the demo ended with {os.waitstatus_to_exitcode(status)}")
    with open(cast, "w", encoding="utf-8") as file:
        header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "cbroker demo"}
        for line in [header, *events]:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def lines_of(cast):
    """The lines of a recording: when each was finished, and its runs of (style, text)."""
    with open(cast, encoding="utf-8") as file:
        _, *events = [json.loads(line) for line in file]
    lines, runs, style = [], [], ()
    for at, kind, text in events:
        if kind != "o":
            continue
        for part in re.split(r"(\x1b\[[0-9;]*m|\r?\n)", text):
            if part in ("\n", "\r\n"):
                lines.append((at, runs))
                runs = []
            elif part.startswith("\x1b["):
                codes = [int(code or 0) for code in part[2:-1].split(";")]
                style = () if 0 in codes else style + tuple(codes)
            elif re.search(r"[\x00-\x1f\x7f]", part):
                sys.exit(f"not a plain line: {part!r}")
            elif part:
                runs.append((style, part))
    if runs:
        lines.append((events[-1][0], runs))
    return lines


def css(style):
    """The attributes of a run of text."""
    colour = next((COLOURS[code] for code in reversed(style) if code in COLOURS), TEXT)
    weight = ' font-weight="bold"' if 1 in style else ""
    faint = ' opacity="0.6"' if 2 in style else ""
    return f'fill="{colour}"{weight}{faint}'


def draw(cast, picture):
    """Draws a recording: each line appears when it was printed."""
    prompt = [((32,), "$ "), ((), "cbroker demo")]
    lines = [(0.0, prompt)] + [(at + 0.8, runs) for at, runs in lines_of(cast)]
    whole = lines[-1][0] + REST
    longest = max(sum(len(text) for _, text in runs) for _, runs in lines)
    width = longest * WIDTH + 2 * MARGIN
    height = len(lines) * HEIGHT + 2 * MARGIN
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
           f'width="{width:.0f}" height="{height:.0f}" role="img">',
           "<title>cbroker demo: two sessions, a message each way, a broker that is killed"
           "</title>", "<style>", "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"
           "'DejaVu Sans Mono',monospace;white-space:pre}"]
    moments = sorted({at for at, _ in lines[1:]})
    for number, at in enumerate(moments):
        percent = 100 * at / whole
        out.append(f"@keyframes k{number}{{0%,{percent:.2f}%{{opacity:0}}"
                   f"{percent + 0.01:.2f}%,100%{{opacity:1}}}}")
        out.append(f".k{number}{{animation:k{number} {whole:.2f}s infinite}}")
    # Whoever wants no motion sees the end.
    out += ["@media (prefers-reduced-motion:reduce){text{animation:none!important}}", "</style>",
            '<rect width="100%" height="100%" rx="8" fill="#0d1117"/>']
    for row, (at, runs) in enumerate(lines):
        name = f' class="k{moments.index(at)}"' if at in moments else ""
        spans, column = [], 0
        for style, text in runs:
            # Placed by its column and stretched to its cells, whatever font there is.
            spans.append(f'<tspan x="{MARGIN + column * WIDTH:.1f}" '
                         f'textLength="{len(text) * WIDTH:.1f}" {css(style)}>'
                         f"{html.escape(text)}</tspan>")
            column += len(text)
        if spans:
            y = MARGIN + (row + 0.75) * HEIGHT
            out.append(f'<text{name} y="{y:.1f}" xml:space="preserve">{"".join(spans)}</text>')
    out.append("</svg>")
    with open(picture, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    ways = {"record": record, "draw": draw}
    if len(sys.argv) != 4 or sys.argv[1] not in ways:
        sys.exit(__doc__)
    ways[sys.argv[1]](sys.argv[2], sys.argv[3])
