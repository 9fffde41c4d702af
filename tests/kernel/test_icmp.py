import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wayside.core.address import Address, Flow, Transport
from wayside.kernel.icmp import error_from_socket, returned_signaling, translate_error
from wayside.kernel.packets import build_icmp_error, build_udp, checksum, parse_flow

CASES = {
    4: (
        Flow(Transport.UDP, Address.parse("10.1.0.2:51000"), Address.parse("10.2.0.1:52000")),
        Flow(Transport.UDP, Address.parse("198.18.0.1:40000"), Address.parse("198.18.0.2:7000")),
    ),
    6: (
        Flow(Transport.UDP, Address.parse("[fd00::2]:51000"), Address.parse("[fd00::1]:52000")),
        Flow(Transport.UDP, Address.parse("[fd77::1]:40000"), Address.parse("[fd77::2]:7000")),
    ),
}
HEADER = {4: 20, 6: 40}
TOO_BIG = {4: (3, 4, 1300), 6: (2, 0, 1300)}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def error_about(wire: Flow, kind: int, code: int, rest: int = 0) -> bytes:
    """The ICMP message alone, as it comes from the wire."""
    quoted = build_udp(wire, bytes(600))
    return build_icmp_error(wire, kind, code, rest, quoted)[HEADER[wire.family] :]


@FAMILIES
def test_an_error_about_the_wire_flow_becomes_one_about_the_local_flow(family: int) -> None:
    wire, local = CASES[family]
    kind, code, mtu = TOO_BIG[family]
    packet = translate_error(error_about(wire, kind, code, mtu), family, {wire: local}.get)
    assert packet
    at = HEADER[family]
    assert struct.unpack_from("!BBxxI", packet, at) == (kind, code, mtu)
    assert parse_flow(packet[at + 8 :]) == local
    source, destination = local.destination.ip.packed, local.source.ip.packed
    assert source + destination in packet[: HEADER[family]]
    if family == 4:
        assert checksum(packet[:20]) == 0
        assert checksum(packet[20:]) == 0
        assert checksum(packet[28:48]) == 0, "the quoted header has a checksum of its own"


@FAMILIES
def test_an_error_about_somebody_else_is_left_alone(family: int) -> None:
    wire, local = CASES[family]
    other = {wire.reversed(): local}.get
    assert translate_error(error_about(wire, *TOO_BIG[family]), family, other) is None


@FAMILIES
def test_a_message_that_is_no_error_is_left_alone(family: int) -> None:
    wire, local = CASES[family]
    echo = 8 if family == 4 else 128
    assert translate_error(error_about(wire, echo, 0), family, {wire: local}.get) is None


def test_a_message_with_a_wrong_checksum_is_left_alone() -> None:
    wire, local = CASES[4]
    message = bytearray(error_about(wire, 3, 3))
    message[20] ^= 1
    assert translate_error(bytes(message), 4, {wire: local}.get) is None


def test_a_raw_ipv4_socket_gives_the_ip_header_too() -> None:
    wire, _ = CASES[4]
    packet = build_icmp_error(wire, 3, 3, 0, build_udp(wire, b""))
    assert error_from_socket(packet) == packet[20:]
    assert error_from_socket(b"\x01\x04") == b"\x01\x04"


@FAMILIES
@given(message=st.binary(max_size=120), cut=st.integers(0, 60))
def test_any_bytes_give_a_packet_or_none(family: int, message: bytes, cut: int) -> None:
    wire, local = CASES[family]
    translate_error(message, family, {wire: local}.get)
    translate_error(error_about(wire, *TOO_BIG[family])[:cut], family, {wire: local}.get)


SIGNALING = {
    4: Flow(Transport.UDP, Address.parse("10.1.0.2:4747"), Address.parse("10.2.0.1:4747")),
    6: Flow(Transport.UDP, Address.parse("[fd00::2]:4747"), Address.parse("[fd00::1]:4747")),
}
CLOSED = {4: (3, 3), 6: (1, 4)}
DATAGRAM = b"CSP\1\1" + bytes(range(200))


def closed_port(family: int, data: bytes, code: tuple[int, int] | None = None) -> bytes:
    wire = SIGNALING[family]
    quoted = build_udp(wire, data)
    return build_icmp_error(wire, *(code or CLOSED[family]), 0, quoted)[HEADER[family] :]


@FAMILIES
def test_a_closed_signaling_port_tells_what_was_said_to_it(family: int) -> None:
    """R-12.4."""
    found = returned_signaling(closed_port(family, DATAGRAM), family)
    assert found == (SIGNALING[family], DATAGRAM)


@FAMILIES
def test_only_a_closed_port_and_a_whole_header_are_told(family: int) -> None:
    """R-12.4: other errors, other datagrams, and less than the cid."""
    other = (3, 1) if family == 4 else (1, 3)
    assert returned_signaling(closed_port(family, DATAGRAM, other), family) is None
    assert returned_signaling(closed_port(family, b"not ours" * 8), family) is None
    assert returned_signaling(closed_port(family, DATAGRAM[:31]), family) is None
    whole = closed_port(family, DATAGRAM)
    assert [returned_signaling(whole[:size], family) for size in range(60)] == [None] * 60


@given(st.binary(max_size=120))
def test_no_bytes_in_the_place_of_an_error_raise(data: bytes) -> None:
    for family in (4, 6):
        for kind in CLOSED.values():
            returned_signaling(bytes(kind) + data, family)
