"""Hosts: rewriting, first packets, refusals, endings, moves."""

import errno
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from netns.data_plane_stage import (
    ABSENT_S,
    CID,
    COMES_S,
    DOMAINS,
    FAMILIES,
    OWN,
    PEER,
    TRANSPORTS,
    Stage,
    arrives,
    bound,
    connect_through,
    inside,
    local_flow,
    meet,
    offload,
    pinhole,
    rewrites,
    rule_of,
    transfer,
    wait_until,
    wire_flow,
)
from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Rule
from wayside.kernel.endings import ended_flows, is_open
from wayside.kernel.packets import build_refusal, build_udp, parse_packet
from wayside.kernel.plan import Remove
from wayside.kernel.tap import inject, read_packets, release


def cases() -> Iterator[Any]:
    for family in FAMILIES:
        for transport in TRANSPORTS:
            for ports in ("same ports", "other ports"):
                name = f"{transport.name.lower()}{family} {ports}"
                yield pytest.param(family, transport, ports == "other ports", id=name)


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
            sock.settimeout(ABSENT_S)
            with pytest.raises(TimeoutError):
                sock.recv(100)
            sock.settimeout(COMES_S)
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
        assert select.select([stage.client_sockets.tap], [], [], COMES_S)[0]
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
            assert time.monotonic() - began < 0.8, "not by the SYN that TCP repeats after 1 s"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packet_released_without_a_rule_does_not_come_round_again(
    stage: Stage, family: int
) -> None:
    packet = build_udp(local_flow(family, Transport.UDP, 40001, 7001), b"too early")
    sockets = stage.client_sockets
    release(sockets.raw_v4, sockets.raw_v6, packet)
    assert not select.select([sockets.tap], [], [], ABSENT_S)[0]


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
        assert select.select([stage.client_sockets.tap], [], [], COMES_S)[0]
        answer = build_refusal(read_packets(stage.client_sockets.tap)[0], closed)
        assert answer
        assert inject(stage.client_sockets.tap, answer)
        select.select([a], [a], [a], COMES_S) if transport is Transport.TCP else select.select(
            [a], [], [], COMES_S
        )
        assert a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == expected
        assert time.monotonic() - began < 0.8, "not by what TCP repeats after 1 s"


def test_the_end_of_a_tcp_socket_is_told_with_the_addresses_it_had(stage: Stage) -> None:
    local, at_server = meet(stage, 4, Transport.TCP, other_ports=False)
    client, server = connect_through(stage, at_server.source, local)
    with inside(stage.client.node):
        assert is_open(local)
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


def test_a_strict_connection_tracker_does_not_drop_a_flow_that_moved(stage: Stage) -> None:
    node = stage.gate.node
    hook = "type filter hook forward priority 10; policy accept;"
    text = f"table inet strict {{ chain f {{ {hook} ct state invalid drop; }}\n}}\n"
    node.run("nft", "-f", "-", stdin=text)
    try:
        test_a_connection_moves_to_another_wire_5_tuple_in_mid_transfer(stage)
    finally:
        node.run("nft", "delete", "table", "inet", "strict")
