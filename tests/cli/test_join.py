"""invite and join: what is asked, what is printed, and what is refused before anybody is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wayside.cli.main import run
from wayside.core.address import Address
from wayside.core.crypto import SigningKey
from wayside.core.identity import key_text
from wayside.runtime.control_types import InviteReply, InviteRequest
from wayside.runtime.enrolment import Invitation
from wayside.runtime.errors import Refused
from wayside.runtime.joining import Place

Capture = pytest.CaptureFixture[str]
KEY = SigningKey(bytes(32)).public
LINE = str(Invitation((Address.parse("203.0.113.9", 4747),), KEY, bytes(16), "files.lab"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, object]]:
    """A rendezvous that invites whomever it is told to; what it was asked, and where."""
    seen: list[tuple[Path, object]] = []

    def ask(path: Path, request: object, *_: Any) -> object:
        seen.append((path, request))
        return InviteReply(invitation=LINE)

    monkeypatch.setattr("wayside.runtime.control.ask", ask)
    return seen


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("12h", 43_200), ("1d", 86_400)]
)
def test_an_invitation_is_one_line_on_stdout(
    asked: list[tuple[Path, object]], capsys: Capture, text: str, seconds: int
) -> None:
    assert run(["invite", "files.lab", "--lifetime", text, "--socket", "/x"]) == 0
    assert capsys.readouterr().out == f"{LINE}\n"
    assert asked == [(Path("/x"), InviteRequest(name="files.lab", lifetime_s=seconds))]


def test_the_socket_is_the_one_that_the_configuration_names(
    asked: list[tuple[Path, object]], tmp_path: Path
) -> None:
    config = tmp_path / "rendezvous.toml"
    config.write_text(f'socket = "meet.sock"\n[domains]\nlab = "{key_text(KEY)}"\n')
    assert run(["invite", "files.lab", "--config", str(config)]) == 0
    assert asked[0][0] == tmp_path / "meet.sock"


@pytest.mark.parametrize("text", ["1", "d", "0s", "-1d", "1w", "400d"])
def test_a_time_span_has_a_unit_and_a_limit(
    asked: list[tuple[Path, object]], capsys: Capture, text: str
) -> None:
    assert run(["invite", "files.lab", "--lifetime", text, "--socket", "/x"]) == 2
    assert "is not a time span such as 30m, 12h or 1d" in capsys.readouterr().err
    assert asked == []


def test_join_says_what_it_wrote_and_prints_the_name(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    async def join(invitation: Invitation, place: Place, force: bool) -> list[Path]:
        assert (str(invitation), force) == (LINE, True)
        return [place.key, place.certificate, place.config]

    monkeypatch.setattr("wayside.runtime.joining.join", join)
    assert run(["join", LINE, "--config", str(tmp_path), "--force"]) == 0
    out, err = capsys.readouterr()
    assert out == "files.lab\n"
    files = [f"wrote {tmp_path}/{name}" for name in ("host.key", "host.certificate", "host.toml")]
    assert err.splitlines() == [*files, f"hint: wayside host --config {tmp_path}/host.toml"]


def test_a_refused_invitation_is_exit_3_and_one_that_is_none_exit_6(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    async def join(*_: object) -> list[Path]:
        raise Refused("the invitation is not accepted", gate="meet", code="WS-3101", hint="ask")

    monkeypatch.setattr("wayside.runtime.joining.join", join)
    assert run(["join", LINE, "--config", str(tmp_path)]) == 3
    assert "[WS-3101]\nhint: ask\n" in capsys.readouterr().err
    assert run(["join", "files.lab", "--config", str(tmp_path)]) == 6
    assert "[WS-6004]\nhint: copy the whole line" in capsys.readouterr().err
