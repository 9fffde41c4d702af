"""What is decided about a connection is done in that order."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from wayside.core.address import Address
from wayside.core.effects import ChangeRules, Effect, ForgetConnection, SendDatagram
from wayside.core.rule import Cid
from wayside.kernel.turns import Turn, Turns, cids_of

CIDS = [Cid(bytes([number]) * 16) for number in range(4)]
THERE = Address.parse("192.0.2.1:4747")


def change(*cids: int) -> list[Effect]:
    return [ChangeRules(CIDS[number]) for number in cids]


def told(number: int) -> list[Effect]:
    return [SendDatagram(bytes(16) + CIDS[number] + b"x", THERE)]


@dataclass
class Kernel:
    """Answers changes when it is told to; everything else is done at once."""

    done: list[Effect] = field(default_factory=list[Effect])
    asked: list[Turn] = field(default_factory=list[Turn])
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        self.turns = Turns(self.run)

    def run(self, turn: Turn) -> None:
        if any(isinstance(one, ChangeRules) for one in turn.effects):
            self.asked.append(turn)
        else:
            self.end(turn)

    def end(self, turn: Turn) -> None:
        self.done += turn.effects
        self.turns.done(turn)

    def answer(self, at: int = 0) -> None:
        self.end(self.asked.pop(at))


def test_what_a_connection_says_next_waits_for_its_rules_and_nobody_elses() -> None:
    """R-5.4.3, R-6.2."""
    kernel = Kernel()
    kernel.turns.take(change(0))
    kernel.turns.take(told(0))
    kernel.turns.take(told(1))
    assert kernel.done == told(1)
    kernel.answer()
    assert kernel.done == [*told(1), *change(0), *told(0)]


def test_changes_of_one_connection_reach_the_kernel_one_after_the_other() -> None:
    kernel = Kernel()
    kernel.turns.take(change(0))
    kernel.turns.take(change(0, 1))
    kernel.turns.take(change(1))
    kernel.turns.take(change(2))
    assert [cids_of(turn.effects) for turn in kernel.asked] == [(CIDS[0],), (CIDS[2],)]
    kernel.answer()
    assert [cids_of(turn.effects) for turn in kernel.asked] == [(CIDS[2],), tuple(CIDS[:2])]
    kernel.answer(1)
    kernel.answer(1)
    kernel.answer()
    assert kernel.done == [*change(0), *change(0, 1), *change(1), *change(2)]


@pytest.mark.parametrize("seed", range(40))
def test_no_order_of_answers_changes_the_order_of_a_connection(seed: int) -> None:
    chance, kernel = Random(seed), Kernel()
    wanted: list[list[Effect]] = []
    for number in range(120):
        some = chance.sample(range(4), chance.randint(1, 3))
        batch: list[Effect] = [ForgetConnection(CIDS[one]) for one in some]
        batch = [*change(some[0]), *batch] if chance.random() < 0.5 else batch
        batch += [SendDatagram(bytes(16) + CIDS[one] + bytes([number]), THERE) for one in some]
        wanted.append(batch)
        kernel.turns.take(batch)
        while kernel.asked and chance.random() < 0.5:
            kernel.answer(chance.randrange(len(kernel.asked)))
    while kernel.asked:
        kernel.answer(chance.randrange(len(kernel.asked)))
    for cid in CIDS:
        order = [one for one in kernel.done if cids_of([one]) == (cid,)]
        assert order == [one for batch in wanted for one in batch if cids_of([one]) == (cid,)]


def test_ten_thousand_that_wait_are_done_without_deep_calls() -> None:
    kernel = Kernel()
    kernel.turns.take(change(0))
    for _ in range(10_000):
        kernel.turns.take(told(0))
    kernel.answer()
    assert len(kernel.done) == 10_001
