"""What the simulator once found, mended since, in worlds that were made for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wayside.sim.world import World
from wayside.sim.worlds import WORLDS


def test_two_hosts_behind_one_nat_register_with_one_rendezvous(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R-8.7, R-10.1: the ACCEPT of the second is dropped (`full`): it is never found."""
    spec = WORLDS["nat-in"]
    monkeypatch.setitem(WORLDS, "nat-in", replace(spec, more=replace(spec.more, servers=2)))
    assert World("nat-in", 2, ()).run().why == ""


def test_a_relay_lends_two_ports_where_it_has_to_lend_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-8.7, R-2.6: each refresh is dropped (`address`), and the connection ends."""
    spec = WORLDS["hidden-mobile-server"]
    spec = replace(spec, more=replace(spec.more, own_ports=False))
    monkeypatch.setitem(WORLDS, "hidden-mobile-server", spec)
    assert World("hidden-mobile-server", 27, ()).run().why == ""


def test_a_refresh_during_a_move_does_not_take_it_back() -> None:
    """R-5.4.6: nobody asks from the new address again until it changes once more."""
    assert World("hidden-mobile-server", 13, ()).run().why == ""


def test_a_late_confirm_does_not_take_an_end_back() -> None:
    """R-5.4.6: a refresh and a move, or two moves, that cross each other."""
    assert World("both-move", 9, ()).run().why == ""
