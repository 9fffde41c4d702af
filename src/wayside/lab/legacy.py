"""The old world: peers, NATs and firewalls that know no signaling, and what then works.

    direct ──────────────────┐         ┌── peer       with wayside
    out ─── gate-out ────────┤         ├── old        without
    natted ─── nat ──────────┼─ router ┼── gate-in ──┬── peer-in   with wayside
    both ── gate-nat ── nat2 ┤         │             └── old-in    without
    walled ─── wall ─────────┤         └── wall-in ───── shy       without; TCP port 80 only
    shuffled ── nat3 ────────┤
    strict ──────────────────┘

The gates answer for old and old-in. The nats masquerade (nat3 with random ports) and the walls keep
track of connections: kernels, without a daemon. Clients let gates answer for hosts without wayside,
and go there plainly if nobody does; strict does neither. `table.txt` has what each combination
gives; README has the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_address

from wayside.core.address import IP
from wayside.core.identity import key_text
from wayside.lab import traffic
from wayside.lab.daemons import Daemon
from wayside.lab.scenario import Trial
from wayside.lab.stage import SERVICES, serve_all
from wayside.lab.world import Node, World
from wayside.runtime.control import ask
from wayside.runtime.control_types import (
    AddressReply,
    AddressRequest,
    RefusalRecord,
    WhyReply,
    WhyRequest,
)
from wayside.runtime.legacy import key_of_nobody
from wayside.runtime.names import service_of

POLICY = """
default = "reject"

[[rule]]
name = "lab-may"
from = ["*.lab"]
action = "allow"
"""

MASQUERADE = """
table inet lab_nat {
    chain leaving {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "to-router" masquerade HOW
    }
}
"""

TRACKS = """
table inet lab_wall {
    chain passing {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "to-FREE" RULE accept
        meta l4proto ipv6-icmp accept
    }
}
"""
"""A firewall of the old kind: what begins on one side passes, and what belongs to it."""

ECHO_COUNT = 3
CURL_LIMIT_S = 9.0
"""More than an attempt takes that nobody answers."""

AT_ONCE_S = 4.0
"""Less than that: the network has said something."""

BOTH_AGREE = "connected"
GATES, PEERS = ("near the initiator", "near the responder", "none"), ("with wayside", "legacy")
HEAD = "| gate | legacy NAT | peer | TCP | UDP | `status` says |\n|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True)
class _Old:
    """The stage. `clients`, `servers`: by node; `old`: nodes without a daemon."""

    trial: Trial
    clients: dict[str, Daemon]
    servers: dict[str, Daemon]
    old: dict[str, Node]
    gates: dict[str, Daemon]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one combination gives."""

    tcp: bool
    udp: bool
    says: str
    record: dict[str, object]
    why: str = ""


def play(trial: Trial) -> None:
    """Every combination, the table of them; then walls, NATs that change ports, and the strict."""
    old = _set_up(trial)
    lines = [HEAD]
    for gate in GATES:
        for nat in ("no", "yes"):
            for peer in PEERS:
                lines.append(_row(old, gate, nat, peer))
    (trial.out / "table.txt").write_text("\n".join(lines) + "\n")
    _check_strict(old)
    _check_answering_gate(old)
    _check_walls(old)
    _check_changed_ports(old)


def _set_up(trial: Trial) -> _Old:
    world, daemons = trial.world, trial.daemons
    router = world.node("router")
    nodes = _far(world, router) | _near(world, router)
    for name in ("peer", "old", "peer-in", "old-in", "shy"):
        serve_all(nodes[name])
    gates = {
        "gate-out": daemons.gate(
            nodes["gate-out"], inside=nodes["out"], outside=router, policy=POLICY
        ),
        "gate-nat": daemons.gate(
            nodes["gate-nat"], inside=nodes["both"], outside=nodes["nat2"], policy=POLICY
        ),
        "gate-in": daemons.gate(
            nodes["gate-in"],
            inside=[nodes["peer-in"], nodes["old-in"]],
            outside=router,
            policy=POLICY,
        ),
    }
    _answer_for(gates["gate-out"], nodes["old"], "outside")
    _answer_for(gates["gate-nat"], nodes["old"], "outside")
    _answer_for(gates["gate-in"], nodes["old-in"], "inside")
    servers = {name: daemons.host(nodes[name], SERVICES) for name in ("peer", "peer-in")}
    names = ("direct", "out", "natted", "both", "walled", "shuffled", "strict")
    clients = {name: daemons.host(nodes[name]) for name in names}
    old = {name: nodes[name] for name in ("old", "old-in", "shy")}
    for name, client in clients.items():
        for server in servers.values():
            daemons.introduce(client, server)
        for node in old.values():
            _introduce(client, node, lets=name != "strict")
    daemons.start(introduce=False)
    return _Old(trial, clients, servers, old, gates)


def _far(world: World, router: Node) -> dict[str, Node]:
    """The servers, and what stands before them."""
    nodes: dict[str, Node] = {}
    for name in ("peer", "old", "gate-in", "wall-in"):
        nodes[name], _ = world.beside(name, router)
    for name, behind in (("peer-in", "gate-in"), ("old-in", "gate-in"), ("shy", "wall-in")):
        nodes[name], net = world.beside(name, nodes[behind])
        world.route(router, net, nodes[behind])
    rule = TRACKS.replace("FREE", "router").replace("RULE", "tcp dport 80")
    nodes["wall-in"].run("nft", "-f", "-", stdin=rule)
    return nodes


def _near(world: World, router: Node) -> dict[str, Node]:
    """The clients, and what stands before them. Behind a NAT nobody beyond has a route to them."""
    nodes: dict[str, Node] = {}
    for name in ("direct", "strict", "gate-out", "nat", "nat2", "nat3", "wall"):
        nodes[name], _ = world.beside(name, router)
    nodes["gate-nat"], _ = world.beside("gate-nat", nodes["nat2"])
    for name, behind in (
        ("out", "gate-out"),
        ("natted", "nat"),
        ("both", "gate-nat"),
        ("walled", "wall"),
        ("shuffled", "nat3"),
    ):
        nodes[name], net = world.beside(name, nodes[behind])
        if behind in ("gate-out", "wall"):
            world.route(router, net, nodes[behind])
        if behind == "gate-nat":
            world.route(nodes["nat2"], net, nodes[behind])
    for name, how in (("nat", ""), ("nat2", ""), ("nat3", "fully-random")):
        nodes[name].run("nft", "-f", "-", stdin=MASQUERADE.replace("HOW", how))
    rule = TRACKS.replace("FREE", "walled").replace("RULE", "")
    nodes["wall"].run("nft", "-f", "-", stdin=rule)
    return nodes


def _answer_for(gate: Daemon, node: Node, side: str) -> None:
    """Let a gate's file say for whom it answers."""
    addresses = json.dumps([str(node.address(family)) for family in (4, 6)])
    http, echo = (service_of(port) for port in (traffic.HTTP_PORT, traffic.ECHO_PORT))
    lines = [
        "[[legacy]]",
        f"addresses = {addresses}",
        f'side = "{side}"',
        "[legacy.services]",
        f'"{http}" = {{ port = {traffic.HTTP_PORT}, transport = ["tcp"] }}',
        f'"{echo}" = {traffic.ECHO_PORT}',
    ]
    with (gate.node.state / "gate.toml").open("a") as file:
        file.write("\n".join(lines) + "\n")


def _introduce(client: Daemon, node: Node, lets: bool) -> None:
    """Let a client's file name a host without wayside, and what may be done about it."""
    addresses = json.dumps([str(node.address(family)) for family in (4, 6)])
    key = f'key = "{key_text(key_of_nobody(node.name))}"'
    may = 'legacy = "gate"\nfallback = "plain"' if lets else key
    lines = [f'[peers."{_name(node)}"]', f"addresses = {addresses}", may]
    with (client.node.state / "host.toml").open("a") as file:
        file.write("\n".join(lines) + "\n")


def _name(node: Node) -> str:
    return f"{node.name}.lab"


# --- every combination ---


def _row(old: _Old, gate: str, nat: str, peer: str) -> str:
    """One combination: what works, checked, and its line of the table."""
    near = gate == "near the initiator"
    client = old.clients[
        ("both" if near else "natted") if nat == "yes" else "out" if near else "direct"
    ]
    name = ("peer" if peer == "with wayside" else "old") + ("-in" if "responder" in gate else "")
    seen = _try(old, client, f"{name}.lab")
    words = (gate, nat, peer)
    told = f"gate {gate}, {'a' if nat == 'yes' else 'no'} NAT, peer {peer}"
    old.trial.check(f"{told}: TCP and UDP", seen.tcp and seen.udp, seen.says or seen.why)
    if peer == "legacy":
        plain = gate == "none"
        honest = ("plain" in seen.says) if plain else ("gate answers" in seen.says)
        old.trial.check("and `status` says who answered", honest, seen.says)
    if nat == "yes" and peer == "with wayside":
        _check_outside(old, seen)
    works = ("works" if one else "no" for one in (seen.tcp, seen.udp))
    return f"| {' | '.join((*words, *works, seen.says or seen.why))} |"


def _try(old: _Old, client: Daemon, name: str) -> _Seen:
    """Fetch a file, ask the echo, and read `status`."""
    family = old.trial.family
    to = _address(client, name, family)
    fetched = traffic.curl(client.node, to, limit_s=CURL_LIMIT_S)
    tcp = fetched.bytes == traffic.FILE_BYTES
    echoed = _echo(client, to)
    records = [one for one in client.held() if _is_echo(one, to)]
    if not records:
        why = _why(client)
        return _Seen(tcp, echoed, "", {}, f"refused: {why.reason}" if why else "nothing")
    record = records[-1]
    words = (record["state"] if record["state"] != "plain" else "", record["stands"])
    said = "; ".join(str(word) for word in words if word)
    by_tcp = [
        one.why or BOTH_AGREE
        for one in client.events()
        if one.event == "connection.opened" and one.service == service_of(traffic.HTTP_PORT)
    ]
    alike = not by_tcp or by_tcp[-1] in said or by_tcp[-1] == BOTH_AGREE
    old.trial.check(f"{client.name} to {name}: TCP and UDP stand alike", alike, said)
    return _Seen(tcp, echoed, said, record)


def _echo(client: Daemon, to: IP, count: int = ECHO_COUNT) -> bool:
    asked = traffic.start_echo(client.node, to, count=count, interval_s=0.05, limit_s=7.0)
    return traffic.echo_result(asked).answered == count


def _address(client: Daemon, name: str, family: int) -> IP:
    """The virtual address of a name, asked without starting a program for it."""
    request = AddressRequest(name=name, family=4 if family == 4 else 6)
    return ip_address(ask(client.control, request, AddressReply).address)


def _why(client: Daemon) -> RefusalRecord | None:
    """The newest refusal."""
    refusals = ask(client.control, WhyRequest(), WhyReply).refusals
    return refusals[0] if refusals else None


def _is_echo(record: dict[str, object], to: IP) -> bool:
    destination = str(record["flow"]).partition(" > ")[2]
    ip, _, port = destination.rpartition(":")
    return (ip_address(ip.strip("[]")), port) == (to, str(traffic.ECHO_PORT))


def _check_outside(old: _Old, seen: _Seen) -> None:
    """Both ends know the NAT's address, though it has said nothing."""
    told = str(seen.record.get("there", "")).partition(" > ")[0]
    theirs = [
        str(one["wire"]).partition(" > ")[2]
        for server in old.servers.values()
        for one in server.held()
    ]
    other = told != str(seen.record.get("wire", "")).partition(" > ")[0]
    old.trial.check("both ends know what the NAT makes of it", other and told in theirs, told)


# --- what else has to be so ---


def _check_strict(old: _Old) -> None:
    """Who lets nothing be gets nothing but a reason."""
    trial, client = old.trial, old.clients["strict"]
    for name, reason in (("old", "nobody answered"), ("old-in", "does not let")):
        fetched = traffic.curl(
            client.node, _address(client, f"{name}.lab", trial.family), limit_s=CURL_LIMIT_S
        )
        refusal = _why(client)
        why = refusal.reason if refusal else ""
        refused = fetched.exit_code == 7 and fetched.bytes == 0
        trial.check(f"strict does not get to {name}", refused, fetched.error)
        trial.check("and is told why", reason in why, why)
    held = client.held()
    trial.check("and holds no connection", not held, len(held))
    plain = traffic.curl(client.node, old.old["old"].address(trial.family))
    trial.check("though there is a way (control)", plain.bytes == traffic.FILE_BYTES, plain.error)


def _check_answering_gate(old: _Old) -> None:
    """The gate's own `status` says for whom it answers; nothing else passes to those."""
    trial, gate = old.trial, old.gates["gate-in"]
    said = [str(one["stands"]) for one in gate.held() if one["stands"]]
    trial.check("the gate says that it answers in another's place", said, said[0] if said else "")
    client = old.clients["direct"]
    done = traffic.ssh_says(
        client.node, old.old["old-in"], _address(client, "old-in.lab", trial.family)
    )
    refusal = _why(client)
    said = f"{refusal.by}: {refusal.reason}" if refusal else done
    told = said.startswith(gate.name) and "no service" in said
    trial.check("a service that it does not answer for is refused", told, said)
    direct = traffic.curl(client.node, old.old["old-in"].address(trial.family), limit_s=1.0)
    trial.check("what is not signaled is dropped there", direct.exit_code == 28, direct.error)


def _check_walls(old: _Old) -> None:
    """A firewall that keeps track lets answers in; one that lets a port in, lets that in."""
    trial, family = old.trial, old.trial.family
    walled = _try(old, old.clients["walled"], "peer.lab")
    works = walled.tcp and walled.udp and walled.says == BOTH_AGREE
    trial.check("out through a legacy firewall, TCP and UDP", works, walled.says or walled.why)
    direct = old.clients["direct"]
    to = _address(direct, "shy.lab", family)
    fetched = traffic.curl(direct.node, to, limit_s=CURL_LIMIT_S)
    whole = fetched.bytes == traffic.FILE_BYTES
    trial.check("in through one that lets TCP 80 in: plain", whole, fetched.seconds, "s")
    trial.check("and no UDP (control)", not _echo(direct, to, 1))
    took_s = _plain_after_s(direct, "old.lab")
    silent_s = _plain_after_s(direct, "shy.lab")
    quick = 0 <= took_s < AT_ONCE_S < silent_s
    trial.check("a closed port is known at once, silence is not", quick, took_s, "s")


def _plain_after_s(client: Daemon, name: str) -> float:
    """From the first packet to a peer to the plain connection, seconds; -1: there was none."""
    records = client.events()
    first = {one.cid: one.time for one in records if one.event == "packet.first"}
    opened = [one for one in records if one.event == "connection.opened" and one.peer == name]
    return opened[-1].time - first[opened[-1].cid] if opened else -1.0


def _check_changed_ports(old: _Old) -> None:
    """Behind a NAT that changes ports nobody knows what becomes of data: it says so."""
    trial, client = old.trial, old.clients["shuffled"]
    fetched = traffic.curl(
        client.node, _address(client, "peer.lab", trial.family), limit_s=CURL_LIMIT_S
    )
    refusal = _why(client)
    why = refusal.reason if refusal else ""
    trial.check("a NAT that changes ports: refused", fetched.exit_code == 7, fetched.error)
    trial.check("and says so", "NAT" in why, why)
