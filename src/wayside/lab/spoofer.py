"""OPENs in a victim's name: no state anywhere, nothing amplified, nothing the victim must act on.

    client ───┐
    stranger ─┼── gate ── server
    victim ───┘

The stranger sends OPENs whose source is the victim's address: first a flood of forged ones, then
some whose signature, by a key of the stranger's own, holds. The gate lets anybody pass; so nothing
but the protocol protects the victim, who runs an agent of its own. Meanwhile the client, who was
there before and has the gate's ticket, connects as if nothing were the matter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from wayside.core.address import IP
from wayside.lab import traffic
from wayside.lab.adversary_stage import MODULE, rules_of, status_of
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, within
from wayside.lab.enclosure import PYTHON
from wayside.lab.scenario import Trial
from wayside.lab.stage import SERVICES, serve_all
from wayside.lab.world import Node

ALLOW = 'default = "allow"\n'
FORGE_S = 12.0
FETCHES = 8
"""Connections of the client under the flood; each is signaled."""

SIGNED = 1_000
GONE_LIMIT_S = 15.0
"""Five seconds of pending rules, and some for a machine that was busy."""

COUNTERS = """
table inet lab_victim {
    counter heard {}
    counter said {}
    chain arriving {
        type filter hook prerouting priority -450; policy accept;
        counter name heard
    }
    chain leaving {
        type filter hook postrouting priority 450; policy accept;
        oifname "to-gate" ip protocol { udp, tcp, icmp } counter name said
        oifname "to-gate" ip6 nexthdr { udp, tcp } counter name said
        oifname "to-gate" icmpv6 type { 1, 2, 3, 4 } counter name said
    }
}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Who is there. `to`: the server's virtual address on the client."""

    trial: Trial
    client: Daemon
    server: Daemon
    victim: Daemon
    gate: Daemon
    stranger: Node
    to: IP

    @property
    def aims(self) -> tuple[str, str]:
        """Whom the stranger asks: address and key, as arguments."""
        address = self.server.node.address(self.trial.family)
        return f"{traffic.spelt(address)}:4747", self.server.public.hex()

    def counted(self, name: str, what: str) -> int:
        """Bytes or packets that a counter at the victim has seen."""
        return self.victim.node.counted("lab_victim", name, what)


def play(trial: Trial) -> None:
    """A forged flood, then signed OPENs, both in the victim's name."""
    place = set_up(trial)
    fetched = traffic.curl(place.client.node, place.to)
    trial.check("the client fetches a file (control)", fetched.bytes, fetched.seconds, "s")
    kept = status_of(place.client).tickets
    trial.check("and has got the gate's ticket", kept == 1, kept)
    quiet = within(SEEN_LIMIT_S, lambda: not any(held(place).values()))
    trial.check("before the attack nobody holds anything", quiet, told(held(place)))
    in_its_name = _forged(place) + _signed(place)
    _check_victim(place, in_its_name)


def set_up(trial: Trial) -> Place:
    """Lay it out and start the daemons."""
    world, daemons = trial.world, trial.daemons
    client, middle, server = world.chain("client", "gate", "server")
    beside: list[Node] = []
    for name in ("stranger", "victim"):
        node, net = world.beside(name, middle)
        for end in (client, server):
            world.route(end, net, middle)
        beside.append(node)
    stranger, bystander = beside
    serve_all(server)
    host, peer = daemons.host(client), daemons.host(server, SERVICES)
    victim = daemons.host(bystander)
    gate = daemons.gate(middle, inside=[client, *beside], outside=server, policy=ALLOW)
    daemons.start()
    bystander.run("nft", "-f", "-", stdin=COUNTERS)
    to = host.address(peer.name, trial.family)
    return Place(trial, host, peer, victim, gate, stranger, to)


def _forged(place: Place) -> int:
    """No signature holds: nothing comes of it, not even for a moment. Bytes that were sent."""
    trial, victim = place.trial, str(place.victim.node.address(place.trial.family))
    before = status_of(place.gate)
    words = (*PYTHON, "-m", MODULE, "pretend", victim, str(FORGE_S), *place.aims)
    flood = place.stranger.spawn(*words)
    done = 0
    strangers: set[str] = set()
    for _ in range(FETCHES):
        done += traffic.curl(place.client.node, place.to).bytes == traffic.FILE_BYTES
        strangers |= {rule for rules in held(place).values() for rule in rules if victim in rule}
    busy = not flood.ended
    flood.wait(2 * FORGE_S + SEEN_LIMIT_S)
    sent: dict[str, int] = json.loads(flood.text())
    after = status_of(place.gate)
    name = "under a flood of forged OPENs the client connects, again and again"
    trial.check(name, done == FETCHES and busy, done, f"of {FETCHES}")
    shown = after.tickets - before.tickets
    trial.check("each time by its ticket", shown >= FETCHES, shown, "OPENs by ticket")
    trial.check("the stranger forged (control)", sent["sent"] > 1000, sent["sent"], "OPENs")
    dropped = after.dropped.get("signature", 0) - before.dropped.get("signature", 0)
    trial.check("the gate says why it drops them", dropped, dropped, "signature")
    name = "nothing of them is held at any time, at gate, server or victim"
    trial.check(name, not strangers, "; ".join(sorted(strangers)[:3]) or None)
    return sent["bytes"]


def _signed(place: Place) -> int:
    """A good signature, another's address: pending for a while, and nobody confirms."""
    trial, victim = place.trial, str(place.victim.node.address(place.trial.family))
    words = (*PYTHON, "-m", MODULE, "spoof", victim, str(SIGNED), *place.aims)
    sent: dict[str, int] = json.loads(place.stranger.run(*words).stdout)
    lasting = [one for one in status_of(place.gate).connections if one.state == "live"]
    name = "OPENs with a good key in the victim's name open nothing that lasts"
    trial.check(name, sent["sent"] == SIGNED and not lasting, len(lasting))
    gone = within(GONE_LIMIT_S, lambda: not any(held(place).values()))
    trial.check("and five seconds later nobody holds anything", gone, told(held(place)))
    return sent["bytes"]


def _check_victim(place: Place, in_its_name: int) -> None:
    trial = place.trial
    heard = place.counted("heard", "bytes")
    name = "the victim hears of it (control), and no more than was sent in its name"
    trial.check(name, 0 < heard <= in_its_name, heard, f"of {in_its_name} bytes")
    said = place.counted("said", "packets")
    trial.check("and answers nothing to anybody", said == 0, said, "packets")
    status = status_of(place.victim)
    trial.check("it has no connection", status.connections_total == 0, status.connections_total)
    told_of = [r for r in place.victim.events() if r.event.startswith("connection.")]
    trial.check("and its log tells of none", not told_of, len(told_of))
    reasons = {why for why, count in status.dropped.items() if count}
    name = "its agent drops what comes as about nothing that it knows"
    trial.check(name, reasons == {"unknown"}, ", ".join(sorted(reasons)))


def held(place: Place) -> dict[str, set[str]]:
    """What gate, server and victim hold rules for."""
    everybody = (place.gate, place.server, place.victim)
    return {one.name: rules_of(one) for one in everybody}


def told(rules: dict[str, set[str]]) -> str | None:
    """A few of them."""
    return "; ".join(f"{name} {rule}" for name, all_ in rules.items() for rule in sorted(all_)[:2])
