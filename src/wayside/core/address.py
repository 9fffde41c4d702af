"""Addresses and flows: what a wire 5-tuple is made of, canonical from the moment it exists.

An address that is spelt in two ways slips past a rule that knows one of them. So spellings end
here: a v4-mapped IPv6 address becomes the IPv4 address, a zone is refused, and everything behind
this file compares plain values. Spec: R-2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

IP = IPv4Address | IPv6Address

_NAT64 = int(IPv6Address("64:ff9b::")) >> 32


class Transport(IntEnum):
    """What carries the data of a connection; the number is the one on the wire."""

    NONE = 0
    TCP = 1
    MPTCP = 2
    UDP = 3

    @property
    def protocol(self) -> int:
        """The IP protocol number of the packets: 6 for TCP and MPTCP, 17 for UDP, 0 for none."""
        return {Transport.NONE: 0, Transport.UDP: 17}.get(self, 6)

    @property
    def is_tcp(self) -> bool:
        """Whether its packets are TCP's, the first of which is a SYN."""
        return self in (Transport.TCP, Transport.MPTCP)


def canonical_ip(ip: IP) -> IP:
    """Return the one spelling of an address. Raises ValueError for an address with a zone.

    Spec: R-2.4.
    """
    if isinstance(ip, IPv6Address):
        if ip.scope_id is not None:
            raise ValueError(f"{ip} has a zone; a zone means nothing to another host")
        return ip.ipv4_mapped or ip
    return ip


def carried_ipv4(ip: IP) -> IPv4Address | None:
    """The IPv4 address to which packets for this IPv6 address go in the end, where it shows one.

    Known are 6to4 (RFC 3056) and NAT64's well-known prefix (RFC 6052). Spec: R-2.6.
    """
    if isinstance(ip, IPv4Address):
        return None
    if int(ip) >> 32 == _NAT64:
        return IPv4Address(ip.packed[12:])
    return ip.sixtofour


@lru_cache(maxsize=4096)  # the same few hosts, again and again
def _unpack_ip(raw: bytes) -> IP:
    ip: IP = IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
    if canonical_ip(ip) is not ip:
        raise ValueError(f"{ip} is not the canonical spelling")
    return ip


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a port (0 to 65535, 0: not chosen yet); always canonical. Spec: R-2.4."""

    ip: IP
    port: int

    def __post_init__(self) -> None:
        ip = canonical_ip(self.ip)
        if ip is not self.ip:
            object.__setattr__(self, "ip", ip)
        if not 0 <= self.port <= 0xFFFF:
            raise ValueError(f"port {self.port} is not in 0..65535")

    @classmethod
    def parse(cls, text: str, default_port: int = 0) -> Address:
        """Read `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1` or `[2001:db8::1]:443`.

        Raises ValueError for anything else, names included.
        """
        host, port = text, str(default_port)
        if text.startswith("["):
            host, closed, rest = text[1:].partition("]")
            if not closed or (rest and not rest.startswith(":")):
                raise ValueError(f"{text!r} is not an address such as [2001:db8::1]:443")
            if rest:
                port = rest[1:]
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
        if not (port.isascii() and port.isdigit()):
            raise ValueError(f"{text!r}: {port!r} is not a port")
        return cls(ip_address(host), int(port))

    @classmethod
    def unpack(cls, raw: bytes) -> Address:
        """Read the wire form: 4 or 16 bytes of address, 2 of port. Raises ValueError. R-2.4."""
        if len(raw) not in (6, 18):
            raise ValueError(f"an address has 6 or 18 bytes, not {len(raw)}")
        return cls(_unpack_ip(raw[:-2]), int.from_bytes(raw[-2:], "big"))

    def pack(self) -> bytes:
        """The wire form: 6 or 18 bytes. Spec: R-2.4."""
        return self.ip.packed + self.port.to_bytes(2, "big")

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.ip.version

    def with_port(self, port: int) -> Address:
        """The same host, another port."""
        return Address(self.ip, port)

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}" if self.family == 4 else f"[{self.ip}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Flow:
    """A 5-tuple in one direction: the packets from `source` to `destination`. Spec: R-2.5."""

    transport: Transport
    source: Address
    destination: Address

    def __post_init__(self) -> None:
        if self.source.family != self.destination.family:
            raise ValueError(f"{self.source} and {self.destination} are of two families")

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.source.family

    @property
    def on_the_wire(self) -> Flow:
        """What its packets show: those of MPTCP are TCP's."""
        if self.transport is not Transport.MPTCP:
            return self
        return Flow(Transport.TCP, self.source, self.destination)

    def reversed(self) -> Flow:
        """The 5-tuple of the packets that come back."""
        return Flow(self.transport, self.destination, self.source)

    def __str__(self) -> str:
        return f"{self.transport.name.lower()} {self.source} > {self.destination}"
