"""One place writes what happened to connections: the same words in every log."""

from __future__ import annotations

from pathlib import Path

from wayside.core.address import Address, Flow, Transport
from wayside.core.effects import ReportClosed, ReportOpened, ReportRefused
from wayside.core.rule import Cid
from wayside.runtime.eventlog import EventLog, read
from wayside.runtime.reports import Report, log_report

CID = Cid(bytes(range(16)))
FLOW = Flow(Transport.TCP, Address.parse("10.0.0.1:4000"), Address.parse("10.0.0.2:443"))


def logged(tmp_path: Path, report: Report) -> list[dict[str, object]]:
    log = EventLog(tmp_path / "log", "gate", "gate")
    log_report(log, report)
    log.close()
    names = ("event", "cid", "peer", "service", "flow", "lifetime_s", "why", "code", "by")
    return [
        {name: value for name in names if (value := getattr(one, name))}
        for one in read([tmp_path / "log"])
    ]


def test_an_opened_connection_is_told_once_and_no_refresh_of_it(tmp_path: Path) -> None:
    opened = ReportOpened(CID, "a.lab", "https", FLOW, FLOW, 60.0)
    assert logged(tmp_path, opened) == [
        {
            "event": "connection.opened",
            "cid": CID.hex(),
            "peer": "a.lab",
            "service": "https",
            "flow": "tcp 10.0.0.1:4000 > 10.0.0.2:443",
            "lifetime_s": 60.0,
        }
    ]
    refreshed = ReportOpened(CID, "a.lab", "https", FLOW, FLOW, 60.0, refreshed=True)
    assert len(logged(tmp_path, refreshed)) == 1


def test_a_refusal_says_who_and_why(tmp_path: Path) -> None:
    refused = ReportRefused(CID, "a.lab", "https", 1, "not here", "gate1")
    assert logged(tmp_path, refused) == [
        {
            "event": "connection.refused",
            "cid": CID.hex(),
            "peer": "a.lab",
            "service": "https",
            "why": "not here",
            "code": "WS-3001",
            "by": "gate1",
        }
    ]


def test_an_end_says_why(tmp_path: Path) -> None:
    closed = ReportClosed(CID, "a.lab", "https", "closed here")
    assert logged(tmp_path, closed) == [
        {
            "event": "connection.closed",
            "cid": CID.hex(),
            "peer": "a.lab",
            "service": "https",
            "why": "closed here",
        }
    ]
