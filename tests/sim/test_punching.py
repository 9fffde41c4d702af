"""The world where every host is behind a NAT that says nothing, and what it takes there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wayside.core.address import Transport
from wayside.core.answerer import Answerer
from wayside.kernel.packets import Packet
from wayside.sim import rendezvous
from wayside.sim.wire import is_punch
from wayside.sim.world import World

SEEDS = range(3, 9)


def test_behind_such_nats_udp_is_answered_and_tcp_is_refused() -> None:
    """R-12.6: with all that goes wrong, and all checkers content."""
    answers = refused = 0
    for seed in SEEDS:
        world = World("legacy-nats", seed)
        result = world.run()
        assert result.ok, (seed, result.check, result.why)
        for client in world.layout.wanted:
            if client.wanted.transport is Transport.UDP:
                answers += client.progress.answers
            else:
                assert client.progress.answers == 0
                refused += client.progress.refused_at > 0
    assert answers > 0
    assert refused > 0


def never(_: Packet) -> bool:
    return False


def test_without_a_punch_nobody_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-12.6: at a NAT whose filter looks where packets come from. A control."""

    def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(Answerer, "_punch", nothing)
    results = [World("legacy-nats", seed, ()).run() for seed in SEEDS]
    assert "liveness" in {result.check for result in results}
    assert {result.check for result in results} <= {"", "liveness"}


@pytest.mark.parametrize("drops", [True, False])
def test_punches_come_to_no_application_because_the_rendezvous_drops_them(
    monkeypatch: pytest.MonkeyPatch, drops: bool
) -> None:
    """R-12.6: whatever its rules are. One that does not drop them is the control."""
    if not drops:
        monkeypatch.setattr(rendezvous, "is_punch", never)
    came = 0
    world = World("legacy-nats", 3, ())
    for host in world.layout.clients:
        deliver = host.sockets.deliver

        def look(packet: Packet, to: Callable[[Packet], bool] = deliver) -> bool:
            nonlocal came
            came += is_punch(packet)
            return is_punch(packet) or to(packet)

        monkeypatch.setattr(host.sockets, "deliver", look)
    world.run()
    assert (came == 0) is drops
