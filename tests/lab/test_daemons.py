from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from wayside.core.address import Address
from wayside.core.identity import Names, key_text
from wayside.core.policy import PolicyAction
from wayside.lab import daemons as lab_daemons
from wayside.lab import firewall_redirect, firewall_reject, world
from wayside.lab.daemons import Daemons, within
from wayside.lab.stage import ALLOW_LAB, SERVICES
from wayside.lab.world import Node
from wayside.runtime.config import load_host
from wayside.runtime.enrolment import domain_of_key
from wayside.runtime.gate_config import load_gate
from wayside.runtime.keyfile import read_key
from wayside.runtime.policy_file import load_policy
from wayside.runtime.rendezvous_config import load_rendezvous


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


def test_a_gate_may_be_a_nat_and_name_relays(tmp_path: Path) -> None:
    made = Daemons(tmp_path)
    home = node("gate", 1, tmp_path)
    home.addresses["server"] = (IPv4Address("10.7.0.2"), IPv6Address("fd00:7::2"))
    gate = made.gate(
        home,
        inside=node("client", 1, tmp_path),
        outside=node("server", 2, tmp_path),
        policy=ALLOW_LAB.replace("DIRECTION", "out"),
        nat=True,
        ports="40000-40001",
        relays={"proxy": node("proxy", 3, tmp_path)},
    )
    config = load_gate(gate.node.state / "gate.toml", {}, {})
    assert config.box.nat is not None
    assert config.box.nat.outside == {4: IPv4Address("10.7.0.2"), 6: IPv6Address("fd00:7::2")}
    assert config.box.ports == range(40000, 40002)
    assert {str(one) for one in config.relays.addresses["proxy"]} == {
        "10.3.0.2:4747",
        "[fd00:3::2]:4747",
    }


def test_a_relay_serves_the_lab_for_those_who_approve(tmp_path: Path) -> None:
    made = Daemons(tmp_path)
    gate = made.relay(node("gate", 1, tmp_path), approvers=(), policy=ALLOW_LAB)
    proxy = made.relay(node("proxy", 2, tmp_path), approvers=[gate], policy=ALLOW_LAB)
    relay = load_gate(proxy.node.state / "gate.toml", {}, {}).box.relay
    assert relay is not None
    assert relay.approvers == (gate.public,)
    assert relay.serves(IPv4Address("10.3.0.2"))
    assert relay.serves(IPv6Address("fd00:3::2"))
    assert not relay.serves(IPv4Address("192.168.0.1"))


def test_a_host_registers_where_it_also_asks_for_names(tmp_path: Path) -> None:
    made = Daemons(tmp_path)
    there = made.rendezvous_at(node("meet", 1, tmp_path), policy=ALLOW_LAB)
    host = made.host(node("server", 2, tmp_path), SERVICES, rendezvous=there, redirectors=[there])
    made.start(introduce=False)
    config = load_host(host.node.state / "host.toml", {}, {})
    assert (config.peers, config.steering.trusted) == ({}, (there.public,))
    assert config.steering.names["lab"].key == there.public
    meets = load_rendezvous(there.node.state / "rendezvous.toml", {}, {})
    assert meets.domain_key is not None
    assert domain_of_key(read_key(meets.domain_key).public, meets.domains) == "lab"
    assert [str(address.ip) for address in meets.addresses] == ["10.1.0.2", "fd00:1::2"]


def test_a_nat_has_several_hosts_inside_and_knows_some_by_key(tmp_path: Path) -> None:
    made = Daemons(tmp_path)
    box, client = node("gate", 1, tmp_path), node("client", 3, tmp_path)
    box.addresses["server"] = (IPv4Address("10.7.0.2"), IPv6Address("fd00:7::2"))
    outside, cellar = node("server", 2, tmp_path), made.host(node("cellar", 4, tmp_path))
    gate = made.gate(
        box,
        inside=[client, cellar.node],
        outside=outside,
        policy=ALLOW_LAB.replace("DIRECTION", "in"),
        nat=True,
        hosts={cellar.public: cellar.node.address(6)},
    )
    config = load_gate(gate.node.state / "gate.toml", {}, {})
    assert config.inside == ("to-client", "to-cellar")
    assert config.box.nat is not None
    assert config.box.nat.known == {cellar.public: Address(IPv6Address("fd00:4::2"), 4747)}
    cellar.behind = (box, outside)
    host = made.host(client)
    made.introduce(host, cellar)
    peer = load_host(client.state / "host.toml", {}, {}).peers["cellar.lab"]
    assert [str(address) for address in peer.addresses] == ["10.7.0.2:4747", "[fd00:7::2]:4747"]


def test_a_policy_may_redirect_to_a_host_that_answers_instead(tmp_path: Path) -> None:
    made = Daemons(tmp_path)
    cache = made.host(node("cache", 3, tmp_path), SERVICES)
    gate = made.gate(
        node("gate", 1, tmp_path),
        inside=node("client", 1, tmp_path),
        outside=node("server", 2, tmp_path),
        policy=firewall_redirect.POLICY,
        relays={"cache": cache, "proxy": node("proxy", 4, tmp_path)},
    )
    config = load_gate(gate.node.state / "gate.toml", {}, {})
    assert config.relays.instead == {"cache": cache.public}
    assert config.paths.policy is not None
    assert load_policy(config.paths.policy, config.relays.addresses).rules


def test_a_host_may_register_over_one_family_only(tmp_path: Path) -> None:
    made = Daemons(tmp_path)
    there = made.rendezvous_at(node("meet", 1, tmp_path))
    host = made.host(node("server", 2, tmp_path), rendezvous=there, families=[6])
    (registers,) = load_host(host.node.state / "host.toml", {}, {}).steering.registers
    assert [address.family for address in registers.addresses] == [6]


def test_within_gives_up_after_its_time_with_what_it_saw_last() -> None:
    assert within(0, lambda: "there") == "there"
    assert within(0, lambda: "") == ""
