"""An end with several paths: it can try another one for a connection that is up.

A path is an address of ours and one of the other end, which named its own in its last OPEN or
ACCEPT. To try one is to ask again, by it: an OPEN as of a move, that opens the gates there; if it
is answered, both ends go on there with the sockets that they have. If it is not, or somebody there
says no, the connection stays where it is: nobody knows better whether that still works. One that is
only being asked for is asked for by the other path from then on. Which path is silent, and which
comes next, is the driver's business; it sees what the kernel counts.
Spec: R-5.4.7, R-5.4.8.
"""

from __future__ import annotations

from . import constants as c
from .address import Flow
from .connection import State
from .effects import Effect
from .events import OpenRequested
from .mover import Mover
from .opening import is_sound
from .timers import Timer

MOVING_TRIES = 3
"""ACCEPTs without a CONFIRM, 0.75 s: then it does not move any more, or is not heard."""


class Rebinder(Mover):
    """What an end does that has more than one path."""

    __slots__ = ()

    def _on_open_requested(self, event: OpenRequested, now: float) -> list[Effect]:
        if self.state in (State.OPENING, State.CONNECTED):
            return self._try(event, now)
        return super()._on_open_requested(event, now)

    def _on_timer(self, timer: Timer, now: float) -> list[Effect]:
        attempt = self.attempt
        if timer is Timer.GIVE_UP and attempt is not None and attempt.towards is not None:
            attempt.message = None  # nobody there; what is asked next is about where we are
        return super()._on_timer(timer, now)

    def _try(self, event: OpenRequested, now: float) -> list[Effect]:
        """Ask by this path; by the one that it has, to see whether that works. Spec: R-5.4.7."""
        about, wire = self.agreement, self.course
        path = Flow(
            wire.transport,
            event.wire.source.with_port(wire.source.port),
            event.wire.destination.with_port(wire.destination.port),
        )
        pinned = about.local == about.wire and wire.transport.protocol != 0
        moving = self.attempt is not None and self._moves(self.attempt)
        offer = self.offer
        asked = offer is not None and not offer.confirmed and offer.wire != wire
        if offer is not None and asked and offer.tries < MOVING_TRIES:
            return []  # the other end moves: what we ask now would be about where it was
        if self.hider or moving or (pinned and path != wire) or not is_sound(path):
            return []
        towards = self.towards if path.destination == wire.destination else event.signaling
        if self.state is State.OPENING:  # nothing to go back to
            self.towards = towards
            return self._ask_by(path, now)
        self.timers.start(Timer.GIVE_UP, now + min(c.OPEN_TIMEOUT_S, self.lifetime_s / 3))
        return self._ask(path, now, towards=towards)
