"""What an agent must find again after it was killed: connections, peers' addresses, their names.

The rules are in the kernel; this is the little that the kernel has no place for. SQLite in WAL
mode survives a SIGKILL at any moment. A write is not forced to the disk: after a power failure the
kernel's rules are gone too, and so is every connection that this could have helped.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from wayside.core.rule import Cid

from .errors import WaysideError

SCHEMA = """
CREATE TABLE IF NOT EXISTS connection (cid BLOB PRIMARY KEY, saved BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS peer (number INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS name (name TEXT UNIQUE NOT NULL, certificate BLOB NOT NULL);
"""


class Store:
    """A small SQLite database in the daemon's state directory."""

    def __init__(self, directory: Path, role: str) -> None:
        """Open or make it. Raises WaysideError when the directory cannot be used."""
        path = directory / f"{role}.sqlite"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, isolation_level=None)
            os.chmod(path, 0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise WaysideError(
                f"{path} cannot be used",
                why=str(error),
                hint="choose another directory with --state, or make this one writable",
                code="WS-1006",
            ) from error

    def save(self, cid: Cid, saved: bytes) -> None:
        """Keep a connection, in place of what was kept of it before."""
        self._db.execute("INSERT OR REPLACE INTO connection VALUES (?, ?)", (cid, saved))

    def forget(self, cid: Cid) -> None:
        """Keep nothing of a connection."""
        self._db.execute("DELETE FROM connection WHERE cid = ?", (cid,))

    def connections(self) -> list[tuple[Cid, bytes]]:
        """All that is kept."""
        return [(Cid(cid), saved) for cid, saved in self._db.execute("SELECT * FROM connection")]

    def meet(self, key: bytes) -> None:
        """Remember a peer (key: 32 bytes) behind those met before."""
        self._db.execute("INSERT OR IGNORE INTO peer (key) VALUES (?)", (key,))

    def peers(self) -> list[bytes]:
        """The keys of peers in the order in which they were met."""
        return [key for (key,) in self._db.execute("SELECT key FROM peer ORDER BY number")]

    def learn(self, name: str, certificate: bytes) -> None:
        """Keep who has a name, in place of what was kept of it before."""
        self._db.execute("INSERT OR REPLACE INTO name VALUES (?, ?)", (name, certificate))

    def unlearn(self, name: str) -> None:
        """Keep nothing of a name."""
        self._db.execute("DELETE FROM name WHERE name = ?", (name,))

    def learnt(self) -> list[tuple[str, bytes]]:
        """All names that are kept, with their certificates, the oldest first."""
        return list(self._db.execute("SELECT name, certificate FROM name ORDER BY rowid"))

    def close(self) -> None:
        """Close the database."""
        self._db.close()
