"""IP packets as bytes: what the agent reads from an application, and what it answers.

Only what first packets need: a 5-tuple out of a packet, a UDP packet out of a 5-tuple, and the
refusals that make connect() or recv() fail at once. All pure, checksums correct, IPv4 and IPv6
alike. Packets with IPv6 extension headers or of any but the first fragment have no 5-tuple here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from wayside.core.address import IP, Address, Flow, Transport

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
TTL = 64
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_TCP_BYTES = 20
_OPTION_END, _OPTION_NONE, _OPTION_MPTCP = 0, 1, 30
_MP_CAPABLE, _MP_JOIN = 0, 1
_BY_PROTOCOL = {TCP: Transport.TCP, UDP: Transport.UDP}

QUOTED_BYTES_MAX = 512
"""Of the packet in question in an ICMP error: less than RFC 1812's 576 and RFC 4443's 1,280."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A TCP or UDP packet. `raw`: all of it; `payload`: what the application sent."""

    raw: bytes
    flow: Flow
    payload: bytes
    tcp_flags: int = 0

    @property
    def tcp_header(self) -> bytes:
        """The header of a TCP segment, 20 to 60 bytes."""
        at = 40 if self.flow.family == 6 else (self.raw[0] & 15) * 4
        return self.raw[at : at + (self.raw[at + 12] >> 4) * 4]

    @property
    def is_syn(self) -> bool:
        """Whether this asks for a TCP connection."""
        return self.tcp_flags & (_SYN | _ACK) == _SYN

    @property
    def is_multipath(self) -> bool:
        """Whether this asks for an MPTCP connection (RFC 8684, section 3.1)."""
        return self.is_syn and self._mptcp == _MP_CAPABLE

    @property
    def is_join(self) -> bool:
        """Whether this asks for a further subflow of one (RFC 8684, section 3.2)."""
        return self.is_syn and self._mptcp == _MP_JOIN

    @property
    def _mptcp(self) -> int | None:
        """The subtype of the first MPTCP option in the TCP header."""
        options = self.tcp_header[20:]
        while options and options[0] != _OPTION_END:
            size = 1 if options[0] == _OPTION_NONE else options[1] if len(options) > 1 else 0
            if options[0] == _OPTION_MPTCP and 3 <= size <= len(options):
                return options[2] >> 4
            if size < 1:
                return None
            options = options[size:]
        return None

    @property
    def is_bare_ack(self) -> bool:
        """Whether a TCP segment only acknowledges."""
        return not self.payload and self.tcp_flags & (_SYN | _FIN | _RST | _ACK) == _ACK


@dataclass(frozen=True, slots=True)
class Header:
    """An IP header: addresses, the protocol behind it, and its own length in bytes."""

    source: IP
    destination: IP
    protocol: int
    header_bytes: int
    total_bytes: int


def parse_header(raw: bytes) -> Header | None:
    """Read an IP header, or None for what is none. The packet behind it may be cut off."""
    if len(raw) >= 20 and raw[0] >> 4 == 4:
        size = (raw[0] & 15) * 4
        first = int.from_bytes(raw[6:8], "big") & 0x1FFF == 0
        if size < 20 or not first:
            return None
        total = int.from_bytes(raw[2:4], "big")
        return Header(IPv4Address(raw[12:16]), IPv4Address(raw[16:20]), raw[9], size, total)
    if len(raw) >= 40 and raw[0] >> 4 == 6:
        total = 40 + int.from_bytes(raw[4:6], "big")
        return Header(IPv6Address(raw[8:24]), IPv6Address(raw[24:40]), raw[6], 40, total)
    return None


def parse_flow(raw: bytes) -> Flow | None:
    """The 5-tuple of a packet that may be cut off behind its ports, or None."""
    header = parse_header(raw)
    transport = _BY_PROTOCOL.get(header.protocol) if header else None
    if header is None or transport is None or len(raw) < header.header_bytes + 4:
        return None
    sport, dport = struct.unpack_from("!HH", raw, header.header_bytes)
    try:
        return Flow(transport, Address(header.source, sport), Address(header.destination, dport))
    except ValueError:  # a v4-mapped address on the wire: nothing that we gave out
        return None


def parse_packet(raw: bytes) -> Packet | None:
    """Read a whole TCP or UDP packet, or None for anything else."""
    header, flow = parse_header(raw), parse_flow(raw)
    if header is None or flow is None or len(raw) < header.total_bytes:
        return None
    raw = raw[: header.total_bytes]
    at = header.header_bytes
    if flow.transport is Transport.UDP:
        return Packet(raw, flow, raw[at + 8 :]) if len(raw) >= at + 8 else None
    if len(raw) < at + 20:
        return None
    return Packet(raw, flow, raw[at + (raw[at + 12] >> 4) * 4 :], raw[at + 13])


def checksum(data: bytes, start: int = 0) -> int:
    """The internet checksum of some bytes (RFC 1071)."""
    total = start + sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) % 2:
        total += data[-1] << 8
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def build_ip(source: IP, destination: IP, protocol: int, payload: bytes) -> bytes:
    """An IP packet around a payload of up to 65,495 bytes; not to be fragmented."""
    if isinstance(source, IPv4Address):
        head = struct.pack(
            "!BBHHHBBH4s4s",
            *(0x45, 0, 20 + len(payload), 0, 0x4000, TTL, protocol, 0),
            *(source.packed, destination.packed),
        )
        return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, TTL)
    return head + source.packed + destination.packed + payload


def build_udp(flow: Flow, payload: bytes) -> bytes:
    """A datagram of this 5-tuple, as an IP packet."""
    head = struct.pack("!HHHH", flow.source.port, flow.destination.port, 8 + len(payload), 0)
    datagram = _summed(flow.source.ip, flow.destination.ip, UDP, head + payload, 6)
    return build_ip(flow.source.ip, flow.destination.ip, UDP, datagram)


def build_syn(flow: Flow, header: bytes, urgent: int = 0) -> bytes | None:
    """A SYN of this 5-tuple with the number, window and options of a TCP header, as an IP packet.

    `urgent`: its urgent pointer, which means nothing. Of a RST's header the number is the one
    before, so that the RST fits behind it. None: that is no TCP header.
    """
    if not _TCP_BYTES <= len(header) <= 60 or (header[12] >> 4) * 4 != len(header):
        return None
    number = (int.from_bytes(header[4:8], "big") - bool(header[13] & _RST)) & 0xFFFFFFFF
    return _build_segment(flow, number, _SYN, header[14:16], urgent, header[_TCP_BYTES:])


def build_ack(flow: Flow, urgent: int) -> bytes:
    """A bare ACK of this 5-tuple whose numbers mean nothing, nor its urgent pointer."""
    return _build_segment(flow, 0, _ACK, b"\xff\xff", urgent, b"")


def _build_segment(
    flow: Flow, number: int, flags: int, window: bytes, urgent: int, options: bytes
) -> bytes:
    offset = (_TCP_BYTES + len(options)) // 4 << 4
    ports = (flow.source.port, flow.destination.port)
    head = struct.pack("!HHIIBB2sHH", *ports, number, 0, offset, flags, window, 0, urgent)
    segment = _summed(flow.source.ip, flow.destination.ip, TCP, head + options, 16)
    return build_ip(flow.source.ip, flow.destination.ip, TCP, segment)


def with_checksum(packet: Packet) -> bytes:
    """The packet with its transport checksum computed.

    A packet that was read from a virtual link has none yet: hardware would have filled it in.
    """
    at = 40 if packet.flow.family == 6 else (packet.raw[0] & 15) * 4
    protocol, offset = (UDP, 6) if packet.flow.transport is Transport.UDP else (TCP, 16)
    flow = packet.flow
    segment = _summed(flow.source.ip, flow.destination.ip, protocol, packet.raw[at:], offset)
    return packet.raw[:at] + segment


def build_refusal(raw: bytes, closed: bool) -> bytes | None:
    """The answer that makes an application's connect() or recv() fail at once, or None.

    `raw`: the application's packet; `closed`: as a host without a listener answers it
    (ECONNREFUSED), else as a network without a way there (EHOSTUNREACH). UDP is always told that
    the port is closed: of the others, Linux tells a UDP socket only on IPv4. Spec: R-6.6.
    """
    packet = parse_packet(raw)
    if packet is None or packet.tcp_flags & _RST:
        return None
    if packet.flow.transport is Transport.TCP and (closed or not packet.is_syn):
        return build_tcp_reset(packet)
    return build_unreachable(packet, port=closed or packet.flow.transport is Transport.UDP)


def build_tcp_reset(packet: Packet) -> bytes:
    """The RST that answers a segment (RFC 9293, section 3.10.7.1)."""
    at = 40 if packet.flow.family == 6 else (packet.raw[0] & 15) * 4
    seq, ack = struct.unpack_from("!II", packet.raw, at + 4)
    if packet.tcp_flags & _ACK:
        seq, ack, flags = ack, 0, _RST
    else:
        used = len(packet.payload) + bool(packet.tcp_flags & _SYN) + bool(packet.tcp_flags & _FIN)
        seq, ack, flags = 0, (seq + used) & 0xFFFFFFFF, _RST | _ACK
    back = packet.flow.reversed()
    ports = (back.source.port, back.destination.port)
    segment = struct.pack("!HHIIBBHHH", *ports, seq, ack, 5 << 4, flags, 0, 0, 0)
    segment = _summed(back.source.ip, back.destination.ip, TCP, segment, 16)
    return build_ip(back.source.ip, back.destination.ip, TCP, segment)


def build_unreachable(packet: Packet, port: bool) -> bytes:
    """The ICMP error that answers a packet: its port is closed, or there is no way to its host.

    No way: on IPv4 "administratively prohibited" (code 13), on IPv6 "address unreachable" (code
    3), because these are what Linux turns into EHOSTUNREACH; IPv6's own "prohibited" is EACCES.
    """
    if packet.flow.family == 4:
        kind, code = 3, 3 if port else 13
    else:
        kind, code = 1, 4 if port else 3
    return build_icmp_error(packet.flow, kind, code, 0, packet.raw)


def build_icmp_error(flow: Flow, kind: int, code: int, rest: int, quoted: bytes) -> bytes:
    """An ICMP error about a packet of a flow, from the flow's destination to its source.

    `rest`: the second word of the ICMP header (an MTU, or 0); `quoted`: the packet in question.
    """
    source, destination = flow.destination.ip, flow.source.ip
    message = struct.pack("!BBHI", kind, code, 0, rest) + quoted[:QUOTED_BYTES_MAX]
    if flow.family == 6:
        message = _summed(source, destination, ICMP6, message, 2)
        return build_ip(source, destination, ICMP6, message)
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    return build_ip(source, destination, ICMP, message)


def _summed(source: IP, destination: IP, protocol: int, segment: bytes, at: int) -> bytes:
    """A segment with its checksum, over pseudo header and all, written at an offset."""
    pseudo = source.packed + destination.packed + struct.pack("!II", len(segment), protocol)
    blank = segment[:at] + b"\0\0" + segment[at + 2 :]
    value = checksum(pseudo + blank)
    if value == 0 and protocol == UDP:
        value = 0xFFFF  # 0 says "no checksum" (RFC 768)
    return segment[:at] + value.to_bytes(2, "big") + segment[at + 2 :]
