"""status and why: what a person reads, and what a program does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wayside.cli import see
from wayside.cli.main import run
from wayside.cli.text import plain, span
from wayside.runtime.control_types import (
    ConnectionRecord,
    FilterRecord,
    HopRecord,
    RefusalRecord,
    RegistrationRecord,
    ServiceRecord,
    StatusReply,
    StatusRequest,
    SubflowRecord,
    WhyReply,
    WhyRequest,
)

Capture = pytest.CaptureFixture[str]
STATUS = StatusReply(
    role="host",
    name="client.lab",
    key="kkk",
    pid=7,
    uptime_s=200.0,
    connections_total=2,
    connections=[
        ConnectionRecord(
            cid="0" * 32,
            peer="server.lab",
            service="https",
            transport="tcp",
            state="connected",
            flow="198.18.0.1:40000 > 198.18.0.2:443",
            wire="10.1.0.1:40000 > 10.3.0.2:8443",
            expires_s=118.6,
            packets=12,
            there="10.2.0.9:40000 > 10.3.0.2:8443",
            via=[HopRecord(key="k" * 53, role="nat"), HopRecord(key="g" * 53, role="gate")],
            redirected_by=["r" * 53],
            hidden=True,
            moves=3,
            gap_ms=11.6,
        )
    ],
    registrations=[
        RegistrationRecord(rendezvous="v" * 53, address="10.9.0.1:4747", since_s=100.0),
        RegistrationRecord(rendezvous="w" * 53, address="10.9.0.2:4747", why="nobody answered"),
    ],
    services=[ServiceRecord(service="ssh", port=22, allow=["*.lab"])],
    dropped={"malformed": 3},
    filters=[FilterRecord(cid="f" * 32, flow="udp a > b", expires_s=41.0, packets=7, bytes=700)],
    refused_total=1,
)
WHY = WhyReply(
    refusals=[
        RefusalRecord(
            age_s=3.2,
            target="server.lab",
            service="telnet",
            transport="tcp",
            by="gate1",
            rule="no-telnet",
            reason="not \x1b[31mencrypted",
            code="WS-3001",
        )
    ]
)


@pytest.fixture(autouse=True)
def daemon(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A daemon that answers from a script; what it was asked."""
    asked: list[object] = []

    def ask(_path: Path, request: object, *_: Any) -> object:
        asked.append(request)
        return STATUS if isinstance(request, StatusRequest) else WHY

    monkeypatch.setattr("wayside.runtime.control.ask", ask)
    monkeypatch.setenv("COLUMNS", "110")
    return asked


def test_status_shows_connections_services_and_what_was_dropped_and_why(capsys: Capture) -> None:
    assert run(["status"]) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "host client.lab  up 3 min",
        "key kkk",
        " peer        service  state      flow                               expires  packets",
        " server.lab  https    connected  198.18.0.1:40000 > 198.18.0.2:443  119 s    12",
        " server.lab https: leaves as 10.1.0.1:40000 > 10.3.0.2:8443",
        "   arrives as 10.2.0.9:40000 > 10.3.0.2:8443",
        "   by way of nat kkkkkkkkkkkkk..., gate ggggggggggggg...; hidden; sent there by"
        " rrrrrrrrrrrrr...",
        "   moved 3 times, our last in 12 ms",
        "2 connections, the first 1 shown; 1 refused",
        "stops udp a > b: 41 s left, 7 packets dropped",
        "offers ssh on port 22 to *.lab",
        "registered with rendezvous 10.9.0.1:4747 (vvvvvvvvvvvvv...): for 100 s",
        "not registered with rendezvous 10.9.0.2:4747 (wwwwwwwwwwwww...): nobody answered",
        "dropped 3 datagrams: malformed",
    ]


def test_status_as_json_is_the_daemons_own_answer(capsys: Capture) -> None:
    assert run(["status", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["v"] == 1
    assert shown["connections"][0]["peer"] == "server.lab"


def test_why_names_gate_rule_and_reason_and_what_to_do(
    capsys: Capture, daemon: list[object]
) -> None:
    assert run(["why", "server.lab"]) == 0
    assert daemon == [WhyRequest(target="server.lab")]
    assert capsys.readouterr().out == (
        "3.2 s ago: tcp telnet to server.lab\n"
        "  refused by  gate1, rule no-telnet\n"
        "  reason      not ?[31mencrypted\n"
        "  code        WS-3001 refused by policy\n"
        "hint: wayside explain WS-3001\n"
    )


def test_why_as_json_is_one_document(capsys: Capture) -> None:
    assert run(["why", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refusals"][0]["rule"] == "no-telnet"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
    ],
)
def test_a_span_has_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_what_a_stranger_says_does_not_steer_the_terminal() -> None:
    assert plain("a\x1b[2Jb\rc\u202ed é") == "a?[2Jb?c?d é"


def test_status_shows_further_subflows_and_why_there_is_none() -> None:
    one = ConnectionRecord(
        cid="0" * 32,
        peer="server.lab",
        service="https",
        transport="mptcp",
        state="connected",
        flow="a:1 > b:2",
        wire="c:1 > d:2",
        subflows=[
            SubflowRecord(wire="e:3 > f:2", state="up"),
            SubflowRecord(wire="g:4 > h:2", state="refused", why="no", by="east", rule="r"),
            SubflowRecord(wire="i:5 > j:2", state="gone", why="the kernel has closed it"),
        ],
    )
    assert see._journey_lines(one)[-3:] == [
        "   subflow e:3 > f:2: up",
        "   subflow g:4 > h:2: refused by east, rule r: no",
        "   subflow i:5 > j:2: gone: the kernel has closed it",
    ]
