import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wayside.core.address import Address, Flow, Transport
from wayside.kernel.packets import (
    TCP,
    UDP,
    Packet,
    build_ack,
    build_ip,
    build_refusal,
    build_syn,
    build_udp,
    checksum,
    parse_flow,
    parse_packet,
    with_checksum,
)

ENDS = {
    4: (Address.parse("198.18.0.1:40000"), Address.parse("198.18.0.2:443")),
    6: (Address.parse("[fd77::1]:40000"), Address.parse("[fd77::2]:443")),
}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def flow_of(family: int, transport: Transport = Transport.UDP) -> Flow:
    return Flow(transport, *ENDS[family])


def segment_sum(raw: bytes) -> int:
    """0 when the transport checksum of a packet is right."""
    if raw[0] >> 4 == 4:
        segment, protocol, addresses = raw[20:], raw[9], raw[12:20]
        assert checksum(raw[:20]) == 0
    else:
        segment, protocol, addresses = raw[40:], raw[6], raw[8:40]
    if protocol == 1:
        return checksum(segment)
    return checksum(addresses + struct.pack("!II", len(segment), protocol) + segment)


def tcp_packet(family: int, flags: int, payload: bytes = b"", seq: int = 7, ack: int = 0) -> bytes:
    a, b = ENDS[family]
    head = struct.pack("!HHIIBBHHH", a.port, b.port, seq, ack, 5 << 4, flags, 1000, 0, 0)
    return build_ip(a.ip, b.ip, TCP, head + payload)


@FAMILIES
@given(payload=st.binary(max_size=1400))
def test_a_datagram_that_was_built_is_read_back_and_its_checksum_holds(
    family: int, payload: bytes
) -> None:
    raw = build_udp(flow_of(family), payload)
    packet = parse_packet(raw)
    assert packet
    assert (packet.flow, packet.payload, packet.raw) == (flow_of(family), payload, raw)
    assert segment_sum(raw) == 0


def test_a_known_packet_has_the_checksums_that_others_computed() -> None:
    raw = bytes.fromhex("4500003044224000800600008c7c19acae241e2b")
    assert checksum(raw) == 0x442E


@given(raw=st.binary(max_size=120))
def test_any_bytes_give_a_packet_or_none(raw: bytes) -> None:
    for start in (b"", b"\x45", b"\x60"):
        parse_packet(start + raw)
        build_refusal(start + raw, closed=True)


@FAMILIES
def test_a_cut_off_packet_has_a_flow_while_its_ports_are_there(family: int) -> None:
    raw = build_udp(flow_of(family), b"hello")
    ports_end = (20 if family == 4 else 40) + 4
    assert parse_flow(raw[:ports_end]) == flow_of(family)
    assert parse_flow(raw[: ports_end - 1]) is None
    assert parse_packet(raw[:-1]) is None


def test_a_later_fragment_has_no_flow() -> None:
    raw = bytearray(build_udp(flow_of(4), b"hello"))
    raw[7] = 1
    assert parse_flow(bytes(raw)) is None


def test_a_v4_mapped_address_in_a_packet_is_no_flow() -> None:
    raw = bytearray(build_udp(flow_of(6), b"hello"))
    raw[8:24] = bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
    assert parse_flow(bytes(raw)) is None


@FAMILIES
def test_padding_behind_a_packet_is_not_payload(family: int) -> None:
    packet = parse_packet(build_udp(flow_of(family), b"hello") + bytes(20))
    assert packet
    assert packet.payload == b"hello"


@FAMILIES
def test_an_unfinished_checksum_is_computed(family: int) -> None:
    for raw in (build_udp(flow_of(family), b"data"), tcp_packet(family, 0x18, b"data")):
        at = (20 if family == 4 else 40) + (6 if raw[9 if family == 4 else 6] == UDP else 16)
        blurred = parse_packet(raw[:at] + b"\x12\x34" + raw[at + 2 :])
        assert blurred
        assert segment_sum(with_checksum(blurred)) == 0


@FAMILIES
def test_a_syn_to_a_closed_service_is_reset(family: int) -> None:
    answer = build_refusal(tcp_packet(family, 0x02), closed=True)
    packet = parse_packet(answer or b"")
    assert packet
    assert packet.flow == flow_of(family, Transport.TCP).reversed()
    seq, ack = struct.unpack_from("!II", packet.raw, (20 if family == 4 else 40) + 4)
    assert (seq, ack, packet.tcp_flags) == (0, 8, 0x14)
    assert segment_sum(packet.raw) == 0


@FAMILIES
def test_a_segment_of_no_connection_is_reset_with_the_seq_it_expects(family: int) -> None:
    packet = parse_packet(build_refusal(tcp_packet(family, 0x10, ack=99), closed=False) or b"")
    assert packet
    assert struct.unpack_from("!I", packet.raw, (20 if family == 4 else 40) + 4) == (99,)
    assert packet.tcp_flags == 0x04


@FAMILIES
def test_a_reset_is_not_answered(family: int) -> None:
    assert build_refusal(tcp_packet(family, 0x04), closed=True) is None


@pytest.mark.parametrize(
    ("family", "transport", "closed", "kind", "code"),
    [
        (4, Transport.TCP, False, 3, 13),
        (6, Transport.TCP, False, 1, 3),
        (4, Transport.UDP, True, 3, 3),
        (6, Transport.UDP, True, 1, 4),
        (4, Transport.UDP, False, 3, 3),
        (6, Transport.UDP, False, 1, 4),
    ],
)
def test_a_refusal_is_the_icmp_error_that_the_socket_understands(
    family: int, transport: Transport, closed: bool, kind: int, code: int
) -> None:
    """R-6.6."""
    raw = build_udp(flow_of(family), b"x")
    raw = tcp_packet(family, 0x02) if transport is Transport.TCP else raw
    answer = build_refusal(raw, closed)
    assert answer
    at = 20 if family == 4 else 40
    assert (answer[at], answer[at + 1]) == (kind, code)
    assert segment_sum(answer) == 0
    assert answer[at + 8 :] == raw


def syn_with(family: int, options: bytes, flags: int = 0x02) -> Packet | None:
    """A SYN with these TCP options (a multiple of 4 bytes)."""
    raw = tcp_packet(family, flags, b"")
    at = 20 if family == 4 else 40
    head = raw[at : at + 20]
    offset = (20 + len(options)) // 4 << 4
    segment = head[:12] + bytes([offset]) + head[13:20] + options
    source, destination = flow_of(family).source.ip, flow_of(family).destination.ip
    return parse_packet(build_ip(source, destination, 6, segment))


MSS, CAPABLE, JOIN = b"\x02\x04\x05\xb4", b"\x1e\x04\x01\x01", b"\x1e\x0c\x10\x01" + bytes(8)


@FAMILIES
@pytest.mark.parametrize(
    ("options", "multipath", "join"),
    [
        (CAPABLE, True, False),
        (MSS + b"\x01\x01\x01\x01" + CAPABLE, True, False),
        (MSS + JOIN, False, True),
        (MSS, False, False),
        (b"", False, False),
        (b"\x00\x00\x00\x00" + CAPABLE, False, False),
        (b"\x1e\x02\x01\x01", False, False),
        (b"\x1e\x09\x01\x01", False, False),
        (b"\x02\x00\x05\xb4" + CAPABLE, False, False),
        (b"\x01\x01\x01\x1e", False, False),
    ],
)
def test_a_syn_says_whether_it_wants_mptcp(
    family: int, options: bytes, multipath: bool, join: bool
) -> None:
    """Also behind other options; not behind the end of them, cut off, or of no length."""
    packet = syn_with(family, options)
    assert packet
    assert (packet.is_multipath, packet.is_join) == (multipath, join)


@FAMILIES
def test_only_a_syn_asks_for_anything(family: int) -> None:
    packet = syn_with(family, CAPABLE, flags=0x10)
    assert packet
    assert not packet.is_multipath
    datagram = parse_packet(build_udp(flow_of(family), b"\x1e" * 40))
    assert datagram
    assert not datagram.is_multipath
    assert not datagram.is_join


@FAMILIES
@given(
    number=st.integers(0, 2**32 - 1),
    options=st.integers(0, 10).flatmap(
        lambda words: st.binary(min_size=4 * words, max_size=4 * words)
    ),
    flags=st.sampled_from([0x02, 0x12, 0x52]),
    urgent=st.sampled_from([0, 0x4353]),
)
def test_a_syn_has_the_number_window_and_options_of_another_header(
    family: int, number: int, options: bytes, flags: int, urgent: int
) -> None:
    """R-12.8: it asks, whatever the other one did, and acknowledges nothing."""
    offset = (20 + len(options)) // 4 << 4
    header = struct.pack("!HHIIBBHHH", 1, 2, number, 77, offset, flags, 999, 5, 6) + options
    flow = flow_of(family, Transport.TCP)
    raw = build_syn(flow, header, urgent)
    assert raw is not None
    packet = parse_packet(raw)
    assert packet is not None
    assert segment_sum(raw) == 0
    assert (packet.flow, packet.is_syn, packet.payload) == (flow, True, b"")
    seq, ack, _, flags, window, _, points = struct.unpack_from("!IIBBHHH", packet.tcp_header, 4)
    assert (seq, ack, flags, window, points) == (number, 0, 2, 999, urgent)
    assert packet.tcp_header[20:] == options


@FAMILIES
def test_behind_a_syn_the_reset_of_a_closed_port_fits(family: int) -> None:
    """R-12.8: a RST to a SYN has the number 0."""
    reset = parse_packet(tcp_packet(family, 0x14, seq=0))
    assert reset is not None
    raw = build_syn(reset.flow, reset.tcp_header)
    assert raw is not None
    packet = parse_packet(raw)
    assert packet is not None
    assert packet.tcp_header[4:8] == b"\xff" * 4


@given(st.binary(max_size=70))
def test_any_bytes_make_a_syn_or_none(data: bytes) -> None:
    raw = build_syn(flow_of(4, Transport.TCP), data)
    right = 20 <= len(data) <= 60 and (data[12] >> 4) * 4 == len(data)
    assert (raw is not None) is right


@FAMILIES
def test_a_bare_ack_asks_for_nothing(family: int) -> None:
    """R-12.8."""
    raw = build_ack(flow_of(family, Transport.TCP), 0x4353)
    packet = parse_packet(raw)
    assert packet is not None
    assert packet.is_bare_ack
    assert segment_sum(raw) == 0
