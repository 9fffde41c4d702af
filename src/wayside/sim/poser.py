"""Somebody who poses as a gate: a good key, an own address, and a hop record made up.

The poser asks for a connection in the name of a host that never asked, as if that were behind it:
behind a firewall, or behind a NAT with the poser's own address or even with the host's. What is
accepted it confirms and uses, and lets the server's application answer. Nobody may send to the
host on its word; as a NAT with an address of its own the poser may talk for itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import DecodeError, Header, decode_body
from wayside.core.connection import accept_seen, confirm_proof, connection_key
from wayside.core.crypto import mac
from wayside.core.messages import Accept, AcceptTerms, Confirm, Open, decode, encode
from wayside.core.opening import open_hash
from wayside.core.rule import Cid

from .adversary import OnPath, Stage
from .clock import EPOCH_S
from .forge import made_open, some_hop
from .host import HostBox
from .link import Link
from .wire import build_udp, packet_of


@dataclass(frozen=True, slots=True)
class _Asked:
    secret: bytes
    opened: bytes
    to: Address
    source: Address


class Poser(OnPath):
    """Opens connections to servers in the name of a victim's address."""

    def __init__(self, stage: Stage, rate: float, link: Link, victim: HostBox) -> None:
        self._victim = victim
        self._asked: dict[Cid, _Asked] = {}
        super().__init__(stage, rate, link)

    def act(self) -> None:
        """Ask, as if a client behind us had asked."""
        stage, chance = self.stage, self.chance
        server = chance.choice(stage.servers)
        to = self.address_of(server)
        victim = self.address_of(self._victim).with_port(chance.randrange(1024, 65536))
        secret = chance.randbytes(32)
        told = chance.choice((None, self._own.with_port(victim.port), victim))
        record = some_hop(self.key, chance)
        hop = replace(record, role=2, source=told) if told else record
        data = made_open(
            self.key,
            server.key,
            Flow(Transport.UDP, victim, to.with_port(53)),
            Cid(chance.randbytes(16)),
            secret,
            EPOCH_S + stage.network.place.clock.now,
            (hop,),
        )
        header, message = decode(data)
        assert isinstance(message, Open)
        self._asked[header.cid] = _Asked(
            secret, open_hash(header, message.signed), to, told or victim
        )
        self.signaling(stage.off_path, data, self.address_of(stage.off_path), to)

    def see(self, raw: bytes, end: int) -> list[bytes]:
        """An ACCEPT for one of ours is confirmed, and used."""
        packet = packet_of(raw)
        if packet is not None and packet.flow.destination.ip == self._own.ip:
            try:
                header, message = decode(packet.payload)
            except DecodeError:
                return [raw]
            asked = self._asked.pop(header.cid, None)
            if asked is not None and isinstance(message, Accept):
                self._use(asked, header, message)
        return [raw]

    @property
    def _own(self) -> Address:
        return self.address_of(self.stage.off_path)

    def _use(self, asked: _Asked, header: Header, message: Accept) -> None:
        terms = decode_body(AcceptTerms, message.signed)
        key = connection_key(asked.secret, terms.ephemeral, asked.opened, terms.ephemeral)
        confirm = Header(Confirm.TYPE, header.seq, header.cid)
        seen = accept_seen(message)
        shown = confirm_proof(key, header.seq, header.cid)
        made = Confirm(seen, mac(key, confirm.signing, seen), shown, message.hops)
        data = encode(confirm, made)
        stage = self.stage
        stage.said.passed_on.add((stage.off_path.name, data))
        self.signaling(stage.off_path, data, self._own, asked.to)
        server = stage.network.owner(asked.to.ip)
        assert server is not None
        question = f"ask {stage.off_path.name} to {server.name}:53 by udp 1 ".encode()
        packet = build_udp(Flow(Transport.UDP, asked.source, terms.destination), question)
        stage.network.place.clock.after(0.5, lambda: stage.off_path.forward(packet))
