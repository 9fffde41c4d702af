"""A gate under test: a datagram as it reaches the gate, and proof that nothing moved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pair import (
    STRANGER,
    Entropy,
    Pair,
    make_host,
    make_open,
    message_of,
    reasons,
    snapshot,
)
from wayside.core.address import Address
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import (
    Message,
    encode,
)
from wayside.core.rule import Cid


def unmoved(pair: Pair, event: DatagramReceived, reason: DropReason) -> None:
    """The gate drops this for that reason, says nothing, and is what it was."""
    before, rules = snapshot(pair.gates["g1"]), dict(pair.kernel["g1"])
    assert reasons(pair.tell("g1", event)) == [reason]
    assert snapshot(pair.gates["g1"]) == before
    assert pair.kernel["g1"] == rules


def event_of(pair: Pair, kind: type[Message], node: str) -> DatagramReceived:
    """The last such datagram of a host, as the gate received it."""
    sent = pair.last(kind, node)
    transit = sent.destination not in pair.own["g1"]
    side = "inside" if node == "c" else "outside"
    return DatagramReceived(sent.data, sent.source, sent.destination, transit, side)


def changed(event: DatagramReceived, **fields: Any) -> DatagramReceived:
    """The same datagram, other fields of its body."""
    header, message = message_of(event.data)
    return replace(event, data=encode(header, replace(message, **fields)))


def an_open(pair: Pair, **more: Any) -> DatagramReceived:
    """A stranger's OPEN on its way through the gate to the server."""
    here, there = pair.own["c"][0], pair.own["s"][0]
    source = more.pop("source", here.with_port(40001))
    destination = more.pop("destination", there.with_port(443))
    came_from = more.pop("came_from", here)
    data = make_open(
        STRANGER,
        pair.s.context.key.public,
        source,
        destination,
        cid=more.pop("cid", Cid(b"a stranger's cid")),
        **more,
    )
    return DatagramReceived(data, came_from, there, True, "inside")


def waiting(kind: type[Message], gates: int = 1, **more: Any) -> Pair:
    """A pair in which every message of a kind is held back before it arrives."""
    pair = Pair(gates, **more)
    pair.hold.add(kind)
    return pair.open(0.05)


def beside(pair: Pair, name: str, **more: Any) -> Pair:
    """The same gates, at the same time, and another client next to the first.

    `server`: another one in the place of the first's, at the same address.
    """
    server = more.pop("server", None)
    other = Pair(len(pair.gates), client=make_host(name), server=server or pair.s, **more)
    family = pair.own["c"][0].family
    other.own = dict(pair.own)
    last = sum(name.encode()) % 100 + 100
    host = f"10.0.0.{last}:4747" if family == 4 else f"[fd00:0::{last}]:4747"
    other.own["c"] = (Address.parse(host), Address.parse(host))
    for node in (*pair.gates, *(() if server else ("s",))):
        other.nodes[node], other.kernel[node] = pair.nodes[node], pair.kernel[node]
    other.expires = pair.expires
    other.gates, other.inside, other.transport = pair.gates, pair.inside, pair.transport
    other.now, other.cid = pair.now, Cid(Entropy(f"cid {name}")(16))
    return other
