"""Packets as bytes: what links carry. Reading is remembered, because every box reads them again.

Building UDP, ICMP and IP is the kernel layer's; here is the little that only a made-up network
needs: TCP segments with flags and numbers, a packet with another 5-tuple, a router's complaint.
"""

from __future__ import annotations

import struct
from enum import IntFlag
from functools import lru_cache

from wayside.core.address import IP, Flow
from wayside.kernel.packets import (
    ICMP,
    ICMP6,
    TCP,
    Header,
    Packet,
    build_icmp_error,
    build_ip,
    checksum,
    parse_flow,
    parse_header,
    parse_packet,
    with_checksum,
)

REMEMBERED = 4096
"""Packets whose reading is remembered: those under way, and a few more."""

TCP_HEADER_BYTES = 20


class Flag(IntFlag):
    """Of a TCP segment."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10


@lru_cache(REMEMBERED)
def packet_of(raw: bytes) -> Packet | None:
    """The TCP or UDP packet that these bytes are."""
    return parse_packet(raw)


@lru_cache(REMEMBERED)
def header_of(raw: bytes) -> Header | None:
    """The IP header of a packet."""
    return parse_header(raw)


def destination_of(raw: bytes) -> IP | None:
    """Where a packet is going."""
    header = header_of(raw)
    return header.destination if header else None


def icmp_of(raw: bytes) -> bytes | None:
    """The ICMP message in a packet, or None when it carries something else."""
    header = header_of(raw)
    if header is None or header.protocol not in (ICMP, ICMP6):
        return None
    return raw[header.header_bytes :]


def quoted_flow(raw: bytes) -> Flow | None:
    """The flow that an ICMP error is about."""
    message = icmp_of(raw)
    header = header_of(raw)
    if message is None or header is None:
        return None
    errors = (3, 11, 12) if header.protocol == ICMP else (1, 2, 3, 4)
    return parse_flow(message[8:]) if message and message[0] in errors else None


def build_tcp(flow: Flow, flags: Flag, seq: int, ack: int, payload: bytes = b"") -> bytes:
    """A TCP segment of a flow, as an IP packet with right checksums."""
    ports = (flow.source.port, flow.destination.port)
    head = struct.pack("!HHIIBBHHH", *ports, seq, ack, 5 << 4, flags, 65535, 0, 0)
    return _summed(build_ip(flow.source.ip, flow.destination.ip, TCP, head + payload))


def numbers_of(packet: Packet) -> tuple[int, int]:
    """Sequence and acknowledgement number of a TCP packet."""
    at = 40 if packet.flow.family == 6 else (packet.raw[0] & 15) * 4
    seq, ack = struct.unpack_from("!II", packet.raw, at + 4)
    return seq, ack


def rewritten(raw: bytes, flow: Flow) -> bytes:
    """The packet with another 5-tuple of the same family; everything else stays as it is."""
    ports = struct.pack("!HH", flow.source.port, flow.destination.port)
    addresses = flow.source.ip.packed + flow.destination.ip.packed
    if flow.family == 6:
        return _summed(raw[:8] + addresses + ports + raw[44:])
    size = (raw[0] & 15) * 4
    head = raw[:10] + b"\0\0" + addresses + raw[20:size]
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return _summed(head + ports + raw[size + 4 :])


def too_big(packet: Packet, mtu: int) -> bytes:
    """What a router answers to a packet that does not fit the next link. RFC 1191, RFC 4443."""
    kind, code = (3, 4) if packet.flow.family == 4 else (2, 0)
    return build_icmp_error(packet.flow, kind, code, mtu, packet.raw)


def mtu_told(raw: bytes) -> int | None:
    """The MTU that an ICMP error tells of, or None for other errors."""
    header, message = header_of(raw), icmp_of(raw)
    if header is None or message is None or len(message) < 8:
        return None
    wanted = (3, 4) if header.protocol == ICMP else (2, 0)
    return int.from_bytes(message[4:8], "big") if (message[0], message[1]) == wanted else None


def _summed(raw: bytes) -> bytes:
    packet = parse_packet(raw)
    if packet is None:
        raise ValueError("neither a TCP nor a UDP packet")
    return with_checksum(packet)
