"""Where the attacks take place: two hosts, a gate or a NAT between them, and an ear everywhere.

    client c ---- g1 ---- server s

The machines are real and the link is `pair.Pair`'s. A scene remembers every datagram as it came to
every node, so that an attacker may replay, turn around or bend it; `unmoved` and `unharmed` say
what must not have happened: state, rules, and bytes to addresses that asked for none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pair import STRANGER, Pair, decode, make_open, reasons, snapshot
from wayside.core.address import Address
from wayside.core.codec import Header, decode_body, encode_body
from wayside.core.constants import CHECK_BYTES
from wayside.core.crypto import SigningKey, ephemeral_public
from wayside.core.effects import Effect, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived, Event
from wayside.core.host import Host
from wayside.core.messages import (
    MESSAGES,
    Accept,
    AcceptTerms,
    Challenge,
    Close,
    Code,
    Confirm,
    Hop,
    Locator,
    Message,
    Open,
    OpenTerms,
    Redirect,
    RedirectTerms,
    Reject,
    RejectTerms,
    Stop,
    StopTerms,
    encode,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.route import hops_hash

BOXES = ("gate", "nat")
"""What may stand between the hosts; each test of a box is run with both."""

NODES = ("c", "g1", "s")
ELSEWHERE = Address.parse("192.0.2.66:4747")
"""An address of somebody who is not on the path."""


class Scene(Pair):
    """A pair with one box, that remembers what came to whom."""

    def __init__(self, box: str = "gate", **more: Any) -> None:
        super().__init__(1, nats=("g1",) if box == "nat" else (), **more)
        self.came: list[tuple[str, DatagramReceived]] = []
        self.client, self.server = self.own["c"][0], self.own["s"][0]
        self.beyond = self.outside("g1") if box == "nat" else self.client
        """Where the client is, as the server sees it."""

    def open(self, seconds: float = 1.0, **more: Any) -> Scene:
        """Ask for a connection, and let it come up."""
        super().open(seconds, **more)
        return self

    def close(self, node: str = "c", reason: str = "done", seconds: float = 1.0) -> Scene:
        """Let one end close."""
        super().close(node, reason, seconds)
        return self

    def tell(self, node: str, event: Event) -> list[Effect]:
        """As a pair, and remember it."""
        if isinstance(event, DatagramReceived):
            self.came.append((node, event))
        return super().tell(node, event)

    def heard(self, node: str, kind: type[Message]) -> DatagramReceived:
        """The first datagram of a kind that came to a node."""
        return next(e for n, e in self.came if n == node and MESSAGES[e.data[4]] is kind)

    def all_heard(self, node: str) -> list[DatagramReceived]:
        """All that came to a node."""
        return [event for name, event in self.came if name == node]

    def bytes_to(self, where: Address) -> int:
        """Bytes that anybody sent to an address."""
        return sum(len(sent.data) for sent in self.wire if sent.destination.ip == where.ip)


def held_back(kind: type[Message], box: str = "gate", **more: Any) -> Scene:
    """A scene in which every message of a kind is held back before it arrives."""
    scene = Scene(box, **more)
    scene.hold.add(kind)
    scene.open(0.05)
    return scene


def essence(scene: Pair) -> Any:
    """What an attacker wants to change: states, agreements, keys, tables, rules; not counters."""
    hosts: list[Any] = []
    for name, host in scene.nodes.items():
        for cid, end in host.connections.items() if isinstance(host, Host) else ():
            about = (snapshot(end.agreement), end.state, dict(end.keys.by_seq))
            hosts.append((name, cid, *about, end.towards, end.lifetime_s, snapshot(end.hops)))
    gates = [(name, snapshot(gate.passages)) for name, gate in scene.gates.items()]
    return hosts, gates, {name: dict(rules) for name, rules in scene.kernel.items()}


def whole(scene: Pair) -> Any:
    """All that every machine and every kernel remembers."""
    machines = [snapshot(node) for node in scene.nodes.values()]
    return machines, {name: dict(rules) for name, rules in scene.kernel.items()}


def unmoved(scene: Pair, node: str, event: DatagramReceived, *why: DropReason) -> None:
    """A node drops this for that reason, says nothing, and everything is what it was."""
    before, said = whole(scene), len(scene.wire)
    found = reasons(scene.tell(node, event))
    assert found == list(why), found
    assert len(scene.wire) == said
    assert whole(scene) == before


def unharmed(scene: Pair, node: str, event: DatagramReceived) -> list[Effect]:
    """Whatever a node answers, it is no more than what came, and nothing that counts changes."""
    before = essence(scene)
    effects = scene.tell(node, event)
    assert essence(scene) == before
    said = sum(len(effect.data) for effect in effects if isinstance(effect, SendDatagram))
    assert said <= len(event.data)
    return effects


def elsewhere(event: DatagramReceived) -> DatagramReceived:
    """The same bytes, from somebody who is not on the path."""
    return replace(event, source=ELSEWHERE)


def a_strangers_open(scene: Scene, **more: Any) -> bytes:
    """An OPEN by somebody with a good key and the address of the client."""
    key = more.pop("key", STRANGER)
    source = more.pop("source", scene.client.with_port(40001))
    destination = more.pop("destination", scene.server.with_port(443))
    to_key = more.pop("to_key", scene.s.context.key.public)
    return make_open(key, to_key, source, destination, cid=more.pop("cid", scene.cid), **more)


def forged(
    kind: type[Message],
    seen: bytes,
    *,
    key: SigningKey = STRANGER,
    seq: int | None = None,
    hops: tuple[Hop, ...] | None = None,
) -> bytes:
    """A message about the connection of the OPEN that was `seen`, as right as a stranger can.

    All is as the one who is entitled to it would say, but for the keys that the stranger lacks.
    """
    header, message = decode(seen)
    assert isinstance(message, Open)
    terms = decode_body(OpenTerms, message.signed)
    about = Header(kind.TYPE, header.seq if seq is None else seq, header.cid)
    hops = message.hops if hops is None else hops
    asked = open_hash(header, message.signed)
    if kind is Confirm:
        return encode(about, Confirm(seen=bytes(32), mac=bytes(16), proof=bytes(16), hops=hops))
    if kind is Close:
        return encode(about, Close(bytes(16), "bye", hops))
    if kind is Challenge:
        return encode(about, Challenge(bytes(32), hops))
    port = terms.destination.port or 8443
    claims: dict[type[Message], Any] = {
        Accept: AcceptTerms(
            from_key=key.public,
            open_hash=asked,
            hops_hash=hops_hash(hops),
            check=bytes(CHECK_BYTES),
            destination=terms.destination.with_port(port),
            ephemeral=ephemeral_public(bytes(31) + b"\x05"),
            lifetime_s=120,
        ),
        Reject: RejectTerms(key.public, asked, Code.POLICY, "because I say so"),
        Redirect: RedirectTerms(key.public, asked, Locator(ELSEWHERE), b"approval", 2**31),
        Stop: StopTerms(key.public, asked, hops_hash(hops), 60, terms.time_s + 1),
    }
    return signed_by(key, about, kind, claims[kind], hops)


def signed_by(
    key: SigningKey, header: Header, kind: type[Message], terms: Any, hops: tuple[Hop, ...]
) -> bytes:
    """A message whose terms a key has signed, whoever they name."""
    signed = encode_body(terms)
    signature = key.sign(SIGNATURE_CONTEXT, header.signing + signed)
    make: Any = kind
    return encode(header, make(signed, signature, hops))
