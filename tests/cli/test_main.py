"""The command line: exit codes, one line of error and one hint, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from wayside.cli.main import COMMANDS, run
from wayside.core.identity import Names, key_from_text
from wayside.kernel.plan import KernelError
from wayside.runtime.codes import CODES
from wayside.runtime.keyfile import read_certificate

Capture = pytest.CaptureFixture[str]


def said(capture: Capture, *arguments: str | Path) -> tuple[int, str, str]:
    code = run([str(argument) for argument in arguments])
    out, err = capture.readouterr()
    assert "Traceback" not in err
    return code, out, err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: Capture) -> None:
    code, out, _ = said(capsys, name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: wayside {name}")
    assert "\\b" not in out


def test_an_example_in_a_help_stands_on_a_line_of_its_own(capsys: Capture) -> None:
    _, out, _ = said(capsys, "invite", "--help")
    assert "\n  wayside invite files.lab\n  wayside join wayside-invitation-1" in out


@pytest.mark.parametrize(("name", "place"), COMMANDS.items())
def test_the_list_of_commands_names_what_is_there(name: str, place: tuple[str, str]) -> None:
    command = getattr(import_module(f"wayside.cli.{place[0]}"), name)
    assert isinstance(command, click.Command)
    assert place[1].endswith(".")


def test_the_help_lists_every_command(capsys: Capture) -> None:
    _, out, _ = said(capsys, "--help")
    assert [name for name in COMMANDS if f"  {name} " not in out] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "error: no such command 'dance'"),
        (["address"], "error: missing argument 'NAME'"),
        (["status", "--frob"], "error: no such option"),
        (["lab", "run"], "error: name scenarios, or --all"),
        (["lab", "run", "simple", "--all"], "error: name scenarios, or --all"),
    ],
)
def test_wrong_usage_is_exit_2_with_a_hint(
    arguments: list[str], message: str, capsys: Capture
) -> None:
    code, out, err = said(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert "[WS-2001]\nhint: wayside" in err
    assert err.count("\n") == 2


@pytest.mark.parametrize(
    "arguments", [["status"], ["why"], ["address", "a.lab"], ["expose", "https", "8443"]]
)
def test_without_an_agent_the_exit_code_is_7(
    arguments: list[str], capsys: Capture, tmp_path: Path
) -> None:
    code, out, err = said(capsys, *arguments, "--socket", tmp_path / "none.sock")
    assert (code, out) == (7, "")
    assert err.startswith("error: the agent is not running: ")
    assert "\nhint: start `wayside host" in err


def test_a_key_is_made_shown_and_signed_and_the_certificate_holds(
    capsys: Capture, tmp_path: Path
) -> None:
    _, domain, _ = said(capsys, "key", "new", tmp_path / "lab.key")
    _, public, _ = said(capsys, "key", "new", tmp_path / "a.key")
    assert said(capsys, "key", "show", tmp_path / "a.key") == (0, public, "")
    arguments = ("key", "sign", tmp_path / "lab.key", "a.lab", public.strip())
    code, line, _ = said(capsys, *arguments)
    assert code == 0
    assert line.startswith("wayside-certificate-1 ")
    assert said(capsys, *arguments, "--days", "1", "-o", tmp_path / "a.cert")[0] == 0
    key, trusted = (key_from_text(text.strip()) or b"" for text in (public, domain))
    certificate = read_certificate(tmp_path / "a.cert")
    assert Names({"lab": trusted}).name_of(key, certificate, 0.0) == "a.lab"
    assert Names({"lab": trusted}).name_of(key, certificate, 1e12) is None


@pytest.mark.parametrize(
    ("name", "public", "code"), [("alice", "", 2), ("A.lab", "", 2), ("a.lab", "kx", 6)]
)
def test_what_cannot_be_signed_is_refused(
    name: str, public: str, code: int, capsys: Capture, tmp_path: Path
) -> None:
    _, made, _ = said(capsys, "key", "new", tmp_path / "lab.key")
    assert (
        said(capsys, "key", "sign", tmp_path / "lab.key", name, public or made.strip())[0] == code
    )


def test_an_open_key_file_is_exit_6_with_the_command_that_mends_it(
    capsys: Capture, tmp_path: Path
) -> None:
    said(capsys, "key", "new", tmp_path / "a.key")
    (tmp_path / "a.key").chmod(0o644)
    code, out, err = said(capsys, "key", "show", tmp_path / "a.key")
    assert (code, out) == (6, "")
    assert err == (
        f"error: {tmp_path}/a.key holds a secret key, and others may read it:"
        f" its mode is 0644, not 0600 [WS-6002]\nhint: chmod 600 {tmp_path}/a.key\n"
    )


def test_policy_check_runs_the_tests_in_the_file(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    test = '[[test]]\nservice = "https"\nexpect = "%s"\n'
    path.write_text(test % "reject")
    code, out, _ = said(capsys, "policy", "check", path)
    assert (code, out) == (0, f"{path}: 0 rules, default reject, 1 tests passed\n")
    path.write_text(test % "allow" + test % "reject")
    code, out, err = said(capsys, "policy", "check", path)
    assert (code, out) == (2, "")
    assert err.startswith("test 1: tcp https (out) gets reject from rule default, expected allow\n")
    assert "the policy fails 1 of its 2 tests [WS-2105]" in err


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_explained(code: str, capsys: Capture) -> None:
    exit_code, out, _ = said(capsys, "explain", code.lower())
    assert exit_code == 0
    assert out.startswith(f"{code}  {CODES[code].title}\n\n")


def test_explain_lists_all_codes_and_helps_with_a_wrong_one(capsys: Capture) -> None:
    assert said(capsys, "explain")[1].count("\n") == len(CODES)
    assert said(capsys, "explain", "3001")[1].startswith("WS-3001")
    code, _, err = said(capsys, "explain", "WS-3099")
    assert code == 2
    assert "hint: did you mean WS-30" in err


@pytest.mark.parametrize("role", ["host", "gate"])
def test_a_daemon_with_a_wrong_file_says_the_line_and_stops(
    role: str, capsys: Capture, tmp_path: Path
) -> None:
    path = tmp_path / f"{role}.toml"
    path.write_text("\nlistn = 1\n")
    code, _, err = said(capsys, role, "--config", path)
    assert code == 2
    assert err == (
        f"error: {path}:2: unknown key `listn` [WS-2101]\nhint: did you mean `listen`?\n"
    )


def test_a_bug_of_ours_is_one_line_and_a_traceback_only_for_who_asks(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("none")

    monkeypatch.setattr("wayside.runtime.control.ask", broken)
    code, _, err = said(capsys, "status")
    assert code == 1
    assert err.startswith("error: this is a bug: ZeroDivisionError('none') [WS-1001]\nhint: ")
    monkeypatch.setenv("WAYSIDE_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run(["status"])


def test_what_the_kernel_refuses_is_told_with_what_to_do(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise KernelError("nftables: no such table", "wayside doctor")

    monkeypatch.setattr("wayside.runtime.control.ask", refused)
    assert said(capsys, "status") == (
        1,
        "",
        "error: nftables: no such table [WS-1002]\nhint: wayside doctor\n",
    )


def test_connect_starts_without_what_it_does_not_need() -> None:
    """Under ssh every connection waits for this start: no rich, no pyroute2, no nftables."""
    listing = subprocess.run(
        [sys.executable, "-c", "import sys, wayside.cli.use; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert {"rich", "pyroute2", "nftables", "wayside.lab"}.isdisjoint(listing.stdout.split())
