"""policy.toml: rules with their tests; a load that fails one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wayside.core.address import Transport
from wayside.core.identity import key_text
from wayside.core.policy import Direction, PolicyAction
from wayside.runtime.errors import ConfigError
from wayside.runtime.policy_file import load_policy, read_policy, told

KEY = bytes(range(32))
GOOD = f"""
default = "reject"

[[rule]]
name = "web"
from = ["*.lab", "{key_text(KEY)}"]
to = ["server.lab"]
service = ["https", "http"]
transport = ["tcp", "udp"]
direction = "out"
action = "allow"
lifetime_s = 60

[[rule]]
name = "no-telnet"
service = ["telnet"]
action = "reject"
reason = "telnet is not encrypted"

[[test]]
from = "client.lab"
to = "server.lab"
service = "https"
expect = "allow"

[[test]]
from = "*"
to = "server.lab"
service = "https"
expect = "reject"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_policy(written(tmp_path, text))
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_everything_in_a_policy_file_arrives(tmp_path: Path) -> None:
    file = read_policy(written(tmp_path, GOOD))
    web, telnet = file.policy.rules
    assert [one.text for one in web.from_] == ["*.lab", key_text(KEY)]
    assert web.transport == (Transport.TCP, Transport.UDP)
    assert (web.direction, web.lifetime_s) == (Direction.OUT, 60.0)
    assert telnet.action is PolicyAction.REJECT
    assert telnet.reason == "telnet is not encrypted"
    assert len(file.tests) == 2
    assert load_policy(file.path) == file.policy


def test_a_policy_that_fails_a_test_of_its_own_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace('expect = "reject"', 'expect = "allow"'))
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert caught.value.code == "WS-2105"
    assert caught.value.exit_code == 2
    assert caught.value.why == (
        "test 2: tcp https (out) gets reject from rule default, expected allow"
    )
    assert told(read_policy(path).failed[0]) == caught.value.why


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[[rule]]\nname = "a"\naction = "allow"\nservce = ["x"]',
            "policy.toml:4: unknown key `servce` [WS-2101]\nhint: did you mean `service`?",
        ),
        ("[[rules]]\n", "policy.toml:1: unknown key `rules` [WS-2101]\nhint: did you mean `rule`?"),
        (
            '[[rule]]\nname = "a"\naction = "allow"\n\n[[rule]]\nname = "b"\naction = "deny"',
            "policy.toml:7: `action`: invalid enum value 'deny' [WS-2102]",
        ),
        (
            '[[rule]]\nname = "a"\naction = "allow"\nname = "b"',
            "policy.toml:4: `name` is there twice [WS-2103]",
        ),
        (
            '[[rule]]\nname = "a"\naction = "allow"\n[[rule]]\nname = "a"\naction = "allow"',
            "policy.toml:4: two rules are named `a` [WS-2103]",
        ),
        ('[[rule]]\nname = "a"', "policy.toml:1: the key `action` is missing [WS-2104]"),
        (
            '[[rule]]\nname = "a"\naction = "allow"\nfrom = []',
            "policy.toml:4: `from`: expected a list of length >= 1 [WS-2102]",
        ),
        (
            '[[rule]]\nname = "a"\naction = "allow"\nfrom = ["Lab"]',
            "policy.toml:4: 'Lab' is not a name (files.lab), a domain (*.lab), a key (k...) or *",
        ),
        (
            '[[rule]]\nname = "a"\naction = "allow"\ntransport = ["sctp"]',
            "policy.toml:4: 'sctp' is not a transport (none, tcp, mptcp, udp)",
        ),
        (
            '[[rule]]\nname = "a"\naction = "allow"\nlifetime_s = 9999',
            "policy.toml:1: a lifetime of 9999 s is not in 1 to 3600 s",
        ),
        ("default = allow", "policy.toml:1: "),
    ],
)
def test_every_mistake_is_one_message_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    assert refused(tmp_path, text).startswith(message)


VIA = '[[rule]]\nname = "web"\naction = "redirect"\nvia = "proxy"\n'
HIDE = '[[rule]]\nname = "hide"\naction = "steer"\n'


def load(tmp_path: Path, text: str, **able: Any) -> str:
    """Load a policy for a box that is able to do this; what is wrong with it, if anything."""
    path = tmp_path / "policy.toml"
    path.write_text(text)
    try:
        load_policy(path, **able)
    except ConfigError as error:
        return str(error).replace(f"{tmp_path}/", "")
    return ""


def test_a_gate_redirects_by_relays_that_it_knows(tmp_path: Path) -> None:
    assert load(tmp_path, VIA, relays={"proxy"}) == ""
    said = load(tmp_path, VIA, relays={"proxies", "other"})
    assert said.startswith("policy.toml:4: `via` names no relay of this box: `proxy` [WS-2102]")
    assert said.endswith("hint: did you mean `proxies`?")


def test_a_box_without_relays_says_where_they_are_named(tmp_path: Path) -> None:
    """A host as well: a rule that it read as `allow` would be a hole."""
    said = load(tmp_path, VIA)
    assert said.endswith("hint: name its address under [relays] in gate.toml")


def test_only_a_rendezvous_steers(tmp_path: Path) -> None:
    assert load(tmp_path, HIDE, steers=True) == ""
    assert load(tmp_path, 'default = "steer"', steers=True) == ""
    assert load(tmp_path, HIDE).startswith("policy.toml:3: only a rendezvous can `steer`")
    assert load(tmp_path, 'default = "steer"').startswith("policy.toml:1: only a rendezvous")


def test_a_redirection_says_by_way_of_whom(tmp_path: Path) -> None:
    assert "by way of whom" in load(tmp_path, VIA.replace('via = "proxy"', ""))
    assert "by way of whom" in load(tmp_path, VIA.replace("redirect", "allow"), relays={"proxy"})
    assert "takes a rule" in load(tmp_path, 'default = "redirect"')


def test_a_policy_can_be_checked_before_it_is_known_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(VIA + HIDE + '[[test]]\nservice = "https"\nexpect = "redirect"\n')
    assert read_policy(path).failed == ()
