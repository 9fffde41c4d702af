"""A gate that answers for a host which knows nothing of this, and what the asker is told.

client c ---- g1 ---- g2 ---- server s        (s is deaf; one of the gates stands in for it)
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_network
from typing import Any

import pytest

from pair import (
    ALLOW,
    STRANGER,
    Entropy,
    Pair,
    body_of,
    hops_of,
    make_open,
    reasons,
)
from wayside.core.address import Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.codec import Header, decode_body, encode_body
from wayside.core.connection import HostContext, State
from wayside.core.effects import ReportOpened, ReportRefused, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import CloseRequested, DatagramReceived, RulesFailed
from wayside.core.gate import Gate
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Leave, Names, PeerIdentity
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Close,
    Code,
    Locator,
    Open,
    Redirect,
    RedirectTerms,
    Reject,
    RejectTerms,
    encode,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.passage import Stage
from wayside.core.policy import Policy, PolicyAction
from wayside.core.rule import Cid
from wayside.core.stand_in import Served, StandIn
from wayside.core.yielding import GATE_ANSWERS

MAY = Leave(gate=True)
NOBODY = sha256(b"wayside-legacy" + b"printer.lab").digest()
TRANSPORTS = pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
FAMILIES = pytest.mark.parametrize("family", [4, 6])


class Deaf:
    """A host without wayside."""

    deadline = None

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def handle(self, event: Any, now: float) -> list[Any]:
        self.heard.append(event)
        return []


def put(pair: Pair, name: str, machine: Any) -> None:
    """Another machine in a node's place."""
    pair.nodes[name] = machine


def at_node(pair: Pair, name: str) -> Any:
    """What is in a node's place."""
    return pair.nodes[name]


def standing_in(gate: Gate, *networks: str, side: str = "outside") -> StandIn:
    """The same gate, answering for the service `https` of hosts in these networks."""
    box, key = gate._box, gate.context.key
    context = HostContext(key, Entropy("stand-in"), "g", epoch_s=gate.context.epoch_s)
    host = Host(
        context,
        Answering(Names({}), ALLOW, {"https": Offered(80)}),
        FrontDoor(box, Budget()),
        Quota(100, 100),
    )
    return StandIn(gate, box, [Served(side, tuple(map(ip_network, networks)), host)])


def legacy(gates: int = 1, at: str = "g1", leave: Leave = MAY, **more: Any) -> Pair:
    """A deaf server, a gate that stands in for it, and a client that asks for nobody's key."""
    pair = Pair(gates, **more)
    machine = standing_in(pair.gates[at], "10.0.0.0/8", "fd00::/8")
    put(pair, at, machine)
    put(pair, "s", Deaf())
    peer = PeerIdentity(NOBODY, "printer.lab", leave=leave)
    return pair.open(1.0, peer=peer)


@TRANSPORTS
@FAMILIES
@pytest.mark.parametrize(("gates", "at"), [(1, "g1"), (2, "g1"), (2, "g2")])
def test_a_gate_answers_in_the_place_of_a_host_that_cannot(
    transport: Transport, family: int, gates: int, at: str
) -> None:
    """R-12.1, R-12.2, R-12.3: one more round trip; the pinholes are for the host itself."""
    pair = legacy(gates, at, transport=transport, family=family)
    connection = pair.connection("c")
    assert connection.state is State.CONNECTED
    assert pair.kinds("c") == "c:OPEN c:OPEN c:CONFIRM"
    assert connection.agreement.peer.key == pair.gates[at].context.key.public
    assert connection.agreement.stands == GATE_ANSWERS
    assert str(connection.agreement.peer) == "printer.lab"
    (report,) = pair.seen(ReportOpened, "c")
    assert report.stands == GATE_ANSWERS
    wire = connection.agreement.wire
    assert wire.destination == pair.own["s"][0].with_port(80)
    passed = [name for name in pair.gates if name <= at]
    for name in passed:
        assert set(pair.kernel[name]) == {wire, wire.reversed()}
        assert pair.passage(name).stage is Stage.LIVE
    assert [hop.key for hop in hops_of(pair.last(Accept).data)] == [
        pair.gates[name].context.key.public for name in passed
    ]
    assert at_node(pair, "s").heard == []


def test_the_redirect_names_the_gate_and_leads_to_the_host_itself() -> None:
    """R-12.2: `relay` 0, its own key, and the address that was asked."""
    pair = legacy()
    terms = decode_body(RedirectTerms, body_of(pair.last(Redirect).data, Redirect).signed)
    own = pair.gates["g1"].context.key.public
    assert (terms.from_key, terms.key, terms.relay) == (own, own, 0)
    assert terms.locator.address == pair.own["s"][0]
    answer = decode_body(AcceptTerms, body_of(pair.last(Accept).data, Accept).signed)
    assert answer.from_key == own


def test_who_does_not_let_gates_answer_is_refused_and_told() -> None:
    """R-12.3: no gate that is not configured stands in for anybody by itself."""
    pair = legacy(leave=Leave())
    (report,) = pair.seen(ReportRefused, "c")
    assert report.code == Code.NO_ROUTE
    assert pair.kinds() == "c:OPEN g1:REDIRECT"
    assert pair.kernel["g1"] == {}


@pytest.mark.parametrize("change", ["key", "locator", "relay"])
def test_a_stand_in_answers_there_and_itself_or_is_not_followed(change: str) -> None:
    """R-12.3: not in another's name, and not elsewhere."""
    pair = Pair(1)
    peer = PeerIdentity(NOBODY, "printer.lab", leave=MAY)
    put(pair, "s", Deaf())
    pair.open(0.0, peer=peer)
    asked = pair.last(Open, "c")
    header = Header(Redirect.TYPE, 0, pair.cid)
    about = open_hash(Header(Open.TYPE, 0, pair.cid), body_of(asked.data, Open).signed)
    here = pair.own["s"][0]
    terms = RedirectTerms(STRANGER.public, about, Locator(here), b"a", 2**31, 0, STRANGER.public)
    if change == "key":
        terms = replace(terms, key=bytes(32))
    elif change == "locator":
        terms = replace(terms, locator=Locator(pair.own["g1"][0]))
    else:
        terms = replace(terms, relay=1)
    signed = encode_body(terms)
    signature = STRANGER.sign(SIGNATURE_CONTEXT, header.signing + signed)
    pair.inject("c", encode(header, Redirect(signed, signature)), here)
    (report,) = pair.seen(ReportRefused, "c")
    assert report.code == Code.NO_ROUTE
    assert pair.kinds("c") == "c:OPEN"


def test_a_connection_that_a_gate_answers_for_is_refreshed_and_closed() -> None:
    """R-12.2, R-5.4.1, R-5.9.2: as any other."""
    pair = legacy(2, "g2")
    stand_in = at_node(pair, "g2")
    pair.run(200)
    assert pair.connection("c").keys.seq >= 8
    assert stand_in.answers(pair.cid)
    pair.close()
    assert pair.ended("c")
    assert [rules for rules in (pair.kernel["g1"], pair.kernel["g2"]) if rules] == []
    assert pair.kinds().count("c:CLOSE") == 1, "the gate echoes it"
    pair.run(300)
    assert not stand_in.answers(pair.cid)


def test_the_operator_of_the_gate_ends_it_for_both() -> None:
    """R-12.2: and a kernel that refuses rules does, too."""
    for event in (CloseRequested, RulesFailed):
        pair = legacy()
        pair.tell("g1", event(pair.cid, "no more"))
        pair.run(1)
        assert pair.ended("c")
        assert pair.kernel["g1"] == {}
        assert body_of(pair.last(Close, "g1").data, Close).reason.endswith("no more")


def test_a_gate_that_restarts_answers_the_next_refresh() -> None:
    """R-6.5, R-12.2: what it answered for before is a new connection to it, and goes on."""
    pair = legacy()
    old = pair.gates["g1"]
    fresh = Gate(old.context, FrontDoor(old._box, Budget()), old._box, Quota(100, 100))
    fresh.restore([(rule, 80.0) for rule in pair.kernel["g1"].values()], pair.now)
    pair.gates["g1"] = fresh
    put(pair, "g1", standing_in(fresh, "10.0.0.0/8"))
    pair.run(100)
    assert pair.connection("c").state is State.CONNECTED
    assert pair.connection("c").keys.seq >= 4
    assert len(pair.kernel["g1"]) == 2


def test_no_data_rides_to_who_cannot_deliver_it() -> None:
    """R-12.2: an OPEN for the gate itself with data is dropped, and leaves nothing."""
    pair = legacy()
    here, there = pair.own["c"][0], pair.own["s"][0]
    data = make_open(
        STRANGER,
        pair.gates["g1"].context.key.public,
        here.with_port(40001),
        there.with_port(443),
        cid=Cid(b"a stranger's cid"),
        transport=Transport.UDP,
        sealed=bytes(40),
    )
    effects = pair.tell("g1", DatagramReceived(data, here, there, True, "inside"))
    assert reasons(effects) == [DropReason.UNEXPECTED]
    assert [one for one in effects if isinstance(one, SendDatagram)] == []


def test_a_service_that_the_host_has_not_is_refused_by_the_gate() -> None:
    """R-12.2, R-5.1.8: REJECT 2, signed by the gate."""
    pair = Pair(1)
    put(pair, "g1", standing_in(pair.gates["g1"], "10.0.0.0/8"))
    put(pair, "s", Deaf())
    peer = PeerIdentity(NOBODY, "printer.lab", leave=MAY)
    pair.open(1.0, service="ssh", peer=peer)
    terms = decode_body(RejectTerms, body_of(pair.last(Reject).data, Reject).signed)
    assert (terms.code, terms.from_key) == (
        Code.NO_SERVICE,
        pair.gates["g1"].context.key.public,
    )
    assert [one.code for one in pair.seen(ReportRefused, "c")] == [Code.NO_SERVICE]


def test_the_policy_of_the_gate_comes_first() -> None:
    """R-12.2: what it does not allow, it does not answer for."""
    pair = Pair(1, gate_policy=Policy(default=PolicyAction.REJECT))
    put(pair, "g1", standing_in(pair.gates["g1"], "10.0.0.0/8"))
    peer = PeerIdentity(NOBODY, "printer.lab", leave=MAY)
    pair.open(1.0, peer=peer)
    assert pair.kinds() == "c:OPEN g1:REJECT"


def test_a_gate_answers_for_hosts_of_one_side_only_and_for_no_others() -> None:
    """R-12.2: a host there that is asked from its own side, or has another address, is asked."""
    for side, network in (("inside", "10.0.0.0/8"), ("outside", "192.0.2.0/24")):
        pair = Pair(1)
        put(pair, "g1", standing_in(pair.gates["g1"], network, side=side))
        pair.open()
        assert pair.is_up
        assert pair.connection("c").agreement.stands == ""
        assert pair.kinds("s").startswith("s:ACCEPT")
