"""The last refusals, for `wayside why`: a ring with a cap."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from wayside.core.effects import ReportRefused

from .codes import CODES, reject_code
from .control_types import RefusalRecord, WhyReply, WhyRequest

REFUSALS_MAX = 256
"""A person looks at the last few; a scan through a gate pushes them out after this many."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal and when it was, monotonic seconds."""

    at: float
    report: ReportRefused
    transport: str


class Refusals:
    """Remembers the newest refusals."""

    def __init__(self) -> None:
        self._ring: deque[Refusal] = deque(maxlen=REFUSALS_MAX)
        self.total = 0

    def add(self, report: ReportRefused, transport: str = "") -> None:
        """Remember one."""
        self.total += 1
        self._ring.appendleft(Refusal(time.monotonic(), report, transport))

    def answer(self, request: WhyRequest) -> WhyReply:
        """The refusals that a person asks for, newest first."""
        now = time.monotonic()
        return WhyReply(
            refusals=[
                _record(refusal, now)
                for refusal in self._ring
                if not request.target or request.target in (refusal.report.peer, refusal.report.by)
            ]
        )


def code_of(report: ReportRefused) -> str:
    """The code that a user sees."""
    return reject_code(report.code) if report.code else "WS-5001"


def _record(refusal: Refusal, now: float) -> RefusalRecord:
    report, code = refusal.report, code_of(refusal.report)
    return RefusalRecord(
        age_s=now - refusal.at,
        target=report.peer,
        service=report.service,
        transport=refusal.transport,
        by=report.by or "nobody",
        rule=report.rule,
        reason=report.reason,
        code=code,
        hint=CODES[code].text.partition(". ")[2] or CODES[code].text,
    )
