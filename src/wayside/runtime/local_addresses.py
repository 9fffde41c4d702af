"""Which addresses are this machine's own: what is addressed to others was intercepted in transit."""

from __future__ import annotations

import time
from ipaddress import ip_address

from pyroute2 import IPRoute

from wayside.core.address import IP

READ_AGAIN_S = 1.0
"""An unknown destination makes us look again, but a flood of them only once a second."""


class LocalAddresses:
    """The machine's addresses, read from the kernel when something unknown turns up."""

    def __init__(self) -> None:
        self._known: frozenset[IP] = frozenset()
        self._read_at = float("-inf")

    def __contains__(self, ip: IP) -> bool:
        if ip in self._known:
            return True
        now = time.monotonic()
        if now - self._read_at >= READ_AGAIN_S:
            self._read_at = now
            with IPRoute() as route:
                self._known = frozenset(
                    ip_address(address.get("IFA_LOCAL") or address.get("IFA_ADDRESS"))
                    for address in route.get_addr()
                )
        return ip in self._known
