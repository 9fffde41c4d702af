"""News of this host's addresses, links and routes, from the kernel's route netlink.

Whoever hears of a change asks the kernel what holds now, so what a message says is not read: that
it came is enough, and one that was lost (ENOBUFS) is as good as one that came. Listening needs no
privilege.
"""

from __future__ import annotations

import socket

_NETLINK_ROUTE = 0
_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE = 1, 5, 7, 9, 11
_GROUPS = sum(
    1 << group - 1 for group in (_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE)
)
"""RTNLGRP_* as a bit mask."""

MESSAGES_A_CALL = 256


def open_changes() -> socket.socket:
    """A socket that is readable when something has changed; it does not block."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
    sock.setblocking(False)
    sock.bind((0, _GROUPS))
    return sock


def read_changes(sock: socket.socket) -> bool:
    """Take what there is, without blocking; whether there was anything."""
    for taken in range(MESSAGES_A_CALL):
        try:
            sock.recv(65536)
        except BlockingIOError:
            return taken > 0
        except OSError:
            continue  # ENOBUFS: more than the socket could hold
    return True
