import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wayside.core.address import Address, Flow, Transport
from wayside.kernel.icmp import error_from_socket, translate_error
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
