"""Effects are performed in their order; what is behind a change of rules waits for the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.core.constants import PENDING_S
from wayside.core.effects import ChangeRules, Effect, ForgetConnection
from wayside.core.events import Event, RulesFailed
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.plan import Change, InstalledRule, KernelError, Put, Remove
from wayside.runtime.driver import Driver
from wayside.runtime.eventlog import EventLog, read

CIDS = [Cid(bytes([number]) * 16) for number in range(4)]
FLOW = Flow(Transport.UDP, Address.parse("10.0.0.1:1"), Address.parse("10.0.0.2:2"))


@dataclass
class Keeper:
    """A kernel that answers when told to; `asked`: by turn of the loop."""

    refused: tuple[Cid, ...] = ()
    asked: list[list[Change]] = field(default_factory=list[list[Change]])
    answers: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])

    def apply(self, changes: Sequence[Change]) -> asyncio.Future[None]:
        self.asked.append(list(changes))
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]

    async def look_up(self, matches: Sequence[Flow]) -> list[InstalledRule]:
        raise AssertionError(matches)

    async def answer(self) -> None:
        for changes, future in zip(self.asked, self.answers, strict=True):
            if future.done():
                continue
            if changes[0].rule.owner in self.refused:
                future.set_exception(KernelError("no room"))
            else:
                future.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)


@dataclass
class Told:
    """A machine that has nothing to say; `events`: what it heard of."""

    events: list[Event] = field(default_factory=list[Event])
    deadline: float | None = None

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.events.append(event)
        return []


def put(number: int) -> ChangeRules:
    return ChangeRules(CIDS[number], put=(Rule(CIDS[number], FLOW, Action.ACCEPT),))


def performed(effects: list[Effect], *refused: Cid) -> tuple[Keeper, Told, list[Effect]]:
    """What the kernel was asked for before it answered, what the machine heard, what came after."""
    keeper, machine, after = Keeper(refused), Told(), list[Effect]()

    async def run() -> None:
        log = EventLog(None, "x", "host")
        driver = Driver(machine, keeper, {}, log, after.append)
        driver.perform(effects)
        assert after == []
        while any(not future.done() for future in keeper.answers):
            await keeper.answer()

    asyncio.run(run())
    return keeper, machine, after


def test_changes_side_by_side_are_asked_for_before_the_kernel_answers_the_first() -> None:
    """R-10.5: so that they become one transaction."""
    keeper, after = Keeper(), list[Effect]()
    effects: list[Effect] = [put(0), put(1), put(2), ForgetConnection(CIDS[3]), put(3)]

    async def run() -> None:
        driver = Driver(Told(), keeper, {}, EventLog(None, "x", "host"), after.append)
        driver.perform(effects)
        owners = [changes[0].rule.owner for changes in keeper.asked]
        assert (owners, after) == (CIDS[:3], [])
        keeper.answers[2].set_result(None)
        await asyncio.sleep(0)
        assert after == []  # the others have not been answered
        await keeper.answer()
        assert after == [ForgetConnection(CIDS[3])]
        assert len(keeper.asked) == 4

    asyncio.run(run())


def test_one_refusal_among_several_changes_stops_that_connection_alone() -> None:
    told: list[Effect] = [ForgetConnection(cid) for cid in CIDS[:3]]
    _, machine, after = performed([put(0), put(1), put(2), *told], CIDS[1])
    assert machine.events == [RulesFailed(CIDS[1], "no room")]
    assert after == [ForgetConnection(CIDS[0]), ForgetConnection(CIDS[2])]


def test_a_lone_refusal_stops_all_that_is_behind_it() -> None:
    _, machine, after = performed([put(0), ForgetConnection(CIDS[3])], CIDS[0])
    assert machine.events == [RulesFailed(CIDS[0], "no room")]
    assert after == []


def test_a_refused_removal_stops_nobody() -> None:
    """What is gone, or cannot be taken away, is no reason not to go on."""
    gone = ChangeRules(CIDS[0], remove=put(0).put)
    keeper, machine, after = performed([gone, ForgetConnection(CIDS[0])], CIDS[0])
    assert machine.events == []
    assert after == [ForgetConnection(CIDS[0])]
    assert [type(change) for change in keeper.asked[0]] == [Remove]


def test_a_connection_without_packets_waits_for_no_kernel() -> None:
    keeper, after = Keeper(), list[Effect]()

    async def run() -> None:
        driver = Driver(Told(), keeper, {}, EventLog(None, "x", "host"), after.append)
        driver.perform([ChangeRules(CIDS[0]), ForgetConnection(CIDS[0])])

    asyncio.run(run())
    assert (keeper.asked, after) == ([], [ForgetConnection(CIDS[0])])


def test_what_goes_comes_before_what_is_put_in_its_place() -> None:
    rule = put(0).put[0]
    keeper, _, _ = performed([ChangeRules(CIDS[0], put=(rule,), remove=(rule,))])
    assert keeper.asked == [[Remove(rule), Put(rule)]]


def test_what_is_decided_later_about_a_connection_waits_for_its_rules() -> None:
    """R-5.4.3: an OPEN that confirms what was agreed leaves when the rules for that are in."""
    keeper, after = Keeper(), list[Effect]()

    async def run() -> None:
        driver = Driver(Told(), keeper, {}, EventLog(None, "x", "host"), after.append)
        driver.perform([put(0)])
        driver.perform([ForgetConnection(CIDS[0])])
        driver.perform([ForgetConnection(CIDS[1])])
        assert after == [ForgetConnection(CIDS[1])]
        await keeper.answer()
        assert after == [ForgetConnection(CIDS[1]), ForgetConnection(CIDS[0])]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("action", "lifetime_s", "renewed", "pending"),
    [
        (Action.ACCEPT, PENDING_S, False, True),
        (Action.REWRITE, PENDING_S, False, True),
        (Action.ACCEPT, 3.0, False, False),
        (Action.REWRITE, PENDING_S, True, False),
        (Action.DROP, PENDING_S, False, False),
    ],
)
def test_the_log_says_of_a_rule_whether_it_waits_for_confirm(
    tmp_path: Path, action: Action, lifetime_s: float, renewed: bool, pending: bool
) -> None:
    rewrite = FLOW.reversed() if action is Action.REWRITE else None
    rule = Rule(CIDS[0], FLOW, action, rewrite, lifetime_s, renewed)

    async def run() -> None:
        log = EventLog(tmp_path / "events", "x", "gate")
        keeper = Keeper()
        Driver(Told(), keeper, {}, log, lambda _: None).perform([ChangeRules(CIDS[0], put=(rule,))])
        await keeper.answer()

    asyncio.run(run())
    (record,) = [one for one in read([tmp_path / "events"]) if one.event == "rule.installed"]
    assert (record.pending, record.lifetime_s) == (pending, lifetime_s)
