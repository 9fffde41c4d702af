"""The data plane's double: the same interface and the same verdicts, in memory, with a given clock.

The simulator and the tests of the machines run against this; what differs from nftables is a bug
in one of the two. tests/netns compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wayside.core.address import Flow
from wayside.core.rule import Action, Rule

from .names import ELEMENTS_MAX
from .plan import Change, FlowKey, InstalledRule, KernelError, Put, flow_key, outlives_table


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to a packet: `action` None when no rule fits, `flow` it goes on with."""

    action: Action | None
    flow: Flow


@dataclass(slots=True)
class _Held:
    rule: Rule
    expires_at: float | None
    renewed: bool
    packets: int = 0
    octets: int = 0


class MemoryDataPlane:
    """Rules in a dictionary. `clock`: monotonic seconds; `lifetime_s`: what a packet renews to."""

    def __init__(self, clock: Callable[[], float], lifetime_s: float) -> None:
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._held: dict[FlowKey, _Held] = {}

    def apply(self, changes: Sequence[Change]) -> None:
        """Make all changes or none. Raises KernelError when the table is full."""
        self._expire()
        held = dict(self._held)
        for change in changes:
            key = flow_key(change.rule.match)
            if isinstance(change, Put):
                held[key] = self._new(change.rule)
            elif key in held and held[key].rule.owner == change.rule.owner:
                del held[key]
        if len(held) > ELEMENTS_MAX:
            raise KernelError("the table of rules is full", "close connections, or wait")
        self._held = held

    def rules(self) -> list[InstalledRule]:
        """All rules that are in force."""
        self._expire()
        now = self._clock()
        return [
            InstalledRule(
                held.rule,
                None if held.expires_at is None else held.expires_at - now,
                held.packets,
                held.octets,
            )
            for held in self._held.values()
        ]

    def verdict(self, flow: Flow, octets: int = 0) -> Verdict:
        """Show a packet of a flow to the rules: it is counted, and renews what packets renew."""
        self._expire()
        held = self._held.get(flow_key(flow))
        if held is None:
            return Verdict(None, flow)
        held.packets += 1
        held.octets += octets
        if held.renewed:
            held.expires_at = self._clock() + self._lifetime_s
        rewrite = held.rule.rewrite
        return Verdict(held.rule.action, rewrite if rewrite is not None else flow)

    def _new(self, rule: Rule) -> _Held:
        renewed = rule.action is Action.ACCEPT and outlives_table(rule, self._lifetime_s)
        lifetime_s = self._lifetime_s if renewed else rule.lifetime_s
        expires_at = None if lifetime_s is None else self._clock() + lifetime_s
        return _Held(rule, expires_at, renewed)

    def _expire(self) -> None:
        now = self._clock()
        over = [
            key
            for key, held in self._held.items()
            if held.expires_at is not None and held.expires_at <= now
        ]
        for key in over:
            del self._held[key]
