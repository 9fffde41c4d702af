"""An end that moves: it says so from its new address, and both go on with the same connection.

client c ---- g1 ---- g2 ---- server s
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pair import Pair, message_of, reasons
from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.errors import DropReason
from wayside.core.events import SourcesChanged
from wayside.core.messages import Accept, Confirm, Open, padded

NEW = {4: {"c": "10.77.0.2", "s": "10.78.0.2"}, 6: {"c": "fd00:77::2", "s": "fd00:78::2"}}


def move(pair: Pair, node: str, to: str | None = None) -> IP:
    """Give a host another address, and let it know."""
    old = pair.own[node][0]
    new = Address.parse(to or NEW[old.family][node]).with_port(4747)
    pair.own[node] = (new, new)
    other = pair.connection(node).agreement.wire.destination.ip
    pair.tell(node, SourcesChanged({other: new.ip}))
    return new.ip


def agree(pair: Pair) -> None:
    """Both ends and all gates have one and the same view of where packets go."""
    ours, theirs = pair.connection("c").agreement, pair.connection("s").agreement
    assert ours.wire == theirs.wire.reversed()
    for name in pair.gates:
        assert pair.passage(name).crossing.near in (ours.wire, theirs.wire)
        assert set(pair.kernel[name]) == {ours.wire, theirs.wire}
    for node, about in (("c", ours), ("s", theirs)):
        assert pair.kernel[node][about.local].rewrite == about.wire
        assert pair.kernel[node][about.wire.reversed()].rewrite == about.local.reversed()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("gates", [0, 1, 2])
@pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
@pytest.mark.parametrize("mover", ["c", "s"])
def test_a_connection_goes_on_from_the_new_address_of_either_end(
    mover: str, transport: Transport, gates: int, family: int
) -> None:
    """R-5.4.5, R-5.4.6: the sockets' own 5-tuples do not change."""
    pair = Pair(gates, family=family, transport=transport).open()
    locals_ = [pair.connection(node).agreement.local for node in "cs"]
    before = pair.connection(mover).agreement.wire
    new = move(pair, mover)
    pair.run(0.5)
    assert pair.is_up
    wire = pair.connection(mover).agreement.wire
    assert wire == Flow(transport, Address(new, before.source.port), before.destination)
    assert [pair.connection(node).agreement.local for node in "cs"] == locals_
    pair.run(300)
    agree(pair)
    pair.close("s")
    assert all(pair.kernel[node] == {} for node in pair.order)


@pytest.mark.parametrize("kind", [Open, Accept, Confirm])
@pytest.mark.parametrize("mover", ["c", "s"])
@pytest.mark.parametrize("gates", [0, 1])
def test_a_lost_message_of_a_move_is_said_again(gates: int, mover: str, kind: type) -> None:
    """R-5.1.7, R-5.2.3."""
    pair = Pair(gates).open()
    pair.lose[kind] = 1
    move(pair, mover)
    pair.run(3)
    assert pair.is_up
    wires = [pair.connection(node).agreement.wire for node in "cs"]
    assert wires[0] == wires[1].reversed()


@pytest.mark.parametrize("mover", ["c", "s"])
def test_the_other_end_goes_on_talking_to_the_old_address_until_the_new_one_is_proved(
    mover: str,
) -> None:
    """R-5.4.6, R-7.5: an OPEN alone moves nothing."""
    pair = Pair(1).open()
    other = "s" if mover == "c" else "c"
    before = pair.connection(other).agreement
    out = pair.kernel[other][before.local]
    pair.hold.add(Confirm)
    move(pair, mover)
    pair.run(1)
    assert pair.connection(other).agreement == before
    assert pair.kernel[other][before.local] == out
    pair.release()
    pair.run(1)
    assert pair.connection(other).agreement.wire != before.wire


@pytest.mark.parametrize("mover", ["c", "s"])
def test_who_does_not_have_the_key_moves_nobody(mover: str) -> None:
    """R-5.4.2: the OPEN of a move without its mac, or with another, is dropped."""
    pair = Pair().open()
    other = "s" if mover == "c" else "c"
    pair.hold.add(Open)
    new = move(pair, mover)
    ((_, event),) = pair.held
    header, message = message_of(event.data)
    assert isinstance(message, Open)
    before = pair.connection(other).agreement
    for mac in (b"", bytes(16)):
        forged = padded(header, replace(message, mac=mac))
        dropped = reasons(pair.inject(other, forged, Address(new, 4747)))
        assert dropped == [DropReason.STALE]
    assert pair.connection(other).agreement == before


def test_ten_moves_of_both_ends_in_turn_leave_what_one_connection_needs() -> None:
    """R-5.4.6: nothing heaps up."""
    pair = Pair(1).open()
    for number in range(10):
        move(pair, "c", f"10.77.{number}.2")
        pair.run(1)
        move(pair, "s", f"10.78.{number}.2")
        pair.run(1)
        assert pair.is_up
    pair.run(300)
    agree(pair)
