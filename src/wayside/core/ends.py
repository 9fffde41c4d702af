"""The two ends of a connection.

Both can ask and both can answer: who opened the connection keeps it alive by asking again, and
either asks when it has moved. They differ in how the connection comes up, in whose turn a seq is
(even: the initiator's, odd: the responder's), and in nothing else. Spec: R-5.1.1, R-5.4.
"""

from __future__ import annotations

from typing import ClassVar

from .answerer import Answerer
from .connection import State
from .rebinder import Rebinder


class Initiator(Rebinder, Answerer):
    """Opened the connection, and refreshes it."""

    __slots__ = ()
    PARITY: ClassVar = 0
    TRANSITIONS: ClassVar = {
        State.IDLE: frozenset({State.OPENING}),
        State.OPENING: frozenset({State.CONNECTED, State.PLAIN, State.ENDED}),
        State.PLAIN: frozenset({State.ENDED}),
        State.CONNECTED: frozenset({State.CLOSING, State.ENDED}),
        State.CLOSING: frozenset({State.ENDED}),
        State.ENDED: frozenset(),
    }


class Responder(Rebinder, Answerer):
    """Was asked; asks itself only when it has moved."""

    __slots__ = ()
    PARITY: ClassVar = 1
    TRANSITIONS: ClassVar = {
        State.IDLE: frozenset({State.ANSWERING, State.OFFERED}),
        State.ANSWERING: frozenset({State.OFFERED, State.ENDED}),
        State.OFFERED: frozenset({State.CONNECTED, State.ENDED}),
        State.CONNECTED: frozenset({State.CLOSING, State.ENDED}),
        State.CLOSING: frozenset({State.ENDED}),
        State.ENDED: frozenset(),
    }
