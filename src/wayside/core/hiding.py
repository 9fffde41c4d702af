"""A hidden host moves: how the rules of the rendezvous that hides it go with it.

What no rule rewrites, a kernel takes for its own, and answers with a reset: that ends the
application's connection at either side. The host's new packets must not come to the rendezvous
before this takes them in, and the rendezvous' must not come to where the host is now before the
host takes them in. So what comes from there is admitted first, for as long as a pending rule lives
and before the host is told so; then the host changes its rules, and says CONFIRM; then packets to
the host go there. Spec: R-10.5.
"""

from __future__ import annotations

from .address import IP, Address, Flow
from .effects import ChangeRules, Effect
from .passage import Crossing, Passage
from .passages import Passages
from .rule import Rule


def await_from(table: Passages, key: bytes, there: IP, lifetime_s: float) -> list[Effect]:
    """A host that we hide (its key, 32 bytes) says that it is elsewhere: it may send from there.

    `lifetime_s`: the longest that the box grants.
    """
    effects: list[Effect] = []
    for passage, crossing in _gone(table, key, there):
        before = table.awaited(passage, lifetime_s)
        table.await_by(passage, crossing)
        put = table.awaited(passage, lifetime_s)
        if put:
            effects.append(ChangeRules(passage.cid, put, _without(before, put)))
    return effects


def follow(table: Passages, key: bytes, there: IP, lifetime_s: float) -> list[Effect]:
    """It has shown that it is there: its connections' packets go there from now on."""
    effects: list[Effect] = []
    for passage, crossing in _gone(table, key, there):
        before = passage.rules(lifetime_s) + table.awaited(passage, lifetime_s)
        table.await_by(passage, None)
        table.move(passage, crossing)
        put = passage.rules(lifetime_s)
        effects.append(ChangeRules(passage.cid, put, _without(before, put)))
    return effects


def _gone(table: Passages, key: bytes, there: IP) -> list[tuple[Passage, Crossing]]:
    """The connections that do not go there yet, and how they would."""
    found: list[tuple[Passage, Crossing]] = []
    for passage in table.hidden(key):
        near, far = passage.crossing.near, passage.crossing.far
        if far.destination.ip != there and far.destination.family == there.version:
            onward = Flow(far.transport, far.source, Address(there, far.destination.port))
            found.append((passage, Crossing(near, onward)))
    return found


def _without(rules: tuple[Rule, ...], put: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Those whose place no other takes."""
    kept = {rule.match for rule in put}
    return tuple(rule for rule in rules if rule.match not in kept)
