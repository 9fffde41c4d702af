"""What grows with a table: memory, messages a second, what a timer costs; for one role at a time.

A crowd is a machine of `core` with very many connections, in a process of its own, over a clock
that is turned by hand: no socket and no kernel. Crowds of different sizes stand side by side and
take turns; each is compared with the next smaller one, a decade below, so that a ratio of 1 is
linear growth and 0.1 would be a walk through the whole table. Signing a million connections takes
too long: a sample is opened by OPEN, ACCEPT and CONFIRM, the rest by the machine's own `restore`,
as after a restart, from what it said for the sample; what one of the sample weighs is said beside.

A role is a class that fills a table and runs a round: see `scale_gate.py`, `scale_host.py`,
`scale_rendezvous.py`.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from resource import getpagesize
from statistics import median
from types import TracebackType
from typing import Protocol, cast

from figure import Figure, compared, single
from msgspec.structs import replace

from wayside.core.effects import ChangeRules, Effect, SendDatagram
from wayside.runtime.collector import settle

BYTES_MAX = 2048
"""Of one connection: a million are 2 GB then, as much as a small machine can spare."""

REACH = 0.5
"""Of the smaller crowd's rate: a decade costs steps in a heap, and misses in the caches; a walk
through the whole table would leave 0.1."""

ANSWER_S = 200.0
"""A crowd that says nothing for so long hangs."""


class Crowd(Protocol):
    """A machine with very many connections. Its constructor takes how many it will have."""

    def fill(self) -> Mapping[str, float]:
        """Make them; bytes of a connection, by the name of its figure."""
        ...

    def round(self) -> Mapping[str, float]:
        """Do some work; its rates by `figure, unit`, more is better."""
        ...


class Apart:
    """A crowd in a process of its own; a context manager that ends it."""

    def __init__(self, role: Callable[[int], Crowd], count: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(role, count, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.join()

    def answer(self) -> Mapping[str, float]:
        """What it says next: first of its memory, then of each round."""
        if not self._ours.poll(ANSWER_S):
            raise RuntimeError("a crowd says nothing any more")
        return cast("Mapping[str, float]", self._ours.recv())

    def round(self) -> Mapping[str, float]:
        """Let it do a round."""
        self._ours.send("round")
        return self.answer()


def serve(role: Callable[[int], Crowd], count: int, pipe: Connection) -> None:
    """The other process: fill, then a round for every word."""
    settle()
    crowd = role(count)
    pipe.send(crowd.fill())
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(crowd.round())


def compare(
    name: str, role: Callable[[int], Crowd], sizes: Sequence[int], rounds: int, note: str
) -> Iterator[Figure]:
    """Crowds of these sizes, the smallest first: memory, then rates taken in turns."""
    with ExitStack() as stack:
        crowds = [stack.enter_context(Apart(role, size)) for size in sizes]
        weights = [crowd.answer() for crowd in crowds]
        yield from weighed(name, sizes, weights, note)
        taken: list[list[Mapping[str, float]]] = [[] for _ in crowds]
        for turn in range(rounds):
            for at in range(len(crowds))[:: -1 if turn % 2 else 1]:
                taken[at].append(crowds[at].round())
        for what in taken[0][0]:
            kind, _, unit = what.rpartition(", ")
            before: list[float] | None = None
            for size, of_one in zip(sizes, taken, strict=True):
                label, samples = f"{name}, {size:,}: {kind}", [rates[what] for rates in of_one]
                if before is None:
                    yield single(label, unit, median(samples), samples=samples)
                else:
                    yield compared(label, unit, samples, before, reach=REACH)
                before = samples


def weighed(
    name: str, sizes: Sequence[int], weights: Sequence[Mapping[str, float]], note: str = ""
) -> Iterator[Figure]:
    """Bytes of a connection at each size; the ratio is to the size before."""
    for what in weights[0]:
        before: float | None = None
        for size, weight in zip(sizes, weights, strict=True):
            value = weight[what]
            figure = single(
                f"{name}, {size:,}: {what}",
                "bytes",
                value,
                reach=BYTES_MAX,
                at_most=True,
                control=before,
                note=note if size == sizes[-1] else "",
            )
            yield replace(figure, ratio=value / before if before else None)
            before = value


def opened(name: str, role: Callable[[int], Crowd], count: int) -> Iterator[Figure]:
    """What connections weigh that were all opened by messages."""
    with Apart(role, count) as crowd:
        yield from weighed(name, [count], [crowd.answer()])


def sent(effects: Sequence[Effect]) -> list[SendDatagram]:
    """All datagrams, those that wait for rules, too."""
    found: list[SendDatagram] = []
    for effect in effects:
        if isinstance(effect, SendDatagram):
            found.append(effect)
        elif isinstance(effect, ChangeRules):
            found += effect.then
    return found


def resident() -> int:
    """Memory of this process, bytes; garbage is gone."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()
