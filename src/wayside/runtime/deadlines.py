"""Ends what takes too long: one timer for thousands of calls that all have the same patience.

`asyncio.timeout` gives every call a timer of its own in the loop's heap, which costs as much as the
rest of a call to a store. Where all wait equally long, the oldest call is always the next to be
over: a queue is enough, and a timer for its head.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeVar

T = TypeVar("T")


class Deadlines:
    """Gives each future TimeoutError that is not done `after_s` seconds after it is watched."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._watched: deque[tuple[float, asyncio.Future[object]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[T]) -> asyncio.Future[T]:
        """Watch a future of the running loop; the same one is returned."""
        watched = self._watched
        while watched and watched[0][1].done():
            watched.popleft()
        loop = future.get_loop()
        until = loop.time() + self._after_s
        watched.append((until, future))  # pyright: ignore[reportArgumentType]
        if self._timer is None:
            self._timer = loop.call_at(until, self._look, loop)
        return future

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what is over, and come again when the next one may be."""
        watched, now = self._watched, loop.time()
        while watched and (watched[0][1].done() or watched[0][0] <= now):
            _, future = watched.popleft()
            if not future.done():
                future.set_exception(TimeoutError())
        self._timer = loop.call_at(watched[0][0], self._look, loop) if watched else None
