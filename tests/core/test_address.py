"""Addresses: one spelling each."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wayside.core.address import Address, Flow, Transport, canonical_ip

IPS = st.ip_addresses()
PORTS = st.integers(0, 65535)


@given(IPS, PORTS)
def test_an_address_is_read_back_from_its_bytes_and_its_text(ip: object, port: int) -> None:
    """R-2.4."""
    address = Address(ip, port)  # pyright: ignore[reportArgumentType]
    assert Address.unpack(address.pack()) == address
    assert Address.parse(str(address)) == address
    assert len(address.pack()) == (6 if address.family == 4 else 18)


@pytest.mark.parametrize("ip", ["::ffff:192.0.2.1", "::ffff:c000:201"])
def test_a_mapped_address_is_the_ipv4_address_and_never_on_the_wire(ip: str) -> None:
    """R-2.4: a rule that knows one spelling is not slipped past with another."""
    assert Address(ip_address(ip), 1) == Address.parse("192.0.2.1:1")
    assert Address.parse(f"[{ip}]:1").family == 4
    with pytest.raises(ValueError, match="canonical"):
        Address.unpack(IPv6Address(ip).packed + b"\0\1")


def test_a_zone_is_refused() -> None:
    """R-2.4."""
    with pytest.raises(ValueError, match="zone"):
        canonical_ip(IPv6Address("fe80::1%eth0"))


@pytest.mark.parametrize("size", [0, 5, 7, 17, 19])
def test_an_address_of_another_size_is_none(size: int) -> None:
    """R-2.4."""
    with pytest.raises(ValueError, match="6 or 18"):
        Address.unpack(bytes(size))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1:4747"),
        ("192.0.2.1:443", "192.0.2.1:443"),
        ("2001:db8::1", "[2001:db8::1]:4747"),
        ("[2001:db8::1]", "[2001:db8::1]:4747"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443"),
    ],
)
def test_a_person_writes_an_address_as_usual(text: str, expected: str) -> None:
    """R-2.4."""
    assert str(Address.parse(text, 4747)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "192.0.2.1:",
        "192.0.2.1:x",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "1.2.3:4",
        "[2001:db8::1",
        "[2001:db8::1]443",
        "[2001:db8::1]:",
        "[]:1",
        "192.0.2.1:٣",
        "[fe80::1%eth0]:1",
        "192.0.2.1:" + "9" * 5000,
    ],
)
def test_what_is_no_address_is_a_value_error(text: str) -> None:
    """R-2.4."""
    with pytest.raises(ValueError):  # noqa: PT011 - the texts differ, some are Python's own
        Address.parse(text)


def test_a_flow_is_of_one_family_and_turns_around() -> None:
    """R-2.5."""
    one, two = Address.parse("192.0.2.1:1"), Address.parse("192.0.2.2:2")
    flow = Flow(Transport.UDP, one, two)
    assert flow.reversed() == Flow(Transport.UDP, two, one)
    assert flow.reversed().reversed() == flow
    assert str(flow) == "udp 192.0.2.1:1 > 192.0.2.2:2"
    with pytest.raises(ValueError, match="two families"):
        Flow(Transport.UDP, one, Address.parse("[2001:db8::1]:2"))


def test_a_transport_says_what_its_packets_are() -> None:
    """R-2.5: MPTCP's are TCP's."""
    assert [transport.protocol for transport in Transport] == [0, 6, 6, 17]
