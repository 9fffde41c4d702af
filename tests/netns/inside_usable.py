"""Which of a host's addresses packets can come to: as links come and go."""

from ipaddress import ip_address

from netns.data_plane_stage import Stage, inside, wait_until
from wayside.core.address import IP
from wayside.kernel.usable import usable_addresses
from wayside.lab.world import Node

LOOPBACK = {ip_address("127.0.0.1"), ip_address("::1")}
MANY = 100


def usable(node: Node) -> set[IP]:
    """Without the link-local ones, which the kernel makes up."""
    with inside(node):
        return {ip for ip in usable_addresses() if not ip.is_link_local}


def addresses(*texts: str) -> set[IP]:
    return {ip_address(text) for text in texts}


def a_node(stage: Stage, name: str) -> Node:
    stage.gate.node.run("ip", "netns", "add", name)
    node = Node(name, stage.gate.node.out)
    node.run("ip", "link", "set", "lo", "up")
    return node


def test_an_address_is_usable_while_its_link_carries_and_nobody_else_may_have_it(
    stage: Stage,
) -> None:
    host, other = a_node(stage, "roaming"), a_node(stage, "beyond")
    host.run(
        "ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", other.name
    )
    assert usable(host) == LOOPBACK
    for words in (
        ("10.70.0.2/24", "dev", "near"),
        ("10.70.0.3/24", "dev", "near"),
        ("10.70.1.2/24", "dev", "near", "label", "near:1"),
        ("fd00:70::2/64", "dev", "near", "nodad"),
    ):
        host.run("ip", "address", "add", *words)
    assert usable(host) == LOOPBACK  # the link is down
    host.run("ip", "link", "set", "near", "up")
    assert usable(host) == LOOPBACK  # it is up, and nobody is at its other end
    other.run("ip", "link", "set", "far", "up")
    mine = addresses("10.70.0.2", "10.70.0.3", "10.70.1.2", "fd00:70::2")
    assert wait_until(lambda: usable(host) == LOOPBACK | mine, 2.0)
    host.run("ip", "address", "add", "fd00:70::3/64", "dev", "near")
    assert usable(host) == LOOPBACK | mine  # somebody may still say that it is theirs
    more = addresses("fd00:70::3")
    assert wait_until(lambda: usable(host) == LOOPBACK | mine | more, 5.0)
    host.run("ip", "address", "del", "10.70.0.3/24", "dev", "near")
    assert usable(host) == (LOOPBACK | mine | more) - addresses("10.70.0.3")
    other.run("ip", "link", "set", "far", "down")
    assert wait_until(lambda: usable(host) == LOOPBACK, 2.0)


def test_more_addresses_than_there_was_room_for_at_first_are_all_told(stage: Stage) -> None:
    node = a_node(stage, "crowded")
    lines = [f"address add 10.71.{number}.1/32 dev lo\n" for number in range(MANY)]
    node.run("ip", "-batch", "-", stdin="".join(lines))
    mine = addresses(*(f"10.71.{number}.1" for number in range(MANY)))
    assert usable(node) == LOOPBACK | mine
