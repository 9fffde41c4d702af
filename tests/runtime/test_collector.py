"""The collector of cycles looks seldom, and still looks."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from wayside.runtime.collector import OBJECTS_BETWEEN, settle


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Knot:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_still_collected_once_there_are_enough_of_them() -> None:
    settle()
    first = weakref.ref(Knot())
    for _ in range(2 * OBJECTS_BETWEEN):
        Knot()
    assert first() is None


def test_what_is_there_when_a_daemon_is_ready_is_looked_at_no_more() -> None:
    settle()
    assert gc.get_freeze_count() > 1000
