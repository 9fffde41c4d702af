"""The socket to the privileged helper: requests go out as frames, answers come back in order.

One reader is registered for as long as the channel lives, and each request has a future; to
register a reader for every answer costs more than the answer. Requests do not wait for each
other's answers. Nothing is awaited while a frame is under way, so who is cancelled leaves no half
of one behind, and an answer that nobody waits for any more is dropped, its descriptors closed.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from contextlib import suppress

import msgspec

from wayside.kernel.plan import KernelError

from .helper_messages import LENGTH, Answer, Done, Failed, Request

_READ_BYTES = 1 << 18
_DESCRIPTORS_MAX = 16


class HelperChannel:
    """Our end of a socket pair. It belongs to the event loop of the first request."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gone = False
        self._unsent = bytearray()
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self._asked: deque[asyncio.Future[tuple[Done, list[int]]]] = deque()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder = msgspec.msgpack.Decoder(Answer)

    async def exchange(self, request: Request) -> tuple[Done, list[int]]:
        """Send a request; its answer, with the descriptors that came along. Raises KernelError."""
        if self._gone:
            raise _is_gone()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._channel, self._read)
        answer: asyncio.Future[tuple[Done, list[int]]] = self._loop.create_future()
        self._asked.append(answer)
        body = self._encode(request)
        self._unsent += LENGTH.pack(len(body))
        self._unsent += body
        self._write()
        return await answer

    def close(self) -> None:
        """Read and write no more."""
        self._lose()
        self._channel.close()

    def _write(self) -> None:
        """Send what the socket takes; the rest when it takes more."""
        assert self._loop is not None
        try:
            sent = self._channel.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._channel, self._write)
        else:
            self._loop.remove_writer(self._channel)

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._channel, _READ_BYTES, _DESCRIPTORS_MAX)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._lose()
            return
        self._descriptors.extend(descriptors)
        self._received += data
        at = 0
        while len(self._received) >= at + LENGTH.size:
            end = at + LENGTH.size + LENGTH.unpack_from(self._received, at)[0]
            if len(self._received) < end:
                break
            self._answered(bytes(self._received[at + LENGTH.size : end]))
            at = end
        del self._received[:at]

    def _answered(self, frame: bytes) -> None:
        answer = self._decoder.decode(frame)
        asked = self._asked.popleft()
        if isinstance(answer, Failed):
            if not asked.done():
                asked.set_exception(KernelError(answer.what, answer.hint))
            return
        descriptors = [self._descriptors.popleft() for _ in answer.sockets]
        if not asked.done():
            asked.set_result((answer, descriptors))
            return
        for descriptor in descriptors:
            os.close(descriptor)

    def _lose(self) -> None:
        """Whoever waits for an answer waits in vain."""
        self._gone = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._channel)
            self._loop.remove_writer(self._channel)
        while self._asked:
            asked = self._asked.popleft()
            if not asked.done():
                with suppress(RuntimeError):  # its loop is closed
                    asked.set_exception(_is_gone())
        while self._descriptors:
            os.close(self._descriptors.popleft())


def _is_gone() -> KernelError:
    hint = "start the daemon again; its connections stay in the kernel"
    return KernelError("the privileged helper is gone", hint)
