"""Reading and sending signaling datagrams, many a wake-up.

`loop.add_reader` with `recvmsg` handles several times what asyncio's own datagram endpoint does;
and only `recvmsg` tells where a datagram was addressed to, which a gate that intercepts needs.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from wayside.core.address import IP, Address, canonical_ip
from wayside.core.constants import DATAGRAM_BYTES_MAX

from .errors import WaysideError

READS_A_WAKEUP = 64
"""Then others get their turn; at 10 us each this is under a millisecond."""

IP_PKTINFO = 8
IP_ORIGDSTADDR = 20
IPV6_ORIGDSTADDR = 74
IPV6_PKTINFO = 50
CONTROL_BYTES = 256
_IN_PKTINFO = struct.Struct("@i4s4s")
_IN6_PKTINFO = struct.Struct("@16si")


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram: its bytes, its source, where it was addressed to, the interface it came in on.

    `crowded`: more waited at its socket than could be read.
    """

    data: bytes
    source: Address
    destination: Address
    interface: int
    crowded: bool = False


def read_datagrams(sock: socket.socket, port: int, crowded: bool = False) -> list[Received]:
    """Read what is there, up to READS_A_WAKEUP. `port`: our own, where no original is told.

    `crowded`: more has come there lately than could be read.
    """
    found: list[Received] = []
    for _ in range(READS_A_WAKEUP):
        try:
            data, control, _, name = sock.recvmsg(DATAGRAM_BYTES_MAX + 1, CONTROL_BYTES)
        except (BlockingIOError, InterruptedError):
            break
        except OSError:
            continue  # an ICMP error about something that we sent
        zoned = len(name) > 3 and name[3]  # link-local: nothing of ours is addressed to one
        source = None if zoned else _address(name[0], name[1])
        if source is None:
            continue
        destination, interface = _addressed_to(control, sock.family, port)
        found.append(Received(data, source, destination, interface, crowded))
    return found


def send(
    sockets: dict[int, socket.socket], data: bytes, to: Address, source: Address | None = None
) -> bool:
    """Send a datagram; False when the network does not take it (it is then as lost as any).

    `source`: the address to send from; one that is not ours takes a transparent socket.
    """
    sock = sockets.get(to.family)
    if sock is None:
        return False
    with contextlib.suppress(OSError):
        if source is None or source.family != to.family:
            sock.sendto(data, (_text(to.ip), to.port))
        else:
            sock.sendmsg([data], [_sent_from(source.ip)], 0, (_text(to.ip), to.port))
        return True
    return False


@lru_cache(maxsize=4096)
def _sent_from(ip: IP) -> tuple[int, int, bytes]:
    if ip.version == 4:
        return socket.IPPROTO_IP, IP_PKTINFO, _IN_PKTINFO.pack(0, ip.packed, bytes(4))
    return socket.IPPROTO_IPV6, IPV6_PKTINFO, _IN6_PKTINFO.pack(ip.packed, 0)


@lru_cache(maxsize=4096)
def _text(ip: IP) -> str:
    return str(ip)


def _address(host: str, port: int) -> Address | None:
    try:
        return Address(_read_ip(host), port)
    except ValueError:
        return None


@lru_cache(maxsize=4096)  # reading one takes 2 us
def _read_ip(host: str) -> IP:
    return IPv6Address(host) if ":" in host else IPv4Address(host)


def _addressed_to(
    control: list[tuple[int, int, bytes]], family: int, port: int
) -> tuple[Address, int]:
    ip: IP = IPv4Address(0) if family == socket.AF_INET else IPv6Address(0)
    interface = 0
    original: Address | None = None
    for level, kind, raw in control:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            interface, _, packed = _IN_PKTINFO.unpack(raw[: _IN_PKTINFO.size])
            ip = IPv4Address(packed)
        elif level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO:
            packed, interface = _IN6_PKTINFO.unpack(raw[: _IN6_PKTINFO.size])
            ip = canonical_ip(IPv6Address(packed))
        elif level == socket.IPPROTO_IP and kind == IP_ORIGDSTADDR:
            original = Address(IPv4Address(raw[4:8]), int.from_bytes(raw[2:4], "big"))
        elif level == socket.IPPROTO_IPV6 and kind == IPV6_ORIGDSTADDR:
            original = Address(IPv6Address(raw[8:24]), int.from_bytes(raw[2:4], "big"))
    return original or Address(ip, port), interface


def open_signaling(port: int) -> dict[int, socket.socket]:
    """Ordinary sockets for signaling by family, without privilege; `port` 0: any.

    Raises WaysideError when the port is taken.
    """
    sockets: dict[int, socket.socket] = {}
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            sock.bind(("", port))
        except OSError as error:
            sock.close()
            for opened in sockets.values():
                opened.close()
            raise WaysideError(
                f"UDP port {port} cannot be used for signaling",
                why=error.strerror or str(error),
                hint="is an agent running? `listen` in host.toml chooses another port",
                code="WS-1005",
            ) from error
        sockets[version] = sock
    return sockets


def source_towards(to: Address) -> Address | None:
    """Our own address on the way to another (port 0); None when there is no way."""
    family = socket.AF_INET if to.family == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(to.ip), to.port or 1))
        except OSError:
            return None
        found = Address.parse(probe.getsockname()[0])
        return None if found.ip.is_link_local else found
