"""Which addresses are this machine's own: what is addressed to others was intercepted in transit.

A socket that is not transparent can be bound to the machine's own addresses only, so the kernel
itself answers, without privilege and without a copy of its tables that could be out of date.
"""

from __future__ import annotations

import socket
import time

from wayside.core.address import IP

ASK_AGAIN_S = 1.0
"""An address that comes or goes is noticed so soon; a bind costs ten times a look-up."""

KNOWN_MAX = 4096
"""Destinations remembered; a scan across a gate must not fill its memory."""


class LocalAddresses:
    """Answers `ip in local`, and remembers the answer for a moment."""

    def __init__(self) -> None:
        self._known: dict[IP, tuple[bool, float]] = {}

    def __contains__(self, ip: IP) -> bool:
        now = time.monotonic()
        known = self._known.get(ip)
        if known is not None and now - known[1] < ASK_AGAIN_S:
            return known[0]
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        is_local = is_own(ip)
        self._known[ip] = (is_local, now)
        return is_local


def is_own(ip: IP) -> bool:
    """Whether the kernel lets us use this address now; a tentative one it does not."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(ip), 0))
        except OSError:
            return False
        return True
