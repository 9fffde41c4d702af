"""Which path is silent, by what was counted; and what is asked about it. Time is virtual."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest

from pair import Pair
from wayside.core.address import IP, Address, Transport
from wayside.core.connection import State
from wayside.core.rule import Cid
from wayside.kernel import paths as constants
from wayside.kernel.paths import Paths, Trial

C1, C2, S1, S2 = (ip_address(f"10.{net}.0.2") for net in (0, 77, 1, 78))
KEY = bytes(32)
"""The smallest: this end goes first."""


@dataclass
class Watched:
    """A connection of a client with two addresses to a server with two, and its counters."""

    key: bytes = KEY
    own: tuple[IP, ...] = (C1, C2)
    theirs: tuple[IP, ...] = (S2,)
    transport: Transport = Transport.TCP
    now: float = 100.0
    sent: int = 0
    heard: int = 0
    asked: list[tuple[float, IP, IP]] = field(default_factory=list[tuple[float, IP, IP]])

    def __post_init__(self) -> None:
        self.pair = Pair(transport=self.transport).open()
        self.connection = self.pair.connection("c")
        self.connection.agreement = replace(
            self.connection.agreement,
            alternatives=tuple(Address(ip, 0) for ip in self.theirs),
        )
        self.paths = Paths(self.key)
        self.paths.settle([Address(ip, 4747) for ip in self.own], 0.0)

    @property
    def cid(self) -> Cid:
        return self.connection.agreement.cid

    def look(self, sent: int = 0, heard: int = 0, after_s: float = constants.FAST_S) -> list[Trial]:
        """So many packets left and came; what is asked for then."""
        self.now += after_s
        self.sent, self.heard = self.sent + sent, self.heard + heard
        due = self.paths.due([self.connection])
        counted = {one.agreement.cid: (self.sent, self.heard) for one in due}
        trials = self.paths.look(counted, [self.connection], self.now)
        self.asked += [(self.now, one.source.ip, one.destination.ip) for one in trials]
        return trials

    def answered(self) -> None:
        self.paths.answered(self.connection, [self.connection], self.now)

    def agreed(self, preferred: IP) -> None:
        """Both ends take its path; what the kernel would take for new packets."""
        self.paths.agreed(self.cid, self.connection.agreement.wire, preferred)

    def moved(self, source: IP, destination: IP) -> None:
        """It is answered by another path."""
        wire = self.connection.agreement.wire
        wire = replace(
            wire,
            source=Address(source, wire.source.port),
            destination=Address(destination, wire.destination.port),
        )
        self.connection.agreement = replace(self.connection.agreement, wire=wire)
        self.answered()

    def known(self) -> None:
        """It has flowed a while, and the time of an answer is known."""
        self.look()
        self.look(1, 1)
        assert len(self.asked) == 1
        self.now += 0.005
        self.answered()
        self.look(1, 1)
        self.asked.clear()

    def starve(self, seconds: float) -> None:
        """Packets leave and nothing comes."""
        until = self.now + seconds
        while self.now < until:
            self.look(1)


def test_while_something_comes_nothing_is_asked() -> None:
    """R-5.4.8: but once, to learn how long an answer takes."""
    world = Watched()
    world.known()
    for _ in range(100):
        world.look(3, 1)
    assert world.asked == []


def test_who_says_nothing_hears_nothing_and_that_is_no_sign() -> None:
    """R-5.4.8."""
    world = Watched()
    world.known()
    for _ in range(100):
        world.look()
    assert world.asked == []


def test_a_silent_path_is_asked_twice_and_then_the_one_with_nothing_in_common_is_tried() -> None:
    """R-5.4.8."""
    world = Watched()
    world.known()
    world.starve(0.4)
    assert [way for _, *way in world.asked[:3]] == [[C1, S1], [C1, S1], [C2, S2]]
    assert world.asked[0][0] - 100 < 0.5
    assert world.asked[2][0] - world.asked[0][0] < 0.2


def test_all_paths_are_tried_then_the_same_again_more_slowly() -> None:
    """R-5.4.8."""
    world = Watched()
    world.known()
    world.starve(12)
    ways = [way for _, *way in world.asked]
    one_round = [[C2, S2], [C2, S1], [C1, S2], [C1, S1]]
    assert ways[2:10] == one_round * 2
    times = [at for at, *_ in world.asked]
    assert times[9] - times[6] > 1.5 * (times[5] - times[2])


def test_a_flow_that_goes_one_way_is_asked_about_more_and_more_rarely() -> None:
    """R-5.4.8: each answer shows that the path works."""
    world = Watched(transport=Transport.UDP)
    world.known()
    until = world.now + 20
    while world.now < until:
        if world.look(1):
            world.answered()
    assert 15 < len(world.asked) < 30
    assert {(source, there) for _, source, there in world.asked} == {(C1, S1)}


def test_a_long_round_trip_is_waited_for() -> None:
    """R-5.4.8: an answer after 0.4 s is none that is missing."""
    world = Watched()
    world.look()
    world.look(1, 1)
    world.now += 0.4
    world.answered()
    world.asked.clear()
    world.look(1, 1)
    world.starve(0.4)
    assert {(source, there) for _, source, there in world.asked} == {(C1, S1)}


def test_the_end_with_the_greater_key_tries_others_later() -> None:
    """R-5.4.8: or both would move at once."""
    first, second = Watched(), Watched(key=b"\xff" * 32)
    for world in (first, second):
        world.known()
        world.starve(0.5)
        assert world.asked[2][1] == C2
    began = [next(at for at, own, _ in world.asked if own != C1) for world in (first, second)]
    assert began[1] > began[0]


def test_a_path_that_answers_is_taken_and_kernels_choice_no_longer_counts() -> None:
    """R-5.4.8."""
    world = Watched()
    world.known()
    world.starve(0.3)
    world.moved(C2, S2)
    assert world.paths.source_towards(S1) == C2
    assert world.paths.source_towards(S2) == C2
    world.look()
    for _ in range(100):
        world.look(1, 1)
    assert {(source, there) for _, source, there in world.asked[3:]} == {(C2, S2)}


def test_the_path_that_was_left_is_tried_again_after_a_while_that_grows() -> None:
    """R-5.4.8: so nothing flaps."""
    world = Watched()
    world.known()
    world.starve(0.3)
    world.moved(C2, S2)
    left_at, back = world.now, list[float]()
    while world.now < left_at + 8 * constants.RETURN_S:
        for trial in world.look(1, 1, after_s=0.25):
            if trial.source.ip == C1:
                back.append(world.now - left_at)
            else:
                world.answered()
    assert [round(at / constants.RETURN_S) for at in back] == [1, 3, 7]


def test_back_on_the_first_path_nothing_is_chosen_any_more() -> None:
    """R-5.4.8."""
    world = Watched()
    world.known()
    world.starve(0.3)
    world.moved(C2, S2)
    world.moved(C1, S1)
    assert world.paths.source_towards(S1) is None
    assert world.paths.source_towards(S2) is None


def test_who_prefers_another_link_decides_anew() -> None:
    """R-5.4.6: what silence has chosen holds until addresses or routes are others."""
    world = Watched()
    world.known()
    world.starve(0.3)
    world.moved(C2, S2)
    world.paths.settle([Address(C2, 4747), Address(C1, 4747)], world.now)
    assert world.paths.source_towards(S1) is None


def test_a_refresh_while_the_kernel_prefers_another_link_chooses_no_path() -> None:
    """R-5.4.6, R-5.4.8: it stays where it was, for its move has only begun."""
    world = Watched()
    world.look()
    world.agreed(preferred=C2)
    assert world.paths.source_towards(S1) is None


def test_who_comes_by_another_path_than_the_kernel_would_take_has_chosen_it() -> None:
    """R-5.4.8: for new packets, too, until the kernel takes that path itself."""
    world = Watched()
    world.look()
    world.moved(C2, S2)
    world.agreed(preferred=C1)
    assert world.paths.source_towards(S2) == C2
    world.agreed(preferred=C2)
    assert world.paths.source_towards(S2) is None


def test_a_path_is_chosen_once_and_not_again_by_each_refresh() -> None:
    """R-5.4.6: who prefers another link meanwhile is not held, before the next look either."""
    world = Watched()
    world.look()
    world.moved(C2, S2)
    world.agreed(preferred=C1)
    third = ip_address("10.88.0.2")
    world.paths.settle([Address(ip, 4747) for ip in (third, C1, C2)], world.now)
    world.agreed(preferred=third)
    assert world.paths.source_towards(S2) is None


def test_with_one_address_here_and_one_there_there_is_nothing_to_look_at() -> None:
    """R-5.4.8."""
    world = Watched(own=(C1,), theirs=())
    assert world.paths.due([world.connection]) == []
    only_theirs = Watched(own=(C1,))
    assert only_theirs.paths.due([only_theirs.connection]) == [only_theirs.connection]


def test_while_addresses_change_nothing_is_asked() -> None:
    """R-5.4.6: a move sees to itself."""
    world = Watched()
    world.known()
    world.paths.settle([Address(ip, 4747) for ip in world.own], world.now)
    world.starve(constants.QUIET_S - 2 * constants.FAST_S)
    assert world.asked == []
    world.starve(0.2)
    assert world.asked != []


def test_mptcp_is_left_to_its_own_timers() -> None:
    """R-2.5."""
    world = Watched(transport=Transport.MPTCP)
    assert world.paths.due([world.connection]) == []


def test_new_rules_count_from_zero_and_that_is_no_silence() -> None:
    """R-5.4.8."""
    world = Watched()
    world.known()
    world.sent = world.heard = 0
    world.look()
    world.look(1, 1)
    assert world.asked == []


def leave(
    state: State, towards: Address | None = None, seq: int | None = None
) -> tuple[Cid, list[Trial]]:
    """A path is left for another; what another connection in this state is asked for by then.

    `seq`: it is asked for with this, from its other address.
    """
    world = Watched()
    other = Pair().open().connection("c")
    other.agreement = replace(world.connection.agreement, cid=Cid(b"another of them!"))
    other.state, other.towards = state, towards or other.towards
    asked = other.attempt
    if seq is not None and asked is not None:
        other.attempt = replace(asked, seq=seq, wire=replace(asked.wire, source=Address(C2, 40000)))
    world.known()
    both = [world.connection, other]
    world.starve(1.0)
    assert world.asked
    before = world.connection.agreement
    wire = replace(before.wire, source=Address(C2, 40000), destination=Address(S2, 443))
    world.connection.agreement = replace(before, wire=wire)
    world.paths.answered(world.connection, both, world.now)
    trials = world.paths.look({}, both, world.now + constants.FAST_S)
    assert all((one.source.ip, one.destination.ip) == (C2, S2) for one in trials)
    return other.agreement.cid, trials


def test_all_others_of_a_path_follow_and_who_opens_by_it_too() -> None:
    """R-5.4.8: it would wait in vain for an answer."""
    for state in (State.CONNECTED, State.OPENING):
        cid, trials = leave(state)
        assert [one.cid for one in trials] == [cid]


@pytest.mark.parametrize(("seq", "follows"), [(2, True), (0, False)])
def test_who_is_asked_for_by_another_path_follows_unless_that_was_its_first(
    seq: int, follows: bool
) -> None:
    """R-5.4.8: that other path may have the same dead end."""
    assert bool(leave(State.OPENING, seq=seq)[1]) is follows


def test_who_asks_a_relay_follows_nobody() -> None:
    """R-5.4.8: the path is the relay's."""
    assert leave(State.OPENING, Address(ip_address("10.9.0.9"), 4747))[1] == []


def test_a_connection_that_nobody_answers_for_makes_way_for_the_next_of_its_path() -> None:
    """R-5.4.8: the other end may have closed it, and could not say so."""
    world = Watched(theirs=())
    other = Pair().open().connection("c")
    other.agreement = replace(world.connection.agreement, cid=Cid(b"another of them!"))
    world.known()
    both = [world.connection, other]
    asked: list[tuple[Cid, IP]] = []
    for _ in range(200):
        world.now += constants.FAST_S
        world.sent += 1
        counted = {one.agreement.cid: (world.sent, world.heard) for one in world.paths.due(both)}
        trials = world.paths.look(counted, both, world.now)
        asked += [(one.cid, one.source.ip) for one in trials]
    first, second = (one.agreement.cid for one in both)
    by_path, by_other = (first, C1), (first, C2)
    assert asked[:6] == [by_path, by_path, by_other, by_path, (second, C2), (second, C1)]
    assert asked[6:7] == [by_other]


def test_what_is_over_follows_nobody() -> None:
    """R-5.4.8."""
    assert leave(State.CLOSING)[1] == []
