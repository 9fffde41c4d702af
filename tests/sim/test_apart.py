"""Worlds that take no turn because of one known fault run here, so that no other joins it.

The faults themselves are in test_known.py; each is at a seed beyond these.
"""

from __future__ import annotations

import pytest

from wayside.sim.world import World


@pytest.mark.parametrize("first", [1, 11, 21])
def test_connections_to_hidden_hosts_go_on_when_these_move(first: int) -> None:
    """R-10.5: with faults, attackers, and all checkers."""
    results = [World("hidden-mobile-server", seed).run() for seed in range(first, first + 10)]
    assert [one.why for one in results if not one.ok] == []
    assert sum(one.answers for one in results) > 0


@pytest.mark.parametrize("first", [1, 11])
def test_connections_leave_links_that_died_without_a_sign(first: int) -> None:
    """R-5.4.7, R-5.4.8: with faults, attackers, and all checkers."""
    results = [World("multihoming", seed).run() for seed in range(first, first + 10)]
    assert [one.why for one in results if not one.ok] == []
    assert sum(one.answers for one in results) > 0


@pytest.mark.parametrize("first", [1, 11])
def test_all_that_is_promised_holds_in_turmoil(first: int) -> None:
    """NATs, moves, a rendezvous: with many faults, attackers, and all checkers."""
    results = [World("turmoil", seed).run() for seed in range(first, first + 10)]
    assert [one.why for one in results if not one.ok] == []
    assert sum(one.answers for one in results) > 0
