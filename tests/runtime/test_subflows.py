"""The agent's side of MPTCP: it hears the kernel, asks for paths, and has subflows made."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pair import Pair
from wayside.core.address import Address, Flow, Transport
from wayside.core.effects import ReportClosed, ReportOpened, ReportRefused
from wayside.core.events import CloseRequested, OpenRequested
from wayside.core.rule import Cid
from wayside.kernel.mptcp import Happened, MptcpEvent, Subflow
from wayside.kernel.mptcp_sockets import ListedMptcp
from wayside.kernel.multipaths import NEWS_S
from wayside.kernel.packets import Packet
from wayside.kernel.plan import KernelError
from wayside.kernel.subflows import UP_S
from wayside.runtime import subflows as module
from wayside.runtime.control_types import SubflowRecord
from wayside.runtime.eventlog import EventLog, read
from wayside.runtime.subflows import FALLEN_BACK, Subflows

TOKEN, PORT = 77, 5000
OWN, THEIRS = "10.77.0.2", "10.78.0.2"


class World:
    """A client with two addresses whose MPTCP connection is up; its peer has two as well."""

    def __init__(self, log: Path | None = None, transport: Transport = Transport.MPTCP) -> None:
        self.pair = Pair(1, transport=transport).open()
        connection = self.pair.connection("c")
        alternatives = (Address.parse(f"{THEIRS}:4747"),)
        connection.agreement = replace(connection.agreement, alternatives=alternatives)
        self.about = connection.agreement
        self.pair.c.context.own = (self.pair.own["c"][0], Address.parse(f"{OWN}:4747"))
        self.asked: list[OpenRequested] = []
        self.made: list[Subflow] = []
        self.closed: list[tuple[Cid, str]] = []
        self.refuses = False
        self.now = 1000.0
        self.these = Subflows(
            self.pair.c, self, EventLog(log, "c", "host"), self.asked.append, self.close
        )

    async def make_subflow(self, wanted: Subflow) -> None:
        self.made.append(wanted)
        if self.refuses:
            raise KernelError("no", "")

    def close(self, cid: Cid, reason: str) -> None:
        self.closed.append((cid, reason))

    def happens(self, what: Happened, flow: Flow | None = None, accepted: bool = False) -> None:
        self.these.happened(MptcpEvent(what, TOKEN, flow, accepted))

    def established(self) -> None:
        self.happens(Happened.ESTABLISHED, self.about.local.on_the_wire)

    def opened(self, asked: OpenRequested) -> None:
        """The signaled connection is up."""
        self.these.opened(
            ReportOpened(asked.cid, "s", asked.service, asked.wire, asked.local, 120.0)
        )

    async def one_up(self) -> OpenRequested:
        """To where a further subflow is up."""
        self.established()
        await settle()
        (asked,) = self.asked
        self.opened(asked)
        await settle()
        self.happens(Happened.SUBFLOW_ESTABLISHED, asked.local.on_the_wire)
        return asked

    async def later(self, seconds: float) -> None:
        self.now += seconds
        self.these.look_soon()
        await settle()

    @property
    def record(self) -> SubflowRecord:
        (record,) = self.these.records(self.about.cid)
        return record


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


Play = Callable[[World], Awaitable[None]]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    def play(run: Play, world: World | None = None) -> World:
        made = world or World()
        monkeypatch.setattr(module, "_free_port", lambda _: PORT)  # type: ignore[misc]
        monkeypatch.setattr(module.time, "monotonic", lambda: made.now)

        async def inside() -> None:
            await run(made)
            if made.these._timer is not None:
                made.these._timer.cancel()

        asyncio.run(inside())
        return made

    return play


Played = Callable[..., World]


def test_a_further_subflow_is_asked_for_as_a_connection_of_its_own_and_made_when_that_is_up(
    played: Played,
) -> None:
    """R-2.5: by the other path, from the socket's address with a port of its own."""

    async def run(world: World) -> None:
        world.established()
        await settle()
        (asked,) = world.asked
        assert str(asked.wire) == f"mptcp {OWN}:{PORT} > {THEIRS}:443"
        assert asked.local.source == world.about.local.source.with_port(PORT)
        assert asked.local.destination == world.about.local.destination
        assert (asked.peer, asked.service) == (world.about.peer, world.about.service)
        assert asked.signaling == Address.parse(f"{THEIRS}:4747")
        assert asked.cid != world.about.cid
        assert world.made == []
        assert world.record.state == "asked"
        world.opened(asked)
        await settle()
        assert world.made == [Subflow(TOKEN, 1, asked.local.on_the_wire)]
        assert world.record.state == "allowed"
        world.happens(Happened.SUBFLOW_ESTABLISHED, asked.local.on_the_wire)
        assert world.record.state == "up"
        assert world.record.cid == asked.cid.hex()
        world.opened(asked)
        await settle()
        assert len(world.made) == 1

    played(run)


@pytest.mark.parametrize(
    "event",
    [
        MptcpEvent(Happened.ESTABLISHED, TOKEN, None),
        MptcpEvent(Happened.SUBFLOW_ESTABLISHED, TOKEN, None),
        MptcpEvent(Happened.ESTABLISHED, TOKEN, Flow(Transport.TCP, *World().pair.own["c"])),
    ],
)
def test_what_is_no_connection_of_ours_gets_no_subflow(event: MptcpEvent, played: Played) -> None:
    async def run(world: World) -> None:
        world.these.happened(event)
        await settle()

    assert played(run).asked == []


def test_who_was_asked_leaves_it_to_the_other_end(played: Played) -> None:
    async def run(world: World) -> None:
        world.happens(Happened.ESTABLISHED, world.about.local.on_the_wire, accepted=True)
        await settle()

    assert played(run).asked == []


def test_a_connection_that_was_signaled_as_tcp_gets_no_subflow(played: Played) -> None:
    """R-2.5: those on its path have agreed to something else."""

    async def run(world: World) -> None:
        world.established()
        await settle()

    assert played(run, World(transport=Transport.TCP)).asked == []


def test_a_refusal_is_shown_and_nothing_is_made(played: Played) -> None:
    async def run(world: World) -> None:
        world.established()
        await settle()
        cid = world.asked[0].cid
        world.these.refused(ReportRefused(cid, "s", "https", 1, "not here", "g1", "no"))
        await settle()
        assert world.made == []
        assert len(world.asked) == 1
        record = world.record
        assert (record.state, record.why, record.by, record.rule) == (
            "refused",
            "not here",
            "g1",
            "no",
        )
        await world.later(1.5)
        assert len(world.asked) == 2
        assert world.record.why == "not here"
        assert world.asked[1].wire == world.asked[0].wire

    played(run)


def test_a_subflow_that_the_kernel_does_not_make_is_closed_and_gets_another_port(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(world: World) -> None:
        world.refuses = True
        world.established()
        await settle()
        world.opened(world.asked[0])
        await settle()
        assert world.closed == [(world.asked[0].cid, "no")]
        assert (world.record.state, world.record.why) == ("gone", "no")
        assert len(world.asked) == 1
        monkeypatch.setattr(module, "_free_port", lambda _: PORT + 1)  # type: ignore[misc]
        await world.later(1.5)
        assert world.asked[1].wire.source.port == PORT + 1

    played(run)


def test_a_subflow_that_nobody_answers_is_given_up(played: Played) -> None:
    async def run(world: World) -> None:
        world.established()
        await settle()
        world.opened(world.asked[0])
        await settle()
        await world.later(UP_S - 1)
        assert world.closed == []
        await world.later(2)
        assert [cid for cid, _ in world.closed] == [world.asked[0].cid]
        assert world.record.state == "gone"

    played(run)


def test_a_subflow_that_is_gone_is_asked_for_again(played: Played) -> None:
    """A path's loss and return: the kernel has closed it, or its signaled connection is over."""

    async def run(world: World) -> None:
        asked = await world.one_up()
        world.happens(Happened.SUBFLOW_CLOSED, asked.local.on_the_wire)
        assert world.closed == [(asked.cid, "the kernel has closed it")]
        await world.later(1.5)
        again = world.asked[1]
        assert again.wire == asked.wire
        assert again.cid != asked.cid
        world.these.ended(asked.cid)  # of the former: nothing to do with this one
        assert world.record.state == "asked"
        world.these.ended(again.cid)
        assert world.record.state == "gone"

    played(run)


def test_with_its_mptcp_connection_all_of_it_is_closed(played: Played) -> None:
    async def run(world: World) -> None:
        asked = await world.one_up()
        world.happens(Happened.CLOSED)
        assert [cid for cid, _ in world.closed] == [asked.cid]
        assert world.these.records(world.about.cid) == []
        await world.later(100)
        assert len(world.asked) == 1

    played(run)


def test_what_is_over_is_forgotten_even_if_the_kernels_news_were_missed(played: Played) -> None:
    async def run(world: World) -> None:
        await world.one_up()
        world.pair.tell("c", CloseRequested(world.about.cid, "done"))
        world.pair.run(120)
        assert world.pair.c.connections == {}
        await world.later(1)
        assert world.these._multipaths.known == []

    played(run)


def test_the_log_says_when_a_subflow_was_made_and_when_it_was_up(
    played: Played, tmp_path: Path
) -> None:
    log = tmp_path / "c.events"

    async def run(world: World) -> None:
        await world.one_up()

    world = played(run, World(log))
    told = [(one.event, one.cid) for one in read([log])]
    cid = world.asked[0].cid.hex()
    assert told == [("subflow.made", cid), ("subflow.up", cid)]


def first_packet(options: bytes) -> Packet:
    """A SYN of an application, with TCP options (a multiple of 4 bytes)."""
    flow = World().about.local.on_the_wire
    head = bytes(20) + bytes(12) + bytes([(20 + len(options)) // 4 << 4]) + bytes(7) + options
    return Packet(b"\x45" + head[1:], flow, b"", 0x02)


@pytest.mark.parametrize(
    ("options", "transport"),
    [(b"\x1e\x04\x01\x01", Transport.MPTCP), (b"\x02\x04\x05\xb4", Transport.TCP)],
)
def test_a_first_packet_with_the_option_asks_for_mptcp(
    options: bytes, transport: Transport, played: Played
) -> None:
    """R-2.5; a host that is not told to leaves it TCP."""
    packet = first_packet(options)

    async def run(world: World) -> None:
        assert world.these.wanted(packet) == packet.flow
        near, far = socket.socketpair()
        world.these.start(near)
        wanted = world.these.wanted(packet)
        assert wanted == Flow(transport, packet.flow.source, packet.flow.destination)
        world.these.stop()
        far.close()

    played(run)


def test_a_subflow_that_nobody_was_asked_for_does_not_get_out(played: Played) -> None:
    """R-2.5."""
    join = first_packet(b"\x1e\x0c\x10\x01" + bytes(8))

    async def run(world: World) -> None:
        near, far = socket.socketpair()
        world.these.start(near)
        assert world.these.wanted(join) is None
        world.these.stop()
        far.close()

    played(run)


def test_what_is_reported_of_others_changes_nothing(played: Played) -> None:
    async def run(world: World) -> None:
        asked = await world.one_up()
        other = Cid(bytes(16))
        world.these.refused(ReportRefused(other, "s", "https", 1, "no", "g1"))
        world.these.ended(ReportClosed(other, "s", "https", "").cid)
        assert world.record.state == "up"
        assert world.record.cid == asked.cid.hex()

    played(run)


async def up_unheard(world: World, *, refreshed: bool = False) -> socket.socket:
    """Its connection is up, and the kernel has not said so; who could say it."""
    speaking, listening = socket.socketpair()
    listening.setblocking(False)
    world.these.start(listening)
    about = world.about
    report = ReportOpened(about.cid, "s", about.service, about.wire, about.local, 120.0)
    world.these.opened(replace(report, refreshed=refreshed))
    await settle()
    return speaking


def heard_of(world: World, *, fallback: bool) -> Callable[[], list[ListedMptcp]]:
    return lambda: [ListedMptcp(world.about.local.on_the_wire, TOKEN, fallback)]


def test_the_kernel_is_asked_when_it_says_nothing(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(world: World) -> None:
        monkeypatch.setattr(module, "list_sockets", heard_of(world, fallback=False))
        with await up_unheard(world):
            assert world.asked == []
            await world.later(NEWS_S)
            world.these.stop()

    world = played(run)
    (asked,) = world.asked
    assert str(asked.wire.source.ip) == OWN
    assert world.these.stands(world.about.cid) == ""


def test_a_connection_that_has_fallen_back_says_so(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(world: World) -> None:
        monkeypatch.setattr(module, "list_sockets", heard_of(world, fallback=True))
        with await up_unheard(world):
            await world.later(NEWS_S)
            world.these.stop()

    world = played(run)
    assert world.asked == []
    assert world.these.stands(world.about.cid) == FALLEN_BACK


def test_nobody_asks_of_what_is_up_again_or_where_the_kernel_cannot_say(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def refuse() -> list[ListedMptcp]:
        asked.append(True)
        raise KernelError("no list", "")

    async def run(world: World) -> None:
        monkeypatch.setattr(module, "list_sockets", refuse)
        with await up_unheard(world, refreshed=True):
            await world.later(NEWS_S)
            assert not asked
            world.these.stop()
        with await up_unheard(world):
            await world.later(NEWS_S)
            assert asked == [True]
            world.these.stop()

    world = played(run)
    assert world.asked == []
    assert world.these.stands(world.about.cid) == ""
