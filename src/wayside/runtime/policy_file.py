"""policy.toml: the rules of a gate or a host in order, and the tests that they must pass.

    default = "reject"

    [[rule]]
    name = "web"
    from = ["*.lab"]
    service = ["https"]
    action = "allow"

    [[test]]
    from = "files.lab"
    service = "https"
    expect = "allow"

An action is `allow`, `reject`, or `challenge` (allow, once the source has shown that it receives
where it says). A gate may also `redirect`: allow, by way of the relay that `via` names, one of
[relays] in gate.toml. A rendezvous may also `steer`: allow, but hide the host. A box that cannot do
what a rule says refuses the file: a rule that it read as something else would be a hole.

A load whose tests fail is refused, so a policy that does not do what its author expects never
comes into force. Every mistake is one `ConfigError` with file and line.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from wayside.core.address import Transport
from wayside.core.policy import (
    RULES_MAX,
    Direction,
    FailedTest,
    Party,
    Pattern,
    Policy,
    PolicyAction,
    PolicyRule,
    PolicyTest,
    Request,
    checked_service,
)

from .document import Document, Place
from .errors import ConfigError

T = TypeVar("T")
_TRANSPORTS = {transport.name.lower(): transport for transport in Transport}
Some = Annotated[list[str], msgspec.Meta(min_length=1)]
"""An empty list would read as nobody, but a key that is left out means anyone: so it is refused."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy as written: rules, tests, and the tests that the rules do not pass."""

    path: Path
    policy: Policy
    tests: tuple[PolicyTest, ...]
    failed: tuple[FailedTest, ...]


class _File(msgspec.Struct):
    default: PolicyAction = PolicyAction.REJECT
    rule: list[dict[str, Any]] = []
    test: list[dict[str, Any]] = []


class _RuleFile(msgspec.Struct, rename={"from_": "from"}):
    name: str
    action: PolicyAction
    from_: Some = []
    to: Some = []
    service: Some = []
    transport: Some = []
    direction: Direction | None = None
    reason: str = ""
    lifetime_s: float | None = None
    via: str = ""


class _TestFile(msgspec.Struct, rename={"from_": "from"}):
    expect: PolicyAction
    service: str
    from_: str = "*"
    to: str = "*"
    transport: str = "tcp"
    direction: Direction = Direction.OUT


def load_policy(path: Path, relays: Collection[str] = (), steers: bool = False) -> Policy:
    """Read a policy file whose tests pass, for a box that can do what it says.

    `relays`: the names that `via` may use; `steers`: whether the box can hide hosts. Raises
    ConfigError, and WaysideError when unreadable.
    """
    file = read_policy(path, relays, steers)
    if file.failed:
        raise ConfigError(
            f"{path}: the policy fails {len(file.failed)} of its {len(file.tests)} tests",
            why=told(file.failed[0]),
            hint=f"wayside policy check {path}",
            code="WS-2105",
        )
    return file.policy


def read_policy(
    path: Path, relays: Collection[str] | None = None, steers: bool = True
) -> PolicyFile:
    """Read a policy file and run its tests. Raises as `load_policy` does, but for failed tests.

    `relays` None: it is not known yet what the box will have.
    """
    document = Document.read(path)
    file = document.convert(document.data, _File)
    if len(file.rule) > RULES_MAX:
        raise document.error(("rule", RULES_MAX), f"{RULES_MAX} rules are the most")
    if file.default is PolicyAction.REDIRECT:
        raise document.error(
            ("default",), "`redirect` takes a rule: only a rule says by way of whom"
        )
    if file.default is PolicyAction.STEER and not steers:
        raise document.error(("default",), "only a rendezvous can `steer`")
    rules: list[PolicyRule] = []
    for index, raw in enumerate(file.rule):
        rule = _rule(document, raw, ("rule", index))
        _check_able(document, rule, ("rule", index), relays, steers)
        if any(rule.name == other.name for other in rules):
            raise document.error(
                ("rule", index),
                f"two rules are named `{rule.name}`",
                hint="`wayside why` names the rule that decided: give each its own name",
                code="WS-2103",
            )
        rules.append(rule)
    policy = Policy(tuple(rules), file.default)
    tests = tuple(_test(document, raw, ("test", index)) for index, raw in enumerate(file.test))
    return PolicyFile(path, policy, tests, tuple(policy.failures(tests)))


def _check_able(
    document: Document,
    rule: PolicyRule,
    at: Place,
    relays: Collection[str] | None,
    steers: bool,
) -> None:
    """Raise ConfigError for a rule that the box cannot obey."""
    if rule.action is PolicyAction.STEER and not steers:
        raise document.error(
            (*at, "action"),
            "only a rendezvous can `steer`",
            hint='action = "redirect" and via = "RELAY" send somebody by way of a relay',
        )
    if not rule.via or relays is None or rule.via in relays:
        return
    raise document.error(
        (*at, "via"),
        f"`via` names no relay of this box: `{rule.via}`",
        hint=nearest(rule.via, relays) or "name its address under [relays] in gate.toml",
    )


def nearest(name: str, known: Collection[str]) -> str:
    """A hint for a name that is not there: the one that was meant, or all there are, if any."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"there are {', '.join(sorted(known))}" if known else ""


def told(failed: FailedTest) -> str:
    """One line about a failed test: the question, the answer, what was expected."""
    request = failed.test.request
    return (
        f"test {failed.number}: {request.transport.name.lower()} {request.service}"
        f" ({request.direction}) gets {failed.verdict.action} from rule {failed.verdict.rule},"
        f" expected {failed.test.expect}"
    )


def _rule(document: Document, raw: object, at: Place) -> PolicyRule:
    file = document.convert(raw, _RuleFile, at)

    def each(key: str, read: Callable[[str], T], texts: list[str]) -> tuple[T, ...]:
        return tuple(document.value((*at, key), read, text) for text in texts)

    try:
        return PolicyRule(
            name=file.name,
            action=file.action,
            from_=each("from", Pattern.parse, file.from_),
            to=each("to", Pattern.parse, file.to),
            service=each("service", checked_service, file.service),
            transport=each("transport", _transport, file.transport),
            direction=file.direction,
            reason=file.reason,
            lifetime_s=file.lifetime_s,
            via=file.via,
        )
    except ValueError as error:
        raise document.error(at, str(error)) from error


def _test(document: Document, raw: object, at: Place) -> PolicyTest:
    file = document.convert(raw, _TestFile, at)
    from_ = document.value((*at, "from"), Party.parse, file.from_)
    to = document.value((*at, "to"), Party.parse, file.to)
    return PolicyTest(
        Request(
            from_key=from_.key,
            from_name=from_.name,
            to_key=to.key,
            to_name=to.name,
            service=document.value((*at, "service"), checked_service, file.service),
            transport=document.value((*at, "transport"), _transport, file.transport),
            direction=file.direction,
        ),
        file.expect,
    )


def _transport(text: str) -> Transport:
    if text not in _TRANSPORTS:
        raise ValueError(f"{text!r} is not a transport ({', '.join(_TRANSPORTS)})")
    return _TRANSPORTS[text]
