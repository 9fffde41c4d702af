"""Token of another gate: sealed state shown to a box that did not seal it, or not for this."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attacks.scene import BOXES, Scene, forged, unharmed, unmoved
from pair import hops_of, make_gate, message_of, reasons
from wayside.core.address import Flow, Transport
from wayside.core.effects import Dropped
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import MESSAGES, Accept, Close, Confirm, Message, Open, encode
from wayside.core.rule import Cid


@pytest.mark.parametrize("kind", [Accept, Confirm])
@pytest.mark.parametrize("box", BOXES)
def test_a_gate_knows_its_own_tokens_alone(box: str, kind: type[Message]) -> None:
    """R-8.2: another gate's record, as it is and with our own name on it."""
    scene = Scene(box).open()
    event = scene.heard("g1", kind)
    other = make_gate("another")
    assert reasons(other.handle(event, scene.now)) == [DropReason.TOKEN]
    renamed = [replace(hop, key=other.context.key.public) for hop in hops_of(event.data)]
    effects = other.handle(with_hops(event, *renamed), scene.now)
    assert reasons(effects) == [DropReason.TOKEN]
    assert other.passages == {}


@pytest.mark.parametrize("kind", [Accept, Confirm, Close])
@pytest.mark.parametrize("box", BOXES)
def test_a_token_of_one_connection_opens_and_shuts_no_other(box: str, kind: type[Message]) -> None:
    """R-8.2: it is bound to cid and seq."""
    scene = Scene(box).open()
    first = scene.heard("g1", Accept)
    scene.cid = Cid(b"the second cid 1")
    wire = Flow(Transport.TCP, scene.client.with_port(40_500), scene.server.with_port(443))
    scene.open(wire=wire, local=wire)
    assert len(scene.gates["g1"].passages) == 2
    seen = [e for n, e in scene.came if n == "s" and e.data[4] == Open.TYPE][-1].data
    data = forged(kind, seen, hops=hops_of(first.data))
    for transit in (True, False):
        event = DatagramReceived(data, scene.server, scene.beyond, transit, "outside")
        unmoved(scene, "g1", event, DropReason.TOKEN)


def test_hosts_read_no_token() -> None:
    """R-8.1, R-8.4: to an end it is bytes under a hash: other bytes, another hash."""
    scene = Scene()
    scene.hold.add(Accept)
    scene.open(0.05)
    right = next(event for _, event in scene.held)
    (hop,) = hops_of(right.data)
    event = replace(with_hops(right, replace(hop, token=b"x" * 90)), destination=scene.client)
    unmoved(scene, "c", event, DropReason.SIGNATURE)


@pytest.mark.parametrize("box", BOXES)
def test_a_confirm_with_anothers_hops_is_stale_at_the_responder(box: str) -> None:
    """R-5.3.2: `seen` is of the ACCEPT to the OPEN with exactly these hops."""
    scene = Scene(box).open()
    confirm = scene.heard("s", Confirm)
    (hop,) = hops_of(confirm.data)
    effects = unharmed(scene, "s", with_hops(confirm, replace(hop, token=b"x" * 90)))
    assert effects == [Dropped(DropReason.STALE, confirm.source)]


def with_hops(event: DatagramReceived, *hops: Any) -> DatagramReceived:
    """The same datagram with other hop records."""
    header, message = message_of(event.data)
    assert type(message) in MESSAGES.values()
    changed: Any = message
    return replace(event, data=encode(header, replace(changed, hops=tuple(hops))))
