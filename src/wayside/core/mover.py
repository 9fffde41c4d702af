"""An end that moves: it says where it is now, and goes by what the other end says of itself.

A connection that is up is asked for again from where the host is now; one that is only being asked
for is asked for from there, too, as if it had been from the beginning. Spec: R-5.4.6.
"""

from __future__ import annotations

from dataclasses import replace

from .address import IP, Address, Flow
from .asker import Asker
from .attempt import approval_of
from .connection import State
from .effects import ChangeRules, Effect
from .events import SourcesChanged
from .saved import save
from .timers import Timer


class Mover(Asker):
    """What an end does that is elsewhere now."""

    __slots__ = ()

    def _on_sources_changed(self, event: SourcesChanged, now: float) -> list[Effect]:
        """Say where we are now, unless our sockets see the wire's own addresses. Spec: R-5.4.6."""
        about, attempt = self.agreement, self.attempt
        here = about.wire.source
        source = event.sources.get(self.course.destination.ip)
        pinned = about.local == about.wire and here.port != 0
        if source is None or pinned or self.hider:
            return []
        path = replace(self.course, source=Address(source, here.port))
        if self.state is State.OPENING:
            return self._ask_by(path, now)
        if self.state is not State.CONNECTED:
            return []
        under_way = attempt is not None and attempt.confirm is None and attempt.towards is None
        if source == (attempt.wire.source.ip if attempt and under_way else here.ip):
            return []
        return self._move(path, now)

    def _ask_by(self, wire: Flow, now: float) -> list[Effect]:
        """Ask by this path from now on, before anybody has answered. Spec: R-5.4.2, R-5.4.6."""
        about, attempt = self.agreement, self.attempt
        if attempt is None or attempt.message is None or attempt.wire == wire:
            return []
        self.agreement = replace(about, wire=replace(about.wire, source=wire.source))
        asked = replace(attempt, outside=None)  # a NAT was before the old address
        return self._ask(wire, now, attempt.load.data, approval_of(attempt), asked)

    def follow(self, source: IP) -> list[Effect]:
        """We are elsewhere, and who hides us knows it: nobody else needs to. Spec: R-10.5."""
        about, offer = self.agreement, self.offer
        here = Address(source, about.wire.source.port)
        if here == about.wire.source:
            return []
        if offer is not None and self.state in (State.ANSWERING, State.OFFERED):
            offer.after, before = replace(offer.after, source=here), (*self.old, *about.inbound)
            self.agreement, pending = replace(about, wire=offer.after), offer.pending(about)
            self.old = tuple(rule for rule in pending if rule not in self.agreement.inbound)
            gone = tuple(rule for rule in before if rule not in pending)
            asked = self.state is State.OFFERED
            return [ChangeRules(about.cid, pending, gone)] if asked else []
        if self.state is not State.CONNECTED:
            return []
        switch = self._switch(replace(about.wire, source=here))
        return [switch, save(self), replace(self._up(), refreshed=True)]

    def settle(self, now: float) -> list[Effect]:
        """It asked, and what we ask meanwhile went to where it is no more. Spec: R-5.4.6."""
        attempt, wire = self.attempt, self.agreement.wire
        if attempt is None or attempt.confirm is not None or attempt.wire == wire:
            return []
        if self._moves(attempt):
            return self._move(replace(wire, source=attempt.wire.source), now)
        attempt.message, attempt.hash = None, b""  # an ACCEPT of it would take us back
        self.timers.stop(Timer.RETRANSMIT, Timer.GIVE_UP)
        if self.PARITY == 0:
            self.timers.start(Timer.REFRESH, now + self.lifetime_s / 3)
        return []
