"""Virtual addresses: what applications see, and what never changes when hosts move.

On each host every peer has one IPv4 address out of 198.18.0.0/16, given out in the order in which
peers are met, and one IPv6 address that follows from its key and is the same everywhere. Who is
not a peer of ours, but opens a connection to us, is lent an address out of 198.19.0.0/16 for as
long as it lasts: strangers, of whom there is no end, use up nothing for ever. Spec: R-6.3.
"""

from __future__ import annotations

import hashlib
from collections import deque
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from .address import IP

OWN_V4 = IPv4Address("198.18.0.1")
V4_PREFIX = "198.18.0.0/15"
"""RFC 2544's benchmarking range: private to a host, and never on the internet."""

PEERS_MAX = 2**16 - 2
"""198.18.0.2 to 198.18.255.255."""

FIRST_LENT_V4 = IPv4Address("198.19.0.0")
LENT_MAX = 2**16 - 1
"""198.19.0.0 to 198.19.255.254."""

DEFAULT_V6_PREFIX = "fd77:6179:7364::/48"
"""A unique local prefix (RFC 4193), "wayside" in its bits; the same on all hosts, so that names can
map to it."""


class VirtualAddresses:
    """Gives peers their addresses."""

    def __init__(self, own_key: bytes, v6_prefix: str = DEFAULT_V6_PREFIX) -> None:
        self._v6_base = int(IPv6Network(v6_prefix).network_address)
        self._own_v6 = self._v6(own_key)
        self._v4_by_key: dict[bytes, IPv4Address] = {}
        self._key_by_ip: dict[IP, bytes] = {}
        self._lent: dict[IP, int] = {}
        self._lent_v4: dict[bytes, IPv4Address] = {}
        self._free: deque[IPv4Address] = deque()
        self._used = 0

    def own(self, family: int) -> IP:
        """This host's own virtual address."""
        return OWN_V4 if family == 4 else self._own_v6

    def of(self, key: bytes, family: int) -> IP:
        """The address of a peer (key: 32 bytes), assigned when it is first asked for.

        Raises OverflowError when more than 65,534 peers were met.
        """
        v4 = self._v4_by_key.get(key)
        if v4 is None:
            if len(self._v4_by_key) >= PEERS_MAX:
                raise OverflowError("no virtual address is left")
            v4 = OWN_V4 + 1 + len(self._v4_by_key)
            self._v4_by_key[key] = v4
            self._key_by_ip[v4] = self._key_by_ip[self._v6(key)] = key
        return v4 if family == 4 else self._v6(key)

    def lend(self, key: bytes, family: int) -> IP:
        """The address of whoever has this key (32 bytes), until it is given back as often.

        Raises OverflowError when none is left.
        """
        if key in self._v4_by_key:
            return self.of(key, family)
        ip = self._lent_v4.get(key) or self._unused() if family == 4 else self._v6(key)
        self.claim(key, ip)
        return ip

    def claim(self, key: bytes, ip: IP) -> None:
        """Lend this very address, as it was lent before a restart."""
        if self._key_by_ip.get(ip, key) == key and key not in self._v4_by_key:
            self._lent[ip] = self._lent.get(ip, 0) + 1
            self._key_by_ip[ip] = key
            if isinstance(ip, IPv4Address):
                self._lent_v4[key] = ip

    def give_back(self, ip: IP) -> None:
        """The end of one loan; of an address that was not lent: nothing."""
        left = self._lent.pop(ip, 0) - 1
        if left > 0:
            self._lent[ip] = left
        elif left == 0:
            key = self._key_by_ip[ip]
            if isinstance(ip, IPv4Address):
                self._lent_v4.pop(key, None)
                self._free.append(ip)
            if ip != self._v6(key) or key not in self._v4_by_key:
                del self._key_by_ip[ip]

    def _unused(self) -> IPv4Address:
        """One that was never lent, else the one that was given back longest ago."""
        while self._used < LENT_MAX:
            ip = FIRST_LENT_V4 + self._used
            self._used += 1
            if ip not in self._key_by_ip:
                return ip
        while self._free:
            ip = self._free.popleft()
            if ip not in self._key_by_ip:
                return ip
        raise OverflowError("no virtual address is left")

    def covers(self, ip: IP) -> bool:
        """Whether this could be a virtual address; none of those is ever on the wire."""
        if isinstance(ip, IPv4Address):
            return int(ip) >> 17 == int(OWN_V4) >> 17
        return int(ip) >> 80 == self._v6_base >> 80

    def key_of(self, ip: IP) -> bytes | None:
        """Whose address this is, or None."""
        return self._key_by_ip.get(ip)

    @property
    def met(self) -> tuple[bytes, ...]:
        """The keys that have an address, in the order to give to `of` after a restart."""
        return tuple(self._v4_by_key)

    def _v6(self, key: bytes) -> IPv6Address:
        return IPv6Address(self._v6_base + int.from_bytes(hashlib.sha256(key).digest()[:10], "big"))
