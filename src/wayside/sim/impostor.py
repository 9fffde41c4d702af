"""Adversaries of moves, redirection and registration: they use what was meant for somebody else.

| who | where | what |
|---|---|---|
| RedirectForger | a link | answers OPENs with REDIRECTs of its own, to itself |
| ApprovalThief | a link | shows approvals that it saw, for connections of its own |
| RegistrationForger | a link | replays registrations, and makes some up |
| Mover | a link | says that an end of a connection that it saw is somewhere else now |

Whoever keeps a bad store is in store.py.
"""

from __future__ import annotations

from dataclasses import replace

from wayside.core import constants as c
from wayside.core.address import Address
from wayside.core.approval import create_approval
from wayside.core.codec import DecodeError, Header, decode_body, encode_body
from wayside.core.crypto import SigningKey, ephemeral_public
from wayside.core.messages import (
    Locator,
    Open,
    OpenTerms,
    Redirect,
    RedirectTerms,
    decode,
    encode,
    padded,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.rule import Cid
from wayside.kernel.packets import Packet

from .adversary import OnPath
from .clock import EPOCH_S
from .wire import build_udp, packet_of


def resigned(key: SigningKey, header: Header, terms: OpenTerms, mac: bytes = b"") -> bytes:
    """An OPEN with these terms, signed with some key, which the terms need not name."""
    signed = encode_body(terms)
    signature = key.sign(SIGNATURE_CONTEXT, header.signing + signed)
    return padded(header, Open(signed, signature, mac=mac))


class Impostor(OnPath):
    """What these have in common: an OPEN that was seen, and a place off the path."""

    def open_seen(self) -> tuple[Header, Open, OpenTerms] | None:
        """An OPEN that passed, of a kind that is of use."""
        seen = self.signaling_seen()
        if seen is None:
            return None
        _, header, message, _ = seen
        if not isinstance(message, Open):
            return None
        try:
            terms = decode_body(OpenTerms, message.signed)
        except DecodeError:  # another adversary has been there
            return None
        return (header, message, terms) if self.is_of_use(terms) else None

    def is_of_use(self, terms: OpenTerms) -> bool:
        """Whether this one can do something with it."""
        return True

    @property
    def here(self) -> Address:
        """Where it sends from, and receives."""
        return self.address_of(self.stage.off_path)

    def say(self, data: bytes, to: Address) -> None:
        """From its own address, or in a client's name."""
        source = self.here
        if self.chance.random() < 0.3:
            source = self.address_of(self.chance.choice(self.stage.clients))
        self.signaling(self.stage.off_path, data, source, to)

    @property
    def now_s(self) -> int:
        """Unix time, seconds."""
        return int(EPOCH_S + self.stage.network.place.clock.now)


class RedirectForger(OnPath):
    """Answers an OPEN before anybody else can: go by way of me, or there."""

    HASTE = 0.5

    def see(self, raw: bytes, end: int) -> list[bytes]:
        """Remember; perhaps be the first to answer."""
        kept = super().see(raw, end)
        packet = packet_of(raw)
        is_open = packet is not None and packet.payload[4:5] == bytes([Open.TYPE])
        if packet is not None and is_open and self.chance.random() < self.HASTE:
            self._answer(packet, end)
        return kept

    def _answer(self, packet: Packet, end: int) -> None:
        try:
            header, message = decode(packet.payload)
            if not isinstance(message, Open):
                return
            terms = decode_body(OpenTerms, message.signed)
        except DecodeError:
            return
        there = self.address_of(self.stage.off_path)
        now_s = EPOCH_S + self.stage.network.place.clock.now
        named = self.chance.choice((self.key.public, terms.to_key, self._somebody))
        said = RedirectTerms(
            named,
            open_hash(Header(Open.TYPE, header.seq, header.cid), message.signed),
            Locator(there),
            create_approval(self.key, header.cid, terms, now_s),
            int(now_s) + 60,
            self.chance.randrange(2),
        )
        signed = encode_body(said)
        answer = Header(Redirect.TYPE, header.seq, header.cid)
        signature = self.key.sign(SIGNATURE_CONTEXT, answer.signing + signed)
        made = encode(answer, Redirect(signed, signature, message.hops))
        self.link.inject(build_udp(packet.flow.reversed(), made), 1 - end)

    @property
    def _somebody(self) -> bytes:
        boxes = [*self.stage.gates, *self.stage.relays]
        return self.chance.choice(boxes).key if boxes else self.key.public


class ApprovalThief(Impostor):
    """Somebody else's approval, for a connection of its own; or once more for that one."""

    def is_of_use(self, terms: OpenTerms) -> bool:
        """It needs an approval."""
        return bool(terms.approval)

    def act(self) -> None:
        """Ask with it, from here."""
        seen = self.open_seen()
        if seen is None:
            return
        header, _, terms = seen
        chance = self.chance
        cid = header.cid if chance.random() < 0.5 else Cid(chance.randbytes(16))
        mine = replace(
            terms,
            from_key=self.key.public,
            source=self.here.with_port(terms.source.port),
            ephemeral=ephemeral_public(chance.randbytes(32)),
            time_s=self.now_s,
        )
        data = resigned(self.key, Header(Open.TYPE, 0, cid), mine)
        to = [self.address_of(box) for box in (*self.stage.relays, *self.stage.servers)]
        self.say(data, chance.choice(to))


class RegistrationForger(Impostor):
    """Says where others are: as they said it once, or as they never did."""

    def is_of_use(self, terms: OpenTerms) -> bool:
        """It needs a registration."""
        return terms.service == c.LOCATION_SERVICE

    def act(self) -> None:
        """Replay one, or forge one."""
        seen = self.open_seen()
        if seen is None:
            return
        header, message, terms = seen
        chance = self.chance
        to = terms.destination.with_port(c.SIGNALING_PORT)
        if chance.random() < 0.4:
            self.say(padded(header, replace(message, hops=(), pad=b"")), to)
            return
        later = header.seq + 2 * chance.randrange(3)
        cid = header.cid if chance.random() < 0.5 else Cid(chance.randbytes(16))
        moved = replace(terms, source=self.here.with_port(0), time_s=self.now_s)
        self.say(resigned(self.key, Header(Open.TYPE, later, cid), moved, chance.randbytes(16)), to)


class Mover(Impostor):
    """Somebody else's connection is where I am now."""

    def act(self) -> None:
        """Say so to either end, with a higher seq of either kind."""
        seen = self.open_seen()
        if seen is None:
            return
        header, message, terms = seen
        chance = self.chance
        moved = replace(
            terms,
            source=self.here.with_port(terms.source.port),
            ephemeral=ephemeral_public(chance.randbytes(32)),
            time_s=self.now_s,
        )
        if chance.random() < 0.5:
            moved = replace(moved, from_key=terms.to_key, to_key=terms.from_key)
        if chance.random() < 0.3:
            moved = replace(moved, from_key=self.key.public)
        mac = message.mac if message.mac and chance.random() < 0.5 else chance.randbytes(16)
        later = Header(Open.TYPE, header.seq + chance.randrange(1, 5), header.cid)
        boxes = [*self.stage.clients, *self.stage.servers, *self.stage.relays]
        self.say(resigned(self.key, later, moved, mac), self.address_of(chance.choice(boxes)))
