"""A gate: what passes, for how long, and what it intercepts."""

import select
import socket
import time
from contextlib import closing

import pytest

from netns.data_plane_stage import (
    ABSENT_S,
    CID,
    COMES_S,
    FAMILIES,
    LIFETIME_S,
    RUNNER,
    Stage,
    accept,
    arrives,
    bound,
    connect_through,
    inside,
    is_lost,
    passed_until,
    passes_both_ways,
    passes_neither_way,
    pinhole,
    release_ip,
    rule_of,
    socket_of_errors,
    transfer,
    udp_pair,
    wire_flow,
)
from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.packets import build_refusal, build_udp, parse_packet
from wayside.kernel.plan import Remove
from wayside.runtime.udp import read_datagrams


@pytest.mark.parametrize("family", FAMILIES)
def test_between_inside_and_outside_nothing_passes_by_default(stage: Stage, family: int) -> None:
    flow = wire_flow(stage, family, Transport.UDP, 4000, 5000)
    assert passes_neither_way(stage, flow)
    listener = bound(stage.server.node, Transport.TCP, flow.destination)
    client = bound(stage.client.node, Transport.TCP, flow.source)
    with listener, client:
        listener.listen()
        client.settimeout(ABSENT_S)
        with pytest.raises(TimeoutError):
            client.connect((str(flow.destination.ip), flow.destination.port))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pinhole_fits_only_its_5_tuple(stage: Stage, family: int) -> None:
    """R-6.1."""
    flow = wire_flow(stage, family, Transport.UDP, 4000, 5000)
    stage.gate.put(*pinhole(flow))
    assert passes_both_ways(stage, flow)
    for sport, dport in ((4001, 5000), (4000, 5001), (5000, 4000)):
        assert passes_neither_way(stage, wire_flow(stage, family, Transport.UDP, sport, dport))
    tcp = wire_flow(stage, family, Transport.TCP, 4000, 5000)
    with pytest.raises(TimeoutError):
        connect_through(stage, tcp.destination, tcp, ABSENT_S)


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
    assert passes_neither_way(stage, flow)
    assert passes_both_ways(stage, other)


def test_a_pending_rule_is_not_renewed_by_packets_and_expires(stage: Stage) -> None:
    """R-6.4."""
    flow = wire_flow(stage, 4, Transport.UDP, 4003, 5003)
    before = time.monotonic()
    stage.gate.put(*pinhole(flow, lifetime_s=0.5, renewed=False))
    after = time.monotonic()
    with udp_pair(stage, flow) as (a, b):
        came, lost = passed_until(a, b, flow.destination)
    assert lost - before > 0.4
    assert came - after < 0.6
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
        assert is_lost(b, a, flow.source, b"nobody renewed the way back")
        assert arrives(a, b, flow.destination, b"but this one")
        time.sleep(LIFETIME_S + 0.2)
        assert is_lost(a, b, flow.destination, b"too late")


def test_a_pending_rule_becomes_a_confirmed_one_and_pending_again(stage: Stage) -> None:
    flow = wire_flow(stage, 4, Transport.UDP, 4005, 5005)
    stage.gate.put(*pinhole(flow, lifetime_s=0.4, renewed=False))
    stage.gate.put(*pinhole(flow))
    time.sleep(0.6)
    assert passes_both_ways(stage, flow)
    stage.gate.put(*pinhole(flow, lifetime_s=0.4, renewed=False))
    time.sleep(0.6)
    assert passes_neither_way(stage, flow)


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
        stage.gate.put(Rule(CID, to_gate, Action.DROP, lifetime_s=2.0))
        assert is_lost(a, b, to_gate.destination, b"stopped")
        time.sleep(2.0)
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
            ready = select.select([listener], [], [], COMES_S if passes else ABSENT_S)[0]
            assert bool(ready) is passes
            if ready:
                listener.recv(2000)


@pytest.mark.parametrize("family", FAMILIES)
def test_signaling_in_transit_comes_to_the_gate_with_its_original_destination(
    stage: Stage, family: int
) -> None:
    sockets = RUNNER.run(stage.gate.helper.open_sockets("gate"))
    flow = wire_flow(stage, family, Transport.UDP, 4747, 4747)
    sock = sockets.signaling_v4 if family == 4 else sockets.signaling_v6
    source = stage.client_sockets.signaling_v4 if family == 4 else stage.client_sockets.signaling_v6
    with closing(sockets):
        source.sendto(b"OPEN", (str(flow.destination.ip), 4747))
        assert select.select([sock], [], [], COMES_S)[0]
        (got,) = read_datagrams(sock, 4747)
        assert (got.data, got.source, got.destination) == (b"OPEN", flow.source, flow.destination)
        with inside(stage.gate.node):
            assert got.interface == socket.if_nametoindex("to-client")
        sock.sendto(b"ACCEPT", (str(flow.source.ip), 4747))
        assert select.select([source], [], [], COMES_S)[0]
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
