"""Checkers of what boxes keep: rules for their lifetimes, nothing for strangers.

Each holds one promise of the protocol, in one small class, by means of its own: it looks at what
was really said (said.py) and at the packets, and believes no machine. A promise that a machine
breaks ends the run with a Violation. Packets are checked in agreement.py, bytes to strangers in
amplification.py, moves and places in moving.py, what the two ends believe in beliefs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wayside.core import constants as c
from wayside.core.address import Flow
from wayside.core.codec import DecodeError, decode_body
from wayside.core.connection import State
from wayside.core.crypto import BadSignature, verify
from wayside.core.effects import ChangeRules
from wayside.core.events import DatagramReceived
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Confirm,
    Message,
    Open,
    OpenTerms,
    decode,
)
from wayside.core.opening import SIGNATURE_CONTEXT
from wayside.core.passage import Stage
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.memory import Verdict
from wayside.kernel.plan import Change, InstalledRule, Put

from .agreement import SETTLE_S
from .said import Said
from .watch import Machine, Site, Step, Watcher, gate_of, host_of, speaks
from .wire import FiveTuple, five_tuple


@dataclass(slots=True)
class _Bound:
    """How long a rule may live, by the checker's own reckoning, in the box's own time."""

    until: float
    lifetime_s: float
    renewed: bool


class LifetimeCheck(Watcher):
    """A rule never outlives its lifetime; without CONFIRM that is 5 seconds.

    At a host, whose rules have none: it never outlives its connection.
    """

    name = "lifetime"

    def __init__(self) -> None:
        self._bounds: dict[tuple[str, bool, FiveTuple], _Bound] = {}
        self._orphans: dict[tuple[str, Cid], float] = {}

    def on_step(self, step: Step) -> None:
        """What a gate asks for is bounded."""
        gate = gate_of(step.machine)
        if gate is None:
            return
        event = step.event
        confirmed = isinstance(event, DatagramReceived) and event.data[4:5] == bytes([Confirm.TYPE])
        most = gate.context.lifetime_s if confirmed else c.PENDING_S
        for effect in step.effects:
            for rule in effect.put if isinstance(effect, ChangeRules) else ():
                if rule.action is Action.DROP:
                    continue
                if rule.lifetime_s is None or rule.lifetime_s > most:
                    self.fail(f"{step.site.name} wants {rule.match} for {rule.lifetime_s} s")
                if rule.renewed_by_packets and not confirmed:
                    self.fail(f"{step.site.name} lets packets renew {rule.match} unconfirmed")

    def on_changes(self, site: Site, changes: Sequence[Change], now: float) -> None:
        """Reckon."""
        for change in changes:
            key = _place(site, change.rule)
            lifetime_s = change.rule.lifetime_s
            if isinstance(change, Put) and lifetime_s is not None:
                until = site.local_now + lifetime_s
                self._bounds[key] = _Bound(until, lifetime_s, change.rule.renewed_by_packets)

    def on_admitted(self, site: Site, flow: Flow, verdict: Verdict, now: float) -> None:
        """A packet passed by a rule that must be in its lifetime, and may renew it."""
        bound = self._bounds.get((site.name, False, five_tuple(flow)))
        if bound is None or site.local_now > bound.until + 1e-3:
            self.fail(f"{site.name} lets {flow} through after the lifetime of its rule")
        elif bound.renewed:
            bound.until = site.local_now + bound.lifetime_s

    def on_tick(self, sites: Sequence[Site], now: float) -> None:
        """Look at the kernels themselves."""
        for site in sites:
            rules = site.rules
            for found in rules:
                if found.rule.lifetime_s is None:
                    continue
                bound = self._bounds.get(_place(site, found.rule))
                if bound is None or site.local_now > bound.until + 1e-3:
                    self.fail(f"{site.name} has {found.rule.match} after its lifetime")
            if rules or self._orphans:
                self._look_for_orphans(site, rules, now)

    def on_died(self, site: Site, now: float) -> None:
        """Whoever is dead cannot tidy up."""
        for key in [key for key in self._orphans if key[0] == site.name]:
            del self._orphans[key]

    def _look_for_orphans(self, site: Site, rules: Sequence[InstalledRule], now: float) -> None:
        machine = site.machine
        if machine is None:
            return
        lasting = [found.rule for found in rules if found.rule.action is not Action.DROP]
        present = {rule.owner: rule for rule in lasting}
        for cid, rule in present.items():
            if _is_wanted(machine, cid):
                self._orphans.pop((site.name, cid), None)
            elif now > self._orphans.setdefault((site.name, cid), now) + SETTLE_S:
                self.fail(f"{site.name} still has {rule.match} of a connection that is over")
        for key in [key for key in self._orphans if key[0] == site.name and key[1] not in present]:
            del self._orphans[key]


def _place(site: Site, rule: Rule) -> tuple[str, bool, FiveTuple]:
    """Where a kernel has a rule: one that drops stands beside one that lets in."""
    return site.name, rule.action is Action.DROP, five_tuple(rule.match)


def _is_wanted(machine: Machine, cid: Cid) -> bool:
    host, gate = host_of(machine), gate_of(machine)
    if gate is not None:
        passage = gate.passages.get(cid)
        return passage is None or passage.stage is not Stage.ENDED
    connection = host.connections.get(cid) if host else None
    return connection is not None and connection.state not in (State.CLOSING, State.ENDED)


class AuthenticationCheck(Watcher):
    """No state before authentication.

    A datagram makes a connection at a host only when it is an OPEN for this host with a signature
    that holds, at a gate only when it is an ACCEPT with one; and what an honest key signed, its
    owner said. An OPEN leaves nothing at a gate.
    """

    name = "authentication"

    def __init__(self, said: Said, honest_keys: Callable[[bytes], bool]) -> None:
        self._said = said
        self._is_honest = honest_keys
        self._known: dict[str, dict[Cid, State | Stage]] = {}

    def on_step(self, step: Step) -> None:
        """Compare what the machine remembers with what it remembered before."""
        host, gate = host_of(step.machine), gate_of(step.machine)
        now: dict[Cid, State | Stage] = {}
        if gate is not None:
            now.update({cid: passage.stage for cid, passage in gate.passages.items()})
        if host is not None:
            now.update({cid: connection.state for cid, connection in host.connections.items()})
        name = step.site.name
        before = self._known.get(name)
        self._known[name] = now
        if before is None or now == before or not isinstance(step.event, DatagramReceived):
            return
        for cid, state in now.items():
            if cid not in before:
                self._check_new(step, step.event.data, cid)
            elif state is State.CONNECTED and before[cid] is not State.CONNECTED:
                self._check_connected(step, step.event.data, cid)

    def on_died(self, site: Site, now: float) -> None:
        """It remembers nothing; what it finds again is not new."""
        self._known.pop(site.name, None)

    def _check_new(self, step: Step, data: bytes, cid: Cid) -> None:
        where = f"{step.site.name} keeps {cid.hex()[:8]}"
        try:
            header, message = decode(data)
        except DecodeError:
            return self.fail(f"{where} for bytes that are no message")
        if header.cid != cid:
            return self.fail(f"{where} for a message about another connection")
        wanted = Open if speaks(step.machine, cid) else Accept
        if not isinstance(message, wanted):
            return self.fail(f"{where} for {type(message).__name__.upper()}")
        signed = header.signing + message.signed
        terms = _terms(message)
        if isinstance(terms, OpenTerms) and terms.to_key != step.site.key:
            return self.fail(f"{where} for an OPEN to somebody else")
        try:
            verify(terms.from_key, message.signature, SIGNATURE_CONTEXT, signed)
        except BadSignature:
            return self.fail(f"{where} before its signature was checked")
        if self._is_honest(terms.from_key) and message.signed not in self._said.signed:
            return self.fail(f"{where} for what the owner of its key never said")
        return None

    def _check_connected(self, step: Step, data: bytes, cid: Cid) -> None:
        """An end believes in a connection only after the other end's own word."""
        host = speaks(step.machine, cid)
        if host is None or not self._is_honest(host.connections[cid].agreement.peer.key):
            return
        _, message = decode(data)
        said = self._said
        match message:
            case Accept() if message.signed in said.signed:
                return
            case Confirm() if (cid, message.mac) in said.shown.confirms:
                return
            case Open() if said.shown.place(message) is not None:
                return
            case _:
                kind = type(message).__name__.upper()
                self.fail(f"{step.site.name} is connected by a {kind} that its peer never said")


def _terms(message: Message) -> OpenTerms | AcceptTerms:
    if isinstance(message, Open):
        return decode_body(OpenTerms, message.signed)
    assert isinstance(message, Accept)
    return decode_body(AcceptTerms, message.signed)
