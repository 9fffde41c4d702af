"""Connections of transport 0: signaling only, so they have no flow that two could want."""

from __future__ import annotations

from pair import STRANGER, Pair, make_open
from wayside.core.address import Flow, Transport
from wayside.core.connection import State
from wayside.core.effects import ReportClosed
from wayside.core.identity import PeerIdentity
from wayside.core.rule import Cid


def test_connections_without_packets_never_replace_each_other() -> None:
    """R-5.1.9: there is no flow to be in use, neither one way nor the other, nor by another key."""
    pair = Pair()
    ends = [pair.own[node][0].with_port(0) for node in "cs"]
    flow = Flow(Transport.NONE, *ends)
    cids = [Cid(bytes([number]) * 16) for number in range(3)]
    for cid in cids[:2]:
        pair.tell("c", pair.request(cid=cid, wire=flow, local=flow))
        pair.run(0.5)
    back = pair.request(
        cid=cids[2],
        peer=PeerIdentity(pair.c.context.key.public),
        wire=flow.reversed(),
        local=flow.reversed(),
        signaling=pair.own["c"][0],
    )
    pair.tell("s", back)
    pair.run(0.5)
    data = make_open(
        STRANGER, pair.s.context.key.public, *ends, cid=pair.cid, transport=Transport.NONE
    )
    pair.inject("s", data, pair.own["c"][0])
    pair.run(100)
    for host in (pair.c, pair.s):
        assert {host.connections[cid].state for cid in cids} == {State.CONNECTED}
    assert [one.reason for one in pair.seen(ReportClosed)] == ["never confirmed"]
