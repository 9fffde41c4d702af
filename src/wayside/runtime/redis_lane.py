"""One connection to one Redis server, shared by whoever asks: one round trip for all that waited.

    ask ──┐              ┌─ command   reply ─┐
    ask ──┼─> a batch ──>┤  command   reply  ├──> answers
    ask ──┘              └─ WAIT      acks  ─┘    (where replicas have to confirm)

WAIT speaks for what was written on its own connection; so a lane is what makes it true, and why
this is a connection of the library (which also connects, authenticates, packs and parses) and not
one of its clients, which take any connection that is free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

from .locations import BATCH_MAX

Words: TypeAlias = "tuple[bytes, ...]"

BRIEFLY = 10
"""Replicas that were late or gone the last time hold up a lane for a tenth of the usual."""


Answer: TypeAlias = "tuple[Any, int]"
"""What a server said, and how many replicas have what the command wrote."""

_Call: TypeAlias = "tuple[Words, asyncio.Future[Answer]]"
"""A command that waits for its turn, and where its answer goes. A named tuple would take a tenth of
what a look-up takes."""


class Lane:
    """Asks one server. Belongs to the event loop that it is used in.

    `replicas`: how many have to confirm what is written here, or 0; `reply_s`: how long a round
    trip may take, of which replicas get half.
    """

    def __init__(self, connection: AbstractConnection, *, replicas: int, reply_s: float) -> None:
        self._connection = connection
        self._replicas = replicas
        self._reply_s = reply_s
        self._confirmed = replicas
        self._waiting: deque[_Call] = deque()
        self._serving: asyncio.Task[None] | None = None

    def ask(self, words: Words) -> asyncio.Future[Answer]:
        """Have a command sent. The answer, or a RedisError, comes in the future."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((words, answer))
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        return answer

    async def close(self) -> None:
        """Finish what is under way, and close the connection."""
        if self._serving is not None:
            await self._serving
        await self._connection.disconnect()

    async def _serve(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
            wanted = [call for call in batch if not call[1].done()]
            if wanted:
                await self._exchange(wanted)
            await asyncio.sleep(0)  # whoever got an answer may ask again
        self._serving = None

    async def _exchange(self, batch: list[_Call]) -> None:
        """One round trip: every answer, or the same error for all."""
        commands = [words for words, _ in batch]
        if self._replicas:
            patience_s = self._reply_s / 2
            if self._confirmed < self._replicas:
                patience_s /= BRIEFLY
            commands.append((b"WAIT", b"%d" % self._replicas, b"%d" % (1000 * patience_s)))
        try:
            async with asyncio.timeout(self._reply_s):
                replies = await self._replies(commands)
        except (RedisError, OSError) as error:
            await self._connection.disconnect(nowait=True)
            replies = list[Any]([_as_theirs(error)]) * len(batch)
        else:
            if self._replicas:
                acknowledged = replies.pop()
                self._confirmed = acknowledged if isinstance(acknowledged, int) else 0
        for (_, answer), reply in zip(batch, replies, strict=True):
            if answer.done():
                continue
            if isinstance(reply, RedisError):
                answer.set_exception(reply)
            else:
                answer.set_result((reply, self._confirmed))

    async def _replies(self, commands: list[Words]) -> list[Any]:
        connection = self._connection
        packed: list[Any] = connection.pack_commands(commands)
        await connection.send_packed_command(packed, check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies


def _as_theirs(error: RedisError | OSError) -> RedisError:
    """An error of the system or of our patience, as the library would say it."""
    if isinstance(error, RedisError):
        return error
    return TimedOut(str(error) or "no reply in time")
