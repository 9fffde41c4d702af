"""Virtual addresses: what applications see, and what never changes when hosts move.

On each host every peer has one IPv4 address out of 198.18.0.0/15, given out in the order in which
peers are met, and one IPv6 address that follows from its key and is the same everywhere.
Spec: R-6.3.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from .address import IP

OWN_V4 = IPv4Address("198.18.0.1")
V4_PREFIX = "198.18.0.0/15"
"""RFC 2544's benchmarking range: private to a host, and never on the internet."""

PEERS_MAX = 2**17 - 4
"""What the range holds, less its ends and ourselves."""

DEFAULT_V6_PREFIX = "fd77:6179:7364::/48"
"""A unique local prefix (RFC 4193); the same on all hosts, so that names can map to it."""


class VirtualAddresses:
    """Gives peers their addresses."""

    def __init__(self, own_key: bytes, v6_prefix: str = DEFAULT_V6_PREFIX) -> None:
        self._v6_base = int(IPv6Network(v6_prefix).network_address)
        self._own_v6 = self._v6(own_key)
        self._v4_by_key: dict[bytes, IPv4Address] = {}
        self._key_by_ip: dict[IP, bytes] = {}

    def own(self, family: int) -> IP:
        """This host's own virtual address."""
        return OWN_V4 if family == 4 else self._own_v6

    def of(self, key: bytes, family: int) -> IP:
        """The address of a peer (key: 32 bytes), assigned when it is first asked for.

        Raises OverflowError when more than 131,068 peers were met.
        """
        v4 = self._v4_by_key.get(key)
        if v4 is None:
            if len(self._v4_by_key) >= PEERS_MAX:
                raise OverflowError("no virtual address is left")
            v4 = OWN_V4 + 1 + len(self._v4_by_key)
            self._v4_by_key[key] = v4
            self._key_by_ip[v4] = self._key_by_ip[self._v6(key)] = key
        return v4 if family == 4 else self._v6(key)

    def key_of(self, ip: IP) -> bytes | None:
        """Whose address this is, or None."""
        return self._key_by_ip.get(ip)

    @property
    def met(self) -> tuple[bytes, ...]:
        """The keys that have an address, in the order to give to `of` after a restart."""
        return tuple(self._v4_by_key)

    def _v6(self, key: bytes) -> IPv6Address:
        return IPv6Address(self._v6_base + int.from_bytes(hashlib.sha256(key).digest()[:10], "big"))
