"""A server whose rendezvous stays on the way: whoever talks to it never learns where it is.

    client ── west ── core ──┬── north ──┐
                       │     └── south ──┴── server
                     meet: the rendezvous, which hides the server

The client's gate and the one in front of the server's first network are default-drop. Gates on a
hidden host's new way hear of it at the next refresh only (R-10.5), so there is none before its
second network. Everything that passes the client's interface is kept, signaling and data, and
searched for every address that the server ever had; the same search finds the rendezvous' there,
and the server's at the rendezvous.
"""

from __future__ import annotations

import json
import mmap
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wayside.core.address import IP
from wayside.lab import gaps, traffic
from wayside.lab.daemons import within
from wayside.lab.mobile import (
    GAPS_PORT,
    MOVED_LIMIT_S,
    Land,
    Plan,
    check_informed,
    check_new_connection,
    comes_from,
    connected,
    goes_to,
    longest_gaps,
    set_up,
    start_download,
)
from wayside.lab.scenario import Trial
from wayside.lab.wire import ETH_P_ALL, SOL_PACKET
from wayside.lab.world import Node, Process

FINDING = """
default = "reject"

[[rule]]
name = "found-but-hidden"
from = ["*.lab"]
to = ["*.lab"]
action = "steer"
"""

RATE_BYTES_S = 1_500_000
LARGE_BYTES = 9_000_000
FLOW_S = 6.0
FLOWS = 5
"""The download, and TCP and UDP in both directions."""

CAPTURE_S = 60.0
"""A capture ends by itself: no scenario is longer."""

RING_BYTES, FRAME_BYTES = 1 << 26, 1 << 17
"""512 packets: as much as comes in a tenth of a second. The largest has 64 KiB and its headers."""

PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, TPACKET_V2 = 5, 6, 10, 1
TP_STATUS_USER = 1


@dataclass(frozen=True, slots=True)
class Capture:
    """All that passes an interface of a node, as it is on the wire."""

    process: Process
    file: Path

    def end(self) -> int:
        """Stop, and return how many packets were missed."""
        self.process.popen.send_signal(signal.SIGTERM)
        self.process.wait(10.0)
        return int(json.loads(self.process.text().splitlines()[-1])["missed"])

    def has(self, addresses: Iterable[IP]) -> list[str]:
        """Which of these are in it, as the bytes of an address or as text."""
        data = self.file.read_bytes()
        return [str(one) for one in addresses if one.packed in data or str(one).encode() in data]


def start_capture(node: Node, device: str) -> Capture:
    """Keep what passes a device from now on."""
    file = node.state / f"capture-{device}"
    process = node.spawn_python(__name__, str(file), device, ready="ready")
    return Capture(process, file)


def play(trial: Trial) -> None:
    """Connect through the rendezvous, move, and look for the server in the captures."""
    plan = Plan(gated=("west", "north"), finding=FINDING)
    land = set_up(trial, plan, LARGE_BYTES)
    stage, node = land.stage, land.client.node
    at_client = start_capture(node, "to-west")
    at_meet = start_capture(land.meet.node, "to-core")
    theirs = _addresses(land)
    flows = gaps.flows_from(node, stage.to, GAPS_PORT, FLOW_S)
    download = start_download(node, land.server.node, stage.to, RATE_BYTES_S)
    up = within(5.0, lambda: len(connected(stage.client, stage.server)) >= FLOWS)
    trial.check("TCP and UDP flows are up", up, len(connected(stage.client, stage.server)))
    meet = land.meet.node.address(trial.family)
    to = {goes_to(one) for one in connected(stage.client, stage.server)}
    trial.check("all of them go to the rendezvous", to == {str(meet)}, ", ".join(to))
    hidden = [one["hidden"] for one in connected(stage.client, stage.server)]
    trial.check("the client's status says that the server is hidden", all(hidden), len(hidden))
    check_new_connection(land, "before the move", meet)
    began = land.server.hard(land.boxes["south"], 3)
    theirs |= _addresses(land)
    _check_followed(land)
    check_informed(land, "hard move")
    going = not download.process.ended
    trial.check("the download lasted longer than the move (control)", going)
    check_new_connection(land, "hard move", meet)
    wrong = download.damage(20.0)
    trial.check("curl has the file, whole", not wrong, wrong or LARGE_BYTES / 1e6, "MB")
    said = traffic.ssh_says(node, land.server.node, stage.to)
    trial.check("ssh runs a command", said == "hello", said)
    for process in flows:
        process.wait(FLOW_S + 10)
    found = longest_gaps(land, flows, began)
    for name in ("tcp up", "tcp down", "udp up", "udp down"):
        trial.check(f"hard move: gap of {name}", name in found, found.get(name), "ms")
    _check_captures(land, at_client, at_meet, theirs)


def _addresses(land: Land) -> set[IP]:
    """Where the server is at the moment, in both families."""
    return {land.server.node.address(family) for family in (4, 6)}


def _check_followed(land: Land) -> None:
    """The server's end of every connection is where it is now; the client's has not changed."""
    stage, trial = land.stage, land.trial
    at = str(land.at)

    def count() -> int:
        listed = connected(stage.server, stage.client)
        return sum(comes_from(one) == at for one in listed)

    followed = within(MOVED_LIMIT_S, lambda: count() >= FLOWS)
    trial.check("hard move: the server's end of all of them is there", followed, count(), at)
    moves = sum(one["moves"] for one in connected(stage.client, stage.server))
    trial.check("hard move: the client has not noticed", moves == 0, moves, "moves")


def _check_captures(land: Land, at_client: Capture, at_meet: Capture, theirs: set[IP]) -> None:
    trial, family = land.trial, land.trial.family
    for who, capture in (("client", at_client), ("rendezvous", at_meet)):
        missed, size = capture.end(), capture.file.stat().st_size
        said = f"{size / 1e6:.1f} MB, {missed} missed"
        trial.check(f"the capture at the {who} is complete (control)", not missed and size, said)
    here = [land.meet.node.address(family), land.client.node.address(family)]
    found = at_client.has(here)
    name = "the client's has the rendezvous' address and its own (control)"
    trial.check(name, len(found) == len(here), ", ".join(found))
    mine = [one for one in theirs if one.version == family]
    found = at_meet.has(mine)
    name = "the rendezvous' has the server's, before and after the move (control)"
    trial.check(name, len(found) == len(mine) == 2, ", ".join(found))
    found = at_client.has(theirs)
    name = "the client's has no address of the server"
    trial.check(name, not found and len(theirs) == 4, ", ".join(found) or len(theirs))


class Ring:
    """Packets in memory that the kernel shares with us: it waits for nobody to read. packet(7)."""

    def __init__(self, tap: socket.socket) -> None:
        tap.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        frames = RING_BYTES // FRAME_BYTES
        wanted = struct.pack("IIII", FRAME_BYTES, frames, FRAME_BYTES, frames)
        tap.setsockopt(SOL_PACKET, PACKET_RX_RING, wanted)
        self._memory = mmap.mmap(tap.fileno(), RING_BYTES)
        self._next = 0

    def read(self) -> bytes | None:
        """The next packet, from its link layer's header on; None: there is none yet."""
        at = self._next
        status, size, kept, begin = struct.unpack_from("IIIH", self._memory, at)
        if not status & TP_STATUS_USER:
            return None
        assert size == kept, "a packet larger than a frame of the ring"
        packet = self._memory[at + begin : at + begin + kept]
        struct.pack_into("I", self._memory, at, 0)
        self._next = (at + FRAME_BYTES) % RING_BYTES
        return packet


def main() -> None:
    """The capture: keep what passes a device in a file, until SIGTERM."""
    file, device = sys.argv[1:]
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    with (
        open(file, "wb", buffering=1 << 20) as sink,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as tap,
    ):
        ring = Ring(tap)
        tap.bind((device, ETH_P_ALL))
        print("ready", flush=True)
        until = time.monotonic() + CAPTURE_S
        while time.monotonic() < until:
            packet = ring.read()
            if packet is not None:
                sink.write(packet)
            elif ending:
                break
            else:
                select.select([tap], [], [], 0.02)
        _, missed = struct.unpack("II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    print(json.dumps({"missed": missed}), flush=True)


if __name__ == "__main__":
    main()
