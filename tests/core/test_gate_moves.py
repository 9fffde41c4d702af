"""An end of a live connection moves: the gate admits it there before it stops admitting it here.

    client c ---- g1 ---- server s

The messages of a move are made by hand here, with the keys of the two ends, and given to the gate
alone; test_moves.py has the ends that really say them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from gated import changed, event_of, unmoved
from pair import (
    STRANGER,
    Pair,
    body_of,
    hops_of,
    make_open,
    message_of,
    reasons,
)
from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.codec import Header, decode_body, encode_body
from wayside.core.constants import PENDING_S
from wayside.core.crypto import SigningKey, check_of
from wayside.core.effects import ChangeRules, ReportClosed, ReportOpened, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import CloseRequested, DatagramReceived
from wayside.core.gate import Gate
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Close,
    Confirm,
    Open,
    OpenTerms,
    Reject,
    encode,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.passage import Stage
from wayside.core.policy import Direction, Policy, PolicyAction, PolicyRule
from wayside.core.route import hops_hash
from wayside.core.rule import Action, Cid
from wayside.core.way import Box, Translation

PROOF = b"a proof of 16 b."
"""What the two ends of a move made by hand agree on."""
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@dataclass(frozen=True)
class Move:
    """Who asks whom, from where; the datagrams as they come to the gate."""

    asker: SigningKey
    answerer: SigningKey
    source: Address
    destination: Address
    seq: int = 2
    side: str = "inside"
    port: int = 8443

    @property
    def back(self) -> str:
        return "outside" if self.side == "inside" else "inside"

    def opens(self, cid: Cid) -> DatagramReceived:
        to = self.answerer.public
        data = make_open(self.asker, to, self.source, self.destination, cid=cid, seq=self.seq)
        here, there = self.source.with_port(4747), self.destination.with_port(4747)
        return DatagramReceived(data, here, there, True, self.side)

    def accepts(self, onward: SendDatagram) -> DatagramReceived:
        """The answer to the OPEN that the gate sent on."""
        header, message = message_of(onward.data)
        assert isinstance(message, Open)
        asked = decode_body(OpenTerms, message.signed)
        signed = encode_body(
            AcceptTerms(
                self.answerer.public,
                open_hash(header, message.signed),
                hops_hash(message.hops),
                check_of(PROOF),
                asked.destination.with_port(self.port),
                bytes(31) + b"\x09",
                120,
            )
        )
        back = Header(Accept.TYPE, header.seq, header.cid)
        signature = self.answerer.sign(SIGNATURE_CONTEXT, back.signing + signed)
        data = encode(back, Accept(signed, signature, message.hops))
        assert onward.source is not None
        return DatagramReceived(data, onward.destination, onward.source, True, self.back)

    def confirms(self, accept: DatagramReceived) -> DatagramReceived:
        """The gate cannot check its MAC: that is for the other end."""
        header, _ = message_of(accept.data)
        data = encode(
            Header(Confirm.TYPE, header.seq, header.cid),
            Confirm(bytes(32), bytes(16), PROOF, hops_of(accept.data)),
        )
        return DatagramReceived(
            data, self.source.with_port(4747), self.destination.with_port(4747), True, self.side
        )


def moved_to(pair: Pair, last: int = 77) -> Address:
    """Where the client goes; the port stays."""
    host = f"10.7.0.{last}:40000" if pair.own["c"][0].family == 4 else f"[fd00:7::{last}]:40000"
    return Address.parse(host)


def client_moves(pair: Pair, **more: object) -> Move:
    keys = pair.c.context.key, pair.s.context.key
    move = Move(*keys, moved_to(pair), pair.own["s"][0].with_port(443))
    return replace(move, **more)  # type: ignore[arg-type]


def server_moves(pair: Pair) -> Move:
    """With an odd seq, from outside: the responder of the connection asks."""
    there = moved_to(pair, 88).with_port(8443)
    keys = pair.s.context.key, pair.c.context.key
    return Move(*keys, there, pair.own["c"][0].with_port(40000), 1, "outside", 40000)


def asked(pair: Pair, move: Move) -> DatagramReceived:
    """The OPEN of a move has passed the gate; the ACCEPT that comes back."""
    (onward,) = pair.tell("g1", move.opens(pair.cid))
    assert isinstance(onward, SendDatagram)
    return move.accepts(onward)


def accepted(pair: Pair, move: Move) -> DatagramReceived:
    """The ACCEPT has passed, too; the CONFIRM that follows."""
    accept = asked(pair, move)
    (change,) = pair.tell("g1", accept)
    assert isinstance(change, ChangeRules)
    return move.confirms(accept)


def flows(flow: Flow) -> set[Flow]:
    return {flow, flow.reversed()}


def flow_of(move: Move) -> Flow:
    return Flow(Transport.TCP, move.source, move.destination.with_port(move.port))


@FAMILIES
def test_until_an_accept_nothing_of_a_move_is_kept(family: int) -> None:
    """R-8.2, R-5.4.5: the OPEN goes on from where the client is now."""
    pair = Pair(1, family=family).open(0.5)
    rules = dict(pair.kernel["g1"])
    (onward,) = pair.tell("g1", client_moves(pair).opens(pair.cid))
    assert isinstance(onward, SendDatagram)
    assert onward.source == moved_to(pair).with_port(4747)
    assert onward.destination == pair.own["s"][0]
    assert pair.kernel["g1"] == rules
    assert pair.passage().moving is None


@FAMILIES
@pytest.mark.parametrize("mover", ["client", "server"])
def test_pending_rules_stand_beside_those_that_are_live(mover: str, family: int) -> None:
    """R-5.4.5: make before break; the old ones are untouched."""
    pair = Pair(1, family=family).open(0.5)
    move = client_moves(pair) if mover == "client" else server_moves(pair)
    live, before = dict(pair.kernel["g1"]), pair.passage().crossing
    accept = asked(pair, move)
    (change,) = pair.tell("g1", accept)
    assert isinstance(change, ChangeRules)
    assert change.remove == ()
    assert {rule.match for rule in change.put} == flows(flow_of(move))
    assert {(r.action, r.lifetime_s, r.renewed_by_packets) for r in change.put} == {
        (Action.ACCEPT, PENDING_S, False)
    }
    assert change.then == (SendDatagram(accept.data, accept.destination, accept.source),)
    assert {match: pair.kernel["g1"][match] for match in live} == live
    assert len(pair.kernel["g1"]) == 4
    assert (pair.passage().stage, pair.passage().crossing) == (Stage.LIVE, before)


@FAMILIES
@pytest.mark.parametrize("mover", ["client", "server"])
def test_at_confirm_the_new_rules_take_the_place_of_the_old(mover: str, family: int) -> None:
    """R-5.4.5, R-5.3.3: the CONFIRM goes on first, then one transaction."""
    pair = Pair(1, family=family).open(0.5)
    move = client_moves(pair) if mover == "client" else server_moves(pair)
    old = set(pair.kernel["g1"])
    confirm = accepted(pair, move)
    effects = pair.tell("g1", confirm)
    assert [type(effect) for effect in effects] == [SendDatagram, ChangeRules, ReportOpened]
    assert effects[0] == SendDatagram(confirm.data, confirm.destination, confirm.source)
    change = effects[1]
    assert isinstance(change, ChangeRules)
    assert {rule.match for rule in change.remove} == old
    assert set(pair.kernel["g1"]) == flows(flow_of(move))
    assert all(rule.renewed_by_packets for rule in pair.kernel["g1"].values())
    passage = pair.passage()
    assert (passage.stage, passage.seqs.last[0], passage.moving) == (Stage.LIVE, move.seq, None)
    table = pair.gates["g1"].table
    assert set(table._by_flow) == flows(flow_of(move))
    assert table._lent == {}
    assert table._quota._total == 1
    assert set(table._quota._by_prefix.values()) == {1}


def test_a_repeated_accept_or_confirm_of_a_move_makes_nothing_new() -> None:
    """R-5.2.3, R-5.3.3."""
    pair = Pair(1).open(0.5)
    move = client_moves(pair)
    accept = asked(pair, move)
    for _ in range(3):
        pair.tell("g1", accept)
        assert len(pair.kernel["g1"]) == 4
    pair.tell("g1", move.confirms(accept))
    rules = dict(pair.kernel["g1"])
    assert len(pair.tell("g1", move.confirms(accept))) == 1
    (again,) = pair.tell("g1", accept)
    assert isinstance(again, SendDatagram)
    assert pair.kernel["g1"] == rules
    assert pair.passage().moving is None


def test_a_second_move_before_the_first_is_confirmed_takes_its_place() -> None:
    """R-5.4.5: one pending pair at a time; the CONFIRM of the first comes too late."""
    pair = Pair(1).open(0.5)
    live = set(pair.kernel["g1"])
    late = accepted(pair, client_moves(pair))
    second = client_moves(pair, source=moved_to(pair, 78), seq=4)
    confirm = accepted(pair, second)
    assert set(pair.kernel["g1"]) == live | flows(flow_of(second))
    unmoved(pair, late, DropReason.STALE)
    pair.tell("g1", confirm)
    assert set(pair.kernel["g1"]) == flows(flow_of(second))


def test_a_refresh_from_the_old_place_calls_a_move_off() -> None:
    """R-5.4.4, R-5.4.5: with a higher seq; what was pending goes at once."""
    pair = Pair(1).open(0.5)
    live = dict(pair.kernel["g1"])
    confirm = accepted(pair, client_moves(pair))
    stay = client_moves(pair, source=pair.own["c"][0].with_port(40000), seq=4)
    accepted(pair, stay)
    assert pair.kernel["g1"] == live
    assert pair.passage().moving is None
    unmoved(pair, confirm, DropReason.STALE)


@FAMILIES
@pytest.mark.parametrize("mover", ["client", "server"])
def test_a_refresh_of_the_other_end_does_not_call_a_move_off(mover: str, family: int) -> None:
    """R-5.4.5: its ACCEPT comes between that of the move and the CONFIRM."""
    pair = Pair(1, family=family).open(0.5)
    client, server = (pair.own[end][0] for end in "cs")
    stays = replace(server_moves(pair), source=server.with_port(8443))
    move = client_moves(pair)
    if mover == "server":
        move, stays = server_moves(pair), client_moves(pair, source=client.with_port(40000))
    confirm = accepted(pair, move)
    rules = dict(pair.kernel["g1"])
    (onward,) = pair.tell("g1", asked(pair, stays))
    assert isinstance(onward, SendDatagram)
    assert pair.kernel["g1"] == rules
    pair.tell("g1", confirm)
    assert set(pair.kernel["g1"]) == flows(flow_of(move))


def test_another_pair_of_keys_moves_nobody() -> None:
    """R-5.4.4, R-5.4.5: each half of it alone, and both ends strangers."""
    pair = Pair(1).open(0.5)
    other = SigningKey(b"o" * 32)
    mine, theirs = pair.c.context.key, pair.s.context.key
    for asker, answerer in ((STRANGER, theirs), (mine, STRANGER), (STRANGER, other)):
        accept = asked(pair, client_moves(pair, asker=asker, answerer=answerer))
        unmoved(pair, accept, DropReason.STALE)
    confirm = client_moves(pair).confirms(accept)
    unmoved(pair, confirm, DropReason.STALE)
    assert len(pair.kernel["g1"]) == 2


def test_a_move_that_is_older_than_what_was_agreed_is_stale() -> None:
    """R-5.4.4: an OPEN, or an ACCEPT that was on its way, with a lower seq of the same kind."""
    pair = Pair(1).open(0.5)
    late = asked(pair, client_moves(pair, seq=2))
    pair.tell("g1", accepted(pair, client_moves(pair, source=moved_to(pair, 78), seq=4)))
    unmoved(pair, late, DropReason.STALE)
    unmoved(pair, client_moves(pair, seq=2).opens(pair.cid), DropReason.STALE)


def test_a_move_to_where_the_client_is_not_seen_is_refused() -> None:
    """R-5.1.6: a live connection lets nobody speak for another address."""
    pair = Pair(1).open(0.5)
    event = client_moves(pair).opens(pair.cid)
    effects = pair.tell("g1", replace(event, source=pair.own["c"][0]))
    (answer,) = [effect for effect in effects if isinstance(effect, SendDatagram)]
    assert body_of(answer.data, Reject)
    assert pair.passage().moving is None


@pytest.mark.parametrize("end", ["c", "s", "gate"])
def test_a_close_while_an_end_moves_removes_all_rules(end: str) -> None:
    """R-5.9.2: those that are live and those that are pending, in one transaction."""
    pair = Pair(1).open(0.5)
    confirm = accepted(pair, client_moves(pair))
    assert len(pair.kernel["g1"]) == 4
    if end == "gate":
        pair.tell("g1", CloseRequested(pair.cid))
    else:
        pair.close(end)
    assert pair.kernel["g1"] == {}
    assert pair.passage().stage is Stage.ENDED
    assert len(pair.seen(ReportClosed, "g1")) == 1
    unmoved(pair, confirm, DropReason.UNKNOWN)
    pair.run(20)
    table = pair.gates["g1"].table
    assert (table.by_cid, table._by_flow, table._lent, table._quota._total) == ({}, {}, {}, 0)


@pytest.mark.parametrize("token", ["old", "new"])
def test_a_close_after_a_move_removes_the_new_rules(token: str) -> None:
    """R-5.9.2: a token of whatever age."""
    pair = Pair(1).open(0.5)
    before = hops_of(event_of(pair, Accept, "s").data)
    confirm = accepted(pair, client_moves(pair))
    pair.tell("g1", confirm)
    hops, seq = (before, 0) if token == "old" else (hops_of(confirm.data), 2)
    close = encode(Header(Close.TYPE, seq, pair.cid), Close(bytes(16), "done", hops))
    pair.tell("g1", replace(confirm, data=close))
    assert pair.kernel["g1"] == {}


def test_a_refused_move_leaves_what_is_live() -> None:
    """R-5.6.3, R-5.6.4: the REJECT goes back to where the OPEN came from."""
    pair = Pair(1).open(0.5)
    live = dict(pair.kernel["g1"])
    accept = asked(pair, client_moves(pair))
    data = encode(Header(Reject.TYPE, 2, pair.cid), Reject(b"", bytes(64), hops_of(accept.data)))
    (back,) = pair.tell("g1", replace(accept, data=data))
    assert back == SendDatagram(data, moved_to(pair).with_port(4747), accept.source)
    assert pair.kernel["g1"] == live


def test_a_refusal_after_an_accept_removes_the_pending_rules_of_a_move() -> None:
    """R-5.6.4: and only those."""
    pair = Pair(1).open(0.5)
    live = dict(pair.kernel["g1"])
    accept = asked(pair, client_moves(pair))
    pair.tell("g1", accept)
    data = encode(Header(Reject.TYPE, 2, pair.cid), Reject(b"", bytes(64), hops_of(accept.data)))
    pair.tell(
        "g1", replace(accept, data=data, source=Address.parse("10.99.0.1:4747"))
    )  # to another copy of the OPEN
    assert pair.kernel["g1"] != live
    pair.tell("g1", replace(accept, data=data))
    assert pair.kernel["g1"] == live


def test_a_move_leaves_the_rules_of_a_newer_connection_on_its_old_flow() -> None:
    """R-6.1: the same ports again at once by a new connection, while the old one moves away."""
    pair = Pair(1).open(0.5)
    first = pair.cid
    confirm = accepted(pair, client_moves(pair))
    pair.cid = Cid(b"the second cid 1")
    pair.lose[Close] = 100
    pair.open(0.1)
    assert pair.is_up
    newer = flows(pair.passage().flow)
    assert {pair.kernel["g1"][flow].owner for flow in newer} == {pair.cid}
    pair.tell("g1", confirm)
    assert pair.gates["g1"].passages[first].flow == flow_of(client_moves(pair))
    assert {flow for flow in newer if flow in pair.kernel["g1"]} == newer


def test_a_gate_restarted_while_an_end_moves_still_knows_what_is_live() -> None:
    """R-6.5, R-5.9.2: whichever order the kernel lists its rules in; CLOSE removes them."""
    for newest_first in (False, True):
        pair = Pair(1).open(0.5)
        crossing, old = pair.passage().crossing, pair.gates["g1"]
        accepted(pair, client_moves(pair))
        rules = [(r, r.lifetime_s or 0.0) for r in pair.kernel["g1"].values()]
        fresh = Gate(old.context, FrontDoor(old._box, Budget()), old._box, Quota(9, 9))
        assert fresh.restore(rules[::-1] if newest_first else rules, pair.now) == 1
        pair.restart("g1", fresh)
        assert (pair.passage().stage, pair.passage().crossing) == (Stage.LIVE, crossing)
        assert fresh.table._quota._total == 1


# --- who asks ---


def test_a_policy_is_asked_about_the_connection_as_it_was_opened() -> None:
    """R-5.4.5: only the inside opens; its responder outside may say that it moves."""
    rule = PolicyRule("out", PolicyAction.ALLOW, direction=Direction.OUT)
    pair = Pair(1, gate_policy=Policy((rule,), PolicyAction.REJECT)).open(0.5)
    assert pair.is_up
    move = server_moves(pair)
    confirm = accepted(pair, move)
    pair.tell("g1", confirm)
    assert set(pair.kernel["g1"]) == flows(flow_of(move))
    assert pair.passage().rule == "out"
    refused = pair.tell("g1", replace(move, seq=2).opens(pair.cid))
    assert any(isinstance(e, SendDatagram) and e.data[4] == Reject.TYPE for e in refused)


def test_a_responders_refresh_from_the_same_place_is_no_move() -> None:
    """R-5.4.5: the same flow, seen from the other end."""
    pair = Pair(1).open(0.5)
    live = set(pair.kernel["g1"])
    source = pair.own["s"][0].with_port(8443)
    accept = asked(pair, replace(server_moves(pair), source=source))
    (onward,) = pair.tell("g1", accept)
    assert isinstance(onward, SendDatagram)
    pair.tell("g1", replace(server_moves(pair), source=source).confirms(accept))
    assert set(pair.kernel["g1"]) == live
    assert pair.passage().seqs.last[0] == 1


@pytest.mark.parametrize("seq", [1, 3, 2**64 - 1])
def test_an_odd_seq_does_not_bring_a_stranger_in_through_a_gate_that_only_lets_out(
    seq: int,
) -> None:
    """R-5.1.1, R-5.4.5, R-7.1: who opens a connection is not its responder."""
    rule = PolicyRule("out", PolicyAction.ALLOW, direction=Direction.OUT)
    pair = Pair(1, gate_policy=Policy((rule,), PolicyAction.REJECT), inside="s")
    here, there = pair.own["c"][0], pair.own["s"][0]
    data = make_open(
        STRANGER,
        pair.s.context.key.public,
        here.with_port(40001),
        there.with_port(443),
        cid=pair.cid,
        seq=seq,
    )
    pair.tell("g1", DatagramReceived(data, here, there, True, "outside"))
    pair.run(0.1)
    assert pair.kernel["g1"] == {}


# --- through a NAT ---


def test_a_client_that_moves_inside_a_nat_gets_another_binding() -> None:
    """R-5.4.5, R-8.7: the rules rewrite on both sides; its old ones go at CONFIRM."""
    pair = Pair(1, nats=("g1",)).open(0.5)
    old = set(pair.kernel["g1"])
    move = client_moves(pair)
    accept = asked(pair, move)
    (change,) = pair.tell("g1", accept)
    assert isinstance(change, ChangeRules)
    assert {rule.action for rule in change.put} == {Action.REWRITE}
    assert old <= set(pair.kernel["g1"])
    assert len(pair.kernel["g1"]) == 4
    found = pair.passage().moving
    assert found is not None
    seq, moving = found
    assert seq == move.seq
    assert moving.near == flow_of(move)
    assert moving.far.source.ip == pair.outside().ip
    assert moving.far != pair.passage().crossing.far
    pair.tell("g1", move.confirms(accept))
    assert {match: rule.rewrite for match, rule in pair.kernel["g1"].items()} == {
        moving.near: moving.far,
        moving.far.reversed(): moving.near.reversed(),
    }
    assert not old & set(pair.kernel["g1"])


def test_a_client_outside_that_moves_keeps_the_address_that_it_asked() -> None:
    """R-5.4.5, R-8.7: a NAT inwards; what it returned stays as it was."""
    pair = Pair(1, inside="s")
    outside = pair.own["g1"][0]
    known = {pair.s.context.key.public: pair.own["s"][0]}
    pair.gates["g1"].context.box = Box(Translation({4: outside.ip}, known))
    wire = Flow(Transport.TCP, pair.own["c"][0].with_port(40000), outside.with_port(443))
    pair.open(0.5, wire=wire, local=wire, signaling=outside)
    assert pair.is_up
    before = pair.passage().crossing
    move = client_moves(pair, destination=outside.with_port(443), side="outside")
    event = replace(move.opens(pair.cid), transit=False)
    (onward,) = pair.tell("g1", event)
    assert isinstance(onward, SendDatagram)
    assert (onward.destination, onward.source) == (pair.own["s"][0], moved_to(pair).with_port(4747))
    accept = move.accepts(onward)
    pair.tell("g1", accept)
    confirm = changed(move.confirms(accept), returned=(outside.with_port(8443),))
    pair.tell("g1", replace(confirm, transit=False))
    after = pair.passage().crossing
    assert after.near.destination == before.near.destination
    assert after.far.destination == before.far.destination
    assert after.near.source == after.far.source == moved_to(pair)
    assert len(pair.kernel["g1"]) == 2
    assert reasons([effect for name, effect in pair.effects if name == "g1"]) == []
