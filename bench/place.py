"""Where figures are measured: client, gate and server in a row, their daemons running.

    client ──inside── gate ──outside── server

The control of most figures is the same namespaces with plain routing. Our tables are put to sleep
for it (nftables' `dormant` flag: no chain of the table is hooked to anything) and woken again, in
milliseconds, with all that is in them: so A and B can be taken in turns while the daemons run.
One core has the sender, the other the receiver, always.
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
from wayside.lab.world import World
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
        sides = {"inside": client, "outside": server}
        gate = daemons.gate(middle, **sides, policy=ALLOW_LAB, lifetime_s=lifetime_s)
        daemons.start()
        return Line(host, gate, peer, {f: host.address(peer.name, f) for f in (4, 6)})

    def compiled(self, name: str) -> Path:
        """A C program of this folder, compiled; raises where there is no compiler."""
        program = self.out / name
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise RuntimeError("hint: apt install gcc (64-byte packets need a sender in C)")
        words = (compiler, "-O2", "-Wall", "-o", str(program), str(HERE / f"{name}.c"))
        subprocess.run(words, check=True, timeout=30)
        return program


@dataclass(frozen=True, slots=True)
class Line:
    """The row with its daemons. `virtual`: the server's address on the client, by family."""

    client: Daemon
    gate: Daemon
    server: Daemon
    virtual: Mapping[int, IP]

    def to(self, family: int, *, virtual: bool) -> IP:
        """The server as the client may name it: virtually, or by its address on the wire."""
        return self.virtual[family] if virtual else self.server.node.address(family)

    @contextmanager
    def asleep(self, *daemons: Daemon) -> Generator[None]:
        """The tables of these daemons are as if they were not there; none named: all."""
        chosen = daemons or (self.client, self.gate, self.server)
        for daemon in chosen:
            daemon.node.run("nft", f"add table inet {TABLE} {{ flags dormant; }}")
        try:
            yield
        finally:
            for daemon in chosen:
                daemon.node.run("nft", f"add table inet {TABLE}")


def in_turns(rounds: int, takes: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Take one sample of each, again and again, there and back (A B B A), for so many rounds."""
    samples: dict[str, list[float]] = {name: [] for name in takes}
    for turn in range(rounds):
        for name in list(takes)[:: -1 if turn % 2 else 1]:
            samples[name].append(takes[name]())
    return samples
