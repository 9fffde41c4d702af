"""ICMP errors about wire packets, brought to the socket that never saw the wire.

A router or the peer answers what it saw: the wire 5-tuple. The kernel finds no socket for that.
The agent reads the error from a raw socket, and this turns it into the same error about the
virtual 5-tuple, to be injected: so path MTU discovery works, and a closed UDP port is known at
once. It comes from the peer's virtual address, whoever on the way sent it: that is the only
sender which the host's own routing believes. RFC 792, RFC 1191, RFC 4443.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from wayside.core.address import Flow, Transport
from wayside.core.constants import HEADER_BYTES, MAGIC

from .packets import ICMP, ICMP6, build_icmp_error, checksum, parse_flow, parse_header

_V4_KINDS = frozenset({3, 11, 12})
"""Destination unreachable (code 4: fragmentation needed), time exceeded, parameter problem."""

_V6_KINDS = frozenset({1, 2, 3, 4})
"""Destination unreachable, packet too big, time exceeded, parameter problem."""

LookUp = Callable[[Flow], Flow | None]
"""From the wire 5-tuple of packets that left here to the local one; None: not ours."""


def error_from_socket(data: bytes) -> bytes:
    """The ICMP message in what a raw socket gave: with the IP header on IPv4, without on IPv6."""
    header = parse_header(data)
    if header is not None and header.protocol == ICMP and data[0] >> 4 == 4:
        return data[header.header_bytes :]
    return data


def error_from_packet(packet: bytes) -> bytes:
    """The ICMP message in a whole IP packet; empty when it holds something else."""
    header = parse_header(packet)
    if header is None or header.protocol not in (ICMP, ICMP6):
        return b""
    return packet[header.header_bytes : header.total_bytes]


def translate_error(message: bytes, family: int, look_up: LookUp) -> bytes | None:
    """An ICMP error about a wire packet, as one about the local packet; an IP packet to inject.

    None for other messages, for cut-off ones, and for flows that are not ours.
    """
    if len(message) < 8 or message[0] not in (_V4_KINDS if family == 4 else _V6_KINDS):
        return None
    if family == 4 and checksum(message) != 0:
        return None
    kind, code, _, rest = struct.unpack_from("!BBHI", message)
    quoted = message[8:]
    wire = parse_flow(quoted)
    if wire is None or wire.family != family:
        return None
    local = look_up(wire)
    if local is None or local.family != family:
        return None
    return build_icmp_error(local, kind, code, rest, _requoted(quoted, local))


def returned_signaling(message: bytes, family: int) -> tuple[Flow, bytes] | None:
    """A signaling datagram whose port is closed where it went: its flow, and what is quoted of it.

    None for all else. Who quotes so much of it was on its path. Spec: R-12.4.
    """
    closed = b"\3\3" if family == 4 else b"\1\4"
    if message[:2] != closed or (family == 4 and checksum(message) != 0):
        return None
    quoted = message[8:]
    header, wire = parse_header(quoted), parse_flow(quoted)
    if header is None or wire is None or wire.transport is not Transport.UDP:
        return None
    data = quoted[header.header_bytes + 8 :]
    return (wire, data) if data[:3] == MAGIC and len(data) >= HEADER_BYTES else None


def _requoted(quoted: bytes, local: Flow) -> bytes:
    """The packet in question with the addresses and ports that the socket knows."""
    addresses = local.source.ip.packed + local.destination.ip.packed
    ports = struct.pack("!HH", local.source.port, local.destination.port)
    if local.family == 6:
        return quoted[:8] + addresses + ports + quoted[44:]
    size = (quoted[0] & 15) * 4
    head = quoted[:10] + b"\0\0" + addresses + quoted[20:size]
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return head + ports + quoted[size + 4 :]
