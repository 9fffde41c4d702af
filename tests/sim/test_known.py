"""Promises that the machines are known not to keep yet. Whoever mends one takes its mark off.

`strict`: a test here that passes fails the run, so that nothing stays on this list by oversight.
What is mended moves to test_regressions.py.
"""

from __future__ import annotations

import pytest

from wayside.sim.faults import Fault, Kind
from wayside.sim.world import World


@pytest.mark.xfail(
    strict=True,
    reason="a CLOSE with a seen token, sent to the gate itself, goes round for ever: R-8.2",
)
def test_a_stolen_token_sent_to_the_gate_itself_goes_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever saw one token on the path can keep a gate busy with one datagram."""
    monkeypatch.setattr("wayside.sim.clock.STEPS_MAX", 30_000)
    stealing = (Fault(Kind.STEAL, 7.807, 4.214, "site-s2", 9.898),)
    assert World("chaos", 2431, stealing).run().why == ""


@pytest.mark.xfail(
    strict=True,
    reason="a refresh whose CONFIRM was lost counts as agreed, with the hops of the one before",
)
def test_an_end_has_the_hops_of_the_seq_that_it_holds_for_agreed() -> None:
    """R-5.9: hops of another seq in a CLOSE are tokens that no gate opens. No fault is needed."""
    assert World("lossy", 46, ()).run().why == ""
