"""What the demo tells, step by step. Every sentence was looked at before it is said."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wayside.core.address import Address, Flow, Transport
from wayside.lab import demo_files, firewall, flood, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, WAYSIDE, Daemon, within
from wayside.lab.demo_world import DATABASE_PORT, FAMILY, SERVER, SINK_PORT, DemoWorld
from wayside.lab.multihoming import silence
from wayside.lab.probe import Watch, seen_after
from wayside.lab.world import STATE, Node, Process

TYPING = 'while sleep 0.1; do echo tick; done | "$@"'
"""Somebody at the keyboard of a program: a line every 100 ms."""

ECHOING = "echo hello; cat"
"""What ssh runs: a greeting, then each line comes back."""

LOOK_AFTER_S = 0.5
"""So long after a change all is as it will stay: wayside's part of it takes some 100 ms."""

CALL_FROM, CALL_EVERY_S, CALL_LIMIT_S, CALL_LAST = 40_001, 0.02, 0.5, 25
"""A call: a small datagram each way every 20 ms, unless one gets lost; the last half second of them
is to be whole."""

RATE, FLOOD_S, FLOOD_FROM, STOP_S = 2_000, 20.0, 40_009, 10.0
"""The flood's packets a second and how long it would run; how long the server wants none of it."""


class Telling:
    """Prints sentences, `width` characters wide, and remembers whether all of them were true."""

    def __init__(self, width: int) -> None:
        self.all_true = True
        self.width = width

    def step(self, heading: str) -> None:
        """Begin a part."""
        print(f"\n{textwrap.fill(heading, self.width, subsequent_indent='   ')}", flush=True)

    def say(self, sentence: str, true: object, seen: str = "") -> None:
        """Say something, or that it is not so; `seen`: what was looked at."""
        self.all_true &= bool(true)
        said = f"{'✓' if true else '✗ NOT:'} {sentence}{f'  ({seen})' if seen else ''}"
        filled = textwrap.fill(
            said, self.width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
        print(filled, flush=True)

    def show(self, command: str, printed: str) -> None:
        """Show what a command printed; lines that are too long go on in the next one."""
        room = self.width - 4
        for line in f"$ {command}\n{printed.rstrip()}".splitlines():
            fits = (
                [line] if len(line) <= room else textwrap.wrap(line, room, subsequent_indent="  ")
            )
            print(textwrap.indent("\n".join(fits), "    "), flush=True)


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
    _move(world, tell, session)
    _refused(world, tell)
    _flooded(world, tell)
    status = _path_dies(world, tell, session)
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
        *("sh", "-c", TYPING, "sh"),
        *("ssh", "-F", "/dev/null", "-i", str(world.server.node.state / "user-key")),
        *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"),
        *("-o", f"UserKnownHostsFile={known}", f"lab@{SERVER}", ECHOING),
    )
    within(SEEN_LIMIT_S, lambda: "hello" in session.text() or session.ended)
    said = session.text().partition("\n")[0]
    tell.say(f"ssh {SERVER} runs a command", said.startswith("hello"), said)
    home = str(world.home.address(FAMILY, "core"))
    wires = [one["wire"] for one in world.server.held() if one["service"] == "ssh"]
    sees = len(wires) == 1 and home in wires[0]
    tell.say("the server's packets to it go to the NAT's address", sees, ", ".join(wires))
    return session


def _move(world: DemoWorld, tell: Telling, session: Process | None) -> None:
    size = f"{demo_files.LARGE_BYTES / 1e6:g} MB"
    tell.step(f"4. A download of {size}; in its middle the laptop changes networks.")
    name = "the link to home goes down, one to the café comes up"
    status = _during_download(world, tell, session, name, lambda: world.roamer.hard(world.cafe))
    _shut_again(world, tell, status)


def _during_download(
    world: DemoWorld,
    tell: Telling,
    session: Process | None,
    what: str,
    happen: Callable[[], float],
) -> _Status:
    """Something happens (what `happen` returns: when, monotonic s), and all goes on in the café."""
    whole = demo_files.LARGE_BYTES
    download = demo_files.Download(world.laptop.node, f"http://{SERVER}/large")
    within(demo_files.LIMIT_S, lambda: download.bytes > whole / 2 or download.ended)
    at, before, ways = download.bytes, _ticks(session), _ways(world)
    began = happen()
    within(SEEN_LIMIT_S, lambda: _all_by(world, world.cafe))
    took_ms = (time.monotonic() - began) * 1000
    time.sleep(LOOK_AFTER_S)
    left = 0 < at < whole and ways and not any(_by(world.cafe, way) for way in ways)
    tell.say(what, left, f"{at / 1e6:.0f} MB were here")
    status = _status_of(world, tell.width - 4)
    all_by = _all_by(world, world.cafe)
    tell.say("every connection goes by way of the café", all_by, f"after {took_ms:.0f} ms")
    digest = download.wait()
    right = digest == demo_files.checksum(world.server.node)
    tell.say("the same curl has the whole file, and its SHA-256 is right", right, digest[:16])
    pause_s = download.longest_pause_s(began)
    tell.say("it paused for that, and went on", pause_s, f"{pause_s * 1000:.0f} ms")
    if session:
        more = _ticks(session) - before
        tell.say("the ssh session of step 3 goes on, too", more > 0, f"{more} more lines")
    return status


def _shut_again(world: DemoWorld, tell: Telling, status: _Status) -> None:
    """The download's 5-tuple, as the laptop's packets had it, is nobody's any more."""
    closed = within(SEEN_LIMIT_S, lambda: not _status_of(world, tell.width - 4).record)
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


def _flooded(world: DemoWorld, tell: Telling) -> None:
    tell.step("6. A guest of the café is let in, too, and floods the server; it listens to nobody.")
    where = (world.guest.address(SERVER, FAMILY), SINK_PORT, FLOOD_FROM)
    opened = flood.ask_first(world.guest, *where)
    running = flood.start(world.guest, *where, RATE, FLOOD_S)
    arrives = within(SEEN_LIMIT_S, lambda: world.arriving.packets() > RATE / 4)
    rate = world.arriving.rate(LOOK_AFTER_S)
    tell.say("the flood arrives", opened and arrives and rate, f"{rate:.0f} packets/s")
    call = _call(world, 3.0)
    stop = ("stop", world.guest.name, "--for", f"{STOP_S:g}s")
    tell.show(f"wayside {' '.join(stop)}", world.server.command(*stop))
    cafe, office = world.gates["cafe"], world.gates["office"]
    alone = within(SEEN_LIMIT_S, lambda: (_filters(cafe), _filters(office)) == (1, 0))
    took_ms = flood.filtered_after_ms(world.server, cafe)
    tell.say(
        "the box nearest to the source, the café's, drops it; the office's need not",
        alone and took_ms,
        f"after {took_ms or 0:.0f} ms",
    )
    rate = world.arriving.rate(LOOK_AFTER_S)
    tell.say("nothing of it arrives any more", rate == 0, f"{rate:.0f} packets/s")
    answered = traffic.echo_result(call).answered
    count = _calls(3.0)
    name = "the laptop's call, from the same café and the same address, did not notice"
    tell.say(name, answered == count, f"{answered} of {count} datagrams were answered")
    running.popen.terminate()


def _path_dies(world: DemoWorld, tell: Telling, session: Process | None) -> _Status:
    tell.step("7. Home again, the café's link stays up. In a download and a call, home goes dead.")
    world.roamer.soft(world.home)
    within(SEEN_LIMIT_S, lambda: not any(_by(world.cafe, way) for way in _ways(world)))
    call = _call(world, 10.0)
    name = "the network behind home drops everything; all links are up, and nobody is told"
    status = _during_download(world, tell, session, name, lambda: silence(world.core, "home"))
    rtts_ms = traffic.echo_result(call).rtts_ms
    lost = sum(rtt is None for rtt in rtts_ms)
    goes_on = lost < len(rtts_ms) / 2 and None not in rtts_ms[-CALL_LAST:]
    tell.say("and so does the call", goes_on, f"{lost} of {len(rtts_ms)} datagrams were lost")
    if session:
        session.popen.terminate()
    return status


def _status(world: DemoWorld, tell: Telling, status: _Status) -> None:
    tell.step("8. What the laptop knew of its connections right after that:")
    tell.show("wayside status", status.words)
    cafe, record = str(world.cafe.address(FAMILY, "core")), status.record
    both = record.get("wire", "?"), record.get("there", "?")
    told = cafe in both[1] and cafe not in both[0]
    tell.say("both names of the download's flow, before and behind the NAT", told, " / ".join(both))
    boxes = [box["role"] for box in record.get("via", [])]
    tell.say("and the boxes on its way", boxes == ["nat", "gate"], ", ".join(boxes))


def _status_of(world: DemoWorld, width: int) -> _Status:
    """As it is now; the record is empty if there is none of a download."""
    records = [one for one in world.laptop.held() if one["service"] == "http"]
    laptop = world.laptop
    environment = {"WAYSIDE_SOCKET": str(laptop.control), "COLUMNS": str(width)}
    words = laptop.node.run(*WAYSIDE, "status", environment=environment).stdout
    return _Status(words, records[0] if records else {})


def _ways(world: DemoWorld) -> list[str]:
    """How the laptop's connections with the server arrive there."""
    return [one["there"] or one["wire"] for one in world.laptop.held() if one["peer"] == SERVER]


def _by(box: Node, way: str) -> bool:
    """Whether it is by a NAT's address."""
    return way.startswith(f"{box.address(FAMILY, 'core')}:")


def _all_by(world: DemoWorld, box: Node) -> bool:
    ways = _ways(world)
    return bool(ways) and all(_by(box, way) for way in ways)


def _filters(gate: Daemon) -> int:
    return len(gate.status()["filters"])


def _calls(seconds: float) -> int:
    """How many datagrams a call is."""
    return round(seconds / CALL_EVERY_S)


def _call(world: DemoWorld, seconds: float) -> Process:
    """Begin a call; it goes on while other things are looked at."""
    return traffic.start_echo(
        world.laptop.node,
        world.to,
        count=_calls(seconds),
        interval_s=CALL_EVERY_S,
        from_port=CALL_FROM,
        limit_s=CALL_LIMIT_S,
    )


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
