"""One semantics: the simulator's packet plane and nftables say the same of the same packets."""

import json
import os
from pathlib import Path

import pytest

from netns.enclosed import said_inside

pytestmark = pytest.mark.netns

INSIDE = Path(__file__).with_name("inside_sim_plane.py")
TOP = Path(__file__).parent.parent.parent
STEPS = 140
"""Of 40 packets each at a gate, and half as many in each direction of a host: 11,200 packets."""
LIMIT_S = 240.0


def test_nftables_and_its_double_agree_on_ten_thousand_packets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(TOP / "src"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    errors = tmp_path / "errors.txt"
    told = json.loads(said_inside([INSIDE, tmp_path, "1", str(STEPS)], errors, LIMIT_S))
    assert {name: one["differences"] for name, one in told.items()} == {
        "gate": [],
        "out": [],
        "in": [],
    }
    assert sum(one["packets"] for one in told.values()) >= 10_000
    assert told["gate"]["hits"] > 1_000
