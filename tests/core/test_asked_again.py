"""A responder that is asked again before it has a CONFIRM."""

from __future__ import annotations

from typing import Any

from pair import Pair, make_open, message_of, reasons, snapshot
from wayside.core.address import Address
from wayside.core.crypto import mac
from wayside.core.errors import DropReason
from wayside.core.events import SourcesChanged
from wayside.core.messages import Confirm, Open

ELSEWHERE = Address.parse("192.0.2.66:4747")


def unconfirmed() -> Pair:
    pair = Pair()
    pair.lose[Confirm] = 100
    return pair.open(0.05)


def test_who_asks_anew_before_its_confirm_is_answered_where_it_is_now() -> None:
    """R-5.4.2: it moved, or was sent on, and the responder knows of the first OPEN only."""
    pair = unconfirmed()
    before, lost = pair.connection("s").agreement, pair.connection("c").agreement.wire
    data = make_open(
        pair.c.context.key,
        pair.s.context.key.public,
        ELSEWHERE.with_port(40000),
        lost.destination,
        cid=pair.cid,
        seq=2,
    )
    effects = pair.inject("s", data, ELSEWHERE)
    about = pair.connection("s").agreement
    assert about.wire.destination == ELSEWHERE.with_port(40000)
    assert about.local == before.local
    assert set(pair.kernel["s"]) == {about.wire.reversed()}
    said = [sent for effect in effects for sent in getattr(effect, "then", ())]
    assert [sent.destination for sent in said] == [ELSEWHERE]
    pair.run(6)
    assert pair.kernel["s"] == {}


def test_who_asks_anew_with_no_real_key_changes_nothing() -> None:
    """R-4.3, R-7.6: with that ephemeral key there is no connection key, whoever signs it."""
    pair = unconfirmed()
    wire = pair.connection("c").agreement.wire
    data = make_open(
        pair.c.context.key,
        pair.s.context.key.public,
        ELSEWHERE.with_port(40000),
        wire.destination,
        cid=pair.cid,
        seq=2,
        ephemeral=bytes(32),
    )
    rules = dict(pair.kernel["s"])
    before = snapshot(pair.s)
    assert reasons(pair.inject("s", data, ELSEWHERE)) == [DropReason.SIGNATURE]
    assert (snapshot(pair.s), pair.kernel["s"]) == (before, rules)


def test_a_question_confirms_the_answer_before_it_though_it_is_none_itself() -> None:
    """R-5.4.3, R-7.6: its MAC shows the key of the ACCEPT; its own ephemeral key is none."""
    pair = Pair().open()
    pair.lose[Confirm] = 100
    new = Address.parse("10.77.0.2:4747")
    was = pair.connection("c").agreement.wire
    pair.own["c"] = (new, new)
    pair.tell("c", SourcesChanged({was.destination.ip: new.ip}))
    pair.run(0.1)
    moved = pair.connection("c")
    assert pair.connection("s").agreement.wire == was.reversed()
    seq = moved.keys.seq + 2
    terms: dict[str, Any] = {"ephemeral": bytes(32)}
    flow = moved.agreement.wire
    keys = (pair.c.context.key, pair.s.context.key.public)
    bare = make_open(*keys, flow.source, flow.destination, cid=pair.cid, seq=seq, **terms)
    header, message = message_of(bare)
    assert isinstance(message, Open)
    shown = mac(moved.keys.by_seq[moved.keys.seq], header.signing, message.signed)
    data = make_open(
        *keys, flow.source, flow.destination, cid=pair.cid, seq=seq, mac=shown, **terms
    )
    effects = pair.inject("s", data, new)
    assert reasons(effects) == [DropReason.SIGNATURE]
    about = pair.connection("s").agreement
    assert about.wire == flow.reversed()
    assert pair.kernel["s"][about.local].rewrite == about.wire
