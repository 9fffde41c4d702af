"""The inside of test_data_plane.py: a pytest run in an enclosure, over one world.

    client ──net 1── gate ──net 2── server        198.18.0.1 and fd77:6179:7364::1 are each host's
       10.1.0.2         10.2.0.2     10.2.0.1      own virtual address, ...::2 the other's

Each host has a helper with the host's table, the gate one with the gate's. The world is made once;
each test puts the rules it wants and the next begins without any.
"""

import asyncio
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.endings import ended_flows, open_flows
from wayside.kernel.icmp import error_from_socket, translate_error
from wayside.kernel.packets import build_refusal, build_udp, parse_packet
from wayside.kernel.plan import Change, KernelError, Put, Remove
from wayside.kernel.tap import inject, read_packets, release
from wayside.lab.enclosure import leave_with_the_outer_process
from wayside.lab.world import Node, World
from wayside.runtime.helper_client import GateSetup, Helper, HostSetup, Sockets
from wayside.runtime.privilege import drop_all

CLONE_NEWNET = 0x40000000
LIFETIME_S = 2.0
OWN = {4: IPv4Address("198.18.0.1"), 6: IPv6Address("fd77:6179:7364::1")}
PEER = {4: IPv4Address("198.18.0.2"), 6: IPv6Address("fd77:6179:7364::2")}
SETUP = HostSetup("198.18.0.1", "fd77:6179:7364::1", "198.18.0.0/15", "fd77:6179:7364::/48")
FAMILIES = (4, 6)
TRANSPORTS = (Transport.UDP, Transport.TCP)
KINDS = {Transport.UDP: socket.SOCK_DGRAM, Transport.TCP: socket.SOCK_STREAM}
DOMAINS = {4: socket.AF_INET, 6: socket.AF_INET6}
SOON_S = 0.3
"""On these links a packet takes microseconds: what has not come by then does not come."""


@contextmanager
def inside(node: Node) -> Iterator[None]:
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
        RUNNER.run(self.helper.apply(changes))


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
def stage() -> Iterator[Stage]:
    client, gate, server = World(Path(sys.argv[1])).chain("client", "gate", "server")
    boxes: list[Box] = []
    for node in (client, gate, server):
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


@pytest.fixture(autouse=True)
def no_rules(stage: Stage) -> Iterator[None]:
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
    sock.settimeout(SOON_S)
    return sock


def arrives(sender: socket.socket, receiver: socket.socket, to: Address, text: bytes) -> bool:
    """Whether a datagram from one gets to the other."""
    sender.sendto(text, (str(to.ip), to.port))
    try:
        return receiver.recv(65535) == text
    except TimeoutError:
        return False


@contextmanager
def udp_pair(stage: Stage, flow: Flow) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Sockets at both wire ends of a flow."""
    a = bound(stage.client.node, Transport.UDP, flow.source)
    b = bound(stage.server.node, Transport.UDP, flow.destination)
    with a, b:
        yield a, b


def passes_both_ways(stage: Stage, flow: Flow) -> bool:
    with udp_pair(stage, flow) as (a, b):
        there = arrives(a, b, flow.destination, b"there")
        back = arrives(b, a, flow.source, b"back")
    assert there == back
    return there


def connect_through(
    stage: Stage, listen: Address, flow: Flow
) -> tuple[socket.socket, socket.socket]:
    """A TCP connection of the client to `flow.destination`, accepted by the server."""
    with bound(stage.server.node, Transport.TCP, listen) as listener:
        listener.listen()
        client = bound(stage.client.node, Transport.TCP, flow.source)
        try:
            client.connect((str(flow.destination.ip), flow.destination.port))
            accepted, _ = listener.accept()
        except OSError:
            client.close()
            raise
    accepted.settimeout(5.0)
    client.settimeout(5.0)
    return client, accepted


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


# --- the gate ---


@pytest.mark.parametrize("family", FAMILIES)
def test_between_inside_and_outside_nothing_passes_by_default(stage: Stage, family: int) -> None:
    flow = wire_flow(stage, family, Transport.UDP, 4000, 5000)
    assert not passes_both_ways(stage, flow)
    listener = bound(stage.server.node, Transport.TCP, flow.destination)
    client = bound(stage.client.node, Transport.TCP, flow.source)
    with listener, client:
        listener.listen()
        with pytest.raises(TimeoutError):
            client.connect((str(flow.destination.ip), flow.destination.port))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pinhole_fits_only_its_5_tuple(stage: Stage, family: int) -> None:
    """R-6.1."""
    flow = wire_flow(stage, family, Transport.UDP, 4000, 5000)
    stage.gate.put(*pinhole(flow))
    assert passes_both_ways(stage, flow)
    for sport, dport in ((4001, 5000), (4000, 5001), (5000, 4000)):
        assert not passes_both_ways(stage, wire_flow(stage, family, Transport.UDP, sport, dport))
    tcp = wire_flow(stage, family, Transport.TCP, 4000, 5000)
    with pytest.raises(TimeoutError):
        connect_through(stage, tcp.destination, tcp)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tcp_connection_passes_its_pinhole(stage: Stage, family: int) -> None:
    flow = wire_flow(stage, family, Transport.TCP, 4100, 5100)
    stage.gate.put(*pinhole(flow))
    client, server = connect_through(stage, flow.destination, flow)
    with client, server:
        transfer(client, server, 1 << 20)
        transfer(server, client, 1 << 20)


def test_a_removed_pinhole_is_shut_at_once_and_others_stay(stage: Stage) -> None:
    flow = wire_flow(stage, 4, Transport.UDP, 4000, 5000)
    other = wire_flow(stage, 4, Transport.UDP, 4002, 5002)
    stage.gate.put(*pinhole(flow), *pinhole(other))
    stage.gate.apply(*(Remove(rule) for rule in pinhole(flow)))
    assert not passes_both_ways(stage, flow)
    assert passes_both_ways(stage, other)


def test_a_pending_rule_is_not_renewed_by_packets_and_expires(stage: Stage) -> None:
    """R-6.4."""
    flow = wire_flow(stage, 4, Transport.UDP, 4003, 5003)
    stage.gate.put(*pinhole(flow, lifetime_s=0.5, renewed=False))
    began = time.monotonic()
    with udp_pair(stage, flow) as (a, b):
        while arrives(a, b, flow.destination, b"on and on"):
            assert time.monotonic() - began < 2.0
            time.sleep(0.02)
    assert 0.4 < time.monotonic() - began - SOON_S < 1.0
    assert rule_of(stage.gate, flow) is None


def test_a_confirmed_rule_lives_as_long_as_packets_come_and_goes_after_silence(
    stage: Stage,
) -> None:
    """R-6.4."""
    flow = wire_flow(stage, 4, Transport.UDP, 4004, 5004)
    stage.gate.put(*pinhole(flow))
    began = time.monotonic()
    with udp_pair(stage, flow) as (a, b):
        while time.monotonic() - began < 1.75 * LIFETIME_S:
            assert arrives(a, b, flow.destination, b"on and on")
            time.sleep(0.2)
        assert not arrives(b, a, flow.source, b"nobody renewed the way back")
        assert arrives(a, b, flow.destination, b"but this one")
        time.sleep(LIFETIME_S + 0.2)
        assert not arrives(a, b, flow.destination, b"too late")


def test_a_pending_rule_becomes_a_confirmed_one_and_pending_again(stage: Stage) -> None:
    flow = wire_flow(stage, 4, Transport.UDP, 4005, 5005)
    stage.gate.put(*pinhole(flow, lifetime_s=0.4, renewed=False))
    stage.gate.put(*pinhole(flow))
    time.sleep(0.6)
    assert passes_both_ways(stage, flow)
    stage.gate.put(*pinhole(flow, lifetime_s=0.4, renewed=False))
    time.sleep(0.6)
    assert not passes_both_ways(stage, flow)


def test_a_put_after_expiry_and_a_remove_after_expiry_both_work(stage: Stage) -> None:
    flow = wire_flow(stage, 4, Transport.UDP, 4006, 5006)
    for _ in range(2):
        stage.gate.put(*pinhole(flow, lifetime_s=0.1, renewed=False))
        time.sleep(0.3)
    stage.gate.apply(*(Remove(rule) for rule in pinhole(flow)))
    stage.gate.put(*pinhole(flow))
    assert passes_both_ways(stage, flow)


def test_a_blocked_flow_is_dropped_even_where_others_would_let_it_pass(stage: Stage) -> None:
    flow = wire_flow(stage, 4, Transport.UDP, 4007, 5007)
    to_gate = Flow(Transport.UDP, flow.source, Address(stage.gate.node.address(4), 5007))
    a = bound(stage.client.node, Transport.UDP, flow.source)
    b = bound(stage.gate.node, Transport.UDP, to_gate.destination)
    with a, b:
        assert arrives(a, b, to_gate.destination, b"to the gate itself")
        stage.gate.put(Rule(CID, to_gate, Action.DROP, lifetime_s=0.6))
        assert not arrives(a, b, to_gate.destination, b"stopped")
        time.sleep(0.5)
        assert arrives(a, b, to_gate.destination, b"the stop is over")


@pytest.mark.parametrize("renewed", [True, False])
def test_rules_are_read_back_with_note_owner_and_counters(stage: Stage, renewed: bool) -> None:
    """R-6.5."""
    flow = wire_flow(stage, 6, Transport.UDP, 4008, 5008)
    stage.gate.put(*pinhole(flow, LIFETIME_S, renewed))
    with udp_pair(stage, flow) as (a, b):
        for _ in range(3):
            assert arrives(a, b, flow.destination, b"x" * 52)
    found = rule_of(stage.gate, flow)
    assert found.rule == accept(flow, LIFETIME_S, renewed)
    assert (found.packets, found.bytes) == (3, 300)
    assert found.expires_s <= LIFETIME_S


def test_remove_leaves_a_match_that_has_another_owner_now(stage: Stage) -> None:
    flow = wire_flow(stage, 4, Transport.UDP, 4009, 5009)
    other = Rule(Cid(b"another owner !!"), flow, Action.ACCEPT, None, None, True)
    stage.gate.put(accept(flow))
    stage.gate.put(other)
    stage.gate.apply(Remove(accept(flow)))
    assert rule_of(stage.gate, flow).rule.owner == other.owner


@pytest.mark.parametrize("family", FAMILIES)
def test_an_icmp_error_passes_that_quotes_an_admitted_flow_and_no_other(
    stage: Stage, family: int
) -> None:
    flow = wire_flow(stage, family, Transport.UDP, 4010, 5010)
    stage.gate.put(accept(flow))
    with bound(stage.client.node, Transport.UDP, flow.source) as a:
        a.connect((str(flow.destination.ip), flow.destination.port))
        a.send(b"to a closed port")
        with pytest.raises(ConnectionRefusedError):
            a.recv(100)
    listener = socket_of_errors(stage, family)
    forged = wire_flow(stage, family, Transport.UDP, 4011, 5011)
    quoted = parse_packet(build_udp(forged, b"never sent"))
    assert quoted
    with listener:
        for packet, passes in ((quoted, False), (parse_packet(build_udp(flow, b"sent")), True)):
            assert packet
            error = build_refusal(packet.raw, closed=True)
            assert error
            release_ip(stage.server_sockets, error, flow.source)
            ready = select.select([listener], [], [], SOON_S)[0]
            assert bool(ready) is passes
            if ready:
                listener.recv(2000)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_signaling_in_transit_comes_to_the_gate_with_its_original_destination(
    stage: Stage, family: int
) -> None:
    from wayside.runtime.udp import read_datagrams

    sockets = RUNNER.run(stage.gate.helper.open_sockets("gate"))
    flow = wire_flow(stage, family, Transport.UDP, 4747, 4747)
    sock = sockets.signaling_v4 if family == 4 else sockets.signaling_v6
    source = stage.client_sockets.signaling_v4 if family == 4 else stage.client_sockets.signaling_v6
    with closing(sockets):
        source.sendto(b"OPEN", (str(flow.destination.ip), 4747))
        assert select.select([sock], [], [], 1.0)[0]
        (got,) = read_datagrams(sock, 4747)
        assert (got.data, got.source, got.destination) == (b"OPEN", flow.source, flow.destination)
        with inside(stage.gate.node):
            assert got.interface == socket.if_nametoindex("to-client")
        sock.sendto(b"ACCEPT", (str(flow.source.ip), 4747))
        assert select.select([source], [], [], 1.0)[0]
        (answer,) = read_datagrams(source, 4747)
        assert answer.data == b"ACCEPT"


@pytest.mark.parametrize("family", FAMILIES)
def test_neighbours_are_still_discovered_and_the_gate_itself_reached(
    stage: Stage, family: int
) -> None:
    stage.client.node.run("ip", "neighbour", "flush", "all")
    stage.gate.node.run("ip", "neighbour", "flush", "all")
    to = Address(stage.gate.node.address(family), 6002)
    a = bound(stage.client.node, Transport.UDP, Address(stage.client.node.address(family), 6003))
    b = bound(stage.gate.node, Transport.UDP, to)
    with a, b:
        assert arrives(a, b, to, b"hello")


# --- hosts ---


def cases() -> Iterator[Any]:
    for family in FAMILIES:
        for transport in TRANSPORTS:
            for ports in ("same ports", "other ports"):
                name = f"{transport.name.lower()}{family} {ports}"
                yield pytest.param(family, transport, ports == "other ports", id=name)


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


@pytest.mark.parametrize(("family", "transport", "other_ports"), list(cases()))
def test_both_hosts_rewrite_and_sockets_see_virtual_addresses_only(
    stage: Stage, family: int, transport: Transport, other_ports: bool
) -> None:
    """R-6.2."""
    local, at_server = meet(stage, family, transport, other_ports)
    if transport is Transport.TCP:
        client, server = connect_through(stage, at_server.source, local)
        with client, server:
            assert server.getpeername()[:2] == (str(at_server.destination.ip), 40000)
            assert client.getsockname()[:2] == (str(local.source.ip), 40000)
            transfer(client, server, 4 << 20)
            transfer(server, client, 4 << 20)
        return
    a = bound(stage.client.node, transport, local.source)
    b = bound(stage.server.node, transport, at_server.source)
    with a, b:
        a.sendto(b"there", (str(local.destination.ip), local.destination.port))
        data, name = b.recvfrom(100)
        assert (data, name[:2]) == (b"there", (str(at_server.destination.ip), 40000))
        b.sendto(b"back", name[:2])
        assert a.recvfrom(100)[0] == b"back"
        for size in (0, 1, 1473, 9000, 60000):
            text = os.urandom(size)
            a.sendto(text, (str(local.destination.ip), local.destination.port))
            assert b.recv(65535) == text


@pytest.mark.parametrize(("family", "transport", "other_ports"), list(cases()))
def test_checksums_are_right_on_the_wire_when_no_hardware_makes_them(
    stage: Stage, family: int, transport: Transport, other_ports: bool
) -> None:
    """With offloads off, the receiver's stack verifies what rewriting has made of a checksum."""
    links = ((stage.client.node, "to-gate"), (stage.server.node, "to-gate"))
    links += ((stage.gate.node, "to-client"), (stage.gate.node, "to-server"))
    links += ((stage.client.node, "wayside0"), (stage.server.node, "wayside0"))
    try:
        for node, link in links:
            offload(node, link, on=False)
        local, at_server = meet(stage, family, transport, other_ports)
        if transport is Transport.TCP:
            client, server = connect_through(stage, at_server.source, local)
            with client, server:
                transfer(client, server, 100_000)
            return
        a = bound(stage.client.node, transport, local.source)
        b = bound(stage.server.node, transport, at_server.source)
        with a, b:
            for size in (0, 1, 1001, 4000):
                assert arrives(a, b, local.destination, os.urandom(size))
            if family == 4:
                a.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK: a UDP checksum of zero
                assert arrives(a, b, local.destination, b"unsummed")
    finally:
        for node, link in links:
            offload(node, link, on=True)


def offload(node: Node, link: str, on: bool) -> None:
    """Checksums of sent packets made by the link, or by the stack (SIOCETHTOOL, ETHTOOL_STXCSUM)."""
    from fcntl import ioctl

    with inside(node), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        command = bytearray(struct.pack("=II", 0x17, on))
        address = (ctypes.c_char * len(command)).from_buffer(command)
        request = struct.pack("16sP", link.encode(), ctypes.addressof(address)).ljust(40, b"\0")
        ioctl(sock, 0x8946, request)


def test_packets_that_no_rule_fits_are_left_alone(stage: Stage) -> None:
    a, b = stage.client.node, stage.gate.node
    to = Address(b.address(4), 6000)
    one, two = bound(a, Transport.UDP, Address(a.address(4), 6001)), bound(b, Transport.UDP, to)
    with one, two:
        assert arrives(one, two, to, b"nothing of ours")


@pytest.mark.parametrize("family", FAMILIES)
def test_virtual_addresses_do_not_come_in_from_the_network(stage: Stage, family: int) -> None:
    own, peer = Address(OWN[family], 7001), Address(PEER[family], 7002)
    forged = build_udp(Flow(Transport.UDP, peer, own), b"forged")
    server, gate = stage.server.node, stage.gate.node
    route = f"{OWN[family]}/{OWN[family].max_prefixlen}"
    via = str(server.address(family))
    gate.run("ip", f"-{family}", "route", "add", route, "via", via)
    try:
        with inside(gate):
            raw = socket.socket(DOMAINS[family], socket.SOCK_RAW, socket.IPPROTO_RAW)
        with bound(server, Transport.UDP, own) as sock, raw:
            raw.sendto(forged, (str(own.ip), 0))
            with pytest.raises(TimeoutError):
                sock.recv(100)
            assert inject(stage.server_sockets.tap, forged)
            assert sock.recv(100) == b"forged"
    finally:
        gate.run("ip", f"-{family}", "route", "del", route)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_first_packet_comes_out_at_the_tap_and_goes_on_when_the_rules_are_in(
    stage: Stage, family: int, transport: Transport
) -> None:
    """R-6.6."""
    local = local_flow(family, transport, 40000, 7000)
    at_server = Flow(transport, Address(OWN[family], 7000), Address(PEER[family], 40000))
    b = bound(stage.server.node, transport, at_server.source)
    if transport is Transport.TCP:
        b.listen()
    a = bound(stage.client.node, transport, local.source)
    with a, b:
        a.setblocking(False)
        with pytest.raises(BlockingIOError) if transport is Transport.TCP else closing(a.dup()):
            a.connect((str(local.destination.ip), local.destination.port))
        if transport is Transport.UDP:
            a.send(b"first")
        assert select.select([stage.client_sockets.tap], [], [], 1.0)[0]
        (raw,) = read_packets(stage.client_sockets.tap)
        packet = parse_packet(raw)
        assert packet
        assert packet.flow == local
        assert packet.is_syn is (transport is Transport.TCP)
        meet(stage, family, transport, other_ports=False)
        sockets = stage.client_sockets
        assert release(sockets.raw_v4, sockets.raw_v6, raw)
        if transport is Transport.UDP:
            assert b.recv(100) == b"first"
        else:
            began = time.monotonic()
            accepted, name = b.accept()
            accepted.close()
            assert name[:2] == (str(PEER[family]), 40000)
            assert time.monotonic() - began < 0.2, "not by the SYN that TCP repeats after 1 s"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packet_released_without_a_rule_does_not_come_round_again(
    stage: Stage, family: int
) -> None:
    packet = build_udp(local_flow(family, Transport.UDP, 40001, 7001), b"too early")
    sockets = stage.client_sockets
    release(sockets.raw_v4, sockets.raw_v6, packet)
    assert not select.select([sockets.tap], [], [], SOON_S)[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("transport", "closed", "expected"),
    [
        (Transport.TCP, True, errno.ECONNREFUSED),
        (Transport.TCP, False, errno.EHOSTUNREACH),
        (Transport.UDP, True, errno.ECONNREFUSED),
        (Transport.UDP, False, errno.ECONNREFUSED),
    ],
)
def test_a_refused_application_hears_of_it_at_once(
    stage: Stage, family: int, transport: Transport, closed: bool, expected: int
) -> None:
    """R-6.6."""
    local = local_flow(family, transport, 40002, 7002)
    with bound(stage.client.node, transport, local.source) as a:
        a.setblocking(False)
        a.connect_ex((str(local.destination.ip), local.destination.port))
        if transport is Transport.UDP:
            a.send(b"anyone?")
        began = time.monotonic()
        assert select.select([stage.client_sockets.tap], [], [], 1.0)[0]
        answer = build_refusal(read_packets(stage.client_sockets.tap)[0], closed)
        assert answer
        assert inject(stage.client_sockets.tap, answer)
        select.select([a], [a], [a], 1.0) if transport is Transport.TCP else select.select(
            [a], [], [], 1.0
        )
        assert a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == expected
        assert time.monotonic() - began < 0.1


@contextmanager
def errors_brought_home(stage: Stage, wire: Flow, local: Flow) -> Iterator[list[bytes]]:
    """What the agent does: ICMP errors about the wire flow are injected about the local one."""
    sockets = stage.client_sockets
    sock = socket_of_errors(stage, wire.family)
    brought: list[bytes] = []
    over = threading.Event()

    def carry() -> None:
        while not over.is_set():
            if not select.select([sock], [], [], 0.05)[0]:
                continue
            message = error_from_socket(sock.recv(2048))
            packet = translate_error(message, wire.family, {wire: local}.get)
            if packet is not None:
                brought.append(packet)
                inject(sockets.tap, packet)

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        yield brought
    finally:
        over.set()
        thread.join()
        sock.close()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other_ports", [False, True])
def test_a_closed_port_is_known_to_a_udp_socket_at_once(
    stage: Stage, family: int, other_ports: bool
) -> None:
    local, _ = meet(stage, family, Transport.UDP, other_ports)
    ports = (51000, 52000) if other_ports else (40000, 7000)
    wire = wire_flow(stage, family, Transport.UDP, *ports)
    stage.server.apply(*(Remove(rule) for rule in stage.server.rules))
    with (
        errors_brought_home(stage, wire, local),
        bound(stage.client.node, Transport.UDP, local.source) as a,
    ):
        a.connect((str(local.destination.ip), local.destination.port))
        a.send(b"is anyone there?")
        with pytest.raises(ConnectionRefusedError):
            a.recv(100)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_1300_byte_link_in_the_middle_does_not_stall_a_transfer(
    stage: Stage, family: int
) -> None:
    local, at_server = meet(stage, family, Transport.TCP, other_ports=False)
    wire = wire_flow(stage, family, Transport.TCP, 40000, 7000)
    stage.gate.node.run("ip", "link", "set", "to-server", "mtu", "1300")
    stage.server.node.run("ip", "link", "set", "to-gate", "mtu", "1300")
    try:
        with errors_brought_home(stage, wire, local) as brought:
            client, server = connect_through(stage, at_server.source, local)
            with client, server:
                assert transfer(client, server, 4 << 20) < 2.0
                assert brought, "nobody said that the link is narrow: the test is of no use"
                info = client.getsockopt(socket.IPPROTO_TCP, 11, 104)
                assert struct.unpack_from("=I", info, 16)[0] <= 1300  # tcpi_snd_mss
    finally:
        stage.gate.node.run("ip", "link", "set", "to-server", "mtu", "1500")
        stage.server.node.run("ip", "link", "set", "to-gate", "mtu", "1500")
        stage.client.node.run("ip", "route", "flush", "cache")


def test_the_end_of_a_tcp_socket_is_told_with_the_addresses_it_had(stage: Stage) -> None:
    local, at_server = meet(stage, 4, Transport.TCP, other_ports=False)
    client, server = connect_through(stage, at_server.source, local)
    with inside(stage.client.node):
        assert local in open_flows()
    ended_flows(stage.client_sockets.tcp_ends)
    server.close()
    client.close()
    seen: list[Flow] = []

    def told() -> bool:
        seen.extend(ended_flows(stage.client_sockets.tcp_ends))
        return local in seen

    assert wait_until(told)


def test_a_rewriting_rule_with_a_lifetime_goes_by_itself(stage: Stage) -> None:
    local = local_flow(4, Transport.UDP, 40003, 7003)
    wire = wire_flow(stage, 4, Transport.UDP, 40003, 7003)
    stage.client.put(Rule(CID, local, Action.REWRITE, wire, lifetime_s=0.2))
    assert rule_of(stage.client, local).rule.rewrite == wire
    time.sleep(0.4)
    assert rule_of(stage.client, local) is None
    stage.client.put(Rule(CID, local, Action.REWRITE, wire))


def test_a_connection_moves_to_another_wire_5_tuple_in_mid_transfer(stage: Stage) -> None:
    local, at_server = meet(stage, 4, Transport.TCP, other_ports=False)
    client, server = connect_through(stage, at_server.source, local)
    with client, server:
        transfer(client, server, 1 << 20)
        old = wire_flow(stage, 4, Transport.TCP, 40000, 7000)
        moved = wire_flow(stage, 4, Transport.TCP, 51001, 52001)
        stage.gate.put(*pinhole(moved))
        stage.server.put(*rewrites(at_server, moved.reversed()))
        stage.client.put(*rewrites(local, moved))
        stage.client.apply(Remove(rewrites(local, old)[1]))
        stage.gate.apply(*(Remove(rule) for rule in pinhole(old)))
        assert transfer(client, server, 1 << 20) < 2.0


# --- what is others' ---


def test_a_table_of_the_administrator_is_never_touched(stage: Stage) -> None:
    admin = """
table inet admin {
  set friends { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }
  chain input { type filter hook input priority filter; policy accept; ip saddr @friends drop; }
}
table ip wayside {
  chain forward { type filter hook forward priority 5; policy accept; }
}
"""
    world_node = stage.gate.node
    world_node.run("ip", "netns", "add", "elsewhere")
    node = Node("elsewhere", world_node.out)
    node.run("ip", "link", "set", "lo", "up")
    node.run("nft", "-f", "-", stdin=admin)
    before = (listing(node), listing(node, "ip wayside"))
    rules_before = node.run("ip", "rule").stdout + node.run("ip", "-6", "rule").stdout
    with inside(node):
        helper = Helper.start()
    flow = Flow(Transport.UDP, Address.parse("192.0.2.1:1"), Address.parse("192.0.2.2:2"))
    try:
        for setup in (
            helper.setup_gate(GateSetup(("in0",), ("out0",), 5.0)),
            helper.apply([Put(accept(flow))]),
        ):
            RUNNER.run(setup)
            assert (listing(node), listing(node, "ip wayside")) == before
        assert listing(node, "inet wayside")
        RUNNER.run(helper.teardown())
        RUNNER.run(helper.setup_host(SETUP))
        assert (listing(node), listing(node, "ip wayside")) == before
        RUNNER.run(helper.teardown())
        assert (listing(node), listing(node, "ip wayside")) == before
        assert node.run("nft", "list", "tables").stdout.split("\n")[:-1] == [
            "table inet admin",
            "table ip wayside",
        ]
        after = node.run("ip", "rule").stdout + node.run("ip", "-6", "rule").stdout
        assert after == rules_before
        assert "wayside" not in node.run("ip", "link").stdout
        assert "198.18" not in node.run("ip", "address").stdout
    finally:
        helper.close()
        world_node.run("ip", "netns", "delete", "elsewhere")


def test_the_doctor_finds_who_would_drop_us_and_its_rule_lets_us_through(stage: Stage) -> None:
    flow = wire_flow(stage, 4, Transport.UDP, 4012, 5012)
    stage.gate.put(*pinhole(flow))
    assert passes_both_ways(stage, flow)
    assert RUNNER.run(stage.gate.helper.diagnose()) == []
    node = stage.gate.node
    text = "table ip fw { chain onward { type filter hook forward priority 10; policy drop; }\n}\n"
    node.run("nft", "-f", "-", stdin=text)
    try:
        assert not passes_both_ways(stage, flow)
        (found,) = RUNNER.run(stage.gate.helper.diagnose())
        assert found.where == "ip fw onward (hook forward)"
        node.run(*found.rule.split())
        assert passes_both_ways(stage, flow)
        assert RUNNER.run(stage.gate.helper.diagnose()) == []
    finally:
        node.run("nft", "delete", "table", "ip", "fw")


def test_a_strict_connection_tracker_does_not_drop_a_flow_that_moved(stage: Stage) -> None:
    node = stage.gate.node
    hook = "type filter hook forward priority 10; policy accept;"
    text = f"table inet strict {{ chain f {{ {hook} ct state invalid drop; }}\n}}\n"
    node.run("nft", "-f", "-", stdin=text)
    try:
        test_a_connection_moves_to_another_wire_5_tuple_in_mid_transfer(stage)
    finally:
        node.run("nft", "delete", "table", "inet", "strict")


# --- the helper ---


def test_a_killed_helper_leaves_its_rules_and_the_next_one_finds_them(stage: Stage) -> None:
    """R-6.5."""
    flow = wire_flow(stage, 4, Transport.UDP, 4013, 5013)
    stage.gate.put(*pinhole(flow))
    os.kill(stage.gate.helper.pid, signal.SIGKILL)
    with pytest.raises(KernelError, match="helper is gone"):
        stage.gate.apply(Put(accept(flow)))
    stage.gate.helper.close()
    assert passes_both_ways(stage, flow)
    with inside(stage.gate.node):
        stage.gate.helper = Helper.start()
    RUNNER.run(stage.gate.helper.setup_gate(GateSetup(("to-client",), ("to-server",), LIFETIME_S)))
    assert rule_of(stage.gate, flow).rule == accept(flow, LIFETIME_S)
    assert passes_both_ways(stage, flow)
    stage.gate.apply(*(Remove(rule) for rule in pinhole(flow)))
    assert not passes_both_ways(stage, flow)


def test_another_setup_keeps_the_rules_that_are_in_force(stage: Stage) -> None:
    flow = wire_flow(stage, 4, Transport.UDP, 4014, 5014)
    stage.gate.put(*pinhole(flow))
    helper = stage.gate.helper
    wider = GateSetup(("to-client", "spare"), ("to-server",), LIFETIME_S)
    RUNNER.run(helper.setup_gate(wider))
    assert passes_both_ways(stage, flow)
    RUNNER.run(helper.setup_gate(GateSetup(("to-client",), ("to-server",), LIFETIME_S)))
    assert passes_both_ways(stage, flow)


def test_one_bad_change_does_not_sink_the_others_of_its_batch(stage: Stage) -> None:
    good = wire_flow(stage, 4, Transport.UDP, 4015, 5015)
    rewriting = Rule(CID, good, Action.REWRITE, good)
    helper = stage.gate.helper

    async def all_at_once() -> list[BaseException | None]:
        tasks = [
            helper.apply([Put(accept(good))]),
            helper.apply([Put(rewriting)]),
            helper.apply([Put(accept(good.reversed()))]),
            helper.apply([Put(rewriting)]),
        ]
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = RUNNER.run(all_at_once())
    assert [type(result) for result in results] == [type(None), KernelError] * 2
    assert passes_both_ways(stage, good)
    stage.gate.apply(*(Remove(rule) for rule in pinhole(good)))


def test_the_daemon_has_no_capability_while_its_helper_has(stage: Stage) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with inside(stage.gate.node):
            helper = Helper.start()
        drop_all()
        asyncio.run(helper.setup_gate(GateSetup(("to-client",), ("to-server",), LIFETIME_S)))
        ours = Path("/proc/self/status").read_text()
        theirs = Path(f"/proc/{helper.pid}/status").read_text()
        os.write(write, f"{effective(ours):x} {effective(theirs):x} ".encode())
        helper.close()
        os._exit(0)
    os.waitpid(child, 0)
    ours_hex, theirs_hex = os.read(read, 100).decode().split()
    assert int(ours_hex, 16) == 0
    assert int(theirs_hex, 16) == 1 << 10 | 1 << 12 | 1 << 13
    os.close(read)
    os.close(write)


def effective(status: str) -> int:
    return int(status.partition("CapEff:")[2].split()[0], 16)


def test_the_helper_goes_when_its_daemon_is_killed(stage: Stage) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with inside(stage.gate.node):
            helper = Helper.start()
        os.write(write, str(helper.pid).encode())
        time.sleep(60)
        os._exit(1)
    helper_pid = int(os.read(read, 100))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert wait_until(lambda: not alive(helper_pid))
    os.close(read)
    os.close(write)


def alive(pid: int) -> bool:
    """Not a zombie: we are process 1 here, and reap nobody's children but ours."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_many_rules_cost_the_same_each_and_come_back_whole(stage: Stage) -> None:
    flows = [wire_flow(stage, 4, Transport.UDP, 10_000 + number, 443) for number in range(3000)]
    rules = [accept(flow, 30.0) for flow in flows]
    stage.gate.put(*rules)
    assert {found.rule.match for found in RUNNER.run(stage.gate.helper.rules())} >= set(flows)
    assert ip_address("10.1.0.2") == flows[0].source.ip


if __name__ == "__main__":
    leave_with_the_outer_process()
    options = ["-p", "no:cacheprovider", "-x", "-q", "--import-mode=importlib", "-W", "error"]
    code = pytest.main([*options, *sys.argv[2:], __file__])
    sys.exit(int(code))
