"""Kernel MPTCP uses both paths at once; each subflow is signaled to the gates on its path first.

    client ──┬── west ──┐         ┌── north ──┬── server
             └── east ──┴── core ─┴── south ──┘

The world of `multihoming`, but that each of the client's links takes 40 Mbit/s (tbf), so that who
wants more needs both. A program sends with a plain MPTCP socket to the server's virtual address.
Each path in turn dies without a sign, and is back. Then the gate east is told to refuse: MPTCP
stays on the other path, and `status` says who refuses and why; when it may again, it uses both. At
last a router takes MPTCP's options away: the kernels fall back to TCP, and `status` says so.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from wayside.core.address import Address, Flow, Transport
from wayside.core.identity import key_text
from wayside.lab import parcel
from wayside.lab.daemons import Daemon, within
from wayside.lab.firewall import relations
from wayside.lab.gaps import told
from wayside.lab.mobile import comes_from, goes_to
from wayside.lab.multihoming import METRICS, multihomed, revive, silence
from wayside.lab.probe import Watch, arrived
from wayside.lab.roaming import crossroads
from wayside.lab.scenario import Trial
from wayside.lab.stage import LAB_MAY_ENTER, Stage
from wayside.lab.world import Node, Process, ProgramFailed, World
from wayside.runtime.control import ask
from wayside.runtime.control_types import ReloadRequest, Reply
from wayside.runtime.names import service_of
from wayside.runtime.subflows import FALLEN_BACK

PORT = 7171
LINK_BIT_S = 40_000_000
PARCEL_S = 40.0
REFUSED_S = 14.0
FALLEN_S = 4.0
UP_LIMIT_S = 5.0
FLOWING_S = 2.0
"""How long is looked at how much comes."""

DEAD_S = 5.0
LEFT_S = 2.5
"""MPTCP's own timers find out that a subflow gets no answers."""

SILENT_MAX_S = 2.0

BACK_LIMIT_S = 9.0
"""TCP has doubled its timer five times, from 0.2 to 0.3 s: it tries again after 6 to 9 s."""

AGAIN_LIMIT_S = 20.0
"""Who was refused a few times asks again after 8 or 16 s."""

MORE_THAN_ONE = 1.3
"""Of what one link can carry: headers and the beginning of a flow are in what both do."""

GOING = 0.5
LOOKS = 3
"""Who has lost a path sends again what was on it, and one that comes back begins slowly: on a busy
machine that takes longer than one look."""

EACH_SHARE = 0.2
SOME_BYTES = 100_000
WHY = "not by this path today"
REFUSAL = f"""
default = "reject"
[[rule]]
name = "no-second-path"
action = "reject"
reason = "{WHY}"
"""


@dataclass(slots=True)
class Site:
    """Two multihomed hosts and the gates between them, by the name of their box."""

    stage: Stage
    core: Node
    gates: dict[str, Daemon]
    served: Process

    @property
    def trial(self) -> Trial:
        """Where checks go."""
        return self.stage.trial

    def at(self, host: Daemon, box: str) -> str:
        """A host's address behind a box."""
        return str(host.node.address(self.trial.family, box))

    def carried(self) -> dict[str, int]:
        """What each gate's rules for our service have counted so far, bytes to the server."""
        return {
            name: sum(one["bytes"] for one in gate.held() if one["service"] == SERVICE)
            for name, gate in self.gates.items()
        }


SERVICE = service_of(PORT)


def slow(node: Node, device: str, bit_s: int) -> None:
    """What leaves by a device leaves at this rate."""
    words = ("rate", str(bit_s), "burst", "32kb", "latency", "50ms")
    node.run("tc", "qdisc", "replace", "dev", device, "root", "tbf", *words)


def two_paths(
    world: World, bit_s: int, prefix: str = ""
) -> tuple[Node, Node, Node, dict[str, Node]]:
    """The nodes: core, client, server, and boxes; the client's links have this rate.

    `prefix`: of their names, that there may be two of them.
    """
    core = world.node(f"{prefix}core")
    boxes = {name: world.node(prefix + name) for name in METRICS}
    crossroads(world, core, list(boxes.values()))
    client = multihomed(world, f"{prefix}client", core, [boxes["west"], boxes["east"]])
    server = multihomed(world, f"{prefix}server", core, [boxes["north"], boxes["south"]])
    for box in client.addresses:
        slow(client, f"to-{box}", bit_s)
    return core, client, server, boxes


def build(trial: Trial) -> Site:
    """Build it, start services and daemons."""
    daemons = trial.daemons
    core, client, server, boxes = two_paths(trial.world, LINK_BIT_S)
    served = server.spawn_python(parcel.__name__, "serve", str(PORT), ready="ready")
    gates = {
        name: daemons.gate(
            box,
            inside=client if name in client.addresses else server,
            outside=core,
            policy=LAB_MAY_ENTER,
        )
        for name, box in boxes.items()
    }
    host = daemons.host(client, mptcp=True)
    peer = daemons.host(server, {SERVICE: PORT}, mptcp=True)
    daemons.start()
    to = host.address(peer.name, trial.family)
    stage = Stage(trial, host, peer, [client, core, server], to, Watch(server))
    return Site(stage, core, gates, served)


def play(trial: Trial) -> None:
    """Both paths; one dies and is back; one is refused and allowed again."""
    site = build(trial)
    _check_shut(site)
    sent = _send(site, PARCEL_S)
    further = _check_signaled(site)
    _check_both_carry(site, sent)
    _check_exact(site, further)
    _check_loss(site, sent, "east", "south")
    _check_loss(site, sent, "west", "north")
    _check_whole(site, sent, "the transfer")
    gone = within(UP_LIMIT_S, lambda: not _live(site))
    trial.check("all of it is closed with the program's socket", gone, len(_live(site)))
    _check_refused(site)
    _check_fallen_back(site)


def _live(site: Site) -> list[dict[str, Any]]:
    return [one for one in site.stage.client.held() if one["state"] == "connected"]


def _send(site: Site, seconds: float) -> Process:
    client = site.stage.client.node
    words = ("send", str(site.stage.to), str(PORT), str(seconds))
    return client.spawn_python(parcel.__name__, *words)


def _check_shut(site: Site) -> None:
    """Nothing that was not signaled gets in by any of the paths."""
    trial = site.trial
    for near, box in (("west", "north"), ("east", "south")):
        source = site.stage.client.node.address(trial.family, near)
        there = site.stage.server.node.address(trial.family, box)
        flow = Flow(Transport.TCP, Address(source, 40_000), Address(there, PORT))
        passed = arrived(site.core, site.stage.watch, [flow])
        trial.check(f"before signaling, nothing passes {box}", not passed, len(passed))


def _check_signaled(site: Site) -> dict[str, Any]:
    """A connection for each subflow, by gates of its own, before it began; the second one."""
    trial, client = site.trial, site.stage.client

    def pair() -> list[dict[str, Any]]:
        found = _live(site)
        up = [sub for one in found for sub in one["subflows"] if sub["state"] == "up"]
        return found if len(found) == 2 and len(up) == 1 else []

    found = within(UP_LIMIT_S, pair)
    if not found:
        raise ProgramFailed(f"no second subflow: {json.dumps(_live(site))}")
    further = next(one for one in found if not one["subflows"])
    first = next(one for one in found if one is not further)
    trial.check(
        "two connections, of transport mptcp",
        all(one["transport"] == "mptcp" for one in found),
        ", ".join(one["transport"] for one in found),
    )
    paths = [(comes_from(one), goes_to(one)) for one in (first, further)]
    expected = [
        (site.at(client, near), site.at(site.stage.server, far))
        for near, far in (("west", "north"), ("east", "south"))
    ]
    trial.check(
        "each by a path that shares nothing with the other's", paths == expected, str(paths)
    )
    made = [r for r in client.events() if r.event == "subflow.made"]
    for name in ("east", "south"):
        agreed = [
            r.time
            for r in site.gates[name].events()
            if r.event == "rule.installed" and r.cid == further["cid"]
        ]
        before = made[0].time - agreed[0] if made and agreed else None
        trial.check(
            f"{name} had its rules before the subflow was made",
            before is not None and before > 0 and made[0].cid == further["cid"],
            before and before * 1000,
            "ms",
        )
    for name in ("west", "north"):
        cids = {one["cid"] for one in site.gates[name].held()}
        trial.check(f"{name} knows the first only", cids == {first["cid"]}, len(cids))
    return further


def _rate(site: Site, seconds: float) -> tuple[float, dict[str, int]]:
    """What comes (bit/s), and what the gates count meanwhile (bytes)."""
    before, began = site.carried(), time.monotonic()
    time.sleep(seconds)
    ended, after = time.monotonic(), site.carried()
    came = [one for one in told(site.served) if began <= one["at"] <= ended]
    lasted = came[-1]["at"] - came[0]["at"] if len(came) > 1 else 0.0
    got = came[-1]["bytes"] - came[0]["bytes"] if came else 0
    return (got * 8 / lasted if lasted else 0.0), {
        name: count - before[name] for name, count in after.items()
    }


def _settled(site: Site, seconds: float, enough: float) -> tuple[float, dict[str, int]]:
    """What comes, of what a link carries, and what gates count; once it is enough, or had time."""
    share, counted = 0.0, dict[str, int]()
    for _ in range(LOOKS):
        rate, counted = _rate(site, seconds)
        share = rate / LINK_BIT_S
        if share > enough:
            break
    return share, counted


def _check_both_carry(site: Site, sent: Process) -> None:
    """Counters of both paths' gates, and more data than one of them can carry."""
    trial = site.trial
    rate, counted = _rate(site, FLOWING_S)
    for near, far in (("west", "north"), ("east", "south")):
        for name in (near, far):
            share = counted[name] / max(1, counted[near] + _other(counted, near))
            trial.check(f"{name} counts data of its subflow", share > EACH_SHARE, share, "of all")
    more = rate > LINK_BIT_S * MORE_THAN_ONE
    trial.check("more than one path could carry", more, rate / LINK_BIT_S, "of one link")
    newest = told(sent)[-1]
    plain = newest.get("fallback", 1)
    said = f"{newest.get('subflows')} further, fallback {plain}"
    trial.check("the program's own kernel says so", newest.get("subflows") == 1 and not plain, said)


def _other(counted: dict[str, int], near: str) -> int:
    return counted["east" if near == "west" else "west"]


def _check_exact(site: Site, further: dict[str, Any]) -> None:
    """The gate of the second path lets in exactly the signaled 5-tuple."""
    trial = site.trial
    here, there = (Address.parse(text) for text in further["wire"].split(" > "))
    exact = Flow(Transport.TCP, here, there)
    passed = arrived(site.core, site.stage.watch, [*relations(exact)])
    trial.check("the second path lets in no near relation of it", not passed, len(passed))


def _check_loss(site: Site, sent: Process, near: str, far: str) -> None:
    """A path dies without a sign, and is back."""
    trial = site.trial
    began = silence(site.core, near)
    time.sleep(LEFT_S)
    share, counted = _settled(site, DEAD_S - LEFT_S, GOING)
    going = share > GOING
    trial.check(f"{near} is dead: data goes on by the other path", going, share)
    trial.check("and none by the dead one", not counted[far], counted[far], "bytes")
    gaps = [b["at"] - a["at"] for a, b in pairwise(told(site.served)) if b["at"] > began]
    trial.check(
        "the longest silence of the transfer", max(gaps) < SILENT_MAX_S, max(gaps) * 1000, "ms"
    )
    revive(site.core)
    back = time.monotonic()
    so_far = site.carried()[far]
    carries = within(BACK_LIMIT_S, lambda: site.carried()[far] > so_far + SOME_BYTES)
    trial.check(f"{near} is back, and carries data again", carries, time.monotonic() - back, "s")
    share, _ = _settled(site, FLOWING_S, MORE_THAN_ONE)
    more = share > MORE_THAN_ONE
    trial.check("more than one path could carry, again", more, share, "of one link")
    trial.check("it is the same transfer", not sent.ended and "ended" not in sent.text())


def _check_whole(site: Site, sent: Process, what: str) -> None:
    """What was sent is what came."""
    sent.wait(PARCEL_S * 2)
    last = told(sent)[-1]

    def came() -> list[dict[str, Any]]:
        return [one for one in told(site.served) if one.get("digest") == last.get("digest")]

    whole = within(UP_LIMIT_S, came) if last.get("ended") == "end" else []
    trial = site.trial
    trial.check(f"{what} is whole", whole and whole[0]["bytes"] == last["bytes"], last["bytes"])


def _check_refused(site: Site) -> None:
    """A gate refuses the second path: one path, and the reason; then it may, and it does."""
    trial, client = site.trial, site.stage.client
    east = site.gates["east"]
    _tell(east, REFUSAL)
    sent = _send(site, REFUSED_S)

    def refused() -> list[dict[str, Any]]:
        subs = [sub for one in _live(site) for sub in one["subflows"]]
        return [sub for sub in subs if sub["state"] == "refused"]

    found = within(UP_LIMIT_S, refused)
    said = found[0] if found else {}
    by, key = said.get("by", ""), key_text(east.public)
    who = by.startswith(f"{east.name} ({key[:8]}")
    trial.check("east refuses: `status` says who", who, by)
    trial.check("and why", said.get("why") == WHY, said.get("why"))
    trial.check("and by which rule", said.get("rule") == "no-second-path", said.get("rule"))
    text = client.command("status")
    trial.check("so a person reads", WHY in text and "subflow" in text)
    rate, counted = _rate(site, FLOWING_S)
    going = LINK_BIT_S / 2 < rate < LINK_BIT_S
    trial.check("MPTCP stays on the other path", going, rate / LINK_BIT_S, "of one link")
    beside = counted["east"] + counted["south"]
    trial.check("nothing goes by the refused one", not beside, beside, "bytes")
    newest = told(sent)[-1]
    trial.check("its kernel has no further subflow", newest["subflows"] == 0, newest["subflows"])
    all_of_it = counted["north"] * 8 / FLOWING_S
    trial.check("but all by the first (control)", all_of_it > rate / 2, all_of_it / LINK_BIT_S)
    _tell(east, LAB_MAY_ENTER)
    began = time.monotonic()
    both = within(AGAIN_LIMIT_S, lambda: site.carried()["south"] > SOME_BYTES)
    trial.check("east allows again: both carry data", both, time.monotonic() - began, "s")
    _check_whole(site, sent, "that transfer, too,")


def _check_fallen_back(site: Site) -> None:
    """A router takes MPTCP's options away: plain TCP, by one path, and nobody thinks otherwise."""
    trial, client, core = site.trial, site.stage.client, site.core
    core.run("nft", "add table inet strips")
    core.run("nft", "add chain inet strips passing { type filter hook forward priority 0; }")
    core.run("nft", "add rule inet strips passing reset tcp option mptcp")
    sent = _send(site, FALLEN_S)
    found = within(FALLEN_S, lambda: [one for one in _live(site) if one["stands"] == FALLEN_BACK])
    trial.check("a router takes MPTCP's options away: `status` says so", found, FALLEN_BACK)
    newest = told(sent)[-1]
    trial.check("so does the program's own kernel (control)", newest["fallback"] == 1)
    trial.check("a person reads it", FALLEN_BACK in client.command("status"))
    one_path = len(found) == 1 and not found[0]["subflows"]
    trial.check("and no other path is asked for it", one_path, len(_live(site)))
    _check_whole(site, sent, "what went by plain TCP")
    core.run("nft", "delete table inet strips")


def _tell(gate: Daemon, policy: str) -> None:
    """Give a gate another policy."""
    (gate.node.state / "policy.toml").write_text(policy)
    ask(gate.control, ReloadRequest(), Reply)
