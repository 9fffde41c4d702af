"""Which TCP connections of this machine have ended, from the kernel's sock_diag.

The kernel tells every listener when a TCP socket is gone for good: `ended_flows` reads that.
`is_open` asks about one, for an agent that was away meanwhile.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from wayside.core.address import IP, Address, Flow, Transport

MESSAGES_A_CALL = 64
ANSWER_LIMIT_S = 1.0
"""The kernel answers such a question before `send` returns; this only keeps us from hanging."""

_NETLINK_SOCK_DIAG = 4
_NLM_F_REQUEST = 1
_ALL_STATES = 0xFFFFFFFF
_TCP_CLOSE, _TIMER_TIME_WAIT = 7, 3
_NO_COOKIE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_SOCK_DIAG_BY_FAMILY = 20
_ID_AT, _ID_BYTES = 4, 36
"""inet_diag_msg begins with family, state, timer and retransmissions, a byte each."""


def ended_flows(sock: socket.socket) -> list[Flow]:
    """The flows, as their sockets saw them, of connections that have ended; without blocking."""
    found: list[Flow] = []
    for _ in range(MESSAGES_A_CALL):
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            break
        except OSError:
            continue  # ENOBUFS: some were missed; the rules of those expire by themselves
        found += parse_endings(data)
    return found


def parse_endings(data: bytes) -> list[Flow]:
    """The flows in netlink messages of sock_diag; what is cut off or something else is left out."""
    found: list[Flow] = []
    while len(data) >= _HEADER.size:
        length, kind = _HEADER.unpack_from(data)[:2]
        if not _HEADER.size <= length <= len(data):
            break
        if kind == _SOCK_DIAG_BY_FAMILY:
            flow = diagnosed_flow(data[_HEADER.size : length])
            found += [flow] if flow else []
        data = data[(length + 3) & ~3 :]
    return found


def diagnosed_flow(body: bytes) -> Flow | None:
    """The flow in a message of sock_diag (inet_diag_msg), as its socket saw it."""
    if len(body) < _ID_AT + _ID_BYTES:
        return None
    sport, dport = struct.unpack_from("!HH", body, _ID_AT)
    return _flow(body[0], body[_ID_AT + 4 : _ID_AT + _ID_BYTES], sport, dport)


def is_open(flow: Flow) -> bool:
    """Whether a TCP socket with this flow, as the socket sees it, is there now.

    The kernel also tells of sockets that lost a race to become the one of their flow (two copies
    of a SYN's answer): an ending counts only when nobody else has the flow.
    """
    family = socket.AF_INET if flow.family == 4 else socket.AF_INET6
    source, destination = flow.source, flow.destination
    request = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, _ALL_STATES)
    request += struct.pack("!HH", source.port, destination.port)
    request += source.ip.packed.ljust(16, b"\0") + destination.ip.packed.ljust(16, b"\0")
    request += struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    size = _HEADER.size + len(request)
    header = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(ANSWER_LIMIT_S)
        try:
            asking.send(header + request)
            answer = asking.recv(65536)
        except OSError:
            return False
    state_and_timer = answer[_HEADER.size + 1 : _HEADER.size + 3]
    # Where no such socket is there the kernel names the one that listens: it has no other end.
    ends = [one.destination.port for one in parse_endings(answer)]
    return any(ends) and not _is_over(*state_and_timer)


def _is_over(state: int, timer: int) -> bool:
    """Whether a socket only remembers: nothing that it has to say is left (its FIN was taken)."""
    return state == _TCP_CLOSE or timer == _TIMER_TIME_WAIT


def _flow(family: int, addresses: bytes, sport: int, dport: int) -> Flow | None:
    size = 4 if family == socket.AF_INET else 16
    try:
        return Flow(
            Transport.TCP,
            Address(_ip(addresses[:size]), sport),
            Address(_ip(addresses[16 : 16 + size]), dport),
        )
    except ValueError:
        return None


def _ip(raw: bytes) -> IP:
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
