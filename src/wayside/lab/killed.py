"""Each daemon is killed in its turn, under fifty transfers: all arrive, whole, and new ones begin.

    client ── nat ── router ── gate ── server
                       │
                     meet: the rendezvous, and its store

The client is behind a NAT that takes part, the server behind a default-drop gate and registered
with the rendezvous, by which each new connection finds it. SIGKILL takes, one after the other, the
agents of both, the gate, the NAT, the rendezvous and, where redis-server is installed, the servers
of its store that know of the server; each is started again. What is agreed lives in kernels: while
nobody is there, every transfer goes on. A few end after each kill, the rest after the last.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from importlib.util import find_spec

from wayside.lab import traffic, transfers
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, launch, within
from wayside.lab.mobile import connected
from wayside.lab.probe import Watch
from wayside.lab.scenario import Trial
from wayside.lab.stage import LAB_MAY_ENTER, SERVICES, Stage, kept, serve_all
from wayside.lab.world import Node, Process
from wayside.runtime.names import service_of

COUNT = 50
PORT = 7200
LIFETIME_S = 12.0
"""A refresh of each transfer every four seconds: some fall due while somebody is dead."""

ABSENT_S = 0.8
"""Nobody is there for so long, and then for as long as a start takes."""

UP_LIMIT_S, BACK_LIMIT_S, END_LIMIT_S = 15.0, 10.0, 15.0
STORE_LIMIT_S = 30.0
"""Six servers find each other, and later miss one, in seconds; a busy machine takes more."""


@dataclass(frozen=True, slots=True)
class _World:
    """The stage, who is killed, and what goes on meanwhile. `store`: None where it is a file."""

    stage: Stage
    meet: Daemon
    boxes: list[Daemon]
    store: Process | None

    @property
    def trial(self) -> Trial:
        return self.stage.trial


def play(trial: Trial) -> None:
    """Start all transfers, kill each daemon, and count what has come."""
    world = _set_up(trial)
    stage = world.stage
    running = transfers.start_from(stage.client.node, stage.to, PORT, COUNT)
    up = within(UP_LIMIT_S, lambda: _going(running) == COUNT)
    trial.check("fifty transfers are under way", up, _going(running))
    for daemon in (stage.client, stage.server, *world.boxes, world.meet):
        _kill(world, running, daemon)
    if world.store is not None:
        _kill_store(world, running, world.store)
    trial.check("transfers outlived all kills (control)", _going(running), _going(running))
    while not running.ended and _going(running):
        transfers.end_some(running)
        time.sleep(transfers.TOLD_EVERY_S)
    within(END_LIMIT_S, lambda: running.ended)
    over = transfers.ended(running)
    trial.check("none is lost", len(over) == COUNT, len(over), f"of {COUNT} ended")
    wrong = [str(one["wrong"]) for one in over if one["wrong"]]
    size = sum(one["bytes"] for one in over) / 1e6
    trial.check("all are whole, by their checksums", not wrong, "; ".join(wrong) or size, "MB")
    _check_closed(world)


def _set_up(trial: Trial) -> _World:
    world, daemons = trial.world, trial.daemons
    nodes = world.chain("client", "nat", "router", "gate", "server", nats={"nat": "client"})
    client, nat, router, gate, server = nodes
    meet, net = world.beside("meet", router)
    for node in (nat, gate):
        world.route(node, net, router)
    world.route(client, net, nat)
    world.route(server, net, gate)
    serve_all(server)
    transfers.serve_on(server, PORT)
    store, urls = _start_store(trial, meet)
    there = daemons.rendezvous_at(meet, store=urls, lifetime_s=LIFETIME_S)
    services = {**SERVICES, service_of(PORT): PORT}
    host = daemons.host(client, lifetime_s=LIFETIME_S, rendezvous=there, registers=False)
    peer = daemons.host(server, services, LIFETIME_S, rendezvous=there, families=[trial.family])
    boxes = [
        daemons.gate(
            gate, inside=server, outside=router, policy=LAB_MAY_ENTER, lifetime_s=LIFETIME_S
        ),
        daemons.gate(
            nat,
            inside=client,
            outside=router,
            policy=LAB_MAY_ENTER,
            lifetime_s=LIFETIME_S,
            nat=True,
        ),
    ]
    daemons.start(introduce=False)
    known = within(SEEN_LIMIT_S, lambda: kept(there))
    trial.check("the server is registered", known, len(known))
    to = host.address(peer.name, trial.family)
    return _World(Stage(trial, host, peer, nodes, to, Watch(server)), there, boxes, store)


def _kill(world: _World, running: Process, daemon: Daemon) -> None:
    """SIGKILL a daemon, look how transfers do without it, and start it again.

    First all that has ended has to be over: a CLOSE is said three times in 0.75 s, and who is dead
    for longer keeps the rules for their lifetime.
    """
    trial, what = world.trial, f"{daemon.name} ({daemon.role})"
    within(SEEN_LIMIT_S, lambda: len(set(_counts(world).values())) == 1)
    before = _going(running)
    pid = daemon.process.popen.pid if daemon.process else 0
    daemon.kill()
    killed = time.monotonic()
    trial.check(f"{what} is killed with transfers under way", before, before, f"of them, pid {pid}")
    time.sleep(ABSENT_S)
    _check_goes_on(world, running, what, killed)
    launch([daemon])
    back_s = time.monotonic() - killed
    known = within(BACK_LIMIT_S, lambda: _knows(daemon))
    trial.check(f"{what} is back, and knows what it knew", known, back_s, "s")
    transfers.end_some(running)
    _check_new(world, what, SEEN_LIMIT_S)


def _knows(daemon: Daemon) -> bool:
    """What was agreed before: a rendezvous its registrations, all others transfers."""
    return len(daemon.held()) > 0


def _check_goes_on(world: _World, running: Process, what: str, since: float) -> None:
    """Of those that go on each got something, in a part of the time when nobody was there."""
    parts = [one for one in transfers.going(running) if one["at"] > since + transfers.TOLD_EVERY_S]
    best = max(parts, key=lambda one: one["moved"] / max(1, one["going"]), default=None)
    fine = best is not None and best["moved"] == best["going"] > 0
    said = f"{best['moved']} of {best['going']}" if best else "nothing was said"
    world.trial.check(f"{what}: meanwhile every transfer goes on", fine, said)


def _check_new(world: _World, what: str, limit_s: float) -> None:
    """A new connection finds the server through all of them."""
    stage = world.stage
    began = time.monotonic()

    def fetched() -> bool:
        return traffic.curl(stage.client.node, stage.to).bytes == traffic.FILE_BYTES

    new = within(limit_s, fetched)
    seconds = time.monotonic() - began
    world.trial.check(f"{what}: a new connection is made", new, seconds, "s")


def _check_closed(world: _World) -> None:
    """What has ended is known to have ended, to all: by CLOSE, in a moment."""
    name = "at the end nobody holds a rule or a connection between the two"
    within(SEEN_LIMIT_S, lambda: not any(_counts(world).values()))
    left = ", ".join(f"{who}: {count}" for who, count in _counts(world).items() if count)
    world.trial.check(name, not left, left or "none")


def _counts(world: _World) -> dict[str, int]:
    """How many connections between the two each of all holds."""
    ends = (world.stage.client, world.stage.server)
    held = {one.name: len(connected(one, other)) for one, other in (ends, ends[::-1])}
    return held | {box.name: len(_through(box)) for box in world.boxes}


def _through(box: Daemon) -> list[object]:
    return [one for one in box.held() if one["transport"] != "none"]


def _going(running: Process) -> int:
    said = transfers.going(running)
    return int(said[-1]["going"]) if said else 0


# --- the store ---


def _start_store(trial: Trial, meet: Node) -> tuple[Process | None, str]:
    """A Redis Cluster beside the rendezvous, or a file; what the latter is told of it."""
    if shutil.which("redis-server") is None or find_spec("redis") is None:
        return None, "sqlite"
    folder = meet.state / "store"
    running = meet.spawn_python("wayside.lab.redis_cluster", str(folder))
    running.wait_for("}", STORE_LIMIT_S)
    urls = json.loads(running.text().splitlines()[0])["urls"]
    trial.check("the store is a Redis Cluster", len(urls) > 1, len(urls), "servers")
    return running, ",".join([urls[0], *(url.removeprefix("redis://") for url in urls[1:])])


def _kill_store(world: _World, running: Process, store: Process) -> None:
    """SIGKILL each master that knows of the server, one after the other; a replica takes over."""
    trial = world.trial
    before = within(BACK_LIMIT_S, lambda: _holding(store))
    trial.check("servers of the store have what is known of the server", before, str(before))
    for number, pid in enumerate(before, start=1):
        what = f"server {number} of the store"
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        time.sleep(ABSENT_S)
        _check_goes_on(world, running, what, killed)

        def taken_over(pid: int = pid) -> bool:
            holding = _holding(store)
            return len(holding) == len(before) and pid not in holding

        over = within(STORE_LIMIT_S, taken_over)
        took_s = time.monotonic() - killed
        trial.check(f"{what} (pid {pid}) is killed, and another has it now", over, took_s, "s")
        transfers.end_some(running)
        _check_new(world, what, STORE_LIMIT_S)


def _holding(store: Process) -> list[int]:
    """The process ids of the masters that have a location, or a name."""
    told = [line for line in store.text().splitlines() if '"holding"' in line]
    return list(json.loads(told[-1])["holding"]) if told else []
