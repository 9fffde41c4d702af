"""How often Python looks for cycles of garbage: seldom, because a daemon of ours makes few.

What a set-up leaves behind is freed by reference counts. The collector's defaults look every 700
objects, which in a burst of set-ups is every other datagram, and finds nothing; it cost 6 % of a
gate's time, and pauses. What is there when a daemon is ready stays for its life.
"""

from __future__ import annotations

import gc

OBJECTS_BETWEEN = 20_000
"""New objects before the young are looked through: some hundred set-ups."""

YOUNG_LOOKS = 50
"""Of the young before one of the middle-aged, and of those before one of all."""


def settle() -> None:
    """Put aside what is there, and look at new objects seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN, YOUNG_LOOKS, YOUNG_LOOKS)
