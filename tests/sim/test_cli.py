"""`wayside sim` prints the seed first, and says what failed and how to see it again."""

from __future__ import annotations

import json

import pytest

from sim import broken
from wayside.cli.main import run


def test_a_run_prints_its_seeds_first_and_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "run", "--seeds", "2", "--first", "8", "--jobs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seeds 8 to 9, world: each in turn"
    assert lines[-1].startswith("2 ok, 0 failed")


def test_json_has_one_document_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sim", "run", "--seeds", "2", "--world", "simple", "--json", "--jobs", "1"]
    assert run(arguments) == 0
    head, tail = map(json.loads, capsys.readouterr().out.splitlines())
    assert head == {"v": 1, "first": 1, "seeds": 2, "world": "simple"}
    assert (tail["v"], tail["ok"], tail["passed"], tail["failed"]) == (1, True, 2, 0)


def test_cores_share_the_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "run", "--seeds", "3", "--world", "simple", "--jobs", "2"]) == 0
    assert "3 ok, 0 failed" in capsys.readouterr().out


def test_a_failure_is_told_with_its_seed_and_replayed_with_a_ladder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken.gate_with_a_wide_pinhole(monkeypatch)
    assert run(["sim", "run", "--seeds", "1", "--world", "firewall-in", "--jobs", "1"]) == 1
    told = capsys.readouterr().out
    assert "agreement: g2 lets" in told
    assert "hint: wayside sim replay 1 --world firewall-in" in told
    assert run(["sim", "replay", "1", "--world", "firewall-in"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("seed 1, world: firewall-in\n")
    assert "0 faults" in told
    assert "OPEN" in told
    assert "▶" in told


def test_an_exception_out_of_a_machine_is_a_failure_with_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("made to fail")

    monkeypatch.setattr("wayside.core.host.Host._judge", fails)
    assert run(["sim", "run", "--seeds", "1", "--world", "simple", "--json", "--jobs", "1"]) == 1
    _, failure, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert failure["check"] == "exception"
    assert "RuntimeError: made to fail in " in failure["why"]


def test_a_world_that_does_not_exist_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "run", "--world", "utopia"]) == 2
    assert "hint:" in capsys.readouterr().err


def test_worlds_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "list"]) == 0
    assert "legacy-nat" in capsys.readouterr().out
