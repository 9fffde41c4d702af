"""Errors have four parts, and code, class and exit code never disagree."""

from __future__ import annotations

import pytest

from wayside.core.messages import Code
from wayside.runtime.codes import CODES, reject_code
from wayside.runtime.errors import (
    AgentNotRunning,
    ConfigError,
    IdentityError,
    NameUnknown,
    NoAnswer,
    Refused,
    WaysideError,
    error_of_code,
)


def test_every_code_has_a_title_and_a_text_and_an_exit_code() -> None:
    for code, entry in CODES.items():
        assert code.startswith("WS-")
        assert 1 <= int(code[3]) <= 7
        assert entry.title == entry.title.strip(". ")
        assert entry.text.endswith((".", "?"))


@pytest.mark.parametrize("number", list(Code))
def test_every_reject_of_the_protocol_has_a_code(number: Code) -> None:
    assert reject_code(number) == f"WS-{3000 + number}"


def test_a_reject_of_a_newer_version_is_a_plain_refusal() -> None:
    assert reject_code(200) == "WS-3001"


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (WaysideError, 1),
        (ConfigError, 2),
        (NameUnknown, 4),
        (NoAnswer, 5),
        (IdentityError, 6),
        (AgentNotRunning, 7),
    ],
)
def test_the_class_of_an_error_and_its_exit_code_agree(
    kind: type[WaysideError], exit_code: int
) -> None:
    error = kind("what")
    assert error.exit_code == exit_code
    assert type(error_of_code(error.code, what="what")) is kind


def test_a_code_that_nobody_explains_is_our_own_bug() -> None:
    with pytest.raises(KeyError):
        WaysideError("what", code="WS-9999")


def test_a_code_from_a_newer_daemon_is_still_an_error() -> None:
    assert error_of_code("WS-9999", what="what").code == "WS-1001"


def test_a_refusal_says_who_and_which_rule_and_why() -> None:
    error = Refused.by("gate1", Code.POLICY, rule="no-telnet", reason="not encrypted")
    assert error.exit_code == 3
    assert str(error) == (
        "refused by policy (gate1, rule no-telnet: not encrypted) [WS-3001]\n"
        "hint: wayside explain WS-3001"
    )
