"""Who in this process waits for a connection, and what became of those that were refused."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from wayside.core.address import Flow
from wayside.core.effects import ReportOpened, ReportRefused
from wayside.core.rule import Cid

from .errors import NoAnswer, Refused, WaysideError
from .refusals import Refusals


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection that was allowed; `wire` and `local` as in ReportOpened."""

    cid: Cid
    wire: Flow
    local: Flow


class Asking:
    """Futures by cid, and the ring of refusals."""

    def __init__(self) -> None:
        self.refusals = Refusals()
        self._futures: dict[Cid, asyncio.Future[Opened]] = {}

    def expect(self, cid: Cid) -> asyncio.Future[Opened]:
        """What becomes of a connection; ask for it before the connection is asked for.

        The future raises Refused and NoAnswer.
        """
        future: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()
        self._futures[cid] = future
        future.add_done_callback(lambda _: self._futures.pop(cid, None))
        return future

    def opened(self, report: ReportOpened) -> None:
        """Tell who waits."""
        future = self._futures.get(report.cid)
        if future is not None and not future.done():
            future.set_result(Opened(report.cid, report.wire, report.local))

    def refused(self, report: ReportRefused, transport: str) -> None:
        """Tell who waits, and remember it for `why`."""
        self.refusals.add(report, transport)
        future = self._futures.get(report.cid)
        if future is not None and not future.done():
            future.set_exception(error_of(report))


def error_of(report: ReportRefused) -> WaysideError:
    """A refusal as an error: a no is never shown as a timeout."""
    if report.code == 0:
        return NoAnswer(
            f"{report.peer} did not answer for {report.service}",
            why="neither the host nor a gate on the way said anything",
            hint="wayside explain WS-5001",
        )
    return Refused.by(report.by, report.code, rule=report.rule, reason=report.reason)
