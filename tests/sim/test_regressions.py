"""Runs that found a bug once, by name. Each has to stay well; with its bug put back it fails again.

A row is a world, a seed, a schedule, why it is here, and the machine of broken.py that has the bug
and the checker that sees it; none where the protocol has left no place for the bug. The schedule is
the shortest that `wayside sim replay` found: what a seed draws changes with the simulator, a
schedule that is written down does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sim import broken, broken_paths
from wayside.core.constants import MAGIC
from wayside.core.messages import Open
from wayside.sim.faults import Fault, Kind
from wayside.sim.wire import packet_of
from wayside.sim.world import Result, World


@dataclass(frozen=True, slots=True)
class Regression:
    """One run. `bug`: puts the bug back; `check`: who sees it then."""

    world: str
    seed: int
    schedule: tuple[Fault, ...]
    why: str
    bug: broken.Break | None = None
    check: str = ""


REGRESSIONS = {
    "posing-before-a-firewall-near-the-client": Regression(
        "firewall-out",
        0,
        (Fault(Kind.POSE, 1.0, 6.0, "c1", 2.0),),
        "Behind a gate every OPEN came from the gate's own address, so a made-up hop record let"
        " anybody speak for any address (R-5.1.6, R-8.1).",
        broken.host_that_believes_hops,
        "agreement",
    ),
    "posing-before-a-firewall-near-the-server": Regression(
        "firewall-in",
        0,
        (Fault(Kind.POSE, 1.0, 6.0, "c1", 2.0),),
        "The same, past a gate, which speaks now with the address that the OPEN claims: even if it"
        " believed the record, the answer would not come to who made it up.",
    ),
    "a-stolen-token-at-the-gate-itself": Regression(
        "chaos",
        2431,
        (Fault(Kind.STEAL, 7.807, 4.214, "site-s2", 9.898),),
        "A CLOSE with a token that was seen, sent to the gate's own address, was passed on to that"
        " address for ever (R-8.2).",
    ),
    "a-subflow-that-its-end-has-again": Regression(
        "multihoming-mptcp",
        250,
        (
            Fault(Kind.LIE, 4.030, 9.474, "g2", 0.836),
            Fault(Kind.READDRESS, 6.979, 0.370, "c1", 0.0),
        ),
        "A fault of the checker: an end that had closed a subflow, since nobody confirmed it, and"
        " agreed to it again under the same cid was held to have none.",
    ),
    "an-alternative-is-no-outside-of-a-nat": Regression(
        "multihoming-mptcp",
        713,
        (
            Fault(Kind.PARTITION, 9.362, 7.699, "core-g2", 0.0),
            Fault(Kind.KILL, 10.631, 0.148, "s1", 0.0),
        ),
        "A fault of the record: who moved by itself told its old address as an alternative, and"
        " that was taken for what a silent NAT makes of it (R-12.5).",
    ),
    "a-move-and-a-question-by-another-path": Regression(
        "multihoming",
        49,
        (Fault(Kind.LIE, 8.305, 9.124, "g1", 0.479), Fault(Kind.MOVE, 12.767, 2.339, "c2", 0.0)),
        "The same. What is left: packets between two addresses that were agreed to apart wait for"
        " the next question (docs/simulator.md).",
    ),
    "hops-of-the-seq-before": Regression(
        "lossy",
        46,
        (),
        "A refresh whose CONFIRM was lost counted as agreed, with the hops of the one before: a"
        " CLOSE with tokens that no gate opens (R-5.9).",
    ),
    "posing-for-a-moment": Regression(
        "chaos",
        47,
        (Fault(Kind.POSE, 1.858, 0.765, "c1", 1.048),),
        "The same, found in a world of twelve faults and cut down to one OPEN.",
        broken.host_that_believes_hops,
        "agreement",
    ),
    "a-late-refusal": Regression(
        "nat-nested",
        1485,
        (),
        "A REDIRECT that was said twice ended, at two NATs, what its second OPEN had just got"
        " (R-5.6.4). As nothing was lost, every attempt went the same way."
        " (A no to another copy ends nothing now, so a gate that heeds late ones is not caught.)",
    ),
    "a-refused-rule-beside-one-to-remove": Regression(
        "simple",
        38,
        (
            Fault(Kind.MOVE, 4.738, 0.883, "c1", 0.0),
            Fault(Kind.REFUSE_RULES, 5.038, 4.0, "s1", 0.8),
            Fault(Kind.MOVE, 6.057, 1.0, "c1", 0.0),
        ),
        "A kernel that refused a new rule kept the one from before a move for ever.",
        broken.driver_that_gives_up,
        "lifetime",
    ),
    "killed-after-a-move": Regression(
        "firewall-out",
        229,
        (
            Fault(Kind.MOVE, 13.159, 0.762, "c1", 0.0),
            Fault(Kind.KILL, 14.581, 0.226, "c1", 0.0),
        ),
        "A restarted agent did not know the rule that still let packets in from before a move"
        " (R-6.5), and left it when the connection ended.",
        broken.host_that_leaves_old_ways,
        "lifetime",
    ),
    "sent-on-twice": Regression(
        "both-move",
        150,
        (Fault(Kind.POWER, 5.255, 5.103, "s2", 0.0),),
        "Who was sent on twice before it was answered took the first place for the peer's home,"
        " and found it no more when it moved.",
        broken.initiator_that_forgets_its_peers_home,
        "survival",
    ),
    "moved-before-the-first-confirm": Regression(
        "both-move",
        248,
        (Fault(Kind.POWER, 2.52, 0.57, "s1", 0.0),),
        "A server that had lost power took a refresh for a new connection, and then did not hear"
        " the client from where it had moved (R-5.4.2).",
    ),
    "a-lost-confirm-of-a-move": Regression(
        "lossy",
        1818,
        (Fault(Kind.MOVE, 10.843, 0.552, "c1", 0.0),),
        "The next OPEN agreed to the key of a move whose CONFIRM was lost, but not to its"
        " addresses (R-5.4.3).",
    ),
    "moves-that-cross": Regression(
        "both-move",
        1056,
        (),
        "An end whose own move was answered took away the rule for packets to where it had been"
        " asked meanwhile; its kernel answered them with a reset (R-5.4.6).",
        broken.end_that_forgets_what_it_offered,
        "survival",
    ),
    "still-on-the-way": Regression(
        "both-move",
        11856,
        (),
        "Who was asked after its own move took away the rule for packets that were still on the way"
        " to where it had been (R-5.4.6).",
    ),
    "a-confirm-that-is-late": Regression(
        "both-move",
        210,
        (),
        "Who had moved, and heard that the other end had, too, did not say its CONFIRM again when"
        " an ACCEPT came from there (R-5.3.1).",
    ),
    "a-link-down-for-a-moment": Regression(
        "mobile-server",
        140,
        (Fault(Kind.LINK_DOWN, 6.33, 0.35, "s2", 0.0),),
        "An end that went over to other addresses by an OPEN was counted where it had been.",
    ),
    "a-move-while-asking": Regression(
        "both-move",
        10362,
        (),
        "Whoever moved while it asked went on asking from where it had been (R-5.4.6). That nobody"
        " asks at that moment any more is chance: tests/core/test_moves.py shows the bug.",
    ),
    "a-confirm-by-the-next-question-through-a-silent-nat": Regression(
        "legacy-nat",
        2165,
        (
            Fault(Kind.MODIFY, 1.574, 10.553, "core-g2", 0.398),
            Fault(Kind.GUESS, 3.102, 2.225, "world", 7.631),
        ),
        "The checker of proofs knew where an initiator is inside of a NAT, not outside (R-5.4.3).",
    ),
    "a-gate-that-lies-about-a-stop": Regression(
        "dos-stop",
        2429,
        (Fault(Kind.LIE, 6.2, 10.099, "g1", 0.307),),
        "The checker of filters read what a lying gate passed on.",
    ),
    "a-move-inside-a-nat-that-nobody-confirms": Regression(
        "nat-out",
        6074,
        (
            Fault(Kind.LOSS, 7.118, 6.225, "access-n1", 0.681),
            Fault(Kind.MOVE, 9.753, 3.59, "c1", 0.0),
        ),
        "A gate forgot a connection, and not the pending rules of its move (R-6.4).",
    ),
    "the-same-ports-after-a-crash": Regression(
        "nat-out",
        14354,
        (Fault(Kind.POWER, 12.982, 0.149, "c1", 0.0),),
        "A NAT lent another port to who had one already, which its kernel refused; then nobody"
        " removed the rules of the older connection (R-8.7, R-5.9.2).",
    ),
    "a-move-to-where-lifetimes-are-shorter": Regression(
        "mobile-server",
        47036,
        (Fault(Kind.LINK_DOWN, 0.901, 7.555, "s1", 0.0),),
        "The initiator went on refreshing as if its peer had not moved (R-5.4.1).",
    ),
    "a-peer-that-moves-away-from-sockets-on-the-wire": Regression(
        "both-move",
        27282,
        (
            Fault(Kind.LINK_DOWN, 6.152, 2.898, "s1", 0.0),
            Fault(Kind.KILL, 10.956, 1.193, "c2", 0.0),
        ),
        "A host without rewriting made a rule for where its peer had been (R-6.2).",
    ),
    "a-hidden-host-behind-another-gate": Regression(
        "hidden-mobile-server",
        69,
        (),
        "Nobody asked the gate before a hidden host's new place (R-10.5).",
    ),
    "anothers-flow-by-a-nat-that-forgot": Regression(
        "nat-out",
        85490,
        (Fault(Kind.POWER, 4.102, 4.641, "n1", 0.0), Fault(Kind.MOVE, 6.729, 0.201, "c1", 0.0)),
        "A host gave one peer's connection the 5-tuple that another's had (R-5.1.9).",
    ),
    "a-no-to-another-copy": Regression(
        "nat-nested",
        90136,
        (),
        "A gate took the REDIRECT to a copy of an OPEN for a no to what was accepted (R-5.6.4).",
    ),
    "a-rst-that-answers-a-guess": Regression(
        "both-move",
        84252,
        (Fault(Kind.EAVESDROP, 1.412, 9.763, "abroad-s1", 7.488),),
        "A simulated socket took a RST whose number was a forger's (RFC 5961, 3.2).",
    ),
    "a-rendezvous-its-own-open": Regression(
        "offpath-firewall",
        71599,
        (Fault(Kind.EAVESDROP, 4.008, 9.856, "core-s1", 8.301),),
        "It refused its own OPEN by name of the hidden host, and passed that on (R-8.5).",
    ),
    "one-silent-connection-among-others": Regression(
        "multihoming",
        27,
        (),
        "What others of the path heard counted for it, too (R-5.4.8).",
    ),
    "as-many-packets-as-before-the-move": Regression(
        "multihoming",
        51,
        (Fault(Kind.MOVE, 4.146, 0.732, "c1", 0.0),),
        "New rules count from zero: two packets after a move, and two a lifetime before, were taken"
        " for silence, and the connection was closed while it was in use (R-5.9.1).",
    ),
    "as-many-packets-as-before-the-path-was-left": Regression(
        "multihoming",
        99,
        (
            Fault(Kind.POSE, 6.697, 2.61, "flooder", 1.538),
            Fault(Kind.DELAY, 13.299, 7.25, "c2-access", 0.686),
            Fault(Kind.PARTITION, 14.845, 0.271, "abroad-s1", 0.0),
        ),
        "The same, at both ends at once. A host now asks for others of the path as well.",
    ),
    "as-many-packets-as-before-a-hidden-move": Regression(
        "hidden-mobile-server",
        324,
        (Fault(Kind.LOSS, 5.056, 2.716, "c1-access", 0.17),),
        "The same. Who then asked for it again was refused by the relay, which had it still. Since"
        " addresses are read a while after they change the bug shows in the run before only.",
    ),
    "a-late-answer-about-the-path-that-was-left": Regression(
        "multihoming",
        15,
        (Fault(Kind.DELAY, 0.797, 3.915, "core-g2", 0.409),),
        "Who had given up waiting for an answer went back to where it would have been (R-5.4.6)."
        " Since who opens tries other paths this run has no such moment: tests/core/test_paths.py"
        " shows the bug.",
    ),
    "who-only-asks-has-not-moved": Regression(
        "multihoming",
        329,
        (
            Fault(Kind.POWER, 2.809, 0.791, "s1", 0.0),
            Fault(Kind.LIE, 8.305, 9.124, "g1", 0.479),
        ),
        "An end that had asked whether its path works stayed on it while the other end, which did"
        " not know of that, took both to another (R-5.4.6).",
        broken_paths.end_that_takes_a_question_for_a_move,
        "tuples",
    ),
    "who-only-asks-has-not-moved-and-nothing-else-is-wrong": Regression(
        "multihoming",
        256,
        (),
        "The same. Now the path is asked about for another connection before that.",
    ),
    "asked-for-while-a-link-dies": Regression(
        "multihoming",
        364,
        (),
        "What was being asked for did not follow the others of its path to another (R-5.4.8). Now"
        " it would find one by itself, later: tests/kernel/test_paths.py shows the bug.",
    ),
    "closed-at-the-other-end-of-a-dead-link": Regression(
        "multihoming",
        303,
        (),
        "All paths were tried for a connection that the other end had closed, and could not say so;"
        " another one of the same dead path waited until its lifetime was over (R-5.4.8).",
        broken_paths.host_that_asks_for_one_connection_only,
        "survival",
    ),
    "an-edited-return": Regression(
        "firewall-redirect",
        10976,
        (Fault(Kind.MODIFY, 9.82, 7.306, "access-g1", 0.666),),
        "Somebody on the path changed the port that a relay gave back: it drops what comes there,"
        " and the checker of packets blamed the host, which cannot know.",
    ),
}


@pytest.mark.parametrize("name", list(REGRESSIONS))
def test_a_run_that_found_a_bug_is_well_now(name: str) -> None:
    case = REGRESSIONS[name]
    result = World(case.world, case.seed, case.schedule).run()
    assert (result.check, result.why) == ("", ""), case.why


@pytest.mark.parametrize("name", [name for name, case in REGRESSIONS.items() if case.bug])
def test_a_run_that_found_a_bug_finds_it_again_when_it_is_back(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = REGRESSIONS[name]
    assert case.bug is not None
    case.bug(monkeypatch)
    assert World(case.world, case.seed, case.schedule).run().check == case.check


class RefreshesAreLost:
    """On a link: every OPEN but the first of a connection is lost, all else passes."""

    def see(self, raw: bytes, end: int) -> list[bytes]:
        packet = packet_of(raw)
        data = packet.payload if packet is not None else b""
        refresh = data[4:5] == bytes([Open.TYPE]) and data[:3] == MAGIC and any(data[8:16])
        return [] if refresh else [raw]


def without_refreshes(seed: int) -> Result:
    """Packets renew the gate's rules; only its kernel knows of them after a lifetime."""
    world = World("firewall-out", seed, ())
    world.network.links["access-g1"].taps.append(RefreshesAreLost())
    return world.run()


KEPT_BY_PACKETS = (3, 15, 16)


@pytest.mark.parametrize("seed", KEPT_BY_PACKETS)
def test_a_close_shuts_a_pinhole_that_only_packets_have_kept_open(seed: int) -> None:
    """R-5.9.2: a gate forgot the connection, and its CLOSE found nothing to remove."""
    assert without_refreshes(seed).why == ""


def test_a_gate_that_forgets_what_packets_keep_open_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken.gate_that_forgets_what_packets_keep(monkeypatch)
    assert "agreement" in [without_refreshes(seed).check for seed in KEPT_BY_PACKETS]
