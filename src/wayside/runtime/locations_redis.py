"""The location store of several machines: a Redis (or Valkey) Cluster.

    put(key)  ──> the lane of the master that has the key's slot
                      EVALSHA put ...  ┐
                      EVALSHA put ...  ├ one round trip for all that waited
                      WAIT 1           ┘ a replica has them too ──> answers

A decision (is mine newer? am I the first?) is a script of a few lines that the master runs as one
step. Expiry is the server's own. Calls that come while a round trip to their master is under way
share the next; look-ups have a lane of their own, so they never stand behind a WAIT.

*What is guaranteed.* A put, forget or use of an invitation is acknowledged only once `replicas`
replicas (1) have it as well as the master. When a master dies, the cluster makes a replica master
after `cluster-node-timeout`; with one replica a master that is the replica which answered WAIT, so
nothing acknowledged is lost for something older, no two records are acknowledged for the same
order, and an invitation admits one key.

*What is not.* Replication with WAIT is no consensus. With several replicas a master, the cluster
prefers the one that has most, but does not promise to choose one that has everything: then ask as
many to confirm as there are. A master and its only replica that die together take their part with
them (as far as their append-only files do not bring it back); a master that comes back *empty*
before it was replaced empties its replica, so give masters `appendonly yes`, or do not restart
them by themselves. A master cut off from the others answers look-ups with what it has for up to
`cluster-node-timeout`, and can confirm nothing. A call that found no confirmation may have taken
effect or not: that is LocationStoreUnavailable, and the call may be repeated. All this is enough
here because a record is signed and ordered by its host, who repeats it at a third of its lifetime:
what is lost heals, and an older record is never taken for a newer one. While a slot moves from one
master to another, what has moved is unavailable until the whole slot has.

*Why not the library's cluster client.* WAIT speaks for the writes of its own connection, and that
client repeats a redirected command on another one; and when the first master of its list is down
it cannot read the list anew. So connections, replies and errors are the library's; who has which
slot is asked (CLUSTER SLOTS, MOVED) and kept here, and `redis_lane.py` has the round trips.

A value is the order in 20 decimal digits, and then the record; with no record it is a tombstone.
Decimal, because a Lua number holds 53 bits, and because digits sort alike in every locale.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha1
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import TimeoutError as TimedOut

from .deadlines import Deadlines
from .locations import (
    DEADLINE_S,
    PENDING_MAX,
    TOMBSTONE_S,
    Location,
    LocationStoreUnavailable,
    LocationUnconfirmed,
    check_invitation,
    check_key,
    check_lifetime,
    check_order,
)
from .redis_lane import Answer, Lane, Words

PASSING = (NotConnected, TimedOut, ClusterDownError, TryAgainError, AskError, ReadOnlyError)
"""Errors of a cluster that is about to mend itself: look who is master now, and ask again."""

PAUSE_S = 0.05
"""Before asking again: a failover takes a second or two."""

ORDER_DIGITS = 20
"""Of 2 ** 64 - 1."""


class Script:
    """A script, and the name by which a server knows it once it has seen it."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.name = sha1(self.text, usedforsecurity=False).hexdigest().encode()


PUT = Script("""
local was = redis.call('GET', KEYS[1])
if was == ARGV[1] then
  redis.call('SET', KEYS[1], was, 'KEEPTTL') -- WAIT is said to be for writes: be one
  return 1
end
if was and string.sub(was, 1, 20) >= string.sub(ARGV[1], 1, 20) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")
FORGET = Script("""
local was = redis.call('GET', KEYS[1])
if was and string.sub(was, 1, 20) > ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")
CREATE = Script("""
local was = redis.call('HGET', KEYS[1], 'sealed')
if was and was ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'sealed', ARGV[1])
if not was then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
""")
USE = Script("""
local sealed = redis.call('HGET', KEYS[1], 'sealed')
local by = redis.call('HGET', KEYS[1], 'by')
if not sealed or (by and by ~= ARGV[1]) then return false end
redis.call('HSET', KEYS[1], 'by', ARGV[1]) -- each time: see PUT
return sealed
""")

Address = tuple[str, int]


class RedisLocations:
    """Locations and invitations in a Redis Cluster. See LocationStore.

    `urls`: some of its nodes (`redis://host:port`, `rediss://user:password@host:port` for TLS);
    user, password and TLS of the first are those of all. `replicas`: how many have to confirm a
    write. `prefix`: what all our keys begin with. Connects when it is first asked. Raises
    ValueError for what is not a URL of Redis.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        deadline_s: float = DEADLINE_S,
        replicas: int = 1,
        prefix: bytes = b"wayside:",
    ) -> None:
        if not urls:
            raise ValueError("a cluster is reached by one of its nodes: name one")
        parsed = [cast("dict[str, Any]", parse_url(url)) for url in urls]
        self._seeds = [(str(one.pop("host")), int(one.pop("port", 6379))) for one in parsed]
        options: dict[str, Any] = parsed[0] | {
            "protocol": 2,
            "socket_timeout": None,  # a lane has its own, for all replies together
            "socket_connect_timeout": deadline_s / 4,
            "retry": Retry(NoBackoff(), 0),
        }
        kind = options.pop("connection_class", Connection)
        self._connects: Callable[..., AbstractConnection] = partial(kind, **options)
        self._deadline_s = deadline_s
        self._deadlines = Deadlines(deadline_s)
        self._replicas = replicas
        self._prefix = prefix
        self._masters: dict[int, Address] = {}
        self._nodes = deque(self._seeds)
        self._lanes: dict[tuple[Address, bool], Lane] = {}
        self._looking: asyncio.Task[None] | None = None
        self._trouble = ""
        self._pending = 0

    async def put(self, key: bytes, record: bytes, order: int, lifetime_s: float) -> bool:
        """Keep a location unless one of a newer or the same order is there."""
        check_key(key)
        check_lifetime(lifetime_s)
        value = _digits(Location(record, order).order) + record
        return await self._run(PUT, b"l:" + key, value, _ms(lifetime_s)) == 1

    async def find(self, key: bytes) -> Location | None:
        """The location of a key."""
        check_key(key)
        key = self._prefix + b"l:" + key
        value, _ = await self._call(key, (key,))
        if value is None:
            return None
        order, record = int(value[:ORDER_DIGITS]), value[ORDER_DIGITS:]
        return Location(record, order) if record else None

    async def forget(self, key: bytes, order: int) -> None:
        """Remove a location unless a newer one is there, and refuse older ones for a while."""
        check_key(key)
        check_order(order)
        await self._run(FORGET, b"l:" + key, _digits(order), _ms(TOMBSTONE_S))

    async def create_invitation(self, number: bytes, sealed: bytes, lifetime_s: float) -> bool:
        """Keep what an invitation gives to the first who uses it."""
        check_invitation(number)
        check_lifetime(lifetime_s)
        Location(sealed, 0)
        return await self._run(CREATE, b"i:" + number, sealed, _ms(lifetime_s)) == 1

    async def use_invitation(self, number: bytes, by: bytes) -> bytes | None:
        """What the invitation holds, for the first key that asks."""
        check_invitation(number)
        check_key(by)
        return await self._run(USE, b"i:" + number, by)

    async def count(self) -> int:
        """How many keys the masters hold: whoever else uses the cluster is counted, too."""
        try:
            async with asyncio.timeout(self._deadline_s):
                while not self._masters:
                    await self._look_anew()
                lanes = [self._lane(master, False) for master in set(self._masters.values())]
                sizes = await asyncio.gather(*(lane.ask((b"DBSIZE",)) for lane in lanes))
        except (TimeoutError, RedisError) as error:
            raise self._away(str(error) or self._trouble) from error
        return sum(size for size, _ in sizes)

    async def close(self) -> None:
        """Finish what is under way, and close the connections."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        for lane in self._lanes.values():
            await lane.close()
        self._lanes.clear()

    async def _run(self, script: Script, key: bytes, *values: bytes) -> Any:
        """Run a script that says 0 or nothing if it wrote nothing; see that a write lasts."""
        key = self._prefix + key
        said, confirmed = await self._call(key, (key, *values), script)
        if said and confirmed < self._replicas:
            raise LocationUnconfirmed(
                "the location store cannot confirm a write",
                why=f"{confirmed} of {self._replicas} replicas have it",
                hint="are all replicas of the Redis Cluster running? redis-cli cluster nodes",
            )
        return said

    async def _call(self, key: bytes, rest: Words, script: Script | None = None) -> Answer:
        """Have the master do it that had the key last, or else whichever has it now.

        `rest`: the key and what comes behind it in a call of the script; of GET, if there is none.
        """
        if self._pending >= PENDING_MAX:
            raise self._away(f"{PENDING_MAX:,} calls are waiting")
        slot = key_slot(key)
        until = asyncio.get_running_loop().time() + self._deadline_s
        words = (b"EVALSHA", script.name, b"1", *rest) if script else (b"GET", *rest)
        self._pending += 1
        try:
            master = self._masters.get(slot)
            if master is not None:
                try:
                    return await self._deadlines.watch(self._lane(master, bool(script)).ask(words))
                except RedisError:
                    pass
            async with asyncio.timeout_at(until):
                words = (b"EVAL", script.text, b"1", *rest) if script else words
                return await self._insist(slot, words, bool(script))
        except TimeoutError as error:
            raise self._away(self._trouble) from error
        except RedisError as error:
            raise self._away(str(error)) from error
        finally:
            self._pending -= 1

    async def _insist(self, slot: int, words: Words, writes: bool) -> Answer:
        """Ask until the master of a slot is found and well."""
        while True:
            master = self._masters.get(slot)
            if master is None:
                await self._look_anew()
                continue
            try:
                return await self._lane(master, writes).ask(words)
            except MovedError as moved:
                self._masters[slot] = _redirected(moved, master)
            except PASSING as error:
                self._trouble = str(error)
                await self._look_anew()

    def _lane(self, node: Address, writes: bool) -> Lane:
        lane = self._lanes.get((node, writes))
        if lane is None:
            connection = self._connects(host=node[0], port=node[1])
            replicas = self._replicas if writes else 0
            lane = Lane(connection, replicas=replicas, reply_s=self._deadline_s / 2)
            self._lanes[node, writes] = lane
        return lane

    async def _look_anew(self) -> None:
        """See who is master of what; whoever asks meanwhile gets the same look."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        """Ask one node after the other: another one first each time, for it may know better."""
        if self._trouble:
            await asyncio.sleep(PAUSE_S)
        for _ in range(len(self._nodes)):
            node = self._nodes[0]
            self._nodes.rotate(-1)
            try:
                slots, _ = await self._lane(node, False).ask((b"CLUSTER", b"SLOTS"))
            except RedisError as error:
                self._trouble = str(error)
                continue
            found, nodes = _masters_of(slots, node[0])
            if found:
                self._masters = found
                self._nodes = deque(dict.fromkeys((*nodes, *self._seeds)))
                self._trouble = ""
                return
            self._trouble = "the nodes do not form a cluster"

    def _away(self, why: str) -> LocationStoreUnavailable:
        return LocationStoreUnavailable(
            "the location store does not answer",
            why=why or f"nothing came in {self._deadline_s:g} s",
            hint="is the Redis Cluster running and reached from here? redis-cli cluster info",
        )


def _masters_of(slots: list[Any], asked: str) -> tuple[dict[int, Address], list[Address]]:
    """Master of each slot and all nodes, from CLUSTER SLOTS; a node may not know its own name."""
    masters: dict[int, Address] = {}
    nodes: list[Address] = []
    for first, last, *members in slots:
        named = [(member[0].decode() if member[0] else asked, member[1]) for member in members]
        masters.update(dict.fromkeys(range(first, last + 1), named[0]))
        nodes += named
    return masters, nodes


def _redirected(moved: MovedError, node: Address) -> Address:
    """Where a node sends us; it may not know a name for its own host."""
    host = cast("str", moved.host)  # pyright: ignore[reportUnknownMemberType]
    return host or node[0], moved.port


def _digits(order: int) -> bytes:
    return b"%0*d" % (ORDER_DIGITS, order)


def _ms(lifetime_s: float) -> bytes:
    return b"%d" % (1000 * lifetime_s)
