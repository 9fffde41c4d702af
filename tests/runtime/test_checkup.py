"""The doctor: what is not ok says what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from wayside.kernel.doctor import Diagnosis
from wayside.runtime import checkup
from wayside.runtime.checkup import Finding, examine
from wayside.runtime.keyfile import new_key


def found(findings: list[Finding], name: str) -> Finding:
    return next(one for one in findings if one.name == name)


def config(tmp_path: Path, port: int = 4747) -> Path:
    path = tmp_path / "host.toml"
    path.write_text(f'key = "host.key"\nsocket = "host.sock"\nlisten = {port}\n')
    return path


def test_whatever_is_not_ok_has_a_hint(tmp_path: Path) -> None:
    findings = examine("host", config(tmp_path), {})
    assert {"kernel", "libnftables", "privileges", "configuration", "agent", "key", "port"} <= {
        one.name for one in findings
    }
    assert [one for one in findings if not one.ok and not one.hint] == []
    assert found(findings, "key").hint == f"wayside key new {tmp_path}/host.key"
    assert not found(findings, "agent").ok


def test_a_good_key_is_ok_and_an_open_one_is_not(tmp_path: Path) -> None:
    new_key(tmp_path / "host.key")
    assert found(examine("host", config(tmp_path), {}), "key").ok
    (tmp_path / "host.key").chmod(0o644)
    assert found(examine("host", config(tmp_path), {}), "key").hint.startswith("chmod 600")


def test_a_port_that_somebody_has_is_found(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        assert not found(examine("host", config(tmp_path, port), {}), "port").ok
    assert found(examine("host", config(tmp_path, port), {}), "port").ok


def test_a_wrong_configuration_is_a_finding_and_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("listn = 1\n")
    finding = found(examine("gate", path, {"WAYSIDE_SOCKET": str(tmp_path / "s")}), "configuration")
    assert (finding.ok, finding.hint) == (False, "did you mean `listen`?")


@pytest.mark.parametrize(
    ("release", "ok"), [("5.10.0-8-amd64", True), ("6.1", True), ("4.19.0", False), ("5.9", False)]
)
def test_the_kernel_has_to_be_new_enough(release: str, ok: bool) -> None:
    assert checkup._kernel(release).ok is ok


def test_another_ruleset_that_drops_is_found_with_the_one_rule_that_mends_it() -> None:
    rule = "nft insert rule ip filter FORWARD meta mark 0x1 accept"
    found = Diagnosis("ip filter FORWARD (hook forward)", "its policy is drop", rule)
    assert checkup._rulesets([found]) == [
        Finding(
            "rulesets",
            False,
            "ip filter FORWARD (hook forward): its policy is drop",
            f"sudo {rule}",
        )
    ]
    assert [one.ok for one in checkup._rulesets([])] == [True]
