"""The end that asks: what it believes, from whom, and when it stops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pair import STRANGER, Pair, body_of, hops_of, make_host, message_of, reasons, snapshot
from wayside.core import constants as c
from wayside.core.address import Address, Transport
from wayside.core.codec import Header, decode_body, encode_body
from wayside.core.connection import State
from wayside.core.crypto import SigningKey
from wayside.core.effects import Dropped, ReportOpened, ReportRefused, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.identity import PeerIdentity, key_text
from wayside.core.messages import (
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
    padded,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.route import hops_hash

ELSEWHERE = Address.parse("192.0.2.66:4747")


def opening(**more: Any) -> Pair:
    """An initiator whose OPEN is on its way to a server that will not answer."""
    pair = Pair(**more)
    pair.lose[Open] = 1
    return pair.open(0.01)


def hash_of(pair: Pair) -> bytes:
    header, message = message_of(pair.last(Open).data)
    assert isinstance(message, Open)
    return open_hash(header, message.signed)


def signed(
    pair: Pair, kind: type, terms: Any, key: SigningKey, seq: int = 0, hops: tuple[Hop, ...] = ()
) -> bytes:
    """A message about the client's connection, signed by `key`."""
    header = Header(kind.TYPE, seq, pair.cid)
    raw = encode_body(terms)
    return encode(header, kind(raw, key.sign(SIGNATURE_CONTEXT, header.signing + raw), hops))


def a_reject(pair: Pair, key: SigningKey, seq: int = 0, **terms: Any) -> bytes:
    fields: dict[str, Any] = {
        "from_key": key.public,
        "open_hash": hash_of(pair),
        "code": 1,
        "reason": "no",
    }
    return signed(pair, Reject, RejectTerms(**{**fields, **terms}), key, seq)


def unmoved(pair: Pair, data: bytes, reason: DropReason) -> None:
    """The client drops this for that reason, says nothing, and is what it was."""
    before = snapshot(pair.c)
    assert reasons(pair.inject("c", data, ELSEWHERE)) == [reason]
    assert isinstance(pair.effects[-1][1], Dropped)
    assert snapshot(pair.c) == before


def test_it_repeats_its_open_and_gives_up_after_five_seconds() -> None:
    """R-5.1.7: after 0.25 s, doubling; silence is told as code 0."""
    pair = Pair()
    pair.lose[Open] = 100
    pair.open(20)
    times = [round(sent.at - pair.wire[0].at, 3) for sent in pair.wire]
    assert times == [0.0, 0.25, 0.75, 1.75, 3.75]
    assert len({sent.data for sent in pair.wire}) == 1
    (refused,) = pair.seen(ReportRefused)
    assert (refused.code, refused.reason) == (0, "nobody answered")
    assert pair.c.connections == pair.c._by_wire == pair.c._by_local == {}
    assert pair.c.deadline is None


def test_its_open_says_who_what_and_where_and_is_padded() -> None:
    """R-5.1, R-5.1.4: at least 1,200 bytes, time in unix seconds."""
    pair = opening()
    header, message = message_of(pair.wire[0].data)
    assert isinstance(message, Open)
    terms = decode_body(OpenTerms, message.signed)
    assert len(pair.wire[0].data) >= c.OPEN_BYTES_MIN
    assert (header.seq, header.cid) == (0, pair.cid)
    assert (terms.from_key, terms.to_key) == (
        pair.c.context.key.public,
        pair.s.context.key.public,
    )
    assert terms.time_s == int(pair.c.context.unix_s(pair.wire[0].at))


@pytest.mark.parametrize("kind", [Accept, Reject, Redirect])
@pytest.mark.parametrize("seq", [1, 2, 2**64 - 1])
def test_an_answer_to_another_seq_is_stale(kind: type, seq: int) -> None:
    """R-5.2.2, R-5.6.2."""
    pair = opening()
    unmoved(pair, encode(Header(kind.TYPE, seq, pair.cid), kind(b"", bytes(64))), DropReason.STALE)


def accept_terms(pair: Pair, **terms: Any) -> AcceptTerms:
    wire = pair.connection("c").agreement.wire
    made = AcceptTerms(
        from_key=pair.s.context.key.public,
        open_hash=hash_of(pair),
        hops_hash=hops_hash(()),
        check=bytes(8),
        destination=wire.destination,
        ephemeral=bytes(31) + b"\x09",
        lifetime_s=120,
    )
    return replace(made, **terms)


FORGED = [
    ({"from_key": STRANGER.public}, DropReason.SIGNATURE),
    ({"open_hash": bytes(32)}, DropReason.SIGNATURE),
    ({"hops_hash": bytes(32)}, DropReason.SIGNATURE),
    ({"ephemeral": bytes(32)}, DropReason.SIGNATURE),
    ({"destination": ELSEWHERE}, DropReason.ADDRESS),
    ({"destination": Address.parse("10.1.0.2:0")}, DropReason.ADDRESS),
    ({"destination": Address.parse("[2001:db8::1]:443")}, DropReason.ADDRESS),
]


@pytest.mark.parametrize(("terms", "reason"), FORGED)
def test_an_accept_that_does_not_fit_is_dropped(terms: Any, reason: DropReason) -> None:
    """R-5.2.2, R-4.4: even signed by the right key, and with a key of small order."""
    pair = opening()
    data = signed(pair, Accept, accept_terms(pair, **terms), pair.s.context.key)
    unmoved(pair, data, reason)


def test_an_accept_by_another_key_is_dropped() -> None:
    """R-5.2.2, R-4.2: forged by somebody who knows everything but the key."""
    pair = opening()
    for terms in (accept_terms(pair), accept_terms(pair, from_key=STRANGER.public)):
        unmoved(pair, signed(pair, Accept, terms, STRANGER), DropReason.SIGNATURE)
    unmoved(
        pair,
        signed(pair, Accept, RejectTerms(b"k" * 32, b"h" * 32, 1, ""), STRANGER),
        DropReason.MALFORMED,
    )


def test_an_accept_with_a_hop_that_the_responder_did_not_see_is_dropped() -> None:
    """R-5.2.2, R-8.4: a box that lies to one side only is found out."""
    pair = opening()
    hop = Hop(STRANGER.public, 1, 120, b"token")
    data = signed(pair, Accept, accept_terms(pair), pair.s.context.key, hops=(hop,))
    unmoved(pair, data, DropReason.SIGNATURE)


def test_of_two_different_accepts_the_first_counts() -> None:
    """R-5.2.2, R-5.2.1: of a copy with another token; one by other boxes is not answered."""
    pair = Pair(1)
    pair.hold.add(Accept)
    pair.open(0.01)
    header, message = message_of(pair.last(Open, "g1").data)
    assert isinstance(message, Open)
    fake = Open(message.signed, message.signature, (Hop(STRANGER.public, 1, 1, b"x"),))
    dropped = pair.inject("s", padded(header, fake), pair.own["c"][0])
    assert reasons(dropped) == [DropReason.STALE]
    (mine,) = message.hops
    copy = Open(message.signed, message.signature, (replace(mine, token=b"x"),))
    pair.inject("s", padded(header, copy), pair.own["c"][0])
    copied = pair.last(Accept, "s")
    assert hops_of(copied.data) == copy.hops
    pair.release()
    pair.run(0.1)
    before = pair.connection("c").hops
    assert [hop.key for hop in before] == [pair.gates["g1"].context.key.public]
    unchanged = snapshot(pair.c)
    (again,) = pair.inject("c", copied.data, ELSEWHERE)
    assert isinstance(again, SendDatagram)
    assert again.data == pair.last(Confirm, "c").data
    assert hops_of(again.data) == before
    assert snapshot(pair.c) == unchanged


@pytest.mark.parametrize("at", range(0, 260, 1))
def test_an_accept_with_any_byte_changed_is_not_accepted(at: int) -> None:
    """R-4.2, R-5.2.2: header, terms and signature, every byte."""
    pair = Pair()
    pair.hold.add(Accept)
    pair.open(0.01)
    (_, event), *_ = pair.held
    data = bytearray(event.data)
    data[at % len(data)] ^= 1 << at % 8
    before = snapshot(pair.c)
    assert len(reasons(pair.inject("c", bytes(data), event.source))) == 1
    assert snapshot(pair.c) == before


def test_while_opening_anyone_who_saw_the_open_may_say_no() -> None:
    """R-5.6.2: any key whose signature and open_hash fit; the user learns who and why."""
    pair = opening()
    pair.inject("c", a_reject(pair, STRANGER, by="hotel", rule="no-games"), ELSEWHERE)
    (refused,) = pair.seen(ReportRefused)
    assert refused.by == f"hotel ({key_text(STRANGER.public)[:13]}...)"
    assert (refused.code, refused.reason, refused.rule) == (1, "no", "no-games")
    assert pair.c.connections == {}


def test_a_reject_by_someone_who_did_not_see_the_open_is_dropped() -> None:
    """R-5.6.2, R-7.6: off-path, cid known, hash not; or a signature that does not hold."""
    pair = opening()
    unmoved(pair, a_reject(pair, STRANGER, open_hash=bytes(32)), DropReason.STALE)
    broken = a_reject(pair, STRANGER, from_key=pair.s.context.key.public)
    unmoved(pair, broken, DropReason.SIGNATURE)


def test_a_live_connection_is_not_ended_by_a_stranger() -> None:
    """R-5.6.3: nor by anyone once the ACCEPT is there."""
    pair = Pair().open()
    for key in (STRANGER, pair.s.context.key):
        unmoved(pair, a_reject(pair, key), DropReason.UNEXPECTED)
    pair.lose[Open] = 1
    pair.run(40)
    assert pair.connection("c").state is State.CONNECTED
    unmoved(pair, a_reject(pair, STRANGER, seq=2), DropReason.UNEXPECTED)


def test_the_peer_or_a_hop_may_refuse_a_refresh() -> None:
    """R-5.6.3: then the rules go at once."""
    for who in ("s", "g1"):
        pair = Pair(1).open()
        pair.lose[Open] = 1
        pair.run(39.1)
        key = pair.s.context.key if who == "s" else pair.gates[who].context.key
        pair.inject("c", a_reject(pair, key, seq=2), ELSEWHERE)
        assert pair.ended("c")
        assert pair.kernel["c"] == {}
        assert len(pair.seen(ReportRefused, "c")) == 1


def test_a_challenge_is_answered_at_once_with_its_proof() -> None:
    """R-5.5, R-5.5.1: one proof for each issuer, four at most."""
    pair = opening()
    for number in range(4):
        proof = bytes([number]) * 32
        data = encode(Header(Challenge.TYPE, 0, pair.cid), Challenge(proof))
        (answer,) = pair.inject("c", data, ELSEWHERE)
        assert isinstance(answer, SendDatagram)
        header, _ = message_of(answer.data)
        assert header.proofs[-1] == proof
        assert len(header.proofs) == number + 1
        assert answer.destination == pair.own["s"][0]
        assert body_of(answer.data, Open).signed == body_of(pair.wire[0].data, Open).signed
        assert c.OPEN_BYTES_MIN <= len(answer.data) <= c.DATAGRAM_BYTES_MAX
        unmoved(pair, data, DropReason.UNEXPECTED)
    fifth = encode(Header(Challenge.TYPE, 0, pair.cid), Challenge(b"5" * 32))
    unmoved(pair, fifth, DropReason.UNEXPECTED)


def test_a_newer_proof_takes_the_place_of_the_same_issuers_old_one() -> None:
    """R-5.5.1."""
    pair = opening()
    for last in (b"1", b"2"):
        proof = b"issuer-1" + last * 24
        pair.inject("c", encode(Header(4, 0, pair.cid), Challenge(proof)), ELSEWHERE)
    assert message_of(pair.wire[-1].data)[0].proofs == (b"issuer-1" + b"2" * 24,)


@pytest.mark.parametrize("closing", [False, True])
def test_a_challenge_is_of_no_interest_when_nothing_is_asked(closing: bool) -> None:
    """R-5.5.1: neither once there is an ACCEPT, nor while closing with a refresh under way."""
    pair = Pair().open()
    seq = 0
    if closing:
        pair.lose[Open], seq = 1, 2
        pair.run(39.01)
        pair.lose[Close] = 10
        pair.close(seconds=0.01)
    challenge = encode(Header(Challenge.TYPE, seq, pair.cid), Challenge(b"p" * 32))
    unmoved(pair, challenge, DropReason.UNEXPECTED if closing else DropReason.STALE)


def test_a_redirect_is_told_as_no_route() -> None:
    """R-5.7: this version says so rather than let it look like silence."""
    pair = opening()
    locator = Locator(Address.parse("192.0.2.1:4747"))
    terms = RedirectTerms(STRANGER.public, hash_of(pair), locator, b"ok", 2_000_000_000)
    pair.inject("c", signed(pair, Redirect, terms, STRANGER), ELSEWHERE)
    (refused,) = pair.seen(ReportRefused)
    assert refused.code == Code.NO_ROUTE
    assert "192.0.2.1:4747" in refused.reason


def test_a_redirect_that_does_not_hold_is_dropped() -> None:
    """R-5.7, R-7.6: wrong signature, wrong hash, other terms."""
    pair = opening()
    locator = Locator(Address.parse("192.0.2.1:4747"))
    good = RedirectTerms(STRANGER.public, hash_of(pair), locator, b"ok", 0)
    other = replace(good, open_hash=bytes(32))
    claims = replace(good, from_key=pair.s.context.key.public)
    unmoved(pair, signed(pair, Redirect, other, STRANGER), DropReason.STALE)
    unmoved(pair, signed(pair, Redirect, claims, STRANGER), DropReason.SIGNATURE)
    reject = RejectTerms(STRANGER.public, hash_of(pair), 1, "")
    unmoved(pair, signed(pair, Redirect, reject, STRANGER), DropReason.MALFORMED)


def test_a_strangers_stop_and_what_an_initiator_does_not_take_are_dropped() -> None:
    """R-5.8.5: it asked no box to filter, and this is not its peer."""
    pair = Pair().open()
    stop = StopTerms(STRANGER.public, hash_of(pair), bytes(32), 60, 0)
    unmoved(pair, signed(pair, Stop, stop, STRANGER), DropReason.UNEXPECTED)
    unmoved(pair, pair.last(Confirm).data, DropReason.STALE)


def test_its_own_open_comes_back_and_an_initiator_says_that_it_is_somebody_else() -> None:
    """R-5.1.8: it asks for another key; nothing of the connection changes."""
    pair = Pair().open()
    before = snapshot(pair.c)
    (answer,) = pair.inject("c", pair.last(Open).data, pair.own["s"][0])
    assert isinstance(answer, SendDatagram)
    terms = decode_body(RejectTerms, body_of(answer.data, Reject).signed)
    assert (terms.code, terms.from_key) == (Code.BAD_IDENTITY, pair.c.context.key.public)
    assert snapshot(pair.c) == before


def test_a_peer_whose_key_is_no_key_just_does_not_answer() -> None:
    """R-4.4: data cannot be sealed to a key that is no point; nothing is raised."""
    pair = Pair(data=b"question", transport=Transport.UDP)
    pair.open(10, peer=PeerIdentity(b"\xff" * 32))
    (refused,) = pair.seen(ReportRefused)
    assert refused.code in (0, Code.BAD_IDENTITY)


def test_it_reports_the_service_and_peer_it_was_asked_for() -> None:
    """R-5.3: `opened` speaks of the flow that was agreed on."""
    pair = Pair(client=make_host("c", virtual=False), server=make_host("s", virtual=False)).open()
    (opened,) = pair.seen(ReportOpened, "c")
    assert opened.service == "https"
    assert opened.wire == opened.local
    assert opened.wire.destination.port == 8443


@pytest.mark.parametrize("service", ['quo"te', "back\\slash", "~!", "x" * 32])
def test_an_odd_service_makes_no_rule_that_cannot_be(service: str) -> None:
    """R-6.1, R-7.6: a rule's note is plain, whatever the service is called."""
    pair = Pair(1)
    pair.s.answering.services[service] = pair.s.answering.services["https"]
    pair.open(service=service)
    assert pair.is_up
    assert pair.passage().service == service


KINDS: tuple[type[Message], ...] = (Open, Accept, Confirm, Challenge, Reject, Redirect, Stop)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_for_a_connection_that_is_not_there_is_dropped(kind: type) -> None:
    """R-7.6, R-7.2."""
    pair = opening()
    data = (
        pair.wire[0].data
        if kind is Open
        else encode(
            Header(kind.TYPE, 0, pair.cid),
            kind(
                *(
                    (bytes(32), bytes(16), bytes(16))
                    if kind is Confirm
                    else (bytes(32),)
                    if kind is Challenge
                    else (b"", bytes(64))
                )
            ),
        )
    )
    other = Pair()
    other.lose[Open] = 1
    other.cid = type(other.cid)(b"another cid, 16b")
    other.open(0.01)
    before = snapshot(other.c)
    found = reasons(other.inject("c", data, ELSEWHERE))
    assert found == ([] if kind is Open else [DropReason.UNKNOWN])
    assert snapshot(other.c) == before
