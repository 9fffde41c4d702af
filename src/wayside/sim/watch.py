"""Those who look on: a checker sees certain moments of a run, and may say that it is wrong.

A checker knows the whole world, and no machine knows of a checker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wayside.core.address import Flow
from wayside.core.effects import Effect
from wayside.core.events import Event
from wayside.core.gate import Gate
from wayside.core.host import Host
from wayside.core.rendezvous import Rendezvous
from wayside.core.rule import Cid
from wayside.core.stand_in import StandIn
from wayside.kernel.memory import Verdict
from wayside.kernel.plan import Change, InstalledRule

Machine = Host | Gate | Rendezvous | StandIn


def host_of(machine: Machine | None) -> Host | None:
    """What of a machine has connections of its own."""
    if isinstance(machine, StandIn):
        return machine.served[0].host
    machine = machine.host if isinstance(machine, Rendezvous) else machine
    return machine if isinstance(machine, Host) else None


def gate_of(machine: Machine | None) -> Gate | None:
    """What of a machine lets other people's connections through."""
    machine = machine.gate if isinstance(machine, Rendezvous | StandIn) else machine
    return machine if isinstance(machine, Gate) else None


def speaks(machine: Machine, cid: Cid) -> Host | None:
    """The host that says what a machine says of a connection; None: it passes it on."""
    host = host_of(machine)
    return host if host is machine or (host and cid in host.connections) else None


class Violation(Exception):
    """What must never be, is. `check`: which checker says so."""

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check
        self.text = text


class Site(Protocol):
    """What a checker may look at of a box that runs a machine."""

    name: str
    honest: bool
    secret: bytes
    """Of this boot, 32 bytes: what its tokens are sealed with."""

    @property
    def taken(self) -> int:
        """Entries that its quota counts."""
        ...

    @property
    def machine(self) -> Machine | None:
        """The machine, or None while its agent is dead."""
        ...

    @property
    def local_now(self) -> float:
        """The box's own monotonic clock."""
        ...

    @property
    def unix_s(self) -> float:
        """The box's own wall clock."""
        ...

    @property
    def key(self) -> bytes:
        """Its public key, 32 bytes."""
        ...

    @property
    def rules(self) -> list[InstalledRule]:
        """What its kernel holds."""
        ...


@dataclass(slots=True)
class Step:
    """A machine was told something, and said something. `now`: true time.

    Not frozen, because there are many and that would cost a tenth of a run; nobody writes here.
    """

    site: Site
    machine: Machine
    event: Event
    effects: list[Effect]
    now: float


class Watcher:
    """Looks on, and raises Violation. Every method may be left as it is."""

    name = ""

    def on_step(self, step: Step) -> None:
        """A machine took an event."""

    def on_changes(self, site: Site, changes: Sequence[Change], now: float) -> None:
        """A kernel made changes."""

    def on_report(self, site: Site, effect: Effect, now: float) -> None:
        """A report of a machine got to whoever waits for it."""

    def on_admitted(self, site: Site, flow: Flow, verdict: Verdict, now: float) -> None:
        """A data packet passed a gate by one of its rules."""

    def on_rewritten(self, site: Site, flow: Flow, now: float) -> None:
        """A host sent a data packet that a rule gave this 5-tuple."""

    def on_subflow(self, site: Site, flow: Flow, now: float) -> None:
        """What a host has sent so was a packet of a further subflow of MPTCP."""

    def on_sent(self, site: Site, raw: bytes, outwards: bool, now: float) -> None:
        """A box with a machine sends a packet; `outwards`: by an interface on its outside."""

    def on_died(self, site: Site, now: float) -> None:
        """An agent was killed."""

    def on_tick(self, sites: Sequence[Site], now: float) -> None:
        """Some time has passed."""

    def on_end(self, sites: Sequence[Site], now: float) -> None:
        """All was closed, and every lifetime is over."""

    def fail(self, text: str) -> None:
        """Raise Violation in this checker's name."""
        raise Violation(self.name, text)


class Watch(Watcher):
    """All checkers of a world, one after the other; each is told what it asks for."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._steps = [w.on_step for w in watchers if type(w).on_step is not Watcher.on_step]
        self._ticks = [w.on_tick for w in watchers if type(w).on_tick is not Watcher.on_tick]
        self._sent = [w.on_sent for w in watchers if type(w).on_sent is not Watcher.on_sent]
        self._watchers = tuple(watchers)

    def on_step(self, step: Step) -> None:
        """Tell those who look at steps."""
        for tell in self._steps:
            tell(step)

    def on_changes(self, site: Site, changes: Sequence[Change], now: float) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.on_changes(site, changes, now)

    def on_report(self, site: Site, effect: Effect, now: float) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.on_report(site, effect, now)

    def on_admitted(self, site: Site, flow: Flow, verdict: Verdict, now: float) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.on_admitted(site, flow, verdict, now)

    def on_rewritten(self, site: Site, flow: Flow, now: float) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.on_rewritten(site, flow, now)

    def on_subflow(self, site: Site, flow: Flow, now: float) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.on_subflow(site, flow, now)

    def on_sent(self, site: Site, raw: bytes, outwards: bool, now: float) -> None:
        """Tell those who look at packets."""
        for tell in self._sent:
            tell(site, raw, outwards, now)

    def on_died(self, site: Site, now: float) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.on_died(site, now)

    def on_tick(self, sites: Sequence[Site], now: float) -> None:
        """Tell those who look from time to time."""
        for tell in self._ticks:
            tell(sites, now)

    def on_end(self, sites: Sequence[Site], now: float) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.on_end(sites, now)
