"""Multipath TCP in the kernel: what it says of its connections, and a further subflow for one.

With the userspace path manager (RFC 8684 calls it that; per network namespace) the kernel makes no
subflow by itself: it tells a multicast group what happens, and makes those that it is asked for.
It also takes those of the other end only while somebody listens to that group. To listen and to ask
takes CAP_NET_ADMIN; a socket that listens may be handed on. Generic netlink, linux/mptcp_pm.h.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from wayside.core.address import IP, Address, Flow, Transport

from .plan import KernelError

MESSAGES_A_CALL = 64
ANSWER_LIMIT_S = 1.0
"""The kernel answers before `send` returns; this only keeps us from hanging."""

ADDRESS_ID_MAX = 255
"""An address id is a byte, and 0 is the first subflow's."""

_PATH_MANAGER = Path("/proc/sys/net/mptcp/pm_type")
_USERSPACE = "1"
_FAMILY, _GROUP, _VERSION = b"mptcp_pm\0", b"mptcp_pm_events\0", 1
_NETLINK_GENERIC, _SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 16, 270, 1
_HEADER, _GENERIC, _ATTRIBUTE = (
    struct.Struct("=IHHII"),
    struct.Struct("=BBxx"),
    struct.Struct("=HH"),
)
_NLMSG_ERROR, _REQUEST, _ACK, _NESTED, _KIND = 2, 0x01, 0x04, 0x8000, 0x3FFF
_CONTROL, _GET_FAMILY, _BY_NAME, _ID, _GROUPS, _GROUP_NAME, _GROUP_ID = 16, 3, 2, 1, 7, 1, 2
_SUBFLOW_CREATE = 10
_LOCAL, _TOKEN, _REMOTE = 1, 4, 6
_OF_FAMILY, _OF_ID, _OF_V4, _OF_V6, _OF_PORT = 1, 2, 3, 4, 5
_SAID_TOKEN, _SAID_FAMILY, _SAID_PORTS, _SAID_SERVER = 1, 2, (9, 10), 18
_SAID_ADDRESSES = {int(socket.AF_INET): (5, 7), int(socket.AF_INET6): (6, 8)}


class Happened(IntEnum):
    """What the kernel tells of a connection: up at both ends, over; of a subflow: up, gone."""

    ESTABLISHED = 2
    CLOSED = 3
    SUBFLOW_ESTABLISHED = 10
    SUBFLOW_CLOSED = 11


@dataclass(frozen=True, slots=True)
class MptcpEvent:
    """Something happened to a connection of this host; `token`: by which the kernel knows it.

    `flow`: the subflow in question as its socket sees it, or None; `accepted`: the other end has
    asked for the connection.
    """

    what: Happened
    token: int
    flow: Flow | None = None
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Subflow:
    """A further subflow of the connection with this token, 32 bits.

    `number`: an address id that no other of its subflows has, 1 to 255; `flow`: its 5-tuple as its
    socket is to see it. Raises ValueError for what no kernel could take.
    """

    token: int
    number: int
    flow: Flow

    def __post_init__(self) -> None:
        if not 0 <= self.token < 1 << 32 or not 1 <= self.number <= ADDRESS_ID_MAX:
            raise ValueError(f"no token or address id: {self.token}, {self.number}")
        if self.flow.transport.protocol != Transport.TCP.protocol:
            raise ValueError(f"{self.flow} is no subflow")
        if not self.flow.source.port or not self.flow.destination.port:
            raise ValueError(f"{self.flow} lacks a port")


def open_events() -> socket.socket:
    """Take over path management in this network namespace; a socket that hears what happens.

    Connections that are there already keep the path manager that they have. Raises KernelError.
    """
    try:
        _PATH_MANAGER.write_text(_USERSPACE)
        _, group = _look_up()
        listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC)
        try:
            listening.bind((0, 0))
            listening.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        hint = (
            "it takes CONFIG_MPTCP and `sysctl net.mptcp.enabled=1`; `mptcp = false` does without"
        )
        raise KernelError(f"MPTCP's path manager: {error.strerror}", hint) from error
    return listening


def make_subflow(wanted: Subflow) -> None:
    """Have the kernel begin a subflow. Raises KernelError, also if the connection is over."""
    source, destination = wanted.flow.source, wanted.flow.destination
    number = _attribute(_OF_ID, bytes([wanted.number]))
    body = (
        _attribute(_LOCAL | _NESTED, number + _endpoint(source))
        + _attribute(_TOKEN, struct.pack("=I", wanted.token))
        + _attribute(_REMOTE | _NESTED, _endpoint(destination))
    )
    try:
        family, _ = _look_up()
        _ask(family, _SUBFLOW_CREATE, _VERSION, body)
    except OSError as error:
        raise KernelError(f"MPTCP makes no subflow {wanted.flow}: {error.strerror}", "") from error


def read_events(listening: socket.socket) -> list[MptcpEvent]:
    """What has happened since; without blocking."""
    found: list[MptcpEvent] = []
    for _ in range(MESSAGES_A_CALL):
        try:
            data = listening.recv(65536)
        except BlockingIOError:
            break
        except OSError:
            continue  # ENOBUFS: some were missed, and those connections stay as they are
        found += parse_events(data)
    return found


def parse_events(data: bytes) -> list[MptcpEvent]:
    """The events in netlink messages; what is cut off or something else is left out."""
    found: list[MptcpEvent] = []
    for kind, body in netlink_messages(data):
        if kind < _CONTROL or len(body) < _GENERIC.size or body[0] not in set(Happened):
            continue
        said = dict(netlink_attributes(body[_GENERIC.size :]))
        if len(said.get(_SAID_TOKEN, b"")) == 4:
            token = int(struct.unpack("=I", said[_SAID_TOKEN])[0])
            accepted = any(said.get(_SAID_SERVER, b""))
            found.append(MptcpEvent(Happened(body[0]), token, _flow(said), accepted))
    return found


def _flow(said: dict[int, bytes]) -> Flow | None:
    family = int.from_bytes(said.get(_SAID_FAMILY, b""), sys.byteorder)
    ends: list[Address] = []
    for at, port in zip(_SAID_ADDRESSES.get(family, ()), _SAID_PORTS, strict=False):
        ip = _ip(said.get(at, b""))
        if ip is None or len(said.get(port, b"")) != 2:
            return None
        ends.append(Address(ip, int.from_bytes(said[port], "big")))
    return Flow(Transport.TCP, *ends) if len(ends) == 2 else None


def _ip(raw: bytes) -> IP | None:
    """An address; a v4-mapped one, which a socket for both families has, is an IPv4 one."""
    if len(raw) == 4:
        return IPv4Address(raw)
    if len(raw) != 16:
        return None
    six = IPv6Address(raw)
    return six.ipv4_mapped or six


def _endpoint(address: Address) -> bytes:
    family, at = (socket.AF_INET, _OF_V4) if address.family == 4 else (socket.AF_INET6, _OF_V6)
    return (
        _attribute(_OF_FAMILY, struct.pack("=H", family))
        + _attribute(at, address.ip.packed)
        + _attribute(_OF_PORT, struct.pack("=H", address.port))
    )


def _look_up() -> tuple[int, int]:
    """The numbers that the kernel has for the family and for the group. Raises OSError."""
    answer = _ask(_CONTROL, _GET_FAMILY, 1, _attribute(_BY_NAME, _FAMILY))
    family, group = 0, 0
    for kind, value in netlink_attributes(answer[_GENERIC.size :]):
        if kind == _ID:
            family = int(struct.unpack("=H", value)[0])
        for _, one in netlink_attributes(value) if kind == _GROUPS else ():
            about = dict(netlink_attributes(one))
            if about.get(_GROUP_NAME) == _GROUP:
                group = int(struct.unpack("=I", about[_GROUP_ID])[0])
    if not family or not group:
        raise OSError(0, "this kernel has none in user space")
    return family, group


def _ask(family: int, command: int, version: int, body: bytes) -> bytes:
    """One request; the body of its answer, empty if it only says: done. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as asking:
        asking.settimeout(ANSWER_LIMIT_S)
        body = _GENERIC.pack(command, version) + body
        asking.send(_HEADER.pack(_HEADER.size + len(body), family, _REQUEST | _ACK, 0, 0) + body)
        answer = b""
        while True:
            for kind, said in netlink_messages(asking.recv(65536)):
                if kind != _NLMSG_ERROR:
                    answer = said
                    continue
                code = -int(struct.unpack_from("=i", said)[0])
                if code:
                    raise OSError(code, os.strerror(code))
                return answer


def netlink_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The netlink messages in a datagram: kind, body."""
    while len(data) >= _HEADER.size:
        length, kind = _HEADER.unpack_from(data)[:2]
        if not _HEADER.size <= length <= len(data):
            return
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def netlink_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in a body: kind, value."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _KIND, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)
