"""The agent's side of paths: it reads counters, asks what is decided, and tells addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest

from pair import Pair
from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.effects import ReportOpened
from wayside.core.events import OpenRequested, SourcesChanged
from wayside.core.host import Host
from wayside.core.rule import Rule
from wayside.kernel.multihoming import WayOut
from wayside.kernel.plan import InstalledRule, KernelError
from wayside.runtime import paths as module
from wayside.runtime.paths import PathKeeper

C2, S2 = ip_address("10.77.0.2"), ip_address("10.78.0.2")


@dataclass
class World:
    """A kernel with counters, and a client's machine between two addresses and two of its peer."""

    pair: Pair
    ways: list[IP]
    fails: bool = False
    routed: int = 0
    settled: int = 0
    packets: int = 0
    looked_up: list[Sequence[Flow]] = field(default_factory=list[Sequence[Flow]])
    heard: list[OpenRequested | SourcesChanged] = field(
        default_factory=list[OpenRequested | SourcesChanged]
    )

    async def look_up(self, matches: Sequence[Flow]) -> list[InstalledRule]:
        self.looked_up.append(matches)
        rules: dict[Flow, Rule] = self.pair.kernel["c"]
        return [InstalledRule(rules[match], None, self.packets, 0) for match in matches]

    async def route_by_source(self) -> None:
        self.routed += 1

    def hear(self, event: OpenRequested | SourcesChanged) -> None:
        self.heard.append(event)
        self.pair.tell("c", event)

    def settle(self) -> None:
        self.settled += 1

    @property
    def host(self) -> Host:
        return self.pair.c

    def keeper(self) -> PathKeeper:
        asked = self.pair.own["s"]
        return PathKeeper(self.host, self, self.hear, 4747, self.settle, lambda _: asked)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    pair = Pair(0).open()
    made = World(pair, [pair.own["c"][0].ip, C2])
    about = pair.connection("c").agreement
    pair.connection("c").agreement = replace(about, alternatives=(Address(S2, 4747),))

    async def read() -> list[WayOut]:
        if made.fails:
            raise KernelError("no netlink")
        return [WayOut(ip, number, None, number) for number, ip in enumerate(made.ways)]

    monkeypatch.setattr(module, "read_ways_out", read)
    monkeypatch.setattr(module, "source_towards", lambda to: pair.own["c"][0])  # type: ignore[misc]
    return made


def run(world: World, looks: int = 1) -> PathKeeper:
    """Let it read the addresses, and look so many times."""

    async def go() -> PathKeeper:
        keeper = world.keeper()
        await keeper._read(None)
        for _ in range(looks):
            await keeper._look()
        return keeper

    return asyncio.run(go())


def test_all_addresses_are_told_to_the_machine_once(world: World) -> None:
    """R-5.4.7: and their packets are routed by source."""
    keeper = run(world)
    own = tuple(Address(ip, 4747) for ip in world.ways)
    assert world.host.context.own == own
    assert (world.routed, world.settled) == (1, 1)
    asyncio.run(keeper._read(None))
    assert (world.routed, world.settled) == (1, 1)


def test_a_kernel_that_does_not_tell_changes_nothing(world: World) -> None:
    """R-5.4.7."""
    world.fails = True
    run(world)
    assert world.host.context.own == ()
    assert world.heard == []


def test_news_of_addresses_wait_for_whoever_moves_and_are_read_once(world: World) -> None:
    """R-5.4.7: at the start they are read at once."""

    async def turns() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def go() -> None:
        keeper = world.keeper()
        keeper.start()
        await turns()
        assert world.routed == 1
        world.ways.reverse()
        for _ in range(3):
            keeper.network_changed()
            await turns()
        assert world.routed == 1
        timer = keeper._timer
        assert timer is not None
        assert timer.when() - asyncio.get_running_loop().time() > module.READ_AFTER_S / 2
        timer.cancel()
        keeper._read_now()
        await turns()
        assert world.routed == 2
        keeper.stop()

    asyncio.run(go())


def test_both_rules_of_a_connection_are_looked_up(world: World) -> None:
    """R-5.4.8."""
    run(world)
    about = world.pair.connection("c").agreement
    assert list(world.looked_up[0]) == [about.local, about.wire.reversed()]


def test_a_host_without_a_choice_looks_at_nothing(world: World) -> None:
    """R-5.4.8: one address here, and one there."""
    about = world.pair.connection("c").agreement
    world.pair.connection("c").agreement = replace(about, alternatives=())
    world.ways = world.ways[:1]
    run(world)
    assert world.looked_up == []


def test_what_is_decided_is_asked_of_the_machine_by_cid_and_path(world: World) -> None:
    """R-5.4.8: here the first question, which tells how long an answer takes."""

    async def go() -> None:
        keeper = world.keeper()
        await keeper._read(None)
        keeper.paths.settle(world.host.context.own, -1000.0)  # long ago
        await keeper._look()
        world.packets += 1
        await keeper._look()

    asyncio.run(go())
    asked = [event for event in world.heard if isinstance(event, OpenRequested)]
    about = world.pair.connection("c").agreement
    assert [(one.cid, one.wire.source.ip) for one in asked] == [(about.cid, about.wire.source.ip)]


def test_a_new_connection_goes_where_the_others_of_that_peer_go(world: World) -> None:
    """R-5.4.8: it is at an alternative now; who is asked at another address is another host."""
    keeper = run(world)
    connection = world.pair.connection("c")
    about = connection.agreement
    first = about.wire.destination
    there = replace(about.wire, destination=Address(S2, first.port))
    connection.agreement = replace(about, wire=there, alternatives=(first.with_port(4747),))
    report = ReportOpened(about.cid, "s", "https", there, about.local, 60.0, refreshed=True)
    keeper.opened(report)
    key, asked = about.peer.key, first.with_port(4747)
    assert keeper.towards(key, asked) == Address(S2, 4747)
    stranger = Address.parse("10.99.0.1").with_port(4747)
    assert keeper.towards(key, stranger) == stranger
    world.pair.close("c")
    assert keeper.towards(key, asked) == asked


def test_what_both_ends_agreed_on_holds_against_the_kernels_choice(world: World) -> None:
    """R-5.4.6: a connection that the other end has moved stays there."""
    keeper = run(world)
    about = world.pair.connection("c").agreement
    wire = replace(about.wire, source=Address(C2, about.wire.source.port))
    keeper.opened(ReportOpened(about.cid, "s", "https", wire, about.local, 60.0, refreshed=True))
    assert keeper.source_towards(wire.destination.ip) == Address(C2, 0)


def test_where_a_further_subflow_goes_is_nothing_to_others(world: World) -> None:
    """R-2.5: new connections are asked for where they would be without it."""
    keeper = run(world)
    about = world.pair.connection("c").agreement
    there = about.wire.destination
    wire = Flow(Transport.MPTCP, Address(C2, 5000), Address(S2, there.port))
    world.pair.connection("c").agreement = replace(
        about, wire=wire, alternatives=(there.with_port(4747),)
    )
    for refreshed in (False, True):
        report = ReportOpened(about.cid, "s", "https", wire, about.local, 60.0, refreshed)
        keeper.opened(report)
    assert keeper.source_towards(S2) is None
    asked = there.with_port(4747)
    assert keeper.towards(about.peer.key, asked) == asked
