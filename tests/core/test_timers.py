"""Timers of one machine, deadlines of many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wayside.core.rule import Cid
from wayside.core.timers import Deadlines, Timer, Timers


def cid(number: int) -> Cid:
    return Cid(number.to_bytes(16, "big"))


def test_timers_come_due_the_earliest_first_and_once() -> None:
    """R-5.1.7, R-5.2.3: repeating and giving up are two timers of one machine."""
    timers = Timers()
    timers.start(Timer.GIVE_UP, 5.0)
    timers.start(Timer.RETRANSMIT, 0.25)
    assert timers.deadline == 0.25
    assert timers.take_due(0.2) == []
    assert timers.take_due(9.0) == [Timer.RETRANSMIT, Timer.GIVE_UP]
    assert timers.take_due(9.0) == []
    assert timers.deadline is None


def test_a_timer_runs_until_the_last_time_it_was_set_to_and_can_be_stopped() -> None:
    """R-5.4.1."""
    timers = Timers()
    timers.start(Timer.REFRESH, 1.0)
    timers.start(Timer.REFRESH, 2.0)
    assert timers.take_due(1.5) == []
    timers.stop(Timer.REFRESH, Timer.OFFER)
    assert timers.deadline is None
    timers.start(Timer.EXPIRE, 1.0)
    timers.start(Timer.OFFER, 1.0)
    timers.stop()
    assert timers.take_due(9.0) == []


MOVES = st.lists(
    st.tuples(st.integers(0, 5), st.none() | st.integers(0, 30), st.booleans()), max_size=60
)


@given(MOVES)
def test_deadlines_are_what_a_plain_table_would_say(
    moves: list[tuple[int, int | None, bool]],
) -> None:
    """R-7.4: each connection is due once, when it was last said to be."""
    deadlines, plain, now = Deadlines(), dict[Cid, int](), 0
    for number, at, step in moves:
        deadlines.set(cid(number), at)
        if at is None:
            plain.pop(cid(number), None)
        else:
            plain[cid(number)] = at
        assert deadlines.next == min(plain.values(), default=None)
        if step:
            now += 1
            due = sorted((when, one) for one, when in plain.items() if when <= now)
            assert deadlines.take_due(now) == [one for _, one in due]
            for _, one in due:
                del plain[one]


def test_deadlines_that_change_all_the_time_take_no_more_room() -> None:
    """R-7.4: a hundred thousand changes of ten connections."""
    deadlines = Deadlines()
    for number in range(100_000):
        deadlines.set(cid(number % 10), 1000.0 - number / 1000)
    assert len(deadlines._heap) <= 2 * 10 + Deadlines.SLACK
    for number in range(10):
        deadlines.set(cid(number), None)
    assert deadlines.next is None
