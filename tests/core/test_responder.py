"""The end that answers: whom it agrees with, once, and what it owes to nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pair import (
    EPOCH_S,
    STRANGER,
    Pair,
    Sent,
    body_of,
    hops_of,
    make_host,
    make_open,
    message_of,
    reasons,
    snapshot,
)
from wayside.core import constants as c
from wayside.core.address import Address, Transport
from wayside.core.codec import Header, decode_body
from wayside.core.connection import State
from wayside.core.crypto import mac
from wayside.core.effects import (
    ChangeRules,
    DeliverData,
    Dropped,
    ReportClosed,
    ReportOpened,
    SendDatagram,
)
from wayside.core.ends import Responder
from wayside.core.errors import DropReason
from wayside.core.events import DataAnswered
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Challenge,
    Close,
    Confirm,
    Hop,
    Open,
    encode,
    padded,
)
from wayside.core.route import hops_hash

ELSEWHERE = Address.parse("192.0.2.66:4747")


def unmoved(pair: Pair, data: bytes, reason: DropReason, source: Address = ELSEWHERE) -> None:
    """The server drops this for that reason, says nothing, and is what it was."""
    before = snapshot(pair.s)
    assert reasons(pair.inject("s", data, source)) == [reason]
    assert snapshot(pair.s) == before


def offered(gates: int = 0) -> Pair:
    """A responder that has said ACCEPT and heard nothing since."""
    pair = Pair(gates)
    pair.lose[Confirm] = 100
    return pair.open(0.05)


def stranger_open(pair: Pair, **more: Any) -> bytes:
    wire = pair.connection("s").agreement.wire
    return make_open(
        STRANGER,
        pair.s.context.key.public,
        more.pop("source", wire.destination),
        more.pop("destination", wire.source),
        cid=more.pop("cid", pair.cid),
        **more,
    )


def test_accept_says_what_was_seen_and_echoes_the_hops() -> None:
    """R-5.2, R-8.4: open_hash and hops_hash; hops as they came."""
    pair = Pair(2).open()
    _, asked = message_of(pair.last(Open, "g2").data)
    _, accept = message_of(pair.last(Accept, "s").data)
    assert isinstance(asked, Open)
    assert isinstance(accept, Accept)
    terms = decode_body(AcceptTerms, accept.signed)
    assert accept.hops == asked.hops
    assert len(accept.hops) == 2
    assert terms.hops_hash == hops_hash(asked.hops)
    assert terms.from_key == pair.s.context.key.public


def test_it_repeats_accept_within_what_the_open_paid_for_and_ends_after_five_seconds() -> None:
    """R-5.2.3, R-7.5: 0.25 s, doubling; never more bytes than came."""
    pair = Pair()
    pair.lose[Accept] = 100
    pair.lose[Open] = 0
    pair.tell("c", pair.request())
    pair.run(0.0015)
    pair.c.connections.clear()
    pair.run(20)
    said = [sent for sent in pair.wire if sent.kind is Accept]
    assert [round(sent.at - said[0].at, 3) for sent in said] == [0.0, 0.25, 0.75, 1.75]
    assert sum(len(sent.data) for sent in said) <= len(pair.wire[0].data)
    assert [report.reason for report in pair.seen(ReportClosed, "s")] == ["never confirmed"]
    assert pair.s.connections == pair.s._by_wire == pair.s._by_local == {}
    assert pair.kernel["s"] == {}


def test_before_confirm_nothing_goes_back_to_the_initiator() -> None:
    """R-5.3.2: only the rule for incoming packets is there."""
    pair = offered()
    about = pair.connection("s").agreement
    assert set(pair.kernel["s"]) == {about.wire.reversed()}
    assert pair.seen(ReportOpened, "s") == []


def test_an_open_that_comes_again_is_answered_again_for_ever() -> None:
    """R-5.2.1: 2,000 copies neither raise, nor wait longer and longer, nor are over-answered."""
    pair = offered()
    first = pair.wire[0]
    for _ in range(2000):
        effects = pair.inject("s", first.data, first.source)
        assert [type(effect) for effect in effects] == [ChangeRules]
    pair.run(4)
    sent = sum(len(one.data) for one in pair.wire if one.node == "s")
    assert sent <= 2001 * len(first.data)


def test_an_open_of_the_same_seq_that_says_something_else_is_stale() -> None:
    """R-5.2.1."""
    pair = offered()
    unmoved(pair, stranger_open(pair), DropReason.STALE, pair.own["c"][0])


@pytest.mark.parametrize("seq", [1, 2, 2**64 - 1])
def test_nobody_else_can_take_over_a_connection_that_is_not_confirmed_yet(seq: int) -> None:
    """R-5.4.2: a stranger who saw the OPEN sends one of their own with its cid and a higher seq."""
    pair = offered()
    unmoved(pair, stranger_open(pair, seq=seq), DropReason.STALE, pair.own["c"][0])
    unmoved(pair, stranger_open(pair, seq=seq, mac=b"m" * 16), DropReason.ADDRESS)
    there = stranger_open(pair, seq=seq, mac=b"m" * 16, source=ELSEWHERE.with_port(40000))
    unmoved(pair, there, DropReason.STALE)


@pytest.mark.parametrize("seq", [1, 2**64 - 1])
def test_seqs_of_the_other_kind_refresh_nothing_that_is_not_confirmed_yet(seq: int) -> None:
    """R-5.4.2: there is no agreed key yet, whatever MAC it shows."""
    pair = offered()
    wire = pair.connection("c").agreement.wire
    for shown in (b"", b"m" * 16, mac(b"", b"")):
        data = make_open(
            pair.c.context.key,
            pair.s.context.key.public,
            wire.source,
            wire.destination,
            cid=pair.cid,
            seq=seq,
            mac=shown,
        )
        unmoved(pair, data, DropReason.STALE, pair.own["c"][0])


@pytest.mark.parametrize("seq", [0, 1, 2, 2**64 - 1])
def test_nobody_else_can_refresh_a_connection(seq: int) -> None:
    """R-5.4.2: a higher seq, the same key, the right MAC; anything else is stale."""
    pair = Pair().open()
    unmoved(pair, stranger_open(pair, seq=seq), DropReason.ADDRESS)
    unmoved(pair, stranger_open(pair, seq=seq), DropReason.STALE, pair.own["c"][0])
    there = stranger_open(pair, seq=seq, source=ELSEWHERE.with_port(40000))
    unmoved(pair, there, DropReason.STALE)
    mine = make_open(
        pair.c.context.key,
        pair.s.context.key.public,
        *((wire := pair.connection("c").agreement.wire).source, wire.destination),
        cid=pair.cid,
        seq=seq,
        mac=b"wrong mac 16 by.",
    )
    unmoved(pair, mine, DropReason.STALE, pair.own["c"][0])


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({"service": "echo"}, DropReason.STALE),
        ({"transport": Transport.UDP}, DropReason.STALE),
        ({"source": Address.parse("10.0.0.3:40000")}, DropReason.ADDRESS),
        ({"destination": Address.parse("10.1.0.3:443")}, DropReason.ADDRESS),
    ],
)
def test_a_refresh_is_about_the_same_service_and_addresses(
    terms: dict[str, Any], reason: DropReason
) -> None:
    """R-5.4.2: who was let in for one thing does not get another with it, key and MAC or not."""
    pair = Pair().open()
    wire = pair.connection("c").agreement.wire
    ends: dict[str, Any] = {"source": wire.source, "destination": wire.destination, **terms}
    header = Header(Open.TYPE, 2, pair.cid)
    made = make_open(
        pair.c.context.key,
        pair.s.context.key.public,
        ends.pop("source"),
        ends.pop("destination"),
        cid=pair.cid,
        seq=2,
        **ends,
    )
    message = body_of(made, Open)
    key = pair.connection("c").keys.by_seq[0]
    proof = mac(key, header.signing, message.signed)
    data = padded(header, replace(message, mac=proof, pad=b""))
    unmoved(pair, data, reason, pair.own["c"][0])
    same = make_open(
        pair.c.context.key,
        pair.s.context.key.public,
        wire.source,
        wire.destination,
        cid=pair.cid,
        seq=2,
    )
    message = body_of(same, Open)
    proof = mac(key, header.signing, message.signed)
    data = padded(header, replace(message, mac=proof, pad=b""))
    assert reasons(pair.inject("s", data, pair.own["c"][0])) == []


def test_an_old_refresh_that_comes_late_is_stale() -> None:
    """R-5.4.2: a replayed refresh does not undo a newer one."""
    pair = Pair().open()
    pair.run(120)
    late = [sent for sent in pair.wire if sent.kind is Open]
    assert len(late) == 4
    for sent in late[:-1]:
        pair.s.context.epoch_s = EPOCH_S + sent.at - pair.now  # its time still fits
        unmoved(pair, sent.data, DropReason.STALE, sent.source)


@pytest.mark.parametrize("end", ["c", "s", "expiry"])
def test_a_replay_after_the_end_is_dropped_and_not_answered(end: str) -> None:
    """R-5.9.4: OPEN, ACCEPT and CONFIRM of a connection that is over."""
    pair = Pair().open()
    said = [sent for sent in pair.wire if sent.kind in (Open, Confirm)]
    if end in ("c", "s"):
        pair.close(end)
    else:
        pair.lose[Open] = pair.lose[Accept] = 10**6
        while not pair.ended("s"):
            pair.run(0.5)
    assert pair.connection("s").state is State.ENDED
    pair.s.context.epoch_s -= pair.now - 100  # the OPEN's time still fits
    before, sent = snapshot(pair.s), len(pair.wire)
    for one in said:
        effects = pair.inject("s", one.data, one.source)
        found = reasons(effects)
        assert found in ([DropReason.STALE], [DropReason.UNEXPECTED], [DropReason.BUDGET])
    assert snapshot(pair.s) == before
    assert len(pair.wire) == sent


def test_what_was_never_confirmed_is_forgotten_but_not_what_was_asked() -> None:
    """R-5.9.4, R-7.7: its OPEN is still a replay; one with a higher seq is a new connection."""
    pair = offered()
    said = [sent for sent in pair.wire if sent.kind in (Open, Confirm)]
    wire = pair.connection("c").agreement.wire
    pair.lose[Open] = pair.lose[Accept] = 10**6
    pair.run(6)
    assert pair.s.connections == {}
    assert pair.kernel["s"] == {}
    pair.s.context.epoch_s -= pair.now - 100
    for one in said:
        found = reasons(pair.inject("s", one.data, one.source))
        assert found in ([DropReason.STALE], [DropReason.UNKNOWN])
    keys = (pair.c.context.key, pair.s.context.key.public)
    again = make_open(*keys, wire.source, wire.destination, cid=pair.cid, seq=2)
    assert reasons(pair.inject("s", again, pair.own["c"][0])) == []
    assert pair.connection("s").state is State.OFFERED


@pytest.mark.parametrize("at", range(0, 1200, 3))
def test_an_open_with_any_byte_changed_is_not_accepted_unless_nobody_signed_it(at: int) -> None:
    """R-5.1.3, R-4.2: header, terms, signature; the pad is nobody's."""
    pair = Pair()
    pair.lose[Open] = 1
    pair.open(0.01)
    good = pair.wire[0]
    data = bytearray(good.data)
    data[at % len(data)] ^= 1 << at % 8
    header, start = Header.decode(good.data)
    end = good.data.index(bytes(500))  # where the pad starts
    effects = pair.inject("s", bytes(data), good.source)
    if at >= end:
        assert reasons(effects) == []
        assert [type(effect) for effect in effects] == [ChangeRules]
    else:
        (effect,) = effects
        challenged = isinstance(effect, SendDatagram) and effect.data[4] == Challenge.TYPE
        assert challenged or isinstance(effect, Dropped)
        assert pair.s.connections == {}
    assert header.proofs == ()
    assert start == c.HEADER_BYTES


def forged_confirms(pair: Pair) -> list[tuple[bytes, DropReason]]:
    header, message = message_of(pair.last(Confirm, "c").data)
    assert isinstance(message, Confirm)
    hop = Hop(STRANGER.public, 1, 1, b"x")
    keyed = pair.connection("c").keys.by_seq[0]
    other = mac(keyed, header.signing, bytes(32))
    return [
        (encode(header, replace(message, mac=bytes(16))), DropReason.SIGNATURE),
        (encode(header, replace(message, seen=bytes(32))), DropReason.SIGNATURE),
        (encode(header, replace(message, seen=bytes(32), mac=other)), DropReason.STALE),
        (encode(header, replace(message, hops=(hop,))), DropReason.STALE),
        (encode(Header(3, 2, pair.cid), message), DropReason.STALE),
        (encode(Header(3, 2**64 - 1, pair.cid), message), DropReason.STALE),
    ]


def test_a_forged_confirm_is_dropped_and_changes_nothing() -> None:
    """R-5.3, R-5.3.2, R-8.4: without the key, with another `seen`, or with hops added."""
    pair = offered()
    for data, reason in forged_confirms(pair):
        unmoved(pair, data, reason)
    pair.inject("s", pair.last(Confirm, "c").data, pair.own["c"][0])
    assert pair.connection("s").state is State.CONNECTED


def test_a_gate_that_lies_to_one_side_is_found_out() -> None:
    """R-8.4, R-5.3: its record says one thing to the responder, another to the initiator."""
    for kind, reason in ((Accept, DropReason.SIGNATURE), (Confirm, DropReason.STALE)):
        pair = Pair(1)

        def lie(sent: Sent, to: str, kind: type = kind) -> bytes:
            if sent.kind is not kind or to not in ("c", "s"):
                return sent.data
            header, message = message_of(sent.data)
            (hop,) = hops_of(sent.data)
            changed = Hop(hop.key, hop.role, hop.lifetime_s * 100, hop.token)
            return encode(header, replace(message, hops=(changed,)))

        pair.change = lie
        pair.open(4)
        assert reasons([effect for _, effect in pair.effects])[0] is reason
        assert not pair.is_up
        assert pair.connection("s").state is not State.CONNECTED


def test_copies_of_an_open_from_elsewhere_do_not_turn_the_connection_away() -> None:
    """R-7.5, R-5.3: an observer cannot have CLOSE sent to itself, nor its own hops believed."""
    pair = offered(1)
    header, message = message_of(pair.last(Open, "g1").data)
    assert isinstance(message, Open)
    copied = Open(message.signed, message.signature, (Hop(STRANGER.public, 1, 1, b"x"),))
    pair.inject("s", padded(header, copied), ELSEWHERE)
    pair.lose.clear()
    confirm = pair.last(Confirm, "c")
    pair.tell("g1", pair_event(pair, confirm))
    pair.run(0.1)
    responder = pair.connection("s")
    assert responder.state is State.CONNECTED
    assert responder.towards == pair.own["c"][0]
    assert responder.hops == message.hops
    pair.close("s")
    assert pair.ended("c")


def test_a_copy_of_an_open_whose_hop_speaks_of_another_source_is_stale() -> None:
    """R-5.4.2, R-5.1.6: the same seq, signed by the same initiator; a made-up NAT before it."""
    pair = offered()
    header, message = message_of(pair.wire[0].data)
    assert isinstance(message, Open)
    for role in (1, 2):
        nat = Hop(STRANGER.public, role, 120, b"x", source=ELSEWHERE.with_port(40000))
        copied = Open(message.signed, message.signature, (nat,))
        unmoved(pair, padded(header, copied), DropReason.STALE)


def pair_event(pair: Pair, sent: Sent) -> Any:
    from wayside.core.events import DatagramReceived

    return DatagramReceived(sent.data, sent.source, sent.destination, True, "inside")


def test_no_more_goes_to_an_address_than_came_from_there() -> None:
    """R-7.5: credit earned by one address is not spent on another."""
    pair = offered(2)
    first, beside = pair.last(Open, "g2"), pair.own["c"][0].with_port(4748)
    unmoved(pair, first.data, DropReason.ADDRESS)
    pair.inject("s", first.data, beside)
    pair.run(6)
    there = [len(one.data) for one in pair.wire if one.destination == beside]
    assert 0 < sum(there) <= len(first.data)
    assert not [one for one in pair.wire if one.destination == ELSEWHERE]


def test_a_peer_cannot_have_a_refresh_answered_to_a_victim_more_than_it_sent() -> None:
    """R-7.5: a known key says nothing about an address."""
    pair = Pair().open()
    pair.hold.add(Open)
    pair.run(39.1)
    ((_, event),) = pair.held
    beside = pair.own["c"][0].with_port(4748)
    unmoved(pair, event.data, DropReason.ADDRESS)
    pair.inject("s", event.data, beside)
    pair.run(80)
    there = [len(one.data) for one in pair.wire if one.destination == beside]
    assert 0 < sum(there) <= len(event.data)
    assert not [one for one in pair.wire if one.destination == ELSEWHERE]


def test_a_late_answer_of_the_application_goes_the_usual_way() -> None:
    """R-5.2.5: after ACCEPT left, or at an end that never waited."""
    pair = Pair(data=b"question", transport=Transport.UDP).open()
    for node in ("c", "s"):
        before = snapshot(pair.nodes[node])
        assert pair.tell(node, DataAnswered(pair.cid, b"late")) == []
        assert snapshot(pair.nodes[node]) == before
    assert pair.seen(DeliverData, "c") == []


def test_data_that_was_sealed_to_somebody_else_is_dropped_with_its_open() -> None:
    """R-5.1.5, R-4.5: nothing of that OPEN is kept."""
    pair = Pair()
    data = make_open(
        STRANGER,
        pair.s.context.key.public,
        pair.own["c"][0].with_port(40000),
        pair.own["s"][0].with_port(443),
        cid=pair.cid,
        transport=Transport.UDP,
        sealed=bytes(64),
    )
    unmoved(pair, data, DropReason.SIGNATURE, pair.own["c"][0])
    assert pair.s.connections == {}


@pytest.mark.parametrize("ephemeral", [bytes(32), bytes([1]) + bytes(31)])
def test_an_ephemeral_key_of_small_order_is_refused(ephemeral: bytes) -> None:
    """R-4.4: it would make a key that anybody knows."""
    pair = Pair()
    data = make_open(
        STRANGER,
        pair.s.context.key.public,
        pair.own["c"][0].with_port(40000),
        pair.own["s"][0].with_port(443),
        cid=pair.cid,
        ephemeral=ephemeral,
    )
    for _ in range(3):
        unmoved(pair, data, DropReason.SIGNATURE, pair.own["c"][0])


def test_what_a_responder_does_not_take_is_dropped() -> None:
    """R-7.2."""
    pair = Pair().open()
    unmoved(pair, pair.last(Accept, "s").data, DropReason.STALE)
    assert isinstance(pair.connection("s"), Responder)


def test_the_keys_of_the_last_two_seqs_hold() -> None:
    """R-5.4.3, R-4.3: a CLOSE under the key before the last is believed, one before that is not."""
    for back, reason in ((0, None), (2, None), (4, DropReason.STALE)):
        pair = Pair().open()
        keys = dict(pair.connection("c").keys.by_seq)
        for _ in range(2):
            pair.run(40)
            keys.update(pair.connection("c").keys.by_seq)
        header = Header(Close.TYPE, 4 - back, pair.cid)
        close = Close(mac(keys[4 - back], header.signing, b""), "")
        effects = pair.inject("s", encode(header, close), pair.own["c"][0])
        assert reasons(effects) == ([reason] if reason else [])
        assert pair.ended("s") is (reason is None)


def test_a_proved_source_is_owed_no_bytes() -> None:
    """R-7.5, R-7.3: credit is for who has not shown that it receives."""
    from pair import CHALLENGE

    pair = Pair(server=make_host("s", policy=CHALLENGE))
    pair.lose[Confirm] = 100
    pair.open(4)
    assert pair.kinds("s").count("ACCEPT") == 5
    assert isinstance(pair.effects[0][1], SendDatagram)
