"""The one kind of rule refuses what no kernel could hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import NOTE_CHARACTERS_MAX, Action, Cid, Rule, note_of

FLOW = Flow(Transport.TCP, Address.parse("192.0.2.1:1"), Address.parse("192.0.2.2:2"))
V6 = Flow(Transport.TCP, Address.parse("[2001:db8::1]:1"), Address.parse("[2001:db8::2]:2"))
RULE = Rule(Cid(bytes(16)), FLOW, Action.ACCEPT)


@pytest.mark.parametrize(
    "fields",
    [
        {"owner": bytes(15)},
        {"action": Action.REWRITE},
        {"rewrite": FLOW},
        {"action": Action.REWRITE, "rewrite": V6},
        {"action": Action.REWRITE, "rewrite": replace(FLOW, transport=Transport.UDP)},
        {"lifetime_s": 0.0},
        {"lifetime_s": -1.0},
        {"note": "x" * (NOTE_CHARACTERS_MAX + 1)},
        {"note": 'quo"te'},
        {"note": "back\\slash"},
        {"note": "new\nline"},
        {"note": "é"},
    ],
)
def test_a_rule_that_could_not_be_is_refused_when_it_is_made(fields: dict[str, object]) -> None:
    """R-6.1."""
    with pytest.raises(ValueError):  # noqa: PT011 - each field has words of its own
        replace(RULE, **fields)  # pyright: ignore[reportArgumentType]


def test_a_rewrite_keeps_family_and_transport() -> None:
    """R-6.2."""
    rule = Rule(Cid(bytes(16)), FLOW, Action.REWRITE, FLOW.reversed())
    assert rule.rewrite == FLOW.reversed()


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_a_note_can_be_made_of_any_words_and_taken_apart_again(words: list[str]) -> None:
    """R-6.5: strangers choose the name of a service; the note stays plain."""
    note = note_of(*words)
    assert replace(RULE, note=note).note == note
    assert len(note.split(" ")) == len(words)
    plain = [word for word in words if word and word.isascii() and word.isalnum()]
    assert [word for word in note.split(" ") if word in plain] == plain
