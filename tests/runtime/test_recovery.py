"""After a restart: what kernel and store both have goes on, whole."""

from __future__ import annotations

from pathlib import Path

from pair import Pair, make_host
from wayside.core.effects import SaveConnection
from wayside.core.rule import Cid, Rule
from wayside.kernel.plan import InstalledRule, Put, Remove
from wayside.runtime.recovery import recover
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
    found = recover(host, store, installed(rules), 0.0)
    assert (found.connections, found.changes) == (1, [])
    assert list(host.connections) == [cid]


def test_what_was_held_when_the_agent_was_killed_gets_its_rule_back(tmp_path: Path) -> None:
    """R-6.5: a connection that had no way has no rule for packets going out."""
    store, rules, cid = left_behind(tmp_path)
    host = make_host("c")
    outbound = [rule for rule in rules if rule.match.source.ip == host.virtual.own(4)]  # type: ignore[union-attr]
    inbound = [rule for rule in rules if rule not in outbound]
    found = recover(host, store, installed(inbound), 0.0)
    assert [change.rule.match for change in found.changes] == [rule.match for rule in outbound]
    assert all(isinstance(change, Put) for change in found.changes)
    assert cid in host.connections


def test_rules_without_memory_and_memory_without_rules_are_cleared_away(tmp_path: Path) -> None:
    store, rules, cid = left_behind(tmp_path)
    assert recover(make_host("c"), store, [], 0.0).connections == 0
    assert store.connections() == []
    found = recover(make_host("c"), store, installed(rules), 0.0)
    assert found.changes == [Remove(rule) for rule in rules]
    assert cid == rules[0].owner
