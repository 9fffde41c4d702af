"""What the machines report of connections, as records of the event log.

One place for hosts, gates and rendezvous, so that the same thing has the same words in every log.
"""

from __future__ import annotations

from wayside.core.effects import ReportClosed, ReportOpened, ReportRefused

from .eventlog import EventLog
from .refusals import code_of

Report = ReportOpened | ReportRefused | ReportClosed


def log_report(log: EventLog, report: Report) -> None:
    """Write down that a connection was opened or refused, or has ended; a refresh is no news."""
    cid = report.cid.hex()
    match report:
        case ReportOpened(refreshed=True):
            pass
        case ReportOpened():
            log.write(
                "connection.opened",
                cid=cid,
                peer=report.peer,
                service=report.service,
                flow=str(report.wire),
                lifetime_s=report.lifetime_s,
                why=report.stands,
            )
        case ReportRefused():
            log.write(
                "connection.refused",
                cid=cid,
                peer=report.peer,
                service=report.service,
                why=report.reason,
                code=code_of(report),
                by=report.by,
            )
        case ReportClosed():
            log.write(
                "connection.closed",
                cid=cid,
                peer=report.peer,
                service=report.service,
                why=report.reason,
            )
