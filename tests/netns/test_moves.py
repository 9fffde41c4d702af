"""A host moves in mid-connection, with real daemons, sockets and links: nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netns.enclosed import said_inside

pytestmark = pytest.mark.netns

MOVES = 3
LIMIT_S = 120.0


def moved(out: Path, family: int, how: str, who: str) -> dict[str, Any]:
    inside = Path(__file__).with_name("inside_moves.py")
    words = [inside, out, str(family), how, who, str(MOVES)]
    return json.loads(said_inside(words, out / "errors.txt", LIMIT_S))


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("how", ["hard", "soft"])
@pytest.mark.parametrize("family", [4, 6])
def test_tcp_and_udp_go_on_when_either_end_moves(
    tmp_path: Path, family: int, how: str, who: str
) -> None:
    """R-5.4.6."""
    seen = moved(tmp_path, family, how, who)
    assert [one["moves"] for one in seen["held"]] == [MOVES] * 4
    assert [one["moves"] for one in seen["other"]] == [MOVES] * 4
    assert all(one["gap_ms"] is not None for one in seen["held"])
    assert all(one["gap_ms"] is None for one in seen["other"])
    assert {"tcp up", "tcp down", "udp down"} <= set(seen["ends"])
    assert min(seen["ends"].values()) > 500
