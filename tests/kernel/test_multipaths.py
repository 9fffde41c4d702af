"""What is to be done for MPTCP connections: what the kernel says in, events and subflows out."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from pair import Pair
from wayside.core.address import Address, Flow, Transport
from wayside.core.effects import ReportRefused
from wayside.core.events import CloseRequested, OpenRequested
from wayside.core.rule import Cid
from wayside.kernel.mptcp import Happened, MptcpEvent, Subflow
from wayside.kernel.mptcp_sockets import ListedMptcp
from wayside.kernel.multipaths import NEWS_MAX_S, NEWS_S, MakeSubflow, Multipaths, SubflowUp
from wayside.kernel.subflows import AGAIN_S, UP_S

TOKEN, PORT, NOW = 77, 5000, 1000.0
OWN, THEIRS = Address.parse("10.77.0.2:4747"), Address.parse("10.78.0.2:4747")


class World:
    """A client with two addresses whose MPTCP connection is up; its peer has two as well."""

    def __init__(self, *, told: bool = True, transport: Transport = Transport.MPTCP) -> None:
        self.pair = Pair(1, transport=transport).open()
        self.peer_is_at(THEIRS)
        self.about = self.pair.connection("c").agreement
        self.pair.c.context.own = (self.pair.own["c"][0], OWN)
        numbers, self.ports = count(1), count(PORT)
        self.these = Multipaths(self.pair.c, lambda size: next(numbers).to_bytes(size, "big"))
        self.these.expect(self.about.cid, NOW)
        if told:
            self.happens(Happened.ESTABLISHED, self.about.local.on_the_wire)

    def peer_is_at(self, *others: Address) -> None:
        """Beside where it was at first."""
        connection = self.pair.connection("c")
        connection.agreement = replace(connection.agreement, alternatives=others)

    def happens(self, what: Happened, flow: Flow | None = None) -> list[object]:
        return list(self.these.happened(MptcpEvent(what, TOKEN, flow), NOW))

    def asks(self, now: float = NOW) -> OpenRequested:
        (asked,) = self.these.look(now, lambda _: next(self.ports))
        assert isinstance(asked, OpenRequested)
        return asked

    def refuse(self, asked: OpenRequested) -> None:
        self.these.refused(ReportRefused(asked.cid, "s", "https", 1, "no", "g1", "rule"), NOW)


def test_a_subflow_is_made_when_its_connection_is_up_and_not_before() -> None:
    """R-2.5."""
    world = World()
    asked = world.asks()
    assert (asked.wire.source.ip, asked.wire.destination.ip) == (OWN.ip, THEIRS.ip)
    assert asked.wire.transport is Transport.MPTCP
    assert world.these.opened(Cid(b"another"), NOW) == []
    wanted = Subflow(TOKEN, 1, asked.local.on_the_wire)
    assert world.these.opened(asked.cid, NOW) == [MakeSubflow(asked.cid, asked.wire, wanted)]
    assert world.these.opened(asked.cid, NOW) == [], "a refresh makes no second one"
    up = world.happens(Happened.SUBFLOW_ESTABLISHED, asked.local.on_the_wire)
    assert up == [SubflowUp(asked.cid, asked.wire)]
    assert world.these.due_after(NOW) is None


def test_what_was_refused_is_asked_for_again_in_its_time() -> None:
    world = World()
    world.refuse(world.asks())
    assert world.these.look(NOW, lambda _: PORT) == []
    assert world.these.due_after(NOW) == NOW + AGAIN_S
    assert world.asks(NOW + AGAIN_S).wire.source.ip == OWN.ip


def test_nobody_looks_again_for_a_path_that_is_not_wanted_any_more() -> None:
    """The peer has another address now: an agent would look at once, without end."""
    world = World()
    world.refuse(world.asks())
    world.peer_is_at(Address.parse("10.79.0.2:4747"))
    asked = world.asks()
    world.these.opened(asked.cid, NOW)
    world.happens(Happened.SUBFLOW_ESTABLISHED, asked.local.on_the_wire)
    later = NOW + AGAIN_S
    world.these.look(later, lambda _: PORT)
    assert world.these.due_after(later) is None


def test_a_subflow_that_nobody_answers_is_given_up() -> None:
    world = World()
    asked = world.asks()
    world.these.opened(asked.cid, NOW)
    assert world.these.due_after(NOW) == NOW + UP_S
    assert world.these.look(NOW + UP_S, lambda _: PORT) == [
        CloseRequested(asked.cid, "nobody answers its SYN")
    ]


def test_what_the_kernel_would_not_make_is_closed_and_gets_another_port() -> None:
    world = World()
    asked = world.asks()
    world.these.opened(asked.cid, NOW)
    assert world.these.not_made(asked.cid, "in use", NOW) == [CloseRequested(asked.cid, "in use")]
    (again,) = world.these.look(NOW + AGAIN_S, lambda _: PORT + 1)
    assert isinstance(again, OpenRequested)
    assert again.wire.source.port == PORT + 1


def test_a_first_subflow_that_is_closed_gives_its_path_back() -> None:
    """Its connection is closed, and the path asked for anew; the others carry on."""
    world = World()
    asked = world.asks()
    world.these.opened(asked.cid, NOW)
    found = world.happens(Happened.SUBFLOW_CLOSED, world.about.local.on_the_wire)
    assert found == [CloseRequested(world.about.cid, "the kernel has closed its subflow")]
    (one,) = world.these.known
    assert [branch.cid for branch in one.branches.values()] == [asked.cid]


def test_without_a_port_nothing_is_asked() -> None:
    assert World().these.look(NOW, lambda _: 0) == []


def there(world: World, *, fallback: bool) -> list[ListedMptcp]:
    return [ListedMptcp(world.about.local.on_the_wire, TOKEN, fallback)]


def test_news_that_was_lost_is_made_up_for_by_asking_the_kernel() -> None:
    """R-2.5."""
    world = World(told=False)
    assert world.these.look(NOW, lambda _: PORT) == []
    assert not world.these.is_unheard(NOW + NEWS_S / 2)
    assert world.these.due_after(NOW) == NOW + NEWS_S
    assert world.these.is_unheard(NOW + NEWS_S)
    assert world.these.listed(there(world, fallback=False), NOW + NEWS_S) == []
    assert world.asks(NOW + NEWS_S).wire.source.ip == OWN.ip
    assert world.these.due_after(NOW + NEWS_S) is None


def test_who_has_heard_of_it_does_not_ask() -> None:
    world = World()
    assert not world.these.is_unheard(NOW + NEWS_MAX_S)
    plain = World(told=False, transport=Transport.TCP)
    assert plain.these.is_idle


def test_a_connection_that_has_fallen_back_is_told_and_gets_no_subflow() -> None:
    world = World(told=False)
    cid = world.about.cid
    assert world.these.listed(there(world, fallback=True), NOW + NEWS_S) == [cid]
    assert world.these.is_fallen(cid)
    assert world.these.is_idle
    assert world.these.look(NOW + NEWS_S, lambda _: PORT) == []
    world.these.ended(cid, NOW + NEWS_S)
    assert not world.these.is_fallen(cid)


def test_an_application_that_connects_late_is_asked_about_again_and_more_rarely() -> None:
    world, now = World(told=False), NOW + NEWS_S
    waited: list[float] = []
    for _ in range(7):
        assert world.these.is_unheard(now)
        assert world.these.listed([], now) == []
        due = world.these.due_after(now)
        assert due is not None
        waited.append(due - now)
        now = due
    assert waited == [4.0, 8.0, 16.0, 32.0, NEWS_MAX_S, NEWS_MAX_S, NEWS_MAX_S]
    world.happens(Happened.ESTABLISHED, world.about.local.on_the_wire)
    assert world.these.due_after(now) is None


def test_nothing_is_awaited_of_a_connection_that_is_over() -> None:
    world = World(told=False)
    world.these.ended(world.about.cid, NOW)
    assert world.these.is_idle
    gone = World(told=False)
    gone.pair.c.connections.clear()
    assert gone.these.listed([], NOW + NEWS_S) == []
    assert gone.these.is_idle
