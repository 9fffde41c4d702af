"""What every location store has to do, whichever it is: checks that both test files run.

Also a program, of which several run at once: `python location_checks.py STORE WHERE NUMBER` waits
for a line, lets 25 keys of its own use the invitation at once, and prints those that were let in.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from wayside.runtime.locations import ORDER_MAX, RECORD_BYTES_MAX, Location, LocationStore
from wayside.runtime.locations_redis import RedisLocations
from wayside.runtime.locations_sqlite import SqliteLocations

PROCESSES = 4
KEYS_EACH = 25
LIMIT_S = 30.0


async def a_newer_location_takes_the_place_of_an_older_one(store: LocationStore) -> None:
    key = os.urandom(32)
    assert await store.find(key) is None
    assert await store.put(key, b"first", 5, 60)
    assert await store.put(key, b"second", 6, 60)
    assert await store.find(key) == Location(b"second", 6)


async def an_older_location_is_refused(store: LocationStore) -> None:
    key = os.urandom(32)
    assert await store.put(key, b"newer", 10, 60)
    assert not await store.put(key, b"older", 9, 60)
    assert await store.find(key) == Location(b"newer", 10)


async def the_same_order_is_taken_again_only_with_the_same_record(store: LocationStore) -> None:
    key = os.urandom(32)
    assert await store.put(key, b"one", 1, 60)
    assert await store.put(key, b"one", 1, 60)
    assert not await store.put(key, b"another", 1, 60)
    assert await store.find(key) == Location(b"one", 1)


async def orders_are_compared_as_unsigned_numbers_of_64_bits(store: LocationStore) -> None:
    key = os.urandom(32)
    orders = [0, 9, 10, 2**53, 2**53 + 1, 2**63 - 1, 2**63, ORDER_MAX - 1, ORDER_MAX]
    for older, newer in pairwise(orders):
        assert await store.put(key, b"r", newer, 60)
        assert not await store.put(key, b"r", older, 60)
    assert await store.find(key) == Location(b"r", ORDER_MAX)


async def any_bytes_are_kept_as_they_are(store: LocationStore) -> None:
    record = bytes(range(256)) * 4 + bytes(RECORD_BYTES_MAX - 1024)
    for key in (bytes(32), b"{}" * 16, b"\xff" * 32, b"a{b} \r\n" + bytes(25)):
        assert await store.put(key, record, 1, 60)
        assert await store.find(key) == Location(record, 1)


async def what_was_forgotten_stays_so_for_older_puts_but_not_for_newer(
    store: LocationStore,
) -> None:
    key = os.urandom(32)
    assert await store.put(key, b"here", 5, 60)
    await store.forget(key, 6)
    assert await store.find(key) is None
    assert not await store.put(key, b"here", 5, 60)
    assert not await store.put(key, b"late", 6, 60)
    assert await store.put(key, b"back", 7, 60)
    assert await store.find(key) == Location(b"back", 7)


async def who_left_before_arriving_is_not_let_in_late(store: LocationStore) -> None:
    key = os.urandom(32)
    await store.forget(key, 6)
    await store.forget(key, 4)
    assert not await store.put(key, b"held up", 5, 60)
    assert await store.find(key) is None


async def an_old_goodbye_does_not_remove_a_newer_location(store: LocationStore) -> None:
    key = os.urandom(32)
    assert await store.put(key, b"here", 5, 60)
    await store.forget(key, 4)
    assert await store.find(key) == Location(b"here", 5)


async def of_concurrent_puts_the_newest_stays(store: LocationStore) -> None:
    key = os.urandom(32)
    orders = [(7 * n) % 100 for n in range(100)]
    kept = await asyncio.gather(*(store.put(key, b"%d" % n, n, 60) for n in orders))
    assert kept[orders.index(99)]
    assert await store.find(key) == Location(b"99", 99)


async def of_concurrent_records_with_one_order_one_is_kept(store: LocationStore) -> None:
    key = os.urandom(32)
    kept = await asyncio.gather(*(store.put(key, b"%d" % n, 1, 60) for n in range(50)))
    assert sum(kept) == 1
    assert await store.find(key) == Location(b"%d" % kept.index(True), 1)


async def an_invitation_admits_its_first_user_each_time(store: LocationStore) -> None:
    number, first, second = os.urandom(16), os.urandom(32), os.urandom(32)
    assert await store.use_invitation(number, first) is None
    assert await store.create_invitation(number, b"sealed", 60)
    assert await store.use_invitation(number, first) == b"sealed"
    assert await store.use_invitation(number, second) is None
    assert await store.use_invitation(number, first) == b"sealed"


async def an_invitation_is_not_replaced(store: LocationStore) -> None:
    number, first, second = os.urandom(16), os.urandom(32), os.urandom(32)
    assert await store.create_invitation(number, b"sealed", 60)
    assert await store.create_invitation(number, b"sealed", 60)
    assert not await store.create_invitation(number, b"other", 60)
    assert await store.use_invitation(number, first) == b"sealed"
    assert await store.create_invitation(number, b"sealed", 60)
    assert await store.use_invitation(number, second) is None


async def entries_are_counted(store: LocationStore) -> None:
    before = await store.count()
    await store.put(os.urandom(32), b"r", 1, 60)
    await store.forget(os.urandom(32), 1)
    await store.create_invitation(os.urandom(16), b"sealed", 60)
    assert await store.count() == before + 3


async def arguments_of_a_wrong_size_are_the_callers_mistake(store: LocationStore) -> None:
    key, number = bytes(32), bytes(16)
    wrong: list[Callable[[], Awaitable[object]]] = [
        lambda: store.put(bytes(31), b"r", 1, 60),
        lambda: store.put(key, b"", 1, 60),
        lambda: store.put(key, bytes(RECORD_BYTES_MAX + 1), 1, 60),
        lambda: store.put(key, b"r", -1, 60),
        lambda: store.put(key, b"r", ORDER_MAX + 1, 60),
        lambda: store.put(key, b"r", 1, 0),
        lambda: store.put(key, b"r", 1, float("nan")),
        lambda: store.find(bytes(33)),
        lambda: store.forget(bytes(1), 1),
        lambda: store.forget(key, -1),
        lambda: store.create_invitation(bytes(15), b"s", 60),
        lambda: store.create_invitation(number, b"", 60),
        lambda: store.use_invitation(bytes(17), key),
        lambda: store.use_invitation(number, bytes(31)),
    ]
    for call in wrong:
        with pytest.raises(ValueError, match=r"byte|bits|lifetime"):
            await call()


CHECKS: list[Callable[[LocationStore], Awaitable[None]]] = [
    a_newer_location_takes_the_place_of_an_older_one,
    an_older_location_is_refused,
    the_same_order_is_taken_again_only_with_the_same_record,
    orders_are_compared_as_unsigned_numbers_of_64_bits,
    any_bytes_are_kept_as_they_are,
    what_was_forgotten_stays_so_for_older_puts_but_not_for_newer,
    who_left_before_arriving_is_not_let_in_late,
    an_old_goodbye_does_not_remove_a_newer_location,
    of_concurrent_puts_the_newest_stays,
    of_concurrent_records_with_one_order_one_is_kept,
    an_invitation_admits_its_first_user_each_time,
    an_invitation_is_not_replaced,
    entries_are_counted,
    arguments_of_a_wrong_size_are_the_callers_mistake,
]


def opened(kind: str, where: str) -> LocationStore:
    """The store of a kind: a file, or a cluster by the URL of a node."""
    return SqliteLocations(Path(where)) if kind == "sqlite" else RedisLocations([where])


def admitted_by_processes(kind: str, where: str, number: bytes) -> list[str]:
    """The keys that are let in when 4 processes let 25 keys each use an invitation at once."""
    words = [sys.executable, __file__, kind, where, number.hex()]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) for _ in range(PROCESSES)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=LIMIT_S)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * PROCESSES
    return [key for keys in said for key in keys]


async def main(kind: str, where: str, number: str) -> None:
    """The program."""
    store = opened(kind, where)
    await store.count()  # connected
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    keys = [os.urandom(32) for _ in range(KEYS_EACH)]
    uses = (store.use_invitation(bytes.fromhex(number), key) for key in keys)
    held = await asyncio.gather(*uses)
    await store.close()
    for key, sealed in zip(keys, held, strict=True):
        if sealed == b"sealed":
            sys.stdout.write(f"{key.hex()}\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
