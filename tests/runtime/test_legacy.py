"""Hosts that know nothing of signaling, in gate.toml and host.toml; and what `status` says."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from core.test_yielding import Natted, silent
from pair import Pair, make_gate
from wayside.core.address import Transport
from wayside.core.crypto import SigningKey
from wayside.core.host import Offered
from wayside.core.identity import Leave, key_text
from wayside.core.policy import Direction, PolicyAction, Request
from wayside.core.yielding import PLAIN
from wayside.kernel.plan import InstalledRule
from wayside.runtime.config import load_host
from wayside.runtime.errors import ConfigError
from wayside.runtime.gate import ANSWERED_HERE, GateDaemon
from wayside.runtime.gate_config import GateConfig, load_gate
from wayside.runtime.legacy import key_of_nobody, stand_in
from wayside.runtime.portrait import BEHIND_NAT, record_of

KEY = key_text(SigningKey(bytes(32)).public)
SIDES = 'inside = ["lan0"]\noutside = ["wan0"]\n'
LEGACY = f"""
{SIDES}
[[legacy]]
addresses = ["10.3.0.0/24", "fd00:3::2"]
[legacy.services]
http = 80
"7007" = {{ port = 7007, transport = ["udp"] }}
[[legacy]]
addresses = ["0.0.0.0/0"]
side = "outside"
services = {{ https = 443 }}
"""


def gate(tmp_path: Path, text: str) -> GateConfig:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    return load_gate(path, {}, {})


def leave(tmp_path: Path, lines: str) -> tuple[bytes, Leave]:
    path = tmp_path / "host.toml"
    path.write_text(f'[peers."printer.lab"]\naddresses = ["10.3.0.2"]\n{lines}\n')
    identity = load_host(path, {}, {}).peers["printer.lab"].identity
    return identity.key, identity.leave


def request(service: str, transport: Transport) -> Request:
    return Request(b"a", None, b"b", None, service, transport, Direction.IN)


def test_a_gate_file_says_for_whom_the_gate_answers(tmp_path: Path) -> None:
    """R-12.2."""
    inside, outside = gate(tmp_path, LEGACY).legacy
    assert inside.networks == (ip_network("10.3.0.0/24"), ip_network("fd00:3::2/128"))
    assert (inside.side, outside.side) == ("inside", "outside")
    ports = {name: one.port for name, one in inside.services.items()}
    assert ports == {"http": 80, "7007": 7007}


def test_a_service_is_offered_over_what_the_file_says(tmp_path: Path) -> None:
    """R-12.2: whoever asks for it over another transport is told."""
    machine = make_gate("g")
    (served, _) = stand_in(machine, machine._box, gate(tmp_path, LEGACY).legacy).served
    answering = served.host.answering
    assert answering.services == {"http": Offered(80), "7007": Offered(7007)}
    assert served.host.context.key.public == machine.context.key.public
    for transport in (Transport.TCP, Transport.UDP):
        assert answering.policy.decide(request("http", transport)).action is PolicyAction.ALLOW
    verdict = answering.policy.decide(request("7007", Transport.TCP))
    assert (verdict.action, verdict.reason) == (
        PolicyAction.REJECT,
        "7007 is offered over udp only",
    )
    assert answering.policy.decide(request("7007", Transport.UDP)).action is PolicyAction.ALLOW


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("addresses = []\nservices = { http = 80 }", "addresses"),
        ('addresses = ["10.3.0.300"]\nservices = { http = 80 }', "10.3.0.300"),
        ('addresses = ["10.3.0.2"]\nservices = { HTTP = 80 }', "HTTP"),
        ('addresses = ["10.3.0.2"]\nservices = { http = 0 }', "port"),
        ('addresses = ["10.3.0.2"]\nservices = { http = 80 }\nside = "left"', "side"),
        ('addresses = ["10.3.0.2"]', "services"),
    ],
)
def test_a_mistake_about_legacy_hosts_is_one_message_with_its_line(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        gate(tmp_path, f"{SIDES}[[legacy]]\n{text}\n")
    assert "gate.toml" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "lets"),
    [
        ('legacy = "gate"', Leave(gate=True)),
        ('fallback = "plain"', Leave(plain=True)),
        ('legacy = "gate"\nfallback = "plain"', Leave(True, True)),
    ],
)
def test_a_peer_without_a_key_takes_the_users_leave(
    tmp_path: Path, lines: str, lets: Leave
) -> None:
    """R-12.1, R-12.3, R-12.4."""
    assert leave(tmp_path, lines) == (key_of_nobody("printer.lab"), lets)
    assert leave(tmp_path, f'key = "{KEY}"\n{lines}')[1] == lets


def test_a_user_who_says_nothing_lets_nothing_be(tmp_path: Path) -> None:
    assert leave(tmp_path, f'key = "{KEY}"')[1] == Leave()
    for lines in ("", 'legacy = "no"\nfallback = "no"'):
        with pytest.raises(ConfigError, match="the key `key` is missing"):
            leave(tmp_path, lines)


def test_status_says_how_a_connection_stands() -> None:
    """R-12.4, R-12.5: and where our packets come to behind a NAT that says nothing."""
    plain = record_of(silent(Leave(plain=True)).run(6).connection("c"), {}, None)
    assert (plain.state, plain.stands, plain.there) == ("plain", PLAIN, "")
    pair = Natted(1)
    pair.open()
    record = record_of(pair.connection("c"), {}, None)
    assert record.stands == BEHIND_NAT
    assert record.there.partition(" > ")[0] == str(pair.nat.with_port(40000))
    assert record_of(Pair(0).open().connection("c"), {}, None).stands == ""


def test_the_status_of_a_gate_says_for_whom_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = gate(tmp_path, LEGACY)
    daemon = GateDaemon.__new__(GateDaemon)
    pair = Pair(1).open()
    machine = pair.gates["g1"]
    daemon.gate = machine
    daemon._stand_in = stand_in(machine, machine._box, config.legacy)
    rules = [InstalledRule(rule, 100.0, 1, 1) for rule in pair.kernel["g1"].values()]
    assert [one.stands for one in daemon.records(rules)] == [""]
    monkeypatch.setattr(daemon._stand_in, "answers", pair.cid.__eq__)
    assert [one.stands for one in daemon.records(rules)] == [ANSWERED_HERE]
    assert daemon.machine is daemon._stand_in
