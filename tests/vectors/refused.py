"""Datagrams that must be dropped without an answer, each with its reason. Spec: R-7.1, R-7.2.

Each case takes up the handshake of handshake.json after some of its steps (`after`: so many
datagrams were sent, and the last of them was lost) and gives one machine one more datagram.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from vectors.describe import Json
from vectors.world import EPOCH_S, Plan, Sent, World, key, received, seed
from wayside.core import messages as m
from wayside.core.address import Address, Transport
from wayside.core.codec import Body, Header, decode_body, encode_body
from wayside.core.crypto import SigningKey, mac
from wayside.core.effects import Dropped
from wayside.core.errors import DropReason
from wayside.core.host import Host
from wayside.core.opening import SIGNATURE_CONTEXT
from wayside.core.rule import Cid

OPEN_AT_GATE, OPEN_AT_RESPONDER, ACCEPT_AT_GATE, ACCEPT_AT_INITIATOR = 1, 2, 3, 4
CONFIRM_AT_GATE, CONFIRM_AT_RESPONDER, REFRESH_AT_GATE, REFRESH_AT_RESPONDER = 5, 6, 7, 8
CLOSE_AT_GATE, CLOSE_AT_RESPONDER = 13, 14
"""Numbers of steps in handshake.json."""


@dataclass(frozen=True, slots=True)
class Case:
    """What comes, when, and why it is dropped. `step`: the step whose place it takes."""

    name: str
    step: int
    data: bytes
    reason: DropReason
    after: int = -1
    transit: bool | None = None
    source: Address | None = None


def refused() -> dict[str, Json]:
    """The document of this file, by its name."""
    world = World(Plan())
    world.live()
    return {
        "refused": {
            "v": 1,
            "about": "Each datagram is dropped: no answer, no state. See handshake.json for keys.",
            "cases": [_checked(world, case) for case in _cases(world)],
        }
    }


def drops_of(world: World, sent: Sent, transit: bool) -> DropReason | None:
    """Why a machine drops a datagram; None when it does anything else."""
    effects = world.machines[sent.receiver].handle(received(sent, transit), world.now)
    match effects:
        case [Dropped(reason)]:
            return reason
        case _:
            return None


def world_after(steps: int) -> World:
    """The handshake after so many datagrams."""
    world = World(Plan(), sent_max=steps)
    if steps > 0:
        world.live()
    return world


def _checked(whole: World, case: Case) -> Json:
    genuine = whole.sent[case.step - 1]
    after = case.step if case.after < 0 else case.after
    sent = replace(genuine, data=case.data, source=case.source or genuine.source)
    transit = case.transit
    if transit is None:
        transit = genuine.receiver == "gate"
    if not transit and genuine.receiver == "gate":
        sent = replace(sent, destination=whole.signaling["gate"])
    world = world_after(after)
    found = drops_of(world, sent, transit)
    assert found is case.reason, f"{case.name}: {found}"
    return {
        "name": case.name,
        "after": after,
        "at": sent.receiver,
        "from": sent.sender,
        "source": str(sent.source),
        "destination": str(sent.destination),
        "intercepted": transit,
        "unix_s": EPOCH_S + int(world.now),
        "datagram": case.data.hex(),
        "reason": case.reason.value,
    }


def _cases(world: World) -> Iterator[Case]:
    yield from _bad_headers(world)
    yield from _bad_bodies(world)
    yield from _bad_opens(world)
    yield from _bad_at_gate(world)
    yield from _bad_at_initiator(world)
    yield from _bad_at_responder(world)


def _bad_headers(world: World) -> Iterator[Case]:
    genuine = world.sent[0].data
    changes = [
        ("another magic", 0, b"X"),
        ("version 0", 3, b"\x00"),
        ("version 2", 3, b"\x02"),
        ("a flag that nobody knows", 5, b"\x80"),
        ("the proof flag without a proof", 5, b"\x01"),
        ("a proof without its flag", 6, b"\x01"),
        ("five proofs", 5, b"\x01\x05"),
        ("the zero byte is not zero", 7, b"\x01"),
    ]
    for name, at, new in changes:
        data = genuine[:at] + new + genuine[at + len(new) :]
        yield Case(name, OPEN_AT_GATE, data, DropReason.HEADER)
    for name, data in (
        ("nothing", b""),
        ("half a header", genuine[:16]),
        ("a header alone", genuine[:32]),
        ("proofs that are cut off", genuine[:5] + b"\x01\x02\x00" + genuine[8:90]),
        ("1,233 bytes", genuine + bytes(1233 - len(genuine))),
    ):
        yield Case(name, OPEN_AT_GATE, data, DropReason.HEADER)


def _bad_bodies(world: World) -> Iterator[Case]:
    genuine = world.sent[0].data
    head, body = genuine[:32], genuine[32:]
    first, rest = body[1:4], body[4:]
    for name, data in (
        ("type 0", genuine[:4] + b"\x00" + genuine[5:]),
        ("type 9", genuine[:4] + b"\x09" + genuine[5:]),
        ("a byte behind the body", genuine + b"\x00"),
        ("a tag in front of the body", head + b"\xd9\xd9\xf7" + body),
        ("a tag in front of a value", head + body[:1] + first[:1] + b"\xd8\x18" + first[1:] + rest),
        ("a map of no definite length", head + b"\xbf" + body[1:] + b"\xff"),
        ("a key in two bytes", head + body[:1] + b"\x18\x01" + first[1:] + rest),
        ("a key that nobody knows", head + b"\xa4" + body[1:] + b"\x06\x00"),
        ("an empty field that should be left out", head + b"\xa4" + body[1:] + b"\x03\x80"),
        ("the fields of another type", genuine[:4] + b"\x03" + genuine[5:]),
    ):
        yield Case(name, OPEN_AT_GATE, data, DropReason.MALFORMED)
    cut = world.sent[CONFIRM_AT_GATE - 1].data[:-1]
    yield Case("a body that is cut off", CONFIRM_AT_GATE, cut, DropReason.MALFORMED)


def _bad_opens(world: World) -> Iterator[Case]:
    header, message = m.decode(world.sent[0].data)
    assert isinstance(message, m.Open)
    mine = key("initiator")
    terms = decode_body(m.OpenTerms, message.signed)

    def remade(new: m.OpenTerms | bytes, pair: SigningKey = mine) -> bytes:
        signed = new if isinstance(new, bytes) else encode_body(new)
        return m.padded(header, m.Open(signed, _sign(pair, header, signed)))

    bare = m.encode(header, m.Open(message.signed, message.signature))
    yield Case("an OPEN without pad", OPEN_AT_GATE, bare, DropReason.SHORT)
    for name, service in (
        ("no service", ""),
        ("a service of two words", "no words"),
        ("a service beyond ASCII", "echö"),
        ("a service of thirty-three characters", "x" * 33),
    ):
        data = remade(replace(terms, service=service))
        yield Case(f"an OPEN for {name}", OPEN_AT_GATE, data, DropReason.MALFORMED)
    some = Address.parse
    for name, source, destination in (
        ("to a multicast address", terms.source, some("224.0.0.1:7")),
        ("from no port", terms.source.with_port(0), terms.destination),
        ("from no address", some("0.0.0.0:40000"), terms.destination),
        ("to everybody", terms.source, some("255.255.255.255:7")),
        ("from a link-local address", some("169.254.0.1:40000"), terms.destination),
        ("from a loopback address", some("127.0.0.1:40000"), terms.destination),
        ("to itself", terms.source, terms.source),
    ):
        new = replace(terms, source=source, destination=destination)
        yield Case(f"an OPEN {name}", OPEN_AT_GATE, remade(new), DropReason.ADDRESS)
    none = replace(terms, transport=Transport.NONE)
    for name, new in (
        ("two ports", none),
        ("a source port", replace(none, destination=terms.destination.with_port(0))),
        ("a destination port", replace(none, source=terms.source.with_port(0))),
    ):
        yield Case(f"no transport, but {name}", OPEN_AT_GATE, remade(new), DropReason.ADDRESS)
    six = replace(terms, source=some("[2001:db8::1]:40000"))
    yield Case("two families in one flow", OPEN_AT_GATE, remade(six), DropReason.MALFORMED)
    mapped = message.signed.replace(
        b"\x46" + terms.source.pack(), b"\x52" + bytes(10) + b"\xff\xff" + terms.source.pack()
    )
    yield Case("a v4-mapped address", OPEN_AT_GATE, remade(mapped), DropReason.MALFORMED)
    stranger = remade(terms, key("somebody else"))
    yield Case("signed by somebody else", OPEN_AT_GATE, stranger, DropReason.SIGNATURE)
    dataless = remade(replace(terms, sealed=b""))
    for name, at in (("seq", 15), ("cid", 31)):
        data = bytearray(dataless)
        data[at] ^= 1
        yield Case(
            f"another {name} than was signed", OPEN_AT_GATE, bytes(data), DropReason.SIGNATURE
        )
    later, signed = replace(header, seq=2), encode_body(terms)
    again = m.padded(later, m.Open(signed, _sign(mine, later, signed)))
    yield Case("data on a later OPEN for UDP", OPEN_AT_GATE, again, DropReason.MALFORMED)
    no_key = replace(terms, from_key=bytes(32))
    yield Case("from a key of small order", OPEN_AT_GATE, remade(no_key), DropReason.SIGNATURE)
    udp = replace(terms, transport=Transport.UDP, source=terms.source.with_port(4747))
    yield Case("a flow of signaling itself", OPEN_AT_GATE, remade(udp), DropReason.ADDRESS)


def _bad_stops(world: World) -> Iterator[Case]:
    """At the gate of a connection that is up, from where its responder is. Spec: R-5.8.1."""
    _, accept = m.decode(world.sent[ACCEPT_AT_GATE - 1].data)
    assert isinstance(accept, m.Accept)
    agreed = decode_body(m.AcceptTerms, accept.signed)
    theirs, other = key("responder"), key("somebody else")
    good = m.StopTerms(theirs.public, agreed.open_hash, agreed.hops_hash, 600, EPOCH_S)
    up = CONFIRM_AT_RESPONDER
    for name, terms, pair, hops, after, reason in (
        ("without a token", good, theirs, (), up, DropReason.TOKEN),
        ("before its CONFIRM", good, theirs, accept.hops, 4, DropReason.UNKNOWN),
        ("by another key", replace(good, from_key=other.public), other, accept.hops, up,
         DropReason.ADDRESS),
        ("of another OPEN", replace(good, open_hash=seed("x")), theirs, accept.hops, up,
         DropReason.ADDRESS),
        ("of other hops", replace(good, hops_hash=seed("x")), theirs, accept.hops, up,
         DropReason.STALE),
        ("of yesterday", replace(good, time_s=EPOCH_S - 86_400), theirs, accept.hops, up,
         DropReason.TIME),
        ("signed wrongly", good, other, accept.hops, up, DropReason.SIGNATURE),
    ):  # fmt: skip
        data = _remade(m.Stop, Header(m.Stop.TYPE, 0, world.cid), terms, pair, hops)
        yield Case(f"a STOP {name}", ACCEPT_AT_GATE, data, reason, after=after)


def _bad_at_gate(world: World) -> Iterator[Case]:
    opened = world.sent[0].data
    not_transit = Case("an OPEN for the gate itself", 1, opened, DropReason.UNEXPECTED)
    yield replace(not_transit, transit=False)
    yield Case("an OPEN for what is closed", OPEN_AT_GATE, opened, DropReason.STALE, after=16)
    yield from _bad_stops(world)
    header, accept = m.decode(world.sent[2].data)
    assert isinstance(accept, m.Accept)
    terms = decode_body(m.AcceptTerms, accept.signed)
    theirs = key("responder")
    foreign = replace(accept.hops[0], token=bytes(100))
    for name, hops in (("without a token", ()), ("with a token made up", (foreign,))):
        data = _remade(m.Accept, header, terms, theirs, hops)
        yield Case(f"an ACCEPT {name}", ACCEPT_AT_GATE, data, DropReason.TOKEN)
    later = Header(header.type, 2, header.cid)
    data = _remade(m.Accept, later, terms, theirs, accept.hops)
    yield Case("an ACCEPT with the token of another seq", ACCEPT_AT_GATE, data, DropReason.TOKEN)
    other = key("somebody else")
    for name, new, pair, reason in (
        ("by another key", replace(terms, from_key=other.public), other, DropReason.ADDRESS),
        ("of another OPEN", replace(terms, open_hash=seed("x")), theirs, DropReason.ADDRESS),
        ("that leaves the port open", replace(terms, destination=_portless(terms.destination)),
         theirs, DropReason.ADDRESS),
        ("signed wrongly", terms, other, DropReason.SIGNATURE),
        ("of other hops", replace(terms, hops_hash=seed("x")), theirs, DropReason.STALE),
    ):  # fmt: skip
        data = _remade(m.Accept, header, new, pair, accept.hops)
        yield Case(f"an ACCEPT {name}", ACCEPT_AT_GATE, data, reason)
    accepted = world.sent[2].data
    elsewhere = Case("an ACCEPT from elsewhere", ACCEPT_AT_GATE, accepted, DropReason.ADDRESS)
    yield replace(elsewhere, source=Address.parse("10.2.0.3:4747"))
    to_gate = Case("an ACCEPT to the gate itself", ACCEPT_AT_GATE, accepted, DropReason.TOKEN)
    yield replace(to_gate, transit=False)
    confirm = world.sent[4].data
    yield Case("a CONFIRM before its ACCEPT", CONFIRM_AT_GATE, confirm, DropReason.UNKNOWN, after=3)
    for step, name in ((CONFIRM_AT_GATE, "a CONFIRM"), (CLOSE_AT_GATE, "a CLOSE")):
        header, message = m.decode(world.sent[step - 1].data)
        data = m.encode(header, replace(message, hops=()))
        yield Case(f"{name} without a token", step, data, DropReason.TOKEN)
    header, message = m.decode(confirm)
    unshown = m.encode(header, replace(message, proof=bytes(16)))
    yield Case("a CONFIRM with another proof", CONFIRM_AT_GATE, unshown, DropReason.STALE)


def _bad_at_initiator(world: World) -> Iterator[Case]:
    header, accept = m.decode(world.sent[3].data)
    assert isinstance(accept, m.Accept)
    terms = decode_body(m.AcceptTerms, accept.signed)
    theirs, other = key("responder"), key("somebody else")
    hop = replace(accept.hops[0], lifetime_s=3600)
    elsewhere = Address.parse("10.2.0.3:7")
    for name, new, pair, hops, reason in (
        ("signed by somebody else", terms, other, accept.hops, DropReason.SIGNATURE),
        ("by another key", replace(terms, from_key=other.public), other, accept.hops,
         DropReason.SIGNATURE),
        ("of another OPEN", replace(terms, open_hash=seed("x")), theirs, accept.hops,
         DropReason.SIGNATURE),
        ("with a hop that says something else now", terms, theirs, (hop,), DropReason.SIGNATURE),
        ("with its hops taken away", terms, theirs, (), DropReason.SIGNATURE),
        ("to another host", replace(terms, destination=elsewhere), theirs, accept.hops,
         DropReason.ADDRESS),
        ("with an ephemeral key of small order", replace(terms, ephemeral=bytes(32)), theirs,
         accept.hops, DropReason.SIGNATURE),
    ):  # fmt: skip
        data = _remade(m.Accept, header, new, pair, hops)
        yield Case(f"at the initiator: an ACCEPT {name}", ACCEPT_AT_INITIATOR, data, reason)
    later = _remade(m.Accept, Header(header.type, 2, header.cid), terms, theirs, accept.hops)
    yield Case("an ACCEPT of another seq", ACCEPT_AT_INITIATOR, later, DropReason.STALE)
    unknown = Header(header.type, 0, some_cid("another"))
    data = _remade(m.Accept, unknown, terms, theirs, accept.hops)
    yield Case("an ACCEPT of another cid", ACCEPT_AT_INITIATOR, data, DropReason.UNKNOWN)
    no = m.RejectTerms(other.public, terms.open_hash, m.Code.POLICY, "no")
    reject = Header(m.Reject.TYPE, 0, world.cid)
    wrong = _remade(m.Reject, reject, replace(no, open_hash=seed("x")), other)
    yield Case("a REJECT of another OPEN", ACCEPT_AT_INITIATOR, wrong, DropReason.STALE)
    wrong = _remade(m.Reject, reject, no, theirs)
    yield Case("a REJECT signed wrongly", ACCEPT_AT_INITIATOR, wrong, DropReason.SIGNATURE)
    right = _remade(m.Reject, reject, no, other)
    late = Case("a REJECT by a stranger when all is agreed", 4, right, DropReason.UNEXPECTED)
    yield replace(late, after=6)
    challenge = m.encode(Header(m.Challenge.TYPE, 2, world.cid), m.Challenge(bytes(32)))
    yield Case("a CHALLENGE of another seq", ACCEPT_AT_INITIATOR, challenge, DropReason.STALE)


def _bad_at_responder(world: World) -> Iterator[Case]:
    step = CONFIRM_AT_RESPONDER
    header, confirm = m.decode(world.sent[step - 1].data)
    assert isinstance(confirm, m.Confirm)
    data = m.encode(header, confirm)
    yield Case("a CONFIRM of nothing", step, data, DropReason.UNKNOWN, after=0)
    wrong = m.encode(header, replace(confirm, mac=bytes(16)))
    yield Case("a CONFIRM with a wrong MAC", step, wrong, DropReason.SIGNATURE)
    later = m.encode(Header(header.type, 2, header.cid), confirm)
    yield Case("a CONFIRM of another seq", step, later, DropReason.STALE)
    yield from _bad_refreshes(world)
    header, close = m.decode(world.sent[CLOSE_AT_RESPONDER - 1].data)
    wrong = m.encode(header, replace(close, mac=bytes(16)))
    yield Case("a CLOSE with a wrong MAC", CLOSE_AT_RESPONDER, wrong, DropReason.SIGNATURE)
    later = m.encode(Header(header.type, 4, header.cid), close)
    yield Case("a CLOSE of another seq", CLOSE_AT_RESPONDER, later, DropReason.STALE)
    yield Case("a CLOSE of nothing", CLOSE_AT_RESPONDER, m.encode(header, close),
               DropReason.UNKNOWN, after=0)  # fmt: skip
    replay = world.sent[OPEN_AT_RESPONDER - 1].data
    yield Case("an OPEN again, when all is over", 2, replay, DropReason.STALE, after=16)


def _bad_refreshes(world: World) -> Iterator[Case]:
    step = REFRESH_AT_RESPONDER
    header, message = m.decode(world.sent[step - 1].data)
    assert isinstance(message, m.Open)
    for name, proof in (("without", b""), ("with a wrong", bytes(16))):
        data = m.padded(header, replace(message, mac=proof))
        yield Case(f"a refresh {name} MAC", step, data, DropReason.STALE)
    other = key("somebody else")
    terms = decode_body(m.OpenTerms, message.signed)
    signed = encode_body(replace(terms, from_key=other.public))
    stolen = m.Open(signed, _sign(other, header, signed), message.hops, message.mac)
    yield Case("a refresh by another key", step, m.padded(header, stolen), DropReason.STALE)
    for name, change in (
        ("service", {"service": "https"}),
        ("transport", {"transport": Transport.TCP}),
    ):
        signed = encode_body(replace(terms, **change))
        proof = mac(_first_key(world), header.signing, signed)
        other_terms = m.Open(signed, _sign(key("initiator"), header, signed), message.hops, proof)
        data = m.padded(header, other_terms)
        yield Case(f"a refresh with another {name}", step, data, DropReason.STALE)
    signed = encode_body(replace(terms, sealed=bytes(20)))
    proof = mac(_first_key(world), header.signing, signed)
    laden = m.Open(signed, _sign(key("initiator"), header, signed), message.hops, proof)
    yield Case("a refresh with data", step, m.padded(header, laden), DropReason.MALFORMED)
    first = m.decode(world.sent[1].data)[0]
    signed = encode_body(replace(terms, sealed=b""))
    changed = m.Open(signed, _sign(key("initiator"), first, signed), message.hops)
    yield Case("an OPEN with a seq that is taken", step, m.padded(first, changed), DropReason.STALE)


def _portless(address: Address) -> Address:
    return address.with_port(0)


def some_cid(name: str) -> Cid:
    """A cid of no connection."""
    return Cid(seed(name)[:16])


def _first_key(world: World) -> bytes:
    """The connection key of seq 0."""
    host = world.machines["initiator"]
    assert isinstance(host, Host)
    return host.connections[world.cid].keys.by_seq[0]


def _sign(pair: SigningKey, header: Header, signed: bytes) -> bytes:
    return pair.sign(SIGNATURE_CONTEXT, header.signing + signed)


def _remade(
    kind: type[m.Message],
    header: Header,
    terms: Body,
    pair: SigningKey,
    hops: tuple[m.Hop, ...] = (),
) -> bytes:
    signed = encode_body(terms)
    make: Any = kind
    return m.encode(header, make(signed, _sign(pair, header, signed), hops))
