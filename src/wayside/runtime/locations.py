"""Where hosts are, and invitations that admit one: what a rendezvous keeps, and what it may lose.

A rendezvous is asked "where is this key?" by the connections of a whole site, and may itself be
several processes; so what it knows lives in a store with one small interface. There are two:

    one machine     locations_sqlite.py    a file in WAL mode, shared by the processes of it
    several         locations_redis.py     a Redis (or Valkey) Cluster: three masters or more

The store is not trusted with the truth. A *location* is a record that the host has signed, under
its key, with an *order* that grows with each one. The store can withhold a record, but not forge
one, and it answers for one thing only: **a newer location is never lost for an older one**. That
is a compare-and-set on the order, done where the data is. What it does not promise is that it has
everything: the host repeats its record at a third of the lifetime, so what is lost comes back.

Three rules follow, the same in both stores:

- *Everything may be asked again.* A caller who saw no answer repeats the call, and gets what the
  lost answer said: the same record is stored once more, an invitation admits the same key again.
- *Leaving leaves a trace.* A location that was forgotten keeps its order for `TOMBSTONE_S`, so a
  registration that was held up on the way cannot bring back a host that has left.
- *Nothing hangs.* Every call ends by its deadline, with `LocationStoreUnavailable` if need be; the
  call may still take effect after that, which by the first rule does no harm.

An entry that has expired is gone: it holds back nobody, of whatever order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from wayside.core.constants import DATAGRAM_BYTES_MAX

from .errors import WaysideError

KEY_BYTES = 32
"""An Ed25519 public key: of the host that is looked for, or that uses an invitation."""

INVITATION_BYTES = 16
"""An invitation's id: random, so that nobody guesses one."""

RECORD_BYTES_MAX = DATAGRAM_BYTES_MAX
"""A record, or what an invitation holds, is a signed message or part of one."""

ORDER_MAX = 2**64 - 1

TOMBSTONE_S = 120.0
"""An OPEN is fresh for 60 s before or behind the receiver's clock: longer, none can be replayed."""

DEADLINE_S = 2.0
"""A caller waits 5 s for OPEN to be answered: there is time for a second try."""

PENDING_MAX = 10_000
"""Calls under way in one process: a quarter of a second's work; more only means later."""

BATCH_MAX = 256
"""Calls that share a transaction or a round trip: enough to make its cost vanish."""


@dataclass(frozen=True, slots=True)
class Location:
    """What a host last said of where it is. `record`: its signed bytes; `order`: greater is newer.

    Raises ValueError for a record or an order of a size that no store takes.
    """

    record: bytes
    order: int

    def __post_init__(self) -> None:
        if not 0 < len(self.record) <= RECORD_BYTES_MAX:
            raise ValueError(f"a record has 1 to {RECORD_BYTES_MAX} bytes")
        check_order(self.order)


class LocationStoreUnavailable(WaysideError):
    """The store did not answer in time, or not with certainty; the call may be repeated."""

    default_code: ClassVar = "WS-1009"


class LocationUnconfirmed(LocationStoreUnavailable):
    """The call took effect, but what it wrote may be lost with the machine that took it.

    Good enough for a location, which its host repeats; not for an invitation.
    """


class LocationStore(Protocol):
    """Locations by key and invitations by id.

    Every call raises LocationStoreUnavailable when the store is away (LocationUnconfirmed: not
    quite), and ValueError for arguments of a wrong size.
    """

    async def put(self, key: bytes, record: bytes, order: int, lifetime_s: float) -> bool:
        """Keep a location (key: bytes, 32) unless one of a newer or the same order is there.

        True when it is kept now, also if the very same one was before (its lifetime then stays as
        it was); False when the other one stays, or the key was forgotten with this order or later.
        """
        ...

    async def find(self, key: bytes) -> Location | None:
        """The location of a key (bytes, 32); None if it expired, was forgotten, or never was."""
        ...

    async def forget(self, key: bytes, order: int) -> None:
        """Remove a location unless a newer one is there; refuse this order and older ones after.

        That lasts `TOMBSTONE_S`, whether or not there was something to remove.
        """
        ...

    async def create_invitation(self, number: bytes, sealed: bytes, lifetime_s: float) -> bool:
        """Keep what an invitation (number: bytes, 16) gives to the first who uses it.

        False when another invitation has that number: it stays as it is.
        """
        ...

    async def use_invitation(self, number: bytes, by: bytes) -> bytes | None:
        """What the invitation holds, for the first key (by: bytes, 32) that asks, each time.

        None for every other key, and when the invitation expired or never was.
        """
        ...

    async def count(self) -> int:
        """How many entries are held, for `status`: tombstones and what is not swept yet, too."""
        ...

    async def close(self) -> None:
        """Finish what is under way, and let go of the store."""
        ...


def check_key(key: bytes) -> None:
    """Raise ValueError unless it is a key (bytes, 32)."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")


def check_invitation(number: bytes) -> None:
    """Raise ValueError unless it is an invitation's number (bytes, 16)."""
    if len(number) != INVITATION_BYTES:
        raise ValueError(f"the number of an invitation has {INVITATION_BYTES} bytes")


def check_order(order: int) -> None:
    """Raise ValueError unless it is an unsigned number of 64 bits."""
    if not 0 <= order <= ORDER_MAX:
        raise ValueError("an order is an unsigned number of 64 bits")


def check_lifetime(lifetime_s: float) -> None:
    """Raise ValueError unless something could live so long."""
    if not 0.001 <= lifetime_s <= 1e9:
        raise ValueError("a lifetime is a millisecond at the least, and ends")
