"""A host keeps itself registered: asked for at once, and again later and later when it failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from wayside.core.address import Address, Flow, Transport
from wayside.core.effects import ReportClosed, ReportOpened, ReportRefused
from wayside.core.identity import PeerIdentity
from wayside.core.rule import Cid
from wayside.runtime import registering
from wayside.runtime.registering import Registrations
from wayside.runtime.steering import Rendezvous

KEY = bytes(32)
V4, V6 = Address.parse("10.9.0.1:4747"), Address.parse("[fd00:9::1]:4747")
WIRE = Flow(Transport.NONE, Address.parse("10.1.0.2"), V4.with_port(0))


class Asked:
    """What was asked for; `way`: whether there is a route."""

    def __init__(self) -> None:
        self.cids: list[Cid] = []
        self.where: list[tuple[str, Address]] = []
        self.way = True

    def __call__(
        self, cid: Cid, peer: PeerIdentity, service: str, at: Address, data: bytes
    ) -> bool:
        assert (peer.key, data) == (KEY, b"")
        self.cids.append(cid)
        self.where.append((service, at))
        return self.way


def registering_with(
    asked: Asked, run: Callable[[Registrations], Awaitable[None]], *addresses: Address
) -> Registrations:
    made = Registrations((Rendezvous(KEY, addresses or (V4,)),), asked)

    async def inside() -> None:
        made.start()
        await run(made)
        made.stop()

    asyncio.run(inside())
    return made


def opened(cid: Cid, refreshed: bool = False) -> ReportOpened:
    return ReportOpened(cid, "r", "location", WIRE, WIRE, 120.0, refreshed)


def test_a_host_registers_once_in_each_family() -> None:
    async def run(_: Registrations) -> None: ...

    asked = Asked()
    registering_with(asked, run, V4, V6)
    assert asked.where == [("location", V4), ("location", V6)]


def test_what_is_up_is_left_alone_and_a_refresh_changes_nothing() -> None:
    asked = Asked()

    async def run(made: Registrations) -> None:
        made.opened(opened(asked.cids[0]))
        since = made.all[0].up_since
        assert since is not None
        made.opened(opened(asked.cids[0], refreshed=True))
        made.try_now()
        assert made.all[0].up_since == since

    registering_with(asked, run)
    assert len(asked.cids) == 1


def test_a_refusal_is_kept_for_status_and_waited_after_longer_each_time() -> None:
    asked = Asked()
    waits: list[float] = []

    async def run(made: Registrations) -> None:
        one = made.all[0]
        for _ in range(8):
            assert one.cid is not None
            made.ended(ReportRefused(one.cid, "r", "location", 1, "not you", "r.lab"))
            assert one.timer is not None
            waits.append(round(one.timer.when() - asyncio.get_running_loop().time()))
            made.try_now()

    made = registering_with(asked, run)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert made.all[0].why == "r.lab: not you"
    assert registering.RETRY_LAST_S == 60


def test_a_change_of_the_network_is_a_reason_to_try_at_once() -> None:
    asked = Asked()
    asked.way = False

    async def run(made: Registrations) -> None:
        assert made.all[0].why == "this host has no route there"
        asked.way = True
        made.try_now()
        made.opened(opened(asked.cids[1]))
        assert made.all[0].why == ""
        assert made.all[0].failures == 0

    registering_with(asked, run)
    assert len(asked.cids) == 2


def test_what_ends_is_asked_for_again_and_what_is_not_ours_is_nothing_to_us() -> None:
    asked = Asked()

    async def run(made: Registrations) -> None:
        made.opened(opened(asked.cids[0]))
        made.ended(ReportClosed(Cid(bytes(16)), "x", "https", "done"))
        assert made.all[0].timer is None
        made.ended(ReportClosed(asked.cids[0], "r", "location", "replaced"))
        assert made.all[0].timer is not None
        made.try_now()

    registering_with(asked, run)
    assert len(asked.cids) == 2
