"""Where figures are measured: two rows of namespaces, one with our daemons and one without.

    client ──inside── gate ──outside── server          signaled, by the server's virtual address
    p-client ──────── p-gate ───────── p-server        plain routing: never saw a table of ours

The second row is the control: a namespace that has once had a rule of ours (a routing rule, a
tproxy statement) is a little slower ever after, so plain routing is measured where there was none.
What one box costs is seen by putting the tables of the others to sleep (nftables' `dormant` flag:
no chain of the table is hooked to anything) and waking them again, while the daemons run. One core
has the sender, the other the receiver, always.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wayside.core.address import IP
from wayside.kernel.names import TABLE
from wayside.lab.daemons import Daemon, Daemons
from wayside.lab.world import Node, World
from wayside.runtime.names import service_of

HERE = Path(__file__).resolve().parent
PORTS = (5201, 7007)
"""What the server offers: iperf3 and everything else."""

ALLOW_LAB = """
default = "reject"
[[rule]]
name = "lab-may"
from = ["*.lab"]
to = ["*.lab"]
action = "allow"
"""


class Bench:
    """One measure's world. `near`, `far`: the first and the last core that we may use."""

    def __init__(self, out: Path, quick: bool) -> None:
        self.out = out
        self.quick = quick
        cores = sorted(os.sched_getaffinity(0))
        self.near, self.far = cores[0], cores[-1]
        self.world = World(out)
        self.daemons = Daemons(out)

    def rounds(self, full: int, quick: int = 2) -> int:
        """How often to take turns."""
        return quick if self.quick else full

    def line(self, *, delay_ms: float = 0, lifetime_s: float = 120) -> Line:
        """Build the row, start its daemons. `delay_ms`: one way, between client and gate."""
        delays = {1: delay_ms} if delay_ms else None
        client, middle, server = self.world.chain("client", "gate", "server", delay_ms=delays)
        services = {service_of(port): port for port in PORTS}
        daemons = self.daemons
        host = daemons.host(client, lifetime_s=lifetime_s)
        peer = daemons.host(server, services, lifetime_s=lifetime_s)
        gate = daemons.gate(
            middle, inside=client, outside=server, policy=ALLOW_LAB, lifetime_s=lifetime_s
        )
        daemons.start()
        virtual = {family: host.address(peer.name, family) for family in (4, 6)}
        return Line(host, gate, peer, virtual, self._plain_row(delay_ms))

    def _plain_row(self, delay_ms: float) -> tuple[Node, Node]:
        """The same row with nothing but routes; its ends."""
        left, middle, right = (self.world.node(f"p-{end}") for end in ("client", "gate", "server"))
        near = self.world.link(left, middle, delay_ms=delay_ms)
        far = self.world.link(middle, right)
        middle.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.world.route(left, far, middle)
        self.world.route(right, near, middle)
        return left, right

    def compiled(self, name: str) -> Path:
        """A C program of this folder, compiled; raises where there is no compiler."""
        program = self.out / name
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise RuntimeError("hint: apt install gcc (what sends that fast is in C)")
        words = (compiler, "-O2", "-Wall", "-o", str(program), str(HERE / f"{name}.c"))
        subprocess.run(words, check=True, timeout=30)
        return program


@dataclass(frozen=True, slots=True)
class Way:
    """From whom, by which address, to whom."""

    sender: Node
    to: IP
    receiver: Node


@dataclass(frozen=True, slots=True)
class Line:
    """Both rows. `virtual`: the server's address on the client, by family."""

    client: Daemon
    gate: Daemon
    server: Daemon
    virtual: Mapping[int, IP]
    plain_ends: tuple[Node, Node]

    @property
    def receivers(self) -> tuple[Node, Node]:
        """The servers of both rows."""
        return self.server.node, self.plain_ends[1]

    def signaled(self, family: int) -> Way:
        """As an unmodified application goes whose host has an agent."""
        return Way(self.client.node, self.virtual[family], self.server.node)

    def wire(self, family: int) -> Way:
        """Between the same hosts, without the hosts' rewriting."""
        return Way(self.client.node, self.server.node.address(family), self.server.node)

    def plain(self, family: int) -> Way:
        """The control: the other row."""
        sender, receiver = self.plain_ends
        return Way(sender, receiver.address(family), receiver)

    @contextmanager
    def asleep(self, *daemons: Daemon) -> Generator[None]:
        """The tables of these daemons are not hooked to anything meanwhile."""
        for daemon in daemons:
            daemon.node.run("nft", f"add table inet {TABLE} {{ flags dormant; }}")
        try:
            yield
        finally:
            for daemon in daemons:
                daemon.node.run("nft", f"add table inet {TABLE}")


def in_turns(rounds: int, takes: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Take one sample of each, again and again, there and back (A B B A), for so many rounds."""
    samples: dict[str, list[float]] = {name: [] for name in takes}
    for turn in range(rounds):
        for name in list(takes)[:: -1 if turn % 2 else 1]:
            samples[name].append(takes[name]())
    return samples
