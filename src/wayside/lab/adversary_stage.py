"""The stage of the scenario `attacks`: hosts, a gate, a box that listens, a stranger, a victim.

What attackers do is a process in the node where they are (adversary.py). What a check compares is
here too: the rules of all daemons, and how many bytes the victim heard.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from wayside.lab import traffic
from wayside.lab.daemons import OVER, Daemon
from wayside.lab.enclosure import PYTHON
from wayside.lab.scenario import Trial
from wayside.lab.stage import ALLOW_LAB, Stage, set_stage
from wayside.lab.world import Node
from wayside.runtime.control import ask
from wayside.runtime.control_types import StatusReply, StatusRequest

MODULE = "wayside.lab.adversary"

LISTED_MAX = 10_000
"""More than a flood leaves half open."""

COUNTER = """
table inet lab_victim {
    counter heard {}
    chain arriving {
        type filter hook prerouting priority -450; policy accept;
        udp sport 4747 counter name heard
    }
}
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """The stage of this scenario, with the bad ones. `seen`: what the listener writes down."""

    stage: Stage
    router: Node
    stranger: Node
    victim: Node
    seen: Path

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.stage.trial.family

    def on_path(self, *words: str) -> dict[str, int]:
        """Let the box on the path do something; what it sent."""
        return _run(self.router, *words)

    def off_path(self, *words: str) -> dict[str, int]:
        """Let the stranger do something."""
        return _run(self.stranger, *words)

    def signaling(self, node: Node) -> str:
        """Where a node is asked, as an argument."""
        return f"{traffic.spelt(node.address(self.family))}:4747"

    def frozen(self) -> Path:
        """The rightful signaling alone: what attackers added is not what they forge from."""
        copy = self.router.state / "frozen"
        if not copy.exists():
            lines = self.seen.read_text().splitlines()
            copy.write_text("\n".join(dict.fromkeys(lines)) + "\n")
        return copy

    def victim_bytes(self) -> int:
        """What the victim heard of signaling, IP headers included."""
        return self.victim.counted("lab_victim", "heard", "bytes")


def set_up(trial: Trial) -> Attack:
    """The stage of firewall-out, and beside its router a stranger and a victim."""
    stage = set_stage(*(trial, "gate", "router"), gate="gate", inside="client", policy=ALLOW_LAB)
    world, router = trial.world, stage.nodes[2]
    bad: list[Node] = []
    for name in ("stranger", "victim"):
        node = world.node(name)
        net = world.link(router, node)
        for other in (stage.nodes[0], stage.nodes[1], stage.nodes[3]):
            world.route(other, net, stage.nodes[1] if other is stage.nodes[0] else router)
        for far in (1, 2, 3):
            world.route(node, far, router)
        bad.append(node)
    stranger, victim = bad
    world.route(stranger, 5, router)
    victim.run("nft", "-f", "-", stdin=COUNTER)
    seen = router.state / "seen"
    seen.touch()
    router.spawn_python(MODULE, "listen", str(seen), "to-gate", "to-server", ready="ready")
    return Attack(stage, router, stranger, victim, seen)


def changes(trial: Trial, rightful: dict[str, set[str]]) -> list[str]:
    """What has come (+) or gone (-), where."""
    found: list[str] = []
    for daemon in trial.daemons.all:
        now, then = rules_of(daemon), rightful[daemon.name]
        found += [f"{daemon.name} +{rule}" for rule in sorted(now - then)]
        found += [f"{daemon.name} -{rule}" for rule in sorted(then - now)]
    return found


def rules_of(daemon: Daemon) -> set[str]:
    """What a daemon holds rules for: cid and wire 5-tuple."""
    held = [one for one in status_of(daemon).connections if one.state not in OVER]
    return {f"{one.cid} {one.wire}" for one in held}


def status_of(daemon: Daemon) -> StatusReply:
    """What `wayside status --json` prints, without starting a program for it."""
    return ask(daemon.control, StatusRequest(limit=LISTED_MAX), StatusReply)


def _run(node: Node, *words: str) -> dict[str, int]:
    return json.loads(node.run(*PYTHON, "-m", MODULE, *words).stdout)
