"""Between a rendezvous' machine and its store: effects in, events back, nothing waited for.

The machine says what to keep and what to find; the store takes its time, and may be away. A
location goes under SHA-256 of key and family; beside it, for a host with a name, its certificate
goes under a hash of the name, so that who knows only the name finds the key. Both are signed (by
the host; by the domain) and are checked when they are read. What cannot be kept is tried again for
a few seconds; after that the host's next refresh brings it. What cannot be found is not there: the
asker hears so at once, and not after a timeout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256

import structlog

from wayside.core.codec import DecodeError, decode_body
from wayside.core.crypto import digest
from wayside.core.effects import FindLocation, KeepLocation
from wayside.core.events import LocationFound
from wayside.core.identity import Certificate, CertificateTerms, Names, key_text
from wayside.core.messages import Open, OpenTerms, decode
from wayside.core.policy import Direction, Party, Policy, PolicyAction

from .eventlog import EventLog
from .locations import DEADLINE_S, LocationStore, LocationStoreUnavailable, LocationUnconfirmed

UNDER_WAY_MAX = 4096
"""Finds, and keeps, at one time: what a store does in a tenth of a second. More are dropped."""

KEEP_TRIES = 4
KEEP_PAUSE_S = 1.0
"""A cluster that loses a master is whole again after two or three seconds."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Known:
    """A registered host by its name."""

    key: bytes
    certificate: bytes


class Whereabouts:
    """Where hosts are, in a store. `names`: whose certificates are believed."""

    def __init__(self, store: LocationStore, names: Names, log: EventLog) -> None:
        self.store = store
        self.overrun = 0
        """What was not looked for or kept because too much was under way."""
        self._names = names
        self._log = log
        self._finds: set[asyncio.Task[None]] = set()
        self._keeps: set[asyncio.Task[None]] = set()

    def keep(self, effect: KeepLocation) -> None:
        """Keep or forget a location, some time soon."""
        self._start(self._keeps, lambda: self._keep(effect))

    def find(self, effect: FindLocation, tell: Callable[[LocationFound], None]) -> None:
        """Look for a location, and tell what was found; nothing is told when there is no room."""
        self._start(self._finds, lambda: self._find(effect, tell))

    async def known(self, name: str) -> Known | None:
        """The host that registered with this name. Raises LocationStoreUnavailable."""
        for family in (4, 6):
            location = await self.store.find(name_key(name, family))
            known = self._read(name, location.record) if location else None
            if known is not None:
                return known
        return None

    async def close(self) -> None:
        """Finish what is under way, as far as the store answers in time; let go of it."""
        under_way = self._keeps | self._finds
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=DEADLINE_S)
            for task in late:
                task.cancel()
        await self.store.close()

    def _start(
        self, tasks: set[asyncio.Task[None]], work: Callable[[], Coroutine[None, None, None]]
    ) -> None:
        if len(tasks) >= UNDER_WAY_MAX:
            self.overrun += 1
            return
        task = asyncio.ensure_future(work())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _find(self, effect: FindLocation, tell: Callable[[LocationFound], None]) -> None:
        record = b""
        try:
            location = await self.store.find(location_key(effect.key, effect.family))
            record = location.record if location else b""
        except LocationStoreUnavailable as error:
            _log.warning("a host is not looked for", what=error.what, why=error.why)
        tell(LocationFound(record, effect.asked, effect.opened))

    async def _keep(self, effect: KeepLocation) -> None:
        host = key_text(effect.key)
        for left in range(KEEP_TRIES, 0, -1):
            try:
                await self._write(effect)
                break
            except LocationUnconfirmed as error:
                _log.warning("a location may be lost with its machine", host=host, why=error.why)
                break
            except LocationStoreUnavailable as error:
                _log.warning("a location is not kept", host=host, what=error.what, why=error.why)
                if left == 1:
                    return
                await asyncio.sleep(KEEP_PAUSE_S)
        event = "location.kept" if effect.lifetime_s else "location.left"
        self._log.write(event, peer=host, lifetime_s=effect.lifetime_s)

    async def _write(self, effect: KeepLocation) -> None:
        """Location and name. What is older than what is there does not take its place."""
        store, order = self.store, effect.order
        entries = [(location_key(effect.key, effect.family), effect.record)]
        certificate = _certificate_in(effect.record)
        name = self._names.name_of(effect.key, certificate, time.time())
        if name:
            entries.append((name_key(name, effect.family), certificate))
        for key, record in entries:
            if effect.lifetime_s:
                await store.put(key, record, order, effect.lifetime_s)
            else:
                await store.forget(key, order)

    def _read(self, name: str, certificate: bytes) -> Known | None:
        """Whose certificate this is, if it is one of that name that we believe."""
        try:
            signed = decode_body(Certificate, certificate).signed
            key = decode_body(CertificateTerms, signed).key
        except DecodeError:
            return None
        found = self._names.name_of(key, certificate, time.time())
        return Known(key, certificate) if found == name else None


def location_key(key: bytes, family: int) -> bytes:
    """Under what the location of a host (key: bytes, 32) is kept, for one family."""
    return sha256(key + bytes([family])).digest()


def name_key(name: str, family: int) -> bytes:
    """Under what the certificate of a name is kept."""
    return digest(b"wayside name", name.encode(), bytes([family]))


def may_find(policy: Policy, asker: tuple[bytes, str | None], known: Known, name: str) -> bool:
    """Whether a policy lets somebody (key and vouched-for name) find a host for anything at all.

    Which service is wanted is not known yet, and is judged when the OPEN comes: so only a rule
    that is about every service says no.
    """
    source, target = Party(*asker), Party(known.key, name)
    for rule in policy.rules:
        about = all(
            not patterns or any(pattern.fits(party) for pattern in patterns)
            for patterns, party in ((rule.from_, source), (rule.to, target))
        )
        if not about or rule.direction is Direction.OUT:
            continue
        if rule.action is not PolicyAction.REJECT:
            return True
        if not rule.service and not rule.transport:
            return False
    return policy.default is not PolicyAction.REJECT


def _certificate_in(record: bytes) -> bytes:
    """The certificate in a registration, which the machine has read before."""
    _, message = decode(record)
    assert isinstance(message, Open)
    return decode_body(OpenTerms, message.signed).from_certificate
