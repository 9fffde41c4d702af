"""What a scenario is, and what it finds: checks, each of which can fail.

A scenario is a module of this package with a docstring (its first line is the summary, its
drawing the topology) and a function `play(trial)`. It runs inside an enclosure of its own and
tells the outside one JSON line for each check as it happens. `main` is the inside.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import msgspec

from wayside.lab.daemons import Daemons
from wayside.lab.enclosure import leave_with_the_outer_process
from wayside.lab.world import ProgramFailed, World

SCENARIOS = {
    "simple": "wayside.lab.simple",
    "piggyback": "wayside.lab.piggyback",
    "firewall-out": "wayside.lab.firewall_out",
    "firewall-in": "wayside.lab.firewall_in",
    "firewall-reject": "wayside.lab.firewall_reject",
    "firewall-redirect": "wayside.lab.firewall_redirect",
    "nat-out": "wayside.lab.nat_out",
    "nat-in": "wayside.lab.nat_in",
    "nat-nested": "wayside.lab.nat_nested",
    "nat-clash": "wayside.lab.nat_clash",
    "mobile-server": "wayside.lab.mobile_server",
    "hidden-mobile-server": "wayside.lab.hidden_mobile_server",
    "offpath-firewall": "wayside.lab.offpath_firewall",
    "both-move": "wayside.lab.both_move",
    "legacy": "wayside.lab.legacy",
    "legacy-nats": "wayside.lab.legacy_nats",
    "dos-stop": "wayside.lab.dos_stop",
    "multihoming": "wayside.lab.multihoming",
    "multihoming-mptcp": "wayside.lab.multihoming_mptcp",
    "restart": "wayside.lab.restart",
    "killed": "wayside.lab.killed",
    "icmp": "wayside.lab.icmp",
    "spoofer": "wayside.lab.spoofer",
    "attacks": "wayside.lab.attacks",
}
"""In the order of the design; `--all` runs them all."""

Value = str | int | float | None


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at: what, whether it is as it should be, what was seen."""

    name: str
    ok: bool
    value: Value = None
    unit: str = ""


class Play(Protocol):
    """The function that every scenario's module has."""

    def __call__(self, trial: Trial) -> None:
        """Build a world, use it, check what is seen."""
        ...


class Trial:
    """One scenario being played for one family. `bulk_s`: how long iperf3 runs (s)."""

    def __init__(self, family: int, out: Path, bulk_s: float) -> None:
        self.family = family
        self.out = out
        self.bulk_s = bulk_s
        self.world = World(out)
        self.daemons = Daemons(out)

    def check(self, name: str, ok: object, value: Value = None, unit: str = "") -> None:
        """Tell what was looked at. `ok` is taken as true or false."""
        print(check_line(name, ok, value, unit), flush=True)


def check_line(name: str, ok: object, value: Value = None, unit: str = "") -> str:
    """A check as the inside tells it to the outside."""
    rounded = round(value, 3) if isinstance(value, float) else value
    return msgspec.json.encode(Check(name, bool(ok), rounded, unit)).decode()


def play_of(name: str) -> Play:
    """The `play` of a scenario."""
    return cast("Play", import_module(SCENARIOS[name]).play)


def summary_of(name: str) -> str:
    """The first line of its docstring."""
    return (import_module(SCENARIOS[name]).__doc__ or "").partition("\n")[0]


def main() -> None:
    """Play one scenario: NAME FAMILY OUT BULK_SECONDS."""
    leave_with_the_outer_process()
    name, family, out, bulk_s = sys.argv[1:]
    trial = Trial(int(family), Path(out), float(bulk_s))
    try:
        play_of(name)(trial)
    except ProgramFailed as failure:
        trial.check("every program did its work", False, str(failure))
    except Exception as failure:
        traceback.print_exc()
        trial.check("the scenario ran to its end", False, f"{type(failure).__name__}: {failure}")
    else:
        trial.check("the scenario ran to its end", True)


if __name__ == "__main__":
    main()
