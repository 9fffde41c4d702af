"""The checker of packets: none passes that its ends, and every box that rewrites it, did not want.

It goes by what was said (said.py), and by the packets themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from wayside.core import constants as c
from wayside.core.address import Flow
from wayside.core.effects import ChangeRules
from wayside.core.events import DatagramReceived
from wayside.core.gate import Gate
from wayside.core.messages import Accept, Close, Open
from wayside.core.policy import Direction, PolicyAction, Request
from wayside.core.policy import Verdict as Policed
from wayside.core.rule import Action, Cid
from wayside.kernel.memory import Verdict
from wayside.kernel.plan import Change, Put

from .said import Said, sent_by
from .watch import Site, Step, Watcher, gate_of
from .wire import FiveTuple, five_tuple, turned

SETTLE_S = 3.0
"""What was decided must be in the kernel by then, however slow a fault has made that."""

Owner = Callable[[int], Site | None]
"""Whose address this number is, or was last; None for boxes without a machine."""


class AgreementCheck(Watcher):
    """No data packet passes a gate, or leaves a host by a rule, without a live agreement.

    Of both ends, each for the addresses that are its own, in the same connection; and of the gate:
    its policy (by way of a relay, where that wants it so), and that nobody has closed the
    connection before its eyes. Until a CONFIRM has shown at this gate that the initiator is where
    it says, the responder's agreement has to do: no more is promised of pending rules, which live
    for 5 seconds.
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
        gate = gate_of(step.machine)
        if gate is None or not isinstance(step.event, DatagramReceived):
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
        rules = [one.rule for one in step.site.rules if one.rule.action is not Action.DROP]
        held = cid in gate.passages or any(rule.owner == cid for rule in rules)
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
                if found.rule.action is Action.DROP:
                    continue
                closed = self._closed.get((site.name, found.rule.owner), now)
                if now > closed + SETTLE_S:
                    self.fail(f"{site.name} has {found.rule.match}, closed before its eyes")

    def on_admitted(self, site: Site, flow: Flow, verdict: Verdict, now: float) -> None:
        """A data packet passed a gate."""
        cids = self._agreed(flow, verdict.flow)
        if cids is None:
            return
        if self._pending.get((site.name, five_tuple(flow)), False):
            cids += self._agreed(flow, verdict.flow, pending=True) or ()
            cids += self._stood_in(site, flow)
        if not cids:
            self.fail(f"{site.name} lets {flow} through, which its two ends did not agree to")
        live = [cid for cid in cids if now <= self._closed.get((site.name, cid), now) + SETTLE_S]
        if not live:
            self.fail(f"{site.name} lets {flow} through, which was closed before its eyes")
        gate = gate_of(site.machine)
        if gate is not None and not any(self._allowed(gate, cid, flow) for cid in live):
            self.fail(f"{site.name} lets {flow} through, which its policy rejects")

    def on_changes(self, site: Site, changes: Sequence[Change], now: float) -> None:
        """Which rules of a gate have been confirmed."""
        for change in changes:
            rule = change.rule
            if rule.action is Action.DROP:
                continue
            if isinstance(change, Put) and rule.lifetime_s is not None:
                pending = not rule.renewed_by_packets and rule.lifetime_s <= c.PENDING_S
                self._pending[site.name, five_tuple(rule.match)] = pending

    def on_rewritten(self, site: Site, flow: Flow, now: float) -> None:
        """A host sent a packet by a rule.

        Where it goes to the wrong port of a box, because somebody on the path has edited what that
        gave back, the box is who must not let it through (spec section 11).
        """
        cids = self._agreed(flow, flow)
        misled = (site.name, five_tuple(flow)) in self._said.flows.edited
        if cids is not None and not cids and not misled:
            self.fail(f"{site.name} sends {flow}, which its two ends did not agree to")

    def _agreed(self, flow: Flow, onward: Flow, pending: bool = False) -> list[Cid] | None:
        """The connections that those agreed to between whom a packet goes; None: none is honest.

        That is from whom it comes at first, and to whom at last, whatever boxes made of it on the
        way. `pending`: one of them will do, if it answered.
        """
        ways = (turned(five_tuple(flow)), five_tuple(onward))
        owners = [self._owner(way[3]) for way in ways]
        honest = [
            (owner.name, way)
            for owner, way in zip(owners, ways, strict=True)
            if owner is not None and owner.honest
        ]
        if not honest:
            return None
        candidates: dict[Cid, None] = {}
        for name, way in honest:
            candidates.update(dict.fromkeys(self._consent(name, turned(way), pending)))
            candidates.update(self._said.crossing(way))
        enough = any if pending else all
        return [
            cid
            for cid in candidates
            if enough(self._arrives(cid, way, pending) for _, way in honest)
        ]

    def _stood_in(self, site: Site, flow: Flow) -> list[Cid]:
        """The connections that a gate itself has agreed to, in the place of a host. R-12.2."""
        accepts, way = self._said.flows.accepts, five_tuple(flow)
        return [cid for one in (way, turned(way)) for cid in accepts.get((site.name, one), {})]

    def _arrives(self, cid: Cid, flow: FiveTuple, pending: bool) -> bool:
        """Whether whom a packet of a connection comes to at last has agreed to it."""
        for one in self._said.reach(cid, flow):
            owner = self._owner(one[3])
            if owner is None or cid in self._consent(owner.name, turned(one), pending):
                return True
        return False

    def _consent(self, name: str, flow: FiveTuple, pending: bool) -> Collection[Cid]:
        if pending:
            return self._said.flows.accepts.get((name, flow), {})
        return self._said.consent(name, flow)

    def _allowed(self, gate: Gate, cid: Cid, flow: Flow) -> bool:
        """Whether the policy of a gate lets a flow through, which may be by way of a relay only."""
        asked = self._said.asked.get(cid)
        if asked is None:
            return True
        terms = asked.terms
        parties = (terms.from_key, None, terms.to_key, None)
        about = (*parties, terms.service, terms.transport)
        verdicts = [gate.context.policy.decide(Request(*about, each)) for each in Direction]
        return any(
            _passes(gate, one, flow) for one in verdicts if one.action is not PolicyAction.REJECT
        )


def _passes(gate: Gate, verdict: Policed, flow: Flow) -> bool:
    relays = [one.ip for one in gate.context.relays.get(verdict.via, ())]
    return not verdict.via or flow.source.ip in relays or flow.destination.ip in relays
