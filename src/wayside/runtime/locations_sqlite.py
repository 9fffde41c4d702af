"""The location store of one machine: a SQLite file, one thread, and as few transactions as can be.

    callers (event loop)                      the thread
      put ────┐
      use ────┼─> a queue ──────────────────> all that waited, in one transaction ──> answers
      forget ─┘                               and a look at a few old rows
      find ───── a connection of its own, at once

A transaction costs more than what is in it, so calls that come while one is under way share the
next. Nothing is answered before its transaction is committed. Processes may share the file: SQLite
lets one of them write at a time, and each decision (is mine newer? am I the first?) is one
statement. A look-up waits for nobody in WAL mode and takes some microseconds, a tenth of the way
to a thread and back; so it is made where it is asked for. It sees what was committed.

*What survives.* Every acknowledged call survives a SIGKILL of the process at any moment. A power
failure may take the last seconds (a commit is handed to the system, the disk is forced only at
checkpoints), never the file: hosts repeat their records.

*What expires.* An expired row is as good as gone, and is removed by a hand that goes round the
tables as on a clock: with each transaction it moves on by twice as many rows as were written, so
that what is expired stays a bounded part of the file, no call pays for more than its share, and no
index has to be kept. Times are of the wall clock: a restart, or a boot, does not matter to them.

An order is unsigned in 64 bits and SQLite's integers are signed: they are kept less 2 ** 63.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from .deadlines import Deadlines
from .locations import (
    BATCH_MAX,
    DEADLINE_S,
    PENDING_MAX,
    TOMBSTONE_S,
    Location,
    LocationStoreUnavailable,
    check_invitation,
    check_key,
    check_lifetime,
    check_order,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS location (
    key BLOB PRIMARY KEY, rank INTEGER NOT NULL, expires REAL NOT NULL, record BLOB);
CREATE TABLE IF NOT EXISTS invitation (
    number BLOB PRIMARY KEY, used_by BLOB, expires REAL NOT NULL, sealed BLOB NOT NULL);
"""
"""A location without a record was forgotten."""

PUT = """
INSERT INTO location VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) DO UPDATE
SET rank = excluded.rank, expires = excluded.expires, record = excluded.record
WHERE expires <= ?5 OR rank < excluded.rank
"""
SAME = "SELECT 1 FROM location WHERE key = ? AND rank = ? AND record = ?"
FORGET = """
INSERT INTO location VALUES (?1, ?2, ?3, NULL) ON CONFLICT (key) DO UPDATE
SET rank = excluded.rank, expires = excluded.expires, record = NULL
WHERE expires <= ?4 OR rank <= excluded.rank
"""
FIND = "SELECT record, rank FROM location WHERE key = ? AND expires > ? AND record NOTNULL"
CREATE = """
INSERT INTO invitation VALUES (?1, NULL, ?2, ?3) ON CONFLICT (number) DO UPDATE
SET used_by = NULL, expires = excluded.expires, sealed = excluded.sealed WHERE expires <= ?4
"""
SAME_INVITATION = "SELECT 1 FROM invitation WHERE number = ? AND sealed = ?"
USE = """
UPDATE invitation SET used_by = ?1
WHERE number = ?2 AND expires > ?3 AND (used_by IS NULL OR used_by = ?1) RETURNING sealed
"""
COUNT = "SELECT (SELECT count(*) FROM location) + (SELECT count(*) FROM invitation)"
NEXT = {
    "location": "SELECT min(rowid) FROM location WHERE rowid > ?",
    "invitation": "SELECT min(rowid) FROM invitation WHERE rowid > ?",
}
REMOVE = {
    "location": "DELETE FROM location WHERE rowid BETWEEN ? AND ? AND expires <= ?",
    "invitation": "DELETE FROM invitation WHERE rowid BETWEEN ? AND ? AND expires <= ?",
}
HALF = 2**63

SWEPT_MIN = 8
"""Rows of each table that the hand passes with a transaction of one or two writes."""

Work = Callable[[sqlite3.Connection], object]


class Call(NamedTuple):
    """What the thread shall do for someone who waits."""

    work: Work
    answer: asyncio.Future[object]


class SqliteLocations:
    """Locations and invitations in a file (mode 0600). See LocationStore.

    `clock`: seconds since 1970. Raises LocationStoreUnavailable when the file cannot be used.
    """

    def __init__(
        self, path: Path, *, deadline_s: float = DEADLINE_S, clock: Callable[[], float] = time.time
    ) -> None:
        """Open or make the file, in a directory that exists."""
        self._path = path
        self._deadline_s = deadline_s
        self._deadlines = Deadlines(deadline_s)
        self._clock = clock
        self._hand = dict.fromkeys(NEXT, 0)
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        try:
            _make_private(path)
            self._db = self._connect(check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only=ON")
        except (OSError, sqlite3.Error) as error:
            raise self._away(str(error)) from error
        self._thread = threading.Thread(target=self._serve, name=path.name, daemon=True)
        self._thread.start()

    async def put(self, key: bytes, record: bytes, order: int, lifetime_s: float) -> bool:
        """Keep a location unless one of a newer or the same order is there."""
        check_key(key)
        check_lifetime(lifetime_s)
        rank = Location(record, order).order - HALF

        def work(db: sqlite3.Connection) -> bool:
            now = self._clock()
            if db.execute(PUT, (key, rank, now + lifetime_s, record, now)).rowcount:
                return True
            return db.execute(SAME, (key, rank, record)).fetchone() is not None

        return bool(await self._call(work))

    async def find(self, key: bytes) -> Location | None:
        """The location of a key."""
        check_key(key)

        try:
            found = self._reader.execute(FIND, (key, self._clock())).fetchone()
        except sqlite3.Error as error:
            raise self._away(str(error)) from error
        return None if found is None else Location(found[0], found[1] + HALF)

    async def forget(self, key: bytes, order: int) -> None:
        """Remove a location unless a newer one is there, and refuse older ones for a while."""
        check_key(key)
        check_order(order)

        def work(db: sqlite3.Connection) -> None:
            now = self._clock()
            db.execute(FORGET, (key, order - HALF, now + TOMBSTONE_S, now))

        await self._call(work)

    async def create_invitation(self, number: bytes, sealed: bytes, lifetime_s: float) -> bool:
        """Keep what an invitation gives to the first who uses it."""
        check_invitation(number)
        check_lifetime(lifetime_s)
        Location(sealed, 0)

        def work(db: sqlite3.Connection) -> bool:
            now = self._clock()
            if db.execute(CREATE, (number, now + lifetime_s, sealed, now)).rowcount:
                return True
            return db.execute(SAME_INVITATION, (number, sealed)).fetchone() is not None

        return bool(await self._call(work))

    async def use_invitation(self, number: bytes, by: bytes) -> bytes | None:
        """What the invitation holds, for the first key that asks."""
        check_invitation(number)
        check_key(by)

        def work(db: sqlite3.Connection) -> bytes | None:
            held = db.execute(USE, (by, number, self._clock())).fetchall()
            return held[0][0] if held else None

        held = await self._call(work)
        assert held is None or isinstance(held, bytes)
        return held

    async def count(self) -> int:
        """How many rows there are."""
        counted = await self._call(lambda db: db.execute(COUNT).fetchone()[0])
        assert isinstance(counted, int)
        return counted

    async def close(self) -> None:
        """Finish what is under way, and close the file. Once it is closed, no call may follow."""
        self._calls.put(None)
        await asyncio.to_thread(self._thread.join)
        self._reader.close()

    async def _call(self, work: Work) -> object:
        """Have the thread do it, within the deadline."""
        if self._calls.qsize() >= PENDING_MAX:
            raise self._away(f"{PENDING_MAX:,} calls are waiting")
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._calls.put(Call(work, answer))
        try:
            return await self._deadlines.watch(answer)
        except TimeoutError as error:
            raise self._away(f"no answer in {self._deadline_s:g} s") from error

    def _connect(self, *, check_same_thread: bool = True) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path,
            timeout=self._deadline_s / 2,
            isolation_level=None,
            check_same_thread=check_same_thread,
        )

    def _away(self, why: str) -> LocationStoreUnavailable:
        return LocationStoreUnavailable(
            f"the location store {self._path} cannot be used",
            why=why,
            hint="is its disk full or slow, or does another process hold the file?",
        )

    # --- in the thread ------------------------------------------------------------------------

    def _serve(self) -> None:
        """Do what waits and is still wanted, until the end is called for."""
        ends = False
        while not ends:
            calls, ends = _waiting(self._calls)
            wanted = [call for call in calls if not call.answer.done()]
            if wanted:
                self._perform(wanted)
        self._db.close()

    def _perform(self, calls: list[Call]) -> None:
        """One transaction; whoever waits hears how it went, whatever happened."""
        results: list[object] = []
        try:
            self._db.execute("BEGIN IMMEDIATE")
            results += [call.work(self._db) for call in calls]
            self._sweep(max(SWEPT_MIN, 2 * len(calls)))
            self._db.execute("COMMIT")
        except Exception as error:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            results = [self._away(str(error)) for _ in calls]
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            calls[0].answer.get_loop().call_soon_threadsafe(_answer, calls, results)

    def _sweep(self, rows_max: int) -> None:
        """Pass so many rows of each table, and remove those that expired."""
        now = self._clock()
        for table, hand in self._hand.items():
            first = self._db.execute(NEXT[table], (hand,)).fetchone()[0]
            if first is not None:
                last = first + rows_max - 1
                self._db.execute(REMOVE[table], (first, last, now))
                self._hand[table] = last
            else:
                self._hand[table] = 0


def _waiting(calls: SimpleQueue[Call | None]) -> tuple[list[Call], bool]:
    """What waits, at least one and at most BATCH_MAX, and whether the end is called for."""
    taken: list[Call] = []
    with suppress(Empty):
        while len(taken) < BATCH_MAX:
            call = calls.get(block=not taken)
            if call is None:
                return taken, True
            taken.append(call)
    return taken, False


def _answer(calls: list[Call], results: list[object]) -> None:
    for call, result in zip(calls, results, strict=True):
        if call.answer.done():
            continue
        if isinstance(result, LocationStoreUnavailable):
            call.answer.set_exception(result)
        else:
            call.answer.set_result(result)


def _make_private(path: Path) -> None:
    """Have the file there with mode 0600: what SQLite puts beside it gets the same.

    A file that exists is not opened: to close it again would let go of the locks that another
    connection of this process has on it.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        path.chmod(0o600)
