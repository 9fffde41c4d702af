"""Rule sets and packets at random, to show to this plane and to a real one.

A case is a few steps: changes of rules, then packets that fit them, nearly fit them, or have
nothing to do with them. Whoever plays it gets the same rules and the same bytes, and says of every
packet what became of it. tests/netns plays cases against nftables; the simulator's own plane is
kernel/memory.py, which the worlds run on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from random import Random

from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.packets import build_udp
from wayside.kernel.plan import Change, Put, Remove

from .wire import Flag, build_tcp

RULES_A_STEP = 12
PACKETS_A_STEP = 40
FEW_PORTS = (53, 443, 4000, 4001, 65535)
"""Few ports and addresses, so that flows are nearly alike."""

SHORT_S = 0.02
"""Lifetime of a rule that is over before its packets come."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the addresses of a case are from, one prefix for each side; families 4 and 6.

    A host's `near` are its own addresses and `far` those of peers; a gate's its two sides.
    """

    near: Sequence[IP]
    far: Sequence[IP]


@dataclass(frozen=True, slots=True)
class Step:
    """Changes, then packets by number; `waits`: until rules of a short life are over."""

    changes: tuple[Change, ...]
    packets: tuple[tuple[int, Flow, bytes], ...]
    waits: bool


class Cases:
    """Draws steps; the rules of a step stay for the next, unless it takes them away."""

    def __init__(self, chance: Random, ends: Ends, rewrites: Ends | None = None) -> None:
        self._chance = chance
        self._ends = ends
        self._rewrites = rewrites
        self._rules: dict[Flow, Rule] = {}
        self._number = 0

    def step(self) -> Step:
        """The next step."""
        chance = self._chance
        changes: list[Change] = []
        for _ in range(chance.randint(1, RULES_A_STEP)):
            if self._rules and chance.random() < 0.4:
                changes.append(self._removal())
            else:
                changes.append(self._put())
        flows = [self._packet_flow() for _ in range(PACKETS_A_STEP)]
        packets: list[tuple[int, Flow, bytes]] = []
        for flow in flows:
            self._number += 1
            packets.append((self._number, flow, numbered(flow, self._number)))
        short = any(isinstance(one, Put) and one.rule.lifetime_s == SHORT_S for one in changes)
        return Step(tuple(changes), tuple(packets), short)

    def _put(self) -> Put:
        match = self._flow()
        if self._rules and self._chance.random() < 0.3:
            match = self._chance.choice(list(self._rules))
        rule = self._rewriting(match) if self._rewrites else self._deciding(match)
        self._rules[match] = rule
        return Put(rule)

    def _removal(self) -> Remove:
        """Of a rule that is there; sometimes in the name of somebody else, who has no say."""
        match = self._chance.choice(list(self._rules))
        rule = self._rules[match]
        if self._chance.random() < 0.3:
            return Remove(_owned(rule, Cid(self._chance.randbytes(16))))
        del self._rules[match]
        return Remove(rule)

    def _deciding(self, match: Flow) -> Rule:
        chance = self._chance
        lifetime_s = chance.choice((SHORT_S, 300.0, 3600.0))
        action = Action.DROP if chance.random() < 0.2 else Action.ACCEPT
        renewed = action is Action.ACCEPT and lifetime_s == 3600.0
        owner = Cid(chance.randbytes(16))
        return Rule(owner, match, action, None, lifetime_s, renewed, "a note")

    def _rewriting(self, match: Flow) -> Rule:
        chance, to = self._chance, self._rewrites
        assert to is not None
        near, far = self._pick(to.near, match.family), self._pick(to.far, match.family)
        outgoing = match.source.ip in self._ends.near
        ips = (near, far) if outgoing else (far, near)
        ports = [match.source.port, match.destination.port]
        if chance.random() < 0.4:
            ports[chance.randrange(2)] = chance.choice(FEW_PORTS)
        source, destination = (Address(ip, port) for ip, port in zip(ips, ports, strict=True))
        rewrite = Flow(match.transport, source, destination)
        return Rule(Cid(chance.randbytes(16)), match, Action.REWRITE, rewrite, note="a note")

    def _packet_flow(self) -> Flow:
        """One that a rule fits, one that it nearly fits, or any."""
        chance = self._chance
        if not self._rules or chance.random() < 0.2:
            return self._flow()
        flow = chance.choice(list(self._rules))
        match chance.randrange(6):
            case 0:
                return Flow(flow.transport, flow.source.with_port(1), flow.destination)
            case 1:
                other = Transport.TCP if flow.transport is Transport.UDP else Transport.UDP
                return Flow(other, flow.source, flow.destination)
            case 2 if self._rewrites is None:
                return flow.reversed()
            case _:
                return flow

    def _flow(self) -> Flow:
        chance = self._chance
        family = chance.choice((4, 6))
        near = Address(self._pick(self._ends.near, family), chance.choice(FEW_PORTS))
        far = Address(self._pick(self._ends.far, family), chance.choice(FEW_PORTS))
        transport = chance.choice((Transport.TCP, Transport.UDP))
        flow = Flow(transport, near, far)
        return flow if self._rewrites or chance.random() < 0.5 else flow.reversed()

    def _pick(self, ips: Sequence[IP], family: int) -> IP:
        return self._chance.choice([ip for ip in ips if ip.version == family])


def numbered(flow: Flow, number: int) -> bytes:
    """A packet with its number in the last 8 bytes."""
    payload = number.to_bytes(8, "big")
    if flow.transport is Transport.UDP:
        return build_udp(flow, payload)
    return build_tcp(flow, Flag.ACK, number, 1, payload)


def addresses(v4: str, v6: str, count: int) -> list[IP]:
    """So many addresses of each family, from these on."""
    first = (IPv4Address(v4), IPv6Address(v6))
    return [ip + n for ip in first for n in range(count)]


def _owned(rule: Rule, owner: Cid) -> Rule:
    return Rule(
        owner,
        rule.match,
        rule.action,
        rule.rewrite,
        rule.lifetime_s,
        rule.renewed_by_packets,
        rule.note,
    )
