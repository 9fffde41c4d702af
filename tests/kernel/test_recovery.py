"""After a restart: what kernel and store both have goes on, whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pair import Pair, make_host
from wayside.core.effects import SaveConnection
from wayside.core.rule import Cid, Rule
from wayside.kernel.plan import InstalledRule, Put, Remove
from wayside.kernel.recovery import Recovered, recover
from wayside.runtime.store import Store


def left_behind(tmp_path: Path) -> tuple[Store, list[Rule], Cid]:
    """What is there when the agent of a connection that is up is killed."""
    pair = Pair(0).open()
    store = Store(tmp_path, "host")
    for node, effect in pair.effects:
        if node == "c" and isinstance(effect, SaveConnection):
            store.save(effect.cid, effect.saved)
    return store, list(pair.kernel["c"].values()), pair.connection("c").agreement.cid


def installed(rules: list[Rule]) -> list[InstalledRule]:
    return [InstalledRule(rule, None, 0, 0) for rule in rules]


def test_a_connection_that_both_have_goes_on_and_nothing_changes(tmp_path: Path) -> None:
    """R-6.5."""
    store, rules, cid = left_behind(tmp_path)
    host = make_host("c")
    found = recover(host, store.connections(), installed(rules), 0.0)
    assert (found.connections, found.changes) == (1, [])
    assert list(host.connections) == [cid]


def test_what_was_held_when_the_agent_was_killed_gets_its_rule_back(tmp_path: Path) -> None:
    """R-6.5: a connection that had no way has no rule for packets going out."""
    store, rules, cid = left_behind(tmp_path)
    host = make_host("c")
    outbound = [rule for rule in rules if rule.match.source.ip == host.virtual.own(4)]  # type: ignore[union-attr]
    inbound = [rule for rule in rules if rule not in outbound]
    found = recover(host, store.connections(), installed(inbound), 0.0)
    assert [change.rule.match for change in found.changes] == [rule.match for rule in outbound]
    assert all(isinstance(change, Put) for change in found.changes)
    assert cid in host.connections


def test_what_let_packets_in_before_a_move_goes(tmp_path: Path) -> None:
    """R-6.5: nobody remembers it, and it has no lifetime."""
    store, rules, _ = left_behind(tmp_path)
    own = make_host("c").virtual.own(4)  # type: ignore[union-attr]
    inbound = next(rule for rule in rules if rule.match.source.ip != own)
    source = inbound.match.source
    old = replace(inbound, match=replace(inbound.match, source=source.with_port(source.port + 1)))
    found = recover(make_host("c"), store.connections(), installed([*rules, old]), 0.0)
    assert found.changes == [Remove(old)]


def test_what_the_kernel_rewrites_otherwise_is_put_right(tmp_path: Path) -> None:
    """R-6.5: an agent may be killed between a change of rules and its memory of it."""
    store, rules, _ = left_behind(tmp_path)
    first = rules[0]
    assert first.rewrite is not None
    elsewhere = replace(first.rewrite, source=first.rewrite.source.with_port(9))
    there = [replace(first, rewrite=elsewhere), *rules[1:]]
    found = recover(make_host("c"), store.connections(), installed(there), 0.0)
    assert [change.rule.match for change in found.changes] == [first.match]
    assert all(isinstance(change, Put) for change in found.changes)


def test_rules_without_memory_and_memory_without_rules_are_cleared_away(tmp_path: Path) -> None:
    store, rules, cid = left_behind(tmp_path)
    assert recover(make_host("c"), store.connections(), [], 0.0) == Recovered(0, [], [cid])
    store.forget(cid)
    found = recover(make_host("c"), store.connections(), installed(rules), 0.0)
    assert found.changes == [Remove(rule) for rule in rules]
    assert cid == rules[0].owner
