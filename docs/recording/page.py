"""Opens six sessions with agents of the tests, and takes the pictures of the page.

    cargo test --test session --no-run
    python3 docs/recording/page.py target/debug/cbroker target/debug/deps/session-… docs/images

Two sessions wait for their person, one is stuck, one is closed with messages, one is busy, one is
idle. What `cbroker list` says of them is printed. Needs chromium, chromedriver and Python 3.9; all
of it is on loopback, in a temporary home, and ends with this script.
"""
import base64
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.request

# How long anything may take, in seconds.
PATIENCE = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def wait_until(what, holds):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.1)
    raise SystemExit(f"waited in vain for: {what}")


class Room:
    """A home, its broker, and wraps in terminals of their own."""

    def __init__(self, cbroker, agents):
        self.folder = tempfile.mkdtemp(prefix="cb", dir="/tmp")
        self.cbroker, self.children = os.path.abspath(cbroker), []
        path = f"{self.folder}:{os.environ['PATH']}"
        self.environment = {"PATH": path, "HOME": self.folder, "LANG": "C.UTF-8",
                            "CBROKER_HOME": f"{self.folder}/home", "TERM": "xterm-256color"}
        for agent in ("claude", "gemini"):
            os.symlink(os.path.abspath(agents), f"{self.folder}/{agent}")
        self.run("start", "--port", free_port(), "--mgmt-port", free_port())

    def run(self, *arguments):
        done = subprocess.run([self.cbroker, *arguments], env=self.environment, cwd=self.folder,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE, check=True)
        return done.stdout

    def open(self, name, agent="claude", states=("idle", "busy")):
        """Wraps an agent of the tests; gives its keys."""
        stage = f"{self.folder}/{name}"
        os.mkdir(stage)
        environment = {**self.environment, "STAGE": stage}
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(stage)
            os.execve(self.cbroker, ["cbroker", "--name", name, agent], environment)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.children.append((child, terminal))
        threading.Thread(target=self._read, args=(terminal,), daemon=True).start()
        self.state(name, *states)
        return terminal

    @staticmethod
    def _read(terminal):
        try:
            while os.read(terminal, 65536):
                pass
        except OSError:
            pass

    def state(self, name, *states):
        def is_it():
            rows = json.loads(self.run("list", "--json", "-q"))
            return any(row["name"] == name and row["state"].startswith(states) for row in rows)
        wait_until(f"{name} is {' or '.join(states)}", is_it)

    def say(self, sender, to, text, *more):
        self.run("send", to, text, "--from", sender, *more)

    def leave(self):
        self.run("stop")
        for child, terminal in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(terminal)
        shutil.rmtree(self.folder, ignore_errors=True)


def type_in(terminal, text):
    for letter in text:
        os.write(terminal, letter.encode())
        time.sleep(0.02)
    time.sleep(0.3)


def six_sessions(room):
    """A day of six agents, as far as it came."""
    backend = room.open("backend")
    frontend = room.open("frontend")
    room.open("reviewer")
    migrations = room.open("migrations")
    room.say("frontend", "backend", "Which port does the API use?", "--wait")
    room.say("backend", "frontend", "8080, and 8443 with TLS.", "--wait")
    room.say("backend", "docs", "GET /users is live: please add it to the reference.")
    room.say("reviewer", "docs", "The chapter on rights is out of date.")
    room.say("frontend", "reviewer", "The table of users is ready for a look.", "--wait")
    # Its agent takes no Enter before it is ready, and never is.
    room.say("backend", "tests", "Please run the tests of the API again.")
    room.open("tests", "gemini", ("stuck",))
    # Permission dialogs, with messages behind them.
    type_in(backend, "please ASK{migrate}")
    os.write(backend, b"\r")
    room.state("backend", "needs")
    room.say("frontend", "backend", "Please add a field `avatar` to GET /users.")
    room.say("reviewer", "backend", "Line 40 of routes.rs leaks a connection.")
    type_in(frontend, "please ASK{install}")
    os.write(frontend, b"\r")
    room.state("frontend", "needs")
    room.say("backend", "frontend", "The field `avatar` comes today.")
    type_in(migrations, "SLOW9000 run the migrations")
    os.write(migrations, b"\r")
    room.state("migrations", "busy")


class Browser:
    """Chromium, driven by its WebDriver."""

    def __init__(self):
        port = free_port()
        self.driver = subprocess.Popen(["chromedriver", f"--port={port}"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.base = f"http://127.0.0.1:{port}"
        wait_until("chromedriver answers", self._is_ready)
        options = {"args": ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                            "--disable-background-networking", "--disable-component-update",
                            "--disable-sync", "--disable-dev-shm-usage",
                            "--force-device-scale-factor=1"]}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options}}})
        self.base += f"/session/{made['sessionId']}"

    def _is_ready(self):
        try:
            return self._call("GET", "/status")["ready"]
        except OSError:
            return False

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, method=method,
                                         headers={"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]

    def go(self, url):
        self._call("POST", "/url", {"url": url})

    def value(self, expression):
        script = f"return ({expression})"
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def until(self, expression):
        wait_until(expression, lambda: self.value(expression))

    def press(self, key):
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": [
            {"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]}]})

    def look(self, width, height, is_dark):
        self._call("POST", "/goog/cdp/execute", {
            "cmd": "Emulation.setDeviceMetricsOverride",
            "params": {"width": width, "height": height, "deviceScaleFactor": 1,
                       "mobile": False}})
        scheme = "dark" if is_dark else "light"
        self._call("POST", "/goog/cdp/execute", {
            "cmd": "Emulation.setEmulatedMedia",
            "params": {"features": [{"name": "prefers-color-scheme", "value": scheme}]}})

    def picture(self, path):
        time.sleep(1)
        with open(path, "wb") as file:
            file.write(base64.b64decode(self._call("GET", "/screenshot")))

    def leave(self):
        self._call("DELETE", "")
        self.driver.terminate()
        self.driver.wait()


def pictures(room, folder):
    browser = Browser()
    try:
        browser.look(1200, 860, False)
        browser.go(json.loads(room.run("ui", "--json"))["url"])
        browser.until("document.getElementById('live').textContent === 'live'")
        browser.until("[...document.querySelectorAll('article')].length >= 6")
        browser.until("document.body.textContent.includes('leaks a connection')")
        browser.picture(f"{folder}/page-sessions.png")
        browser.press("2")
        browser.until("!document.getElementById('talk').hidden")
        browser.picture(f"{folder}/page-conversation.png")
        browser.look(390, 844, False)
        browser.press("1")
        browser.picture(f"{folder}/page-phone.png")
        browser.look(1200, 860, True)
        browser.press("4")
        browser.until("!document.getElementById('broker').hidden")
        browser.picture(f"{folder}/page-broker.png")
    finally:
        browser.leave()


def main():
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    room = Room(*sys.argv[1:3])
    try:
        six_sessions(room)
        print(re.sub(r"\s+$", "", room.run("list"), flags=re.M))
        pictures(room, sys.argv[3])
    finally:
        room.leave()


if __name__ == "__main__":
    main()
