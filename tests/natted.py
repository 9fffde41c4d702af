"""Gates that rewrite, as tests look at them: what both ends know, and what packets really show."""

from __future__ import annotations

from pair import (
    Pair,
)
from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.gate import Gate

WITH_PORTS = (Transport.TCP, Transport.MPTCP, Transport.UDP)
EVERY = (*WITH_PORTS, Transport.NONE)
WANTED = 40000


def without_ports(source: Address, destination: Address) -> Flow:
    return Flow(Transport.NONE, source.with_port(0), destination.with_port(0))


def opened(pair: Pair, seconds: float = 0.5) -> Pair:
    """The client asks for the server's own address."""
    if pair.transport is not Transport.NONE:
        return pair.open(seconds)
    flow = without_ports(pair.own["c"][0], pair.own["s"][0])
    return pair.open(seconds, wire=flow, local=flow)


def wires(pair: Pair) -> tuple[Flow, Flow]:
    """What either end thinks that its packets look like on its own wire."""
    return pair.connection("c").agreement.wire, pair.connection("s").agreement.wire


def both_ends_know_what_packets_show(pair: Pair) -> None:
    """What leaves one end arrives as the other end expects it, both ways."""
    mine, theirs = wires(pair)
    assert pair.across(mine) == theirs.reversed()
    assert pair.across(theirs) == mine.reversed()


def restart(pair: Pair, name: str = "g1", *, rules: bool) -> Gate:
    """A new NAT with the old one's key and secret; its kernel kept its rules, or lost them."""
    old = pair.gates[name]
    fresh = Gate(old.context, FrontDoor(old._box, Budget()), old._box, Quota(100, 100))
    if not rules:
        pair.kernel[name].clear()
    fresh.restore([(rule, 80.0) for rule in pair.kernel[name].values()], pair.now)
    pair.restart(name, fresh)
    return fresh
