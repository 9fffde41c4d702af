"""Policy: who may have which connection, decided from one ordered list of rules.

A rule names who asks (`from`), who is asked (`to`), the service, the transport and the direction
across the box; what a rule leaves out fits everything. The first rule that fits decides, and the
default decides where none does. There is nothing else: no groups, no priorities, no negation, so
that a person can read a policy from top to bottom and know what it does.

Names count only when somebody trusted vouched for them: a request carries `None` for a name that
no certificate of a configured domain stands behind, and then only `*` and the raw key fit it.

A policy is tested beside its rules (`PolicyTest`); whoever loads one refuses it if a test fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .address import Transport
from .constants import LIFETIME_MAX_S, LIFETIME_MIN_S, REASON_BYTES_MAX, SERVICE_BYTES_MAX
from .identity import is_name, key_from_text

RULES_MAX = 1000
"""Rules are tried one by one, 1 us each; a thousand still cost no more than ten signatures."""

ANYONE = "*"
_RULE_NAME = re.compile(rf"[!-~]{{1,{SERVICE_BYTES_MAX}}}")
_SERVICE = re.compile(r"[a-z0-9_]([a-z0-9_./-]*[a-z0-9_])?")


class PolicyAction(StrEnum):
    """What a policy says to a request."""

    ALLOW = "allow"
    REJECT = "reject"
    CHALLENGE = "challenge"
    """Allow, once the source has proved that it can receive where it says it is."""
    REDIRECT = "redirect"
    """Allow, but only by way of the relay that the rule names."""
    STEER = "steer"
    """Allow, but only through this box itself (a rendezvous that hides a host)."""


class Direction(StrEnum):
    """Which way a request crosses the box: a gate's inside to outside is out; to a host is in."""

    OUT = "out"
    IN = "in"


@dataclass(frozen=True, slots=True)
class Party:
    """One end of a request: its key (32 bytes; empty: unknown), and its vouched-for name if any."""

    key: bytes = b""
    name: str | None = None

    @classmethod
    def parse(cls, text: str) -> Party:
        """Read a name, a key (`k...`), or `*` for a stranger. Raises ValueError."""
        if text == ANYONE:
            return cls()
        key = key_from_text(text)
        return cls(name=_checked_name(text)) if key is None else cls(key=key)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which parties a rule is about: anyone, one key, one name, or the names under a domain.

    `text` is as written in the policy: `*`, `k...`, `files.lab`, `*.lab`. Raises ValueError for
    anything else. `*.lab` fits `files.lab` and `a.files.lab`, and not `lab`.
    """

    text: str
    key: bytes | None = None
    suffix: str | None = None

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern. Raises ValueError."""
        if text == ANYONE:
            return cls(text)
        key = key_from_text(text)
        if key is not None:
            return cls(text, key=key)
        if text.startswith("*."):
            _checked_name("any" + text[1:])
            return cls(text, suffix=text[1:])
        return cls(_checked_name(text))

    def fits(self, party: Party) -> bool:
        """Whether this party is meant."""
        if self.text == ANYONE:
            return True
        if self.key is not None:
            return party.key == self.key
        if party.name is None:
            return False
        if self.suffix is not None:
            return party.name.endswith(self.suffix)
        return party.name == self.text


@dataclass(frozen=True, slots=True)
class Request:
    """What a policy is asked: may this connection be?

    `from_name`, `to_name`: only as vouched for by a certificate of a configured domain, else None.
    `direction`: which way the OPEN crosses this box.
    """

    from_key: bytes
    from_name: str | None
    to_key: bytes
    to_name: str | None
    service: str
    transport: Transport
    direction: Direction


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy answers, and which rule said so.

    `reason` is for the person who asked; it travels in REJECT. `lifetime_s`: the longest lifetime
    that the rule grants, None: the box's own. `via`: the relay to go by, for REDIRECT.
    """

    action: PolicyAction
    rule: str
    reason: str = ""
    lifetime_s: float | None = None
    via: str = ""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One line of a policy; an empty tuple, and a direction of None, fit everything.

    `name` and `reason` travel in REJECT: 1 to 32 and 0 to 160 bytes. `lifetime_s`: seconds, 1 to
    3,600. Raises ValueError for what is outside of that.
    """

    name: str
    action: PolicyAction
    from_: tuple[Pattern, ...] = ()
    to: tuple[Pattern, ...] = ()
    service: tuple[str, ...] = ()
    transport: tuple[Transport, ...] = ()
    direction: Direction | None = None
    reason: str = ""
    lifetime_s: float | None = None
    via: str = ""

    def __post_init__(self) -> None:
        if not _RULE_NAME.fullmatch(self.name):
            raise ValueError(
                f"a rule's name has 1 to {SERVICE_BYTES_MAX} visible ASCII characters and no"
                f" blank: {self.name!r}"
            )
        if len(self.reason.encode()) > REASON_BYTES_MAX:
            raise ValueError(f"a reason has {REASON_BYTES_MAX} bytes at most: {self.reason!r}")
        if (self.action is PolicyAction.REDIRECT) != bool(self.via):
            raise ValueError("a rule that redirects, and no other, says by way of whom (`via`)")
        if self.lifetime_s is not None and not (
            LIFETIME_MIN_S <= self.lifetime_s <= LIFETIME_MAX_S
        ):
            raise ValueError(
                f"a lifetime of {self.lifetime_s:g} s is not in"
                f" {LIFETIME_MIN_S:g} to {LIFETIME_MAX_S:g} s"
            )

    def fits(self, request: Request) -> bool:
        """Whether this rule is about the request."""
        if self.direction is not None and request.direction != self.direction:
            return False
        if self.transport and request.transport not in self.transport:
            return False
        if self.service and request.service not in self.service:
            return False
        return _any_fits(self.from_, Party(request.from_key, request.from_name)) and _any_fits(
            self.to, Party(request.to_key, request.to_name)
        )


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """A question with the answer that the policy must give."""

    request: Request
    expect: PolicyAction


@dataclass(frozen=True, slots=True)
class FailedTest:
    """A test of a policy that got another answer; `number` counts the tests from 1."""

    number: int
    test: PolicyTest
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Policy:
    """An ordered list of rules and what holds where none of them fits.

    Raises ValueError for two rules of one name, and for more than `RULES_MAX` rules.
    """

    rules: tuple[PolicyRule, ...] = ()
    default: PolicyAction = PolicyAction.REJECT

    def __post_init__(self) -> None:
        if len(self.rules) > RULES_MAX:
            raise ValueError(f"{len(self.rules)} rules; {RULES_MAX} are the most")
        names = [rule.name for rule in self.rules]
        for at, name in enumerate(names):
            if name in names[:at]:
                raise ValueError(f"two rules are named {name!r}")

    def decide(self, request: Request) -> Verdict:
        """The first rule that fits decides, else the default."""
        for rule in self.rules:
            if rule.fits(request):
                return Verdict(rule.action, rule.name, rule.reason, rule.lifetime_s, rule.via)
        reason = "no rule allows it" if self.default is PolicyAction.REJECT else ""
        return Verdict(self.default, "default", reason)

    def failures(self, tests: Sequence[PolicyTest]) -> list[FailedTest]:
        """The tests that this policy does not pass, in order."""
        return [
            FailedTest(number, test, verdict)
            for number, test in enumerate(tests, start=1)
            if (verdict := self.decide(test.request)).action is not test.expect
        ]


def checked_service(text: str) -> str:
    """Return a service's name as it is. Raises ValueError."""
    if len(text) > SERVICE_BYTES_MAX or not _SERVICE.fullmatch(text):
        raise ValueError(f"{text!r} is not a service (lower case, such as https)")
    return text


def _checked_name(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text!r} is not a name (files.lab), a domain (*.lab), a key (k...) or *")
    return text


def _any_fits(patterns: Iterable[Pattern], party: Party) -> bool:
    return not patterns or any(pattern.fits(party) for pattern in patterns)
