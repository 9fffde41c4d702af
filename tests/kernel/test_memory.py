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
