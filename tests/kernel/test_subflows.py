"""By which paths an MPTCP connection is to have subflows: an end with several addresses, or two."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pair import Pair
from wayside.core.address import Address, Transport
from wayside.core.effects import ReportRefused
from wayside.core.rule import Cid
from wayside.kernel.paths import Path
from wayside.kernel.subflows import (
    AGAIN_MAX_S,
    AGAIN_S,
    SUBFLOWS_MAX,
    UP_S,
    Branch,
    Multipath,
    Standing,
    refuse,
)

FIRST_OWN, FIRST_THEIRS = "10.0.0.2", "10.1.0.2"
NOW = 1000.0


class World:
    """An MPTCP connection of a client that is at some addresses, and its peer at some."""

    def __init__(self, own: int, theirs: int, transport: Transport = Transport.MPTCP) -> None:
        pair = Pair(0, transport=transport).open()
        self.connections = pair.c.connections
        connection = pair.connection("c")
        others = tuple(Address.parse(f"10.78.0.{n}:{n and 4747}") for n in range(1, theirs))
        connection.agreement = replace(connection.agreement, alternatives=others)
        here = [pair.own["c"][0].ip, *(Address.parse(f"10.77.0.{n}:0").ip for n in range(1, own))]
        self.own = [Address(ip, 4747) for ip in here]
        self.one = Multipath(7, connection.agreement)

    def paths(self, now: float = NOW) -> list[tuple[str, str]]:
        wishes = self.one.wishes(self.own, self.connections, now)
        return [(str(one.path.own), str(one.path.theirs)) for one in wishes]

    def ask(self, now: float = NOW) -> list[Branch]:
        """Ask for all that is wanted."""
        asked: list[Branch] = []
        for number, wish in enumerate(self.one.wishes(self.own, self.connections, now)):
            branch = self.one.branch(wish.path, 5000 + number)
            assert branch is not None
            branch.enter(Standing.ASKED, now)
            branch.cid = Cid(bytes([number + 1]) * 16)
            asked.append(branch)
        return asked


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [
        (1, 1, []),
        (2, 1, [("10.77.0.1", FIRST_THEIRS)]),
        (1, 2, [(FIRST_OWN, "10.78.0.1")]),
        (2, 2, [("10.77.0.1", "10.78.0.1")]),
        (3, 2, [("10.77.0.1", "10.78.0.1"), ("10.77.0.2", FIRST_THEIRS)]),
        (2, 3, [("10.77.0.1", "10.78.0.1"), (FIRST_OWN, "10.78.0.2")]),
    ],
)
def test_each_address_of_either_end_that_is_not_used_is_worth_a_subflow(
    own: int, theirs: int, expected: list[tuple[str, str]]
) -> None:
    """R-2.5."""
    assert World(own, theirs).paths() == [(str(a), str(b)) for a, b in expected]


def test_what_is_asked_for_is_not_asked_for_twice() -> None:
    world = World(2, 2)
    assert len(world.ask()) == 1
    assert world.paths() == []


def test_there_are_at_most_eight() -> None:
    world = World(8, 8)
    assert len(world.paths()) == SUBFLOWS_MAX - 1
    assert len(World(8, 1).paths()) == SUBFLOWS_MAX - 1


def test_a_refused_path_waits_longer_each_time_and_says_why() -> None:
    world = World(2, 2)
    now, waits = NOW, []
    for _ in range(9):
        (branch,) = world.ask(now)
        assert branch.cid is not None
        refuse(branch, ReportRefused(branch.cid, "s", "https", 1, "not here", "g1", "no"), now)
        assert (branch.standing, branch.cid) == (Standing.REFUSED, None)
        assert (branch.why, branch.by, branch.rule) == ("not here", "g1", "no")
        assert world.paths(now) == []
        assert branch.due is not None
        assert world.one.due_after(now) == branch.due
        waits.append(branch.due - now)
        now = branch.due
    assert waits == [AGAIN_S * 2**n for n in range(6)] + [AGAIN_MAX_S] * 3


def test_while_it_is_asked_again_it_still_says_why_there_was_none() -> None:
    world = World(2, 2)
    (branch,) = world.ask()
    assert branch.cid is not None
    refuse(branch, ReportRefused(branch.cid, "s", "https", 1, "not here", "g1", "no"), NOW)
    (again,) = world.ask(NOW + AGAIN_S)
    assert (again.standing, again.why) == (Standing.ASKED, "not here")
    again.enter(Standing.UP, NOW + AGAIN_S)
    assert (again.why, again.by, again.rule) == ("", "", "")


def test_what_is_tried_again_has_the_same_ports_and_number() -> None:
    """The kernel keeps an address id for each source port for ever."""
    world = World(2, 2)
    (branch,) = world.ask()
    before = world.one.subflow(branch)
    branch.enter(Standing.GONE, NOW)
    (again,) = world.ask(NOW + AGAIN_S)
    assert world.one.subflow(again) == before


def test_two_paths_have_two_numbers() -> None:
    branches = World(3, 3).ask()
    assert [one.number for one in branches] == [1, 2]


def test_one_that_lasted_is_asked_for_soon_when_it_is_gone() -> None:
    world = World(2, 2)
    (branch,) = world.ask()
    for _ in range(4):
        branch.enter(Standing.GONE, NOW)
    branch.enter(Standing.UP, NOW)
    branch.enter(Standing.GONE, NOW + AGAIN_MAX_S + 1)
    assert branch.wait_s == AGAIN_S


def test_an_allowed_subflow_has_some_seconds_to_come_up() -> None:
    world = World(2, 2)
    (branch,) = world.ask()
    branch.enter(Standing.ALLOWED, NOW)
    assert branch.due == NOW + UP_S
    branch.enter(Standing.UP, NOW + 1)
    assert branch.due is None


def test_a_subflow_has_the_sockets_addresses_and_a_port_of_its_own() -> None:
    """R-2.5, R-6.3: the kernel sees virtual addresses, the wire those of the path."""
    world = World(2, 2)
    (branch,) = world.ask()
    first = world.one.first
    assert world.one.local(branch).source == first.local.source.with_port(5000)
    assert world.one.local(branch).destination == first.local.destination
    wire = world.one.wire(branch)
    assert (str(wire.source), str(wire.destination)) == ("10.77.0.1:5000", "10.78.0.1:443")
    assert wire.transport is Transport.MPTCP
    assert world.one.subflow(branch).flow.transport is Transport.TCP
    assert world.one.of_flow(world.one.local(branch).on_the_wire) is branch
    assert world.one.of_flow(first.local.on_the_wire) is None


def test_where_nobody_is_left_nothing_is_asked() -> None:
    world = World(2, 2)
    world.connections.clear()
    assert world.paths() == []
    assert world.one.is_over(world.connections)


def test_a_peer_that_did_not_agree_itself_is_asked_for_no_more() -> None:
    """R-12.3: a gate has answered in its place."""
    world = World(2, 2)
    (connection,) = world.connections.values()
    connection.agreement = replace(connection.agreement, stands="a gate answers")
    assert world.paths() == []


def test_the_first_stands_for_all_and_another_when_it_is_gone() -> None:
    world = World(2, 2)
    (branch,) = world.ask()
    first, (connection,) = world.one.first.cid, world.connections.values()
    assert world.one.lead(world.connections) == first
    assert branch.cid is not None
    world.connections[branch.cid] = connection
    del world.connections[first]
    connection.agreement = replace(connection.agreement, cid=branch.cid)
    assert world.one.lead(world.connections) == branch.cid
    assert not world.one.is_over(world.connections)


def test_a_subflow_that_has_moved_leaves_its_path_to_another() -> None:
    """R-2.5: its own address was gone for a while, and is back; the other end has but one."""
    world = World(2, 1)
    (branch,) = world.ask()
    branch.enter(Standing.UP, NOW)
    (connection,) = world.connections.values()
    own, theirs = (Address.parse(f"{ip}:0").ip for ip in ("10.77.0.1", FIRST_THEIRS))
    moved = Pair(0, transport=Transport.MPTCP).open().connection("c")
    assert branch.cid is not None
    moved.agreement = replace(moved.agreement, cid=branch.cid, wire=world.one.wire(branch))
    world.connections[branch.cid] = moved
    assert world.paths() == []
    here = moved.agreement.wire
    source = Address(connection.agreement.wire.source.ip, here.source.port)
    moved.agreement = replace(moved.agreement, wire=replace(here, source=source))
    before = world.one.subflow(branch)
    assert world.paths() == [("10.77.0.1", FIRST_THEIRS)]
    assert world.one.wire(branch).source == source
    assert world.one.subflow(branch) == before
    another = world.one.branch(Path(own, theirs), 5001)
    assert another is not None
    assert another.number != branch.number


def test_a_path_is_known_by_its_two_addresses() -> None:
    world = World(2, 2)
    (branch,) = world.ask()
    own, theirs = (Address.parse(f"{ip}:0").ip for ip in ("10.77.0.1", "10.78.0.1"))
    assert branch.path == Path(own, theirs)
