"""A gate that lies: it admits as it should, and shows each side something else.

To the responder other terms or other hops than to the initiator, a lifetime that it does not
grant, a record of a gate that is not there, an address that nobody has. Both ends must find out,
or be none the worse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from wayside.core.effects import ChangeRules, Effect, SendDatagram
from wayside.core.events import Event, RulesFailed

from .forge import bent


class Liar:
    """Stands in for a gate's `handle`, and bends what it sends."""

    def __init__(
        self, honest: Callable[[Event, float], list[Effect]], chance: Random, probability: float
    ) -> None:
        self._honest = honest
        self._chance = chance
        self._probability = probability
        self._true: dict[bytes, SendDatagram] = {}

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What the gate says, bent; it hears of what it has not said as it meant it."""
        if isinstance(event, RulesFailed):
            meant = tuple(self._true.get(one.data, one) for one in event.unsent)
            event = replace(event, unsent=meant)
        return [self._bend(effect) for effect in self._honest(event, now)]

    def _bend(self, effect: Effect) -> Effect:
        match effect:
            case SendDatagram():
                return self._bend_datagram(effect)
            case ChangeRules():
                then = tuple(self._bend_datagram(datagram) for datagram in effect.then)
                return replace(effect, then=then)
            case _:
                return effect

    def _bend_datagram(self, effect: SendDatagram) -> SendDatagram:
        if self._chance.random() >= self._probability:
            return effect
        lie = replace(effect, data=bent(effect.data, self._chance))
        self._true[lie.data] = effect
        return lie
