"""Machines that are broken on purpose, one for each checker: what a bug of theirs would look like.

Each takes a pytest MonkeyPatch and breaks one promise of the real machines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from wayside.core import host
from wayside.core.address import Flow, Transport
from wayside.core.codec import decode_body
from wayside.core.connection import Connection, State
from wayside.core.effects import ChangeRules, Effect, Punch, ReportRefused, SendDatagram
from wayside.core.ends import Initiator, Responder
from wayside.core.events import OpenRequested
from wayside.core.filters import Filter, Filters
from wayside.core.forwarding import Forwarding
from wayside.core.gate import Gate
from wayside.core.host import Host, Offered
from wayside.core.messages import Code, Open, OpenTerms
from wayside.core.passage import Crossing, Passage, Seqs, Stage
from wayside.core.policy import PolicyAction, Verdict
from wayside.core.rule import Action, Rule
from wayside.core.virtual import VirtualAddresses
from wayside.core.way import Role
from wayside.kernel.memory import MemoryDataPlane
from wayside.kernel.recovery import Recovered, recover
from wayside.kernel.turns import Turn
from wayside.sim import host as sim_host
from wayside.sim.box import Driver
from wayside.sim.topology import NO_SERVICE_PORT, SERVICES

Break = Callable[[pytest.MonkeyPatch], None]


def silent(*_: Any) -> None:
    """Does nothing."""


def nothing(*_: Any) -> list[Effect]:
    return []


def endless(*_: Any) -> float:
    return inf


def zeros(*_: Any) -> bytes:
    return bytes(32)


def empty(*_: Any) -> str:
    return ""


def allowing(*_: Any) -> Verdict:
    return Verdict(PolicyAction.ALLOW, "all")


def gate_that_opens_at_open(patch: pytest.MonkeyPatch) -> None:
    """Makes its pinholes when it is asked, and not when the other end has agreed."""
    real: Any = Gate._on_open

    def early(self: Gate, event: Any, message: Open, now: float) -> list[Effect]:
        effects: list[Effect] = real(self, event, message, now)
        flow = passed_on(effects, message)
        if flow is None:
            return effects
        cid = event.header.cid
        flows = (flow, flow.reversed())
        rules = tuple(Rule(cid, each, Action.ACCEPT, lifetime_s=5.0) for each in flows)
        return [ChangeRules(cid, rules), *effects]

    patch.setattr(Gate, "_on_open", early)


def passed_on(effects: list[Effect], message: Open) -> Flow | None:
    """The flow that an OPEN asks for, when these effects send it on."""
    if not any(isinstance(one, SendDatagram) and one.data[4] == Open.TYPE for one in effects):
        return None
    terms = decode_body(OpenTerms, message.signed)
    return Flow(terms.transport, terms.source, terms.destination)


def gate_that_is_deaf_to_close(patch: pytest.MonkeyPatch) -> None:
    """Passes a CLOSE on and leaves its pinholes open."""
    patch.setattr(Gate, "_end", nothing)


def gate_with_a_wide_pinhole(patch: pytest.MonkeyPatch) -> None:
    """Its pinhole is one port beside the agreed one."""
    real: Any = Passage.rules

    def wide(self: Passage, gate_lifetime_s: float) -> tuple[Rule, ...]:
        rules: tuple[Rule, ...] = real(self, gate_lifetime_s)
        more = [replace(rule, match=_beside(rule.match), note="") for rule in rules if rule.note]
        return (*rules, *more)

    patch.setattr(Passage, "rules", wide)


def _beside(flow: Any) -> Any:
    return replace(flow, source=flow.source.with_port((flow.source.port + 1) % 65536))


def gate_that_never_waits_for_confirm(patch: pytest.MonkeyPatch) -> None:
    """Its rules last from ACCEPT on."""
    real: Any = Passage.rules

    def lasting(self: Passage, gate_lifetime_s: float) -> tuple[Rule, ...]:
        return tuple(
            replace(rule, lifetime_s=gate_lifetime_s, renewed_by_packets=True)
            for rule in real(self, gate_lifetime_s)
        )

    patch.setattr(Passage, "rules", lasting)


def gate_without_lifetimes(patch: pytest.MonkeyPatch) -> None:
    """Its rules stay until they are removed."""
    real: Any = Passage.rules

    def endless(self: Passage, gate_lifetime_s: float) -> tuple[Rule, ...]:
        return tuple(replace(rule, lifetime_s=None) for rule in real(self, gate_lifetime_s))

    patch.setattr(Passage, "rules", endless)


def kernel_that_never_expires(patch: pytest.MonkeyPatch) -> None:
    """Its elements have no timeout."""
    patch.setattr(MemoryDataPlane, "_expire", silent)


def host_that_keeps_its_rules(patch: pytest.MonkeyPatch) -> None:
    """A connection that ends leaves its rules in the kernel."""
    patch.setattr(Connection, "_rules", ())


def host_that_believes_anybody(patch: pytest.MonkeyPatch) -> None:
    """Keeps a connection for an OPEN whose signature does not hold."""
    patch.setattr("wayside.core.opening.verify", silent)


def gate_that_believes_anybody(patch: pytest.MonkeyPatch) -> None:
    """Makes a passage for an ACCEPT whose signature does not hold."""
    patch.setattr("wayside.core.gate.verify", silent)


def host_that_believes_hops(patch: pytest.MonkeyPatch) -> None:
    """Takes an OPEN with hops for any source that it names."""
    real: Any = host.misplaced

    def trusting(event: Any, opened: Any) -> Any:
        return None if event.message.hops else real(event, opened)

    patch.setattr(host, "misplaced", trusting)


def gate_that_remembers_opens(patch: pytest.MonkeyPatch) -> None:
    """Keeps a passage for every OPEN."""
    real: Any = Gate._on_open

    def keeping(self: Gate, event: Any, message: Open, now: float) -> list[Effect]:
        effects: list[Effect] = real(self, event, message, now)
        flow = passed_on(effects, message)
        if flow is not None:
            crossing = Crossing(flow, flow)
            until = now + 5.0
            passage = Passage(
                event.header.cid, Stage.PENDING, crossing, Seqs(), until, 5.0, bytes(6)
            )
            self.table.count(flow.source.ip)
            self.table.keep(passage)
        return effects

    patch.setattr(Gate, "_on_open", keeping)


def gate_that_forgets_what_packets_keep(patch: pytest.MonkeyPatch) -> None:
    """Forgets a connection without asking its kernel, which still lets it through."""

    def forgetting(self: Gate, now: float) -> list[Effect]:
        for cid in self.table.deadlines.take_due(now):
            self.table.forget(self.passages[cid])
        return []

    patch.setattr(Gate, "_on_time_passed", forgetting)


def responder_without_credit(patch: pytest.MonkeyPatch) -> None:
    """Repeats its ACCEPT to whoever was named as the source, as often as it likes."""
    patch.setattr(Responder, "_credit", endless)


def responder_that_counts_ports_wrong(patch: pytest.MonkeyPatch) -> None:
    """Believes in another port of the initiator than it says."""
    real: Any = Responder._confirmed

    def wrong(self: Responder, *rest: Any) -> list[Effect]:
        effects: list[Effect] = real(self, *rest)
        about = self.agreement
        self.agreement = replace(about, wire=_beside(about.wire))
        return effects

    patch.setattr(Responder, "_confirmed", wrong)


def initiator_that_ignores_hops(patch: pytest.MonkeyPatch) -> None:
    """Nobody compares the hops that he sees with those that the responder saw."""
    patch.setattr("wayside.core.gate.hops_hash", zeros)
    patch.setattr("wayside.core.asker.hops_hash", zeros)
    patch.setattr("wayside.core.answerer.hops_hash", zeros)


def initiator_that_waits_for_ever(patch: pytest.MonkeyPatch) -> None:
    """Never gives a request up."""
    real: Any = Initiator._on_timer

    def patient(self: Initiator, timer: Any, now: float) -> list[Effect]:
        if timer.name == "GIVE_UP" and self.state is State.OPENING:
            return []
        return real(self, timer, now)

    patch.setattr(Initiator, "_on_timer", patient)


def refusal_without_a_reason(patch: pytest.MonkeyPatch) -> None:
    """Says no, and not why."""
    patch.setattr("wayside.core.opening.cut", empty)


def host_that_tires(patch: pytest.MonkeyPatch) -> None:
    """Lets its applications have one connection, and refuses all others."""
    real: Any = Host._on_open_requested
    tired: list[Host] = []

    def request(self: Host, event: OpenRequested, now: float) -> list[Effect]:
        if self in tired:
            about = (event.cid, str(event.peer), event.service)
            return [ReportRefused(*about, Code.BUSY, "tired", "itself")]
        tired.append(self)
        return real(self, event, now)

    patch.setattr(Host, "_on_open_requested", request)


def gate_that_counts_twice(patch: pytest.MonkeyPatch) -> None:
    """Its quota is never given back."""
    patch.setattr("wayside.sim.gate.CountingQuota.release", silent)


def host_that_offers_what_it_has_not(patch: pytest.MonkeyPatch) -> None:
    """Answers for a service that nobody configured."""
    patch.setitem(SERVICES, str(NO_SERVICE_PORT), Offered(5353))


def gate_that_lets_all_in(patch: pytest.MonkeyPatch) -> None:
    """Its policy is there for show."""
    patch.setattr(Forwarding, "judge", allowing)


def host_that_mixes_up_peers(patch: pytest.MonkeyPatch) -> None:
    """Gives every peer the virtual address of the first."""
    real: Any = VirtualAddresses.of

    def same(self: VirtualAddresses, key: bytes, family: int) -> Any:
        return real(self, self.met[0] if self.met else key, family)

    patch.setattr(VirtualAddresses, "of", same)


def host_that_follows_before_confirm(patch: pytest.MonkeyPatch) -> None:
    """Sends to where an OPEN says that its peer is now, before that has proved itself."""
    real: Any = Responder._accept

    def hasty(self: Responder, now: float) -> list[Effect]:
        effects: list[Effect] = real(self, now)
        offer, wire = self.offer, self.agreement.wire
        there = wire.transport is not Transport.NONE and self.state is State.CONNECTED
        if offer is None or not there or offer.wire == wire:
            return effects
        old, agreement = self.old, self.agreement
        hasty_rules = self._switch(offer.wire)
        self.old, self.agreement = old, agreement
        return [hasty_rules, *effects]

    patch.setattr(Responder, "_accept", hasty)
    patch.setattr(Initiator, "_accept", hasty)


def gate_that_takes_any_confirm(patch: pytest.MonkeyPatch) -> None:
    """Whoever has seen a token makes its rules last."""

    def any_proof(self: Seqs, seq: int, proof: bytes) -> bool:
        return seq == self.accepted[seq % 2]

    patch.setattr(Seqs, "shows", any_proof)


def rendezvous_that_believes_its_store(patch: pytest.MonkeyPatch) -> None:
    """Takes whatever the store says for what the host has signed."""
    patch.setattr("wayside.core.rendezvous.verify", silent)


def rendezvous_that_loses_count(patch: pytest.MonkeyPatch) -> None:
    """Does not know which of two locations is newer."""
    patch.setattr("wayside.core.rendezvous._order", one)


def one(*_: Any) -> int:
    return 1


def relay_that_needs_no_approval(patch: pytest.MonkeyPatch) -> None:
    """Passes on whatever anybody wants."""
    patch.setattr("wayside.core.way.check_approval", true)


def host_that_needs_no_approval(patch: pytest.MonkeyPatch) -> None:
    """Says that it wants its home's approval, and takes any."""
    patch.setattr("wayside.core.host.check_approval", true)


def true(*_: Any) -> bool:
    return True


def false(*_: Any) -> bool:
    return False


def nat_that_lends_nothing(patch: pytest.MonkeyPatch) -> None:
    """Lets its inside out as it is."""

    def as_it_is(event: Any, opened: Any, way: Any, *_: Any) -> Any:
        return replace(way, far=way.near)

    patch.setattr("wayside.core.way.lent_way", as_it_is)


def rendezvous_that_tells(patch: pytest.MonkeyPatch) -> None:
    """Hides a host, and says in its record where that is."""
    patch.setattr("wayside.core.rendezvous.Role", SimpleNamespace(HIDING=Role.RELAY))


def gate_that_stops_for_anybody(patch: pytest.MonkeyPatch) -> None:
    """Whoever shows its token has packets dropped."""
    patch.setattr(Filters, "_flaw", none)


def none(*_: Any) -> None:
    return None


def gate_that_takes_a_stop_again(patch: pytest.MonkeyPatch) -> None:
    """Forgets a filter, and with it that it took that STOP, before its time is over."""
    real: Any = Filters._keep

    def keeping(self: Filters, made: Filter, now: float) -> None:
        real(self, made, now)
        self.forget(made.rule.owner)

    patch.setattr(Filters, "_keep", keeping)


def gate_whose_filters_stay(patch: pytest.MonkeyPatch) -> None:
    """Drops for as long as it can, whatever it was asked for."""

    def lasting(*about: Any, **more: Any) -> Rule:
        return Rule(*about, **{**more, "lifetime_s": 3600.0})

    patch.setattr("wayside.core.filters.Rule", lasting)


def gate_that_stops_the_wrong_flow(patch: pytest.MonkeyPatch) -> None:
    """Drops what the port beside it sends."""

    def wrong(owner: Any, match: Flow, *about: Any, **more: Any) -> Rule:
        return Rule(owner, _beside(match), *about, **more)

    patch.setattr("wayside.core.filters.Rule", wrong)


def host_that_never_says_that_it_moved(patch: pytest.MonkeyPatch) -> None:
    """Goes on as if it still had its address."""
    patch.setattr(Initiator, "_on_sources_changed", nothing)
    patch.setattr(Responder, "_on_sources_changed", nothing)


def driver_that_gives_up(patch: pytest.MonkeyPatch) -> None:
    """A kernel that will not put a rule is not asked to remove one either."""

    def answered(self: Driver, together: list[ChangeRules], turn: Turn, bad: Any) -> None:
        for failed in bad.values():
            self.deliver(failed)
        made = [effect for effect in together if effect.cid not in bad]
        left = [one for one in turn.effects if getattr(one, "cid", None) not in bad]
        turn.effects = left if made else []
        self._changed(made, turn)

    patch.setattr(Driver, "_answered", answered)


def host_that_leaves_old_ways(patch: pytest.MonkeyPatch) -> None:
    """R-6.5: after a restart it does not look for rules from before a move."""

    def recovered(*args: Any) -> Recovered:
        found = recover(*args)
        kept = set(args[0].connections)
        changes = [one for one in found.changes if one.rule.owner not in kept]
        return replace(found, changes=changes)

    patch.setattr(sim_host, "recover", recovered)


def initiator_that_forgets_its_peers_home(patch: pytest.MonkeyPatch) -> None:
    """R-5.7.2: who was sent on twice takes where it was sent at first for the home."""
    redirected = Initiator._on_redirect

    def on_redirect(self: Initiator, *args: Any) -> list[Effect]:
        if self.state is State.OPENING:
            self.agreement = replace(self.agreement, home=None)
        return redirected(self, *args)

    patch.setattr(Initiator, "_on_redirect", on_redirect)


def end_that_forgets_what_it_offered(patch: pytest.MonkeyPatch) -> None:
    """R-5.4.6: its own move is answered, and what it has agreed to meanwhile is gone."""
    switch = Connection._switch

    def without(self: Connection, wire: Flow, then: Any = (), offered: Any = ()) -> ChangeRules:
        return switch(self, wire, then)

    patch.setattr(Connection, "_switch", without)


def rendezvous_that_calls_whoever_asks(patch: pytest.MonkeyPatch) -> None:
    """R-12.7: shows a host OPENs that it has not approved."""

    def calling(self: Forwarding, asked: Any, opened: Any, there: Any, *_: Any) -> Effect:
        return self.call(asked, opened, there)[0]

    patch.setattr(Forwarding, "redirect_to", calling)


def host_that_answers_a_call(patch: pytest.MonkeyPatch) -> None:
    """R-12.7: takes what only calls it for an OPEN."""
    patch.setattr(host, "calls", false)
    patch.setattr(Host, "_misplaced", none)


def host_that_says_much_when_called(patch: pytest.MonkeyPatch) -> None:
    """R-12.7: opens its NAT with as much as came."""
    real: Any = Host._called

    def loud(self: Host, event: Any, *about: Any) -> Effect:
        effect: Effect = real(self, event, *about)
        if isinstance(effect, SendDatagram):
            return replace(effect, data=effect.data.ljust(len(event.data), b"."))
        return effect

    patch.setattr(Host, "_called", loud)


def host_that_punches_where_it_was_not_asked(patch: pytest.MonkeyPatch) -> None:
    """R-12.6: its punch opens another port than it agrees to."""
    real: Any = Responder._punch

    def beside(self: Responder, offer: Any) -> list[Punch]:
        return [replace(one, flow=_beside(one.flow)) for one in real(self, offer)]

    patch.setattr(Responder, "_punch", beside)


def gate_that_leads_a_call_astray(patch: pytest.MonkeyPatch) -> None:
    """R-12.7: sends what it should let by to another port."""

    def astray(self: Forwarding, event: Any, opened: Any) -> Effect:
        return SendDatagram(event.data, event.destination.with_port(4748), event.source)

    patch.setattr(Forwarding, "let_by", astray)
