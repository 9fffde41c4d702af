"""The world with STOP: filters are made there, packets are dropped by them, and they are gone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from wayside.core.rule import Action
from wayside.sim.gate import GateBox
from wayside.sim.stops import StopCheck
from wayside.sim.world import World


def test_in_its_world_filters_are_made_and_packets_dropped_and_all_is_well_in_the_end() -> None:
    """R-5.8.2: what is not done there is not checked there, either."""
    dropped: Counter[str] = Counter()
    made = 0
    for seed in range(3):
        world = World("dos-stop", seed, ())
        assert len(world.layout.gates) == 3
        for gate in world.layout.gates:
            count_dropped(gate, dropped)
        result = world.run()
        assert (result.check, result.why) == ("", "")
        (check,) = [one for one in world.watch._watchers if isinstance(one, StopCheck)]
        made += check.made
    assert made > 5
    assert dropped.total() > 5


def count_dropped(gate: GateBox, dropped: Counter[str]) -> None:
    """Count the packets that a gate's filters drop."""
    plane: Any = gate.kernel.plane
    real = plane.verdict

    def verdict(*packet: Any) -> Any:
        found = real(*packet)
        dropped[gate.name] += found.action is Action.DROP
        return found

    plane.verdict = verdict
