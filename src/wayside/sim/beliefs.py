"""Checkers of what ends believe: that they agree, that they are answered, that nothing is left."""

from __future__ import annotations

from collections.abc import Sequence

from wayside.core import constants as c
from wayside.core.address import Flow
from wayside.core.connection import Connection, State
from wayside.core.effects import Effect, ReportClosed, ReportOpened, ReportRefused
from wayside.core.ends import Initiator, Responder
from wayside.core.events import OpenRequested
from wayside.core.host import Host
from wayside.core.messages import Hop
from wayside.core.rule import Cid

from .said import Said
from .watch import Site, Step, Watcher, gate_of, host_of
from .wire import five_tuple

ANSWER_S_MAX = c.OPEN_TIMEOUT_S + 2.0
"""An application's request has ended by then: the patience of OPEN, and a slow kernel's time."""


class TupleCheck(Watcher):
    """Two ends that both believe in a connection agree on its 5-tuples, its keys, and its hops."""

    name = "tuples"

    def __init__(self, said: Said) -> None:
        self._said = said
        self._hosts: dict[str, Site] = {}

    def on_step(self, step: Step) -> None:
        """Compare the two ends of the connection in question."""
        host = host_of(step.machine)
        if host is None:
            return
        self._hosts[step.site.name] = step.site
        cid = _cid_in(step)
        ours = host.connections.get(cid) if cid else None
        if ours is None or ours.state is not State.CONNECTED or not step.site.honest:
            return
        for name, site in self._hosts.items():
            there = host_of(site.machine)
            if name == step.site.name or not site.honest or there is None:
                continue
            theirs = there.connections.get(ours.agreement.cid)
            if theirs is not None and theirs.state is State.CONNECTED:
                self._compare(step.site, ours, site, theirs)

    def _compare(self, a: Site, ours: Connection, b: Site, theirs: Connection) -> None:
        where = f"{a.name} and {b.name} both believe in {ours.agreement.cid.hex()[:8]}, but"
        mine, other = ours.agreement.wire, theirs.agreement.wire.reversed()
        ends = ((a, mine), (b, other.reversed()))
        if ours.keys.seq == theirs.keys.seq and mine != other:
            found = self._said.reach(ours.agreement.cid, five_tuple(mine))
            moving = _offered(ours) == other or _offered(theirs) == mine.reversed()
            # Whom somebody on the path told a wrong port hears it as its CONFIRM fails; or, if what
            # it asks next confirms, by the answer to that. Spec section 11.
            edited = self._said.flows.edited
            misled = any((one.name, five_tuple(flow)) in edited for one, flow in ends)
            if five_tuple(other) not in found and not moving and not misled:
                self.fail(f"{where} for {mine} and {theirs.agreement.wire}")
        if (ours.agreement.peer.key, theirs.agreement.peer.key) != (b.key, a.key):
            self.fail(f"{where} one of them with somebody else")
        for seq, key in ours.keys.by_seq.items():
            if theirs.keys.by_seq.get(seq, key) != key:
                self.fail(f"{where} with two keys for seq {seq}")
        if ours.keys.seq == theirs.keys.seq and _boxes(ours.hops) != _boxes(theirs.hops):
            self.fail(f"{where} they saw different hops")


def _offered(connection: Connection) -> Flow | None:
    """Where an end goes as soon as a CONFIRM has shown the other end there. Spec: R-5.4.6.

    Both may move at once, and each be agreed on what it asked itself before it hears of the other.
    """
    offer = connection.offer if isinstance(connection, Initiator | Responder) else None
    return offer.after if offer is not None and not offer.confirmed else None


def _cid_in(step: Step) -> Cid | None:
    data = getattr(step.event, "data", None)
    cid = getattr(step.event, "cid", None)
    if cid is not None:
        return cid
    return Cid(data[16:32]) if isinstance(data, bytes) and len(data) >= c.HEADER_BYTES else None


class RequestCheck(Watcher):
    """Every request ends: connected, rejected with a reason, or timed out within a bound."""

    name = "requests"

    def __init__(self) -> None:
        self._asked: dict[tuple[str, Cid], float] = {}

    def on_step(self, step: Step) -> None:
        """A request begins."""
        host = host_of(step.machine)
        if isinstance(step.event, OpenRequested) and host is not None:
            known = host.connections.get(step.event.cid)
            if known is not None and known.keys.by_seq:
                return  # it is up, and another path of it is tried: nobody waits for that
            self._asked.setdefault((step.site.name, step.event.cid), step.now)

    def on_report(self, site: Site, effect: Effect, now: float) -> None:
        """A request ends."""
        if not isinstance(effect, ReportOpened | ReportRefused | ReportClosed):
            return
        self._asked.pop((site.name, effect.cid), None)
        if isinstance(effect, ReportRefused) and isinstance(site.machine, Host):
            silent = not effect.reason or (effect.code != 0 and not effect.by)
            if silent:
                self.fail(f"{site.name} was refused by {effect.by!r} without a reason")

    def on_died(self, site: Site, now: float) -> None:
        """Who asked is dead."""
        for key in [key for key in self._asked if key[0] == site.name]:
            del self._asked[key]

    def on_tick(self, sites: Sequence[Site], now: float) -> None:
        """None may be open for too long."""
        for (name, cid), asked in self._asked.items():
            if now - asked > ANSWER_S_MAX:
                self.fail(f"{name} waits for {cid.hex()[:8]} for {now - asked:.1f} s")


class LeftoverCheck(Watcher):
    """When all is closed and every lifetime over, nothing is left anywhere, in rules or memory."""

    name = "leftovers"

    def on_end(self, sites: Sequence[Site], now: float) -> None:
        """Look into every kernel and every machine."""
        for site in sites:
            if site.rules:
                self.fail(f"{site.name} still has {site.rules[0].rule.match}")
            gate, host = gate_of(site.machine), host_of(site.machine)
            held = len(gate.passages) if gate is not None else 0
            held += len(host.connections) if host is not None else 0
            if held:
                self.fail(f"{site.name} still remembers {held} connections")
            if site.taken:
                self.fail(f"{site.name} still counts {site.taken} connections in its quota")


class OutcomeRecord(Watcher):
    """Not a check but a record: when whom was said no, with a code.

    `refused_at`: by the host that asked, whom it asked for, as reports name it, and the service.
    """

    name = "outcomes"

    def __init__(self) -> None:
        self.refused_at: dict[tuple[str, str, str], float] = {}
        self.opened = 0
        self.refused = 0

    def on_report(self, site: Site, effect: Effect, now: float) -> None:
        """Take note."""
        if not isinstance(site.machine, Host):
            return
        if isinstance(effect, ReportRefused):
            self.refused += 1
            if effect.code:
                self.refused_at[site.name, effect.peer, effect.service] = now
        elif isinstance(effect, ReportOpened) and not effect.refreshed:
            self.opened += 1


def _boxes(hops: Sequence[Hop]) -> list[tuple[bytes, int]]:
    """Who stands between.

    Each copy of an OPEN has tokens of its own, and a box that lies may grant each another lifetime;
    which one counts, CONFIRM says. Spec: R-5.2.1, R-5.4.3.
    """
    return [(hop.key, hop.role) for hop in hops]
