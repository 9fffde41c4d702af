"""Who is meant by a name, and where he is asked: host.toml first, then his domain's rendezvous.

A name under a domain that has a rendezvous is looked up there: a connection without packets to the
service `name`, the name riding on OPEN, the certificate of whoever has it on ACCEPT. Nothing of
that is believed but the domain's signature, so a wrong answer is a name that is not known. A
certificate is kept until its last second, over a restart, too: applications have addresses that
stand for it. The rendezvous is then asked for the host itself, too.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from wayside.core.codec import DecodeError, decode_body
from wayside.core.effects import DeliverData
from wayside.core.identity import (
    Certificate,
    CertificateTerms,
    Names,
    PeerIdentity,
    domain_of,
    key_from_text,
)
from wayside.core.messages import Code
from wayside.core.rule import Cid

from .asking import Asking
from .codes import reject_code
from .config import HostConfig, Peer
from .enrolment import NAME, Answer, Outcome
from .errors import NameUnknown, NoAnswer, Refused, WaysideError
from .registering import Ask
from .steering import Rendezvous

KNOWN_MAX = 4096
"""Names kept; the one that was looked up longest ago is forgotten first."""


class Book(Protocol):
    """Where certificates are kept, by name."""

    def learn(self, name: str, certificate: bytes) -> None:
        """Keep one, in place of what was kept of that name."""
        ...

    def unlearn(self, name: str) -> None:
        """Keep none of that name."""
        ...

    def learnt(self) -> list[tuple[str, bytes]]:
        """All that is kept, the oldest first."""
        ...


_NOT_THERE = {reject_code(Code.NO_ROUTE), reject_code(Code.NO_SERVICE)}


class Directory:
    """Finds hosts by name. `ask` and `close`: a connection without packets.

    `book`: None where nobody restarts.
    """

    def __init__(
        self,
        config: HostConfig,
        asking: Asking,
        ask: Ask,
        close: Callable[[Cid], None],
        book: Book | None = None,
    ) -> None:
        self._config = config
        self._names = Names(config.domains)
        self._asking = asking
        self._ask = ask
        self._close = close
        self._known: OrderedDict[str, tuple[Peer, int]] = OrderedDict()
        self._answers: dict[Cid, bytes] = {}
        self._turns: dict[bytes, asyncio.Lock] = {}
        self._book = book
        for name, certificate in book.learnt() if book else ():
            rendezvous = config.steering.names.get(domain_of(name))
            if rendezvous is None or self._certified(name, rendezvous, certificate) is None:
                self._forget(name)

    def peer_of(self, key: bytes) -> Peer | None:
        """What is known of a key (32 bytes)."""
        found = [peer for peer, _ in self._known.values()]
        peers = (*self._config.peers.values(), *found)
        return next((peer for peer in peers if peer.identity.key == key), None)

    async def find(self, name: str) -> Peer:
        """Who has this name, or this key. Raises NameUnknown, Refused and NoAnswer."""
        key = key_from_text(name)
        known = self._config.peers.get(name) or (self.peer_of(key) if key else None)
        if known is not None and known.addresses:
            return known
        rendezvous = self._config.steering.names.get(domain_of(name))
        if key is not None or rendezvous is None:
            raise NameUnknown(
                f"no address is known for {name}",
                hint=f'add [peers."{name}"] with key and addresses to host.toml',
            )
        peer, until_s = self._known.get(name, (None, 0))
        if peer is not None and time.time() <= until_s:
            return peer
        # One question at a time: two hosts have one connection without packets.
        async with self._turns.setdefault(rendezvous.key, asyncio.Lock()):
            peer, until_s = self._known.get(name, (None, 0))
            if peer is not None and time.time() <= until_s:
                return peer
            return self._believe(name, rendezvous, await self._look_up(name, rendezvous))

    def answered(self, effect: DeliverData) -> bool:
        """Take the answer to a question; whether it was to one of ours."""
        if effect.cid not in self._answers:
            return False
        self._answers[effect.cid] = effect.data
        return True

    async def _look_up(self, name: str, rendezvous: Rendezvous) -> bytes:
        cid = Cid(os.urandom(16))
        outcome = self._asking.expect(cid)
        self._answers[cid] = b""
        whom = PeerIdentity(rendezvous.key)
        try:
            if not any(
                self._ask(cid, whom, NAME, at, name.encode()) for at in rendezvous.addresses
            ):
                outcome.cancel()
                raise NameUnknown(
                    f"{name} cannot be looked up",
                    why="this host has no route to the rendezvous of its domain",
                    hint=f"ip route get {rendezvous.addresses[0].ip}",
                )
            await outcome
            return self._answers[cid]
        except Refused as refusal:
            if refusal.code in _NOT_THERE:
                raise _unknown(name, refusal.reason) from refusal
            raise
        finally:
            del self._answers[cid]
            self._close(cid)

    def _believe(self, name: str, rendezvous: Rendezvous, raw: bytes) -> Peer:
        """The host that a certificate is about, if the domain has signed just that."""
        if not raw:
            raise NoAnswer(
                f"{name} was looked up, and nothing came back",
                why=f"the rendezvous at {rendezvous.addresses[0]} was too slow",
                hint="try again",
            )
        answer = Answer.decode(raw)
        if answer.outcome == Outcome.STORE_AWAY:
            raise WaysideError(
                f"{name} cannot be looked up at the moment",
                why="the rendezvous of its domain has lost its store",
                hint="try again in a while",
                code="WS-1009",
            )
        peer = self._certified(name, rendezvous, answer.certificate)
        if peer is None:
            raise _unknown(name, "no such host is registered, or not for you")
        if self._book is not None:
            self._book.learn(name, answer.certificate)
        return peer

    def _certified(self, name: str, rendezvous: Rendezvous, certificate: bytes) -> Peer | None:
        """Know who has a name, if its domain's certificate says so; None: it does not."""
        try:
            signed = decode_body(Certificate, certificate).signed
            terms = decode_body(CertificateTerms, signed)
        except DecodeError:
            return None
        if self._names.name_of(terms.key, certificate, time.time()) != name:
            return None
        peer = Peer(PeerIdentity(terms.key, name, certificate), rendezvous.addresses)
        self._known.pop(name, None)
        if len(self._known) >= KNOWN_MAX:
            self._forget(next(iter(self._known)))
        self._known[name] = (peer, terms.not_after_s)
        return peer

    def _forget(self, name: str) -> None:
        self._known.pop(name, None)
        if self._book is not None:
            self._book.unlearn(name)


def _unknown(name: str, why: str) -> NameUnknown:
    return NameUnknown(f"{name} is not known", why=why, hint="is it spelt as its owner has it?")
