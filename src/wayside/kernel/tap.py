"""In and out by the tap: packets of applications that no rule rewrites, and answers to them.

The tap is the far end of the veth pair that the virtual addresses are routed into (links.py).
What is written to it arrives at the host as if from the network; what is to leave goes through a
raw socket instead, so that it passes `output` and the rules that rewrite it.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from .names import HOST_MAC, TAP_LINK
from .packets import parse_header, parse_packet, with_checksum

PACKETS_A_CALL = 64
_BYTES_MAX = 65535
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD


def read_packets(tap: socket.socket) -> list[bytes]:
    """IP packets that are waiting, up to PACKETS_A_CALL; without blocking."""
    found: list[bytes] = []
    for _ in range(PACKETS_A_CALL):
        try:
            data, (_, protocol, *_) = tap.recvfrom(_BYTES_MAX)
        except BlockingIOError:
            break
        except OSError:
            continue  # the link went down and up
        if protocol in (_ETH_P_IP, _ETH_P_IPV6):
            found.append(data)
    return found


def inject(tap: socket.socket, packet: bytes) -> bool:
    """Give an IP packet to this host's own stack; False when the kernel has no room for it."""
    protocol = _ETH_P_IP if packet[0] >> 4 == 4 else _ETH_P_IPV6
    with suppress(OSError):
        tap.sendto(packet, (TAP_LINK, protocol, 0, 0, HOST_MAC))
        return True
    return False


def send_out(raw_v4: socket.socket, raw_v6: socket.socket, packet: bytes) -> bool:
    """Send an IP packet of our own making to the network; False when it could not be."""
    header = parse_header(packet)
    if header is None:
        return False
    sock = raw_v4 if header.destination.version == 4 else raw_v6
    with suppress(OSError):
        sock.sendto(packet, (str(header.destination), 0))
        return True
    return False


def release(raw_v4: socket.socket, raw_v6: socket.socket, packet: bytes) -> bool:
    """Send an application's packet on, now that a rule rewrites it; False when it could not be.

    Without a rule the kernel drops it: it does not come back to the tap.
    """
    parsed = parse_packet(packet)
    return parsed is not None and send_out(raw_v4, raw_v6, with_checksum(parsed))
