"""What a box gives, and what a host keeps of it."""

from __future__ import annotations

from ipaddress import IPv4Address

from wayside.core.constants import PROOF_BYTES, TICKET_S
from wayside.core.messages import Hop
from wayside.core.ticket import BOXES_MAX, NEWEST, SHOWN_MAX, WAYS_MAX, TicketBox, Tickets, shown_as

GATE, OURS, OTHER = b"g" * 32, b"o" * 32, b"x" * 32
THERE, ELSEWHERE = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


def box(secret: bytes = b"s" * 32, key: bytes = GATE, shared: bytes = b"") -> TicketBox:
    return TicketBox(key, secret, shared)


def record(key: bytes, ticket: bytes) -> Hop:
    return Hop(key, 1, 120, b"token", ticket=ticket)


def test_what_a_record_has_is_worth_a_ticket_to_the_key_it_is_for() -> None:
    """R-7.8."""
    hop = record(GATE, box().for_record(None, OURS, 100.0))
    mine = shown_as(hop, OURS)
    assert len(mine) == PROOF_BYTES
    found = box().find((bytes(PROOF_BYTES), mine), 101.0)
    assert found is not None
    assert OURS.startswith(found.holder)
    assert box().find((shown_as(hop, OTHER),), 101.0) is None
    assert box(b"t" * 32).find((mine,), 101.0) is None


def test_a_ticket_holds_for_a_day_and_is_renewed_in_its_second_half() -> None:
    """R-7.8."""
    ours = box()
    mine = ours.for_redirect(OURS, 1000.0)
    shown = ours.find((mine,), 1000.0)
    assert shown is not None
    assert ours.for_record(shown, OURS, 1000.0) == b""
    later = 1000.0 + TICKET_S / 2
    assert ours.for_record(ours.find((mine,), later), OURS, later)
    assert ours.find((mine,), 1000.0 + TICKET_S + 1) is None
    assert ours.find((ours.for_redirect(OURS, 1000.0 + 2 * TICKET_S),), 1000.0) is None


def test_boxes_that_share_a_secret_take_what_one_of_them_gave() -> None:
    """R-7.8: and what each gave in its own name, itself only."""
    one = box(b"1" * 32, b"a" * 32, b"all of us" * 4)
    two = box(b"2" * 32, b"b" * 32, b"all of us" * 4)
    given = one.for_redirect(OURS, 5.0)
    assert two.find((given,), 6.0) == one.find((given,), 6.0) is not None
    own = shown_as(record(b"a" * 32, one.for_record(None, OURS, 5.0)), OURS)
    assert one.find((own,), 6.0) is not None
    assert two.find((own,), 6.0) is None


def test_a_host_shows_what_it_got_on_the_way_to_an_address() -> None:
    """R-7.8: elsewhere the newest, and where it knows that there is no box, nothing."""
    tickets, gate = Tickets(), record(GATE, box().for_record(None, OURS, 1.0))
    assert tickets.towards(THERE) == ()
    tickets.learn(THERE, (gate,), OURS)
    assert tickets.towards(THERE) == tickets.towards(ELSEWHERE) == (shown_as(gate, OURS),)
    tickets.learn(ELSEWHERE, (), OURS)
    assert tickets.towards(ELSEWHERE) == ()
    assert tickets.count == 1


def test_a_box_that_gave_none_this_time_took_the_one_it_was_shown() -> None:
    """R-7.8: what other boxes had is not shown there any more."""
    tickets = Tickets()
    gates = [record(bytes([at]) * 32, b"ticket %d..." % at) for at in range(2)]
    tickets.learn(THERE, gates, OURS)
    tickets.learn(THERE, (record(gates[1].key, b""),), OURS)
    assert tickets.towards(THERE) == (shown_as(gates[1], OURS),)


def test_what_a_host_keeps_and_shows_has_an_end() -> None:
    """R-7.8: the oldest goes."""
    tickets = Tickets()
    many = [record(number.to_bytes(32, "little"), b"0123456789a") for number in range(2000)]
    tickets.learn(THERE, many[:8], OURS)
    assert tickets.towards(THERE) == tuple(shown_as(hop, OURS) for hop in many[8 - SHOWN_MAX : 8])
    for number, hop in enumerate(many):
        tickets.learn(IPv4Address(2**24 + number), (hop,), OURS)
    assert tickets.count == BOXES_MAX
    assert len(tickets._ways) == WAYS_MAX
    assert len(tickets.towards(ELSEWHERE)) == NEWEST
