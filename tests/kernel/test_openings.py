"""By which other path somebody is asked for who does not answer. Time is virtual."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import ip_address

import pytest

from pair import Pair
from wayside.core.address import Address, Flow, Transport
from wayside.core.events import OpenRequested
from wayside.core.identity import Leave
from wayside.core.messages import Open
from wayside.kernel.openings import TRIES
from wayside.kernel.paths import Paths

C1, C2, S1, S2 = (Address(ip_address(f"10.{net}.0.2"), 4747) for net in (0, 77, 1, 78))
C6 = Address(ip_address("fd00:77::2"), 4747)
LOOK_S = 0.25


def ask(
    seconds: float, *, transport: Transport = Transport.TCP, own: tuple[Address, ...] = (C1, C2)
) -> tuple[Pair, Paths]:
    """A question that is lost on its way, for so long."""
    pair = Pair(transport=transport)
    pair.lose[Open] = 1000
    paths = Paths(pair.c.context.key.public)
    paths.settle(own, 0.0)
    pair.open(seconds)
    return pair, paths


def watch(
    pair: Pair, paths: Paths, theirs: tuple[Address, ...], seconds: float
) -> list[tuple[float, Address, Address]]:
    """Do what is decided, look after look; when it was asked for by which path."""
    begun, seen = pair.now, list[tuple[float, Address, Address]]()
    while pair.now < begun + seconds:
        for trial in paths.unanswered(list(pair.c.connections.values()), lambda _: theirs):
            asked = pair.request()
            seen.append((pair.now - begun, trial.source, trial.destination))
            wire = Flow(asked.wire.transport, trial.source, trial.destination)
            event = replace(asked, wire=wire, signaling=trial.destination)
            assert isinstance(event, OpenRequested)
            pair.tell("c", event)
        pair.run(LOOK_S)
    return seen


def test_after_three_times_the_path_comes_with_nothing_in_common_and_then_the_others() -> None:
    """R-5.4.7."""
    pair, paths = ask(0.0)
    seen = watch(pair, paths, (S1, S2), 3.5)
    assert [way for _, *way in seen] == [[C2, S2], [C1, S2], [C2, S1], [C1, S1]]
    assert seen[0][0] == pytest.approx(0.75, abs=LOOK_S)  # pyright: ignore[reportUnknownMemberType]


def test_each_round_gives_an_answer_more_time_and_each_question_goes_where_it_says() -> None:
    """R-5.4.7: one that takes a second is believed in the second round."""
    pair, paths = ask(0.0)
    seen = watch(pair, paths, (S1,), 4.5)
    waits = [round(b - a, 2) for (a, *_), (b, *_) in itertools.pairwise(seen)]
    assert waits[0] < 1.0
    assert waits[1] > 1.5
    sent = [(one.source.ip, one.destination.ip) for one in pair.wire]
    assert sent[:TRIES] == [(C1.ip, S1.ip)] * TRIES
    assert sent[TRIES : 2 * TRIES] == [(C2.ip, S1.ip)] * TRIES


def test_who_answers_by_the_other_path_has_the_connection_there() -> None:
    """R-5.4.7."""
    pair, paths = ask(0.0, own=(C2, C1))
    pair.lose[Open] = TRIES
    pair.own["c"] = (C1, C1, C2)
    assert [way for _, *way in watch(pair, paths, (S1,), 1.5)] == [[C2, S1]]
    assert pair.connection("c").agreement.wire.source.ip == C2.ip
    assert pair.kernel["c"]


@pytest.mark.parametrize("theirs", [(S1,), ()])
def test_who_has_one_path_stays_on_it(theirs: tuple[Address, ...]) -> None:
    """R-5.4.7: an address of the other family is none."""
    pair, paths = ask(0.0, own=(C1, C6))
    assert watch(pair, paths, theirs, 4.0) == []


@pytest.mark.parametrize("transport", [Transport.MPTCP, Transport.NONE])
def test_what_has_paths_of_its_own_or_no_packets_stays(transport: Transport) -> None:
    """R-5.4.7."""
    pair, paths = ask(0.0, transport=transport)
    assert watch(pair, paths, (S1, S2), 4.0) == []


def test_who_may_be_talked_to_without_an_answer_is_asked_where_packets_would_go() -> None:
    """R-12.4."""
    pair, paths = ask(1.0)
    about = pair.connection("c").agreement
    pair.connection("c").agreement = replace(
        about, peer=replace(about.peer, leave=Leave(plain=True))
    )
    assert watch(pair, paths, (S1, S2), 3.0) == []


def test_a_relay_that_was_asked_knows_of_no_other_path() -> None:
    """R-5.4.7: nor is anybody asked for who is already there."""
    pair, paths = ask(1.0)
    connection = pair.connection("c")
    connection.towards = Address.parse("10.99.0.1").with_port(4747)
    assert watch(pair, paths, (S1, S2), 2.0) == []
    up = Pair().open()
    assert watch(up, paths, (S1, S2), 2.0) == []
