"""What is waited for follows from how long round trips take. R-5.4.8."""

from __future__ import annotations

from wayside.kernel import trip as constants
from wayside.kernel.trip import Trip


def test_nobody_knows_yet() -> None:
    assert Trip().wait_s == constants.UNKNOWN_S
    assert Trip().turn_s == constants.TURN_S
    assert Trip().try_s == 2 * constants.UNKNOWN_S


def test_short_and_steady_trips_are_waited_for_shortly() -> None:
    trip = Trip()
    for _ in range(20):
        trip.took(0.002)
    assert trip.wait_s == constants.ANSWER_S
    assert trip.try_s == constants.TRY_S
    assert trip.turn_s == constants.TURN_S


def test_long_and_unsteady_ones_longer_but_not_for_ever() -> None:
    trip = Trip()
    trip.took(0.1)
    assert 0.1 < trip.wait_s < constants.WAIT_MAX_S
    assert trip.turn_s == constants.TURN_TRIPS * 0.1
    trip.took(5.0)
    assert trip.wait_s == constants.WAIT_MAX_S
    assert trip.smooth_s is not None
    assert trip.smooth_s < 1.0
