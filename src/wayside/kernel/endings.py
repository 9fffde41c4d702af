"""Which TCP connections of this machine have ended, from the kernel's sock_diag.

The kernel tells every listener when a TCP socket is gone for good: `ended_flows` reads that.
`open_flows` says which are there, for an agent that was away meanwhile.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from wayside.core.address import IP, Address, Flow, Transport

MESSAGES_A_CALL = 64
_HEADER = struct.Struct("=IHHII")
_SOCK_DIAG_BY_FAMILY = 20
_ID_AT = _HEADER.size + 4
"""inet_diag_msg begins with family, state, timer and retransmissions, a byte each."""

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"


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
        if kind == _SOCK_DIAG_BY_FAMILY and length >= _ID_AT + 36:
            family = data[_HEADER.size]
            sport, dport = struct.unpack_from("!HH", data, _ID_AT)
            flow = _flow(family, data[_ID_AT + 4 : _ID_AT + 36], sport, dport)
            found += [flow] if flow else []
        data = data[(length + 3) & ~3 :]
    return found


def open_flows() -> set[Flow]:
    """The flows of all TCP sockets of this network namespace that are connected."""
    found: set[Flow] = set()
    for table in _TABLES:
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            _, local, remote, state = line.split()[:4]
            if state == _LISTEN:
                continue
            source, destination = _proc_address(local), _proc_address(remote)
            if (
                source is not None
                and destination is not None
                and source.family == destination.family
            ):
                found.add(Flow(Transport.TCP, source, destination))
    return found


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


def _proc_address(text: str) -> Address | None:
    """`0100007F:1F90`: words of 4 bytes in this machine's byte order."""
    words, _, port = text.partition(":")
    raw = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
    try:
        return Address(_ip(raw), int(port, 16))
    except ValueError:
        return None


def _ip(raw: bytes) -> IP:
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
