"""The location stores: updates and look-ups a second, beside what the store itself can do.

Both sides do the same in turns, from one client process: `KEYS` locations of `RECORD_BYTES` each,
`CALLERS` callers at a time. The control is the bare store from the same client in the same
batches, with nothing decided and nobody waiting for a single answer: `INSERT OR REPLACE` and
`SELECT` in a loop, pipelined `SET ... PX` and `GET` without WAIT. So a ratio says what
compare-and-set, confirmation by a replica, deadlines and an interface of single calls cost. Python
collects garbage as in our daemons.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from figure import Figure, compared
from place import Bench
from redis.asyncio import Redis

from wayside.lab.redis_cluster import MASTERS, RedisCluster, master_of
from wayside.runtime import collector
from wayside.runtime.locations import BATCH_MAX, LocationStore
from wayside.runtime.locations_redis import RedisLocations
from wayside.runtime.locations_sqlite import SCHEMA, SqliteLocations

KEYS = 10_000
RECORD_BYTES = 400
"""A signed record with one locator behind one gate."""

RECORD = os.urandom(RECORD_BYTES)

CALLERS = 2 * MASTERS * BATCH_MAX
"""Enough for a full batch on its way to each master, and one that waits behind it."""

LIFETIME_S = 3600.0
DEADLINE_S = 10.0
"""A busy machine shall be slow, not wrong."""

REACH = 0.5


class Side(Protocol):
    """One of the two that take turns: does all keys once; `order` is greater each time."""

    async def put(self, order: int) -> None: ...

    async def find(self) -> None: ...


def measure(bench: Bench) -> Iterator[Figure]:
    """Both stores, updates and look-ups each."""
    collector.settle()
    keys = [os.urandom(32) for _ in range(KEYS // (2 if bench.quick else 1))]
    rounds = bench.rounds(20, 6)
    bench.out.mkdir(parents=True, exist_ok=True)
    yield from asyncio.run(_sqlite(bench.out, keys, rounds))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with RedisCluster(bench.out / "redis") as cluster:
        yield from asyncio.run(_redis(cluster, keys, rounds))


async def _sqlite(out: Path, keys: list[bytes], rounds: int) -> list[Figure]:
    store = SqliteLocations(out / "store.sqlite", deadline_s=DEADLINE_S)
    bare = BareSqlite(out / "bare.sqlite", keys)
    figures = await _in_turns("SQLite", Ours(store, keys), bare, keys, rounds)
    bare.db.close()
    await store.close()
    return figures


async def _redis(cluster: RedisCluster, keys: list[bytes], rounds: int) -> list[Figure]:
    store = RedisLocations(cluster.urls, deadline_s=DEADLINE_S)
    bare = BareRedis(cluster, keys)
    figures = await _in_turns("Redis Cluster", Ours(store, keys), bare, keys, rounds)
    for client in bare.parts:
        await client.aclose()
    await store.close()
    return figures


async def _in_turns(
    name: str, ours: Side, bare: Side, keys: list[bytes], rounds: int
) -> list[Figure]:
    """A B B A ...; the first round warms both up."""
    seen: dict[str, list[float]] = {"ours": [], "bare": [], "ours found": [], "bare found": []}
    for turn in range(rounds + 1):
        sides = [("ours", ours), ("bare", bare)]
        for side, does in sides if turn % 2 else reversed(sides):
            for work, kind in ((does.put(turn), side), (does.find(), f"{side} found")):
                began = time.perf_counter()
                await work
                rate = len(keys) / (time.perf_counter() - began)
                if turn:
                    seen[kind].append(rate)
    note = f"{len(keys):,} keys, {CALLERS} callers, records of {RECORD_BYTES} bytes"
    return [
        compared(f"{name}: updates", "/s", seen["ours"], seen["bare"], reach=REACH, note=note),
        compared(f"{name}: look-ups", "/s", seen["ours found"], seen["bare found"], reach=REACH),
    ]


@dataclass(frozen=True)
class Ours:
    """Callers of the interface, each with one call at a time."""

    store: LocationStore
    keys: list[bytes]

    async def put(self, order: int) -> None:
        keys = iter(self.keys)

        async def caller() -> None:
            for key in keys:
                assert await self.store.put(key, RECORD, order, LIFETIME_S)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    async def find(self) -> None:
        keys = iter(self.keys)

        async def caller() -> None:
            for key in keys:
                assert await self.store.find(key)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


class BareSqlite:
    """The same table; a transaction for each batch of updates, as ours has it."""

    def __init__(self, path: Path, keys: list[bytes]) -> None:
        self.keys = keys
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")
        self.db.executescript(SCHEMA)

    async def put(self, order: int) -> None:
        until = time.time() + LIFETIME_S
        for batch in _batches(self.keys):
            self.db.execute("BEGIN IMMEDIATE")
            for key in batch:
                row = (key, order, until, RECORD)
                self.db.execute("INSERT OR REPLACE INTO location VALUES (?, ?, ?, ?)", row)
            self.db.execute("COMMIT")

    async def find(self) -> None:
        query = "SELECT record, rank FROM location WHERE key = ?"
        for key in self.keys:
            assert self.db.execute(query, (key,)).fetchone()


class BareRedis:
    """The library's client of each master, with one pipeline after the other, no WAIT."""

    def __init__(self, cluster: RedisCluster, keys: list[bytes]) -> None:
        self.parts: dict[Redis, list[bytes]] = {
            Redis(host="127.0.0.1", port=node.port, protocol=2, socket_timeout=None): []
            for node in cluster.masters
        }
        parts = list(self.parts.values())
        for key in keys:
            parts[master_of(key)].append(key)

    async def put(self, order: int) -> None:
        value = b"%020d" % order + RECORD
        await self._pipelined(lambda key: (b"SET", key, value, b"PX", int(1000 * LIFETIME_S)))

    async def find(self) -> None:
        await self._pipelined(lambda key: (b"GET", key))

    async def _pipelined(self, words: Callable[[bytes], tuple[bytes | int, ...]]) -> None:
        async def ask(client: Redis, keys: list[bytes]) -> None:
            for batch in _batches(keys):
                pipeline = client.pipeline(transaction=False)
                for key in batch:
                    pipeline.execute_command(*words(key))  # pyright: ignore[reportUnknownMemberType]
                assert all(await pipeline.execute())

        await asyncio.gather(*(ask(client, keys) for client, keys in self.parts.items()))


def _batches(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), BATCH_MAX):
        yield keys[start : start + BATCH_MAX]
