import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel import memory
from wayside.kernel.memory import MemoryDataPlane
from wayside.kernel.plan import KernelError, Put, Remove

CID = Cid(bytes(16))
FLOW = Flow(Transport.UDP, Address.parse("10.1.0.2:1"), Address.parse("10.2.0.1:2"))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plane(clock: Clock) -> MemoryDataPlane:
    return MemoryDataPlane(clock, 120.0)


def accept(lifetime_s: float | None, renewed: bool) -> Rule:
    return Rule(CID, FLOW, Action.ACCEPT, None, lifetime_s, renewed)


def test_a_pending_rule_lives_its_time_whatever_packets_come(
    clock: Clock, plane: MemoryDataPlane
) -> None:
    """R-6.4."""
    plane.apply([Put(accept(5.0, renewed=False))])
    clock.now += 4.9
    assert plane.verdict(FLOW).action is Action.ACCEPT
    clock.now += 0.2
    assert plane.verdict(FLOW).action is None
    assert plane.rules() == []


def test_packets_renew_a_confirmed_rule(clock: Clock, plane: MemoryDataPlane) -> None:
    """R-6.4."""
    plane.apply([Put(accept(120.0, renewed=True))])
    for _ in range(5):
        clock.now += 100
        assert plane.verdict(FLOW, 50).action is Action.ACCEPT
    (found,) = plane.rules()
    assert (found.expires_s, found.packets, found.bytes) == (120.0, 5, 250)
    clock.now += 121
    assert plane.verdict(FLOW).action is None


def test_a_granted_lifetime_below_the_table_s_is_not_stretched_by_packets(
    clock: Clock, plane: MemoryDataPlane
) -> None:
    plane.apply([Put(accept(30.0, renewed=True))])
    clock.now += 20
    assert plane.verdict(FLOW).action is Action.ACCEPT
    clock.now += 20
    assert plane.verdict(FLOW).action is None


def test_a_rule_fits_only_its_5_tuple_and_direction(plane: MemoryDataPlane) -> None:
    """R-6.1."""
    plane.apply([Put(accept(None, renewed=True))])
    tcp = Flow(Transport.TCP, FLOW.source, FLOW.destination)
    for other in (FLOW.reversed(), tcp):
        assert plane.verdict(other).action is None


def test_a_rewriting_rule_gives_the_packet_its_new_5_tuple(plane: MemoryDataPlane) -> None:
    other = FLOW.reversed()
    plane.apply([Put(Rule(CID, FLOW, Action.REWRITE, other))])
    assert plane.verdict(FLOW).flow == other


def test_all_changes_or_none(plane: MemoryDataPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ELEMENTS_MAX", 1)
    with pytest.raises(KernelError, match="full"):
        plane.apply([Put(accept(None, True)), Put(Rule(CID, FLOW.reversed(), Action.ACCEPT))])
    assert plane.rules() == []


def test_a_remove_is_for_its_owner_only(plane: MemoryDataPlane) -> None:
    plane.apply([Put(accept(None, True))])
    plane.apply([Remove(Rule(Cid(bytes(range(16))), FLOW, Action.ACCEPT))])
    assert len(plane.rules()) == 1
    plane.apply([Remove(accept(None, True))])
    assert plane.rules() == []


INSIDE, NAT, FAR = (Address.parse(text) for text in ("10.1.0.2:1", "10.2.0.2:9", "10.2.0.1:2"))


def nat(inside: Address, lifetime_s: float | None, renewed: bool = True) -> list[Rule]:
    there = Flow(Transport.UDP, inside, FAR)
    beyond = Flow(Transport.UDP, NAT, FAR)
    return [
        Rule(CID, match, Action.REWRITE, rewrite, lifetime_s, renewed)
        for match, rewrite in ((there, beyond), (beyond.reversed(), there.reversed()))
    ]


def test_packets_renew_a_rewriting_rule_as_any_other(clock: Clock, plane: MemoryDataPlane) -> None:
    """R-6.4."""
    there, back = nat(INSIDE, 120.0)
    plane.apply([Put(there), Put(back)])
    for _ in range(3):
        clock.now += 100
        assert plane.verdict(there.match).flow == there.rewrite
    assert plane.verdict(back.match).action is None
    plane.apply([Put(one) for one in nat(INSIDE, 5.0, renewed=False)])
    clock.now += 4
    assert plane.verdict(back.match).flow == back.rewrite
    clock.now += 2
    assert plane.rules_of([there.match, back.match]) == []


def test_what_drops_goes_before_what_lets_in_and_no_refresh_lifts_it(
    clock: Clock, plane: MemoryDataPlane
) -> None:
    stop = Rule(CID, FLOW, Action.DROP, None, 60.0)
    for change in (Put(accept(None, True)), Put(stop), Put(accept(None, True))):
        plane.apply([change])
    assert plane.verdict(FLOW).action is Action.DROP
    plane.apply([Remove(accept(None, True)), Put(accept(120.0, True))])
    assert [found.rule.action for found in plane.rules_of([FLOW])] == [Action.ACCEPT, Action.DROP]
    assert plane.verdict(FLOW).action is Action.DROP
    clock.now += 61
    assert plane.verdict(FLOW).action is Action.ACCEPT


def test_a_gate_takes_no_two_rules_whose_packets_leave_alike(clock: Clock) -> None:
    gate = MemoryDataPlane(clock, 120.0, forwards=True)
    relay = Flow(Transport.UDP, INSIDE, NAT)
    gate.apply([Put(Rule(CID, relay, Action.REWRITE, Flow(Transport.UDP, NAT, FAR)))])
    straight = Rule(CID, Flow(Transport.UDP, INSIDE, FAR), Action.ACCEPT)
    for rule in (straight, nat(INSIDE, None)[0]):
        with pytest.raises(KernelError, match="same 5-tuple"):
            gate.apply([Put(rule)])
    assert [found.rule.match for found in gate.rules()] == [relay]
    gate.apply([Put(nat(INSIDE.with_port(7), None)[0])])
