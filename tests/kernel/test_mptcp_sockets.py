"""The kernel's list of MPTCP connections, as bytes. With a kernel: netns/inside_mptcp.py."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from wayside.core.address import Address, Flow, Transport
from wayside.kernel.mptcp_sockets import ListedMptcp, parse_sockets

FLOW = Flow(Transport.TCP, Address.parse("198.18.0.1:4000"), Address.parse("198.18.0.2:443"))
SIX = Flow(Transport.TCP, Address.parse("[fd77::1]:4000"), Address.parse("[fd77::2]:443"))
TOKEN = 0x80000001


def listed(flow: Flow, flags: int, kind: int = 20, info: int = 2, info_bytes: int = 80) -> bytes:
    """A message of sock_diag: inet_diag_msg, and mptcp_info of linux/mptcp.h as an attribute."""
    family = socket.AF_INET if flow.family == 4 else socket.AF_INET6
    ends = (flow.source, flow.destination)
    body = struct.pack("=BBBB", family, 1, 0, 0)
    body += struct.pack("!HH", *(one.port for one in ends))
    body += b"".join(one.ip.packed.ljust(16, b"\0") for one in ends)
    body = body.ljust(72, b"\0")
    about = (bytes(8) + struct.pack("=II", flags, TOKEN)).ljust(info_bytes, b"\0")[:info_bytes]
    body += struct.pack("=HH", 4 + len(about), info) + about
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 0, 0) + body


def test_a_listed_connection_has_its_flow_its_token_and_whether_it_is_plain() -> None:
    said = parse_sockets(listed(FLOW, 0) + listed(SIX, 1) + listed(FLOW, 2))
    assert said == [
        ListedMptcp(FLOW, TOKEN, False),
        ListedMptcp(SIX, TOKEN, True),
        ListedMptcp(FLOW, TOKEN, False),
    ]


def test_what_is_something_else_or_cut_off_is_left_out() -> None:
    whole = listed(FLOW, 0)
    others = [listed(FLOW, 0, kind=3), listed(FLOW, 0, info=1), listed(FLOW, 0, info_bytes=12)]
    assert parse_sockets(b"".join(others)) == []
    assert all(parse_sockets(whole[:length]) == [] for length in range(len(whole)))


@given(st.binary(max_size=400))
def test_no_bytes_raise(data: bytes) -> None:
    parse_sockets(data)
    parse_sockets(listed(FLOW, 0)[:16] + data)
