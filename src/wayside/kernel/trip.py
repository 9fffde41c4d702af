"""How long a round trip by a path takes, and how long who waits for an answer waits then. Pure.

Paths (paths.py) are asked, and answer; the time between says how long the next answer may take.
"""

from __future__ import annotations

from dataclasses import dataclass

from wayside.core.rule import Cid

ANSWER_S, UNKNOWN_S = 0.05, 0.5
"""What an answer takes where round trips are short; where nobody knows yet how long they are."""

WAIT_MAX_S = 1.0
"""However slow answers were while something else was wrong."""

TRY_S, TRY_MAX_S = 0.3, 5.0
"""An OPEN is repeated after 0.25 s. The whole round of paths then begins anew, more slowly."""

TURN_S, TURN_TRIPS = 0.03, 1.5
"""Who has the greater key waits so much longer, in round trips if those are longer, or both ends
would move at once; each has then asked the gates about a path that neither of them has taken."""


@dataclass(slots=True)
class Trip:
    """How long a round trip by a path takes (s), as far as known, smoothed as TCP does (RFC 6298).

    `timed`: whose answer will tell.
    """

    timed: Cid | None = None
    smooth_s: float | None = None
    varies_s: float = 0.0

    def took(self, trip_s: float) -> None:
        """One took so long."""
        self.timed = None
        if self.smooth_s is None:
            self.smooth_s, self.varies_s = trip_s, trip_s / 2
        else:
            self.varies_s += (abs(trip_s - self.smooth_s) - self.varies_s) / 4
            self.smooth_s += (trip_s - self.smooth_s) / 8

    @property
    def wait_s(self) -> float:
        """How long an answer may take."""
        if self.smooth_s is None:
            return UNKNOWN_S
        return min(WAIT_MAX_S, max(ANSWER_S, self.smooth_s + 4 * self.varies_s))

    @property
    def turn_s(self) -> float:
        """How much longer it waits whose turn comes second."""
        return max(TURN_S, TURN_TRIPS * (self.smooth_s or 0.0))

    @property
    def try_s(self) -> float:
        """How long another path has to answer, which may be longer than this one."""
        return max(TRY_S, 2 * self.wait_s)
