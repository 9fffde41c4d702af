"""Every checker can fail: each catches machines that are broken on purpose."""

from __future__ import annotations

import pytest

from sim import broken
from wayside.sim.faults import Fault, Kind
from wayside.sim.world import World

SEEDS = 8
"""Worlds that a broken machine may hide in; most are found in the first."""

NOTHING = ()
SPOOFED = (Fault(Kind.SPOOF, 1.0, 6.0, "flooder", 2.0),)
READ = (Fault(Kind.EAVESDROP, 0.5, 7.0, "g2-site", 10.0),)
LYING = (Fault(Kind.LIE, 0.5, 7.0, "g2", 0.5),)
DOWN = (Fault(Kind.POWER, 3.0, 3.0, "c1"),)
CUT = (Fault(Kind.PARTITION, 0.5, 7.4, "core-s1", 0.0),)


@pytest.mark.parametrize(
    ("breaks", "world", "faults", "check"),
    [
        (broken.gate_that_opens_at_open, "firewall-out", CUT, "agreement"),
        (broken.gate_with_a_wide_pinhole, "firewall-in", NOTHING, "agreement"),
        (broken.gate_that_is_deaf_to_close, "firewall-out", NOTHING, "agreement"),
        (broken.gate_that_never_waits_for_confirm, "firewall-in", NOTHING, "lifetime"),
        (broken.gate_without_lifetimes, "firewall-out", NOTHING, "lifetime"),
        (broken.kernel_that_never_expires, "firewall-out", DOWN, "lifetime"),
        (broken.host_that_keeps_its_rules, "simple", NOTHING, "lifetime"),
        (broken.host_that_believes_anybody, "firewall-in", LYING, "authentication"),
        (broken.gate_that_believes_anybody, "firewall-in", READ, "agreement"),
        (broken.gate_that_remembers_opens, "firewall-out", NOTHING, "authentication"),
        (broken.responder_without_credit, "simple", SPOOFED, "amplification"),
        (broken.responder_that_counts_ports_wrong, "simple", NOTHING, "tuples"),
        (broken.initiator_that_ignores_hops, "firewall-in", LYING, "tuples"),
        (broken.initiator_that_waits_for_ever, "simple", CUT, "requests"),
        (broken.refusal_without_a_reason, "reject", NOTHING, "requests"),
        (broken.host_that_tires, "simple", NOTHING, "liveness"),
        (broken.gate_that_counts_twice, "firewall-out", NOTHING, "leftovers"),
        (broken.gate_that_lets_all_in, "reject", NOTHING, "agreement"),
        (broken.host_that_offers_what_it_has_not, "reject", NOTHING, "policy"),
        (broken.host_that_mixes_up_peers, "simple", NOTHING, "delivery"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_machine_is_caught(
    breaks: broken.Break,
    world: str,
    faults: tuple[Fault, ...],
    check: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breaks(monkeypatch)
    results = (World(world, seed, faults).run() for seed in range(SEEDS))
    found = next((result for result in results if not result.ok), None)
    assert found is not None, "nobody noticed"
    assert found.check == check, found.why


@pytest.mark.parametrize("faults", [NOTHING, SPOOFED, READ, LYING, DOWN, CUT], ids=str)
@pytest.mark.parametrize("world", ["simple", "firewall-in", "firewall-out", "reject"])
def test_what_is_not_broken_passes_in_the_same_worlds(
    world: str, faults: tuple[Fault, ...]
) -> None:
    found = [World(world, seed, faults).run() for seed in range(2)]
    assert [(result.check, result.why) for result in found if not result.ok] == []
