"""A long wire: everything that comes in at one end leaves at the other, later.

`python -m wayside.lab.wire LEFT RIGHT DELAY_MS` relays frames between two interfaces of its
namespace, each after the delay, in order. For kernels without netem. Frames keep the kernel's
virtio header (PACKET_VNET_HDR), so offloaded segments and unfinished checksums pass unharmed. It
is good for round trips, not for rates: tens of thousands of frames a second.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque

SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3

FRAME_BYTES_MAX = 66_000
"""A 64 KiB segment with its headers."""

QUEUE_FRAMES_MAX = 10_000
"""Beyond this the wire loses, as a real one would."""


def open_end(device: str) -> socket.socket:
    """A socket that gets every frame arriving at a device, and none of those it sends."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
    end.bind((device, 0))
    end.setblocking(False)
    return end


def relay(left: socket.socket, right: socket.socket, delay_s: float) -> None:
    """Carry frames for ever."""
    queue: deque[tuple[float, socket.socket, bytes]] = deque()
    other = {left: right, right: left}
    while True:
        wait_s = max(0.0, queue[0][0] - time.monotonic()) if queue else None
        for end in select.select((left, right), (), (), wait_s)[0]:
            frame = end.recv(FRAME_BYTES_MAX)
            if len(queue) < QUEUE_FRAMES_MAX:
                queue.append((time.monotonic() + delay_s, other[end], frame))
        while queue and queue[0][0] <= time.monotonic():
            _, end, frame = queue.popleft()
            end.send(frame)


def main() -> None:
    """Relay between the two named devices; says `ready` first."""
    left, right, delay_ms = sys.argv[1:]
    ends = open_end(left), open_end(right)
    print("ready", flush=True)
    relay(*ends, float(delay_ms) / 1000)


if __name__ == "__main__":
    main()
