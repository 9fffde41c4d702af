"""What boxes add to an ACCEPT: exactly one address each that rewrites the destination.

    client c ---- g1 ---- g2 ---- server s        (g1 a firewall or a NAT, g2 a NAT; s is inside)

Nobody signs `returned`, so everybody counts: an entry more or less is no ACCEPT.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import signed_by
from natted import both_ends_know_what_packets_show
from pair import Pair, Sent, message_of, reasons
from wayside.core import constants as c
from wayside.core.address import Address, Flow
from wayside.core.codec import decode_body, encode_body
from wayside.core.effects import Dropped
from wayside.core.errors import DropReason
from wayside.core.messages import Accept, AcceptTerms, encode


def inwards(nats: tuple[str, ...]) -> Pair:
    """The client asks the outermost NAT for the server."""
    pair = Pair(2, inside="s", nats=nats)
    for name, there in (("g1", pair.outside("g2")), ("g2", pair.own["s"][0])):
        nat = pair.gates[name].context.box.nat
        if nat is not None:
            nat.known[pair.s.context.key.public] = there
    return pair


def opened(pair: Pair, nats: tuple[str, ...]) -> Pair:
    """The connection is asked for, and whatever comes of it."""
    there = pair.outside(nats[0])
    wire = Flow(pair.transport, pair.own["c"][0].with_port(40000), there.with_port(443))
    return pair.open(0.2, wire=wire, signaling=there)


def edited(returned: tuple[Address, ...], how: str) -> tuple[Address, ...]:
    """One entry too few, or too many."""
    other = Address.parse("10.2.0.2:22")
    if how == "dropped":
        return returned[:-1]
    if how == "doubled":
        return (*returned, *(returned[-1:] or (other,)))
    return (other, *returned) if how == "put first" else (*returned, other)


NATS = pytest.mark.parametrize("nats", [("g2",), ("g1", "g2")])


@NATS
def test_each_box_that_rewrites_the_destination_adds_one_address(nats: tuple[str, ...]) -> None:
    """R-5.2.4: the control of the test below."""
    pair = opened(inwards(nats), nats)
    assert pair.is_up
    both_ends_know_what_packets_show(pair)
    counts = {
        sent.node: len(message.returned)
        for sent in pair.wire
        if isinstance(message := message_of(sent.data)[1], Accept)
    }
    assert counts == {"s": 0, "g2": 1, "g1": len(nats)}


@NATS
@pytest.mark.parametrize("how", ["dropped", "doubled", "put first", "put last"])
@pytest.mark.parametrize("reader", ["c", "g1", "g2"])
def test_an_accept_with_an_address_more_or_less_than_its_hops_is_dropped(
    reader: str, how: str, nats: tuple[str, ...]
) -> None:
    """R-5.2.4, R-5.2.2: at the initiator and at every gate, and no rule comes of it there."""
    pair = inwards(nats)

    def edit(sent: Sent, to: str) -> bytes:
        header, message = message_of(sent.data)
        if to != reader or not isinstance(message, Accept):
            return sent.data
        returned = edited(message.returned, how)
        if returned == message.returned:  # none was there that could be dropped
            returned = (Address.parse("10.2.0.2:22"),)
        return encode(header, Accept(message.signed, message.signature, message.hops, returned))

    pair.change = edit
    opened(pair, nats)
    dropped = [effect for name, effect in pair.effects if name == reader]
    assert reasons(dropped) == [DropReason.ADDRESS]
    assert pair.kernel[reader] == {}
    assert not pair.is_up
    assert {name for name, effect in pair.effects if isinstance(effect, Dropped)} == {reader}


def test_an_accept_without_room_for_what_a_gate_has_to_add_is_dropped() -> None:
    """R-7.6, R-5.2.4: signed by a responder that fills a datagram to its last bytes."""
    pair = inwards(("g2",))

    def fill(sent: Sent, to: str) -> bytes:
        header, message = message_of(sent.data)
        if to != "g2" or not isinstance(message, Accept):
            return sent.data
        terms = decode_body(AcceptTerms, message.signed)
        others = tuple(Address.parse(f"[2001:db8::{number}]:4747") for number in range(1, 8))
        sizes = range(1, 577)
        made = [replace(terms, alternatives=others, sealed=bytes(size)) for size in sizes]
        key, room = pair.s.context.key, c.DATAGRAM_BYTES_MAX - len(sent.data) + len(message.signed)
        fits = [one for one in made if len(encode_body(one)) <= room - 1]
        filled = signed_by(key, header, Accept, fits[-1], message.hops)
        assert len(filled) > c.DATAGRAM_BYTES_MAX - 9
        return filled

    pair.change = fill
    opened(pair, ("g2",))
    assert reasons([effect for name, effect in pair.effects if name == "g2"]) == [
        DropReason.MALFORMED
    ]
    assert pair.kernel["g2"] == {}
