"""A hidden host behind a NAT that says nothing opens it for what its rendezvous passes on.

client c ---- rendezvous r ---- NAT ---- server s
"""

from __future__ import annotations

import pytest

from pair import EPOCH_S, at_clock, body_of, make_host
from star import STEER, Star, Walled, carried, make_rendezvous, star
from wayside.core.address import Address, Transport
from wayside.core.codec import decode_body
from wayside.core.connection import State
from wayside.core.constants import OPEN_BYTES_MIN, OPEN_TIME_WINDOW_S, PUNCHES, SILENT_NAT_S
from wayside.core.effects import (
    ChangeRules,
    DeliverData,
    Effect,
    Punch,
    ReportOpened,
    SendDatagram,
)
from wayside.core.events import CloseRequested, DataAnswered, DatagramReceived
from wayside.core.messages import (
    MESSAGES,
    Accept,
    AcceptTerms,
    Close,
    Code,
    Confirm,
    Open,
    OpenTerms,
)
from wayside.core.rule import Cid
from wayside.runtime.portrait import BEHIND_NAT, record_of

OUTSIDE = Address.parse("198.51.100.7").with_port(4747)
REGISTRATION = Cid(bytes([200]) * 16)


def walled(let_in: bool = False) -> Walled:
    """The server is registered, by its NAT."""
    server = make_host("s")
    world = Walled(
        {"c": make_host("c"), "s": server, "r": make_rendezvous(policy=STEER)},
        nat={"s": OUTSIDE},
    )
    server.context.redirectors = (world.key("r"),)
    server.context.let_in = let_in
    world.register()
    assert world.connection("s", REGISTRATION).agreement.outside == OUTSIDE.with_port(0)
    return world


def said_by(world: Star, since: int = 0) -> list[Effect]:
    """What the server does, in its order."""
    return [effect for name, effect in world.effects[since:] if name == "s"]


def punches(world: Star, since: int = 0) -> list[Punch]:
    return [one for one in said_by(world, since) if isinstance(one, Punch)]


def says(effect: Effect, kind: type) -> bool:
    """Whether this sends a message of a kind, at once or when the rules are in."""
    if isinstance(effect, ChangeRules):
        return any(says(one, kind) for one in effect.then)
    return isinstance(effect, SendDatagram) and MESSAGES[effect.data[4]] is kind


def ask(world: Star, cid: int = 1, transport: Transport = Transport.UDP) -> Cid:
    return world.ask("c", "s", "r", cid, transport=transport)


def test_a_punch_leaves_before_the_accept_and_again_at_the_confirm() -> None:
    """R-12.6: a datagram of the flow itself, from the service's port to where its packets go."""
    world = walled()
    cid = ask(world)
    assert world.connection("s", cid).state is State.CONNECTED
    assert carried_by_nat(world, cid)
    first, second = punches(world)
    told = said_by(world)
    at = [number for number, one in enumerate(told) if isinstance(one, Punch)]
    assert says(told[at[0] + 1], Accept)
    assert not any(says(one, Accept) for one in told[: at[0]])
    lets_out = told[at[1] - 1]
    assert isinstance(lets_out, ChangeRules)
    assert lets_out.put == world.connection("s", cid).agreement.outbound
    wire = world.connection("s", cid).agreement.wire
    assert (first.cid, first.flow) == (second.cid, second.flow) == (cid, wire)
    assert (wire.source.ip, wire.destination.ip) == (world.own["s"].ip, world.own["r"].ip)
    assert first.data == b"CSP\x01\0\0\0\0" + bytes(8) + cid


def carried_by_nat(world: Walled, cid: Cid) -> bool:
    """Whether the rendezvous passes packets on to the NAT, at the server's own port."""
    ours = world.connection("c", cid).agreement.wire
    there = world.kernel["r"][ours].rewrite
    port = world.connection("s", cid).agreement.wire.source.port
    return there is not None and there.destination == world.nat["s"].with_port(port)


def test_a_punch_counts_against_what_came() -> None:
    """R-12.6, R-7.5: before the CONFIRM no more bytes leave than the OPENs brought."""
    world = walled()
    sent = len(world.wire)
    world.lose.add(Confirm)
    cid = world.ask("c", "s", "r", transport=Transport.UDP, seconds=0.01)
    (punch,) = punches(world)
    (opened,) = [one.data for name, to, one in world.wire[sent:] if (name, to) == ("r", "s")]
    (accept,) = [one.data for name, _, one in world.wire[sent:] if name == "s"]
    offer = world.connection("s", cid).offer
    assert offer is not None
    assert len(opened) >= OPEN_BYTES_MIN
    assert offer.credit == len(opened) - len(accept) - len(punch.data)


def test_punches_end_with_the_third_accept() -> None:
    """R-12.6: of a refresh as of the first, whose ACCEPTs nobody counts."""
    world = walled()
    cid = ask(world)
    begun, sent = len(world.effects), len(world.wire)
    world.lose.add(Confirm)
    world.run(SILENT_NAT_S / 3 + 6)
    accepts = [one for name, _, one in world.wire[sent:] if is_accept(name, one)]
    of_ours = [one for one in accepts if one.data[16:32] == cid]
    first = min(int.from_bytes(one.data[8:16], "big") for one in of_ours)
    assert sum(one.data[8:16] == first.to_bytes(8, "big") for one in of_ours) > PUNCHES
    assert len(punches(world, begun)) == PUNCHES


def test_who_is_behind_no_such_nat_punches_nothing() -> None:
    """R-12.6: only R-12.5 tells of one."""
    world = star(STEER)
    cid = ask(world)
    assert carried(world, cid)
    assert punches(world) == []


def test_nobody_punches_where_there_are_no_packets() -> None:
    """R-12.6: transport 0 has none."""
    world = walled()
    ask(world, transport=Transport.NONE)
    assert punches(world) == []


def test_what_a_registration_has_shown_ends_with_it() -> None:
    """R-12.6: while that lives. The rendezvous has not heard of its end yet."""
    world = walled()
    world.lose.add(Close)
    world.tell("s", CloseRequested(REGISTRATION))
    cid = ask(world)
    assert world.connection("s", cid).state is State.CONNECTED
    assert punches(world) == []
    assert world.host("s").context.behind == {}


SYN, SYN_ACK = b"a header that asks", b"a header that answers"
TCPS = pytest.mark.parametrize("transport", [Transport.TCP, Transport.MPTCP])


def answers(world: Walled, to: Cid, data: bytes = SYN_ACK) -> None:
    """The server's application answers what it was given."""
    world.tell("s", DataAnswered(to, data))
    world.run(1.0)


@TCPS
def test_tcp_without_its_syn_is_refused_with_the_reason(transport: Transport) -> None:
    """R-12.8: REJECT 9; who asks has none to tell, and says so to the user."""
    world = walled()
    ask(world, transport=transport)
    (refusal,) = world.refusals()
    assert (refusal.code, refusal.by[:1]) == (Code.DISCLOSURE_REQUIRED, "s")
    assert "NAT" in refusal.reason
    assert punches(world) == []


@TCPS
def test_a_syn_is_told_only_to_who_wants_to_know(transport: Transport) -> None:
    """R-12.8: on the second OPEN, which has the data of the first; sealed for the server."""
    world = walled()
    sent = len(world.wire)
    cid = world.ask("c", "s", "r", transport=transport, seconds=0.01, data=SYN)
    opens = [
        (one.data[8:16], body_of(one.data, Open).signed)
        for name, to, one in world.wire[sent:]
        if (name, to) == ("c", "r") and one.data[4] == Open.TYPE
    ]
    first, second = (decode_body(OpenTerms, signed) for _, signed in opens)
    assert first.sealed == b""
    assert len(second.sealed) == len(SYN) + 16
    assert SYN not in second.sealed
    (given,) = [one for one in said_by(world) if isinstance(one, DeliverData)]
    local = world.connection("s", cid).agreement.local
    assert (given.flow, given.data) == (local.reversed(), SYN)
    assert world.connection("s", cid).state is State.ANSWERING
    assert punches(world) == []


@TCPS
def test_the_punch_has_what_the_application_answers(transport: Transport) -> None:
    """R-12.8: before the ACCEPT and at the CONFIRM; nothing of it rides on the ACCEPT."""
    world = walled()
    cid = world.ask("c", "s", "r", transport=transport, seconds=0.01, data=SYN)
    answers(world, cid)
    wire = world.connection("s", cid).agreement.wire
    assert [(one.flow, one.data) for one in punches(world)] == [(wire, SYN_ACK)] * 2
    told = said_by(world)
    at = next(number for number, one in enumerate(told) if isinstance(one, Punch))
    assert says(told[at + 1], Accept)
    accept = next(one.data for name, _, one in world.wire if is_accept(name, one))
    assert decode_body(AcceptTerms, body_of(accept, Accept).signed).sealed == b""
    opened = [one for name, one in world.effects if name == "c" and isinstance(one, ReportOpened)]
    assert [one.carried for one in opened] == [False]  # the SYN itself is still to be sent


def test_a_syn_is_no_datagram_that_a_wrong_clock_could_repeat() -> None:
    """R-12.8: it is told though nobody knows how old it is; a kernel knows its SYNs by numbers."""
    world = walled()
    at_clock(world.host("c"), EPOCH_S - OPEN_TIME_WINDOW_S * 10)
    cid = world.ask("c", "s", "r", transport=Transport.TCP, seconds=0.05, data=SYN)
    answers(world, cid)
    world.run(1.0)
    assert world.connection("c", cid).state is State.CONNECTED
    told = [one for name, one in world.effects if name == "s" and isinstance(one, DeliverData)]
    assert [one.data for one in told] == [SYN]
    assert {one.data for one in punches(world)} == {SYN_ACK}


def test_tcp_that_stays_where_it_is_is_punched_for_once() -> None:
    """R-12.8: NATs know an open TCP connection for hours; a SYN in it would be wrong."""
    world = walled()
    cid = world.ask("c", "s", "r", transport=Transport.TCP, seconds=0.01, data=SYN)
    answers(world, cid)
    begun = len(world.effects)
    world.run(SILENT_NAT_S)
    assert world.connection("s", cid).state is State.CONNECTED
    assert punches(world, begun) == []


def test_an_application_that_does_not_answer_costs_no_punch() -> None:
    """R-12.8: there is no number to have."""
    world = walled()
    cid = world.ask("c", "s", "r", transport=Transport.TCP, seconds=1.0, data=SYN)
    assert world.connection("s", cid).state is State.CONNECTED
    assert punches(world) == []


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
def test_where_a_nat_lets_all_in_there_is_neither_punch_nor_refusal(transport: Transport) -> None:
    """R-12.6: the user knows."""
    world = walled(let_in=True)
    cid = ask(world, transport=transport)
    assert world.connection("s", cid).state is State.CONNECTED
    assert (world.refusals(), punches(world)) == ([], [])


def test_such_a_nat_is_kept_awake() -> None:
    """R-12.6, R-5.4.1: the registration, and what came by it, are refreshed every 20 s."""
    world = walled()
    opens = [one.data for name, _, one in world.wire if name == "s" and one.data[4] == Open.TYPE]
    asked = [decode_body(OpenTerms, body_of(data, Open).signed).lifetime_s for data in opens]
    assert (asked[0], asked[-1]) == (120, SILENT_NAT_S)
    cid = ask(world)
    accept = next(one.data for name, _, one in reversed(world.wire) if is_accept(name, one))
    assert decode_body(AcceptTerms, body_of(accept, Accept).signed).lifetime_s == SILENT_NAT_S
    before = len(punches(world))
    begun = len(world.wire)
    world.run(SILENT_NAT_S / 3 + 1)
    refreshed = {one.data[16:32] for name, _, one in world.wire[begun:] if is_accept(name, one)}
    assert {bytes(cid)} == refreshed
    registered = {
        one.data[16:32] for name, to, one in world.wire[begun:] if (name, to) == ("r", "s")
    }
    assert bytes(REGISTRATION) in registered
    assert len(punches(world)) == before + 1


def is_accept(name: str, event: DatagramReceived) -> bool:
    return name == "s" and event.data[4] == Accept.TYPE


def test_status_says_that_a_nat_is_before_who_punches() -> None:
    """R-12.6: as R-12.5 has it said of who asks."""
    world = walled()
    cid = ask(world)
    assert record_of(world.connection("s", cid), {}, None).stands == BEHIND_NAT
    assert record_of(world.connection("c", cid), {}, None).stands == ""


def test_a_host_keeps_what_it_knows_of_its_nat_by_family() -> None:
    """R-12.6: a NAT of IPv4 is none for IPv6."""
    world = walled()
    context = world.host("s").context
    assert context.finders(4) == [world.key("r")]
    assert context.finders(6) == []
