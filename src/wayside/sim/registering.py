"""A host says where it is, and finds out that it is somewhere else.

As runtime/registering.py: a registration that was refused, not answered or ended is asked for
again, later each time, and at once when the network has changed. As runtime/moves.py: some time
after a change the host looks from which of its addresses it would now reach whom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from wayside.core.address import IP, Address
from wayside.core.asker import Asker
from wayside.core.connection import Connection, State
from wayside.core.effects import Effect, ReportClosed, ReportOpened, ReportRefused
from wayside.core.rule import Cid

from .clock import Clock

RETRY_FIRST_S = 1.0
RETRY_LAST_S = 8.0
"""The daemon's is a minute; a world has less time than that for becoming well."""


class Registering:
    """Keeps one registration up. `ask`: asks for it; False: there is no way now."""

    def __init__(self, clock: Clock, fresh: Callable[[], Cid], ask: Callable[[Cid], bool]) -> None:
        self._clock = clock
        self._fresh = fresh
        self._ask = ask
        self._cid: Cid | None = None
        self._failures = 0
        self._turn = 0
        self._stopped = False

    def start(self) -> None:
        """Ask, now."""
        self._turn += 1
        if self._stopped:
            return
        self._cid = self._fresh()
        if not self._ask(self._cid):
            self._again()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True

    def try_now(self) -> None:
        """The network has changed: who waits does not."""
        if self._cid is None:
            self.start()

    def on_report(self, effect: Effect) -> None:
        """Perhaps it is up, or over."""
        if not isinstance(effect, ReportOpened | ReportRefused | ReportClosed):
            return
        if effect.cid != self._cid:
            return
        if isinstance(effect, ReportOpened):
            self._failures = 0
        else:
            self._again()

    def _again(self) -> None:
        self._cid = None
        self._turn += 1
        turn = self._turn
        wait_s = min(RETRY_FIRST_S * 2**self._failures, RETRY_LAST_S)
        self._failures += 1
        self._clock.after(wait_s, lambda: self.start() if self._turn == turn else None)


def changed_sources(
    connections: Iterable[Connection], source_for: Callable[[Address], Address | None]
) -> dict[IP, IP]:
    """From which own address whom is reached now, where that is news to a live connection."""
    changed: dict[IP, IP] = {}
    for connection in connections:
        if connection.state not in (State.OPENING, State.CONNECTED):
            continue
        wire = connection.course
        source = source_for(wire.destination)
        known = {wire.source.ip}
        attempt = connection.attempt if isinstance(connection, Asker) else None
        if attempt is not None and attempt.message is not None:
            known.add(attempt.wire.source.ip)
        if source is not None and known != {source.ip}:
            changed[wire.destination.ip] = source.ip
    return changed
