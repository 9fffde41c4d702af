"""The inside of test_moves.py: two hosts without gates, one of which moves.

    client ── west ──┐        ┌── north ── server
      └────── east ──┴─ core ─┴── south ─────┘

Prints one JSON object: what became of four flows (TCP and UDP, up and down), and what both hosts
say of their connections.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from wayside.lab.daemons import Daemon, Daemons, within
from wayside.lab.enclosure import leave_with_the_outer_process
from wayside.lab.gaps import flows_from, serve_on, told
from wayside.lab.roaming import crossroads, roamer, ways_to
from wayside.lab.world import World

PORT, SERVICE = 7070, "7070"
EVERY_S = 0.7


def main() -> None:
    leave_with_the_outer_process()
    out, family, how, who, count = sys.argv[1:]
    world = World(Path(out))
    core = world.node("core")
    boxes = [world.node(name) for name in ("west", "east", "north", "south")]
    crossroads(world, core, boxes)
    hosts = {
        "client": roamer(world, "client", boxes[:2]),
        "server": roamer(world, "server", boxes[2:]),
    }
    for host in hosts.values():
        ways_to(world, core, host)
    served = serve_on(hosts["server"].node, PORT)
    daemons = Daemons(Path(out))
    client = daemons.host(hosts["client"].node)
    server = daemons.host(hosts["server"].node, {SERVICE: PORT})
    daemons.start()
    to = client.address(server.name, int(family))
    flows = flows_from(client.node, to, PORT, int(count) * 2 * EVERY_S + 6)
    within(10, lambda: len(held(client)) == 4)
    mover, daemon = hosts[who], client if who == "client" else server
    for number in range(3, 3 + int(count)):
        here = next(one for one in mover.links.values() if one.number)
        there = next(one for one in mover.links.values() if one is not here)
        (mover.hard if how == "hard" else mover.soft)(there.box, number)
        done = [number - 2] * 4
        within(5, lambda done=done: [one["moves"] for one in held(daemon)] == done)
        time.sleep(EVERY_S)
        if how == "soft":
            mover.leave(here.box)
    seen = {"held": held(daemon), "other": held(server if who == "client" else client)}
    for flow in flows:
        flow.wait(60)
    within(5, lambda: len([1 for line in told(served) if "ended" in line]) == 1)
    lines = [line for process in (served, *flows) for line in told(process)]
    ends = {line["flow"]: line["amount"] for line in lines if line.get("ended") == "end"}
    sys.stdout.write(json.dumps({**seen, "ends": ends}))


def held(daemon: Daemon) -> list[dict[str, Any]]:
    return [one for one in daemon.held() if one["state"] == "connected"]


main()
