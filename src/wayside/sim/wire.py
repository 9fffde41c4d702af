"""Packets as bytes: what links carry, with right checksums. Reading is remembered.

Every box on the way reads a packet again, so what was built or read is kept with its bytes for a
while; whoever builds a packet here knows already what reading it would give. Checksums are taken
as remainders: a sum of 16-bit words with its carries brought round is the number that all words
are together, modulo 65535 (RFC 1071). tests/sim/test_wire.py holds all this against
kernel/packets.py, which builds and reads the packets of real machines.
"""

from __future__ import annotations

import struct
from enum import IntFlag
from functools import lru_cache

from wayside.core.address import Address, Flow, Transport
from wayside.core.constants import HEADER_BYTES
from wayside.kernel.names import PUNCH_URGENT
from wayside.kernel.packets import (
    ICMP,
    ICMP6,
    TCP,
    TTL,
    UDP,
    Header,
    Packet,
    build_icmp_error,
    parse_flow,
    parse_header,
    parse_packet,
)

from .memory import Memory

REMEMBERED = 4096
"""Packets whose reading is remembered: those under way, and a few more."""

TCP_HEADER_BYTES = 20

FORGED = b"forged"
"""What adversaries write into data packets, so that nobody takes it for an answer."""

PUNCHED = b"CSP\x01\0\0\0\0"
"""How a punch begins (R-12.6); it has as many bytes as a signaling header."""

FORGED_NUMBER = 0xF0F0F0F0
"""Their sequence numbers: a guess, and so in no window."""

FiveTuple = tuple[int, int, int, int, int]
"""Protocol, address and port of source and destination: a flow's key in the simulator's own books.

Quick to compare and to hash, unlike address objects.
"""

_PROTOCOLS = {transport: transport.protocol for transport in Transport}

_OF_IP = {4: struct.Struct("!BBHHHBBH4s4s"), 6: struct.Struct("!IHBB16s16s")}
_OF_UDP = struct.Struct("!HHHH")
_OF_TCP = struct.Struct("!HHIIBBHHH")


class Flag(IntFlag):
    """Of a TCP segment."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20


_READINGS: Memory[bytes, Packet | None] = Memory(REMEMBERED)


def packet_of(raw: bytes) -> Packet | None:
    """The TCP or UDP packet that these bytes are."""
    known = _READINGS.new
    return known[raw] if raw in known else _READINGS.find(raw, parse_packet)


@lru_cache(REMEMBERED)
def header_of(raw: bytes) -> Header | None:
    """The IP header of a packet."""
    return parse_header(raw)


def destination_of(raw: bytes) -> bytes:
    """Where a packet is going: 4 or 16 bytes, or fewer of what is no packet."""
    return raw[24:40] if raw[:1] == b"\x60" else raw[16:20]


def sent_from(raw: bytes) -> bytes:
    """Where a packet comes from: 4 or 16 bytes, or fewer of what is no packet."""
    return raw[8:24] if raw[:1] == b"\x60" else raw[12:16]


def five_tuple(flow: Flow) -> FiveTuple:
    """The key of a flow, the same for TCP and MPTCP."""
    source, destination = flow.source, flow.destination
    return (
        _PROTOCOLS[flow.transport],
        int(source.ip),
        source.port,
        int(destination.ip),
        destination.port,
    )


def signaling_flow(source: Address, destination: Address) -> Flow:
    """The 5-tuple of a signaling datagram; of a few that come again and again."""
    key = (int(source.ip), source.port, int(destination.ip), destination.port)
    known = _FLOWS.new.get(key)
    if known is not None:
        return known
    return _FLOWS.keep(key, Flow(Transport.UDP, source, destination))


_FLOWS: Memory[tuple[int, int, int, int], Flow] = Memory(1024)


def turned(key: FiveTuple) -> FiveTuple:
    """The key of the packets that come back."""
    protocol, source, sport, destination, dport = key
    return protocol, destination, dport, source, sport


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


def build_udp(flow: Flow, payload: bytes) -> bytes:
    """A datagram of a flow, as an IP packet."""
    source, destination = flow.source, flow.destination
    ports, size = (source.port, destination.port), 8 + len(payload)
    addresses = source.ip.packed + destination.ip.packed
    summed = addresses + _OF_UDP.pack(*ports, size, 0) + payload
    head = _OF_UDP.pack(*ports, size, _udp_sum(_words(summed) + UDP + size))
    raw = _ip_header(addresses, UDP, size) + head + payload
    _READINGS.keep(raw, Packet(raw, flow, payload))
    return raw


def build_tcp(
    flow: Flow, flags: Flag, seq: int, ack: int, payload: bytes = b"", options: bytes = b""
) -> bytes:
    """A TCP segment of a flow, as an IP packet. `options`: a multiple of 4 bytes, at most 40."""
    size, words = TCP_HEADER_BYTES + len(options) + len(payload), 5 + len(options) // 4
    fields = (flow.source.port, flow.destination.port, seq, ack, words << 4, int(flags), 65535)
    addresses, rest = flow.source.ip.packed + flow.destination.ip.packed, options + payload
    total = _complement(size + TCP + _words(addresses + _OF_TCP.pack(*fields, 0, 0) + rest))
    raw = _ip_header(addresses, TCP, size) + _OF_TCP.pack(*fields, total, 0) + rest
    _READINGS.keep(raw, Packet(raw, flow.on_the_wire, payload, int(flags)))
    return raw


def options_of(packet: Packet) -> bytes:
    """The options in the header of a TCP packet."""
    at = 40 if packet.flow.family == 6 else (packet.raw[0] & 15) * 4
    return packet.raw[at + TCP_HEADER_BYTES : at + (packet.raw[at + 12] >> 4) * 4]


def numbers_of(packet: Packet) -> tuple[int, int]:
    """Sequence and acknowledgement number of a TCP packet."""
    at = 40 if packet.flow.family == 6 else (packet.raw[0] & 15) * 4
    seq, ack = struct.unpack_from("!II", packet.raw, at + 4)
    return seq, ack


def is_out_of_window(packet: Packet) -> bool:
    """Whether a TCP packet is a RST that answers a guess: no socket takes it (RFC 5961, 3.2)."""
    guessed = packet.tcp_flags & Flag.RST and numbers_of(packet)[0] == FORGED_NUMBER
    return packet.flow.transport is Transport.TCP and bool(guessed)


def is_punch(packet: Packet) -> bool:
    """Whether this only opens a NAT, and is for nobody. Spec: R-12.6, R-12.8."""
    if packet.flow.transport is Transport.UDP:
        return len(packet.payload) == HEADER_BYTES and packet.payload.startswith(PUNCHED)
    urgent = int.from_bytes(packet.tcp_header[18:20], "big")
    return urgent == PUNCH_URGENT and not packet.tcp_flags & Flag.URG


def rewritten(raw: bytes, flow: Flow) -> bytes:
    """The packet with another 5-tuple of the same family; everything else stays as it is.

    Its checksums change by what the 5-tuple changes (RFC 1624). Raises ValueError for what is
    neither a TCP nor a UDP packet.
    """
    packet = packet_of(raw)
    if packet is None:
        raise ValueError("neither a TCP nor a UDP packet")
    source, destination = flow.source, flow.destination
    addresses = source.ip.packed + destination.ip.packed
    ports = struct.pack("!HH", source.port, destination.port)
    start, at = (8, 40) if flow.family == 6 else (12, (raw[0] & 15) * 4)
    difference = _words(addresses) - _words(raw[start : start + len(addresses)])
    head = raw[:start] + addresses + raw[start + len(addresses) : at]
    if flow.family == 4:
        header_sum = _complement(0xFFFF - int.from_bytes(raw[10:12], "big") + difference)
        head = head[:10] + header_sum.to_bytes(2, "big") + head[12:]
    difference += _words(ports) - _words(raw[at : at + 4])
    udp = flow.transport is Transport.UDP
    field = at + (6 if udp else 16)
    total = 0xFFFF - int.from_bytes(raw[field : field + 2], "big") + difference
    value = _udp_sum(total) if udp else _complement(total)
    made = head + ports + raw[at + 4 : field] + value.to_bytes(2, "big") + raw[field + 2 :]
    _READINGS.keep(made, Packet(made, flow.on_the_wire, packet.payload, packet.tcp_flags))
    return made


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


def _ip_header(addresses: bytes, protocol: int, size: int) -> bytes:
    """The header around `size` bytes, not to be fragmented; `addresses`: both, packed."""
    if len(addresses) == 32:
        ends = (addresses[:16], addresses[16:])
        return _OF_IP[6].pack(6 << 28, size, protocol, TTL, *ends)
    words = (0x4500, 20 + size, 0x4000, TTL << 8 | protocol)
    total = _complement(sum(words) + _words(addresses))
    ends = (addresses[:4], addresses[4:])
    return _OF_IP[4].pack(0x45, 0, 20 + size, 0, 0x4000, TTL, protocol, total, *ends)


def _words(data: bytes) -> int:
    """As good as the sum of the 16-bit words of some bytes, for a checksum."""
    value = int.from_bytes(data, "big")
    return value << 8 if len(data) % 2 else value


def _complement(total: int) -> int:
    """The checksum of words whose sum is this; of none but zeros it would be 65535, and is 0."""
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)


def _udp_sum(total: int) -> int:
    """As `_complement`; 0 would say that there is none (RFC 768)."""
    return _complement(total) or 0xFFFF
