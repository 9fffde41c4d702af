"""What one MPTCP connection carries over two signaled paths, beside what each of them can alone.

    client ──┬── west ──┐         ┌── north ──┬── server       p-client ... p-server, alike
             └── east ──┴── core ─┴── south ──┘

Each of the client's links takes 50 Mbit/s (tbf). In the first row the boxes are default-drop gates,
and a program's plain MPTCP socket goes to the server's virtual address. In the second, the control,
boxes only route: plain TCP goes by one path, then by the other, with nobody beside it. Both
carry what a receiver has got, after a second that is not counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from figure import Figure, compared
from place import ALLOW_LAB, Bench, in_turns

from wayside.core.address import IP
from wayside.lab import parcel
from wayside.lab.daemons import within
from wayside.lab.multihoming_mptcp import two_paths
from wayside.lab.world import Node, Process, ProgramFailed, World
from wayside.runtime.names import service_of

FAMILY = 4
PORT = 7171
LINK_BIT_S = 50_000_000
BEGIN_S = 1.0
"""Slow start, and the second subflow."""

BUFFER_BYTES = 6 << 20
"""As a kernel has by default; MPTCP's one buffer holds what the slower path still owes."""

UP_LIMIT_S = 5.0
AFTER_S = 1.0
PATHS = (("west", "north"), ("east", "south"))
PLAIN = "p-"


@dataclass(frozen=True, slots=True)
class Row:
    """Two hosts and what serves at one of them. `to`: where it is asked, by path."""

    client: Node
    served: Process
    to: tuple[IP, ...]

    def rate(self, kind: str, to: IP, seconds: float) -> float:
        """One transfer; what comes after its beginning, Mbit/s."""
        words = ("send", str(to), str(PORT), str(BEGIN_S + seconds + AFTER_S), kind)
        done = self._ended()
        sender = self.client.spawn_python(parcel.__name__, *words)
        time.sleep(BEGIN_S)
        began = time.monotonic()
        time.sleep(seconds)
        ended = time.monotonic()
        sender.wait(60.0)
        if not within(UP_LIMIT_S, lambda: self._ended() > done):
            raise ProgramFailed(f"nobody got what {kind} sent to {to}: {sender.text()}")
        told = [one for one in self._told() if began <= one["at"] <= ended]
        if kind == "mptcp" and '"subflows": 1, "fallback": 0' not in sender.text():
            raise ProgramFailed(f"one path only: {sender.text()[-200:]}")
        lasted, got = told[-1]["at"] - told[0]["at"], told[-1]["bytes"] - told[0]["bytes"]
        return got * 8 / lasted / 1e6

    def _told(self) -> list[dict[str, float]]:
        return [json.loads(one) for one in self.served.text().splitlines() if one[:1] == "{"]

    def _ended(self) -> int:
        return sum("ended" in one for one in self._told())


def plain(world: World) -> Row:
    """The control's row. The second path is used by routes to its two ends."""
    _, client, server, boxes = two_paths(world, LINK_BIT_S, PLAIN)
    near, far = (boxes[name] for name in PATHS[1])
    for host, by, there in (
        (client, near, server.address(FAMILY, far.name)),
        (server, far, client.address(FAMILY, near.name)),
    ):
        host.run("ip", "route", "add", str(there), "via", str(by.address(FAMILY, host.name)))
    _widen(client, server)
    to = tuple(server.address(FAMILY, PLAIN + name) for _, name in PATHS)
    return Row(client, _serve(server), to)


def measure(bench: Bench) -> Iterator[Figure]:
    """Take turns: each path alone, then both."""
    control = plain(bench.world)
    ours = signaled(bench)
    seconds = 2.0 if bench.quick else 5.0
    samples = in_turns(
        bench.rounds(7),
        {
            "west": lambda: control.rate("tcp", control.to[0], seconds),
            "east": lambda: control.rate("tcp", control.to[1], seconds),
            "both": lambda: ours.rate("mptcp", ours.to[0], seconds),
        },
    )
    sums = [west + east for west, east in zip(samples["west"], samples["east"], strict=True)]
    yield compared(
        "MPTCP over two signaled paths of 50 Mbit/s each",
        "Mbit/s",
        samples["both"],
        sums,
        reach=0.90,
        note="control: the sum of the two, plain TCP, each alone",
    )


def signaled(bench: Bench) -> Row:
    """Our row: gates on both paths, agents at both ends."""
    core, client, server, boxes = two_paths(bench.world, LINK_BIT_S)
    _widen(client, server)
    served = _serve(server)
    daemons, service = bench.daemons, service_of(PORT)
    for name, box in boxes.items():
        inside = client if name in client.addresses else server
        daemons.gate(box, inside=inside, outside=core, policy=ALLOW_LAB)
    host = daemons.host(client, mptcp=True)
    peer = daemons.host(server, {service: PORT}, mptcp=True)
    daemons.start()
    return Row(client, served, (host.address(peer.name, FAMILY),))


def _serve(server: Node) -> Process:
    return server.spawn_python(parcel.__name__, "serve", str(PORT), ready="ready")


def _widen(*hosts: Node) -> None:
    for host in hosts:
        for name in ("tcp_rmem", "tcp_wmem"):
            host.run("sysctl", "-qw", f"net.ipv4.{name}=4096 131072 {BUFFER_BYTES}")
