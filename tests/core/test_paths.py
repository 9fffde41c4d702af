"""Ends with several paths: they name them to each other, and try one without risking the other.

client c ---- g1 ---- server s, each with a second address
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pair import Pair, make_host, message_of, reasons, snapshot
from wayside.core import constants as c
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import decode_body
from wayside.core.crypto import SigningKey
from wayside.core.effects import Effect, ReportClosed, ReportOpened, ReportRefused, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived, SourcesChanged
from wayside.core.messages import Accept, AcceptTerms, Code, Confirm, Hop, Message, Open, OpenTerms
from wayside.core.opening import Refusal, refuse
from wayside.core.way import Role

SECOND = {4: {"c": "10.77.0.2", "s": "10.78.0.2"}, 6: {"c": "fd00:77::2", "s": "fd00:78::2"}}
OTHER = {"c": "s", "s": "c"}


def second(pair: Pair, node: str) -> Address:
    return Address.parse(SECOND[pair.own[node][0].family][node]).with_port(4747)


def with_paths(gates: int = 0, hosts: str = "cs", **more: object) -> Pair:
    """Hosts with two addresses, and a connection between them."""
    pair = Pair(gates, **more)  # type: ignore[arg-type]
    for node in hosts:
        pair.own[node] = (*pair.own[node], second(pair, node))
        pair.tell(node, SourcesChanged({}, own=(pair.own[node][0], second(pair, node))))
    return pair.open()


def try_path(pair: Pair, node: str, source: Address, destination: Address) -> list[Effect]:
    """Let an end ask by another path."""
    about = pair.connection(node).agreement
    wire = replace(about.wire, source=source, destination=destination)
    event = replace(pair.request(), wire=wire, local=about.local, signaling=destination)
    return pair.tell(node, event)


def wires(pair: Pair) -> list[Flow]:
    return [pair.connection(node).agreement.wire for node in "cs"]


@pytest.mark.parametrize("family", [4, 6])
def test_each_end_says_where_else_it_is(family: int) -> None:
    """R-5.4.7: in OPEN and ACCEPT; the other addresses of the flow's family only."""
    pair = with_paths(family=family)
    for node in "cs":
        known = pair.connection(node).agreement.alternatives
        assert known == (second(pair, OTHER[node]),)


def test_addresses_of_the_other_family_and_more_than_seven_are_left_out() -> None:
    """R-5.4.7."""
    pair = Pair()
    many = [Address.parse(f"10.99.0.{number}").with_port(4747) for number in range(1, 12)]
    pair.tell("c", SourcesChanged({}, own=(Address.parse("fd00::1"), pair.own["c"][0], *many)))
    pair.open()
    assert pair.connection("s").agreement.alternatives == tuple(many[: c.ALTERNATIVES_MAX])


@pytest.mark.parametrize("gates", [0, 1])
@pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP, Transport.MPTCP])
@pytest.mark.parametrize("end", ["c", "s"])
@pytest.mark.parametrize("which", ["ours", "theirs", "both"])
def test_a_path_that_answers_is_taken_by_both_ends(
    which: str, end: str, transport: Transport, gates: int
) -> None:
    """R-5.4.7: it is a move, of either end's address or of both; sockets see nothing of it."""
    pair = with_paths(gates, transport=transport)
    before = [pair.connection(node).agreement for node in "cs"]
    own, theirs = pair.own[end], pair.own[OTHER[end]]
    source = own[0] if which == "theirs" else own[-1]
    destination = theirs[0] if which == "ours" else theirs[-1]
    try_path(pair, end, source, destination)
    pair.run(0.5)
    ours = pair.connection(end).agreement.wire
    assert (ours.source.ip, ours.destination.ip) == (source.ip, destination.ip)
    assert pair.connection(OTHER[end]).agreement.wire == ours.reversed()
    assert [pair.connection(node).agreement.local for node in "cs"] == [a.local for a in before]
    pair.run(300)
    assert pair.is_up
    assert pair.connection(end).agreement.wire == ours
    pair.close(end)
    assert all(pair.kernel[node] == {} for node in pair.order)


@pytest.mark.parametrize("end", ["c", "s"])
def test_a_path_that_does_not_answer_changes_nothing(end: str) -> None:
    """R-5.4.7: nor does it make later refreshes go astray, though it is asked for 5 s."""
    pair = with_paths(1)
    before = wires(pair)
    nowhere = Address.parse("10.99.0.9").with_port(4747)
    try_path(pair, end, pair.own[end][-1], nowhere)
    rules = {node: dict(pair.kernel[node]) for node in pair.order}
    pair.run(6)
    assert pair.kernel == rules
    pair.run(300)
    assert pair.is_up
    assert wires(pair) == before


@pytest.mark.parametrize("gates", [0, 1])
@pytest.mark.parametrize("end", ["c", "s"])
def test_an_answer_about_the_path_that_was_left_takes_nobody_back(end: str, gates: int) -> None:
    """R-5.4.6: it comes after the end has given up waiting for it, and has agreed to another."""
    pair = with_paths(gates)
    wire = pair.connection(end).agreement.wire
    pair.hold.add(Accept)
    try_path(pair, end, wire.source, wire.destination)
    pair.run(6)
    late, pair.held = pair.held, []
    pair.hold.clear()
    try_path(pair, OTHER[end], second(pair, OTHER[end]), second(pair, end))
    pair.run(0.5)
    taken = wires(pair)
    assert taken[0] == taken[1].reversed()
    assert wire not in taken
    pair.held = late
    pair.release()
    pair.run(0.5)
    assert wires(pair) == taken
    pair.run(300)
    assert pair.is_up


@pytest.mark.parametrize("gates", [0, 1])
@pytest.mark.parametrize("end", ["c", "s"])
def test_who_has_only_asked_whether_its_path_works_has_not_moved(end: str, gates: int) -> None:
    """R-5.4.6: what the other end asks by another path, under the key of before, is not late."""
    pair = with_paths(gates)
    wire = pair.connection(end).agreement.wire
    pair.lose[Confirm] = 1 << 20
    try_path(pair, end, wire.source, wire.destination)
    pair.run(0.1)
    pair.lose.clear()
    try_path(pair, OTHER[end], second(pair, OTHER[end]), second(pair, end))
    pair.run(0.5)
    taken = wires(pair)
    assert taken[0] == taken[1].reversed()
    assert {taken[0].source.ip, taken[0].destination.ip} == {second(pair, n).ip for n in "cs"}


@pytest.mark.parametrize("gates", [0, 1])
@pytest.mark.parametrize("lost", [Open, Accept, Confirm])
@pytest.mark.parametrize("which", ["ours", "theirs", "both"])
def test_what_is_being_asked_for_can_be_asked_for_by_another_path(
    which: str, lost: type[Message], gates: int
) -> None:
    """R-5.4.7: as anew, with the next seq; from then on only an answer by that path counts."""
    pair = Pair(gates)
    for node in "cs":
        pair.own[node] = (*pair.own[node], second(pair, node))
    pair.lose[lost] = 1
    pair.tell("c", pair.request())
    pair.run(0.1)
    source = pair.own["c"][0] if which == "theirs" else second(pair, "c")
    destination = pair.own["s"][0] if which == "ours" else second(pair, "s")
    try_path(pair, "c", source, destination)
    opened = pair.wire[-1]
    assert (opened.kind, opened.source.ip, opened.destination) == (Open, source.ip, destination)
    pair.run(3)
    assert pair.is_up
    ours = pair.connection("c").agreement.wire
    assert (ours.source.ip, ours.destination.ip) == (source.ip, destination.ip)
    assert wires(pair)[1] == ours.reversed()
    pair.run(300)
    assert pair.is_up
    pair.close("s")
    assert all(pair.kernel[node] == {} for node in pair.order)


def test_asking_by_the_same_path_shows_that_it_works() -> None:
    """R-5.4.8: a refresh, whoever asks; it is reported when it is answered."""
    for end in "cs":
        pair = with_paths(1)
        wire = pair.connection(end).agreement.wire
        said = len(pair.seen(ReportOpened, end))
        try_path(pair, end, wire.source, wire.destination)
        pair.run(0.1)
        assert len(pair.seen(ReportOpened, end)) == said + 1
        assert pair.connection(end).agreement.wire == wire


def test_what_is_refused_on_a_path_that_is_tried_holds_there_only() -> None:
    """R-5.4.7: by a gate of the path that the connection has, or by the other end itself."""
    pair = with_paths(1)
    gate_key = pair.gates["g1"].context.key
    for key in (gate_key, pair.s.context.key):
        pair.hold.add(Open)
        try_path(pair, "c", pair.own["c"][-1], pair.own["s"][0])
        sent = pair.last(Open)
        _refused_by(pair, key, sent.data, sent.source)
        assert pair.is_up
        pair.held.clear()
        pair.hold.clear()
    pair.run(300)
    assert not pair.seen(ReportRefused)
    assert not pair.seen(ReportClosed)


def _refused_by(pair: Pair, key: SigningKey, data: bytes, source: Address) -> None:
    header, message = message_of(data)
    assert isinstance(message, Open)
    attempt = pair.connection("c").attempt
    assert attempt is not None
    event = DatagramReceived(data, source, pair.own["s"][0])
    (proof,) = [
        refuse(key, "n", _decoded(event), attempt.hash, Refusal(Code.POLICY, "no"))  # type: ignore[arg-type]
    ]
    assert isinstance(proof, SendDatagram)
    assert header.seq == attempt.seq
    assert reasons(pair.inject("c", proof.data, pair.own["s"][0])) == [DropReason.UNEXPECTED]


def _decoded(event: DatagramReceived) -> object:
    from wayside.core.events import MessageReceived

    header, message = message_of(event.data)
    about = (event.source, event.destination, False, "", event.data, False)
    return MessageReceived(header, message, *about)


def test_a_hidden_hosts_other_addresses_are_not_told() -> None:
    """R-5.4.7, R-10.5: an ACCEPT that goes by who hides it names none."""
    pair = Pair()
    pair.tell("s", SourcesChanged({}, own=(pair.own["s"][0], second(pair, "s"))))
    pair.open()
    server = pair.connection("s")
    assert server.offer is not None
    assert server.offer.said.alternatives == (second(pair, "s"),)
    hiding = Hop(bytes(32), Role.HIDING, 60, b"", source=pair.own["c"][0])
    event = pair.last(Open)
    header, message = message_of(event.data)
    assert isinstance(message, Open)
    hidden = replace(message, hops=(hiding,))
    from wayside.core.events import MessageReceived

    received = MessageReceived(
        header, hidden, event.source, event.destination, False, "", event.data, False
    )
    offer, _ = server._offer(server.offer.opened, received, hidden, pair.now)  # type: ignore[attr-defined]
    assert offer.said.alternatives == ()


def test_an_accept_with_all_alternatives_is_still_smaller_than_its_question() -> None:
    """R-7.5, R-5.4.7: seven of IPv6, and data both ways."""
    pair = Pair(4, family=6, transport=Transport.UDP, data=b"d" * 100, answer=b"a" * 512)
    many = [Address.parse(f"fd00:99::{number}").with_port(4747) for number in range(1, 9)]
    pair.tell("s", SourcesChanged({}, own=tuple(many)))
    pair.open(service="echo")
    assert pair.is_up
    accept, opened = pair.last(Accept, "s"), pair.last(Open, "g4")
    assert len(accept.data) < len(opened.data)
    said = message_of(accept.data)[1]
    assert isinstance(said, Accept)
    assert len(decode_body(AcceptTerms, said.signed).alternatives) == c.ALTERNATIVES_MAX


def test_a_registration_names_no_alternatives_but_its_location() -> None:
    """R-10.2: there they mean something else."""
    pair = Pair(transport=Transport.NONE)
    pair.tell("c", SourcesChanged({}, own=(pair.own["c"][0], second(pair, "c"))))
    pair.tell("c", pair.request("location"))
    said = message_of(pair.last(Open).data)[1]
    assert isinstance(said, Open)
    assert decode_body(OpenTerms, said.signed).alternatives == ()


def test_a_real_move_goes_before_a_path_that_is_only_tried() -> None:
    """R-5.4.6: an end whose address is gone has no way back, so it does not try other things."""
    pair = with_paths()
    pair.hold.add(Open)
    pair.tell("c", SourcesChanged({pair.own["s"][0].ip: second(pair, "c").ip}))
    before = snapshot(pair.connection("c").attempt)
    assert try_path(pair, "c", pair.own["c"][0], pair.own["s"][0]) == []
    assert snapshot(pair.connection("c").attempt) == before


@pytest.mark.parametrize("end", ["c", "s"])
def test_an_end_without_rewriting_stays_but_can_ask_whether_its_path_works(end: str) -> None:
    """R-6.2, R-5.4.8."""
    client, server = make_host("c", virtual=False), make_host("s", virtual=False)
    pair = with_paths(client=client, server=server)
    wire = pair.connection(end).agreement.wire
    assert try_path(pair, end, second(pair, end), wire.destination) == []
    assert try_path(pair, end, wire.source, wire.destination) != []


@pytest.mark.parametrize("bad", ["127.0.0.1", "224.0.0.1", "0.0.0.0"])
def test_no_path_leads_to_an_address_that_is_nobodys(bad: str) -> None:
    """R-2.6, R-7.6: whatever the other end has named."""
    pair = with_paths()
    there = Address.parse(bad).with_port(4747)
    assert try_path(pair, "c", pair.own["c"][0], there) == []
