"""A host that was killed and started again: the kernel kept the rules, the store the keys."""

from __future__ import annotations

import pytest

from pair import (
    Entropy,
    Pair,
    make_host,
    snapshot,
)
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.effects import (
    Dropped,
    ReportOpened,
)
from wayside.core.errors import DropReason
from wayside.core.host import Host
from wayside.core.messages import (
    Confirm,
    Open,
)
from wayside.core.route import TokenBox
from wayside.core.saved import read_saved


def restart(pair: Pair, node: str) -> None:
    """A new host with the old one's key and what it had saved; the kernel kept the rules."""
    old = pair.nodes[node]
    assert isinstance(old, Host)
    door = FrontDoor(TokenBox(old.context.key.public, b"n" * 32, Entropy("new")), Budget())
    fresh = Host(old.context, old.answering, door, Quota(100, 100), make_host(node).virtual)
    for cid, raw in pair.saved[node].items():
        fresh.restore(cid, read_saved(raw), pair.now)
    pair.restart(node, fresh)


@pytest.mark.parametrize("gates", [0, 1, 2])
@pytest.mark.parametrize("nodes", ["c", "s", "cs"])
def test_a_restarted_host_refreshes_and_closes_what_the_kernel_holds(
    gates: int, nodes: str
) -> None:
    """R-6.5: both, several times, and with either end closing."""
    pair = Pair(gates).open()
    for _ in range(3):
        for node in nodes:
            restart(pair, node)
        pair.run(100)
        assert pair.is_up
    refreshed = [report for report in pair.seen(ReportOpened, "s") if report.refreshed]
    assert len(refreshed) >= 3
    for node in nodes:
        restart(pair, node)
    pair.close(nodes[-1], "bye")
    assert pair.ended("c")
    assert pair.ended("s")
    assert all(rules == {} for rules in pair.kernel.values())


def test_a_restarted_host_lends_nobody_an_address_that_is_in_use() -> None:
    """R-6.5, R-6.3."""
    pair = Pair().open()
    lent = pair.connection("s").agreement.local.destination.ip
    restart(pair, "s")
    assert pair.s.virtual is not None
    assert pair.s.virtual.key_of(lent) == pair.c.context.key.public
    assert pair.s.virtual.lend(b"k" * 32, 4) != lent


def test_a_restarted_responder_still_knows_a_replay() -> None:
    """R-5.9.4: the OPEN that made the connection is not a new one."""
    pair = Pair().open()
    restart(pair, "s")
    replay = pair.last(Open)
    before = snapshot(pair.s)
    effects = pair.inject("s", replay.data, replay.source)
    assert [e.reason for e in effects if isinstance(e, Dropped)] == [DropReason.STALE]
    assert snapshot(pair.s) == before


def test_a_restarted_responder_is_closed_under_the_key_of_an_accept_that_was_not_confirmed() -> (
    None
):
    """R-5.4.3, R-5.9.3: the CONFIRM of the newest is lost, and so is the agent's memory."""
    pair = Pair().open()
    newest = pair.connection("s").keys.seq
    pair.lose[Confirm] = 100
    pair.run(41)
    restart(pair, "s")
    assert pair.connection("s").keys.offered is not None
    assert pair.connection("c").keys.seq > newest
    pair.close("c", "bye")
    assert pair.ended("s")
    assert pair.kernel["s"] == {}
