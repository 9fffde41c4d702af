"""Forged STOP: nobody takes one yet, whoever signs it; so nobody can be stopped by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, ELSEWHERE, NODES, Scene, forged, unmoved
from pair import STRANGER
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import Open, Stop


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("box", BOXES)
def test_nobody_takes_a_stop(box: str, node: str) -> None:
    """R-5.8: neither a stranger's nor one by the receiver itself, with or without hops."""
    scene = Scene(box).open()
    opened = scene.heard("s", Open).data
    for key in (STRANGER, scene.s.context.key, scene.c.context.key):
        for hops in (None, ()):
            data = forged(Stop, opened, key=key, hops=hops)
            for source in (scene.server, scene.client, ELSEWHERE):
                event = DatagramReceived(data, source, scene.client, node == "g1", "outside")
                unmoved(scene, node, event, DropReason.UNEXPECTED)
                unmoved(scene, node, replace(event, side="inside"), DropReason.UNEXPECTED)
    scene.run(60)
    assert scene.is_up


@pytest.mark.parametrize("node", ["c", "s"])
def test_a_stop_for_nobodys_cid_is_unknown(node: str) -> None:
    """R-7.2."""
    scene = Scene().open()
    data = forged(Stop, scene.heard("s", Open).data)
    unmoved(Scene(), node, DatagramReceived(data, ELSEWHERE, scene.client), DropReason.UNKNOWN)
