"""What a daemon saw and did, one record an event, for whoever asks afterwards.

The log is a JSON text sequence (RFC 7464: RS, JSON, LF), as qlog is: a reader finds the next record
after a half-written one, so a killed daemon leaves a readable log. Every record carries the time
(CLOCK_MONOTONIC, which all processes of a machine share), who wrote it and what happened; the rest
depends on the event. A datagram is named by the digest of its bytes, the same at both ends, so
that the logs of several daemons can be laid side by side without trusting anybody's story: that
is how a ladder is drawn.

A log must never hurt its daemon. It has a size (two files of `FILE_BYTES_MAX`) and a rate; what it
leaves out is counted and told in a `log.lost` record; a full disk loses records, not connections.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import msgspec

FILE_BYTES_MAX = 8 * 2**20
"""Size at which a file is put aside; one older file is kept. About 40,000 records each."""

RECORDS_PER_S = 1000.0
"""Kept up for hours this is 1 % of a core; a flood must not turn the log into the bottleneck."""

RECORDS_BURST = 10_000
"""Set-ups come in bursts: a thousand connections at once are still told in full."""

LOST_SUMMARY_EVERY_S = 1.0
"""While records are being left out, how often the log says so."""

Name = Literal[
    "connection.closed",
    "connection.opened",
    "connection.refused",
    "daemon.ready",
    "daemon.recovered",
    "data.delivered",
    "datagram.received",
    "datagram.sent",
    "dropped",
    "location.kept",
    "location.left",
    "packet.first",
    "packet.punched",
    "packet.released",
    "rule.installed",
    "rule.removed",
    "subflow.made",
    "subflow.up",
]

Role = Literal["host", "gate", "rendezvous"]


class Details(TypedDict, total=False):
    """What an event may say beside when, where and what; each event its own few of these."""

    cid: str
    """The connection, hex."""
    digest: str
    """The first 16 hex digits of the datagram's SHA-256."""
    type: str
    """The message, as in `OPEN`."""
    seq: int
    bytes: int
    peer: str
    """The other end of this datagram, or of this connection."""
    match: str
    """The 5-tuple of a rule."""
    action: str
    """`accept`, `drop` or `rewrite`."""
    to: str
    """The 5-tuple that a rule rewrites to."""
    lifetime_s: float | None
    pending: bool
    """The rule waits for CONFIRM."""
    flow: str
    service: str
    why: str
    code: str
    by: str
    """Who refused or closed."""
    reason: str
    """Why a datagram was dropped."""
    connections: int


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event, as it is read back. `time`: seconds of CLOCK_MONOTONIC. For the rest: Details."""

    time: float
    node: str
    role: str
    event: str
    v: int = 0
    cid: str = ""
    digest: str = ""
    type: str = ""
    seq: int = 0
    bytes: int = 0
    peer: str = ""
    match: str = ""
    action: str = ""
    to: str = ""
    lifetime_s: float | None = None
    pending: bool = False
    flow: str = ""
    service: str = ""
    why: str = ""
    code: str = ""
    by: str = ""
    reason: str = ""
    connections: int = 0
    records: int = 0


class Caps(msgspec.Struct, frozen=True):
    """The size of one file (bytes), and how many records a second and at once."""

    file_bytes: int = FILE_BYTES_MAX
    records_per_s: float = RECORDS_PER_S
    burst: int = RECORDS_BURST


class EventLog:
    """The writer: one system call a record, no buffer, so that a SIGKILL loses nothing.

    `path` None: nothing is written (a daemon whose user wants no log). Raises OSError when the
    file cannot be opened; later failures only count as lost records.
    """

    def __init__(
        self,
        path: Path | None,
        node: str,
        role: Role,
        *,
        caps: Caps | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lost = 0
        self._path = path
        self._head = {"v": 1, "node": node, "role": role}
        self._caps = caps or Caps()
        self._clock = clock
        self._allowance = float(self._caps.burst)
        self._filled_at = clock()
        self._untold, self._told_at = 0, self._filled_at
        self._size = 0
        self._fd = -1 if path is None else self._open(path)

    def write(self, event: Name, **details: Unpack[Details]) -> None:
        """Add one record, or count it as lost. Never raises for what the disk does."""
        if not self.has_room():
            return
        now = self._filled_at
        self._allowance -= 1
        if self._untold and now - self._told_at >= LOST_SUMMARY_EVERY_S:
            self._tell_lost(now)
        self._append({**self._head, "time": now, "event": event, **details})

    def has_room(self) -> bool:
        """Whether a record would be written now; one that would not is counted as lost.

        Who has to work for what a record says asks first: in a flood most are left out.
        """
        if self._fd < 0:
            return False
        now = self._clock()
        gained = (now - self._filled_at) * self._caps.records_per_s
        self._allowance = min(self._caps.burst, self._allowance + gained)
        self._filled_at = now
        if self._allowance >= 1:
            return True
        self.lost += 1
        self._untold += 1
        return False

    def close(self) -> None:
        """Tell what was lost and close the file; writing afterwards does nothing."""
        if self._fd < 0:
            return
        if self._untold:
            self._tell_lost(self._clock())
        os.close(self._fd)
        self._fd = -1

    def _tell_lost(self, now: float) -> None:
        told = {**self._head, "time": now, "event": "log.lost", "records": self._untold}
        self._untold, self._told_at = 0, now
        self._append(told)

    def _append(self, record: Mapping[str, object]) -> None:
        line = b"\x1e" + msgspec.json.encode(record) + b"\n"
        try:
            if self._path and self._size + len(line) > self._caps.file_bytes:
                self._put_aside(self._path)
            self._size += os.write(self._fd, line)
        except OSError:
            self.lost += 1
            self._untold += 1

    def _put_aside(self, path: Path) -> None:
        os.replace(path, older(path))
        os.close(self._fd)
        self._fd = self._open(path)

    def _open(self, path: Path) -> int:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(fd).st_size
        return fd


def older(path: Path) -> Path:
    """Where the full file before this one was put."""
    return path.with_name(path.name + ".1")


def parse(sequence: bytes) -> list[Record]:
    """The records of one file; what is cut off or not a record of ours is left out."""
    records: list[Record] = []
    decoder = msgspec.json.Decoder(Record)
    for text in sequence.split(b"\x1e"):
        try:
            record = decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if record.v == 1:
            records.append(record)
    return records


def read(paths: Iterable[Path]) -> list[Record]:
    """The records of several logs and of what they put aside, in the order of their times.

    A log that does not exist is empty: its daemon saw nothing.
    """
    records: list[Record] = []
    for path in paths:
        for file in (older(path), path):
            if file.exists():
                records += parse(file.read_bytes())
    return sorted(records, key=lambda record: record.time)
