"""Other rulesets that would drop what was signaled, and the one rule that lets it through.

nftables asks every base chain of a hook in turn: that ours accepts does not keep another from
dropping. Whatever was signaled carries our mark from prerouting (or output) on, so one rule is
enough in any of them, whatever its family. Nothing is changed here; the administrator decides.
Pure: it reads nftables' JSON listing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .names import MARK, MARK_INTERCEPTED, TABLE

_HOOKS = frozenset({"prerouting", "input", "forward", "output", "postrouting"})
_FAMILIES = frozenset({"inet", "ip", "ip6"})
_PRIORITY_RAW = -300
MARKED = f"meta mark {MARK:#x}-{MARK_INTERCEPTED:#x}"
"""What a packet looks like that was signaled, or is signaling."""

_STOPS = frozenset({"drop", "reject"})


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A chain that may drop our flows: `where` it is, `why` it may, the `rule` to add."""

    where: str
    why: str
    rule: str


def diagnose(objects: Iterable[Mapping[str, Any]]) -> list[Diagnosis]:
    """Look through a listing of all rulesets (the list under "nftables")."""
    chains: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    rules: dict[tuple[str, str, str], list[list[Any]]] = {}
    for item in objects:
        if chain := item.get("chain"):
            chains[chain["family"], chain["table"], chain["name"]] = chain
        elif rule := item.get("rule"):
            key = (rule["family"], rule["table"], rule["chain"])
            rules.setdefault(key, []).append(rule.get("expr", []))
    found: list[Diagnosis] = []
    for key, chain in chains.items():
        if key[1] == TABLE or key[0] not in _FAMILIES or chain.get("hook") not in _HOOKS:
            continue
        if chain["hook"] == "prerouting" and int(chain.get("prio", 0)) < _PRIORITY_RAW:
            continue  # before we can mark anything; a mark would be of no use there
        why = _why(chain, key, rules)
        if why:
            family, table, name = key
            rule = f"nft insert rule {family} {table} {name} {MARKED} accept"
            found.append(Diagnosis(f"{family} {table} {name} (hook {chain['hook']})", why, rule))
    return found


def _why(
    chain: Mapping[str, Any],
    key: tuple[str, str, str],
    rules: Mapping[tuple[str, str, str], list[list[Any]]],
) -> str:
    """Why a base chain may drop a marked packet; empty when it lets them through first."""
    for expressions in rules.get(key, []):
        if _lets_marked_through(expressions):
            return ""
        if _may_stop(expressions, key, rules, depth=8):
            return "has a rule that drops or rejects, before any that lets signaled packets through"
    return "its policy is drop" if chain.get("policy") == "drop" else ""


def _lets_marked_through(expressions: list[Any]) -> bool:
    if len(expressions) < 2 or "accept" not in expressions[-1]:
        return False
    tests = [part for part in expressions[:-1] if "counter" not in part]
    return len(tests) == 1 and _is_mark_test(tests[0])


def _is_mark_test(expression: Mapping[str, Any]) -> bool:
    match = expression.get("match", {})
    return (
        match.get("op") == "=="
        and match.get("left") == {"meta": {"key": "mark"}}
        and match.get("right") == {"range": [MARK, MARK_INTERCEPTED]}
    )


def _may_stop(
    expressions: list[Any],
    key: tuple[str, str, str],
    rules: Mapping[tuple[str, str, str], list[list[Any]]],
    depth: int,
) -> bool:
    """Whether a rule, or a chain that it goes to, drops; a cut-off recursion counts as yes."""
    for part in expressions:
        if _STOPS & part.keys():
            return True
        call: Any = part.get("jump") or part.get("goto")
        if not call:
            continue
        if depth == 0:
            return True
        called = rules.get((key[0], key[1], call["target"]), [])
        if any(_may_stop(rule, key, rules, depth - 1) for rule in called):
            return True
    return False
