"""What the kernel says of MPTCP, and what it is asked for, as bytes. With a kernel: netns."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wayside.core.address import Address, Flow, Transport
from wayside.kernel.mptcp import Happened, MptcpEvent, Subflow, parse_events

FAMILY = 33
FLOW = Flow(Transport.TCP, Address.parse("198.18.0.1:4000"), Address.parse("198.18.0.2:443"))


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(what: int, *attributes: bytes, kind: int = FAMILY) -> bytes:
    body = struct.pack("=BBxx", what, 1) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def event(what: int, source: str, destination: str, *more: bytes, family: int = 0) -> bytes:
    """A message about a subflow between two addresses, as linux/mptcp_pm.h has it."""
    ends = (Address.parse(source), Address.parse(destination))
    family = family or (socket.AF_INET if ends[0].family == 4 else socket.AF_INET6)
    at = (5, 7) if family == socket.AF_INET else (6, 8)
    size = 4 if family == socket.AF_INET else 16
    packed = [one.ip.packed for one in ends]
    if size == 16:
        packed = [raw if len(raw) == 16 else bytes(10) + b"\xff\xff" + raw for raw in packed]
    return message(
        what,
        attribute(1, struct.pack("=I", 77)),
        attribute(2, struct.pack("=H", family)),
        *(attribute(kind, raw) for kind, raw in zip(at, packed, strict=True)),
        *(attribute(9 + n, struct.pack("!H", one.port)) for n, one in enumerate(ends)),
        *more,
    )


@pytest.mark.parametrize(
    ("source", "destination"),
    [("198.18.0.1:4000", "198.18.0.2:443"), ("[fd77::1]:4000", "[fd77::2]:443")],
)
def test_an_event_says_what_happened_to_which_subflow(source: str, destination: str) -> None:
    flow = Flow(Transport.TCP, Address.parse(source), Address.parse(destination))
    said = parse_events(event(2, source, destination) + event(10, source, destination))
    assert said == [
        MptcpEvent(Happened.ESTABLISHED, 77, flow),
        MptcpEvent(Happened.SUBFLOW_ESTABLISHED, 77, flow),
    ]


def test_a_socket_for_both_families_has_the_ipv4_flow_that_is_on_the_wire() -> None:
    both = event(2, "198.18.0.1:4000", "198.18.0.2:443", family=socket.AF_INET6)
    assert parse_events(both) == [MptcpEvent(Happened.ESTABLISHED, 77, FLOW)]


def test_who_was_asked_for_a_connection_is_told_so() -> None:
    said = parse_events(event(2, str(FLOW.source), str(FLOW.destination), attribute(18, b"\1")))
    assert [one.accepted for one in said] == [True]


def test_the_end_of_a_connection_needs_no_addresses() -> None:
    said = parse_events(message(3, attribute(1, struct.pack("=I", 5))))
    assert said == [MptcpEvent(Happened.CLOSED, 5)]


@pytest.mark.parametrize(
    "data",
    [
        message(1, attribute(1, bytes(4))),
        message(2),
        message(2, attribute(1, bytes(3))),
        message(2, attribute(1, bytes(4)), kind=2),
        message(2, attribute(1, bytes(4)))[:-1],
        b"\xff" * 40,
    ],
)
def test_what_says_nothing_of_a_connection_is_left_out(data: bytes) -> None:
    """Another event, no token, a cut token, an error message, a cut message, garbage."""
    assert parse_events(data) == []


@given(st.binary(max_size=120), st.integers(0, 100))
def test_no_bytes_raise(data: bytes, cut: int) -> None:
    whole = event(2, str(FLOW.source), str(FLOW.destination))
    parse_events(data)
    parse_events(message(2, data))
    parse_events(whole[:cut] + data + whole[cut:])


@pytest.mark.parametrize(
    ("token", "number", "flow"),
    [
        (1 << 32, 1, FLOW),
        (-1, 1, FLOW),
        (1, 0, FLOW),
        (1, 256, FLOW),
        (1, 1, Flow(Transport.UDP, FLOW.source, FLOW.destination)),
        (1, 1, Flow(Transport.TCP, FLOW.source.with_port(0), FLOW.destination)),
        (1, 1, Flow(Transport.TCP, FLOW.source, FLOW.destination.with_port(0))),
    ],
)
def test_what_no_kernel_takes_is_no_subflow(token: int, number: int, flow: Flow) -> None:
    with pytest.raises(ValueError, match=r"token or address id|is no subflow|lacks a port"):
        Subflow(token, number, flow)


def test_a_subflow_of_an_mptcp_flow_is_one() -> None:
    assert Subflow(1, 1, Flow(Transport.MPTCP, FLOW.source, FLOW.destination)).number == 1
    assert FLOW.source.ip == ip_address("198.18.0.1")
