"""stop: what a person writes, and what is said of who filters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wayside.cli.main import run
from wayside.runtime.control_types import StopRecord, StopReply, StopRequest

Capture = pytest.CaptureFixture[str]
DROPPED = StopRecord(
    cid="0" * 32,
    peer="client.lab",
    service="echo",
    flow="udp 10.1.0.2:40001 > 10.4.0.1:7777",
    lifetime_s=60,
    by="k" * 53,
    boxes=3,
)


@pytest.fixture(autouse=True)
def agent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the agent is asked; and after a first element, what it answers."""
    asked: list[Any] = [[DROPPED]]

    async def ask(_path: Path, request: object, *_: Any) -> StopReply:
        asked.append(request)
        return StopReply(stopped=asked[0])

    monkeypatch.setattr("wayside.api.ask_async", ask)
    return asked


@pytest.mark.parametrize(
    ("said", "seconds"), [("", 60), ("90", 90), ("5s", 5), ("2m", 120), ("1h", 3600), ("1.5s", 1.5)]
)
def test_a_span_has_a_unit_or_is_in_seconds(said: str, seconds: float, agent: list[Any]) -> None:
    assert run(["stop", "client.lab", *(["--for", said] if said else [])]) == 0
    assert agent[1:] == [StopRequest(target="client.lab", lifetime_s=seconds)]


@pytest.mark.parametrize("said", ["0", "0.5s", "2h", "-1", "5 weeks", "soon", "1e9"])
def test_a_span_that_is_none_is_a_usage_error(said: str, agent: list[Any], capsys: Capture) -> None:
    assert run(["stop", "client.lab", "--for", said]) == 2
    assert len(agent) == 1
    assert repr(said)[1:-1] in capsys.readouterr().err


def test_it_says_who_drops_what(capsys: Capture, agent: list[Any]) -> None:
    closed = StopRecord(
        cid="1" * 32, peer="p", service="ssh", flow="tcp a > b", lifetime_s=60, by="", boxes=0
    )
    agent[0] = [DROPPED, closed]
    assert run(["stop", "client.lab"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "client.lab echo: udp 10.1.0.2:40001 > 10.4.0.1:7777: kkkkkkkkkkkkk... drops it for 60 s",
        "p ssh: tcp a > b: none of 0 boxes has answered",
    ]
    assert run(["stop", "client.lab", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["v"], told["stopped"][0]["by"]) == (1, "k" * 53)


@pytest.mark.parametrize(("boxes", "word"), [(2, "2 boxes"), (0, "no box")])
def test_when_nobody_answers_it_is_no_success(
    boxes: int, word: str, capsys: Capture, agent: list[Any]
) -> None:
    agent[0] = [
        StopRecord(cid="0", peer="p", service="s", flow="f", lifetime_s=60, by="", boxes=boxes)
    ]
    assert run(["stop", "p"]) == 5
    assert word in capsys.readouterr().err


def test_a_target_that_is_too_long_or_empty_is_a_usage_error(capsys: Capture) -> None:
    assert run(["stop", ""]) == 2
    assert run(["stop", "x" * 300]) == 2
    assert "hint: a peer or a flow" in capsys.readouterr().err
