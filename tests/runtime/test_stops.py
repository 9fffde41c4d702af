"""Which connections a person means by STOP, and what is said when there are none."""

from __future__ import annotations

import asyncio

import pytest

from pair import Pair
from wayside.core.address import Flow, Transport
from wayside.core.events import StopRequested
from wayside.core.identity import key_text
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.plan import InstalledRule
from wayside.runtime.control_types import StopRecord
from wayside.runtime.errors import NameUnknown, WaysideError
from wayside.runtime.stops import filter_records, say_stop, stopped_key


def said(pair: Pair, target: str, node: str = "s", lifetime_s: float = 60) -> list[StopRecord]:
    """Say STOP at a host of a pair, in which time passes at once."""

    def deliver(asked: StopRequested) -> None:
        pair.tell(node, asked)
        pair.run(0.1)

    host = pair.s if node == "s" else pair.c
    return asyncio.run(say_stop(host, deliver, stopped_key(target), lifetime_s))


@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_has_many_names(family: int) -> None:
    """R-5.8: peer, key, address, flow in either direction, cid or its beginning."""
    about = Pair(1, family=family).open().connection("s").agreement
    there = about.wire.destination
    spelt = "FD00:0::2" if family == 6 else str(there.ip)
    for target in (
        key_text(about.peer.key),
        str(there.ip),
        spelt,
        str(there),
        about.cid.hex(),
        about.cid.hex()[:4].upper(),
        str(about.wire),
        str(about.wire.reversed()),
        str(about.local).partition(" ")[2],
    ):
        pair = Pair(1, family=family).open()
        (record,) = said(pair, target)
        assert record.by == key_text(pair.gates["g1"].context.key.public)
        assert (record.boxes, record.lifetime_s, record.service) == (1, 60, "https")
        assert record.flow == str(about.wire.reversed())
        assert len(pair.filters["g1"]) == 1


@pytest.mark.parametrize("target", ["nobody.lab", "10.9.9.9", "ff", "0000", ""])
def test_what_is_nobody_is_said_to_be_nobody(target: str) -> None:
    pair = Pair(1).open()
    with pytest.raises(NameUnknown) as raised:
        said(pair, target)
    assert "wayside status" in raised.value.hint
    assert pair.filters["g1"] == {}


def test_who_asked_is_told_to_close() -> None:
    """R-5.8."""
    pair = Pair(1).open()
    with pytest.raises(WaysideError) as raised:
        said(pair, pair.cid.hex(), "c")
    assert (raised.value.code, "close" in str(raised.value)) == ("WS-1011", True)


def test_what_was_agreed_before_a_restart_has_to_be_refreshed_first() -> None:
    """R-5.8, R-6.5: what the OPEN said is not kept."""
    pair = Pair(1).open()
    pair.connection("s").keys.agreed = None
    with pytest.raises(WaysideError) as raised:
        said(pair, pair.cid.hex())
    assert "refresh" in raised.value.hint
    pair.run(45)
    assert said(pair, pair.cid.hex())[0].by


def test_there_is_an_end_to_what_a_host_keeps_in_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wayside.core.stopping.SAID_MAX", 0)
    with pytest.raises(WaysideError) as raised:
        said(Pair(1).open(), Pair().cid.hex())
    assert raised.value.code == "WS-1010"


def test_a_beginning_that_two_have_is_not_enough() -> None:
    pair = Pair(1).open()
    first = pair.s.connections[pair.cid]
    pair.s.connections[Cid(pair.cid[:8] + bytes(8))] = first
    with pytest.raises(NameUnknown, match="2 connections"):
        said(pair, pair.cid.hex()[:8])


def test_only_rules_that_drop_are_filters() -> None:
    flow = Flow(Transport.UDP, *(one.with_port(9) for one in Pair().own["c"]))
    rules = [
        InstalledRule(Rule(Cid(bytes(16)), flow, action, lifetime_s=9), 4.5, 3, 300)
        for action in (Action.ACCEPT, Action.DROP)
    ]
    (shown,) = filter_records(rules)
    assert (shown.flow, shown.expires_s, shown.packets, shown.bytes) == (str(flow), 4.5, 3, 300)
