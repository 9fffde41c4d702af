"""A host: whom it lets in, what it holds for whom, and that a restart loses nothing."""

from __future__ import annotations

from typing import Any

import pytest

from pair import (
    CHALLENGE,
    EPOCH_S,
    REJECT,
    STRANGER,
    Entropy,
    Pair,
    body_of,
    make_host,
    make_open,
    message_of,
    snapshot,
)
from wayside.core import constants as c
from wayside.core.address import Address, Transport
from wayside.core.admission import Quota
from wayside.core.codec import decode_body
from wayside.core.crypto import SigningKey
from wayside.core.effects import (
    ChangeRules,
    DeliverData,
    Dropped,
    Effect,
    ReportClosed,
    ReportOpened,
    SendDatagram,
)
from wayside.core.errors import DropReason
from wayside.core.events import (
    CloseRequested,
    DataAnswered,
    DatagramReceived,
    RulesFailed,
    TimePassed,
)
from wayside.core.host import Host, Offered
from wayside.core.identity import Names, sign_certificate
from wayside.core.messages import (
    Accept,
    Challenge,
    Close,
    Code,
    Confirm,
    Hop,
    Open,
    Reject,
    RejectTerms,
)
from wayside.core.policy import Pattern
from wayside.core.route import TokenBox
from wayside.core.rule import Cid

HERE = Address.parse("10.0.0.2:4747")
THERE = Address.parse("10.1.0.2:4747")
CID = Cid(b"a stranger's cid")


def asked(host: Host, key: SigningKey = STRANGER, **more: Any) -> bytes:
    """An OPEN from 10.0.0.2 to the host at 10.1.0.2."""
    return make_open(
        key,
        more.pop("to_key", host.context.key.public),
        more.pop("source", HERE.with_port(40001)),
        more.pop("destination", THERE.with_port(443)),
        cid=more.pop("cid", CID),
        **more,
    )


def receive(host: Host, data: bytes, source: Address = HERE, now: float = 100.0) -> list[Effect]:
    return host.handle(DatagramReceived(data, source, THERE), now)


def unmoved(host: Host, data: bytes, reason: DropReason, source: Address = HERE) -> None:
    before = snapshot(host)
    effects = receive(host, data, source)
    assert [e.reason for e in effects if isinstance(e, Dropped)] == [reason]
    assert snapshot(host) == before


def refusal(host: Host, data: bytes, source: Address = HERE) -> RejectTerms:
    """The REJECT that this OPEN gets; it leaves the host as it was."""
    before = snapshot(host)
    (effect,) = receive(host, data, source)
    assert isinstance(effect, SendDatagram)
    assert effect.destination == source
    assert len(effect.data) <= len(data)
    _, message = message_of(effect.data)
    assert isinstance(message, Reject)
    assert snapshot(host) == before
    return decode_body(RejectTerms, message.signed)


# --- whom it lets in ---


def test_an_open_for_another_key_is_refused() -> None:
    """R-5.1.8: a wrong or stale identity is told so, before any policy is asked."""
    assert refusal(make_host("s"), asked(make_host("s"), to_key=bytes(32))).code == (
        Code.BAD_IDENTITY
    )


def test_what_the_policy_rejects_is_refused() -> None:
    """R-5.1.8, R-5.6.1."""
    host = make_host("s", policy=REJECT)
    terms = refusal(host, asked(host))
    assert (terms.code, terms.by, terms.rule) == (Code.POLICY, "s", "default")


@pytest.mark.parametrize("service", ["ssh", "HTTPS", 'quo"te\\'])
def test_a_service_that_is_not_here_is_refused(service: str) -> None:
    """R-5.1.8."""
    host = make_host("s")
    assert refusal(host, asked(host, service=service)).code == Code.NO_SERVICE


def test_a_service_for_some_is_refused_to_others() -> None:
    """R-5.1.8, R-9.3: a name counts only when vouched for."""
    domain = SigningKey(b"d" * 32)
    host = make_host("s", names=Names({"lab": domain.public}))
    host.answering.services["https"] = Offered(8443, (Pattern.parse("files.lab"),))
    assert refusal(host, asked(host)).code == Code.POLICY
    later = int(EPOCH_S) + 1000
    wrong = sign_certificate(STRANGER, "files.lab", STRANGER.public, later)
    assert refusal(host, asked(host, from_certificate=wrong)).code == Code.POLICY
    right = sign_certificate(domain, "files.lab", STRANGER.public, later)
    effects = receive(host, asked(host, from_certificate=right))
    assert isinstance(effects[0], ChangeRules)
    assert str(host.connections[CID].agreement.peer) == "files.lab"


@pytest.mark.parametrize(
    ("source", "destination", "came_from"),
    [
        ("10.0.0.2:40000", "10.1.0.9:443", "10.0.0.2:4747"),
        ("10.0.0.9:40000", "10.1.0.2:443", "10.0.0.2:4747"),
        ("10.0.0.2:40000", "10.1.0.2:443", "203.0.113.1:4747"),
        ("127.0.0.1:40000", "127.0.0.1:443", "10.0.0.2:4747"),
    ],
)
def test_an_open_that_did_not_come_from_where_it_says_is_refused(
    source: str, destination: str, came_from: str
) -> None:
    """R-5.1.6: a NAT on the path, or somebody who speaks for another host."""
    host = make_host("s")
    data = asked(host, source=Address.parse(source), destination=Address.parse(destination))
    assert refusal(host, data, Address.parse(came_from)).code == Code.BAD_ADDRESS


def test_nobody_far_away_gets_a_rule_for_loopback() -> None:
    """R-5.1.6, R-2.6: not even with the hop of a gate that never was."""
    host = make_host("s")
    loop = Address.parse("127.0.0.1:40000")
    hop = Hop(bytes(32), 1, 1, b"")
    data = asked(host, source=loop, destination=loop.with_port(443), hops=(hop,))
    event = DatagramReceived(data, HERE, Address.parse("0.0.0.0:4747"))
    (effect,) = host.handle(event, 100.0)
    assert isinstance(effect, SendDatagram)
    assert effect.data[4] == Reject.TYPE


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("[::ffff:10.0.0.2]:1", "[::ffff:10.1.0.2]:443"),
        ("224.0.0.1:1", "10.1.0.2:443"),
        ("10.0.0.2:1", "0.0.0.0:443"),
        ("10.0.0.2:0", "10.1.0.2:443"),
    ],
)
def test_addresses_that_no_rule_may_have_are_dropped(source: str, destination: str) -> None:
    """R-2.4, R-2.6: also a v4-mapped spelling, put on the wire by hand."""
    host = make_host("s")
    made = [Address.parse(text) for text in (source, destination)]
    data = asked(host, source=made[0], destination=made[1])
    if "ffff" in source:
        mapped = bytes(10) + b"\xff\xff" + made[0].pack()
        data = data.replace(b"\x46" + made[0].pack(), b"\x52" + mapped)
        unmoved(host, data, DropReason.MALFORMED)
    else:
        unmoved(host, data, DropReason.ADDRESS)


@pytest.mark.parametrize("end", ["source", "destination"])
def test_nobody_can_have_a_rule_for_signaling_itself(end: str) -> None:
    """R-2.6: it would take our gate's or our own signaling to an application."""
    host = make_host("s")
    ends: dict[str, Any] = {"source": HERE.with_port(40000), "destination": THERE.with_port(443)}
    ends[end] = ends[end].with_port(c.SIGNALING_PORT)
    unmoved(host, asked(host, transport=Transport.UDP, **ends), DropReason.ADDRESS)
    assert isinstance(receive(host, asked(host, **ends))[0], ChangeRules)


@pytest.mark.parametrize("service", ["", "https ", "a b", "naïve", "日本", "a\tb"])
def test_a_service_that_is_no_word_is_no_open(service: str) -> None:
    """R-3.5: visible ASCII, and something of it."""
    host = make_host("s")
    unmoved(host, asked(host, service=service), DropReason.MALFORMED)


def test_a_short_open_is_dropped() -> None:
    """R-5.1.4."""
    host = make_host("s")
    unmoved(host, asked(host, bare=True), DropReason.SHORT)


@pytest.mark.parametrize("time_s", [0, int(EPOCH_S) + 39, int(EPOCH_S) + 161, 2**40])
def test_an_open_of_an_unlikely_time_has_to_prove_its_source(time_s: int) -> None:
    """R-5.1.2, R-7.5: a wrong clock costs a round trip; before it, nothing is kept."""
    host = make_host("s")
    before = snapshot(host)
    (effect,) = receive(host, asked(host, time_s=time_s))
    assert isinstance(effect, SendDatagram)
    assert len(effect.data) < 100
    assert snapshot(host) == before
    proof = body_of(effect.data, Challenge).proof
    assert isinstance(receive(host, asked(host, time_s=time_s, proofs=(proof,)))[0], ChangeRules)


def test_a_fresh_proof_stands_in_for_pad_and_clock() -> None:
    """R-5.1.2, R-5.1.4, R-7.3: with a cookie of ours for this cid and source."""
    host = make_host("s")
    proof = host._door._box.create_cookie(CID, HERE, 100.0)
    data = asked(host, proofs=(proof,), bare=True, time_s=0)
    assert isinstance(receive(host, data)[0], ChangeRules)


@pytest.mark.parametrize("wrong", ["source", "port", "cid", "issuer", "old", "future", "tag"])
def test_a_proof_that_is_not_ours_or_not_theirs_proves_nothing(wrong: str) -> None:
    """R-7.3: bound to cid, source address and port; good for 30 s."""
    host = make_host("s")
    box = host._door._box
    if wrong == "issuer":
        entropy = Entropy("other")
        box = TokenBox(SigningKey(b"o" * 32).public, bytes(32), entropy)
    proof = box.create_cookie(
        Cid(bytes(16)) if wrong == "cid" else CID,
        {"source": Address.parse("10.0.0.3:4747"), "port": HERE.with_port(4748)}.get(wrong, HERE),
        {"old": 69.0, "future": 131.0}.get(wrong, 100.0),
    )
    if wrong == "tag":
        proof = proof[:-1] + bytes([proof[-1] ^ 1])
    data = asked(host, proofs=(proof,), bare=True)
    unmoved(host, data, DropReason.SHORT)


def test_a_challenging_policy_answers_with_less_than_it_got_and_keeps_nothing() -> None:
    """R-5.5, R-7.5, R-7.6."""
    host = make_host("s", policy=CHALLENGE)
    before = snapshot(host)
    data = asked(host)
    (effect,) = receive(host, data)
    assert isinstance(effect, SendDatagram)
    assert len(effect.data) < 100
    assert snapshot(host) == before
    pair = Pair(2, server=make_host("s", policy=CHALLENGE)).open()
    assert pair.is_up


@pytest.mark.parametrize("room", [(0, 0), (1, 5), (5, 1)])
def test_a_full_table_says_that_it_is_busy(room: tuple[int, int]) -> None:
    """R-7.4, R-5.1.8: of all networks, or of one; and nothing of whoever was refused is held."""
    host = make_host("s", quota=Quota(*room))
    if room != (0, 0):
        receive(host, asked(host))
    other = asked(host, cid=Cid(bytes(16)), source=HERE.with_port(2))
    assert refusal(host, other).code == Code.BUSY


def test_a_quota_is_for_a_network_and_comes_back() -> None:
    """R-7.4: per /24; what is over makes room."""
    host = make_host("s", quota=Quota(10, 1))
    receive(host, asked(host))
    neighbour = Address.parse("10.0.0.77:4747")
    far = Address.parse("10.0.77.2:4747")
    theirs: dict[str, Any] = {"cid": Cid(bytes(16)), "source": neighbour.with_port(1)}
    assert refusal(host, asked(host, **theirs), neighbour).code == Code.BUSY
    theirs["source"] = far.with_port(1)
    assert isinstance(receive(host, asked(host, **theirs), far)[0], ChangeRules)
    drain(host, 100.0, 111.0)
    assert host._quota._total == 0
    assert host._quota._by_prefix == {}


def drain(host: Host, now: float, until: float) -> None:
    while (at := host.deadline) is not None and at <= until:
        now = max(now, at)
        host.handle(TimePassed(), now)


@pytest.mark.parametrize("tokens", [(200, 200, 200, 100), (200, 200, 200), (100,) * 6])
def test_hops_that_leave_no_room_for_an_answer_are_refused(tokens: tuple[int, ...]) -> None:
    """R-8.5, R-7.5: no answer is larger than its OPEN, and none is too long to be sent."""
    host = make_host("s", policy=REJECT)
    hops = tuple(Hop(bytes(32), 1, 1, bytes(size)) for size in tokens)
    assert refusal(host, asked(host, hops=hops)).code in (Code.POLICY, Code.ROUTE_TOO_LONG)
    allowing = make_host("s")
    (effect,) = receive(allowing, asked(allowing, hops=hops))
    then = effect.then if isinstance(effect, ChangeRules) else (effect,)
    assert [len(one.data) <= 1200 for one in then if isinstance(one, SendDatagram)] == [True]


# --- connections that meet ---


def test_the_same_addresses_again_take_the_place_of_the_old_connection() -> None:
    """R-5.9: an application reuses its port before the old connection's end was told."""
    pair = Pair().open()
    old = pair.cid
    pair.cid = Cid(b"the second cid 2")
    pair.open()
    assert pair.is_up
    assert [report.reason for report in pair.seen(ReportClosed, "c")] == ["replaced"]
    assert len(pair.kernel["s"]) == len(pair.kernel["c"]) == 2
    pair.run(15)
    assert old not in pair.c.connections
    assert old not in pair.s.connections
    assert pair.is_up


def test_a_replayed_open_does_not_replace_a_newer_connection() -> None:
    """R-5.9.4: while the old one is remembered, and after, as long as its time would still fit."""
    pair = Pair().open()
    replay = pair.last(Open, "c")
    pair.close()
    pair.cid = Cid(b"the second cid 3")
    pair.now += 1
    pair.open(0.1)
    for wait in (0.0, 20.0):
        pair.run(wait)
        before = snapshot(pair.s)
        effects = pair.inject("s", replay.data, replay.source)
        assert [e.reason for e in effects if isinstance(e, Dropped)] == [DropReason.STALE]
        assert snapshot(pair.s) == before
    assert pair.is_up


def test_an_open_that_is_dropped_replaces_nothing() -> None:
    """R-7.6: not even one that the very peer signed."""
    pair = Pair().open()
    wire = pair.connection("c").agreement.wire
    data = make_open(
        pair.c.context.key,
        pair.s.context.key.public,
        wire.source,
        wire.destination,
        cid=Cid(bytes(16)),
        ephemeral=bytes(32),
        time_s=int(EPOCH_S + pair.now),
    )
    before = snapshot(pair.s)
    effects = pair.inject("s", data, pair.own["c"][0])
    assert [type(effect) for effect in effects] == [Dropped]
    assert snapshot(pair.s) == before


def test_another_peer_cannot_have_addresses_that_are_in_use() -> None:
    """R-5.1.6: behind the same gate, say."""
    pair = Pair().open()
    wire = pair.connection("c").agreement.wire
    data = make_open(
        STRANGER,
        pair.s.context.key.public,
        wire.source,
        wire.destination,
        cid=CID,
        time_s=int(EPOCH_S + pair.now),
    )
    (effect,) = pair.inject("s", data, pair.own["c"][0])
    assert isinstance(effect, SendDatagram)
    assert effect.data[4] == Reject.TYPE
    assert pair.is_up
    assert pair.s._quota._total == 1


def test_a_connection_is_found_by_what_its_packets_look_like() -> None:
    """R-6.2: on the wire and at the socket, also after the responder chose another port."""
    pair = Pair(client=make_host("c", virtual=False), server=make_host("s", virtual=False)).open()
    for host, node in ((pair.c, "c"), (pair.s, "s")):
        connection = pair.connection(node)
        assert host.by_wire(connection.agreement.wire) is connection
        assert host.by_local(connection.agreement.local) is connection
        assert len(host._by_wire) == len(host._by_local) == 1


def test_events_for_a_connection_that_is_over_are_nobodys() -> None:
    """R-7.6: a driver may be a moment behind."""
    host = make_host("s")
    for event in (CloseRequested(CID), DataAnswered(CID, b""), RulesFailed(CID, ""), TimePassed()):
        assert host.handle(event, 100.0) == []


def test_what_ends_leaves_nothing_behind() -> None:
    """R-7.4: refused, unanswered, never confirmed, closed: every table is empty again."""
    pair = Pair(1)
    pair.request()  # a peer keeps the address it was given
    empty = snapshot(pair.c), snapshot(pair.s), snapshot(pair.gates["g1"])
    for number, lost in enumerate((None, Open, Accept, Confirm, Close, "policy")):
        pair.cid = Cid(number.to_bytes(16, "big"))
        if lost == "policy":
            pair.s.answering.policy = REJECT
        elif lost is not None:
            pair.lose[lost] = 1000  # pyright: ignore[reportArgumentType]
        pair.open().close("c").run(300)
        pair.lose.clear()
        assert (snapshot(pair.c), snapshot(pair.s), snapshot(pair.gates["g1"])) == empty


def test_junk_for_a_known_connection_does_not_make_the_table_of_deadlines_grow() -> None:
    """R-7.4: a message costs no memory when it comes for the thousandth time."""
    pair = Pair().open()
    accept, confirm = pair.last(Accept), pair.last(Confirm)
    for _ in range(5000):
        pair.s.handle(DatagramReceived(confirm.data, HERE, THERE), pair.now)
        pair.c.handle(DatagramReceived(accept.data, THERE, HERE), pair.now)
    assert len(pair.s._deadlines._heap) < 100
    assert len(pair.c._deadlines._heap) < 100


# --- clocks and replays ---


def test_data_of_an_open_that_is_refused_reaches_no_application() -> None:
    """R-5.1.5: delivered on allowing the OPEN, not before."""
    pair = Pair(
        server=make_host("s", policy=REJECT), data=b"question", transport=Transport.UDP
    ).open()
    assert pair.seen(DeliverData) == []
    assert pair.c.connections == {}


def test_a_clock_that_is_set_moves_the_window() -> None:
    """R-5.1.2: an OPEN's time is compared with the wall clock."""
    from pair import at_clock

    for ahead_s, said in ((59, "s:ACCEPT"), (61, "s:CHALLENGE s:ACCEPT")):
        pair = Pair()
        at_clock(pair.s, EPOCH_S + ahead_s)
        pair.open()
        assert pair.is_up
        assert pair.kinds("s") == said


def test_data_on_an_open_of_an_unlikely_time_is_not_delivered() -> None:
    """R-5.1.2, R-5.1.5: a proof shows who asks now, not that the OPEN is of now."""
    from pair import at_clock

    pair = Pair(data=b"question", transport=Transport.UDP)
    at_clock(pair.s, EPOCH_S + 3600)
    pair.open()
    assert pair.is_up
    assert pair.seen(DeliverData) == []
    assert [report.carried for report in pair.seen(ReportOpened, "c")] == [False]


@pytest.mark.parametrize("wait_s", [0, 4, 20, 110])
def test_an_open_is_taken_once_while_its_time_is_likely(wait_s: float) -> None:
    """R-5.9.4, R-7.7: a copy, after its connection was closed and forgotten, delivers no data."""
    pair = Pair(data=b"question", transport=Transport.UDP).open(0.5)
    replay = pair.last(Open)
    pair.s.context.epoch_s -= wait_s  # the time still fits
    pair.close().run(wait_s)
    before, delivered = snapshot(pair.s), len(pair.seen(DeliverData))
    effects = pair.inject("s", replay.data, replay.source)
    assert [e.reason for e in effects if isinstance(e, Dropped)] == [DropReason.STALE]
    assert len(pair.seen(DeliverData)) == delivered == 1
    assert snapshot(pair.s) == before
