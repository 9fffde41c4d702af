"""What is decided about a connection is done in that order, though the kernel takes its time.

A machine goes on while the kernel is asked for rules: what it says next may be true only when they
are in. An OPEN under the key of an ACCEPT tells the other end to send to where this ACCEPT was
asked from; sent before the own rules are there, it brings packets to a kernel that resets them.
So a batch of effects waits until those before it, of the same connections, have been done.
Spec: R-6.2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wayside.core.effects import ChangeRules, Effect, SendDatagram
from wayside.core.rule import Cid


@dataclass(slots=True, eq=False)
class Turn:
    """Effects that belong together; `before`: in how many lines somebody else is first."""

    effects: list[Effect]
    cids: tuple[Cid, ...] = ()
    before: int = 0


@dataclass(slots=True)
class Turns:
    """The lines, one for each connection of which something is under way.

    `run`: does a turn's effects, and says `done` when the last is over.
    """

    run: Callable[[Turn], None]
    _lines: dict[Cid, deque[Turn]] = field(default_factory=dict[Cid, deque[Turn]])
    _ready: deque[Turn] = field(default_factory=deque[Turn])
    _running: bool = False

    def take(self, effects: list[Effect]) -> None:
        """Do these now, or as soon as it is their turn."""
        if not self._lines and not any(isinstance(one, ChangeRules) for one in effects):
            self.run(Turn(effects))
            return
        cids = cids_of(effects)
        turn = Turn(effects, cids, sum(cid in self._lines for cid in cids))
        for cid in cids:
            self._lines.setdefault(cid, deque()).append(turn)
        if not turn.before:
            self.run(turn)

    def done(self, turn: Turn) -> None:
        """All of it is done: whoever is next in its lines may be first in all of theirs."""
        for cid in turn.cids:
            line = self._lines[cid]
            line.popleft()
            if not line:
                del self._lines[cid]
                continue
            line[0].before -= 1
            if not line[0].before:
                self._ready.append(line[0])
        if self._running:
            return
        self._running = True
        try:
            while self._ready:
                self.run(self._ready.popleft())
        finally:
            self._running = False


def cids_of(effects: Sequence[Effect]) -> tuple[Cid, ...]:
    """Whose effects these are."""
    found: dict[Cid, None] = {}
    for effect in effects:
        if isinstance(effect, SendDatagram):
            found[Cid(effect.data[16:32])] = None
        else:
            cid: Cid | None = getattr(effect, "cid", None)
            if cid is not None:
                found[cid] = None
    return tuple(found)
