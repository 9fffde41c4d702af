"""Clocks and links do what they are told, and no chance is drawn twice."""

from __future__ import annotations

from random import Random

import pytest

from wayside.sim.clock import Clock, Endless, LocalClock
from wayside.sim.link import Conditions, Link

SENT = [bytes([number]) for number in range(200)]


def arrivals(conditions: Conditions, every_s: float = 0.001) -> list[tuple[float, bytes]]:
    clock = Clock()
    found: list[tuple[float, bytes]] = []
    link = Link("a-b", clock, Random(1), conditions, conditions)
    link.attach(1, lambda raw: found.append((clock.now, raw)))
    for number, raw in enumerate(SENT):
        clock.at(number * every_s, lambda raw=raw: link.send(raw, 1))
    clock.run(60.0)
    assert link.counters.sent == len(SENT)
    return found


def test_what_is_asked_for_at_one_moment_is_done_in_that_order() -> None:
    clock, done = Clock(), []
    for number in range(5):
        clock.at(1.0, lambda number=number: done.append(number))
    clock.at(0.5, lambda: done.append("first"))
    clock.run(2.0)
    assert done == ["first", 0, 1, 2, 3, 4]
    assert clock.now == 2.0


def test_a_world_that_answers_itself_without_end_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wayside.sim.clock.STEPS_MAX", 100)
    clock = Clock()

    def again() -> None:
        clock.after(0.0, again)

    again()
    with pytest.raises(Endless):
        clock.run(1.0)


def test_a_machine_has_its_own_idea_of_time() -> None:
    clock = Clock()
    local = LocalClock(clock, base_s=100.0, rate=1.01, wrong_s=5.0)
    clock.run(10.0)
    assert local.now == pytest.approx(110.1)
    assert local.true_time(local.now) == pytest.approx(10.0)
    assert local.epoch_s + local.now == pytest.approx(1_800_000_015.0)
    local.restart(3.0)
    assert local.now == 3.0


def test_a_good_link_keeps_everything_in_order() -> None:
    found = arrivals(Conditions(delay_s=0.01, jitter_s=0.05))
    assert [raw for _, raw in found] == SENT
    assert found[0][0] >= 0.01


@pytest.mark.parametrize(
    ("conditions", "least", "most"),
    [
        (Conditions(loss=0.5), 60, 140),
        (Conditions(duplicate=0.5), 260, 340),
        (Conditions(cut=True), 0, 0),
        (Conditions(rate=100.0), 100, 160),
    ],
)
def test_a_bad_link_loses_and_repeats(conditions: Conditions, least: int, most: int) -> None:
    assert least <= len(arrivals(conditions, every_s=0.005)) <= most


def test_a_link_that_reorders_lets_others_go_before() -> None:
    found = [raw for _, raw in arrivals(Conditions(delay_s=0.01, reorder=0.3))]
    assert found != SENT
    assert sorted(found) == SENT


def test_whoever_sits_on_the_path_says_what_goes_on() -> None:
    class Tap:
        def see(self, raw: bytes, end: int) -> list[bytes]:
            return [] if raw == b"\x01" else [raw, b"more"]

    clock, found = Clock(), []
    link = Link("a-b", clock, Random(1), Conditions(), Conditions())
    link.taps.append(Tap())
    link.attach(1, found.append)
    for raw in (b"\x00", b"\x01"):
        link.send(raw, 1)
    clock.run(1.0)
    assert found == [b"\x00", b"more"]
