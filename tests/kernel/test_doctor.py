from typing import Any

from wayside.kernel.doctor import diagnose
from wayside.kernel.names import MARK, MARK_INTERCEPTED

MATCH = {
    "match": {
        "op": "==",
        "left": {"meta": {"key": "mark"}},
        "right": {"range": [MARK, MARK_INTERCEPTED]},
    }
}


def chain(name: str = "fwd", **more: Any) -> dict[str, Any]:
    base = {"type": "filter", "hook": "forward", "prio": 0, "policy": "accept"} | more
    return {"chain": {"family": "inet", "table": "fw", "name": name, **base}}


def rule(*expressions: dict[str, Any], to: str = "fwd") -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "fw", "chain": to, "expr": list(expressions)}}


def test_a_policy_of_drop_is_named_with_the_one_rule_to_add() -> None:
    (found,) = diagnose([chain(policy="drop")])
    assert found.where == "inet fw fwd (hook forward)"
    assert found.why == "its policy is drop"
    assert found.rule == ("nft insert rule inet fw fwd meta mark 0x57415901-0x57415902 accept")


def test_a_rule_that_drops_is_named() -> None:
    (found,) = diagnose([chain(), rule({"drop": None})])
    assert "drops or rejects" in found.why


def test_a_chain_that_drops_by_way_of_another_is_named() -> None:
    listing = [
        chain(),
        {"chain": {"family": "inet", "table": "fw", "name": "deny"}},
        rule({"jump": {"target": "deny"}}),
        rule({"reject": {"type": "icmpx"}}, to="deny"),
    ]
    assert len(diagnose(listing)) == 1


def test_chains_that_call_each_other_end() -> None:
    listing = [chain(), rule({"jump": {"target": "a"}}), rule({"jump": {"target": "a"}}, to="a")]
    assert len(diagnose(listing)) == 1


def test_once_the_rule_is_there_nothing_is_found() -> None:
    let = rule(MATCH, {"counter": {"packets": 1, "bytes": 1}}, {"accept": None})
    assert diagnose([chain(policy="drop"), let, rule({"drop": None})]) == []
    assert len(diagnose([chain(policy="drop"), rule({"drop": None}), let])) == 1


def test_a_rule_that_lets_only_some_marked_packets_through_is_not_enough() -> None:
    other = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}
    assert len(diagnose([chain(policy="drop"), rule(MATCH, other, {"accept": None})])) == 1


def test_open_chains_other_hooks_and_our_own_table_are_no_matter() -> None:
    ours = chain(policy="drop")
    ours["chain"]["table"] = "wayside"
    bridge = chain(policy="drop")
    bridge["chain"]["family"] = "bridge"
    early = chain(policy="drop", hook="prerouting", prio=-400)
    assert diagnose([chain(), rule({"accept": None}), ours, bridge, early]) == []
