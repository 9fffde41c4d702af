"""A rendezvous under attack: where a host is, is what that host says, and nobody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import ELSEWHERE, forged
from pair import ALLOW, STRANGER, Entropy, make_host, make_open, message_of, reasons
from star import Star, make_rendezvous
from wayside.core.address import Address, Transport
from wayside.core.codec import decode_body, encode_body
from wayside.core.effects import SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived, StopRequested
from wayside.core.identity import key_text
from wayside.core.messages import (
    MESSAGES,
    Accept,
    Challenge,
    Close,
    Confirm,
    Message,
    Open,
    OpenTerms,
    Redirect,
    Reject,
    Stop,
    padded,
)
from wayside.core.opening import SIGNATURE_CONTEXT
from wayside.core.passage import Stage
from wayside.core.policy import Pattern, Policy, PolicyAction, PolicyRule
from wayside.core.rendezvous import Rendezvous, read_location
from wayside.core.rule import Cid


def registered() -> Star:
    """A server that has said where it is."""
    nodes = {"c": make_host("c"), "s": make_host("s"), "r": make_rendezvous(policy=ALLOW)}
    world = Star(dict(nodes))
    world.register()
    assert list(world.store) == [(world.key("s"), 4)]
    return world


def heard(world: Star, kind: type[Message] | None = None) -> list[DatagramReceived]:
    """What came to the rendezvous."""
    came = [event for _, to, event in world.wire if to == "r"]
    return [event for event in came if kind in (None, MESSAGES[event.data[4]])]


def known(world: Star) -> dict[tuple[bytes, int], tuple[int, bytes]]:
    """The locations in the store; what was taken out of it leaves only its order."""
    return {key: kept for key, kept in world.store.items() if kept[1]}


def answers(world: Star, event: DatagramReceived) -> list[SendDatagram]:
    """What the rendezvous sends because of a datagram."""
    before = len(world.effects)
    world.tell("r", event)
    return [e for _, e in world.effects[before:] if isinstance(e, SendDatagram)]


@pytest.mark.parametrize("source", [None, ELSEWHERE])
@pytest.mark.parametrize("seconds", [0.0, 70.0])
def test_a_replay_moves_no_location(seconds: float, source: Address | None) -> None:
    """R-10.2, R-7.6: nor does what a rendezvous says to it grow."""
    world = registered()
    replayed = heard(world)
    world.run(seconds)
    before = dict(world.store)
    for event in replayed:
        said = answers(world, replace(event, source=source or event.source))
        assert sum(len(one.data) for one in said) <= len(event.data)
    assert world.store == before


def test_nobody_registers_in_anothers_name() -> None:
    """R-10.3: the server's key named, a stranger's signature; or a stranger's for itself."""
    world = registered()
    before = dict(world.store)
    event = heard(world, Open)[0]
    header, message = message_of(event.data)
    assert isinstance(message, Open)
    signature = STRANGER.sign(SIGNATURE_CONTEXT, header.signing + message.signed)
    assert (
        answers(world, replace(event, data=padded(header, replace(message, signature=signature))))
        == []
    )
    assert world.store == before
    elsewhere = Address.parse("10.0.0.66:0")
    data = make_open(
        STRANGER,
        world.key("r"),
        elsewhere,
        world.own["r"].with_port(0),
        cid=Cid(b"a stranger's cid"),
        service="location",
        transport=Transport.NONE,
        from_key=world.key("s"),
    )
    there = elsewhere.with_port(4747)
    assert answers(world, DatagramReceived(data, there, world.own["r"], side="outside")) == []
    assert world.store == before


def test_a_registration_that_is_not_confirmed_is_none() -> None:
    """R-10.2: so a spoofed source puts nothing into the store."""
    world = registered()
    before = dict(world.store)
    victim = world.own["c"]
    data = make_open(
        STRANGER,
        world.key("r"),
        victim.with_port(0),
        world.own["r"].with_port(0),
        cid=Cid(b"a stranger's cid"),
        service="location",
        transport=Transport.NONE,
    )
    said = answers(world, DatagramReceived(data, victim, world.own["r"], side="outside"))
    assert {one.destination for one in said} == {victim}
    assert sum(len(one.data) for one in said) <= len(data)
    world.run(20)
    assert known(world) == before


@pytest.mark.parametrize(
    "kind", [Accept, Confirm, Challenge, Reject, Redirect, Close, Stop], ids=lambda k: k.__name__
)
def test_no_forged_message_changes_where_a_host_is(kind: type[Message]) -> None:
    """R-10.2, R-5.9.3, R-5.8: about the registration, with its cid, seq and hash."""
    world = registered()
    before = dict(world.store)
    opened = heard(world, Open)[0]
    data = forged(kind, opened.data)
    for source in (opened.source, ELSEWHERE):
        assert answers(world, replace(opened, data=data, source=source)) == []
    world.run(10)
    assert world.store == before


@pytest.mark.parametrize("seq", [1, 2, 100])
def test_a_host_is_not_moved_by_who_lacks_its_registrations_key(seq: int) -> None:
    """R-10.1, R-5.4.2: neither by a stranger nor by the host's own key without `mac`."""
    world = registered()
    before, cid = dict(world.store), message_of(heard(world, Open)[0].data)[0].cid
    there = Address.parse("10.0.0.66:0")
    for key in (STRANGER, world.host("s").context.key):
        data = make_open(
            *(key, world.key("r"), there, world.own["r"].with_port(0)),
            cid=cid,
            seq=seq,
            service="location",
            transport=Transport.NONE,
        )
        event = DatagramReceived(data, there.with_port(4747), world.own["r"], side="outside")
        assert answers(world, event) == []
    assert world.store == before


def test_a_flood_of_registrations_leaves_nothing_that_lasts() -> None:
    """R-7.4: two hundred that nobody confirms; the one that is there stays."""
    world = registered()
    before = dict(world.store)
    machine = world.nodes["r"]
    assert isinstance(machine, Rendezvous)
    for number in range(200):
        source = Address.parse("10.0.0.66:0")
        data = make_open(
            *(STRANGER, world.key("r"), source, world.own["r"].with_port(0)),
            cid=Cid(number.to_bytes(16, "big")),
            service="location",
            transport=Transport.NONE,
        )
        here = source.with_port(4747)
        world.tell("r", DatagramReceived(data, here, world.own["r"], side="outside"))
    world.run(15)
    assert known(world) == before
    assert len(machine.host.connections) == 1


def test_a_record_of_the_store_is_believed_for_its_signer_only() -> None:
    """R-10.3: a compromised store can withhold; it cannot make up."""
    world = registered()
    ((_, record),) = world.store.values()
    assert read_location(record, world.key("s")) is not None
    assert read_location(record, world.key("c")) is None
    assert read_location(record[:-1] + bytes([record[-1] ^ 1]), world.key("s")) is None


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("action", [PolicyAction.ALLOW, PolicyAction.STEER, PolicyAction.REDIRECT])
def test_an_odd_seq_finds_nobody_whom_an_even_one_may_not_find(
    action: PolicyAction, pending: bool
) -> None:
    """R-5.1.1, R-10.1: the policy is not asked about the connection the other way round.

    `pending`: the cid is that of somebody else's connection, which is being made through here.
    """
    world, cid = registered(), Cid(b"\x01" * 16)
    rendezvous = world.nodes["r"]
    assert isinstance(rendezvous, Rendezvous)
    if pending:
        rendezvous.gate.context.policy = Policy(default=PolicyAction.STEER)
        world.lose.add(Confirm)
        assert world.ask("c", "s", "r") == cid
        assert rendezvous.gate.passages[cid].stage is Stage.PENDING
    stranger, server = (Pattern.parse(key_text(key)) for key in (STRANGER.public, world.key("s")))
    via = "p" if action is PolicyAction.REDIRECT else ""
    rules = (
        PolicyRule("no", PolicyAction.REJECT, from_=(stranger,), to=(server,)),
        PolicyRule("yes", action, from_=(server,), to=(stranger,), via=via),
    )
    rendezvous.gate.context.policy = Policy(rules, PolicyAction.REJECT)
    here, there = ELSEWHERE.with_port(40001), world.own["r"].with_port(0)
    for seq, said in ((1, [Reject] if pending else []), (2, [Reject])):
        data = make_open(STRANGER, world.key("s"), here, there, cid=cid, seq=seq)
        event = DatagramReceived(data, ELSEWHERE, world.own["r"], side="outside")
        assert [MESSAGES[one.data[4]] for one in answers(world, event)] == said
    refused = [one for one in world.refusals() if one.rule]
    assert [one.rule for one in refused] == ["no"]


def test_a_replay_to_a_restarted_rendezvous_takes_nobody_away() -> None:
    """R-10.2: a copy of the OPEN is answered; nobody confirms it, so nothing comes of it."""
    world = registered()
    replayed, before = heard(world, Open)[0], known(world)
    world.nodes["r"] = fresh = make_rendezvous(policy=ALLOW)
    fresh.host.context.entropy = Entropy("later")
    assert [MESSAGES[one.data[4]] for one in answers(world, replayed)] == [Accept]
    world.run(10)
    assert known(world) == before


def test_a_rendezvous_takes_none_of_its_own_words() -> None:
    """R-7.6: what it said to a host comes back, from there or from elsewhere."""
    world = registered()
    before = dict(world.store)
    said = [event for name, _, event in world.wire if name == "r"]
    assert said
    for event in said:
        for source in (event.destination, ELSEWHERE):
            back = replace(event, source=source, destination=world.own["r"], side="outside")
            assert answers(world, back) == []
    assert world.store == before


def test_a_rendezvous_that_hides_a_host_filters_for_that_host_alone() -> None:
    """R-5.8.1, R-10.5: at the relay, too, STOP is the word of who was asked."""
    hide = Policy((PolicyRule("hide", PolicyAction.STEER, service=("https",)),), ALLOW.default)
    nodes = {"c": make_host("c"), "s": make_host("s"), "r": make_rendezvous(policy=hide)}
    world = Star(dict(nodes))
    world.host("c").context.redirectors = (world.key("r"),)
    world.register()
    cid = world.ask("c", "s", "r")
    opened = next(e for _, to, e in world.wire if to == "s" and e.data[16:32] == cid)
    at = {"source": world.own["s"], "destination": world.own["r"]}
    for key, reason in (
        (STRANGER, DropReason.ADDRESS),
        (world.host("c").context.key, DropReason.ADDRESS),
    ):
        event = replace(opened, data=forged(Stop, opened.data, key=key), **at)
        assert reasons(world.nodes["r"].handle(event, world.now)) == [reason]
    away = replace(opened, data=forged(Stop, opened.data, key=world.host("s").context.key))
    assert reasons(world.nodes["r"].handle(away, world.now)) == [DropReason.ADDRESS]
    assert not world.filters["r"]
    world.tell("s", StopRequested(cid, 60))
    world.run(1)
    (rule,) = world.filters["r"].values()
    assert rule.match.source.ip == world.own["c"].ip
    assert rule.match.destination.ip == world.own["r"].ip
    assert world.host("s").stopping.said[cid].by == world.key("r")


def test_a_rendezvous_speaks_one_version_and_reads_what_was_signed() -> None:
    """R-2.1, R-5.1.3: another version, a flag too many, another transport or lifetime."""
    world = registered()
    rendezvous, before = world.nodes["r"], dict(world.store)
    event = heard(world, Open)[0]
    for at, value in ((3, 0), (3, 2), (5, 2), (7, 1)):
        data = event.data[:at] + bytes([value]) + event.data[at + 1 :]
        effects = rendezvous.handle(replace(event, data=data), world.now)
        assert reasons(effects) == [DropReason.HEADER]
    header, message = message_of(event.data)
    assert isinstance(message, Open)
    terms = decode_body(OpenTerms, message.signed)
    for other in (replace(terms, lifetime_s=1), replace(terms, service="other")):
        weaker = padded(header, Open(encode_body(other), message.signature))
        effects = rendezvous.handle(replace(event, data=weaker), world.now)
        assert reasons(effects) == [DropReason.SIGNATURE]
    assert world.store == before
