"""What a NAT that is asked has to show, whichever way connections go through it.

Beyond it nobody has a route to its inside, and nobody sees an address of it. Before anything is
signaled nothing passes; then exactly the signaled 5-tuple does, under another name on each side,
and both ends know both names. `status` of the ends is held against probes of these 5-tuples, and
probes that pass against near relations that do not, in the same breath, by the same tool.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from wayside.core.address import IP, Flow, Transport
from wayside.lab import traffic
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, within
from wayside.lab.firewall import parse_flow, relations
from wayside.lab.probe import Watch, seen_after
from wayside.lab.stage import Stage
from wayside.lab.world import Node
from wayside.runtime.eventlog import Record

HEARD = """
table inet lab_heard {
    set from4 { type ipv4_addr; flags dynamic; size 4096; }
    set from6 { type ipv6_addr; flags dynamic; size 4096; }
    chain arriving {
        type filter hook prerouting priority -490; policy accept;
        iifname "to-*" meta l4proto { tcp, udp } update @from4 { ip saddr }
        iifname "to-*" meta l4proto { tcp, udp } update @from6 { ip6 saddr }
    }
}
"""
"""Whom a node hears of: the source of every TCP and UDP packet, before its own rules."""

ECHO_COUNT, ECHO_EVERY_S = 100, 0.01
"""A second of datagrams: while they run, and a little longer, the probes are sent."""


LOST_PERCENT_MAX = 5
"""Of a second's datagrams, one a millisecond: only eight are held until all boxes have agreed."""


class Hearing:
    """Remembers the source of every TCP and UDP packet that comes to a node, signaling too."""

    def __init__(self, node: Node) -> None:
        self._node = node
        node.run("nft", "-f", "-", stdin=HEARD)

    def sources(self, family: int) -> set[IP]:
        """The addresses that packets came from, so far."""
        listed = ("nft", "-j", "list", "set", "inet", "lab_heard", f"from{family}")
        items: list[dict[str, Any]] = json.loads(self._node.run(*listed).stdout)["nftables"]
        return {ip_address(one) for item in items for one in item.get("set", {}).get("elem", [])}


@dataclass(frozen=True, slots=True)
class Crossing:
    """One flow on both sides of the boxes between, as its initiator's packets show it."""

    near: Flow
    far: Flow


def check_shut(stage: Stage, at_box: Watch, flows: list[Flow]) -> None:
    """Probes reach the first box, and nothing of them, whatever it looks like, the server."""
    trial, node = stage.trial, stage.client.node
    reached = within(3.0, lambda: seen_after(node, at_box, flows) == set(flows))
    trial.check("before signaling, probes reach the box (control)", reached)
    passed = seen_after(node, stage.watch, flows)
    trial.check("before signaling, nothing passes", not passed, len(passed), "passed")


def check_flow(
    stage: Stage,
    from_port: int,
    relatives: Callable[[Crossing], tuple[list[Flow], list[Flow]]],
    server_knows: bool = True,
) -> Crossing | None:
    """A UDP flow passes, by both of its names; its relations on both sides meanwhile do not.

    `relatives`: probes that must not pass, from the client and from the server; `server_knows`:
    whether the server is told where the client thinks it is, too.
    """
    trial, node, server = stage.trial, stage.client.node, stage.server.node
    running = traffic.start_echo(
        node, stage.to, count=ECHO_COUNT, interval_s=ECHO_EVERY_S, from_port=from_port
    )
    crossing = within(
        SEEN_LIMIT_S, lambda: names_of(stage, traffic.ECHO_PORT, from_port, server_knows)
    )
    name = f"{'both ends know' if server_knows else 'the client knows'} both 5-tuples"
    if crossing is None:
        trial.check(name, False, _told(stage))
        return None
    printed = stage.client.status()["connections"]
    shown = any(_is_told(one, crossing.far) for one in printed)
    trial.check(name, shown, f"{crossing.near}; {crossing.far}")
    out, back = relatives(crossing)
    passed = seen_after(node, stage.watch, [crossing.near, *out])
    shown = passed == {crossing.far}
    trial.check("of probes to the server its own passes, renamed", shown, _list(passed))
    watch = Watch(node)
    passed = seen_after(server, watch, [crossing.far.reversed(), *back])
    shown = passed == {crossing.near.reversed()}
    trial.check("and so of probes to the client", shown, _list(passed))
    answered = traffic.echo_result(running).answered
    name = "every datagram of the flow itself is answered"
    trial.check(name, answered == ECHO_COUNT, answered, f"of {ECHO_COUNT}")
    return crossing


def all_relations(crossing: Crossing) -> tuple[list[Flow], list[Flow]]:
    """What differs in one thing from the 5-tuple, on the client's and on the server's side."""
    return relations(crossing.near), relations(crossing.far.reversed())


def check_bulk(stage: Stage) -> None:
    """iperf3 passes, over TCP and UDP."""
    trial, node = stage.trial, stage.client.node
    bulk = traffic.iperf(node, stage.to, trial.bulk_s / 2)
    trial.check("iperf3 over TCP", bulk.gbit_s > 0, bulk.error or bulk.gbit_s, "Gbit/s")
    datagrams = traffic.iperf(node, stage.to, 1.0, udp=True)
    fine = not datagrams.error and datagrams.lost_percent < LOST_PERCENT_MAX
    trial.check("iperf3 over UDP", fine, datagrams.error or datagrams.lost_percent, "% lost")


def names_of(
    stage: Stage, port: int, from_port: int = 0, server_knows: bool = True
) -> Crossing | None:
    """The newest flow to a service, as both ends' `status` have it; None: they do not agree.

    `from_port`: as the client's own packets have it; `server_knows`: as in `check_flow`.
    """
    theirs = {one["cid"]: one for one in stage.server.held()}
    for one in reversed(stage.client.held()):
        other = theirs.get(one["cid"])
        local = _flow(one, "flow")
        if other is None or local.destination.port != port:
            continue
        near, far = _flow(one, "wire"), _flow(other, "wire").reversed()
        agreed = _is_told(one, far) and (not server_knows or _is_told(other, near.reversed()))
        if agreed and from_port in (0, local.source.port):
            return Crossing(near, far)
    return None


def _flow(record: dict[str, Any], name: str) -> Flow:
    return parse_flow(f"{record['transport']} {record[name]}")


def _is_told(record: dict[str, Any], flow: Flow) -> bool:
    """Whether `status` shows this flow as the other end's; any port fits where it shows `?`."""
    told = str(record["there"]).split(" > ")
    actual = (str(flow.source), str(flow.destination))
    return len(told) == len(actual) and all(
        one in (other, f"{other.rpartition(':')[0]}:?")
        for one, other in zip(told, actual, strict=True)
    )


def _told(stage: Stage) -> str:
    words = [
        f"{end.name}: {one['wire']} / {one['there']}"
        for end in (stage.client, stage.server)
        for one in end.held()
    ]
    return "; ".join(words)


def _list(flows: set[Flow]) -> str:
    return ", ".join(sorted(map(str, flows)))


def newest_mapping(gate: Daemon, transport: Transport, port: int) -> Record | None:
    """A NAT's record of its last rule from who asked towards a port."""
    for record in reversed(gate.events()):
        if record.event == "rule.installed" and record.action == "rewrite" and record.to:
            flow = parse_flow(record.match)
            if flow.transport is transport and flow.destination.port == port:
                return record
    return None


def check_gone_after_close(stage: Stage, gate: Daemon, limit_s: float) -> None:
    """When curl closes its connection both rules go at once: no probe of either side passes."""
    trial, node = stage.trial, stage.client.node
    fetched = traffic.curl(node, stage.to)
    trial.check("curl fetches the file", fetched.bytes == traffic.FILE_BYTES, fetched.seconds, "s")
    mapping = newest_mapping(gate, Transport.TCP, traffic.HTTP_PORT)
    if mapping is None:
        trial.check("the NAT logged a mapping for curl", False)
        return

    def removed() -> list[Record]:
        about = [r for r in gate.events() if r.cid == mapping.cid]
        return [r for r in about if r.event == "rule.removed"]

    gone = within(limit_s, lambda: len(removed()) == 2)
    trial.check("after CLOSE both of its rules are gone", gone, len(removed()), "removed")
    near, far = parse_flow(mapping.match), parse_flow(mapping.to)
    passed = seen_after(node, stage.watch, [near])
    passed |= seen_after(stage.server.node, Watch(node), [far.reversed()])
    trial.check("and no probe of it passes, either way", not passed, _list(passed) or str(far))
