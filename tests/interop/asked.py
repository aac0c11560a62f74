"""Sends a broker the requests of features.txt that the kit's own runners leave out, and compares
everything that was sent with that list.

    asked.py ask      over AMQP_HOST AMQP_PORT (through the relay), AMQP_USER AMQP_PASS, MGMT_URL
    asked.py compare FEATURES TRACE...    compares the relay's counts with the list; exits with 1
                                          if something is missing

Uses plain sockets and bytes, because client libraries do not send these requests.
"""
import base64
import json
import os
import re
import socket
import struct
import sys
import urllib.request

HOST, PORT = os.environ.get("AMQP_HOST", "127.0.0.1"), int(os.environ.get("AMQP_PORT", "5672"))
USER, PASSWORD = os.environ.get("AMQP_USER", "guest"), os.environ.get("AMQP_PASS", "guest")


def short(text):
    return bytes([len(text)]) + text.encode()


def long(data):
    return struct.pack(">I", len(data)) + data


def table(*fields):
    """Fields as (key, type, bytes of the value)."""
    return long(b"".join(short(key) + kind + value for key, kind, value in fields))


def integer(key, value):
    return (key, b"I", struct.pack(">i", value))


def text(key, value):
    return (key, b"S", long(value.encode()))


class Closed(Exception):
    pass


class Client:
    """One connection with channel 1 open."""

    def __init__(
        self, frame_max=131072, heartbeat=0, vhost="/", greeting=b"AMQP\0\0\x09\x01", login=None
    ):
        self.socket = socket.create_connection((HOST, PORT), timeout=20)
        self.socket.sendall(greeting)
        self.expect(10, 10)
        mechanism, answer = login or ("PLAIN", f"\0{USER}\0{PASSWORD}".encode())
        claims = table(("authentication_failure_close", b"t", b"\x01"))
        properties = table(("capabilities", b"F", claims))
        self.method(0, 10, 11, properties + short(mechanism) + long(answer) + short("en_US"))
        self.expect(10, 30)
        self.method(0, 10, 31, struct.pack(">HIH", 2047, frame_max, heartbeat))
        self.method(0, 10, 40, short(vhost) + b"\0\0")
        self.expect(10, 41)
        self.method(1, 20, 10, short(""))
        self.expect(20, 11)

    def frame(self, kind, channel, payload):
        self.socket.sendall(struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce")

    def method(self, channel, cls, number, arguments):
        self.frame(1, channel, struct.pack(">HH", cls, number) + arguments)

    def read(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise Closed("the socket was closed")
            data += part
        return data

    def expect(self, cls, number):
        """Returns the arguments of the next such method. Raises if the server closes instead."""
        while True:
            kind, channel, size = struct.unpack(">BHI", self.read(7))
            payload = self.read(size + 1)[:-1]
            if kind != 1:
                continue
            got = struct.unpack(">HH", payload[:4])
            if got == (cls, number):
                return payload[4:]
            if got in ((10, 50), (20, 40)):
                self.method(channel, got[0], got[1] + 1, b"")
                raise Closed(
                    f"{struct.unpack('>H', payload[4:6])[0]} {payload[7:7 + payload[6]].decode()}"
                )

    def refusal(self):
        try:
            self.expect(0, 0)
        except Closed as closed:
            return str(closed)

    def declare_exchange(self, name, kind, flags=0, arguments=b"\0\0\0\0"):
        self.method(1, 40, 10, b"\0\0" + short(name) + short(kind) + bytes([flags]) + arguments)

    def declare_queue(self, name, *arguments, flags=0):
        self.method(1, 50, 10, b"\0\0" + short(name) + bytes([flags]) + table(*arguments))

    def publish(self, key, flags=0, properties=b"", cls=60, size=0):
        self.method(1, 60, 40, b"\0\0" + short("") + short(key) + b"\0")
        self.frame(2, 1, struct.pack(">HHQH", cls, 0, size, flags) + properties)

    def answers(self):
        """Waits until the server has processed everything sent so far."""
        self.method(1, 60, 10, b"\0\0\0\0" + struct.pack(">H", 5) + b"\0")
        self.expect(60, 11)

    def close(self):
        self.method(0, 10, 50, b"\0\xc8" + short("done") + b"\0\0\0\0")
        self.expect(10, 51)


def answered():
    """Requests that the server accepts."""
    for frame_max, heartbeat in ((8192, 4), (16384, 10), (70000, 15), (131072, 20), (131072, 30)):
        Client(frame_max, heartbeat).close()
    client = Client()
    client.frame(8, 0, b"")
    client.answers()
    client.method(0, 10, 70, long(b"secret") + short("renewed"))
    client.expect(10, 71)
    odd = table(
        # The relay counts an empty array as a key without a name, which is on the list too.
        ("A", b"A", long(b"")), ("b", b"b", b"\x01"), ("D", b"D", b"\x01\0\0\0\x05"),
        ("d", b"d", struct.pack(">d", 0.5)), ("F", b"F", table(("t", b"t", b"\x01"))),
        ("f", b"f", struct.pack(">f", 0.5)), integer("I", 7), ("l", b"l", struct.pack(">q", 7)),
        text("S", "text"), ("s", b"s", b"\0\x07"), ("T", b"T", struct.pack(">Q", 7)),
        ("t", b"t", b"\x01"), ("V", b"V", b""), ("x", b"x", long(b"raw")),
        text("nonsensical-argument-surely-not-in-use", "1"),
    )
    client.declare_exchange("asked.odd", "fanout", arguments=odd)
    client.expect(40, 11)
    client.declare_exchange("asked.odd", "", flags=1)
    client.expect(40, 11)
    client.declare_exchange("asked.quiet", "direct", flags=16)
    client.method(1, 40, 20, b"\0\0" + short("asked.quiet") + b"\x02")
    client.declare_queue("asked.quiet", flags=8)
    client.expect(50, 11)
    client.method(1, 50, 40, b"\0\0" + short("asked.quiet") + b"\x04")
    for name, argument in (
        ("asked.void", text("assumed-to-be-semantically-void", "1")),
        ("asked.list", text('["x-max-length", "x-queue-type"]', "1")),
        ("asked.classic", text("x-queue-type", "classic")),
        ("asked.timeout", integer("x-consumer-timeout", 60000)),
        ("asked.alternate", text("x-alternate-exchange", "amq.direct")),
    ):
        client.declare_queue(name, argument)
        client.expect(50, 11)
    client.declare_queue("asked.quorum", text("x-queue-type", "quorum"), flags=2)
    client.expect(50, 11)
    nameless = table(("", b"t", b"\x01"))
    client.method(1, 60, 20, b"\0\0" + short("asked.void") + short("") + b"\0" + nameless)
    client.expect(60, 21)
    client.close()


def on_a_channel(ask):
    """Sends one request that ends its channel or connection."""
    client = Client()
    ask(client)
    refusal = client.refusal()
    client.socket.close()
    return refusal


def negative(name, value):
    return lambda client: client.declare_queue("asked.bad", integer(name, value))


def wrong(name, kind, value):
    return lambda client: client.declare_queue("asked.bad", (name, kind, value))


def headers(*fields):
    return lambda client: client.publish("nowhere", 0x2000, table(*fields))


def expiring(value):
    return lambda client: client.publish("nowhere", 0x0100, short(value))


def matching(*fields):
    def ask(client):
        client.declare_queue("asked.void", text("assumed-to-be-semantically-void", "1"))
        client.expect(50, 11)
        names = short("asked.void") + short("amq.headers") + short("")
        client.method(1, 50, 20, b"\0\0" + names + b"\0" + table(*fields))
    return ask


def replies(*flags):
    def ask(client):
        for flag in flags:
            names = short("amq.rabbitmq.reply-to") + short("")
            client.method(1, 60, 20, b"\0\0" + names + bytes([flag]) + b"\0\0\0\0")
    return ask


def unknown_type(name):
    return lambda client: client.declare_exchange("asked.bad", name)


def method_for_body(client):
    client.publish("nowhere", size=5)
    client.method(1, 60, 10, b"\0\0\0\0\0\x05\0")


REFUSED = [
    unknown_type("unknowntypeasked"), unknown_type("ZZwwInvalid"),
    lambda client: client.declare_queue("asked.stream", text("x-queue-type", "stream"), flags=2),
    lambda client: client.method(0, 10, 40, short("/") + b"\0\0"),
    lambda client: client.method(
        1, 50, 20, b"\0\0" + short("") + short("amq.direct") + short("") + b"\0\0\0\0\0"
    ),
    negative("x-message-ttl", -10), negative("x-expires", -10), negative("x-max-length", -10),
    negative("x-message-ttl", -20), negative("x-expires", -20), negative("x-max-length", -20),
    wrong("x-dead-letter-exchange", b"I", b"\0\0\0\x05"), wrong("x-overflow", b"I", b"\0\0\0\x05"),
    wrong("x-queue-type", b"I", b"\0\0\0\x05"),
    wrong("x-dead-letter-routing-key", b"I", b"\0\0\0\x05"),
    headers(integer("CC", 7)), expiring("-10"), expiring("10foobar"), expiring("foobar"),
    matching(integer("x-match", 23)), matching(text("x-match", "all or any I don't mind")),
    replies(0), replies(2, 2),
    lambda client: client.socket.sendall(struct.pack(">BHI", 3, 1, 131073)),
    lambda client: client.method(1, 60, 10, struct.pack(">IHB", 1000, 5, 0)),
    lambda client: client.frame(0, 1, b"1234567890\x0012345678901234567890"),
    lambda client: client.publish("nowhere", cls=3106),
    lambda client: client.frame(8, 1, b""),
    method_for_body,
] + [
    wrong(name, kind, value)
    for name in ("x-message-ttl", "x-expires", "x-max-length", "x-max-priority")
    for kind, value in ((b"F", b"\0\0\0\0"), (b"V", b""), (b"A", b"\0\0\0\0"))
]


def refused():
    """Requests that are refused with a code and a text, which `compare` checks."""
    for ask in REFUSED:
        print("asked:", on_a_channel(ask))
    wrong_login = table(text("LOGIN", USER), text("PASSWORD", "wrong"))[4:]
    for arguments in ({"login": ("AMQPLAIN", wrong_login)}, {"frame_max": 100}):
        try:
            Client(**arguments)
        except Closed as closed:
            print("asked:", closed)
    stranger = socket.create_connection((HOST, PORT), timeout=20)
    stranger.sendall(b"AMQP\x01\x01d\x03")
    known = b"AMQP\0\0\x09\x01"
    assert stranger.recv(8) == known, "an unknown protocol is answered with the known one"
    under_a_deleted_vhost()


def under_a_deleted_vhost():
    def api(verb, path, body=None):
        data = body and json.dumps(body).encode()
        request = urllib.request.Request(os.environ["MGMT_URL"] + path, method=verb, data=data)
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request.add_header("authorization", "Basic " + login)
        request.add_header("content-type", "application/json")
        urllib.request.urlopen(request, timeout=20).close()

    api("PUT", "/api/vhosts/asked", {})
    api("PUT", f"/api/permissions/asked/{USER}", {"configure": ".*", "write": ".*", "read": ".*"})
    client = Client(vhost="asked")
    api("DELETE", "/api/vhosts/asked")
    print("asked:", client.refusal())


def named(entry):
    """Returns a line without its counts and suites; None if it continues the line before."""
    counted = re.match(r" *\d+ +\d+ {1,2}(?=\S)", entry)
    if not counted:
        return None
    rest = entry[counted.end():]
    return rest.strip() if rest.endswith(" ") else rest.rsplit(maxsplit=1)[0].strip()


def listed(path):
    """Returns the list's lines, and those after the mark: how servers closed."""
    features, closes = open(path, encoding="utf8").read().split("---- close\n")
    return [[name for name in map(named, part.splitlines()) if name] for part in (features, closes)]


def plain(entry):
    """Replaces names and numbers, which differ from run to run."""
    entry = re.sub(r"unknowntype\w+", "unknowntype…", entry.strip())
    entry = re.sub(r"(unknown delivery tag) \w+", r"\1 N", entry)
    entry = re.sub(r"vhost \S+ not found", "vhost … not found", entry)
    return re.sub(r"\s+", " ", entry)


def compare(path, traces):
    features, closes = listed(path)
    asked, ended = set(), set()
    for trace in traces:
        counted = json.load(open(trace, encoding="utf8"))
        for side in ("client", "server", "feature"):
            asked |= {plain(entry) for entry in counted[side]}
        ended |= {plain(entry) for entry in counted["close"]}
    missing = [entry for entry in features if plain(entry) not in asked]
    for entry in closes:
        beginning = plain(entry).removesuffix("...")
        if not any(text.startswith(beginning) for text in ended):
            missing.append(entry)
    for entry in missing:
        print("not asked, or answered otherwise:", entry)
    print(f"features: {len(features)} asked for, {len(closes)} refusals; {len(missing)} unanswered")
    return 1 if missing or not features else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["ask"]:
        answered()
        refused()
    else:
        sys.exit(compare(sys.argv[2], sys.argv[3:]))
