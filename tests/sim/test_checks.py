"""Every checker can fail: each catches machines that are broken on purpose."""

from __future__ import annotations

import pytest

from sim import broken, broken_agents, broken_silence, broken_trust
from wayside.sim.faults import Fault, Kind
from wayside.sim.world import World

SEEDS = 8
"""Worlds that a broken machine may hide in; most are found in the first."""

NOTHING = ()
SPOOFED = (Fault(Kind.SPOOF, 1.0, 6.0, "flooder", 2.0),)
READ = (Fault(Kind.EAVESDROP, 0.5, 7.0, "g2-site", 10.0),)
READ_AND_LOST = (*READ, Fault(Kind.LOSS, 0.5, 7.0, "access-core", 0.6))
LYING = (Fault(Kind.LIE, 0.5, 7.0, "g2", 0.5),)
DOWN = (Fault(Kind.POWER, 3.0, 3.0, "c1"),)
MOVED = (Fault(Kind.MOVE, 4.0, 2.0, "s1"), Fault(Kind.MOVE, 6.5, 1.4, "s1"))
LIED_TO = (Fault(Kind.STORE_LIES, 0.5, 7.4, "r", 0.9),)
REUSED = (Fault(Kind.REUSE, 0.5, 7.4, "c1-access", 10.0),)
MISLED = (Fault(Kind.MISLEAD, 0.5, 7.0, "access-core", 1.0),)
MISLED_BEHIND = (Fault(Kind.MISLEAD, 0.5, 7.0, "g1-core", 1.0),)
CUT = (Fault(Kind.PARTITION, 0.5, 7.4, "core-s1", 0.0),)


@pytest.mark.parametrize(
    ("breaks", "world", "faults", "check"),
    [
        (broken.gate_that_opens_at_open, "firewall-out", CUT, "agreement"),
        (broken.gate_with_a_wide_pinhole, "firewall-in", NOTHING, "agreement"),
        (broken.gate_that_is_deaf_to_close, "firewall-out", NOTHING, "agreement"),
        (broken.gate_that_never_waits_for_confirm, "firewall-in", NOTHING, "lifetime"),
        (broken.gate_that_never_waits_for_confirm, "legacy", NOTHING, "lifetime"),
        (broken.gate_without_lifetimes, "firewall-out", NOTHING, "lifetime"),
        (broken.kernel_that_never_expires, "firewall-out", DOWN, "lifetime"),
        (broken.host_that_keeps_its_rules, "simple", NOTHING, "lifetime"),
        (broken.host_that_believes_anybody, "firewall-in", LYING, "authentication"),
        (broken.gate_that_believes_anybody, "firewall-in", READ, "authentication"),
        (broken.gate_that_remembers_opens, "firewall-out", NOTHING, "authentication"),
        (broken.responder_without_credit, "simple", SPOOFED, "amplification"),
        (broken_trust.initiator_that_follows_anybody, "simple", MISLED, "amplification"),
        (
            broken_trust.initiator_that_follows_anybody,
            "firewall-out",
            MISLED_BEHIND,
            "amplification",
        ),
        (broken.responder_that_counts_ports_wrong, "simple", NOTHING, "tuples"),
        (broken.initiator_that_ignores_hops, "firewall-in", LYING, "tuples"),
        (broken.initiator_that_waits_for_ever, "simple", CUT, "requests"),
        (broken.refusal_without_a_reason, "reject", NOTHING, "requests"),
        (broken.host_that_tires, "simple", NOTHING, "liveness"),
        (broken_silence.gate_that_says_no_for_one, "reject", NOTHING, "liveness"),
        (broken_silence.host_that_never_answers, "legacy-nat", NOTHING, "liveness"),
        (broken.gate_that_counts_twice, "firewall-out", NOTHING, "leftovers"),
        (broken.gate_that_lets_all_in, "reject", NOTHING, "agreement"),
        (broken.gate_that_lets_all_in, "firewall-redirect", NOTHING, "agreement"),
        (broken.host_that_offers_what_it_has_not, "reject", NOTHING, "policy"),
        (broken.host_that_mixes_up_peers, "simple", NOTHING, "delivery"),
        (broken.host_that_follows_before_confirm, "mobile-server", MOVED, "proof"),
        (broken.gate_that_takes_any_confirm, "firewall-in", READ_AND_LOST, "proof"),
        (broken_trust.gate_that_takes_one_confirm_for_all, "firewall-in", READ_AND_LOST, "proof"),
        (broken.rendezvous_that_believes_its_store, "nat-in", LIED_TO, "location"),
        (broken.rendezvous_that_believes_its_store, "hidden-mobile-server", LIED_TO, "location"),
        (broken.rendezvous_that_loses_count, "nat-in", NOTHING, "location"),
        (broken.relay_that_needs_no_approval, "firewall-redirect", REUSED, "approval"),
        (broken.host_that_needs_no_approval, "offpath-firewall", REUSED, "approval"),
        (broken_trust.host_that_approves_itself, "offpath-firewall", NOTHING, "approval"),
        (broken_trust.host_that_takes_old_approvals, "offpath-firewall", NOTHING, "approval"),
        (broken.nat_that_lends_nothing, "nat-out", NOTHING, "privacy"),
        (broken.rendezvous_that_tells, "hidden-mobile-server", NOTHING, "privacy"),
        (broken.rendezvous_that_tells, "legacy-nats", NOTHING, "privacy"),
        (broken_agents.agent_that_answers_straight, "hidden-mobile-server", NOTHING, "privacy"),
        (broken.gate_that_stops_for_anybody, "dos-stop", NOTHING, "stops"),
        (broken.gate_that_takes_a_stop_again, "dos-stop", NOTHING, "stops"),
        (broken.gate_whose_filters_stay, "dos-stop", NOTHING, "stops"),
        (broken.gate_that_stops_the_wrong_flow, "dos-stop", NOTHING, "stops"),
        (broken.host_that_never_says_that_it_moved, "both-move", NOTHING, "survival"),
        (broken.rendezvous_that_calls_whoever_asks, "called", NOTHING, "calls"),
        (broken.host_that_answers_a_call, "called", NOTHING, "calls"),
        (broken.host_that_says_much_when_called, "called", NOTHING, "calls"),
        (broken.host_that_punches_where_it_was_not_asked, "called", NOTHING, "calls"),
        (broken.host_that_punches_where_it_was_not_asked, "legacy-nats", NOTHING, "calls"),
        (broken.gate_that_leads_a_call_astray, "called", NOTHING, "calls"),
        (
            broken_agents.agent_that_asks_for_subflows_as_tcp,
            "multihoming-mptcp",
            NOTHING,
            "subflows",
        ),
        (
            broken_agents.agent_that_lets_subflows_be_made_first,
            "multihoming-mptcp",
            NOTHING,
            "subflows",
        ),
        (broken_agents.agent_that_wants_one_path, "multihoming-mptcp", NOTHING, "subflows"),
        (broken_agents.agent_that_asks_once, "multihoming-mptcp", NOTHING, "subflows"),
        (broken_agents.agent_that_forgets_why, "multihoming-mptcp", NOTHING, "subflows"),
        (broken_agents.agent_that_gives_all_up_for_one, "multihoming-mptcp", NOTHING, "survival"),
        (broken_agents.kernel_that_removes_late, "multihoming-mptcp", NOTHING, "subflows"),
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


@pytest.mark.parametrize(
    ("world", "faults"),
    [
        ("nat-in", LIED_TO),
        ("nat-out", NOTHING),
        ("firewall-redirect", REUSED),
        ("offpath-firewall", REUSED),
        ("mobile-server", MOVED),
        ("hidden-mobile-server", NOTHING),
        ("both-move", NOTHING),
    ],
)
def test_what_is_not_broken_passes_with_moves_and_redirections(
    world: str, faults: tuple[Fault, ...]
) -> None:
    found = World(world, 1, faults).run()
    assert (found.check, found.why) == ("", "")


@pytest.mark.parametrize("faults", [NOTHING, SPOOFED, READ, LYING, DOWN, CUT], ids=str)
@pytest.mark.parametrize("world", ["simple", "firewall-in", "firewall-out", "reject"])
def test_what_is_not_broken_passes_in_the_same_worlds(
    world: str, faults: tuple[Fault, ...]
) -> None:
    found = [World(world, seed, faults).run() for seed in range(2)]
    assert [(result.check, result.why) for result in found if not result.ok] == []
