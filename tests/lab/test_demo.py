"""What the demo draws of a made-up event log, and how it says what is not so."""

from typing import Any

import pytest

from wayside.lab import demo
from wayside.lab.demo_story import Telling
from wayside.runtime.eventlog import Record

WEB, LOGIN, DATABASE = "a1" * 16, "b2" * 16, "c3" * 16


def record(time: float, node: str, event: str, cid: str, **details: Any) -> Record:
    return Record(time=time, node=node, role="gate", event=event, cid=cid, **details)


STORY = [
    record(1.0, "laptop.lab", "connection.opened", WEB, service="http"),
    record(1.0, "home", "datagram.received", WEB),
    record(2.0, "laptop.lab", "connection.opened", LOGIN, service="ssh"),
    record(5.0, "cafe", "datagram.received", LOGIN),
    record(5.05, "laptop.lab", "datagram.sent", WEB),
    record(5.1, "cafe", "datagram.received", WEB),
    record(5.2, "server.lab", "datagram.received", WEB),
    record(9.0, "cafe", "connection.closed", WEB),
    record(9.5, "meet", "datagram.received", DATABASE),
    record(9.6, "office", "connection.refused", DATABASE, service="mysql"),
    record(9.7, "laptop.lab", "connection.refused", DATABASE, service="mysql"),
]


def test_the_move_is_what_was_logged_of_the_download_when_the_cafe_heard_of_it() -> None:
    shown = [(one.node, one.time) for one in demo.move_of(STORY)]
    assert shown == [("laptop.lab", 5.05), ("cafe", 5.1), ("server.lab", 5.2)]


def test_of_a_laptop_that_stayed_at_home_no_move_is_shown() -> None:
    assert demo.move_of([one for one in STORY if one.node != "cafe"]) == []


def test_the_refusal_is_all_of_a_connection_that_somebody_refused() -> None:
    assert [one.node for one in demo.refusal_of(STORY)] == ["meet", "office", "laptop.lab"]


def test_what_is_not_so_is_said_to_be_not_so_and_remembered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell = Telling(80)
    tell.say("the sun shines", True)
    assert tell.all_true
    tell.say("the file is whole", 0, "3 of 48 MB")
    tell.say("the sun shines", [1])
    assert not tell.all_true
    assert capsys.readouterr().out.splitlines()[1] == "  ✗ NOT: the file is whole  (3 of 48 MB)"
