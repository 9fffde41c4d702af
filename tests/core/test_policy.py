"""Policy: the first rule that fits decides, and names count only when vouched for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wayside.core.address import Transport
from wayside.core.identity import key_text
from wayside.core.policy import (
    RULES_MAX,
    Direction,
    Party,
    Pattern,
    Policy,
    PolicyAction,
    PolicyRule,
    PolicyTest,
    Request,
)

ALICE = bytes(range(32))
BOB = bytes(range(32, 64))
ALLOW, REJECT = PolicyAction.ALLOW, PolicyAction.REJECT


def asked(  # a request with everything that a test does not care about filled in
    *,
    from_key: bytes = ALICE,
    from_name: str | None = "alice.lab",
    to_name: str | None = "server.lab",
    service: str = "https",
    transport: Transport = Transport.TCP,
    direction: Direction = Direction.OUT,
) -> Request:
    return Request(from_key, from_name, BOB, to_name, service, transport, direction)


def rule(name: str, action: PolicyAction, from_: str = "*", to: str = "*") -> PolicyRule:
    via = "proxy" if action is PolicyAction.REDIRECT else ""
    return PolicyRule(name, action, (Pattern.parse(from_),), (Pattern.parse(to),), via=via)


def test_the_first_rule_that_fits_decides() -> None:
    policy = Policy((rule("one", ALLOW, "alice.lab"), rule("two", REJECT)), ALLOW)
    assert policy.decide(asked()).rule == "one"
    assert policy.decide(asked(from_name="carol.lab")).rule == "two"


def test_the_default_decides_where_no_rule_fits_and_says_so() -> None:
    verdict = Policy((rule("one", ALLOW, "carol.lab"),)).decide(asked())
    assert (verdict.action, verdict.rule, verdict.reason) == (
        REJECT,
        "default",
        "no rule allows it",
    )


def test_a_verdict_carries_the_reason_and_the_lifetime_of_its_rule() -> None:
    policy = Policy((PolicyRule("no", REJECT, reason="not on Sundays", lifetime_s=30.0),))
    verdict = policy.decide(asked())
    assert (verdict.reason, verdict.lifetime_s) == ("not on Sundays", 30.0)


def test_a_name_that_nobody_vouches_for_fits_no_name() -> None:
    for pattern in ("alice.lab", "*.lab"):
        assert not Pattern.parse(pattern).fits(Party(ALICE, None))
    assert Pattern.parse("*").fits(Party(ALICE, None))
    assert Pattern.parse(key_text(ALICE)).fits(Party(ALICE, None))


@pytest.mark.parametrize(
    ("name", "fits"),
    [("a.lab", True), ("a.b.lab", True), ("lab", False), ("a.slab", False), ("a.lab.org", False)],
)
def test_a_domain_fits_the_names_under_it_and_not_itself(name: str, fits: bool) -> None:
    assert Pattern.parse("*.lab").fits(Party(ALICE, name)) is fits


def test_a_key_pattern_fits_that_key_under_any_name() -> None:
    pattern = Pattern.parse(key_text(ALICE))
    assert pattern.fits(Party(ALICE, "carol.lab"))
    assert not pattern.fits(Party(BOB, "alice.lab"))


@pytest.mark.parametrize(
    "text",
    ["", "lab", "*lab", "*.", "**", "A.lab", "a..lab", "*.*.lab", "a.lab ", "k" * 53, "ä.lab"],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        Pattern.parse(text)


def test_service_transport_and_direction_narrow_a_rule() -> None:
    narrow = PolicyRule(
        "narrow",
        ALLOW,
        service=("https",),
        transport=(Transport.TCP, Transport.MPTCP),
        direction=Direction.OUT,
    )
    policy = Policy((narrow,))
    assert policy.decide(asked()).action is ALLOW
    assert policy.decide(asked(service="ssh")).action is REJECT
    assert policy.decide(asked(transport=Transport.UDP)).action is REJECT
    assert policy.decide(asked(direction=Direction.IN)).action is REJECT


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two rules are named 'same'"):
        Policy((rule("same", ALLOW), rule("same", REJECT)))


def test_a_policy_has_a_size() -> None:
    rules = tuple(rule(f"r{number}", ALLOW) for number in range(RULES_MAX + 1))
    with pytest.raises(ValueError, match="the most"):
        Policy(rules)


@pytest.mark.parametrize("lifetime_s", [0.0, -1.0, 3601.0, float("nan")])
def test_a_rule_grants_no_lifetime_out_of_range(lifetime_s: float) -> None:
    with pytest.raises(ValueError, match="lifetime"):
        PolicyRule("r", ALLOW, lifetime_s=lifetime_s)


@pytest.mark.parametrize(
    ("name", "reason"), [("", ""), ("r" * 33, ""), ("a b", ""), ("ä", ""), ("r", "ä" * 81)]
)
def test_names_and_reasons_fit_into_a_reject(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"a rule's name has|a reason has"):
        PolicyRule(name, REJECT, reason=reason)


def test_failures_are_the_tests_with_another_answer_in_order() -> None:
    policy = Policy((rule("in", ALLOW, "*.lab"),))
    tests = [
        PolicyTest(asked(), ALLOW),
        PolicyTest(asked(), REJECT),
        PolicyTest(asked(from_name=None), ALLOW),
    ]
    assert [failed.number for failed in policy.failures(tests)] == [2, 3]


patterns = st.sampled_from(["*", "*.lab", "*.home", "alice.lab", key_text(ALICE), key_text(BOB)])
rules = st.builds(rule, st.uuids().map(lambda u: u.hex), st.sampled_from(PolicyAction), patterns)
requests = st.builds(
    asked,
    from_key=st.sampled_from([ALICE, BOB]),
    from_name=st.sampled_from([None, "alice.lab", "alice.home"]),
)


@given(st.lists(rules, max_size=6, unique_by=lambda r: r.name), requests)
def test_the_answer_is_that_of_the_first_fitting_rule_alone(
    some: list[PolicyRule], request: Request
) -> None:
    verdict = Policy(tuple(some)).decide(request)
    fitting = [one for one in some if one.fits(request)]
    assert verdict.rule == (fitting[0].name if fitting else "default")
    without = Policy(tuple(one for one in some if not one.fits(request)))
    assert without.decide(request).rule == "default"
