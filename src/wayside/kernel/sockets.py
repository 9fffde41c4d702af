"""The sockets that need privilege, opened by the helper and handed to the process that has none.

Signaling sockets carry our mark, so that what they send passes other rulesets by the one rule
that `wayside doctor` prints; a gate's are transparent, and tell where a datagram was addressed.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack

from .lanes import LOOPBACK, PORTS
from .names import MARK, TAP_LINK
from .plan import KernelError

_IP_PKTINFO, _IP_TRANSPARENT, _IP_RECVORIGDSTADDR = 8, 19, 20
_IPV6_RECVORIGDSTADDR, _IPV6_TRANSPARENT = 74, 75
_PACKET_IGNORE_OUTGOING = 23
_SOL_RAW, _SOL_PACKET = 255, 263
_ICMP_FILTER, _ICMP6_FILTER = 1, 1
_ETH_P_ALL = 0x0003
_NETLINK_SOCK_DIAG = 4
_GROUPS_TCP_DESTROY = 1 << 0 | 1 << 2
"""SKNLGRP_INET_TCP_DESTROY (1) and SKNLGRP_INET6_TCP_DESTROY (3) as a bit mask."""

BUFFER_BYTES = 4 << 20
"""Room for 3,000 OPENs while Python is busy elsewhere; the kernel may grant less."""


def open_host_sockets(port: int) -> dict[str, socket.socket]:
    """A host's sockets by name, none of them blocking. Raises KernelError."""
    return _open_all(
        {
            "signaling_v4": lambda: _signaling(socket.AF_INET, port, transparent=False),
            "signaling_v6": lambda: _signaling(socket.AF_INET6, port, transparent=False),
            "tap": _tap,
            "raw_v4": lambda: _raw(socket.AF_INET),
            "raw_v6": lambda: _raw(socket.AF_INET6),
            "icmp_v4": _icmp_v4,
            "icmp_v6": _icmp_v6,
            "tcp_ends": _tcp_ends,
        }
    )


def check_port(port: int) -> None:
    """Raises KernelError where another process signals by this port: the table is that one's."""
    families = {"signaling_v4": socket.AF_INET, "signaling_v6": socket.AF_INET6}
    opened = _open_all(
        {
            name: lambda family=family: _signaling(family, port, transparent=False)
            for name, family in families.items()
        }
    )
    for sock in opened.values():
        sock.close()


def open_gate_sockets(port: int) -> dict[str, socket.socket]:
    """A gate's sockets by name, none of them blocking. Raises KernelError."""
    opened = _open_all(
        {
            "signaling_v4": lambda: _signaling(socket.AF_INET, port, transparent=True, reuse=True),
            "signaling_v6": lambda: _signaling(socket.AF_INET6, port, transparent=True, reuse=True),
            "aside_v4": lambda: _lane(4, port, reuse=True),
            "aside_v6": lambda: _lane(6, port, reuse=True),
            "shown_v4": lambda: _lane(4, port + PORTS["shown"]),
            "shown_v6": lambda: _lane(6, port + PORTS["shown"]),
            "again_v4": lambda: _lane(4, port + PORTS["again"]),
            "again_v6": lambda: _lane(6, port + PORTS["again"]),
            "bare_v4": lambda: _lane(4, port + PORTS["bare"]),
            "bare_v6": lambda: _lane(6, port + PORTS["bare"]),
        }
    )
    for name in ("signaling_v4", "signaling_v6", "aside_v4", "aside_v6"):
        opened[name].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # nobody else may
    return opened


def _open_all(openers: dict[str, Callable[[], socket.socket]]) -> dict[str, socket.socket]:
    opened: dict[str, socket.socket] = {}
    with ExitStack() as undo:
        for name, opener in openers.items():
            try:
                opened[name] = undo.enter_context(opener())
            except OSError as error:
                raise KernelError(f"no {name} socket: {error.strerror}", _hint(error)) from error
            opened[name].setblocking(False)
        undo.pop_all()
    return opened


def _hint(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process has the port; `ss -lunp` names it, `listen` chooses another"
    if error.errno in (errno.EPERM, errno.EACCES):
        return "run as root, or in a namespace of your own: unshare -Urnm"
    return "wayside doctor checks what this kernel has to offer"


def _lane(version: int, port: int, reuse: bool = False) -> socket.socket:
    """A gate's further socket, for what the kernel picks out (lanes.py)."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return _signaling(family, port, transparent=True, host=LOOPBACK[version], reuse=reuse)


def _signaling(
    family: int, port: int, transparent: bool, host: str = "", reuse: bool = False
) -> socket.socket:
    """`reuse`: two of ours have the port, one of them on loopback, to send by."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        if family == socket.AF_INET6:
            level = socket.IPPROTO_IPV6
            sock.setsockopt(level, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(level, socket.IPV6_RECVPKTINFO, 1)
            original, transparency = _IPV6_RECVORIGDSTADDR, _IPV6_TRANSPARENT
        else:
            level = socket.IPPROTO_IP
            sock.setsockopt(level, _IP_PKTINFO, 1)
            original, transparency = _IP_RECVORIGDSTADDR, _IP_TRANSPARENT
        if transparent:
            sock.setsockopt(level, transparency, 1)
            sock.setsockopt(level, original, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _tap() -> socket.socket:
    """IP packets that no rule rewrites; and frames towards the host. Only the tap's link."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.bind((TAP_LINK, _ETH_P_ALL))
    except OSError:
        sock.close()
        raise
    return sock


def _raw(family: int) -> socket.socket:
    """Sends whole IP packets (IPPROTO_RAW has HDRINCL), told from an application's by the mark."""
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    return sock


def _icmp_v4() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    wanted = 1 << 3 | 1 << 11 | 1 << 12
    sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~wanted & 0xFFFFFFFF))
    return sock


def _icmp_v6() -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    blocked = [0xFFFFFFFF] * 8
    blocked[0] &= ~(1 << 1 | 1 << 2 | 1 << 3 | 1 << 4)
    sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
    return sock


def _tcp_ends() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.bind((0, _GROUPS_TCP_DESTROY))
    except OSError:
        sock.close()
        raise
    return sock
