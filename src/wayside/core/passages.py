"""A gate's table of connections: by cid, by 5-tuple, by the source it lends, by who is inside.

Each flow belongs to the passage that had it last. What is found here is only what both ends have
agreed to, for as long as its rules live; its size is bounded by a quota for each network.
Spec: R-7.4, R-8.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .address import IP, Address, Flow, Transport
from .admission import Quota
from .crypto import digest
from .passage import Crossing, Passage, Stage
from .route import parties_of
from .rule import Cid, Rule
from .timers import Deadlines

PORT_TRIES = 256
"""Ports that a NAT tries for one flow before it says that it has none left."""


KNOWN_BYTES = 8
"""Of a key that a passage is for: nobody makes another one with the same."""


class Passages:
    """What goes through a gate, with its indexes and deadlines."""

    def __init__(self, quota: Quota) -> None:
        self.by_cid: dict[Cid, Passage] = {}
        self.deadlines = Deadlines()
        self._quota = quota
        self._by_flow: dict[Flow, Cid] = {}
        self._lent: dict[Flow, tuple[Cid, Address]] = {}
        self._inside: dict[tuple[bytes, int], tuple[Cid, Address]] = {}
        self._hidden: dict[bytes, dict[Cid, Crossing | None]] = {}

    def has_room(self, ip: IP) -> bool:
        """Count one more connection from this address, if there is room for one."""
        return self._quota.take(ip)

    def count(self, ip: IP) -> None:
        """Count one more, room or not: the kernel holds it already."""
        self._quota.count(ip)

    def own(self, rules: Sequence[Rule]) -> tuple[Rule, ...]:
        """Those of these rules whose flow no newer connection has got, that is not over itself."""
        return tuple(rule for rule in rules if not self._has_another(rule))

    def _has_another(self, rule: Rule) -> bool:
        newer = self._by_flow.get(rule.match, rule.owner)
        return newer != rule.owner and not self._is_over(newer)

    def claim(self, cid: Cid, crossing: Crossing) -> None:
        """These flows are this connection's."""
        for flow in crossing.flows:
            self._by_flow[flow] = cid

    def disclaim(self, cid: Cid, crossing: Crossing) -> None:
        """They are not, any more."""
        for flow in crossing.flows:
            if self._by_flow.get(flow) == cid:
                del self._by_flow[flow]

    def keep(self, passage: Passage) -> None:
        """Put it in, or bring its indexes up to date."""
        self.by_cid[passage.cid] = passage
        self.claim(passage.cid, passage.crossing)
        if passage.crossing.lends:
            self._lent[_towards(passage.crossing.far)] = (passage.cid, passage.flow.source)
        if passage.key and passage.flow.transport is not Transport.NONE:
            self._hidden.setdefault(passage.key, {}).setdefault(passage.cid)
        self.deadlines.set(passage.cid, passage.until)

    def move(self, passage: Passage, crossing: Crossing) -> None:
        """Its flows are others from now on."""
        self._unindex(passage)
        self._quota.release(passage.flow.source.ip)
        passage.crossing = crossing
        self._quota.count(passage.flow.source.ip)
        self.keep(passage)

    def forget(self, passage: Passage) -> None:
        """Nothing of it is left."""
        del self.by_cid[passage.cid]
        self.deadlines.set(passage.cid, None)
        self._quota.release(passage.flow.source.ip)
        self._unindex(passage)
        self.leave(passage)

    def leave(self, passage: Passage) -> None:
        """What is over registers and hides nobody."""
        place = (passage.key, passage.flow.family)
        if self._inside.get(place, (None, None))[0] == passage.cid:
            del self._inside[place]
        hidden = self._hidden.get(passage.key, {})
        hidden.pop(passage.cid, None)
        if not hidden:
            self._hidden.pop(passage.key, None)

    def known(self, cid: Cid, one: bytes, other: bytes) -> Passage | None:
        """The live connection with this cid between these two keys."""
        found = self.by_cid.get(cid)
        if found is None or found.stage is not Stage.LIVE:
            return None
        return found if found.parties == parties_of(one, other) else None

    def register(self, passage: Passage, at: Address) -> None:
        """The host that this registration is of can be asked there."""
        self._inside[passage.key, at.family] = (passage.cid, at)

    def hidden(self, key: bytes) -> list[Passage]:
        """The connections to a host that we hide, by its key, 32 bytes; pending ones, too."""
        known = (self.by_cid[cid] for cid in self._hidden.get(key[:KNOWN_BYTES], ()))
        return [passage for passage in known if passage.stage is not Stage.ENDED]

    def await_by(self, passage: Passage, crossing: Crossing | None) -> None:
        """Where the hidden end of a connection says that it is, until it has shown it. R-10.5."""
        self._hidden.setdefault(passage.key, {})[passage.cid] = crossing

    def awaited(self, passage: Passage, gate_lifetime_s: float) -> tuple[Rule, ...]:
        """The pending rule for what comes from there; none where another connection has that."""
        crossing = self._hidden.get(passage.key, {}).get(passage.cid)
        rules = passage.awaited(crossing, gate_lifetime_s) if crossing else ()
        return tuple(rule for rule in rules if rule.match not in self._by_flow)

    def inside(self, key: bytes, family: int) -> Address | None:
        """Where the host with this key, 32 bytes, registered from; None: it did not."""
        return self._inside.get((key[:KNOWN_BYTES], family), (None, None))[1]

    def source(
        self, cid: Cid, near: Address, flow: Flow, ports: Sequence[int], relays: bool = False
    ) -> Address | None:
        """A source for packets from `near`: its own port if it is free, else one that is.

        Taken is taken for all ports of a host, because the responder chooses its own last; but not
        for who has it already (and goes to the flow's own destination): that asks again after a
        crash, or for another port of that host. The same connection gets the same again, unless it
        moved. None: none is free. Spec: R-8.7.
        """
        known = self.by_cid.get(cid)
        kept = known.crossing if known else None
        if kept and kept.near.source == near and kept.far.source.ip == flow.source.ip:
            return kept.far.source
        if flow.transport is Transport.NONE:
            return flow.source
        for port in _candidates(cid, flow.source.port, ports):
            source = flow.source.with_port(port)
            there = _towards(Flow(flow.transport, source, flow.destination))
            holder, lent_to = self._lent.get(there, (cid, near))
            again = not relays and not self._is_over(holder)
            if lent_to == near and (holder == cid or again):
                return source
        return None

    def _is_over(self, cid: Cid) -> bool:
        """Whether a connection has ended; perhaps because its port was not ours to lend."""
        known = self.by_cid.get(cid)
        return known is None or known.stage is Stage.ENDED

    def is_lent(self, cid: Cid, crossing: Crossing) -> bool:
        """Whether somebody else has got this connection's source meanwhile."""
        if crossing.far.transport is Transport.NONE:
            return False  # no packets: nothing to tell apart
        near, relays = crossing.near.source, crossing.near.destination != crossing.far.destination
        owner, lent_to = self._lent.get(_towards(crossing.far), (cid, near))
        return crossing.lends and owner != cid and (relays or lent_to != near)

    def destination(self, cid: Cid, flow: Flow, ports: Sequence[int]) -> Address | None:
        """An address of ours for packets that are for a host inside: its port if that is free."""
        if flow.transport is Transport.NONE:
            return flow.destination
        for port in (flow.destination.port, *_candidates(cid, 0, ports, b"to")):
            destination = flow.destination.with_port(port)
            if self._by_flow.get(Flow(flow.transport, flow.source, destination), cid) == cid:
                return destination
        return None

    def _unindex(self, passage: Passage) -> None:
        self.disclaim(passage.cid, passage.crossing)
        lent = _towards(passage.crossing.far)
        if self._lent.get(lent, (None, None))[0] == passage.cid:
            del self._lent[lent]


def _towards(flow: Flow) -> Flow:
    """What its packets show, to any port of a host."""
    return Flow(flow.on_the_wire.transport, flow.source, flow.destination.with_port(0))


def _candidates(cid: Cid, wanted: int, ports: Sequence[int], what: bytes = b"") -> Iterator[int]:
    """Ports to try, in an order that is the connection's own; another for each use of a port."""
    if wanted in ports:
        yield wanted
    for number in range(PORT_TRIES):
        drawn = int.from_bytes(digest(cid, what, number.to_bytes(2, "big"))[:4], "big")
        yield ports[drawn % len(ports)]
