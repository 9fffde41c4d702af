"""A server whose rendezvous stays on the way: whoever talks to it never learns where it is.

    client ── west ── core ──┬── north ──┐
                       │     └── south ──┴── server
                     meet: the rendezvous, which hides the server

The client's gate and the one in front of the server's first network are default-drop. Gates on a
hidden host's new way hear of it at the next refresh only (R-10.5), so there is none before its
second network. Everything that passes the client's interface is kept, signaling and data, and
searched for every address that the server ever had; the same search finds the rendezvous' there,
and the server's at the rendezvous.
"""

from __future__ import annotations

from wayside.core.address import IP
from wayside.lab import gaps, traffic
from wayside.lab.capture import Capture, start_capture
from wayside.lab.daemons import within
from wayside.lab.mobile import (
    GAPS_PORT,
    MOVED_LIMIT_S,
    Land,
    Plan,
    check_informed,
    check_new_connection,
    comes_from,
    connected,
    goes_to,
    longest_gaps,
    set_up,
    start_download,
)
from wayside.lab.scenario import Trial
from wayside.lab.stage import HIDES

RATE_BYTES_S = 1_500_000
LARGE_BYTES = 9_000_000
FLOW_S = 6.0
FLOWS = 5
"""The download, and TCP and UDP in both directions."""


def play(trial: Trial) -> None:
    """Connect through the rendezvous, move, and look for the server in the captures."""
    plan = Plan(gated=("west", "north"), finding=HIDES)
    land = set_up(trial, plan, LARGE_BYTES)
    stage, node = land.stage, land.client.node
    at_client = start_capture(node, "to-west")
    at_meet = start_capture(land.meet.node, "to-core")
    theirs = _addresses(land)
    flows = gaps.flows_from(node, stage.to, GAPS_PORT, FLOW_S)
    download = start_download(node, land.server.node, stage.to, RATE_BYTES_S)
    up = within(5.0, lambda: len(connected(stage.client, stage.server)) >= FLOWS)
    trial.check("TCP and UDP flows are up", up, len(connected(stage.client, stage.server)))
    meet = land.meet.node.address(trial.family)
    to = {goes_to(one) for one in connected(stage.client, stage.server)}
    trial.check("all of them go to the rendezvous", to == {str(meet)}, ", ".join(to))
    hidden = [one["hidden"] for one in connected(stage.client, stage.server)]
    trial.check("the client's status says that the server is hidden", all(hidden), len(hidden))
    check_new_connection(land, "before the move", meet)
    began = land.server.hard(land.boxes["south"], 3)
    theirs |= _addresses(land)
    _check_followed(land)
    check_informed(land, "hard move")
    going = not download.process.ended
    trial.check("the download lasted longer than the move (control)", going)
    check_new_connection(land, "hard move", meet)
    wrong = download.damage(20.0)
    trial.check("curl has the file, whole", not wrong, wrong or LARGE_BYTES / 1e6, "MB")
    said = traffic.ssh_says(node, land.server.node, stage.to)
    trial.check("ssh runs a command", said == "hello", said)
    for process in flows:
        process.wait(FLOW_S + 10)
    found = longest_gaps(land, flows, began)
    for name in ("tcp up", "tcp down", "udp up", "udp down"):
        trial.check(f"hard move: gap of {name}", name in found, found.get(name), "ms")
    _check_captures(land, at_client, at_meet, theirs)


def _addresses(land: Land) -> set[IP]:
    """Where the server is at the moment, in both families."""
    return {land.server.node.address(family) for family in (4, 6)}


def _check_followed(land: Land) -> None:
    """The server's end of every connection is where it is now; the client's has not changed."""
    stage, trial = land.stage, land.trial
    at = str(land.at)

    def count() -> int:
        listed = connected(stage.server, stage.client)
        return sum(comes_from(one) == at for one in listed)

    followed = within(MOVED_LIMIT_S, lambda: count() >= FLOWS)
    trial.check("hard move: the server's end of all of them is there", followed, count(), at)
    moves = sum(one["moves"] for one in connected(stage.client, stage.server))
    trial.check("hard move: the client has not noticed", moves == 0, moves, "moves")


def _check_captures(land: Land, at_client: Capture, at_meet: Capture, theirs: set[IP]) -> None:
    trial, family = land.trial, land.trial.family
    for who, capture in (("client", at_client), ("rendezvous", at_meet)):
        missed, size = capture.end(), capture.file.stat().st_size
        said = f"{size / 1e6:.1f} MB, {missed} missed"
        trial.check(f"the capture at the {who} is complete (control)", not missed and size, said)
    here = [land.meet.node.address(family), land.client.node.address(family)]
    found = at_client.has(here)
    name = "the client's has the rendezvous' address and its own (control)"
    trial.check(name, len(found) == len(here), ", ".join(found))
    mine = [one for one in theirs if one.version == family]
    found = at_meet.has(mine)
    name = "the rendezvous' has the server's, before and after the move (control)"
    trial.check(name, len(found) == len(mine) == 2, ", ".join(found))
    found = at_client.has(theirs)
    name = "the client's has no address of the server"
    said = "; ".join(f"{one}: {at_client.around(one)}" for one in found)
    trial.check(name, not found and len(theirs) == 4, said or len(theirs))
