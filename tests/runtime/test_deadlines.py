"""One timer ends many futures, each in its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from wayside.runtime.deadlines import Deadlines


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer, so that nobody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def jump(self, seconds: float) -> None:
        self.now += seconds


def run(work: Callable[[Loop, Deadlines], Awaitable[None]]) -> None:
    loop = Loop()
    try:
        loop.run_until_complete(work(loop, Deadlines(2.0)))
    finally:
        loop.close()


async def turn() -> None:
    """Let timers that are due fire."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_future_that_stays_open_ends_in_time_and_not_before() -> None:
    async def work(loop: Loop, deadlines: Deadlines) -> None:
        future: asyncio.Future[int] = deadlines.watch(loop.create_future())
        loop.jump(1.9)
        await turn()
        assert not future.done()
        loop.jump(0.2)
        await turn()
        with pytest.raises(TimeoutError):
            future.result()

    run(work)


def test_each_has_its_own_time() -> None:
    async def work(loop: Loop, deadlines: Deadlines) -> None:
        futures: list[asyncio.Future[int]] = []
        for _ in range(4):
            futures.append(deadlines.watch(loop.create_future()))
            loop.jump(0.6)
            await turn()
        loop.jump(0.4)
        await turn()
        assert [future.done() for future in futures] == [True, True, False, False]
        loop.jump(1.1)
        await turn()
        assert all(isinstance(future.exception(), TimeoutError) for future in futures)

    run(work)


def test_what_was_answered_stays_answered_and_does_not_delay_the_others() -> None:
    async def work(loop: Loop, deadlines: Deadlines) -> None:
        first: asyncio.Future[int] = deadlines.watch(loop.create_future())
        second: asyncio.Future[int] = deadlines.watch(loop.create_future())
        first.set_result(1)
        loop.jump(2.1)
        await turn()
        assert first.result() == 1
        assert isinstance(second.exception(), TimeoutError)

    run(work)


def test_those_that_were_answered_are_not_kept() -> None:
    async def work(loop: Loop, deadlines: Deadlines) -> None:
        for number in range(1000):
            future: asyncio.Future[int] = deadlines.watch(loop.create_future())
            future.set_result(number)
        assert len(deadlines._watched) == 1

    run(work)
