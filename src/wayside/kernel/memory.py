"""The data plane's double: the same interface and the same verdicts, in memory, with a given clock.

The simulator and the tests of the machines run against this; what differs from nftables is a bug
in one of the two. tests/netns compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wayside.core.address import Flow
from wayside.core.rule import Action, Rule

from .names import ELEMENTS_MAX
from .plan import (
    Change,
    FlowKey,
    InstalledRule,
    KernelError,
    Put,
    RuleKey,
    flow_key,
    outlives_table,
    rule_key,
)


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

    def installed(self, now: float) -> InstalledRule:
        left = None if self.expires_at is None else self.expires_at - now
        return InstalledRule(self.rule, left, self.packets, self.octets)


class MemoryDataPlane:
    """Rules in a dictionary. `clock`: monotonic seconds; `lifetime_s`: what a packet renews to.

    `forwards`: a gate, which takes no two rules whose packets it could not tell apart.
    """

    def __init__(
        self, clock: Callable[[], float], lifetime_s: float, forwards: bool = False
    ) -> None:
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._forwards = forwards
        self._held: dict[RuleKey, _Held] = {}

    def apply(self, changes: Sequence[Change]) -> None:
        """Make all changes or none. Raises KernelError when the table is full."""
        self._expire()
        held = dict(self._held)
        for change in changes:
            key = rule_key(change.rule)
            if isinstance(change, Put):
                held[key] = self._new(change.rule)
                if self._forwards and change.rule.action is not Action.DROP:
                    _check_leaving(change.rule, held)
            elif key in held and held[key].rule.owner == change.rule.owner:
                del held[key]
        if len(held) > ELEMENTS_MAX:
            raise KernelError("the table of rules is full", "close connections, or wait")
        self._held = held

    def rules(self) -> list[InstalledRule]:
        """All rules that are in force."""
        self._expire()
        now = self._clock()
        return [held.installed(now) for held in self._held.values()]

    def rules_of(self, matches: Sequence[Flow]) -> list[InstalledRule]:
        """Those that are in force for these 5-tuples."""
        self._expire()
        now = self._clock()
        places = ((drops, flow_key(match)) for match in matches for drops in (False, True))
        return [self._held[place].installed(now) for place in places if place in self._held]

    def verdict(self, flow: Flow, octets: int = 0) -> Verdict:
        """Show a packet of a flow to the rules: it is counted, and renews what packets renew."""
        self._expire()
        key = flow_key(flow)
        held = self._held.get((True, key)) or self._held.get((False, key))
        if held is None:
            return Verdict(None, flow)
        held.packets += 1
        held.octets += octets
        if held.renewed:
            held.expires_at = self._clock() + self._lifetime_s
        rewrite = held.rule.rewrite
        return Verdict(held.rule.action, rewrite if rewrite is not None else flow)

    def _new(self, rule: Rule) -> _Held:
        renewed = rule.action is not Action.DROP and outlives_table(rule, self._lifetime_s)
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


def _check_leaving(rule: Rule, held: Mapping[RuleKey, _Held]) -> None:
    """A gate takes no two rules whose packets leave it alike, as long as it rewrites one of them.

    Raises KernelError.
    """
    leaving = _leaving(rule)
    for one in held.values():
        other = one.rule
        if other.match == rule.match or other.action is Action.DROP:
            continue
        if Action.REWRITE in (rule.action, other.action) and _leaving(other) == leaving:
            raise KernelError("another connection leaves this gate as the same 5-tuple")


def _leaving(rule: Rule) -> FlowKey:
    """What packets look like behind the routing decision: to the new end, from the old one."""
    after = rule.rewrite or rule.match
    return flow_key(Flow(rule.match.transport, rule.match.source, after.destination))
