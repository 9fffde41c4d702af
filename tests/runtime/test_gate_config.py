"""gate.toml: what a gate is besides a firewall, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from wayside.core.address import Address
from wayside.core.crypto import SigningKey
from wayside.core.identity import key_text
from wayside.runtime.errors import ConfigError
from wayside.runtime.gate import GateDaemon, check_outside
from wayside.runtime.gate_config import GateConfig, load_gate
from wayside.runtime.helper_client import Helper
from wayside.runtime.relays import Relays

KEY = SigningKey(bytes(32)).public
OTHER = SigningKey(bytes([1]) * 32).public
SIDES = 'inside = ["lan0"]\noutside = ["wan0"]\n'
FULL = f"""
{SIDES}
[nat]
outside = ["203.0.113.1", "2001:db8::1"]
ports = "40000-49999"
[nat.hosts]
"files.lab" = "10.1.0.2"
"{key_text(OTHER)}" = "10.1.0.3:4800"
[relay]
approvers = ["files.lab", "{key_text(OTHER)}"]
targets = ["10.0.0.0/8"]
[relays]
proxy = "10.2.0.2"
both = ["10.2.0.3", "[fd00:2::3]:4800"]
cache = {{ address = "10.2.0.4", key = "{key_text(OTHER)}" }}
[peers."files.lab"]
key = "{key_text(KEY)}"
"""


def gate(tmp_path: Path, text: str) -> GateConfig:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    return load_gate(path, {}, {})


def at(text: str) -> Address:
    return Address.parse(text, 4747)


def test_everything_in_a_gate_file_arrives(tmp_path: Path) -> None:
    config = gate(tmp_path, FULL)
    nat, relay = config.box.nat, config.box.relay
    assert nat is not None
    assert relay is not None
    assert nat.outside == {4: ip_address("203.0.113.1"), 6: ip_address("2001:db8::1")}
    assert nat.known == {KEY: at("10.1.0.2"), OTHER: at("10.1.0.3:4800")}
    assert config.box.ports == range(40000, 50000)
    assert (relay.approvers, relay.targets) == ((KEY, OTHER), (ip_network("10.0.0.0/8"),))
    assert config.relays.addresses == {
        "proxy": (at("10.2.0.2"),),
        "both": (at("10.2.0.3"), at("[fd00:2::3]:4800")),
        "cache": (at("10.2.0.4"),),
    }
    assert config.relays.instead == {"cache": OTHER}


def test_a_plain_gate_is_neither_nat_nor_relay(tmp_path: Path) -> None:
    config = gate(tmp_path, SIDES)
    assert (config.box.nat, config.box.relay, config.relays) == (None, None, Relays())


def test_only_a_box_that_relays_and_nothing_else_may_stand_nowhere(tmp_path: Path) -> None:
    relay = f'[relay]\napprovers = ["{key_text(KEY)}"]\n'
    assert gate(tmp_path, relay).inside == ()
    assert gate(tmp_path, SIDES + relay).inside == ("lan0",)
    for text in ("", '[nat]\noutside = ["203.0.113.1"]\n' + relay, 'inside = ["a"]\n' + relay):
        with pytest.raises(ConfigError, match="at least one interface in"):
            gate(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[nat]\nports = '1-2'", "3: the key `outside` is missing [WS-2104]"),
        ("[nat]\noutside = []", "4: a NAT needs an address outside [WS-2104]"),
        (
            '[nat]\noutside = ["10.0.0.1", "10.0.0.2"]',
            "4: two IPv4 addresses; one of each family is used [WS-2102]",
        ),
        (
            '[nat]\noutside = ["10.0.0.1"]\nports = "9-1"',
            "5: '9-1' is not a range of ports such as 1024-65535 [WS-2102]",
        ),
        (
            '[nat]\noutside = ["10.0.0.1"]\nhost = {}',
            "5: unknown key `host` [WS-2101]\nhint: did you mean `hosts`?",
        ),
        (
            '[nat]\noutside = ["10.0.0.1"]\n[nat.hosts]\n"file.lab" = "10.1.0.2"\n'
            f'[peers."files.lab"]\nkey = "{key_text(KEY)}"',
            "6: `file.lab` is neither a key (k...) nor a name of [peers] [WS-2102]"
            "\nhint: did you mean `files.lab`?",
        ),
        ("[relay]\napprovers = []", "4: a relay that nobody may send to relays nothing [WS-2104]"),
        (
            f'[relay]\napprovers = ["{key_text(KEY)}"]\ntargets = ["10.0.0.1/8"]',
            "5: 10.0.0.1/8 has host bits set [WS-2102]",
        ),
        ("[relays]\nproxy = []", "4: one address, or one for each family [WS-2102]"),
        (
            '[relays]\nproxy = { address = "10.0.0.1" }',
            "4: the key `key` is missing [WS-2104]",
        ),
        (
            '[relays]\nproxy = ["10.0.0.1", "10.0.0.2"]',
            "4: one address, or one for each family [WS-2102]",
        ),
    ],
)
def test_every_mistake_is_one_message_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        gate(tmp_path, SIDES + text)
    said = str(caught.value).replace(f"{tmp_path}/gate.toml:", "")
    assert said.startswith(message)


def test_an_address_that_this_box_does_not_have_is_an_error_with_the_command(
    tmp_path: Path,
) -> None:
    config = gate(tmp_path, SIDES + '[nat]\noutside = ["203.0.113.1"]')
    with pytest.raises(ConfigError, match=r"names 203\.0\.113\.1, and this box does not") as caught:
        check_outside(config)
    assert caught.value.hint == "ip address add 203.0.113.1/32 dev wan0"
    check_outside(gate(tmp_path, SIDES + '[nat]\noutside = ["127.0.0.1"]'))


def test_a_gate_is_made_of_its_file_and_its_policy_may_name_its_relays_only(
    tmp_path: Path, no_helper: Helper
) -> None:
    rule = '[[rule]]\nname = "web"\naction = "redirect"\nvia = "proxy"\n'
    (tmp_path / "policy.toml").write_text(rule)
    files = 'policy = "policy.toml"\nlog = "gate.events"\n'
    key = SigningKey(bytes(32))
    daemon = GateDaemon(gate(tmp_path, files + FULL), key, bytes(32), no_helper, {})
    assert daemon.gate.context.box.nat is not None
    assert set(daemon.gate.context.relays) == {"proxy", "both", "cache"}
    assert daemon.gate.context.instead == {"cache": OTHER}
    (tmp_path / "policy.toml").write_text(rule.replace('"proxy"', '"prosy"'))
    with pytest.raises(ConfigError, match="names no relay of this box: `prosy`") as caught:
        daemon.reload()
    assert caught.value.hint == "did you mean `proxy`?"
    assert daemon.gate.context.policy.rules[0].via == "proxy", "the old policy stays"


@pytest.fixture
def no_helper() -> Helper:
    """Nobody who is asked for anything here."""
    from unittest.mock import create_autospec

    return create_autospec(Helper, instance=True)
