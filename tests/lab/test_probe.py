import struct
from ipaddress import ip_address

import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.lab.firewall import parse_flow, relations
from wayside.lab.probe import PROBE_DSCP, probe_packet


def flow(transport: Transport, family: int) -> Flow:
    source, destination = ("10.1.0.2", "10.3.0.1") if family == 4 else ("fd00:1::2", "fd00:3::1")
    return Flow(
        transport, Address(ip_address(source), 4000), Address(ip_address(destination), 5000)
    )


def ones_complement_sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
@pytest.mark.parametrize("family", [4, 6])
def test_a_probe_is_a_whole_packet_of_its_5_tuple(transport: Transport, family: int) -> None:
    probe = flow(transport, family)
    packet = probe_packet(probe)
    head, body = (packet[:20], packet[20:]) if family == 4 else (packet[:40], packet[40:])
    addresses = head[12:20] if family == 4 else head[8:40]
    assert addresses == probe.source.ip.packed + probe.destination.ip.packed
    assert struct.unpack("!HH", body[:4]) == (4000, 5000)
    dscp = head[1] >> 2 if family == 4 else (struct.unpack("!H", head[:2])[0] >> 6) & 0x3F
    assert dscp == PROBE_DSCP
    pseudo = addresses + struct.pack("!II", len(body), transport.protocol)
    assert ones_complement_sum(pseudo + body) == 0xFFFF


def test_relations_differ_from_the_5_tuple_in_one_thing_each() -> None:
    exact = flow(Transport.UDP, 6)
    for relation in relations(exact):
        differences = [
            relation.transport != exact.transport,
            relation.source.ip != exact.source.ip,
            relation.source.port != exact.source.port,
            relation.destination.ip != exact.destination.ip,
            relation.destination.port != exact.destination.port,
        ]
        assert sum(differences) == 1
    assert len(set(relations(exact))) == 4


@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_is_read_as_it_is_printed(family: int) -> None:
    assert parse_flow(str(flow(Transport.TCP, family))) == flow(Transport.TCP, family)
