"""The simulator builds, rewrites and reads packets as kernel/packets.py does, which has the say."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from wayside.core.address import IP, Address, Flow, Transport
from wayside.kernel import packets
from wayside.kernel.packets import TCP, parse_packet, with_checksum
from wayside.sim import wire
from wayside.sim.wire import Flag

PORTS = st.integers(1, 65535)
PAYLOADS = st.binary(max_size=60) | st.sampled_from((bytes(33), b"\xff" * 40, b"\xff" * 41))
V4 = st.integers(0x0A000001, 0x0AFFFFFF).map(IPv4Address)
V6 = st.integers(1, 2**32).map(lambda low: IPv6Address((0xFD << 120) | low))


def ends(ips: st.SearchStrategy[IP]) -> st.SearchStrategy[tuple[Address, Address]]:
    address = st.builds(Address, ips, PORTS)
    return st.tuples(address, address)


BOTH = ends(V4) | ends(V6)
PAIRS = st.tuples(ends(V4), ends(V4)) | st.tuples(ends(V6), ends(V6))


def segment(flow: Flow, flags: Flag, payload: bytes) -> bytes:
    """What build_tcp should give, by the kernel layer alone."""
    ports = flow.source.port.to_bytes(2, "big") + flow.destination.port.to_bytes(2, "big")
    head = ports + bytes((0, 0, 0, 7, 0, 0, 0, 9, 0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0))
    raw = packets.build_ip(flow.source.ip, flow.destination.ip, TCP, head + payload)
    packet = parse_packet(raw)
    assert packet is not None
    return with_checksum(packet)


@given(BOTH, PAYLOADS)
def test_a_datagram_is_the_one_that_a_real_machine_builds(
    pair: tuple[Address, Address], payload: bytes
) -> None:
    flow = Flow(Transport.UDP, *pair)
    raw = wire.build_udp(flow, payload)
    assert raw == packets.build_udp(flow, payload)
    assert wire.packet_of(raw) == parse_packet(raw)


@given(BOTH, PAYLOADS)
def test_a_segment_is_the_one_that_a_real_machine_builds(
    pair: tuple[Address, Address], payload: bytes
) -> None:
    flow = Flow(Transport.TCP, *pair)
    raw = wire.build_tcp(flow, Flag.ACK | Flag.PSH, 7, 9, payload)
    assert raw == segment(flow, Flag.ACK | Flag.PSH, payload)
    assert wire.packet_of(raw) == parse_packet(raw)


@given(PAIRS, PAYLOADS, st.sampled_from((Transport.TCP, Transport.UDP)))
def test_a_rewritten_packet_is_the_one_that_its_new_sender_would_build(
    pairs: tuple[tuple[Address, Address], tuple[Address, Address]],
    payload: bytes,
    transport: Transport,
) -> None:
    before, after = (Flow(transport, *pair) for pair in pairs)
    if transport is Transport.UDP:
        made = wire.rewritten(packets.build_udp(before, payload), after)
        assert made == packets.build_udp(after, payload)
    else:
        made = wire.rewritten(segment(before, Flag.ACK, payload), after)
        assert made == segment(after, Flag.ACK, payload)
    assert wire.packet_of(made) == parse_packet(made)


def test_a_zero_checksum_is_written_as_its_other_spelling_for_udp_only() -> None:
    """RFC 768; of 65,536 datagrams that differ in two bytes, one has it."""
    flow = Flow(Transport.UDP, Address.parse("10.0.0.1:1"), Address.parse("10.0.0.2:2"))
    payloads = (number.to_bytes(2, "big") for number in range(65536))
    found = [payload for payload in payloads if wire.build_udp(flow, payload)[26:28] == b"\xff\xff"]
    assert found
    assert all(wire.build_udp(flow, one) == packets.build_udp(flow, one) for one in found)


@given(BOTH, st.sampled_from((Transport.TCP, Transport.MPTCP, Transport.UDP)))
def test_five_tuples_turn_round_as_flows_do(
    pair: tuple[Address, Address], transport: Transport
) -> None:
    flow = Flow(transport, *pair)
    key = wire.five_tuple(flow)
    assert wire.turned(key) == wire.five_tuple(flow.reversed())
    assert key == wire.five_tuple(flow.on_the_wire)


def test_what_is_no_packet_is_read_as_none_again_and_again() -> None:
    assert [wire.packet_of(b"nothing") for _ in range(2)] == [None, None]
