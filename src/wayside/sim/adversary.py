"""Adversaries: people in the world who mean ill, each with a place in it and no more than that.

| who | where | what |
|---|---|---|
| Guesser | off the path | forges answers and data without having seen any |
| Eavesdropper | a link | replays what it saw, there and elsewhere, and forges with it |
| Modifier | a link | edits signaling that passes |
| Spoofer | off the path | OPENs with a good key and a host's source address |
| Thief | sees a link, sends from elsewhere | uses the tokens of former messages |
| Flooder | a host of its own | asks for more connections than anybody needs |
| Prober | everywhere; not an adversary | data packets of flows that are none, or no more |

The lying gate is in liar.py, those who move, redirect and register others are in impostor.py. All
of them act while their fault lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from wayside.core import constants as c
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import DecodeError, Header
from wayside.core.crypto import SigningKey
from wayside.core.messages import Message, decode
from wayside.core.rule import Cid

from .clock import EPOCH_S
from .forge import bent, forged_answer, signed_open, some_hop, spoofed
from .gate import GateBox
from .host import HostBox
from .link import Link
from .network import Network, Node
from .said import Said
from .wire import FORGED, FORGED_NUMBER, Flag, build_tcp, build_udp, packet_of

SEEN_MAX = 200
"""Packets that somebody on the path remembers."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What an adversary knows of the world: whom there is, as anybody could find out."""

    network: Network
    said: Said
    clients: Sequence[HostBox]
    servers: Sequence[HostBox]
    gates: Sequence[GateBox]
    off_path: Node
    chance: Random
    relays: Sequence[GateBox] = ()
    """Those off the path that pass things on: a relay, a rendezvous."""


class Adversary:
    """Acts so many times a second, until it is stopped."""

    def __init__(self, stage: Stage, rate: float) -> None:
        self.stage = stage
        self.chance = stage.chance
        self.key = SigningKey(stage.chance.randbytes(32))
        self._rate = rate
        self._stopped = False
        self._next()

    def act(self) -> None:
        """Do something."""

    def stop(self) -> None:
        """Leave."""
        self._stopped = True

    def _next(self) -> None:
        wait_s = self.chance.uniform(0.5, 1.5) / self._rate
        self.stage.network.place.clock.after(wait_s, self._act)

    def _act(self) -> None:
        if not self._stopped:
            self.act()
            self._next()

    def signaling(self, node: Node, data: bytes, source: Address, to: Address) -> None:
        """Send signaling from a place in the network, in whoever's name."""
        if source.family == to.family:
            node.transmit(build_udp(spoofed(source, to), data))

    def address_of(self, box: Node) -> Address:
        """Where a box is asked."""
        return box.interfaces[0].signaling

    @property
    def anybody(self) -> Node:
        """A box of the world."""
        stage = self.stage
        return self.chance.choice([*stage.clients, *stage.servers, *stage.gates])


class Guesser(Adversary):
    """Off the path: knows addresses and services, and no cid, port, token or key."""

    def act(self) -> None:
        """Forge an answer, or a data packet."""
        stage, chance = self.stage, self.chance
        client, server = chance.choice(stage.clients), chance.choice(stage.servers)
        a, b = self.address_of(client), self.address_of(server)
        if chance.random() < 0.5:
            flow = Flow(
                chance.choice((Transport.TCP, Transport.UDP)),
                a.with_port(chance.randrange(1024, 65536)),
                b.with_port(chance.choice((443, 53, 8443))),
            )
            stage.off_path.transmit(data_packet(chance.choice((flow, flow.reversed()))))
            return
        ends = Flow(Transport.TCP, a.with_port(40_000), b.with_port(443))
        data = forged_answer(self.key, None, ends, chance)
        self.signaling(stage.off_path, data, self.address_of(self.anybody), chance.choice((a, b)))


class OnPath(Adversary):
    """Sits on a link and reads."""

    def __init__(self, stage: Stage, rate: float, link: Link) -> None:
        self.link = link
        self.seen: list[tuple[bytes, int]] = []
        link.taps.append(self)
        super().__init__(stage, rate)

    def see(self, raw: bytes, end: int) -> list[bytes]:
        """Remember signaling and data; let it pass."""
        if len(self.seen) < SEEN_MAX:
            self.seen.append((raw, end))
        else:
            self.seen[self.chance.randrange(SEEN_MAX)] = (raw, end)
        return [raw]

    def stop(self) -> None:
        """Leave the link."""
        super().stop()
        if self in self.link.taps:
            self.link.taps.remove(self)

    def signaling_seen(self) -> tuple[bytes, Header, Message, int] | None:
        """A signaling packet that passed, decoded."""
        if not self.seen:
            return None
        raw, end = self.chance.choice(self.seen)
        packet = packet_of(raw)
        if packet is None or c.SIGNALING_PORT not in (
            packet.flow.source.port,
            packet.flow.destination.port,
        ):
            return None
        try:
            header, message = decode(packet.payload)
        except DecodeError:
            return None
        return raw, header, message, end


class Eavesdropper(OnPath):
    """Replays what it saw, as it was or from another address, and forges with what it learnt.

    Sometimes it answers an OPEN before anybody else can.
    """

    HASTE = 0.2

    def see(self, raw: bytes, end: int) -> list[bytes]:
        """Remember; perhaps be the first to answer."""
        packet = packet_of(raw)
        if packet is not None and packet.payload[4:5] == b"\x01" and self._hurries():
            try:
                seen = decode(packet.payload)
            except DecodeError:
                return [raw]
            back = packet.flow.reversed()
            forged = forged_answer(self.key, seen, packet.flow, self.chance)
            self.link.inject(build_udp(back, forged), 1 - end)
        return super().see(raw, end)

    def _hurries(self) -> bool:
        return self.chance.random() < self.HASTE

    def act(self) -> None:
        """Replay or forge."""
        chance = self.chance
        if chance.random() < 0.3 and self.seen:
            raw, end = chance.choice(self.seen)
            self.link.inject(raw, end)
            return
        seen = self.signaling_seen()
        if seen is None:
            return
        raw, header, message, end = seen
        packet = packet_of(raw)
        assert packet is not None
        flow = packet.flow
        match chance.randrange(4):
            case 0:
                other = self.address_of(self.anybody)
                if other.ip != flow.destination.ip:
                    self.link.inject(
                        build_udp(spoofed(other, flow.destination), packet.payload), end
                    )
            case 1:
                self.link.inject(build_udp(flow.reversed(), packet.payload), 1 - end)
            case 2:
                forged = forged_answer(self.key, (header, message), flow, chance)
                self.link.inject(build_udp(flow, forged), end)
            case _:
                forged = forged_answer(self.key, (header, message), flow, chance)
                self.link.inject(build_udp(flow.reversed(), forged), 1 - end)


class Thief(OnPath):
    """Saw tokens once, and uses them from somewhere else, for that connection and for others."""

    def act(self) -> None:
        """Forge with a token that was seen."""
        seen, chance = self.signaling_seen(), self.chance
        if seen is None:
            return
        raw, header, message, _ = seen
        if chance.random() < 0.5:
            header = Header(header.type, header.seq, Cid(chance.randbytes(16)))
        packet = packet_of(raw)
        assert packet is not None
        data = forged_answer(self.key, (header, message), packet.flow, chance)
        to = self.address_of(self.anybody)
        source = self.address_of(self.stage.off_path)
        if chance.random() < 0.5:
            source = packet.flow.source
        self.signaling(self.stage.off_path, data, source, to)


class Modifier(OnPath):
    """Edits signaling; `rate` is the probability that it does."""

    def __init__(self, stage: Stage, probability: float, link: Link) -> None:
        self._probability = probability
        super().__init__(stage, 1.0, link)

    def see(self, raw: bytes, end: int) -> list[bytes]:
        """Let it pass, or something else."""
        packet = packet_of(raw)
        if packet is None or c.SIGNALING_PORT not in (
            packet.flow.source.port,
            packet.flow.destination.port,
        ):
            return [raw]
        if self.chance.random() >= self._probability:
            return [raw]
        return [build_udp(packet.flow, bent(packet.payload, self.chance))]


class Spoofer(Adversary):
    """A good key, and a host's source address: asks servers to talk to somebody who did not ask."""

    def __init__(self, stage: Stage, rate: float, victim: HostBox) -> None:
        self._victim = victim
        super().__init__(stage, rate)

    def act(self) -> None:
        """Send an OPEN in the victim's name; sometimes as if it had come through a gate."""
        stage, chance = self.stage, self.chance
        server = chance.choice(stage.servers)
        victim, to = self.address_of(self._victim), self.address_of(server)
        flow = Flow(
            Transport.UDP, victim.with_port(chance.randrange(1024, 65536)), to.with_port(53)
        )
        now = EPOCH_S + stage.network.place.clock.now
        hops = (some_hop(self.key, chance),) if chance.random() < 0.3 else ()
        data = signed_open(self.key, server.key, flow, chance, now, hops)
        self.signaling(stage.off_path, data, victim, to)


class Flooder(Adversary):
    """Good key, own address, and no end of wishes."""

    def __init__(self, stage: Stage, rate: float, box: HostBox) -> None:
        self._box = box
        super().__init__(stage, rate)

    def act(self) -> None:
        """Ask for a connection that nobody uses."""
        chance, box = self.chance, self._box
        at = self.stage.servers.index(chance.choice(self.stage.servers))
        peer = list(box.durable.peers.values())[at]
        ports = (chance.randrange(1024, 65536), chance.choice((443, 53)))
        transport = chance.choice((Transport.TCP, Transport.UDP))
        flow = box.local_flow(peer.identity.key, transport, ports)
        if flow is not None:
            cid = Cid(chance.randbytes(16))
            box.ask(cid, flow, str(ports[1]), b"", peer)
            self.stage.network.place.clock.after(
                chance.uniform(0.1, 5), lambda: box.close(cid, "enough")
            )


class Prober(Adversary):
    """Shows the gates data packets that must not pass: nearly agreed, asked only, closed."""

    def act(self) -> None:
        """A packet of, or beside, a flow that somebody agreed to at some time, at each gate."""
        agreed, asked = self.stage.said.agreed, self.stage.said.asked
        many = len(agreed) + len(asked)
        if not many:
            return
        chance = self.chance
        which = chance.choice(
            range(max(0, many - 4), many) if chance.random() < 0.5 else range(many)
        )
        if which < len(agreed):
            flow = list(agreed.values())[which]
        else:
            terms = list(asked.values())[which - len(agreed)].terms
            flow = Flow(terms.transport, terms.source, terms.destination)
        if chance.random() < 0.5:
            port = (flow.source.port + chance.choice((1, -1))) % 65536
            flow = Flow(flow.transport, flow.source.with_port(port), flow.destination)
        flow = chance.choice((flow, flow.reversed()))
        for gate in self.stage.gates:
            gate.receive(data_packet(flow), chance.choice(gate.interfaces))


def data_packet(flow: Flow) -> bytes:
    """A data packet of a flow, that nobody takes for an answer."""
    if flow.transport is Transport.UDP:
        return build_udp(flow, FORGED)
    return build_tcp(flow, Flag.ACK, FORGED_NUMBER, FORGED_NUMBER, FORGED)
