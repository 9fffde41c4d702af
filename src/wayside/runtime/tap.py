"""The agent's ears on its own host: applications' packets, ICMP errors, sockets that have ended.

All of it arrives on sockets that the helper opened; this only reads them and tells the agent.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from wayside.core.address import Flow
from wayside.kernel.endings import ended_flows
from wayside.kernel.icmp import (
    error_from_packet,
    error_from_socket,
    returned_signaling,
    translate_error,
)
from wayside.kernel.tap import inject, read_packets, release, send_out

from .helper_client import Sockets

ERRORS_A_CALL = 64
ICMP_BYTES_MAX = 2048
"""Routers quote 1,280 bytes at the most."""


class Tap:
    """Reads what the host's own stack and applications do.

    `on_packet`: an IP packet that no rule rewrites; `on_ended`: the local flow of a TCP socket that
    is gone; `local_of`: from a wire flow of ours to the local one, or None; `wire_of`: from the
    local flow of a peer's packets to the wire's, or None; `on_returned`: a signaling datagram of
    ours, or its beginning, that the network says nobody takes.
    """

    def __init__(
        self,
        sockets: Sockets,
        on_packet: Callable[[bytes], None],
        on_ended: Callable[[Flow], None],
        local_of: Callable[[Flow], Flow | None],
        wire_of: Callable[[Flow], Flow | None],
        on_returned: Callable[[Flow, bytes], None],
    ) -> None:
        self._sockets = sockets
        self._on_packet = on_packet
        self._on_ended = on_ended
        self._local_of = local_of
        self._wire_of = wire_of
        self._on_returned = on_returned

    def start(self) -> None:
        """Read from now on."""
        loop, sockets = asyncio.get_running_loop(), self._sockets
        loop.add_reader(sockets.tap, self._read_packets)
        loop.add_reader(sockets.icmp_v4, self._read_errors, sockets.icmp_v4, 4)
        loop.add_reader(sockets.icmp_v6, self._read_errors, sockets.icmp_v6, 6)
        loop.add_reader(sockets.tcp_ends, self._read_ended)

    def stop(self) -> None:
        """Read no more."""
        loop, sockets = asyncio.get_running_loop(), self._sockets
        for sock in (sockets.tap, sockets.icmp_v4, sockets.icmp_v6, sockets.tcp_ends):
            loop.remove_reader(sock)

    def inject(self, packet: bytes) -> None:
        """Give an IP packet to this host's own stack."""
        inject(self._sockets.tap, packet)

    def release(self, packet: bytes) -> None:
        """Send an application's packet on, now that a rule rewrites it."""
        release(self._sockets.raw_v4, self._sockets.raw_v6, packet)

    def send(self, packet: bytes) -> None:
        """Send an IP packet of our own making to the network, as it is."""
        send_out(self._sockets.raw_v4, self._sockets.raw_v6, packet)

    def tell_peer(self, packet: bytes) -> None:
        """Send the ICMP error that this host's own stack has for a peer, in the wire's terms."""
        family = packet[0] >> 4
        error = translate_error(error_from_packet(packet), family, self._wire_of)
        if error is not None:
            send_out(self._sockets.raw_v4, self._sockets.raw_v6, error)

    def _read_packets(self) -> None:
        for packet in read_packets(self._sockets.tap):
            self._on_packet(packet)

    def _read_errors(self, sock: socket.socket, family: int) -> None:
        for _ in range(ERRORS_A_CALL):
            data = b""
            with suppress(OSError):
                data = sock.recv(ICMP_BYTES_MAX)
            if not data:
                return
            error = error_from_socket(data)
            returned = returned_signaling(error, family)
            if returned is not None:
                self._on_returned(*returned)
                continue
            packet = translate_error(error, family, self._local_of)
            if packet is not None:
                self.inject(packet)

    def _read_ended(self) -> None:
        for flow in ended_flows(self._sockets.tcp_ends):
            self._on_ended(flow)
