"""STOP after an end has moved: who was asked last, where it is now, about the flow as it is now.

client c ---- g1 ---- g2 ---- server s
"""

from __future__ import annotations

import pytest

from core.test_moves import move
from pair import Pair, reasons
from wayside.core.answerer import Offer
from wayside.core.effects import ReportRefused
from wayside.core.errors import DropReason
from wayside.core.events import StopRequested
from wayside.core.rule import Rule
from wayside.core.stopping import may_stop


def filters(pair: Pair) -> dict[str, list[Rule]]:
    """The filters of each gate."""
    return {name: list(pair.filters[name].values()) for name in pair.gates}


@pytest.mark.parametrize("family", [4, 6])
def test_a_source_that_has_moved_is_stopped_where_it_is(family: int) -> None:
    """R-5.8.2: by the 5-tuple that its packets have now."""
    pair = Pair(2, family=family).open()
    pair.c.stopping.on_stop = lambda *_: DropReason.UNEXPECTED  # type: ignore[method-assign]
    new = move(pair, "c")
    pair.run(0.5)
    pair.tell("s", StopRequested(pair.cid, 60))
    pair.run(0.1)
    (rule,) = filters(pair)["g1"]
    assert rule.match.source.ip == new
    assert filters(pair)["g2"] == []


def test_a_source_does_not_move_out_of_the_way_of_a_filter() -> None:
    """R-5.8.5: who has said STOP answers no OPEN of that connection."""
    pair = Pair(1).open()
    pair.c.stopping.on_stop = lambda *_: DropReason.UNEXPECTED  # type: ignore[method-assign]
    pair.tell("s", StopRequested(pair.cid, 60))
    pair.run(0.1)
    move(pair, "c")
    pair.run(1)
    assert "this host has said STOP" in [one.reason for one in pair.seen(ReportRefused, "c")]
    assert [rule.match for rule in pair.kernel["g1"].values()] in (
        [],
        list(pair.passage().crossing.flows),
    )


@pytest.mark.parametrize("family", [4, 6])
def test_a_receiver_that_has_moved_stops_again_when_it_has_been_asked_there(family: int) -> None:
    """R-5.8: what it agreed to was at its old address."""
    pair = Pair(2, family=family).open()
    pair.c.stopping.on_stop = lambda *_: DropReason.UNEXPECTED  # type: ignore[method-assign]
    new = move(pair, "s")
    pair.run(0.5)
    assert may_stop(pair.connection("s")) is None
    assert pair.tell("s", StopRequested(pair.cid, 60)) == []
    pair.run(45)
    pair.tell("s", StopRequested(pair.cid, 60))
    pair.run(0.1)
    (rule,) = filters(pair)["g1"]
    assert rule.match.destination.ip == new


def test_a_gate_takes_no_stop_from_where_the_receiver_was() -> None:
    """R-5.8.1: its old address may be somebody else's by now."""
    pair = Pair(1).open()
    old = pair.connection("s").keys.agreed
    assert isinstance(old, Offer)
    here, before = pair.own["s"][0], pair.connection("s").agreement
    move(pair, "s")
    pair.run(0.5)
    connection = pair.connection("s")
    now, connection.agreement = connection.agreement, before
    (said,) = pair.s.stopping.say(connection, 60, pair.now)
    connection.agreement = now
    effects = pair.inject("g1", getattr(said, "data", b""), here, pair.own["c"][0])
    assert reasons(effects) == [DropReason.ADDRESS]


@pytest.mark.parametrize("family", [4, 6])
def test_an_initiator_that_was_asked_by_a_responder_that_moved_may_say_it(family: int) -> None:
    """R-5.8: then the responder's packets are dropped, at the gate nearest to the responder."""
    pair = Pair(2, family=family).open()
    pair.s.stopping.on_stop = lambda *_: DropReason.UNEXPECTED  # type: ignore[method-assign]
    new = move(pair, "s")
    pair.run(0.5)
    assert may_stop(pair.connection("c")) is not None
    pair.tell("c", StopRequested(pair.cid, 60))
    pair.run(0.1)
    (rule,) = filters(pair)["g2"]
    assert filters(pair)["g1"] == []
    assert rule.match.source.ip == new
    assert rule.match.destination.ip == pair.own["c"][0].ip
