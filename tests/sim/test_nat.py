"""NAT boxes behave as RFC 4787 tells them apart.

a, b ── access ── nat ── core ── x, y
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.kernel.packets import build_udp
from wayside.sim.chance import Chance
from wayside.sim.clock import Clock
from wayside.sim.link import Conditions
from wayside.sim.nat import Depends, Nat, NatKind
from wayside.sim.network import Interface, Network, Node, Place, Router
from wayside.sim.trace import Trace
from wayside.sim.wire import packet_of

ANY, ADDRESS, PORT = Depends.ENDPOINT_INDEPENDENT, Depends.ADDRESS, Depends.ADDRESS_AND_PORT


class Ear(Node):
    """Keeps what comes."""

    def __init__(self, network: Network, name: str) -> None:
        super().__init__(network, name)
        self.heard: list[Flow] = []

    def receive(self, raw: bytes, interface: Interface) -> None:
        packet = packet_of(raw)
        assert packet
        self.heard.append(packet.flow)


@dataclass
class Town:
    kind: NatKind
    network: Network = field(init=False)

    def __post_init__(self) -> None:
        network = self.network = Network(Place(Clock(), Trace(), Chance(1)), 4)
        access, core = Router(network, "access"), Router(network, "core")
        nat = Nat(network, "nat", self.kind)
        network.connect(access, nat, Conditions(), ("", "inside"))
        network.connect(nat, core, Conditions(), ("outside", ""))
        for name, router in (("a", access), ("b", access), ("x", core), ("y", core)):
            network.connect(Ear(network, name), router, Conditions())

    def ear(self, name: str) -> Ear:
        node = self.network.nodes[name]
        assert isinstance(node, Ear)
        return node

    def at(self, name: str, port: int) -> Address:
        return Address(self.ear(name).interfaces[0].address, port)

    def send(self, name: str, source: Address, to: Address, wait_s: float = 1.0) -> None:
        self.ear(name).transmit(build_udp(Flow(Transport.UDP, source, to), b"hello"))
        self.network.place.clock.run(self.network.place.clock.now + wait_s)

    def seen_from(self, to: str, port: int = 80, source_port: int = 1000) -> Address:
        """What an outside host takes for the source of a packet of `a`."""
        self.send("a", self.at("a", source_port), self.at(to, port))
        return self.ear(to).heard[-1].source

    def reaches(self, source: Address, name: str, to: Address) -> bool:
        before = len(self.ear("a").heard)
        self.send(name, source, to)
        return len(self.ear("a").heard) > before


@pytest.mark.parametrize(
    ("mapping", "same_host", "other_host"),
    [(ANY, True, True), (ADDRESS, True, False), (PORT, False, False)],
)
def test_a_mapping_depends_on_as_much_of_the_other_end_as_its_kind_says(
    mapping: Depends, same_host: bool, other_host: bool
) -> None:
    town = Town(NatKind(mapping=mapping, preserves=False))
    first = town.seen_from("x", 80)
    assert (town.seen_from("x", 81) == first) is same_host
    assert (town.seen_from("y", 80) == first) is other_host


@pytest.mark.parametrize(
    ("filtering", "other_port", "other_host"),
    [(ANY, True, True), (ADDRESS, True, False), (PORT, False, False)],
)
def test_a_filter_lets_in_whom_its_kind_says(
    filtering: Depends, other_port: bool, other_host: bool
) -> None:
    town = Town(NatKind(filtering=filtering))
    mapped = town.seen_from("x", 80)
    assert town.reaches(town.at("x", 80), "x", mapped)
    assert town.reaches(town.at("x", 81), "x", mapped) is other_port
    assert town.reaches(town.at("y", 80), "y", mapped) is other_host
    assert town.ear("a").heard[-1].destination == town.at("a", 1000)


def test_a_mapping_that_was_quiet_for_too_long_is_gone() -> None:
    town = Town(NatKind(filtering=ANY, expiry_s=30.0))
    mapped = town.seen_from("x")
    town.network.place.clock.run(20.0)
    assert town.seen_from("x") == mapped
    town.network.place.clock.run(45.0)
    assert town.reaches(town.at("x", 80), "x", mapped)
    town.network.place.clock.run(60.0)
    assert not town.reaches(town.at("x", 80), "x", mapped)


def test_a_port_is_kept_while_it_is_free() -> None:
    town = Town(NatKind(preserves=True))
    assert town.seen_from("x", source_port=1000).port == 1000
    town.send("b", town.at("b", 1000), town.at("x", 80))
    assert town.ear("x").heard[-1].source.port != 1000


@pytest.mark.parametrize("hairpin", [True, False])
def test_two_inside_hosts_meet_outside_only_at_a_hairpinning_box(hairpin: bool) -> None:
    town = Town(NatKind(filtering=ANY, hairpin=hairpin))
    mapped = town.seen_from("x")
    assert town.reaches(town.at("b", 2000), "b", mapped) is hairpin


def test_nobody_comes_in_uninvited_or_by_the_inside_address() -> None:
    town = Town(NatKind(filtering=ANY))
    nat = town.network.nodes["nat"]
    assert isinstance(nat, Nat)
    assert not town.reaches(town.at("x", 80), "x", Address(nat.public.address, 1000))
    town.seen_from("x")
    assert not town.reaches(town.at("x", 80), "x", town.at("a", 1000))
