"""Checkers of moves and places: who moves proves it, who is looked for is where it signed.

Like all checkers they go by what was said (said.py), never by what a machine believes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from wayside.core import constants as c
from wayside.core.address import Address
from wayside.core.approval import Approval
from wayside.core.codec import DecodeError, Header, decode_body
from wayside.core.effects import ChangeRules, KeepLocation, SendDatagram
from wayside.core.ends import Responder
from wayside.core.events import DatagramReceived, LocationFound
from wayside.core.messages import Confirm, Open, OpenTerms, Redirect, RedirectTerms, decode
from wayside.core.rule import Cid, Rule

from .beliefs import ANSWER_S_MAX
from .clock import EPOCH_S
from .said import Said, sent_by, source_behind
from .watch import Site, Step, Watcher, gate_of, host_of
from .wire import Flag, destination_of, packet_of, sent_from

SETTLED_S = 1.0
"""Between a question to a store and the answer that it gives rise to."""


CLOCKS_S = 15.0
"""So far two boxes' clocks may be apart, and a little more, unless one of them jumps."""


def _confirm_in(step: Step) -> tuple[Header, Confirm] | None:
    event = step.event
    if isinstance(event, DatagramReceived) and event.data[4:5] == bytes([Confirm.TYPE]):
        try:
            header, message = decode(event.data)
        except DecodeError:
            return None
        return (header, message) if isinstance(message, Confirm) else None
    return None


class ProofCheck(Watcher):
    """A move takes effect only after the new address has proved itself.

    An end that was asked sends to where the OPEN came from only after the asker's own CONFIRM has
    come; a gate's rules last only from a CONFIRM on whose proof the asker made, for that OPEN.
    """

    name = "proof"

    def __init__(self, said: Said, is_honest: Callable[[bytes], bool]) -> None:
        self._said = said
        self._is_honest = is_honest
        self._proved: dict[tuple[str, Cid], dict[Address, None]] = {}

    def on_step(self, step: Step) -> None:
        """Look at new rules."""
        confirm = _confirm_in(step)
        if confirm is not None:
            self._note(step, *confirm)
        self._note_open(step)
        for effect in step.effects:
            for rule in effect.put if isinstance(effect, ChangeRules) else ():
                if gate_of(step.machine) is not None:
                    self._check_gate(step, rule, confirm)
                elif rule.rewrite is not None:
                    self._check_end(step, rule)

    def _note(self, step: Step, header: Header, message: Confirm) -> None:
        terms = self._said.opened(header.cid, header.seq)
        if terms is not None and (header.cid, message.mac) in self._said.shown.confirms:
            source = source_behind(message.hops, terms.source)
            outside = next(iter(terms.alternatives[:1]), source)
            comes = getattr(step.event, "source", source)
            source = outside if comes.ip == outside.ip != source.ip else source
            self._proved.setdefault((step.site.name, header.cid), {})[source] = None

    def _note_open(self, step: Step) -> None:
        """An OPEN under the key of an ACCEPT whose CONFIRM was lost. Spec: R-5.4.3."""
        event = step.event
        if not isinstance(event, DatagramReceived) or event.data[4:5] != bytes([Open.TYPE]):
            return
        try:
            header, message = decode(event.data)
        except DecodeError:
            return
        shown = self._said.shown.place(message) if isinstance(message, Open) else None
        if shown is not None:
            self._proved.setdefault((step.site.name, header.cid), {})[shown] = None

    def _check_end(self, step: Step, rule: Rule) -> None:
        host = host_of(step.machine)
        connection = host.connections.get(rule.owner) if host else None
        if connection is None or not self._is_honest(connection.agreement.peer.key):
            return
        to = rule.rewrite.destination if rule.rewrite else rule.match.destination
        if rule.match != connection.agreement.local:
            return  # for packets that come in
        name = step.site.name
        wished = self._said.has_asked(name, rule.owner, to)
        if not wished and to not in self._proved.get((name, rule.owner), {}):
            self.fail(f"{name} sends to {to}, which has proved nothing")

    def _check_gate(self, step: Step, rule: Rule, confirm: tuple[Header, Confirm] | None) -> None:
        lasting = rule.renewed_by_packets or (rule.lifetime_s or 0) > c.PENDING_S
        if not lasting or confirm is None or rule.owner not in self._said.asked:
            return
        header, message = confirm
        keeps = f"{step.site.name} keeps {rule.match}"
        if (header.cid, header.seq, message.proof) not in self._said.shown.proofs:
            self.fail(f"{keeps} for a CONFIRM that nobody made")
        if header.cid != rule.owner and not self._follows(header.cid, rule.owner):
            self.fail(f"{keeps} for the CONFIRM of another connection")

    def _follows(self, registration: Cid, other: Cid) -> bool:
        """Whether a connection of a hidden host goes with its registration. Spec: R-10.5."""
        asked, there = (self._said.asked.get(cid) for cid in (registration, other))
        if asked is None or there is None or asked.terms.service != c.LOCATION_SERVICE:
            return False
        return asked.terms.from_key in (there.terms.from_key, there.terms.to_key)


class LocationCheck(Watcher):
    """Nobody is sent where a host did not say that it is, nor to where it was before that.

    Nor is an OPEN that a rendezvous passes on itself, to a host that it hides or calls. The second
    only while the store keeps what it is given.
    """

    name = "location"

    def __init__(self, said: Said, store_is_good: Callable[[], bool]) -> None:
        self._said = said
        self._is_good = store_is_good
        self._kept: dict[tuple[bytes, int], list[tuple[float, int, Address]]] = {}

    def on_step(self, step: Step) -> None:
        """A rendezvous keeps a location, or sends somebody there."""
        for effect in step.effects:
            if isinstance(effect, KeepLocation):
                self._keep(step, effect)
        if isinstance(step.event, LocationFound):
            for datagram in sent_by(step.effects):
                if datagram.data[4] in (Redirect.TYPE, Open.TYPE):
                    self._sent_on(step, step.event, datagram)

    def _keep(self, step: Step, effect: KeepLocation) -> None:
        header, message = decode(effect.record)
        name = step.site.name
        if not isinstance(message, Open) or message.signed not in self._said.signed:
            self.fail(f"{name} keeps a location that nobody signed")
            return
        terms = decode_body(OpenTerms, message.signed)
        order = terms.time_s << 20 | header.seq
        if order != effect.order:
            self.fail(f"{name} keeps a location as number {effect.order}, and it is {order}")
        if effect.lifetime_s:
            kept = self._kept.setdefault((effect.key, effect.family), [])
            kept.append((step.now, order, place_of(terms)))

    def _sent_on(self, step: Step, event: LocationFound, datagram: SendDatagram) -> None:
        _, message = decode(datagram.data)
        there = datagram.destination
        if isinstance(message, Redirect):
            there = decode_body(RedirectTerms, message.signed).locator.address
        key = event.opened.terms.to_key
        where = f"{step.site.name} sends somebody on to {there}"
        if there not in self._said.places.get(key, {}):
            self.fail(f"{where}, where the host that is looked for never was")
        kept = self._kept.get((key, there.family), [])
        known = [one for one in kept if one[0] < step.now - SETTLED_S]
        newest = max((order for _, order, _ in known), default=0)
        fresh = [place for _, order, place in kept if order >= newest]
        if self._is_good() and there not in fresh:
            self.fail(f"{where}, where the host that is looked for is no more")


def place_of(terms: OpenTerms) -> Address:
    """Where a registration says that its host is. Spec: R-10.2."""
    at = (terms.alternatives or (terms.source,))[0]
    return at if at.port else at.with_port(c.SIGNALING_PORT)


class ApprovalCheck(Watcher):
    """Who wants approvals passes nobody on, and answers nobody, without one for that connection.

    From one of those whom it asks for them, and not long over.
    """

    name = "approval"

    def __init__(self, said: Said) -> None:
        self._said = said
        self._seen: dict[tuple[str, Cid, bytes], None] = {}

    def on_step(self, step: Step) -> None:
        """Look at each OPEN that was taken."""
        event = step.event
        if not isinstance(event, DatagramReceived) or event.data[4:5] != bytes([Open.TYPE]):
            return
        cid = Cid(event.data[16:32])
        host, gate = host_of(step.machine), gate_of(step.machine)
        if host is not None and host.answering.approvers:
            answers = host.connections.get(cid)
            if not isinstance(answers, Responder):
                return
            about = (step.site.name, cid, answers.agreement.peer.key)
            if about not in self._seen:
                self._check(step, cid, event.data, host.answering.approvers)
                self._seen[about] = None
        elif gate is not None and gate.context.box.relay and gate.context.box.relay.approvers:
            passed = any(sent.data[4] == Open.TYPE for sent in sent_by(step.effects))
            if passed and cid not in gate.passages:
                self._check(step, cid, event.data, gate.context.box.relay.approvers)

    def _check(self, step: Step, cid: Cid, data: bytes, approvers: tuple[bytes, ...]) -> None:
        _, message = decode(data)
        assert isinstance(message, Open)
        terms = decode_body(OpenTerms, message.signed)
        takes = f"{step.site.name} takes {cid.hex()[:8]}"
        about = (cid, terms.from_key, terms.to_key, terms.service)
        if self._said.approvals.get(terms.approval) != about:
            self.fail(f"{takes}, which nobody has approved")
        approval = decode_body(Approval, terms.approval)
        if approval.key not in approvers:
            self.fail(f"{takes}, which somebody approved whom it does not ask")
        if approval.until_s + CLOCKS_S < min(EPOCH_S + step.now, step.site.unix_s):
            self.fail(f"{takes}, whose approval was over before")


class PrivacyCheck(Watcher):
    """No address of a NAT's inside appears outside; none of a hidden host where it is hidden from.

    Whoever knows where a hidden host is can have it answer: it answers signaling that comes
    straight, to where that says it is from, and its kernel refuses packets. Neither is told here.
    `is_inside`: whether an address, packed, is of the inside of a NAT with this name; `hidden`: the
    addresses, packed, that a host with this address, packed, must not learn.
    """

    name = "privacy"

    def __init__(
        self,
        is_inside: Callable[[str, bytes], bool],
        hidden: Callable[[bytes], list[bytes]],
    ) -> None:
        self._is_inside = is_inside
        self._hidden = hidden
        self._asked: dict[tuple[str, bytes], float] = {}

    def on_step(self, step: Step) -> None:
        """Who was asked straight, and in whose name."""
        event = step.event
        if isinstance(event, DatagramReceived) and gate_of(step.machine) is None:
            self._asked[step.site.name, event.source.ip.packed] = step.now

    def on_sent(self, site: Site, raw: bytes, outwards: bool, now: float) -> None:
        """A box sends a packet: one that may rewrite, or a host, which may be hidden itself."""
        source, to = sent_from(raw), destination_of(raw)
        gate = gate_of(site.machine) if outwards else None
        translates = gate is not None and gate.context.box.nat is not None
        if translates and any(self._is_inside(site.name, end) for end in (source, to)):
            self.fail(f"{site.name} lets out a packet with an address of its inside")
        hidden = self._hidden(to)
        if hidden and source in hidden and self._answers(site, raw, to, now):
            return
        for address in hidden:
            if source == address or _tells(raw, address):
                self.fail(f"{site.name} shows where a hidden host is")

    def _answers(self, site: Site, raw: bytes, to: bytes, now: float) -> bool:
        """Whether a host only answers what came straight to it, in the name of who is there."""
        packet = packet_of(raw)
        if packet is None or packet.tcp_flags & Flag.RST:
            return gate_of(site.machine) is None  # ICMP, or what its kernel says of its own accord
        signaling = packet.flow.destination.port == c.SIGNALING_PORT
        return signaling and now < self._asked.get((site.name, to), -inf) + ANSWER_S_MAX


def _tells(raw: bytes, address: bytes) -> bool:
    """Whether a signaling message holds an address: as CBOR has it, with its length in front."""
    packet = packet_of(raw)
    return packet is not None and bytes([0x40 + len(address) + 2]) + address in packet.payload
