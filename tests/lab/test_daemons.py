from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from wayside.core.identity import Names, key_text
from wayside.core.policy import PolicyAction
from wayside.lab import daemons as lab_daemons
from wayside.lab import firewall_reject, world
from wayside.lab.daemons import Daemons, within
from wayside.lab.stage import ALLOW_LAB, SERVICES
from wayside.lab.world import Node
from wayside.runtime.config import load_gate, load_host
from wayside.runtime.policy_file import load_policy


def launch_nothing(daemon: lab_daemons.Daemon) -> None:
    assert (daemon.node.state / f"{daemon.role}.toml").exists()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "STATE", tmp_path)
    monkeypatch.setattr(lab_daemons, "STATE", tmp_path)
    monkeypatch.setattr(lab_daemons.Daemon, "launch", launch_nothing)
    monkeypatch.setattr(lab_daemons.Daemon, "wait_ready", launch_nothing)


def node(name: str, net: int, out: Path) -> Node:
    addresses = (IPv4Address(f"10.{net}.0.2"), IPv6Address(f"fd00:{net}::2"))
    return Node(name, out, {"gate": addresses})


def test_hosts_know_each_other_by_certified_names(tmp_path: Path) -> None:
    made = Daemons(tmp_path)
    client = made.host(node("client", 1, tmp_path), lifetime_s=7)
    server = made.host(node("server", 2, tmp_path), SERVICES)
    made.start()
    config = load_host(client.node.state / "host.toml", {}, {})
    assert (config.name, config.lifetime_s) == ("client.lab", 7)
    assert config.paths.log == client.log
    peer = config.peers["server.lab"]
    assert peer.identity.key == server.public
    assert [str(address) for address in peer.addresses] == ["10.2.0.2:4747", "[fd00:2::2]:4747"]
    names = Names(config.domains)
    assert names.name_of(server.public, peer.identity.certificate, 1e9) == "server.lab"
    offered = load_host(server.node.state / "host.toml", {}, {}).services
    assert {name: service.port for name, service in offered.items()} == SERVICES


@pytest.mark.parametrize(
    ("policy", "direction"), [(ALLOW_LAB, "in"), (firewall_reject.POLICY, "out")]
)
def test_a_gate_has_a_policy_that_passes_its_own_tests(
    tmp_path: Path, policy: str, direction: str
) -> None:
    made = Daemons(tmp_path)
    gate = made.gate(
        node("gate", 1, tmp_path),
        inside=node("client", 1, tmp_path),
        outside=node("server", 2, tmp_path),
        policy=policy.replace("DIRECTION", direction),
        lifetime_s=2,
    )
    config = load_gate(gate.node.state / "gate.toml", {}, {})
    assert (config.inside, config.outside) == (("to-client",), ("to-server",))
    assert config.lifetime_s == 2
    assert config.paths.policy is not None
    assert load_policy(config.paths.policy).default is PolicyAction.REJECT
    assert key_text(gate.public).startswith("k")


def test_within_gives_up_after_its_time_with_what_it_saw_last() -> None:
    assert within(0, lambda: "there") == "there"
    assert within(0, lambda: "") == ""
