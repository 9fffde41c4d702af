"""The shrinker finds the fault that matters, and makes it short."""

from __future__ import annotations

from random import Random

import pytest

from sim import broken
from wayside.sim.faults import Fault, Kind, Targets, draw
from wayside.sim.shrink import RUNS_MAX, Schedule, Shrinker, shrink
from wayside.sim.world import World

TARGETS = Targets(["a-b", "b-c"], ["a", "c"], ["b"], ["a"], ["a"], [])


def fault(kind: Kind, at: float) -> Fault:
    return Fault(kind, at, 8.0, "a", 1.0)


def test_a_schedule_shrinks_to_the_two_faults_that_are_needed_together() -> None:
    schedule = tuple(fault(Kind.LOSS, at) for at in range(14))
    needed = (schedule[3], schedule[11])

    def fails(tried: Schedule) -> bool:
        return {one.at for one in needed} <= {one.at for one in tried}

    shrinker = Shrinker(fails)
    assert [one.at for one in shrinker.shrink(schedule)] == [3, 11]
    assert shrinker.tried <= RUNS_MAX


def test_faults_that_stay_become_shorter() -> None:
    (left,) = Shrinker(lambda tried: any(one.lasts_s >= 2.0 for one in tried)).shrink(
        (fault(Kind.KILL, 1.0),)
    )
    assert left.lasts_s == 2.0


def test_what_fails_without_any_fault_needs_none() -> None:
    assert Shrinker(lambda _: True).shrink((fault(Kind.KILL, 1.0),)) == ()


def test_a_run_that_failed_is_shrunk_to_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    broken.kernel_that_never_expires(monkeypatch)
    down = Fault(Kind.POWER, 3.0, 3.0, "c1")
    noise = (Fault(Kind.DELAY, 1.0, 2.0, "c1-access", 0.05), Fault(Kind.CLOCK, 2.0, 1.0, "s1", 9.0))
    worlds = (World("firewall-out", seed, (*noise, down)) for seed in range(8))
    failed = next(result for world in worlds if not (result := world.run()).ok)
    shortest = shrink(failed)
    assert shortest.check == failed.check == "lifetime"
    assert [one.kind for one in shortest.schedule] == [Kind.POWER]


def test_a_schedule_is_the_same_for_the_same_seed_and_ends_in_time() -> None:
    one, two = (draw(Random(5), TARGETS, 40, 20.0) for _ in range(2))
    assert one == two
    assert len(one) >= 30
    assert all(0 <= each.at < each.until <= 20.001 for each in one)
    assert len({each.kind for each in one}) > 10
