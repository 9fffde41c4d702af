"""Which MPTCP connections this machine has, from the kernel's sock_diag: for news that was missed.

The kernel tells once that a connection is up (mptcp.py), and who misses that never hears of it. Nor
does it tell of one that has fallen back to plain TCP, since a middlebox has taken its options away,
or its first packets have overtaken each other. This asks: 2,000 connections take 17 ms.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

from wayside.core.address import Flow

from .endings import diagnosed_flow
from .mptcp import netlink_attributes, netlink_messages
from .plan import KernelError

ANSWER_LIMIT_S = 1.0
"""The kernel answers each time before it is read; this only keeps us from hanging."""

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _DUMP = 0x01, 0x300
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_PROTOCOL, _INFO = 3, 2
"""INET_DIAG_REQ_PROTOCOL, as a protocol's number beyond 255 asks for; INET_DIAG_INFO."""

_IPPROTO_MPTCP = 262
_CONNECTED = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8
"""TCP_ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT."""

_MESSAGE_BYTES, _FLAGS_AT = 72, 8
"""Of inet_diag_msg; within mptcp_info, behind which the token stands."""

_FALLBACK = 1


@dataclass(frozen=True, slots=True)
class ListedMptcp:
    """A connection, its flow as its socket sees it; `token`: by which the kernel knows it, 32 bits.

    `fallback`: it is plain TCP, and will stay so.
    """

    flow: Flow
    token: int
    fallback: bool


def list_sockets() -> list[ListedMptcp]:
    """Those of this network namespace that are connected. Raises KernelError."""
    found: list[ListedMptcp] = []
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            found += _ask(family)
    except OSError as error:
        hint = "it takes CONFIG_INET_MPTCP_DIAG"
        raise KernelError(f"MPTCP's connections: {error.strerror}", hint) from error
    return found


def parse_sockets(data: bytes) -> list[ListedMptcp]:
    """The connections in netlink messages; what is cut off or something else is left out."""
    found: list[ListedMptcp] = []
    for kind, body in netlink_messages(data):
        if kind != _SOCK_DIAG_BY_FAMILY or len(body) < _MESSAGE_BYTES:
            continue
        flow = diagnosed_flow(body)
        info = dict(netlink_attributes(body[_MESSAGE_BYTES:])).get(_INFO, b"")
        if flow is not None and len(info) >= _FLAGS_AT + 8:
            flags, token = struct.unpack_from("=II", info, _FLAGS_AT)
            found.append(ListedMptcp(flow, token, bool(flags & _FALLBACK)))
    return found


def _ask(family: int) -> list[ListedMptcp]:
    wanted = 1 << (_INFO - 1)
    request = struct.pack("=BBBxI", family, _IPPROTO_MPTCP & 0xFF, wanted, _CONNECTED) + bytes(48)
    request += _ATTRIBUTE.pack(8, _PROTOCOL) + struct.pack("=I", _IPPROTO_MPTCP)
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, 0, 0)
    found: list[ListedMptcp] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(ANSWER_LIMIT_S)
        asking.send(header + request)
        while True:
            data = asking.recv(65536)
            found += parse_sockets(data)
            for kind, body in netlink_messages(data):
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    code = -int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else 0
                    raise OSError(code, os.strerror(code))
