"""host.toml and gate.toml: precedence, defaults, and what is refused."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from wayside.core.address import Address
from wayside.core.crypto import SigningKey
from wayside.core.identity import key_text
from wayside.runtime.config import HostConfig, default_socket, load_host
from wayside.runtime.errors import ConfigError, WaysideError
from wayside.runtime.gate_config import GateConfig, load_gate
from wayside.runtime.host import make_host
from wayside.runtime.keyfile import write_certificate
from wayside.runtime.steering import Rendezvous

KEY, HOME, GATE = (SigningKey(bytes([number]) * 32).public for number in range(3))
FULL = f"""
name = "client.lab"
key = "client.key"
listen = 4800
state = "state"
socket = "client.sock"
log = "client.events"
lifetime_s = 30
certificate = "client.cert"
policy = "policy.toml"

[domains]
lab = "{key_text(KEY)}"

[peers."server.lab"]
key = "{key_text(KEY)}"
addresses = ["10.3.0.2", "fd00:3::2", "10.3.0.3:4800"]
certificate = "server.cert"

[services]
https = 8443
ssh = {{ port = 22, allow = ["*.lab"] }}
"""


def host(tmp_path: Path, text: str, **environ: str) -> HostConfig:
    path = tmp_path / "host.toml"
    path.write_text(text)
    return load_host(path, {}, environ)


def gate(tmp_path: Path, text: str, **environ: str) -> GateConfig:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    return load_gate(path, {}, environ)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(WaysideError) as caught:
        host(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_everything_in_a_host_file_arrives(tmp_path: Path) -> None:
    write_certificate(tmp_path / "server.cert", b"certificate")
    config = host(tmp_path, FULL)
    assert (config.name, config.listen, config.lifetime_s) == ("client.lab", 4800, 30.0)
    assert config.paths.key == tmp_path / "client.key"
    assert config.paths.certificate == tmp_path / "client.cert"
    assert config.paths.policy == tmp_path / "policy.toml"
    assert config.domains == {"lab": KEY}
    peer = config.peers["server.lab"]
    assert (peer.identity.key, peer.identity.certificate) == (KEY, b"certificate")
    assert peer.addresses == (
        Address(ip_address("10.3.0.2"), 4747),
        Address(ip_address("fd00:3::2"), 4747),
        Address(ip_address("10.3.0.3"), 4800),
    )
    assert config.services["https"].port == 8443
    assert [one.text for one in config.services["ssh"].allow] == ["*.lab"]


STEERED = f"""
redirectors = ["{key_text(GATE)}"]
approvers = ["{key_text(KEY)}"]
home = "10.9.0.1"

[[rendezvous]]
key = "{key_text(HOME)}"
address = ["10.9.0.1", "fd00:9::1"]

[domains]
lab = {{ key = "{key_text(KEY)}", rendezvous = "10.9.0.1" }}
other = {{ key = "{key_text(KEY)}", rendezvous = "10.8.0.1", rendezvous_key = "{key_text(GATE)}" }}
plain = {{ key = "{key_text(KEY)}" }}

[peers."files.lab"]
key = "{key_text(KEY)}"
rendezvous = "10.9.0.1"
"""


def test_a_host_knows_who_may_steer_it(tmp_path: Path) -> None:
    config = host(tmp_path, STEERED)
    steering = config.steering
    here = (Address.parse("10.9.0.1:4747"), Address.parse("[fd00:9::1]:4747"))
    assert steering.registers == (Rendezvous(HOME, here),)
    assert steering.home == here[0]
    assert steering.approvers == (KEY,)
    assert steering.names == {
        "lab": Rendezvous(HOME, here[:1]),
        "other": Rendezvous(GATE, (Address.parse("10.8.0.1:4747"),)),
    }
    assert config.domains == dict.fromkeys(("lab", "other", "plain"), KEY)
    assert config.peers["files.lab"].addresses == here[:1]


def test_a_rendezvous_of_ours_may_redirect_us_without_being_named_twice(tmp_path: Path) -> None:
    assert host(tmp_path, STEERED).steering.trusted == (GATE, HOME)


def test_an_option_goes_over_the_environment_over_the_file_over_the_default(
    tmp_path: Path,
) -> None:
    assert host(tmp_path, "").listen == 4747
    assert host(tmp_path, "listen = 1000").listen == 1000
    assert host(tmp_path, "listen = 1000", WAYSIDE_LISTEN="2000").listen == 2000
    path = tmp_path / "host.toml"
    assert load_host(path, {"listen": 3000}, {"WAYSIDE_LISTEN": "2000"}).listen == 3000


def test_a_nat_lets_in_only_where_the_file_says_so(tmp_path: Path) -> None:
    """R-12.6: the user knows, and the machine is told."""
    assert not host(tmp_path, "").nat_lets_in
    config = host(tmp_path, "nat_lets_in = true")
    assert make_host(config, SigningKey(bytes(32)), bytes(32), []).context.let_in


def test_mptcp_is_managed_only_where_the_file_says_so(tmp_path: Path) -> None:
    """It is so for a whole network namespace, which may have others' connections."""
    assert not host(tmp_path, "").mptcp
    assert host(tmp_path, "mptcp = true").mptcp
    assert not host(tmp_path, "mptcp = true", WAYSIDE_MPTCP="false").mptcp
    assert "host.toml:1" in refused(tmp_path, 'mptcp = "yes"')


def test_lists_in_the_environment_have_commas(tmp_path: Path) -> None:
    config = gate(tmp_path, "", WAYSIDE_INSIDE="in0, in1", WAYSIDE_OUTSIDE="out0")
    assert (config.inside, config.outside) == (("in0", "in1"), ("out0",))


def test_a_wrong_variable_is_blamed_and_not_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^WAYSIDE_LISTEN: `listen`: expected `int`"):
        host(tmp_path, "listen = 1000", WAYSIDE_LISTEN="many")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'name = "a.lab"\nlisten_ = 1',
            "host.toml:2: unknown key `listen_` [WS-2101]\nhint: did you mean `listen`?",
        ),
        (
            f'[peers."s.lab"]\nkey = "{key_text(KEY)}"\nadresses = []',
            "host.toml:3: unknown key `adresses` [WS-2101]\nhint: did you mean `addresses`?",
        ),
        ("listen = 70000", "host.toml:1: `listen`: expected `int` <= 65535 [WS-2102]"),
        ("lifetime_s = 0.1", "host.toml:1: `lifetime_s`: expected `float` >= 1.0 [WS-2102]"),
        ('[peers."s.lab"]\naddresses = []', "host.toml:1: the key `key` is missing [WS-2104]"),
        (
            '\n[domains]\nlab = "kx"',
            "host.toml:3: 'kx' is not a public key; `wayside key show FILE` prints one [WS-2102]",
        ),
        (
            f'[peers."s.lab"]\nkey = "{key_text(KEY)}"\naddresses = ["server"]',
            "host.toml:3: 'server' does not appear to be an IPv4 or IPv6 address [WS-2102]",
        ),
        ('ipv6_prefix = "fd00::/64"', "host.toml:1: 'fd00::/64' is not a /48 [WS-2102]"),
        (
            "[services]\nhttps = { port = 1, allow = [] }",
            "host.toml:2: `allow`: expected a list of length >= 1 [WS-2102]",
        ),
        (
            "[services]\nHTTPS = 1",
            "host.toml:2: 'HTTPS' is not a service (lower case, such as https) [WS-2102]",
        ),
        (
            f'[[rendezvous]]\nkey = "{key_text(KEY)}"\nadress = "10.9.0.1"',
            "host.toml:3: unknown key `adress` [WS-2101]\nhint: did you mean `address`?",
        ),
        (
            f'[[rendezvous]]\nkey = "{key_text(KEY)}"\naddress = ["10.9.0.1", "10.9.0.2"]',
            "host.toml:3: two addresses of IPv4; one for each family",
        ),
        (
            f'[domains]\nlab = {{ key = "{key_text(KEY)}", rendevous = "10.9.0.1" }}',
            "host.toml:2: unknown key `rendevous` [WS-2101]\nhint: did you mean `rendezvous`?",
        ),
        (
            f'[domains]\nlab = {{ key = "{key_text(KEY)}", rendezvous = "10.9.0.1" }}',
            "host.toml:2: the key `rendezvous_key` is missing [WS-2104]",
        ),
        (
            f'[peers."s.lab"]\nkey = "{key_text(KEY)}"\naddresses = ["10.1.0.1"]\n'
            'rendezvous = "10.9.0.1"',
            "host.toml:4: `s.lab` has `addresses` and a `rendezvous`",
        ),
        ('redirectors = ["me"]', "host.toml:1: 'me' is not a public key"),
        (
            "[peers]\nserver = {}",
            "host.toml:2: `server` is not a name such as server.lab, nor a key",
        ),
    ],
)
def test_every_mistake_is_one_message_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    assert refused(tmp_path, text).startswith(message)


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WaysideError, match="cannot be read") as caught:
        load_host(tmp_path / "none.toml", {}, {})
    assert caught.value.code == "WS-1006"


def test_a_gate_needs_both_sides_and_keeps_them_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one interface in `outside`"):
        gate(tmp_path, 'inside = ["a"]')
    with pytest.raises(ConfigError, match=r"gate\.toml:2: `a` is both inside and outside"):
        gate(tmp_path, 'inside = ["a"]\noutside = ["b", "a"]')


def test_a_user_has_sockets_of_their_own_and_root_those_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {"XDG_RUNTIME_DIR": "/run/user/7"}
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert default_socket("host", environ) == Path("/run/user/7/wayside/host.sock")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_socket("gate", environ) == Path("/run/wayside/gate.sock")
    assert default_socket("gate", {"WAYSIDE_SOCKET": "/x"}) == Path("/x")
