"""Mappings that are not ours: what this machine's connection tracking has lent to somebody else.

Our flows pass untracked, so connection tracking knows nothing of them, and another table's
masquerade, or a program of this box itself, may have the very address and port that a NAT of ours
would lend. Their answers could not be told from ours. So the kernel is asked before a rule that
lends is made: by the 5-tuple of the answers, 0.8 ms each, and not at all where nothing is tracked.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from wayside.core.address import Flow

from .plan import KernelError

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_count")


class ForeignMappings:
    """Asks connection tracking, in the network namespace of its first question."""

    def __init__(self) -> None:
        self._sockets: dict[int, Any] = {}

    def has(self, flow: Flow) -> bool:
        """Whether packets of somebody else leave here as this flow. Raises KernelError."""
        if not _is_tracking():
            return False
        there, here = flow.destination, flow.source
        answers = NFCTAttrTuple(
            family=_FAMILIES[flow.family],
            saddr=str(there.ip),
            daddr=str(here.ip),
            proto=flow.transport.protocol,
            sport=there.port,
            dport=here.port,
        )
        try:
            return bool(self._socket(flow.family).entry("get", tuple_reply=answers))
        except NetlinkError as error:
            if error.code == errno.ENOENT:
                return False
            raise KernelError(f"connection tracking does not answer: {error}") from error

    def _socket(self, family: int) -> Any:
        if family not in self._sockets:
            self._sockets[family] = NFCTSocket(nfgen_family=_FAMILIES[family])
        return self._sockets[family]


def _is_tracking() -> bool:
    """Whether anything is tracked at all: 10 us."""
    try:
        return _TRACKED.read_text().strip() != "0"
    except OSError:  # a kernel without connection tracking
        return False
