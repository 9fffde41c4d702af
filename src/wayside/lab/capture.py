"""Packets in memory that the kernel shares with a capture: it waits for nobody to read. packet(7).

The kernel lays packets one behind the other into blocks (version 3), and hands over a block when it
is full or some time has passed; whoever reads it hands it back. A flow of small datagrams so takes
no more room than its bytes.

    python -m wayside.lab.capture FILE DEVICE

keeps what passes a device in a file, until SIGTERM, and prints how many packets it missed.
"""

from __future__ import annotations

import json
import mmap
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from wayside.core.address import IP
from wayside.lab.wire import ETH_P_ALL, SOL_PACKET
from wayside.lab.world import Node, Process

CAPTURE_S = 60.0
"""A capture ends by itself: no scenario is longer."""

BLOCK_BYTES, BLOCKS, FRAME_BYTES = 1 << 20, 64, 1 << 11
AROUND_BYTES = 80

RETIRE_MS = 20
"""When a block that is not full is handed over."""

PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, TPACKET_V3 = 5, 6, 10, 2
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1


@dataclass(frozen=True, slots=True)
class Capture:
    """All that passes an interface of a node, as it is on the wire."""

    process: Process
    file: Path

    def end(self) -> int:
        """Stop, and return how many packets were missed."""
        self.process.popen.send_signal(signal.SIGTERM)
        self.process.wait(10.0)
        return int(json.loads(self.process.text().splitlines()[-1])["missed"])

    def has(self, addresses: Iterable[IP]) -> list[str]:
        """Which of these are in it, as the bytes of an address or as text."""
        data = self.file.read_bytes()
        return [str(one) for one in addresses if one.packed in data or str(one).encode() in data]

    def around(self, address: str) -> str:
        """What stands about an address where it is first, in hex: whether it is one, or chance."""
        data, packed = self.file.read_bytes(), ip_address(address).packed
        at = data.find(packed) if packed in data else data.find(address.encode())
        return f"{data[max(0, at - AROUND_BYTES) : at + AROUND_BYTES].hex()} at {at}"


def start_capture(node: Node, device: str) -> Capture:
    """Keep what passes a device from now on."""
    file = node.state / f"capture-{device}"
    process = node.spawn_python("wayside.lab.capture", str(file), device, ready="ready")
    return Capture(process, file)


class Ring:
    """The blocks, each read in its turn."""

    def __init__(self, tap: socket.socket) -> None:
        tap.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        frames = BLOCKS * BLOCK_BYTES // FRAME_BYTES
        wanted = struct.pack("7I", BLOCK_BYTES, BLOCKS, FRAME_BYTES, frames, RETIRE_MS, 0, 0)
        tap.setsockopt(SOL_PACKET, PACKET_RX_RING, wanted)
        self._memory = mmap.mmap(tap.fileno(), BLOCKS * BLOCK_BYTES)
        self._next = 0

    def read(self) -> Iterator[bytes] | None:
        """The packets of the next block, from the link layer's header on; None: not yet."""
        status, count, first = struct.unpack_from("III", self._memory, self._next + 8)
        if not status & TP_STATUS_USER:
            return None
        begin, self._next = self._next, (self._next + BLOCK_BYTES) % (BLOCKS * BLOCK_BYTES)
        return self._packets(begin, begin + first, count)

    def _packets(self, block: int, at: int, count: int) -> Iterator[bytes]:
        for _ in range(count):
            following, _, _, size, length = struct.unpack_from("5I", self._memory, at)
            (mac,) = struct.unpack_from("H", self._memory, at + 24)
            assert size == length, "a packet larger than a block of the ring"
            yield self._memory[at + mac : at + mac + size]
            at += following
        struct.pack_into("I", self._memory, block + 8, TP_STATUS_KERNEL)


def main() -> None:
    """The capture: keep what passes a device in a file, until SIGTERM."""
    file, device = sys.argv[1:]
    ends = time.monotonic() + CAPTURE_S

    def end(_number: int, _frame: object) -> None:
        nonlocal ends
        ends = time.monotonic() + 3 * RETIRE_MS / 1000  # the last block is handed over by then

    signal.signal(signal.SIGTERM, end)
    with (
        open(file, "wb", buffering=1 << 20) as sink,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as tap,
    ):
        ring = Ring(tap)
        tap.bind((device, ETH_P_ALL))
        print("ready", flush=True)
        while True:
            packets = ring.read()
            if packets is not None:
                sink.writelines(packets)
            elif time.monotonic() > ends:
                break
            else:
                select.select([tap], [], [], 0.02)
        _, missed, _ = struct.unpack("III", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12))
    print(json.dumps({"missed": missed}), flush=True)


if __name__ == "__main__":
    main()
