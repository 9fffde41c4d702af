"""What the data plane's tests share: one world, and small tools. A pytest plugin.

    client ──net 1── gate ──net 2── server        198.18.0.1 and fd77:6179:7364::1 are each host's
       10.1.0.2         10.2.0.2     10.2.0.1      own virtual address, ...::2 the other's

Each host has a helper with the host's table, the gate one with the gate's. The world is made once;
each test puts the rules it wants and the next begins without any.
"""

import asyncio
import ctypes
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import ioctl
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.plan import Change, Put, Remove
from wayside.kernel.tap import read_packets
from wayside.lab.world import Node, World
from wayside.runtime.helper_client import GateSetup, Helper, HostSetup, Sockets

CLONE_NEWNET = 0x40000000
LIFETIME_S = 2.0
OWN = {4: IPv4Address("198.18.0.1"), 6: IPv6Address("fd77:6179:7364::1")}
PEER = {4: IPv4Address("198.18.0.2"), 6: IPv6Address("fd77:6179:7364::2")}
SETUP = HostSetup("198.18.0.1", "fd77:6179:7364::1", "198.18.0.0/15", "fd77:6179:7364::/48")
FAMILIES = (4, 6)
TRANSPORTS = (Transport.UDP, Transport.TCP)
KINDS = {Transport.UDP: socket.SOCK_DGRAM, Transport.TCP: socket.SOCK_STREAM}
DOMAINS = {4: socket.AF_INET, 6: socket.AF_INET6}
ABSENT_S = 0.3
"""On these links a packet takes microseconds: what has not come by then does not come."""
COMES_S = 3.0
"""How long what must come may take: it costs nothing when it comes, and the machine may be busy."""


@contextmanager
def inside(node: Node) -> Generator[None]:
    """In the network namespace of a node, for sockets and processes made meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{node.name}", os.O_RDONLY)
    try:
        assert libc.setns(there, CLONE_NEWNET) == 0
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(there)
        os.close(home)


@dataclass
class Box:
    """A node with its helper."""

    node: Node
    helper: Helper
    rules: list[Rule]

    def put(self, *rules: Rule) -> None:
        self.rules += rules
        self.apply(*(Put(rule) for rule in rules))

    def apply(self, *changes: Change) -> None:
        async def ask() -> None:
            await self.helper.apply(changes)

        RUNNER.run(ask())


@dataclass
class Stage:
    client: Box
    gate: Box
    server: Box
    client_sockets: Sockets
    server_sockets: Sockets

    def wire(self, family: int) -> tuple[Any, Any]:
        return self.client.node.address(family), self.server.node.address(family)


RUNNER = asyncio.Runner()
CID = Cid(bytes(range(16)))


@pytest.fixture(scope="session")
def stage() -> Generator[Stage]:
    client, gate, server = World(Path(sys.argv[1])).chain("client", "gate", "server")
    boxes: list[Box] = []
    for node in (client, gate, server):
        assert wait_until(lambda node=node: not tentative(node), 5.0)
        with inside(node):
            boxes.append(Box(node, Helper.start(), []))
    one, middle, two = boxes
    RUNNER.run(one.helper.setup_host(SETUP))
    RUNNER.run(two.helper.setup_host(SETUP))
    RUNNER.run(middle.helper.setup_gate(GateSetup(("to-client",), ("to-server",), LIFETIME_S)))
    sockets = [RUNNER.run(box.helper.open_sockets("host")) for box in (one, two)]
    yield Stage(one, middle, two, *sockets)
    for one_role in sockets:
        one_role.close()
    for box in boxes:
        box.helper.close()
    RUNNER.close()


def tentative(node: Node) -> str:
    """IPv6 addresses that the kernel does not use yet."""
    return node.run("ip", "address", "show", "tentative").stdout


@pytest.fixture(autouse=True)
def no_rules(stage: Stage) -> Generator[None]:
    yield
    for box in (stage.client, stage.gate, stage.server):
        box.apply(*(Remove(rule) for rule in box.rules))
        box.rules.clear()
    for sockets in (stage.client_sockets, stage.server_sockets):
        read_packets(sockets.tap)


# --- small tools ---


def accept(flow: Flow, lifetime_s: float | None = None, renewed: bool = True) -> Rule:
    return Rule(CID, flow, Action.ACCEPT, None, lifetime_s, renewed, "a note")


def pinhole(flow: Flow, lifetime_s: float | None = None, renewed: bool = True) -> list[Rule]:
    return [accept(one, lifetime_s, renewed) for one in (flow, flow.reversed())]


def rewrites(local: Flow, wire: Flow) -> list[Rule]:
    """A host's two rules: out as the wire has it, back as the socket has it."""
    return [
        Rule(CID, local, Action.REWRITE, wire, note="https"),
        Rule(CID, wire.reversed(), Action.REWRITE, local.reversed()),
    ]


def wire_flow(stage: Stage, family: int, transport: Transport, sport: int, dport: int) -> Flow:
    a, b = stage.wire(family)
    return Flow(transport, Address(a, sport), Address(b, dport))


def local_flow(family: int, transport: Transport, sport: int, dport: int) -> Flow:
    return Flow(transport, Address(OWN[family], sport), Address(PEER[family], dport))


def bound(node: Node, transport: Transport, address: Address) -> socket.socket:
    with inside(node):
        sock = socket.socket(DOMAINS[address.family], KINDS[transport])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((str(address.ip), address.port))
    sock.settimeout(COMES_S)
    return sock


def arrives(
    sender: socket.socket,
    receiver: socket.socket,
    to: Address,
    text: bytes,
    within_s: float = COMES_S,
) -> bool:
    """Whether a datagram from one gets to the other."""
    sender.sendto(text, (str(to.ip), to.port))
    receiver.settimeout(within_s)
    try:
        return receiver.recv(65535) == text
    except TimeoutError:
        return False


def is_lost(sender: socket.socket, receiver: socket.socket, to: Address, text: bytes) -> bool:
    """Whether a datagram from one does not get to the other."""
    return not arrives(sender, receiver, to, text, ABSENT_S)


def passed_until(
    sender: socket.socket, receiver: socket.socket, to: Address, limit_s: float = 4.0
) -> tuple[float, float]:
    """Send until a datagram is lost: before when the last was sent that came, and after when it.

    Monotonic seconds, each on the side of which a busy machine makes no difference.
    """
    began = came = time.monotonic()
    while True:
        before = time.monotonic()
        if is_lost(sender, receiver, to, b"on and on"):
            return came, time.monotonic() - ABSENT_S
        came = before
        assert came - began < limit_s, "datagrams come on and on"
        time.sleep(0.02)


@contextmanager
def udp_pair(stage: Stage, flow: Flow) -> Generator[tuple[socket.socket, socket.socket]]:
    """Sockets at both wire ends of a flow."""
    a = bound(stage.client.node, Transport.UDP, flow.source)
    b = bound(stage.server.node, Transport.UDP, flow.destination)
    with a, b:
        yield a, b


def passes_both_ways(stage: Stage, flow: Flow) -> bool:
    with udp_pair(stage, flow) as (a, b):
        there = arrives(a, b, flow.destination, b"there")
        return there and arrives(b, a, flow.source, b"back")


def passes_neither_way(stage: Stage, flow: Flow) -> bool:
    with udp_pair(stage, flow) as (a, b):
        there = is_lost(a, b, flow.destination, b"there")
        return there and is_lost(b, a, flow.source, b"back")


def connect_through(
    stage: Stage, listen: Address, flow: Flow, within_s: float = COMES_S
) -> tuple[socket.socket, socket.socket]:
    """A TCP connection of the client to `flow.destination`, accepted by the server."""
    with bound(stage.server.node, Transport.TCP, listen) as listener:
        listener.listen()
        client = bound(stage.client.node, Transport.TCP, flow.source)
        client.settimeout(within_s)
        try:
            client.connect((str(flow.destination.ip), flow.destination.port))
            accepted, _ = listener.accept()
        except OSError:
            client.close()
            raise
    accepted.settimeout(5.0)
    client.settimeout(5.0)
    return client, accepted


def offload(node: Node, link: str, on: bool) -> None:
    """Checksums of sent packets made by the link or by the stack (ETHTOOL_STXCSUM)."""
    with inside(node), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        command = bytearray(struct.pack("=II", 0x17, on))
        address = (ctypes.c_char * len(command)).from_buffer(command)
        request = struct.pack("16sP", link.encode(), ctypes.addressof(address)).ljust(40, b"\0")
        ioctl(sock, 0x8946, request)


def transfer(sender: socket.socket, receiver: socket.socket, octets: int) -> float:
    """Send so much and have it received whole; how many seconds it took."""
    data = os.urandom(octets)
    began = time.monotonic()
    thread = threading.Thread(target=sender.sendall, args=(data,))
    thread.start()
    got = bytearray()
    while len(got) < octets:
        got += receiver.recv(1 << 20)
    thread.join()
    assert bytes(got) == data
    return time.monotonic() - began


def listing(node: Node, table: str = "inet admin") -> str:
    return node.run("nft", "-s", "list", "table", *table.split()).stdout


def rule_of(box: Box, flow: Flow) -> Any:
    found = RUNNER.run(box.helper.rules())
    return next((one for one in found if one.rule.match == flow), None)


def wait_until(condition: Callable[[], bool], limit_s: float = 2.0) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def socket_of_errors(stage: Stage, family: int) -> socket.socket:
    """The client's raw ICMP socket, read empty."""
    sockets = stage.client_sockets
    sock = (sockets.icmp_v4 if family == 4 else sockets.icmp_v6).dup()
    while select.select([sock], [], [], 0)[0]:
        sock.recv(2000)
    return sock


def release_ip(sockets: Sockets, packet: bytes, to: Address) -> None:
    sock = sockets.raw_v4 if to.family == 4 else sockets.raw_v6
    sock.sendto(packet, (str(to.ip), 0))


def meet(stage: Stage, family: int, transport: Transport, other_ports: bool) -> tuple[Flow, Flow]:
    """Rules of a connection on both hosts and the gate: the client's local flow, the server's."""
    local = local_flow(family, transport, 40000, 7000)
    wire = wire_flow(stage, family, transport, *((51000, 52000) if other_ports else (40000, 7000)))
    at_server = Flow(transport, local.destination, local.source)
    at_server = Flow(transport, Address(OWN[family], 7000), Address(PEER[family], 40000))
    stage.gate.put(*pinhole(wire))
    stage.client.put(*rewrites(local, wire))
    stage.server.put(*rewrites(at_server, wire.reversed()))
    return local, at_server
