"""The inside of test_rendezvous.py: runs in an enclosure, prints one JSON object of what it saw.

    client ── nat ── meet ── server          meet: a rendezvous, and a router as any
                       │
                      late

The client stands behind a NAT. Two new hosts want the one name that the server was invited as; the
server gets it, runs with the files that `wayside join` wrote, and registers. The client knows the
domain and its rendezvous, and nothing else. Then the rendezvous is killed, comes back, and hides
the server from now on.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any

from wayside.lab import traffic
from wayside.lab.daemons import WAYSIDE, Daemon, Daemons, launch, within
from wayside.lab.enclosure import PYTHON, leave_with_the_outer_process
from wayside.lab.world import Node, Process, World
from wayside.runtime.names import service_of

OUT = '[[rule]]\nname = "out"\ndirection = "out"\naction = "allow"\n'
FIND = 'default = "allow"\n'
HIDE = 'default = "reject"\n[[rule]]\nname = "hide"\nto = ["*.lab"]\naction = "steer"\n'
LIMIT_S = 10.0
RACE = """
import asyncio, os, sys
from wayside.core.crypto import SigningKey
from wayside.runtime.enrolment import Invitation
from wayside.runtime.joining import ask
async def main():
    keys = [SigningKey(os.urandom(32)) for _ in range(100)]
    asked = (ask(Invitation.parse(sys.argv[1]), key) for key in keys)
    print(*[int(answer.outcome) for answer in await asyncio.gather(*asked)])
asyncio.run(main())
"""
HOLD = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
print("up", flush=True)
time.sleep(60)
"""


def main() -> None:
    leave_with_the_outer_process()
    out = Path(sys.argv[1])
    world = World(out)
    client, nat, meet, server = world.chain("client", "nat", "meet", "server")
    late = world.node("late")
    world.link(late, meet)
    world.route(late, 2, meet)
    traffic.serve_http(server)
    made = Daemons(out)
    there = made.rendezvous_at(meet, policy=FIND)
    gate = made.gate(nat, inside=client, outside=meet, policy=OUT, nat=True)
    host = made.host(client, rendezvous=there, registers=False)
    launch([there, gate])
    seen: dict[str, Any] = {"joined": join(there, server, late)}
    seen["race"] = race(there, late)
    agent = run_joined(server, out)
    launch([host])
    seen["kept"] = kept(there)
    seen["found"] = {family: reached(host, gate, family) for family in (4, 6)}
    status = there.status()
    seen["status"] = [status["role"], sorted({c["service"] for c in status["connections"]})]
    there.kill()
    (meet.state / "finding.toml").write_text(HIDE)
    launch([there])
    seen["hidden"] = {family: reached(host, gate, family) for family in (4, 6)}
    seen["told"] = sorted({r.type for r in there.events() if r.event == "datagram.sent"})
    agent.popen.send_signal(signal.SIGTERM)
    seen["agent"] = agent.wait(LIMIT_S)
    sys.stdout.write(json.dumps(seen))


def join(there: Daemon, server: Node, other: Node) -> dict[str, Any]:
    """Let two hosts use one invitation, the first of them twice."""
    line = there.command("invite", "web.lab", "--socket", str(there.control)).strip()

    def attempt(node: Node, *more: str) -> tuple[int, str]:
        files = str(node.state / "joined")
        done = node.run(*WAYSIDE, "join", line, "--config", files, *more, check=False)
        return done.returncode, done.stdout.strip() or done.stderr.partition(":")[0]

    return {
        "first": attempt(server),
        "again": attempt(server, "--force"),
        "over what is there": attempt(server),
        "another host": attempt(other),
        "files": sorted(path.name for path in (server.state / "joined").iterdir()),
    }


def race(there: Daemon, node: Node) -> list[int]:
    """A hundred keys use one invitation at once, from one host: how many were let in, of all."""
    line = there.command("invite", "prize.lab", "--socket", str(there.control)).strip()
    outcomes = node.run(*PYTHON, "-c", RACE, line).stdout.split()
    return [outcomes.count("0"), len(outcomes)]


def run_joined(server: Node, out: Path) -> Process:
    """`wayside host` with what `wayside join` wrote, and one service."""
    config = server.state / "joined" / "host.toml"
    with config.open("a") as file:
        file.write(f"[services]\n{service_of(traffic.HTTP_PORT)} = {traffic.HTTP_PORT}\n")
    environment = {
        "WAYSIDE_STATE": str(server.state),
        "WAYSIDE_SOCKET": str(server.state / "host.sock"),
        "WAYSIDE_LOG": str(out / "server.events"),
    }
    argv = (*WAYSIDE, "host", "--config", str(config))
    return server.spawn(*argv, ready="ready", environment=environment)


def kept(there: Daemon) -> int:
    """How many locations the store was given; one of each family is to come."""

    def look() -> int:
        return sum(record.event == "location.kept" for record in there.events())

    within(LIMIT_S, lambda: look() == 2)
    return look()


def reached(host: Daemon, gate: Daemon, family: int) -> dict[str, Any]:
    """An unmodified curl by the name alone; then where packets go, by what the NAT shows."""
    to = host.address("web.lab", family)
    fetched = traffic.curl(host.node, to).bytes == traffic.FILE_BYTES
    words = (HOLD, str(to), str(traffic.HTTP_PORT))
    held = host.node.spawn(*PYTHON, "-c", *words, ready="up")
    status = gate.status()["connections"]
    held.popen.kill()
    flows = [(c["flow"], c["wire"]) for c in status if c["state"] == "live"]
    outside = gate.node.address(family, "meet")
    return {
        "fetched": fetched,
        "rewritten": any(str(outside) in wire and str(outside) not in flow for flow, wire in flows),
        "to": sorted({_host(wire.rpartition(" > ")[2]) for _, wire in flows}),
    }


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


if __name__ == "__main__":
    main()
