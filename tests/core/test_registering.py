"""A host that says where it is: from behind a NAT, on its way out of it, and hidden.

rendezvous c ---- g1 ---- host s        (g1: a NAT with the host inside, or a firewall)
"""

from __future__ import annotations

import pytest

from core.test_moves import move
from natted import without_ports
from pair import Pair, body_of, hops_of
from star import make_rendezvous
from wayside.core.address import Address, Transport
from wayside.core.codec import decode_body
from wayside.core.effects import DeliverData, KeepLocation, ReportOpened, ReportRefused
from wayside.core.events import CloseRequested, OpenRequested
from wayside.core.host import Offered
from wayside.core.identity import PeerIdentity
from wayside.core.messages import Accept, Code, Confirm, Message, Open, OpenTerms
from wayside.core.rendezvous import Located, Rendezvous, read_location
from wayside.core.rule import Cid
from wayside.core.way import Box

FAMILIES = pytest.mark.parametrize("family", [4, 6])
REGISTRATION = Cid(b"registration cid")


def register(pair: Pair) -> Pair:
    """A rendezvous in the client's place; the host says where it is."""
    rendezvous = make_rendezvous()
    pair.nodes["c"] = rendezvous
    pair.cid = REGISTRATION
    here, there = pair.own["s"][0], pair.own["c"][0]
    flow = without_ports(here, there)
    peer = PeerIdentity(rendezvous.host.context.key.public)
    pair.tell("s", OpenRequested(REGISTRATION, peer, "location", flow, flow, there))
    return pair.run(1)


def behind_nat(family: int = 4, **more: object) -> Pair:
    """The host is inside, the rendezvous outside."""
    return Pair(1, family=family, inside="s", nats=("g1",), **more)  # type: ignore[arg-type]


def located(pair: Pair) -> list[tuple[Address, float]]:
    """What the rendezvous has kept of the host, and for how long, the newest last."""
    kept: list[tuple[Address, float]] = []
    for effect in pair.seen(KeepLocation, "c"):
        assert effect.key == pair.s.context.key.public
        found = read_location(effect.record, effect.key)
        assert found is not None
        assert found == Located(found.at, effect.order, found.walled)
        kept.append((found.at, effect.lifetime_s))
    orders = [effect.order for effect in pair.seen(KeepLocation, "c")]
    assert orders == sorted(orders)
    return kept


def alternatives(pair: Pair) -> list[tuple[Address, ...]]:
    """What the host's OPENs said, each once."""
    said = {
        body_of(one.data, Open).signed: decode_body(
            OpenTerms, body_of(one.data, Open).signed
        ).alternatives
        for one in pair.wire
        if one.node == "s" and one.kind is Open
    }
    return list(said.values())


@FAMILIES
def test_a_host_that_learns_of_a_nat_says_so_at_once(family: int) -> None:
    """R-10.2: the first registration names nobody who can be reached; the second the NAT."""
    pair = register(behind_nat(family))
    outside = pair.outside().with_port(4747)
    assert alternatives(pair) == [(), (outside,)]
    assert located(pair) == [(outside, 120.0)]
    assert len(pair.seen(ReportOpened, "s")) == 2
    pair.run(100)
    assert set(alternatives(pair)[1:]) == {(outside,)}
    assert {at for at, _ in located(pair)} == {outside}


@FAMILIES
def test_a_host_without_a_nat_is_where_it_says(family: int) -> None:
    """R-10.2: one OPEN is enough, through a firewall as well."""
    for gates in (0, 1):
        pair = register(Pair(gates, family=family, inside="s"))
        assert alternatives(pair) == [()]
        assert located(pair) == [(pair.own["s"][0], 120.0)]


@pytest.mark.parametrize("kind", [Open, Accept, Confirm])
def test_a_registration_survives_the_loss_of_any_message(kind: type[Message]) -> None:
    """R-5.1.7, R-5.2.3, R-10.2."""
    pair = behind_nat()
    pair.lose[kind] = 1
    register(pair).run(4)
    assert located(pair)[-1] == (pair.outside().with_port(4747), 120.0)


@FAMILIES
def test_a_host_that_leaves_its_nat_is_where_it_says_again(family: int) -> None:
    """R-10.2: from the first OPEN that does not cross the NAT; alternatives are left out."""
    pair = register(behind_nat(family))
    pair.gates["g1"].context.box = Box()
    new = move_registered(pair)
    pair.run(6)
    assert located(pair)[-1][0] == new
    assert alternatives(pair)[-1] == ()
    assert pair.seen(ReportOpened, "s")[-1].refreshed


def test_a_host_that_comes_behind_a_nat_is_found_there() -> None:
    """R-10.2: another NAT than before is another address, too."""
    pair = register(Pair(1, inside="s"))
    pair.gates["g1"].context.box = behind_nat().gates["g1"].context.box
    move_registered(pair)
    pair.run(6)
    outside = pair.outside().with_port(4747)
    assert located(pair)[-1][0] == outside
    assert alternatives(pair)[-1] == (outside,)


def move_registered(pair: Pair) -> Address:
    """The host has another address."""
    move(pair, "s")
    return pair.own["s"][0]


def test_a_rendezvous_forgets_a_host_at_its_close_and_after_its_lifetime() -> None:
    """R-10.2: a lifetime of 0 takes the location away."""
    pair = register(behind_nat())
    pair.tell("s", CloseRequested(REGISTRATION, "leaving"))
    pair.run(1)
    outside = pair.outside().with_port(4747)
    assert located(pair)[-1] == (outside, 0.0)
    pair = register(behind_nat())
    pair.lose[Open] = 10**6
    pair.run(200)
    assert located(pair)[-1] == (outside, 0.0)


def test_before_its_confirm_a_host_is_nowhere() -> None:
    """R-10.2: an OPEN and its ACCEPT show nobody to be there."""
    pair = behind_nat()
    pair.hold.add(Confirm)
    register(pair)
    assert located(pair) == []
    pair.release()
    pair.run(1)
    assert located(pair)[-1][1] == 120.0


def test_a_host_behind_a_nat_is_asked_at_the_nat_that_it_named() -> None:
    """R-10.4, R-8.7: REDIRECT to the NAT, which finds it by its key."""
    pair = register(behind_nat())
    rendezvous = pair.nodes["c"]
    assert isinstance(rendezvous, Rendezvous)
    assert pair.gates["g1"].table.inside(pair.s.context.key.public, 4) == pair.own["s"][0]


# --- a question and its answer, without any packets ---


def questions(gates: int = 0, *, nats: tuple[str, ...] = (), **more: object) -> Pair:
    """The client asks the server's service `join`, with data on its OPEN."""
    made = {"data": b"question", "answer": b"answer", **more}
    pair = Pair(gates, transport=Transport.NONE, nats=nats, **made)  # type: ignore[arg-type]
    pair.s.answering.services["join"] = Offered(0)
    flow = without_ports(pair.own["c"][0], pair.own["s"][0])
    return pair.open(1, service="join", wire=flow, local=flow)


@FAMILIES
@pytest.mark.parametrize(("gates", "nats"), [(0, ()), (1, ()), (2, ()), (1, ("g1",))])
def test_a_question_rides_on_open_and_its_answer_on_accept(
    gates: int, nats: tuple[str, ...], family: int
) -> None:
    """R-5.1.5, R-5.2.5: in one round trip, without a packet or a rule."""
    pair = questions(gates, nats=nats, family=family)
    assert pair.is_up
    (asked,), (answered,) = pair.seen(DeliverData, "s"), pair.seen(DeliverData, "c")
    assert (asked.data, answered.data) == (b"question", b"answer")
    assert asked.flow.transport is Transport.NONE
    assert all(pair.kernel[node] == {} for node in pair.order)
    assert pair.kinds("c") == "c:OPEN c:CONFIRM"
    assert len(hops_of(pair.last(Accept, "s").data)) == gates
    assert not any(b"question" in one.data or b"answer" in one.data for one in pair.wire)


def test_who_is_not_answered_at_once_is_let_in_without() -> None:
    """R-5.2.5: ACCEPT goes without data after 30 ms."""
    pair = questions(answer=None)
    assert pair.is_up
    assert [one.data for one in pair.seen(DeliverData, "s")] == [b"question"]
    assert pair.seen(DeliverData, "c") == []


def test_a_question_is_delivered_once_however_often_its_open_comes() -> None:
    """R-5.2.1: copies on the network are no further questions."""
    pair = Pair(transport=Transport.NONE, data=b"question", answer=b"answer")
    pair.copy[Open] = 3
    pair.s.answering.services["join"] = Offered(0)
    flow = without_ports(pair.own["c"][0], pair.own["s"][0])
    pair.open(1, service="join", wire=flow, local=flow)
    assert len(pair.seen(DeliverData, "s")) == len(pair.seen(DeliverData, "c")) == 1


def test_a_question_that_the_policy_refuses_is_never_delivered() -> None:
    """R-5.1.8: and neither is one for a service that nobody offers."""
    pair = Pair(transport=Transport.NONE, data=b"question")
    flow = without_ports(pair.own["c"][0], pair.own["s"][0])
    pair.open(1, service="join", wire=flow, local=flow)
    assert pair.seen(DeliverData) == []
    assert [report.code for report in pair.seen(ReportRefused, "c")] == [Code.NO_SERVICE]
