import io
import json
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from wayside.lab import runner, scenario
from wayside.runtime.errors import ConfigError, WaysideError
from wayside.runtime.eventlog import EventLog

GOOD = '{"name":"curl","ok":true,"value":1.5,"unit":"s"}\n'
BAD = '{"name":"sftp","ok":false,"value":"no route"}\n'


class Played:
    """Stands for an enclosure: prints what a scenario would, leaves an event log, ends."""

    lines = GOOD
    code = 0

    def __init__(self, arguments: list[str], errors: Path) -> None:
        self.process = self
        self.stdout = io.StringIO(self.lines)
        self.arguments = arguments
        log = EventLog(errors.with_name("client.events"), "client.lab", "host")
        log.write("datagram.sent", digest="a1", type="OPEN", cid="c1" * 16)
        log.close()

    def __enter__(self) -> "Played":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stdout.close()

    def wait(self) -> int:
        return self.code

    def kill(self) -> None:
        """The time limit of a run calls it; no run of these tests takes that long."""


@pytest.fixture(autouse=True)
def no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Enclosure", Played)


def test_json_prints_one_line_a_scenario_and_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main_run(["simple"], as_json=True, out=tmp_path) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["scenario"], line["family"], line["ok"]) for line in lines] == [
        ("simple", 4, True),
        ("simple", 6, True),
    ]
    check: dict[str, Any] = {"name": "curl", "ok": True, "value": 1.5, "unit": "s"}
    assert lines[0]["checks"] == [check]
    assert set(lines[0]) == {"v", "scenario", "family", "ok", "seconds", "checks", "ladder"}
    assert lines[0]["v"] == 1
    assert Path(lines[0]["ladder"]).read_text().startswith("<svg")


def test_one_failed_check_fails_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Played, "lines", GOOD + BAD)
    assert runner.main_run(["simple"], families=(6,), out=tmp_path) == 1
    said = capsys.readouterr().out
    assert "ok   curl  1.5 s" in said
    assert "FAIL sftp  no route" in said
    assert "1 FAILED" in said


def test_a_scenario_that_dies_is_a_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Played, "code", -9)
    result = runner.run("simple", 4, tmp_path)
    assert not result.ok
    assert result.checks[-1].name == "the scenario ran to its end"


def test_a_scenario_that_checks_nothing_is_not_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Played, "lines", "")
    assert not runner.run("simple", 4, tmp_path).ok


def test_a_run_removes_what_the_last_one_wrote_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "simple-ipv4"
    folder.mkdir()
    for name in ("gate.events", "gate.events.1", "client-01-curl.txt", "mine.doc"):
        (folder / name).write_text("")
    runner.run("simple", 4, tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == [
        "client.events",
        "ladder.mmd",
        "ladder.svg",
        "ladder.txt",
        "mine.doc",
    ]


def test_an_unknown_scenario_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no scenario 'simpel'") as caught:
        runner.main_run(["simpel"], out=tmp_path)
    assert "simple, piggyback" in caught.value.why
    assert caught.value.exit_code == 2


def test_a_folder_that_cannot_be_written_is_an_error_with_a_hint() -> None:
    with pytest.raises(WaysideError, match="cannot be written") as caught:
        runner.run("simple", 4, Path("/proc"))
    assert "--out" in caught.value.hint


def test_the_list_has_a_line_of_each_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main_list(as_json=True) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["scenario"] for line in lines] == list(scenario.SCENARIOS)
    assert all(len(line["summary"]) > 20 for line in lines)


def test_every_scenario_can_be_played() -> None:
    for name in scenario.SCENARIOS:
        assert callable(scenario.play_of(name))


def test_a_check_is_one_json_line_with_a_rounded_value() -> None:
    line = scenario.check_line("rate", "not empty", 1.23456, "Gbit/s")
    assert json.loads(line) == {"name": "rate", "ok": True, "value": 1.235, "unit": "Gbit/s"}
    assert json.loads(scenario.check_line("list", [], None)) == {
        "name": "list",
        "ok": False,
        "value": None,
        "unit": "",
    }
