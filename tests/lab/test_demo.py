"""What the demo draws of a made-up event log, and how it says what is not so."""

from typing import Any

import pytest

from wayside.lab import demo
from wayside.lab.demo_story import Telling
from wayside.runtime.eventlog import Record

WEB, LOGIN, DATABASE, AGAIN, FLOOD = ("a1" * 16, "b2" * 16, "c3" * 16, "d4" * 16, "e5" * 16)


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
    record(12.0, "guest.lab", "datagram.sent", FLOOD, type="OPEN"),
    record(12.1, "cafe", "datagram.received", FLOOD, type="OPEN"),
    record(14.0, "server.lab", "datagram.sent", FLOOD, type="STOP"),
    record(14.1, "cafe", "rule.installed", FLOOD, action="drop"),
    record(20.0, "laptop.lab", "connection.opened", AGAIN, service="http"),
    record(20.1, "home", "datagram.received", AGAIN, type="OPEN"),
    record(22.8, "laptop.lab", "datagram.sent", LOGIN, type="OPEN"),
    record(22.9, "home", "datagram.received", LOGIN, type="OPEN"),
    record(23.0, "cafe", "datagram.received", LOGIN, type="OPEN"),
    record(23.1, "meet", "datagram.received", LOGIN),
    record(23.2, "cafe", "datagram.received", AGAIN, type="OPEN"),
]


def test_the_move_is_what_was_logged_of_the_download_when_the_cafe_heard_of_it() -> None:
    shown = [(one.node, one.time) for one in demo.move_of(STORY)]
    assert shown == [("laptop.lab", 5.05), ("cafe", 5.1), ("server.lab", 5.2)]


def test_of_a_laptop_that_stayed_at_home_no_move_is_shown() -> None:
    assert demo.move_of([one for one in STORY if one.node != "cafe"]) == []


def test_the_refusal_is_all_of_a_connection_that_somebody_refused() -> None:
    assert [one.node for one in demo.refusal_of(STORY)] == ["meet", "office", "laptop.lab"]


def test_the_dead_path_is_told_of_the_connection_that_found_it_before_the_download_did() -> None:
    shown = [(one.cid, one.node, one.time) for one in demo.dead_path_of(STORY)]
    laptop, home, cafe = ("laptop.lab", 22.8), ("home", 22.9), ("cafe", 23.0)
    assert shown == [(LOGIN, node, time) for node, time in (laptop, home, cafe)]


def test_where_the_second_download_stayed_at_home_no_dead_path_is_shown() -> None:
    assert demo.dead_path_of([one for one in STORY if one.time < 23.2]) == []


def test_the_flood_is_all_of_a_connection_that_somebody_stopped() -> None:
    shown = [(one.node, one.time) for one in demo.stop_of(STORY)]
    assert shown == [("guest.lab", 12.0), ("cafe", 12.1), ("server.lab", 14.0), ("cafe", 14.1)]


def test_lines_are_no_longer_than_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tell = Telling(80)
    tell.step("1. " + "long " * 40)
    tell.say("true " * 40, True, "seen " * 10)
    tell.show("status", "name  state\n" + "words " * 30)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "    name  state" in lines


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
