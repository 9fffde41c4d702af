"""Real daemons: a host joins by invitation, registers, and is found from behind a NAT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netns.enclosed import said_inside

pytestmark = pytest.mark.netns

DIRECT = {"4": "10.3.0.1", "6": "fd00:3::1"}
HIDDEN = {"4": "10.2.0.1", "6": "fd00:2::1"}
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What inside_rendezvous.py saw."""
    out = tmp_path_factory.mktemp("rendezvous")
    inside = Path(__file__).with_name("inside_rendezvous.py")
    return json.loads(said_inside([inside, out], out / "errors.txt", LIMIT_S))


def test_an_invitation_lets_one_host_in_as_often_as_it_likes(seen: dict[str, Any]) -> None:
    joined = seen["joined"]
    assert joined["first"] == joined["again"] == [0, "web.lab"]
    assert joined["another host"] == [3, "error"]
    assert joined["files"] == ["host.certificate", "host.key", "host.toml"]


def test_of_a_hundred_at_once_one_gets_in(seen: dict[str, Any]) -> None:
    assert seen["race"] == [1, 100]


def test_what_is_there_is_not_overwritten_unasked(seen: dict[str, Any]) -> None:
    assert seen["joined"]["over what is there"] == [1, "error"]


def test_a_host_runs_with_the_files_that_join_wrote_and_registers(seen: dict[str, Any]) -> None:
    assert seen["kept"] == 2, "one location for each family"
    assert seen["agent"] == 0


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_host_behind_a_nat_finds_it_by_name_and_talks_to_it_directly(
    seen: dict[str, Any], family: str
) -> None:
    found = seen["found"][family]
    assert (found["fetched"], found["rewritten"]) == (True, True)
    assert found["to"] == [DIRECT[family]]
    assert "REDIRECT" in seen["told"]


@pytest.mark.parametrize("family", ["4", "6"])
def test_after_a_kill_the_store_still_knows_and_a_new_policy_hides(
    seen: dict[str, Any], family: str
) -> None:
    hidden = seen["hidden"][family]
    assert hidden["fetched"]
    assert hidden["to"] == [HIDDEN[family]], "packets go to the rendezvous, and on from there"


def test_status_of_a_rendezvous_shows_who_registered(seen: dict[str, Any]) -> None:
    role, services = seen["status"]
    assert role == "rendezvous"
    assert "location" in services
