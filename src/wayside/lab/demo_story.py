"""What the demo tells, step by step. Every sentence was looked at before it is said."""

from __future__ import annotations

import json
import textwrap
import time
from dataclasses import dataclass
from typing import Any

from wayside.core.address import Address, Flow, Transport
from wayside.lab import demo_files, firewall, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, WAYSIDE, within
from wayside.lab.demo_world import DATABASE_PORT, FAMILY, SERVER, DemoWorld
from wayside.lab.probe import Watch, seen_after
from wayside.lab.world import STATE, Node, Process

TICKS = "echo hello; while sleep 0.1; do echo tick; done"
"""What ssh runs: a greeting, then a line every 100 ms."""

STATUS_COLUMNS = "96"

LOOK_AFTER_S = 0.5
"""So long after the move all is as it will stay: wayside's part of it takes some 100 ms."""


class Telling:
    """Prints sentences, and remembers whether all of them were true."""

    def __init__(self) -> None:
        self.all_true = True

    def step(self, heading: str) -> None:
        """Begin a part."""
        print(f"\n{heading}", flush=True)

    def say(self, sentence: str, true: object, seen: str = "") -> None:
        """Say something, or that it is not so; `seen`: what was looked at."""
        self.all_true &= bool(true)
        print(
            f"  {'✓' if true else '✗ NOT:'} {sentence}{f'  ({seen})' if seen else ''}", flush=True
        )

    def show(self, command: str, printed: str) -> None:
        """Show what a command printed."""
        print(textwrap.indent(f"$ {command}\n{printed.rstrip()}", "    "), flush=True)


@dataclass(frozen=True, slots=True)
class _Status:
    """`wayside status` of the laptop at one moment: its words, and the download's record."""

    words: str
    record: dict[str, Any]


def play(world: DemoWorld, tell: Telling) -> None:
    """Tell all of it."""
    _nothing_passes(world, tell)
    _curl_by_name(world, tell)
    session = _ssh_by_name(world, tell)
    status = _move(world, tell, session)
    _refused(world, tell)
    _status(world, tell, status)


def _nothing_passes(world: DemoWorld, tell: Telling) -> None:
    tell.step("1. What nobody signaled does not pass.")
    laptop, direct = world.laptop.node, world.server.node.address(FAMILY)
    stray = _curl(laptop, f"http://{direct}/file", limit_s=1.0)
    tell.say(f"curl http://{direct}/file hears nothing", stray.exit_code == 28, stray.error)
    source = Address(laptop.address(FAMILY), firewall.STRAY_PORT)
    probe = Flow(Transport.TCP, source, Address(direct, traffic.HTTP_PORT))
    left = seen_after(laptop, Watch(world.home), [probe])
    passed = seen_after(laptop, world.watch, [probe])
    tell.say("such a packet reaches the box at home, and not the server", left and not passed)


def _curl_by_name(world: DemoWorld, tell: Telling) -> None:
    tell.step(f"2. {SERVER} is {world.to} for every program on the laptop (a line in /etc/hosts).")
    got = _curl(world.laptop.node, f"http://{SERVER}/file")
    rate = f"{got.bytes / 1e6:g} MB in {got.seconds * 1000:.0f} ms"
    name = f"an unmodified curl http://{SERVER}/file has its file, through the NAT and the firewall"
    tell.say(name, got.bytes == demo_files.SMALL_BYTES, got.error or rate)
    redirects = [r for r in world.laptop.events() if r.event == "datagram.received"]
    asked = any(r.type == "REDIRECT" for r in redirects)
    tell.say("where the server is, the laptop had from the rendezvous", asked)


def _ssh_by_name(world: DemoWorld, tell: Telling) -> Process | None:
    """The session, which goes on; None where there is no sshd."""
    tell.step("3. ssh logs in by name, and stays.")
    if not world.ssh:
        print("  – left out: this machine has no ssh or no sshd (apt install openssh-server)")
        return None
    known = STATE / "known_hosts"
    session = world.laptop.node.spawn(
        *("ssh", "-F", "/dev/null", "-i", str(world.server.node.state / "user-key")),
        *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"),
        *("-o", f"UserKnownHostsFile={known}", f"lab@{SERVER}", TICKS),
    )
    within(SEEN_LIMIT_S, lambda: "hello" in session.text() or session.ended)
    said = session.text().partition("\n")[0]
    tell.say(f"ssh {SERVER} runs a command", said.startswith("hello"), said)
    home = str(world.home.address(FAMILY, "core"))
    wires = [one["wire"] for one in world.server.held() if one["service"] == "ssh"]
    sees = len(wires) == 1 and home in wires[0]
    tell.say("the server's packets to it go to the NAT's address", sees, ", ".join(wires))
    return session


def _move(world: DemoWorld, tell: Telling, session: Process | None) -> _Status:
    whole = demo_files.LARGE_BYTES
    tell.step(f"4. A download of {whole / 1e6:g} MB; in its middle the laptop changes networks.")
    download = demo_files.Download(world.laptop.node, f"http://{SERVER}/large")
    within(demo_files.LIMIT_S, lambda: download.bytes > whole / 2 or download.ended)
    at, before = download.bytes, _ticks(session)
    moved = world.roamer.hard(world.cafe)
    time.sleep(LOOK_AFTER_S)
    here = f"{at / 1e6:.0f} MB were here"
    tell.say("the link to home goes down, one to the café comes up", 0 < at < whole, here)
    status = _status_of(world)
    digest = download.wait()
    right = digest == demo_files.checksum(world.server.node)
    tell.say("the same curl has the whole file, and its SHA-256 is right", right, digest[:16])
    ours = status.record.get("gap_ms")
    agreed = f"; all agreed after {ours:.0f} ms" if ours else ""
    pause_s = download.longest_pause_s(moved)
    tell.say("it paused for the move, and went on", pause_s, f"{pause_s * 1000:.0f} ms{agreed}")
    if session:
        more = _ticks(session) - before
        tell.say("the ssh session of step 3 goes on, too", more > 0, f"{more} lines since the move")
        session.popen.terminate()
    _shut_again(world, tell, status)
    return status


def _shut_again(world: DemoWorld, tell: Telling, status: _Status) -> None:
    """The download's 5-tuple, as the laptop's packets had it, is nobody's any more."""
    closed = within(SEEN_LIMIT_S, lambda: not _status_of(world).record)
    words = f"tcp {status.record.get('wire')}"
    passed = status.record and seen_after(
        world.laptop.node, world.watch, [firewall.parse_flow(words)]
    )
    name = "curl has closed its connection: a packet of its very 5-tuple is dropped again"
    tell.say(name, closed and status.record and not passed, words)


def _refused(world: DemoWorld, tell: Telling) -> None:
    tell.step(f"5. From the café, curl asks for the database: http://{SERVER}:{DATABASE_PORT}/")
    refused = _curl(world.laptop.node, f"http://{SERVER}:{DATABASE_PORT}/")
    said = f"after {refused.seconds * 1000:.0f} ms"
    tell.say("refused, and curl knows at once", refused.exit_code == 7, said)
    why = (world.laptop.why() or [{}])[0]
    seen = f"{why.get('by')}, rule {why.get('rule')}: {why.get('reason')}"
    tell.say("`wayside why` says who, which rule and why", "office only" in seen, seen)


def _status(world: DemoWorld, tell: Telling, status: _Status) -> None:
    tell.step("6. What the laptop knew of its connections right after the move:")
    tell.show("wayside status", status.words)
    cafe, record = str(world.cafe.address(FAMILY, "core")), status.record
    both = record.get("wire", "?"), record.get("there", "?")
    told = cafe in both[1] and cafe not in both[0]
    tell.say("both names of the download's flow, before and behind the NAT", told, " / ".join(both))
    boxes = [box["role"] for box in record.get("via", [])]
    tell.say("and the boxes on its way", boxes == ["nat", "gate"], ", ".join(boxes))


def _status_of(world: DemoWorld) -> _Status:
    """As it is now; the record is empty if there is none of the download."""
    records = [one for one in world.laptop.held() if one["service"] == "http"]
    laptop = world.laptop
    environment = {"WAYSIDE_SOCKET": str(laptop.control), "COLUMNS": STATUS_COLUMNS}
    words = laptop.node.run(*WAYSIDE, "status", environment=environment).stdout
    return _Status(words, records[0] if records else {})


def _ticks(session: Process | None) -> int:
    return session.text().count("tick") if session else 0


def _curl(node: Node, url: str, limit_s: float = 5.0) -> traffic.Fetched:
    """An unmodified curl with a URL."""
    done = node.run(
        *("curl", "-sS", "--noproxy", "*", "--max-time", f"{limit_s:g}", "-o", "/dev/null"),
        *("-w", "%{json}", url),
        limit_s=limit_s + 5,
        check=False,
    )
    report = json.loads(done.stdout)
    size, seconds = int(report["size_download"]), float(report["time_total"])
    return traffic.Fetched(done.returncode, seconds, size, done.stderr.strip())
