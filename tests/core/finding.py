"""A rendezvous as one machine: what it looks for is found at once.

For what is done to it with bad datagrams (test_fuzz.py): its store has one record, which is
everybody's, and a world in which it has something to lose.
"""

from __future__ import annotations

from dataclasses import dataclass

from pair import make_host
from star import Star, make_rendezvous
from wayside.core.admission import FrontDoor
from wayside.core.effects import Effect, FindLocation
from wayside.core.events import Event, LocationFound
from wayside.core.gate import Gate
from wayside.core.host import Host
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.rendezvous import Rendezvous

HIDES = Policy((PolicyRule("hide", PolicyAction.STEER, service=("https",)),), PolicyAction.ALLOW)


@dataclass
class Finding:
    """A rendezvous whose store has this record of everybody, and answers at once."""

    rendezvous: Rendezvous
    record: bytes

    @property
    def _door(self) -> FrontDoor:
        return self.rendezvous._door

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What it does with an event, and with what is found for it."""
        effects: list[Effect] = []
        for effect in self.rendezvous.handle(event, now):
            if isinstance(effect, FindLocation):
                found = LocationFound(self.record, effect.asked, effect.opened)
                effects += self.rendezvous.handle(found, now)
            else:
                effects.append(effect)
        return effects


def registered() -> Star:
    """A host that is registered, one connection that was redirected to it, one that hides it."""
    machines: dict[str, Host | Gate | Rendezvous] = {
        "c": make_host("c"),
        "s": make_host("s"),
        "r": make_rendezvous(policy=HIDES),
    }
    world = Star(machines)
    world.host("c").context.redirectors = (world.key("r"),)
    world.register()
    world.ask("c", "s", "r", 1, "echo")
    world.ask("c", "s", "r", 2)
    return world
