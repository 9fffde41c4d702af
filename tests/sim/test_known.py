"""Promises that the machines are known not to keep yet. Whoever mends one takes its mark off.

`strict`: a test here that passes fails the run, so that nothing stays on this list by oversight.
"""

from __future__ import annotations

import pytest

from pair import Pair, make_gate
from wayside.core.messages import Open
from wayside.sim.faults import Fault, Kind
from wayside.sim.world import World


@pytest.mark.xfail(strict=True, reason="who shows a hop may speak for any address: R-5.1.6, R-7.5")
@pytest.mark.parametrize("world", ["firewall-out", "firewall-in"])
def test_nobody_opens_a_connection_for_the_address_of_a_host_that_never_asked(world: str) -> None:
    posing = (Fault(Kind.POSE, 1.0, 6.0, "c1", 2.0),)
    assert World(world, 0, posing).run().why == ""


@pytest.mark.xfail(strict=True, reason="a gate forgets what its kernel still lets through: R-5.9.2")
def test_a_close_shuts_a_pinhole_that_only_packets_have_kept_open() -> None:
    """Refreshes are lost, packets renew the rules: these live on, the gate's memory does not."""
    pair = Pair(1)
    pair.restart("g1", make_gate("g1", lifetime_s=5.0))
    pair.open()
    pair.lose[Open] = 1000
    pair.run(6.0)
    assert pair.kernel["g1"], "the double does not expire: as if packets had come all the time"
    pair.close()
    assert pair.kernel["g1"] == {}
