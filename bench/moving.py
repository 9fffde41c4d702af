"""Rows of namespaces whose ends move, and what a move did to the flows between them.

    client ── west ──┐        ┌── north ── server           signaled
      └────── east ──┴─ core ─┴── south ─────┘
    p-client, p-west ...                                    laid out alike: the control

A gap is what a receiver saw: from the last that came before it until the next that came. Of a move
the longest one counts that touches it. When a new address is up, the kernel says (`ip monitor`);
all clocks are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from flowing import THRESHOLD_S
from place import HERE

from wayside.core.address import IP
from wayside.lab.daemons import within
from wayside.lab.enclosure import PYTHON
from wayside.lab.gaps import told
from wayside.lab.roaming import Access, Roamer, crossroads, roamer, ways_to
from wayside.lab.world import Node, Process, ProgramFailed, World

NEAR, FAR = ("west", "east"), ("north", "south")
TCP_PORTS = {"up": 7070, "down": 7071}
UDP_PORTS = {"up": 7080, "down": 7081}
FLOW_S = 900.0
"""Flows outlive the measure, whose enclosure ends them."""

SETTLE_S = 0.4
"""Between moves at the least."""

LIMIT_S = 8.0


@dataclass(slots=True)
class Row:
    """Two hosts, each with two ways into the same core."""

    client: Roamer
    server: Roamer

    @property
    def hosts(self) -> Mapping[str, Roamer]:
        """By what they are."""
        return {"client": self.client, "server": self.server}


def row(world: World, prefix: str = "", delay_ms: float = 0) -> Row:
    """Lay it out. `delay_ms`: of each box's link to the core, one way: a fourth of a round trip."""
    core = world.node(f"{prefix}core")
    boxes = {name: world.node(f"{prefix}{name}") for name in (*NEAR, *FAR)}
    crossroads(world, core, list(boxes.values()), delay_ms)
    client = roamer(world, f"{prefix}client", [boxes[name] for name in NEAR])
    server = roamer(world, f"{prefix}server", [boxes[name] for name in FAR])
    for host in (client, server):
        ways_to(world, core, host)
    return Row(client, server)


def here_and_there(host: Roamer) -> tuple[Access, Access]:
    """The link that a host has an address on, and the other one."""
    here, there = sorted(host.links.values(), key=lambda one: not one.number)
    return here, there


@dataclass(slots=True)
class AddressNews:
    """When the addresses of a node came, as its kernel tells it."""

    node: Node
    _process: Process = field(init=False)
    _ahead_s: float = field(init=False)
    """Of CLOCK_MONOTONIC: the time of day."""

    def __post_init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()
        self._process = self.node.spawn("ip", "-ts", "-o", "monitor", "address")

    def up(self, address: IP) -> float | None:
        """When an address came the last time (monotonic s), or None."""
        for line in reversed(self._process.text().splitlines()):
            if f" {address}/" in line and "Deleted" not in line:
                stamp = line[1 : line.index("]")]
                return datetime.fromisoformat(stamp).timestamp() - self._ahead_s
        return None


@dataclass(frozen=True, slots=True)
class Cores:
    """What a program and its children have had of the cores, and waited for them, so far."""

    busy_ms: float
    waited_ms: float

    @classmethod
    def of(cls, *processes: Process) -> Cores:
        """Read it from /proc (`schedstat`: nanoseconds on a core, and ready without one)."""
        busy = waited = 0
        pids = [process.popen.pid for process in processes]
        while pids:
            for task in Path(f"/proc/{pids.pop()}/task").iterdir():
                on, off, *_ = (task / "schedstat").read_text().split()
                busy, waited = busy + int(on), waited + int(off)
                pids += [int(child) for child in (task / "children").read_text().split()]
        return cls(busy / 1e6, waited / 1e6)

    def since(self, before: Cores) -> Cores:
        """The difference."""
        return Cores(self.busy_ms - before.busy_ms, self.waited_ms - before.waited_ms)


@dataclass(frozen=True, slots=True)
class Gap:
    """When a receiver heard the last before a silence, and how long that was.

    `dead`: it has not ended yet.
    """

    at: float
    ms: float
    dead: bool = False

    @property
    def end(self) -> float:
        """When it heard something again."""
        return self.at + self.ms / 1000

    def after(self, up: float) -> float:
        """How much of it is later than this (ms)."""
        return max(0.0, self.end - max(up, self.at)) * 1000


@dataclass(slots=True)
class Flows:
    """Flows under way between two hosts."""

    server: Node
    client: Node
    limit_s: float = LIMIT_S
    """What has heard nothing for so long after a move is dead."""
    _heard: list[Process] = field(default_factory=list[Process])
    _names: list[str] = field(default_factory=list[str])

    def begin(self, to: IP, kind: str, way: str) -> str:
        """One more flow; its name. `kind`, `way`: as in flowing.py. Raises ProgramFailed.

        A port of its own for each way: a kernel may still have something of the last flow.
        """
        program = (*PYTHON, str(HERE / "flowing.py"))
        port = str((UDP_PORTS if kind == "udp" else TCP_PORTS)[way])
        self._heard.append(self.server.spawn(*program, "serve", kind, port, ready="ready"))
        words = (*program, "ask", kind, str(to), port, way, str(FLOW_S))
        name = f"{'udp' if kind == 'udp' else 'tcp'} {way}"
        self.watch(self.client.spawn(*words), name)
        return name

    def watch(self, process: Process, name: str) -> None:
        """One more flow, of a program that says what flowing.py does. Returns when it has begun."""
        self._heard.append(process)
        self._names.append(name)
        begun = time.monotonic()
        if not within(LIMIT_S, lambda: name in self._alive(begun)):
            raise ProgramFailed(
                f"{self.client.name}: {name} does not begin: {process.text()[-300:]}"
            )

    def end(self) -> None:
        """Kill the programs."""
        for process in self._heard:
            process.popen.kill()
            process.wait(LIMIT_S)
        self._heard.clear()
        self._names.clear()

    def after(self, began: float) -> dict[str, Gap]:
        """What a move that began then did to each flow: its gap, or the least that is noticed.

        Returns when nothing is silent any more. A flow that stays silent is dead.
        """
        time.sleep(SETTLE_S)
        settled = began + SETTLE_S
        within(self.limit_s, lambda: self._alive(settled) == set(self._names))
        alive, longest = self._alive(settled), self._longest(began)
        least, dead = Gap(began, THRESHOLD_S * 1000), Gap(began, self.limit_s * 1000, dead=True)
        return {name: longest.get(name, least) if name in alive else dead for name in self._names}

    def _alive(self, since: float) -> set[str]:
        """Flows that were heard after this."""
        return {line["flow"] for line in self._lines() if line.get("heard", 0.0) > since}

    def _longest(self, since: float) -> dict[str, Gap]:
        """The longest gap of each flow of those that ended after this."""
        longest: dict[str, Gap] = {}
        for line in self._lines():
            if "gap_ms" not in line:
                continue
            gap, name = Gap(line["at"], line["gap_ms"]), line["flow"]
            if gap.end > since and (name not in longest or gap.ms > longest[name].ms):
                longest[name] = gap
        return longest

    def _lines(self) -> list[dict[str, Any]]:
        return [line for process in self._heard for line in told(process)]


def parts(marks: Mapping[str, Sequence[float]]) -> str:
    """Medians of where the time went, for a note."""
    return ", ".join(f"{name} {median(values):.1f}" for name, values in marks.items() if values)
