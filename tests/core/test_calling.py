"""A rendezvous that hides nobody has a host open its NAT for who asks, and is out of the way then.

client c ---- NAT ---- (rendezvous r) ---- NAT ---- server s
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pair import ALLOW, make_host
from star import Walled, make_relay, make_rendezvous
from wayside.core.address import Address, Transport
from wayside.core.codec import Header, decode_body
from wayside.core.connection import State
from wayside.core.constants import (
    CALL_FIRST_S,
    OPEN_BYTES_MIN,
    RETRANSMIT_FIRST_S,
    SILENT_NAT_S,
)
from wayside.core.effects import DeliverData, Dropped, Effect, Punch, SaveConnection, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import CloseRequested, DataAnswered, DatagramReceived
from wayside.core.identity import Leave
from wayside.core.messages import CALLED, Hop, Open, Redirect, RedirectTerms, Reject, decode, padded
from wayside.core.policy import Policy, PolicyAction
from wayside.core.rule import Cid
from wayside.core.saved import read_saved
from wayside.core.way import Box, Role
from wayside.kernel.openings import is_asked_for
from wayside.runtime.portrait import BEHIND_NAT, record_of

HOME = Address.parse("198.51.100.7").with_port(4747)
CAFE = Address.parse("192.0.2.9").with_port(4747)
REGISTRATION = Cid(bytes([200]) * 16)
CALLED_S = CALL_FIRST_S + 0.02
"""Then the server has the copy that its NAT has let in, and waits for its application."""


def world_of(**nat: Address) -> Walled:
    """The server is registered, by its NAT if it has one."""
    server, client = make_host("s"), make_host("c")
    world = Walled({"c": client, "s": server, "r": make_rendezvous(policy=ALLOW)}, nat=nat)
    server.context.redirectors = client.context.redirectors = (world.key("r"),)
    world.register()
    return world


def walled() -> Walled:
    """Both ends are behind such NATs."""
    return world_of(s=HOME, c=CAFE)


def ask(world: Walled, transport: Transport = Transport.UDP, seconds: float = 1.0) -> Cid:
    return world.ask("c", "s", "r", transport=transport, seconds=seconds)


def sent(world: Walled, who: str, to: str, since: int = 0) -> list[DatagramReceived]:
    return [one for name, there, one in world.wire[since:] if (name, there) == (who, to)]


def called(world: Walled) -> list[DatagramReceived]:
    """What the rendezvous shows the server of others' OPENs."""
    return [one for one in sent(world, "r", "s") if one.data[4] == Open.TYPE]


def openers(world: Walled, since: int = 0) -> list[DatagramReceived]:
    """What the server sends to have its NAT opened for signaling."""
    return [one for one in sent(world, "s", "c", since) if one.data[4] == 0]


def punches(world: Walled, since: int = 0) -> list[Punch]:
    done: list[tuple[str, Effect]] = world.effects[since:]
    return [one for name, one in done if name == "s" and isinstance(one, Punch)]


def test_both_ends_talk_past_the_rendezvous() -> None:
    """R-12.7: the second copy of the OPEN gets in; packets go from NAT to NAT."""
    world = walled()
    cid = ask(world)
    ours, theirs = (world.connection(who, cid) for who in ("c", "s"))
    assert (ours.state, theirs.state) == (State.CONNECTED, State.CONNECTED)
    port = ours.agreement.wire.source.port
    assert ours.agreement.wire.destination == HOME.with_port(8443)
    assert theirs.agreement.wire.destination == CAFE.with_port(port)
    assert (ours.towards, theirs.towards) == (HOME, CAFE)
    assert (ours.hops, theirs.hops) == ((), ())
    assert not world.kernel["r"]


def test_the_server_opens_its_nat_for_signaling_and_for_the_flow() -> None:
    """R-12.7, R-12.6: 32 bytes of type 0 to where the OPEN came from; then a punch."""
    world = walled()
    cid = ask(world)
    first = openers(world)[0]
    assert (first.data, first.source, first.destination.port) == (
        Header(0, 0, cid).signing,
        HOME,
        4747,
    )
    punch = punches(world)[0]
    assert punch.flow == world.connection("s", cid).agreement.wire
    assert punch.flow.destination.ip == CAFE.ip
    assert record_of(world.connection("s", cid), {}, None).stands == BEHIND_NAT


def test_the_redirect_says_that_the_host_has_to_be_called() -> None:
    """R-12.7: who is sent on shows each copy to who sent it on, too, from the first."""
    world = walled()
    ask(world)
    (redirect,) = [one for one in sent(world, "r", "c") if one.data[4] == Redirect.TYPE]
    _, message = decode(redirect.data)
    assert isinstance(message, Redirect)
    terms = decode_body(RedirectTerms, message.signed)
    assert (terms.relay, terms.locator.address) == (CALLED, HOME)
    seq = max(one.data[8:16] for one in sent(world, "c", "s") if one.data[4] == Open.TYPE)
    here, there = (
        [one.data for one in sent(world, "c", to) if one.data[8:16] == seq and one.data[4] == 1]
        for to in ("r", "s")
    )
    assert here == there
    assert len(here) == 1 + 1  # said again once, a tenth of a second later


def test_it_is_shown_as_it_is_with_where_it_came_from() -> None:
    """R-12.7: to the place of the registration, with one record more, which has no token."""
    world = walled()
    ask(world)
    shown = called(world)[0]
    _, message = decode(shown.data)
    assert isinstance(message, Open)
    (hop,) = message.hops
    assert (hop.key, hop.role, hop.token, hop.destination) == (
        world.key("r"),
        Role.CALLING,
        b"",
        None,
    )
    assert hop.source == CAFE.with_port(40001)
    direct = [decode(one.data)[1] for one in sent(world, "c", "s")]
    assert message.signed in [one.signed for one in direct if isinstance(one, Open)]


def test_a_client_without_a_nat_calls_as_well() -> None:
    """R-12.7: it is the server's NAT that matters."""
    world = world_of(s=HOME)
    cid = ask(world)
    assert world.connection("s", cid).state is State.CONNECTED
    assert world.connection("s", cid).agreement.wire.destination.ip == world.own["c"].ip
    assert punches(world)


def test_nobody_is_called_where_there_is_no_such_nat() -> None:
    """R-12.7: then the OPEN goes there at once, and there only."""
    world = world_of(c=CAFE)
    cid = ask(world)
    assert world.connection("s", cid).state is State.CONNECTED
    assert (called(world), openers(world), punches(world)) == ([], [], [])


def test_a_nat_that_is_open_already_costs_no_wait() -> None:
    """R-12.7: the first copy gets in where the server has just talked to there."""
    world = walled()
    world.tell("c", CloseRequested(ask(world)))
    world.run(3.0)
    again = world.ask("c", "s", "r", 2, transport=Transport.UDP, seconds=CALL_FIRST_S / 2)
    assert world.connection("s", again).state is State.CONNECTED


def test_refreshes_go_straight_and_keep_both_nats_awake() -> None:
    """R-12.7, R-12.6: three times a minute, each with a punch; the rendezvous hears nothing."""
    world = walled()
    cid = ask(world)
    begun, done = len(world.wire), len(world.effects)
    world.run(SILENT_NAT_S / 3 + 1)
    opens = [one for one in sent(world, "c", "s", begun) if one.data[4] == Open.TYPE]
    assert {one.data[16:32] for one in opens} == {bytes(cid)}
    assert sent(world, "c", "r", begun) == []
    assert len(punches(world, done)) == 1
    assert world.connection("s", cid).lifetime_s == SILENT_NAT_S


def test_a_client_that_moves_behind_another_nat_has_it_called_again() -> None:
    """R-12.7, R-5.4.6: its OPENs do not get in any more; the rendezvous is asked, as its home."""
    world = walled()
    cid = ask(world)
    there = Address.parse("203.0.113.5").with_port(4747)
    world.nat["c"] = there
    world.sent = {(who, to) for who, to in world.sent if who != "c"}
    world.move("c", "10.9.9.9")
    world.run(3.0)
    port = world.connection("c", cid).agreement.wire.source.port
    assert world.connection("s", cid).agreement.wire.destination == there.with_port(port)
    assert world.connection("c", cid).agreement.wire.source.ip == world.own["c"].ip
    assert world.connection("c", cid).agreement.outside == there.with_port(port)


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
def test_who_does_not_get_there_is_relayed(transport: Transport) -> None:
    """R-12.7: the rendezvous carries what no calling lets through; it is told so by the address."""
    world = walled()
    world.parted = {("c", "s")}
    cid = world.ask("c", "s", "r", transport=transport, seconds=1.52, data=b"a datagram, or a SYN")
    if transport.is_tcp:
        world.tell("s", DataAnswered(cid, SYN_ACK))
    world.run(1.0)
    assert world.connection("s", cid).state is State.CONNECTED
    ends = [world.connection(who, cid).agreement.wire for who in ("c", "s")]
    assert {one.destination.ip for one in ends} == {world.own["r"].ip}
    rewritten = [one.rewrite.destination.ip for one in world.kernel["r"].values() if one.rewrite]
    assert set(rewritten) == {HOME.ip, CAFE.ip}
    assert {one.flow.destination.ip for one in punches(world)} == {world.own["r"].ip}
    assert world.refusals()[1:] == []  # but the REJECT 3 that told the client of its own NAT


def test_a_client_that_moves_to_where_it_does_not_get_there_is_relayed() -> None:
    """R-12.7, R-5.4.6: a connection that is up goes on by the rendezvous."""
    world = walled()
    cid = ask(world)
    there = Address.parse("203.0.113.5").with_port(4747)
    world.nat["c"], world.parted = there, {("c", "s"), ("s", "c")}
    world.sent = {(who, to) for who, to in world.sent if who != "c"}
    world.move("c", "10.9.9.9")
    world.run(8.0)
    ends = [world.connection(who, cid) for who in ("c", "s")]
    assert [one.state for one in ends] == [State.CONNECTED] * 2
    assert {one.agreement.wire.destination.ip for one in ends} == {world.own["r"].ip}
    world.run(SILENT_NAT_S * 2)
    assert [one.state for one in ends] == [State.CONNECTED] * 2


def test_after_a_restart_a_host_knows_its_nat() -> None:
    """R-12.6, R-6.5: so calls are heard, straight OPENs are its own, and punches go on."""
    world = walled()
    cid = ask(world)
    old, new = world.host("s"), make_host("s")
    new.context.key, new.context.redirectors = old.context.key, old.context.redirectors
    done = [effect for name, effect in world.effects if name == "s"]
    saved = {one.cid: one.saved for one in done if isinstance(one, SaveConnection)}
    for known, raw in saved.items():
        new.restore(known, read_saved(raw), world.now)
    assert new.context.finders(4) == [world.key("r")]
    world.nodes["s"] = new
    begun = len(world.effects)
    world.run(SILENT_NAT_S / 3 + 1)
    assert len(punches(world, begun)) >= 1
    assert world.connection("s", cid).lifetime_s == SILENT_NAT_S


def test_what_the_network_says_of_a_straight_copy_makes_no_call_plain() -> None:
    """R-12.4: who was sent on has been answered; the first copies are turned away by the NAT."""
    world = walled()
    cid = world.ask("c", "s", "r", transport=Transport.UDP, seconds=0.05)
    connection = world.connection("c", cid)
    leave = Leave(plain=True)
    connection.agreement = replace(
        connection.agreement, peer=replace(connection.agreement.peer, leave=leave)
    )
    copy = sent(world, "c", "s")[-1].data
    world.tell("c", DatagramReceived(copy, HOME, world.own["c"], returned=True))
    assert connection.state is State.OPENING
    world.run(1.0)
    assert connection.state is State.CONNECTED


SYN, SYN_ACK = b"a header that asks", b"a header that answers"


def test_a_syn_is_told_to_who_is_called() -> None:
    """R-12.8: at once, so no REJECT is needed; the punch goes to the client's NAT."""
    world = walled()
    cid = world.ask("c", "s", "r", transport=Transport.TCP, seconds=CALLED_S, data=SYN)
    assert world.connection("s", cid).state is State.ANSWERING
    assert not world.refusals()[1:]  # but the REJECT 3 that told the client of its own NAT
    world.tell("s", DataAnswered(cid, SYN_ACK))
    world.run(1.0)
    assert world.connection("s", cid).state is State.CONNECTED
    port = world.connection("c", cid).agreement.wire.source.port
    assert {(one.flow.destination, one.data) for one in punches(world)} == {
        (CAFE.with_port(port), SYN_ACK)
    }


def test_a_kernel_that_answers_a_syn_late_is_waited_for() -> None:
    """R-12.8: longer than an application's datagram is; without the answer there is no punch."""
    world = walled()
    cid = world.ask("c", "s", "r", transport=Transport.TCP, seconds=CALLED_S, data=SYN)
    world.run(RETRANSMIT_FIRST_S - 0.05)
    assert world.connection("s", cid).state is State.ANSWERING
    world.tell("s", DataAnswered(cid, SYN_ACK))
    world.run(1.0)
    assert world.connection("s", cid).state is State.CONNECTED
    assert {one.data for one in punches(world)} == {SYN_ACK}


def test_the_opener_leaves_from_where_the_host_was_asked() -> None:
    """R-12.7: its NAT opens for that address, of those that a host has."""
    world = walled()
    ask(world)
    shown = called(world)[0]
    first = next(one for name, one in world.effects if name == "s" and is_opener(one))
    assert isinstance(first, SendDatagram)
    assert first.source == shown.destination == world.own["s"]
    unknown = replace(shown, destination=Address.parse("0.0.0.0").with_port(4747))
    (again,) = [one for one in world.host("s").handle(unknown, world.now) if is_opener(one)]
    assert isinstance(again, SendDatagram)
    assert (again.destination, again.source) == (first.destination, None)


def is_opener(effect: Effect) -> bool:
    return isinstance(effect, SendDatagram) and effect.data[4] == 0


def test_who_is_called_is_not_asked_for_by_another_path() -> None:
    """R-12.7, R-5.4.7: a host's NAT was opened for this one."""
    world = walled()
    world.parted = {("c", "s")}
    cid = world.ask("c", "s", "r", transport=Transport.UDP, seconds=0.0)
    assert is_asked_for(world.connection("c", cid))
    world.run(CALLED_S)
    assert world.connection("c", cid).state is State.OPENING
    assert not is_asked_for(world.connection("c", cid))


def test_a_syn_means_nothing_where_nobody_has_to_punch() -> None:
    """R-12.8: a server whose NAT lets all in has its application asked by the true SYN alone."""
    world = world_of(s=HOME)
    world.host("s").context.let_in = True
    world.sent.add(("s", world.own["c"]))
    cid = world.ask("c", "s", "r", transport=Transport.TCP, data=SYN)
    assert world.connection("s", cid).state is State.CONNECTED
    assert not any(isinstance(one, DeliverData | Punch) for _, one in world.effects)


def test_a_bare_ack_opens_the_nat_for_a_tcp_client_that_moves() -> None:
    """R-12.8: numbers that the NAT has not seen yet are not looked at."""
    world = walled()
    cid = world.ask("c", "s", "r", transport=Transport.TCP, seconds=CALLED_S, data=SYN)
    world.tell("s", DataAnswered(cid, SYN_ACK))
    world.run(1.0)
    done = len(world.effects)
    there = Address.parse("203.0.113.5").with_port(4747)
    world.nat["c"] = there
    world.sent = {(who, to) for who, to in world.sent if who != "c"}
    world.move("c", "10.9.9.9")
    world.run(3.0)
    moved = world.connection("s", cid).agreement.wire
    assert moved.destination.ip == there.ip
    assert {(one.flow, one.data) for one in punches(world, done)} == {(moved, b"")}


def forged(world: Walled, event: DatagramReceived, **other: object) -> list[Effect]:
    """What the server makes of an OPEN that it was shown, with another record by the rendezvous."""
    header, message = decode(event.data)
    assert isinstance(message, Open)
    hop = replace(message.hops[-1], **other)
    data = padded(header, Open(message.signed, message.signature, (hop,), message.mac))
    return world.host("s").handle(replace(event, data=data), world.now)


@pytest.mark.parametrize(
    "other",
    [
        {"key": bytes(32)},
        {"source": Address.parse("127.0.0.1").with_port(40001)},
    ],
    ids=["by somebody else", "to this host itself"],
)
def test_who_calls_must_be_the_hosts_own_rendezvous(other: dict[str, object]) -> None:
    """R-12.7: nothing leaves, and nothing is kept."""
    world = walled()
    ask(world)
    effects = forged(world, called(world)[0], **other)
    assert [one.reason for one in effects if isinstance(one, Dropped)] == [DropReason.UNEXPECTED]
    assert len(effects) == 1


def test_an_open_without_its_approval_calls_nobody() -> None:
    """R-12.7, R-5.7.3: a record can be written by anybody, an approval cannot."""
    world = walled()
    ask(world)
    (first,) = [one for one in sent(world, "c", "r") if one.data[8:16] == bytes(8)][:1]
    header, message = decode(first.data)
    assert isinstance(message, Open)
    hop = Hop(world.key("r"), Role.CALLING, 0, b"", CAFE.with_port(40001))
    data = padded(header, Open(message.signed, message.signature, (hop,)))
    event = replace(called(world)[0], data=data)
    effects = world.host("s").handle(event, world.now)
    assert [one.reason for one in effects if isinstance(one, Dropped)] == [DropReason.UNEXPECTED]


def test_what_a_call_brings_is_less_than_what_it_takes() -> None:
    """R-12.7, R-7.5: nobody is sent more than 32 bytes for 1,200."""
    world = walled()
    ask(world)
    for shown in called(world):
        assert len(shown.data) >= OPEN_BYTES_MIN
    assert len(openers(world)) <= len(called(world))


REFUSING = Policy(default=PolicyAction.REJECT)


@pytest.mark.parametrize("policy", [ALLOW, REFUSING], ids=["allowed", "refused"])
def test_a_firewall_before_the_nat_lets_a_call_by_as_it_is(policy: Policy) -> None:
    """R-12.7: without a record or an answer of its own; unless its policy says no."""
    world = walled()
    ask(world)
    shown = replace(called(world)[0], destination=HOME, transit=True, side="outside")
    gate = make_relay("g", Box(), policy)
    effects = gate.handle(shown, world.now)
    if policy is ALLOW:
        assert effects == [SendDatagram(shown.data, HOME, shown.source)]
    else:
        assert [one.reason for one in effects if isinstance(one, Dropped)] == [
            DropReason.UNEXPECTED
        ]
        assert len(effects) == 1
    assert not gate.passages


def test_the_record_of_a_call_never_comes_into_an_accept() -> None:
    """R-12.7: nor does it where somebody has added another behind it."""
    world = walled()
    ask(world)
    shown = called(world)[0]
    header, message = decode(shown.data)
    assert isinstance(message, Open)
    hops = (*message.hops, Hop(bytes(32), Role.GATE, 30, b"token"))
    data = padded(header, Open(message.signed, message.signature, hops, message.mac))
    effects = world.host("s").handle(replace(shown, data=data), world.now)
    assert [one.reason for one in effects if isinstance(one, Dropped)] == [DropReason.UNEXPECTED]
    assert len(effects) == 1


def test_a_call_for_another_host_is_not_answered() -> None:
    """R-12.7: who is not asked for says nothing, not even that it is somebody else."""
    world = walled()
    ask(world)
    effects = world.host("c").handle(called(world)[0], world.now)
    assert [one.reason for one in effects if isinstance(one, Dropped)] == [DropReason.UNEXPECTED]
    assert len(effects) == 1


def test_a_route_that_is_full_leaves_no_room_for_a_call() -> None:
    """R-12.7, R-8.5: eight records are as many as an OPEN may have."""
    world = walled()
    ask(world)
    asked = next(one for one in sent(world, "c", "r") if one.data[8:16] == (4).to_bytes(8, "big"))
    header, message = decode(asked.data)
    assert isinstance(message, Open)
    for count, shown in ((7, True), (8, False)):
        hops = tuple(Hop(bytes([number] * 32), Role.GATE, 60, b"") for number in range(count))
        data = padded(header, Open(message.signed, message.signature, hops))
        begun = len(world.wire)
        world.tell("r", replace(asked, data=data))
        said = [one.data[4] for name, _, one in world.wire[begun:] if name == "r"]
        assert said == [Open.TYPE if shown else Reject.TYPE]
