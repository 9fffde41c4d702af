"""A world is a function of its name, its seed and its schedule, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wayside.sim.faults import Fault, Kind
from wayside.sim.trace import DatagramWords, Note
from wayside.sim.watch import gate_of
from wayside.sim.world import World, world_of
from wayside.sim.worlds import IN_TURN, WORLDS

TOP = Path(__file__).resolve().parent.parent.parent
PRINT = """
from wayside.sim.world import World
from wayside.sim.worlds import WORLDS
for name in WORLDS:
    print(name, World(name, 7).run().hash)
print(World("lossy", 6).run().hash)
"""


def hashes(hash_seed: str) -> str:
    paths = [str(TOP / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    return subprocess.run(
        [sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_the_same_seed_gives_the_same_trace_whatever_python_hashes_with() -> None:
    first, second = hashes("1"), hashes("2")
    assert first.splitlines() == second.splitlines()
    assert len(first.splitlines()) == len(WORLDS) + 1


def test_another_seed_gives_another_trace() -> None:
    assert World("simple", 1).run().hash != World("simple", 2).run().hash


def test_keeping_notes_changes_nothing() -> None:
    world = World("firewall-out", 3, keeps=True)
    assert world.run().hash == World("firewall-out", 3).run().hash
    assert {note.event for note in world.place.trace.notes} >= {"datagram.sent", "rule.installed"}
    assert all(isinstance(note, Note) for note in world.place.trace.notes)


@pytest.mark.parametrize("name", IN_TURN)
def test_every_world_is_well_for_some_seeds(name: str) -> None:
    results = [World(name, seed).run() for seed in range(40, 44)]
    assert [(r.seed, r.check, r.why) for r in results if not r.ok] == []
    assert sum(result.answers for result in results) > 0


def test_in_a_flooded_world_tickets_let_in_who_was_there_before() -> None:
    """R-7.8: and all that is promised elsewhere holds there."""
    shown = 0
    for seed in range(60, 63):
        world = World("flooded", seed)
        result = world.run()
        assert result.ok, result.why
        machines = [gate_of(gate.machine) for gate in world.layout.gates]
        shown += sum(machine.ticketed for machine in machines if machine is not None)
    assert shown > 10


def test_seeds_without_a_world_take_each_in_turn() -> None:
    assert [world_of(seed) for seed in range(len(IN_TURN))] == list(IN_TURN)


def test_a_host_that_is_cut_off_is_connected_again_when_the_link_is_back() -> None:
    cut = (Fault(Kind.PARTITION, 2.0, 6.0, "c1-access", 0.0),)
    world = World("simple", 4, cut)
    assert world.run().ok
    assert world.network.links["c1-access"].counters.lost > 0


def _is_refresh(note: Note) -> bool:
    return isinstance(note.words, DatagramWords) and note.words.seq > 0


def test_established_connections_outlive_a_killed_agent() -> None:
    """The kernel holds them; the restarted agent takes them up. R-6.5."""
    killed = (Fault(Kind.KILL, 3.0, 3.0, "c1", 0.0), Fault(Kind.KILL, 3.0, 3.0, "s1", 0.0))
    world = World("firewall-both", 5, killed, keeps=True)
    assert world.run().ok
    restored = [note for note in world.place.trace.notes if note.time > 6.0 and _is_refresh(note)]
    assert restored, "a connection from before is refreshed afterwards"
