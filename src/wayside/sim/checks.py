"""Checkers of what boxes do: packets, rules, bytes to strangers, state for strangers.

Each holds one promise of the protocol, in one small class, by means of its own: it looks at what
was really said (said.py) and at the packets, and believes no machine. A promise that a machine
breaks ends the run with a Violation. What the two ends believe is checked in beliefs.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wayside.core import constants as c
from wayside.core.address import IP, Address, Flow
from wayside.core.codec import DecodeError, decode_body
from wayside.core.connection import State
from wayside.core.crypto import BadSignature, verify
from wayside.core.effects import ChangeRules
from wayside.core.events import DatagramReceived, OpenRequested
from wayside.core.gate import Gate, Stage
from wayside.core.host import Host
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Challenge,
    Close,
    Confirm,
    Message,
    Open,
    OpenTerms,
    decode,
)
from wayside.core.opening import SIGNATURE_CONTEXT
from wayside.core.policy import Direction, PolicyAction, Request
from wayside.core.rule import Cid
from wayside.kernel.memory import Verdict
from wayside.kernel.plan import Change, InstalledRule, Put

from .said import Said, sent_by
from .watch import Site, Step, Watcher
from .wire import FiveTuple, five_tuple, turned

SETTLE_S = 3.0
"""What was decided must be in the kernel by then, however slow a fault has made that."""

Owner = Callable[[IP], Site | None]
"""Whose address this is, or was last; None for boxes without a machine."""


class AgreementCheck(Watcher):
    """No data packet passes a gate, or leaves a host by a rule, without a live agreement.

    Of both ends, each for the addresses that are its own, in the same connection; and of the gate:
    its policy, and that nobody has closed the connection before its eyes. Until a CONFIRM has shown
    at this gate that the initiator is where it says, the responder's agreement has to do: no more
    is promised of pending rules, which live for 5 seconds.
    """

    name = "agreement"

    def __init__(self, said: Said, owner: Owner) -> None:
        self._said = said
        self._owner = owner
        self._closed: dict[tuple[str, Cid], float] = {}
        self._sealed: dict[tuple[str, Cid, bytes], bytes] = {}
        self._pending: dict[tuple[str, FiveTuple], bool] = {}

    def on_step(self, step: Step) -> None:
        """A gate that sees a true CLOSE has to act on it."""
        if not isinstance(step.machine, Gate) or not isinstance(step.event, DatagramReceived):
            return
        name, data = step.site.name, step.event.data
        if len(data) <= c.HEADER_BYTES or data[4] not in (Open.TYPE, Accept.TYPE, Close.TYPE):
            return
        cid = Cid(data[16:32])
        sealed = (name, cid, data[8:16])
        if data[4] == Open.TYPE:
            if any(sent.data[4] == Open.TYPE for sent in sent_by(step.effects)):
                self._sealed[sealed] = step.site.secret
            return
        if data[4] == Accept.TYPE:
            if any(isinstance(effect, ChangeRules) and effect.put for effect in step.effects):
                self._closed.pop((name, cid), None)
            return
        # A gate that lost power since has another secret, and cannot open the token in it.
        if data not in self._said.closes or self._sealed.get(sealed) != step.site.secret:
            return
        # What a gate has forgotten, its token opens no more; so it must not forget what
        # its kernel still lets through.
        held = cid in step.machine.passages or any(one.rule.owner == cid for one in step.site.rules)
        if held:
            self._closed.setdefault((name, cid), step.now)

    def on_died(self, site: Site, now: float) -> None:
        """What a killed agent was about to remove goes by its lifetime."""
        for key in [key for key in self._closed if key[0] == site.name]:
            del self._closed[key]

    def on_tick(self, sites: Sequence[Site], now: float) -> None:
        """What was closed before a gate's eyes is shut, whether packets try it or not."""
        if not self._closed:
            return
        for site in sites:
            for found in site.rules:
                closed = self._closed.get((site.name, found.rule.owner), now)
                if now > closed + SETTLE_S:
                    self.fail(f"{site.name} has {found.rule.match}, closed before its eyes")

    def on_admitted(self, site: Site, flow: Flow, verdict: Verdict, now: float) -> None:
        """A data packet passed a gate."""
        cids = self._agreed(flow)
        if cids is None:
            return
        if self._pending.get((site.name, five_tuple(flow)), False):
            cids = [*cids, *self._accepted(flow)]
        if not cids:
            self.fail(f"{site.name} lets {flow} through, which its two ends did not agree to")
        live = [cid for cid in cids if now <= self._closed.get((site.name, cid), now) + SETTLE_S]
        if not live:
            self.fail(f"{site.name} lets {flow} through, which was closed before its eyes")
        if isinstance(site.machine, Gate) and not any(
            self._allowed(site.machine, cid) for cid in live
        ):
            self.fail(f"{site.name} lets {flow} through, which its policy rejects")

    def on_changes(self, site: Site, changes: Sequence[Change], now: float) -> None:
        """Which rules of a gate have been confirmed."""
        for change in changes:
            rule = change.rule
            if isinstance(change, Put) and rule.lifetime_s is not None:
                pending = not rule.renewed_by_packets and rule.lifetime_s <= c.PENDING_S
                self._pending[site.name, five_tuple(rule.match)] = pending

    def on_rewritten(self, site: Site, flow: Flow, now: float) -> None:
        """A host sent a packet by a rule."""
        cids = self._agreed(flow)
        if cids is not None and not cids:
            self.fail(f"{site.name} sends {flow}, which its two ends did not agree to")

    def _agreed(self, flow: Flow) -> list[Cid] | None:
        """The connections that the honest ones of both ends agreed to; None: none is honest."""
        found: list[Cid] | None = None
        key = five_tuple(flow)
        for end, its_key in ((flow.source, key), (flow.destination, turned(key))):
            owner = self._owner(end.ip)
            if owner is not None and owner.honest:
                consent = self._said.consent(owner.name, its_key)
                found = [cid for cid in (consent if found is None else found) if cid in consent]
        return found

    def _accepted(self, flow: Flow) -> list[Cid]:
        """The connections whose responder agreed to this flow, whoever asked for it."""
        key = five_tuple(flow)
        ways = (key, turned(key))
        return [cid for cid, agreed in self._said.agreed.items() if five_tuple(agreed) in ways]

    def _allowed(self, gate: Gate, cid: Cid) -> bool:
        asked = self._said.asked.get(cid)
        if asked is None:
            return True
        terms = asked.terms
        return any(
            gate.context.policy.decide(
                Request(
                    terms.from_key,
                    None,
                    terms.to_key,
                    None,
                    terms.service,
                    terms.transport,
                    direction,
                )
            ).action
            is not PolicyAction.REJECT
            for direction in Direction
        )


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
        self._bounds: dict[tuple[str, FiveTuple], _Bound] = {}
        self._orphans: dict[tuple[str, Cid], float] = {}

    def on_step(self, step: Step) -> None:
        """What a gate asks for is bounded."""
        if not isinstance(step.machine, Gate):
            return
        event = step.event
        confirmed = isinstance(event, DatagramReceived) and event.data[4:5] == bytes([Confirm.TYPE])
        most = step.machine.context.lifetime_s if confirmed else c.PENDING_S
        for effect in step.effects:
            for rule in effect.put if isinstance(effect, ChangeRules) else ():
                if rule.lifetime_s is None or rule.lifetime_s > most:
                    self.fail(f"{step.site.name} wants {rule.match} for {rule.lifetime_s} s")
                if rule.renewed_by_packets and not confirmed:
                    self.fail(f"{step.site.name} lets packets renew {rule.match} unconfirmed")

    def on_changes(self, site: Site, changes: Sequence[Change], now: float) -> None:
        """Reckon."""
        for change in changes:
            key = (site.name, five_tuple(change.rule.match))
            lifetime_s = change.rule.lifetime_s
            if isinstance(change, Put) and lifetime_s is not None:
                until = site.local_now + lifetime_s
                self._bounds[key] = _Bound(until, lifetime_s, change.rule.renewed_by_packets)

    def on_admitted(self, site: Site, flow: Flow, verdict: Verdict, now: float) -> None:
        """A packet passed by a rule that must be in its lifetime, and may renew it."""
        bound = self._bounds.get((site.name, five_tuple(flow)))
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
                bound = self._bounds.get((site.name, five_tuple(found.rule.match)))
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
        present = {found.rule.owner: found.rule for found in rules}
        for cid, rule in present.items():
            if _is_wanted(machine, cid):
                self._orphans.pop((site.name, cid), None)
            elif now > self._orphans.setdefault((site.name, cid), now) + SETTLE_S:
                self.fail(f"{site.name} still has {rule.match} of a connection that is over")
        for key in [key for key in self._orphans if key[0] == site.name and key[1] not in present]:
            del self._orphans[key]


def _is_wanted(machine: Host | Gate, cid: Cid) -> bool:
    if isinstance(machine, Gate):
        passage = machine.passages.get(cid)
        return passage is None or passage.stage is not Stage.ENDED
    connection = machine.connections.get(cid)
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
        machine = step.machine
        now: dict[Cid, State | Stage] = (
            {cid: passage.stage for cid, passage in machine.passages.items()}
            if isinstance(machine, Gate)
            else {cid: connection.state for cid, connection in machine.connections.items()}
        )
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
        wanted = Accept if isinstance(step.machine, Gate) else Open
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
        machine = step.machine
        if not isinstance(machine, Host):
            return
        if not self._is_honest(machine.connections[cid].agreement.peer.key):
            return
        _, message = decode(data)
        said = self._said
        match message:
            case Accept() if message.signed in said.signed:
                return
            case Confirm() if (cid, message.mac) in said.confirms:
                return
            case _:
                kind = type(message).__name__.upper()
                self.fail(f"{step.site.name} is connected by a {kind} that its peer never said")


def _decoded(data: bytes) -> Message | None:
    try:
        return decode(data)[1]
    except DecodeError:
        return None


def _terms(message: Message) -> OpenTerms | AcceptTerms:
    if isinstance(message, Open):
        return decode_body(OpenTerms, message.signed)
    assert isinstance(message, Accept)
    return decode_body(AcceptTerms, message.signed)


_Account = tuple[str, int, int]
"""A box, and the address and port of whom it hears of or sends to."""


def _account(name: str, address: Address) -> _Account:
    return name, int(address.ip), address.port


class AmplificationCheck(Watcher):
    """No end and no gate sends an unproved source more than it received.

    What one sends to an address is paid for by what came from there, or, when a message is passed
    on, by that message. Free are addresses that one's own user chose, the destination of what is
    in transit, and those that have proved themselves: by a cookie that was sent there, or by a
    CONFIRM that the box at this address made or passed on.
    """

    name = "amplification"

    def __init__(self, said: Said, name_of: Callable[[IP], str]) -> None:
        self._said = said
        self._name_of = name_of
        self._credit: dict[_Account, int] = {}
        self._free: set[_Account] = set()
        self._cookies: set[tuple[_Account, bytes]] = set()

    def on_step(self, step: Step) -> None:
        """Keep the books."""
        name, event = step.site.name, step.event
        relayed, towards = 0, None
        if isinstance(event, OpenRequested):
            self._free.add(_account(name, event.signaling))
        if isinstance(event, DatagramReceived):
            source = _account(name, event.source)
            self._credit[source] = self._credit.get(source, 0) + len(event.data)
            self._look_for_proof(source, event)
            relayed = len(event.data)
            towards = event.destination if event.transit else None
        for datagram in sent_by(step.effects):
            to, size = datagram.destination, len(datagram.data)
            account = _account(name, to)
            if account in self._free or to == towards:
                continue
            if isinstance(event, DatagramReceived) and event.source != to and size <= relayed:
                relayed -= size
                continue
            self._pay(account, to, size)
            if datagram.data[4] == Challenge.TYPE:
                message = _decoded(datagram.data)
                if isinstance(message, Challenge):
                    self._cookies.add((account, message.proof))

    def _pay(self, account: _Account, to: Address, size: int) -> None:
        left = self._credit.get(account, 0) - size
        self._credit[account] = left
        if left < 0:
            self.fail(f"{account[0]} sends {to}, which has proved nothing, {-left} bytes too many")

    def _look_for_proof(self, account: _Account, event: DatagramReceived) -> None:
        data = event.data
        for at in range(data[6] if len(data) > c.HEADER_BYTES else 0):
            start = c.HEADER_BYTES + at * c.PROOF_BYTES
            if (account, data[start : start + c.PROOF_BYTES]) in self._cookies:
                self._free.add(account)
        confirms = data[4:5] == bytes([Confirm.TYPE])
        if confirms and (self._name_of(event.source.ip), data) in self._said.passed_on:
            self._free.add(account)
