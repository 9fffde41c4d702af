"""Many TCP transfers that go on until they are told to end, and know whether all has come.

    python -m wayside.lab.transfers serve PORT
    python -m wayside.lab.transfers ask ADDRESS PORT COUNT

The server sends random bytes on each connection, a little at a time, until the other end closes
its half; then the SHA-256 of all that it has sent, and the end. Who asks prints a JSON line each
quarter of a second: how many transfers go on, and how many of these got something since the last.
SIGUSR1 ends some. Each prints a line at its end: how much it was, and what was wrong with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from wayside.core.address import IP
from wayside.lab.world import Node, Process

BLOCK_BYTES, EVERY_S = 2048, 0.05
"""40 KB/s each: fifty of them leave a core to the daemons, and none is silent for long."""

TOLD_EVERY_S = 0.25
ENDED_AT_ONCE = 5
"""Transfers that one SIGUSR1 ends."""

DIGEST_BYTES = 32


async def serve(port: int) -> None:
    """Send to whoever connects, over both families, for ever."""
    server = await asyncio.start_server(_send, ["0.0.0.0", "::"], port, backlog=256)
    print("ready", flush=True)
    await server.serve_forever()


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    sent = hashlib.sha256()
    ended = asyncio.ensure_future(reader.read())
    with suppress(OSError):
        while not ended.done():
            block = os.urandom(BLOCK_BYTES)
            sent.update(block)
            writer.write(block)
            await writer.drain()
            await asyncio.wait([ended], timeout=EVERY_S)
        writer.write(sent.digest())
        writer.close()
        await writer.wait_closed()


@dataclass(slots=True)
class Transfer:
    """One of them. `told`: how many bytes it had when that was last said."""

    number: int
    amount: int = 0
    told: int = 0
    writer: asyncio.StreamWriter | None = None
    over: bool = False

    async def run(self, address: str, port: int) -> None:
        """Receive to the end, and say how it was."""
        received, last, wrong = hashlib.sha256(), b"", ""
        try:
            reader, self.writer = await asyncio.open_connection(address, port)
            while data := await reader.read(1 << 16):
                self.amount += len(data)
                last += data
                received.update(last[:-DIGEST_BYTES])
                last = last[-DIGEST_BYTES:]
            wrong = "" if last == received.digest() else "what came is not what was sent"
        except OSError as error:
            wrong = str(error)
        self.over = True
        _say(transfer=self.number, bytes=self.amount, wrong=wrong)
        if self.writer is not None:
            self.writer.close()

    def end(self) -> None:
        """Ask the other end to come to its end."""
        if self.writer is not None and self.writer.can_write_eof():
            self.writer.write_eof()


async def ask(address: str, port: int, count: int) -> None:
    """Start so many, and stay until the last has ended."""
    transfers = [Transfer(number) for number in range(count)]
    going = [asyncio.ensure_future(one.run(address, port)) for one in transfers]
    to_end = iter(transfers)

    def end_some() -> None:
        for _, one in zip(range(ENDED_AT_ONCE), to_end, strict=False):
            one.end()

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, end_some)
    while any(not one.over for one in transfers):
        await asyncio.wait(going, timeout=TOLD_EVERY_S, return_when=asyncio.ALL_COMPLETED)
        on = [one for one in transfers if one.writer is not None and not one.over]
        _say(at=time.monotonic(), going=len(on), moved=sum(one.amount > one.told for one in on))
        for one in on:
            one.told = one.amount


def _say(**what: float | str) -> None:
    print(json.dumps(what), flush=True)


# --- from the stage: processes in nodes ---


def serve_on(node: Node, port: int) -> Process:
    """Start the server."""
    return node.spawn_python("wayside.lab.transfers", "serve", str(port), ready="ready")


def start_from(node: Node, to: IP, port: int, count: int) -> Process:
    """Start so many transfers."""
    return node.spawn_python("wayside.lab.transfers", "ask", str(to), str(port), str(count))


def end_some(process: Process) -> None:
    """End a few of those that are left."""
    process.popen.send_signal(signal.SIGUSR1)


def going(process: Process) -> list[dict[str, Any]]:
    """What has been said of how many go on, the newest last."""
    return [line for line in _told(process) if "going" in line]


def ended(process: Process) -> list[dict[str, Any]]:
    """The transfers that are over."""
    return [line for line in _told(process) if "transfer" in line]


def _told(process: Process) -> Sequence[dict[str, Any]]:
    whole, _, _ = process.text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


def main() -> None:
    """See above."""
    role, *words = sys.argv[1:]
    if role == "serve":
        asyncio.run(serve(int(words[0])))
    else:
        asyncio.run(ask(words[0], int(words[1]), int(words[2])))


if __name__ == "__main__":
    main()
