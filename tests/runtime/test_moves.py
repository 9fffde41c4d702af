"""A host hears that its network has changed, and says from where it now reaches whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest

from pair import Pair
from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.connection import Connection
from wayside.core.effects import ReportOpened
from wayside.core.events import SourcesChanged
from wayside.runtime import moves
from wayside.runtime.moves import Moves

NEW = ip_address("10.77.0.2")
VIRTUAL = ip_address("198.18.0.1")


@dataclass
class World:
    """The kernel and the agent around a client's machine; `heard`: what the machine was told."""

    pair: Pair
    source: IP | None = None
    usable: set[IP] = field(default_factory=set[IP])
    heard: list[Mapping[IP, IP]] = field(default_factory=list[Mapping[IP, IP]])
    held: list[int] = field(default_factory=list[int])
    resumed: list[int] = field(default_factory=list[int])
    changes: int = 0

    def hear(self, event: SourcesChanged) -> None:
        self.heard.append(event.sources)
        self.pair.tell("c", event)

    def hold(self, connections: list[Connection]) -> None:
        self.held.append(len(connections))

    def resume(self, connections: list[Connection]) -> None:
        self.resumed.append(len(connections))

    def changed(self) -> None:
        self.changes += 1


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A connection is up; the host is still where it was."""
    pair = Pair(0).open()
    here = pair.own["c"][0].ip
    found = World(pair, here, {here})

    def towards(_: Address) -> Address | None:
        return Address(found.source, 0) if found.source else None

    def usable() -> set[IP]:
        return found.usable

    monkeypatch.setattr(moves, "source_towards", towards)
    monkeypatch.setattr(moves, "usable_addresses", usable)
    return found


def looking(world: World, then: Callable[[Moves], None] = lambda _: None) -> Moves:
    """Let it look once, and go on until nothing is left to do."""
    made: list[Moves] = []

    async def run() -> None:
        seen = Moves(world.pair.nodes["c"], world.hear, world, world.changed)  # type: ignore[arg-type]
        seen.start()
        seen.look()
        for _ in range(10):
            await asyncio.sleep(0)
        then(seen)
        for _ in range(10):
            await asyncio.sleep(0)
        seen.stop()
        made.append(seen)

    asyncio.run(run())
    return made[0]


def report(world: World, refreshed: bool = True) -> ReportOpened:
    about = world.pair.connection("c").agreement
    return ReportOpened(
        about.cid, str(about.peer), about.service, about.wire, about.local, 120.0, refreshed
    )


def test_nothing_is_said_while_a_host_is_where_it_was(world: World) -> None:
    looking(world)
    assert world.heard == []
    assert (world.held, world.resumed) == ([0], [1])


def test_a_new_address_is_told_for_each_peer_and_leads_to_a_move(world: World) -> None:
    """R-5.4.6."""
    there = world.pair.connection("c").agreement.wire.destination.ip
    world.source = NEW
    looking(world)
    assert world.heard == [{there: NEW}]
    attempt = world.pair.connection("c").attempt
    assert attempt is not None
    assert attempt.wire.source.ip == NEW


def test_a_subflow_is_not_told_of_a_better_address_until_its_own_is_gone(world: World) -> None:
    """R-2.5."""
    connection, here = world.pair.connection("c"), world.pair.own["c"][0]
    about = connection.agreement
    wire = Flow(Transport.MPTCP, about.wire.source, about.wire.destination)
    connection.agreement = replace(about, wire=wire)
    world.pair.c.context.own = (Address(NEW, 4747), here)
    world.source = NEW
    looking(world)
    assert world.heard == []
    world.pair.c.context.own = (Address(NEW, 4747),)
    looking(world)
    assert world.heard == [{wire.destination.ip: NEW}]


def test_what_has_lost_its_address_is_held_and_what_has_both_is_not(world: World) -> None:
    world.source = NEW
    world.usable.add(NEW)
    looking(world)
    assert world.held == [0]
    world.usable = {NEW}
    looking(world)
    assert world.held == [0, 1]


def test_a_host_without_any_way_says_nothing_and_holds_what_is_said(world: World) -> None:
    world.source, world.usable = None, set()
    looking(world)
    assert world.heard == []
    assert world.held == [1]
    assert world.changes == 1


def test_a_virtual_address_is_no_place_to_be(world: World) -> None:
    """R-6.3: where a host has no other address left the kernel takes one of these."""
    world.source = VIRTUAL
    looking(world)
    assert world.heard == []
    assert world.held == [1]


def test_a_move_is_counted_and_its_gap_is_measured_for_the_mover_alone(world: World) -> None:
    world.source = NEW
    there = world.pair.connection("c").agreement.wire
    cid = world.pair.connection("c").agreement.cid
    world.pair.own["c"] = (Address(NEW, 4747), Address(NEW, 4747))

    def confirmed(seen: Moves) -> None:
        world.pair.run(1.0)
        assert world.pair.connection("c").agreement.wire != there
        seen.opened(report(world))

    journey = looking(world, confirmed).journey(cid)
    assert journey is not None
    assert journey.moves == 1
    assert journey.gap_ms is not None


def test_the_other_ends_move_has_no_gap_of_ours_and_a_refresh_is_no_move(world: World) -> None:
    cid = world.pair.connection("c").agreement.cid

    def refreshed(seen: Moves) -> None:
        seen.opened(report(world))
        about = world.pair.connection("c").agreement
        moved = about.wire.destination.port + 1
        there = type(about.wire)(
            about.wire.transport, about.wire.source, about.wire.destination.with_port(moved)
        )
        seen.opened(
            ReportOpened(cid, "s", about.service, there, about.local, 120.0, refreshed=True)
        )

    journey = looking(world, refreshed).journey(cid)
    assert journey is not None
    assert (journey.moves, journey.gap_ms) == (1, None)


def test_who_redirected_a_connection_is_remembered_until_it_ends(world: World) -> None:
    cid = world.pair.connection("c").agreement.cid

    def sent_on(seen: Moves) -> None:
        seen.redirected(cid, bytes(32))

    seen = looking(world, sent_on)
    journey = seen.journey(cid)
    assert journey is not None
    assert [by[:1] for by in journey.by] == ["k"]
    seen.ended(cid)
    assert seen.journey(cid) is None


def test_news_for_many_comes_in_portions_and_for_rendezvous_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "CONNECTIONS_A_SLICE", 1)
    connection = world.pair.connection("c")
    peers: dict[IP, list[Connection]] = {
        ip_address(f"10.9.0.{number}"): [connection] for number in range(1, 4)
    }
    changed: dict[IP, IP] = dict.fromkeys(peers, NEW)
    assert [len(one) for one in moves._slices(changed, peers, ())] == [1, 1, 1]
    monkeypatch.setattr(moves, "CONNECTIONS_A_SLICE", 128)
    assert moves._slices(changed, peers, (connection.agreement.peer.key,)) == [changed]
