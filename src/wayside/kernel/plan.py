"""What is asked of the kernel, as values; and the pure step from "should be" to "what to change".

A data plane holds at most one rule a match that lets its packets in: to put one replaces what
was there for the same 5-tuple, in one transaction, so a pending rule becomes a confirmed one
without a gap. A rule that drops stands beside it and goes before it, so that no refresh of a
connection lifts what stops it. Three data planes obey these types: nftables (apply.py), its double
in memory (memory.py), and nobody at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Rule


class KernelError(Exception):
    """The kernel did not take a change; nothing of it was applied.

    `what`: one line of what happened; `hint`: one line of what to do.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Put:
    """Install a rule, in the place of any other of its kind. A lifetime starts anew."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a rule out. It is no mistake when it is gone, or its place has another owner now."""

    rule: Rule


Change = Put | Remove


@dataclass(frozen=True, slots=True)
class InstalledRule:
    """A rule as the kernel holds it.

    `expires_s`: seconds left, None for ever; `packets`, `bytes`: what it has matched so far. A
    rule that was read back has the transport that its packets show: MPTCP comes back as TCP.
    """

    rule: Rule
    expires_s: float | None
    packets: int
    bytes: int


FlowKey = tuple[int, Address, Address]
"""A 5-tuple as packets show it: protocol number, source, destination."""


def flow_key(flow: Flow) -> FlowKey:
    """What makes two flows the same to a kernel, which knows TCP but not MPTCP."""
    return flow.transport.protocol, flow.source, flow.destination


RuleKey = tuple[bool, FlowKey]
"""What a data plane holds at most one rule of: whether it drops, and the 5-tuple."""


def rule_key(rule: Rule) -> RuleKey:
    """The place of a rule: another with the same one takes it."""
    return rule.action is Action.DROP, flow_key(rule.match)


def outlives_table(rule: Rule, table_lifetime_s: float) -> bool:
    """Whether packets renew this rule: it asks for it, and for no less than packets would give.

    Packets set a rule back to the table's lifetime. A rule that is to live shorter than that
    would be made longer by its first packet, so its packets must not renew it.
    """
    return rule.renewed_by_packets and (
        rule.lifetime_s is None or rule.lifetime_s >= table_lifetime_s
    )


def plan(desired: Iterable[Rule], actual: Iterable[InstalledRule]) -> list[Change]:
    """The changes that lead from what is installed to what should be, and no others.

    How much of a lifetime has passed makes no difference: a rule that is in force stays as it is.
    """
    wanted = {rule_key(rule): rule for rule in desired}
    present = {rule_key(found.rule): found.rule for found in actual}
    changes: list[Change] = [Remove(rule) for key, rule in present.items() if key not in wanted]
    changes += [
        Put(rule)
        for key, rule in wanted.items()
        if key not in present or _essence(rule) != _essence(present[key])
    ]
    return changes


def _essence(rule: Rule) -> tuple[bytes, Action, Flow | None, bool, str]:
    rewrite = rule.rewrite
    if rewrite is not None and rewrite.transport is Transport.MPTCP:
        rewrite = Flow(Transport.TCP, rewrite.source, rewrite.destination)
    return rule.owner, rule.action, rewrite, rule.renewed_by_packets, rule.note
