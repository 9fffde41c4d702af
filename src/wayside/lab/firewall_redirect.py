"""A default-drop firewall that sends connections by way of a proxy, which stands elsewhere.

    client ──inside── gate ──outside── router ── server
                                         ├── proxy      a relay
                                         ├── cache      a host whose squid answers for the server
                                         ├── vault      in a network that the proxy does not serve
                                         └── stranger   who has read the approvals

The gate's policy redirects. The proxy's kernel passes data on; direct packets stay dropped. The
web goes to the cache's host, whose key the gate names: squid takes the connection, and writes down
what was asked.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import Header, decode_body, encode_body
from wayside.core.constants import SIGNALING_PORT
from wayside.core.crypto import SigningKey, ephemeral_public
from wayside.core.identity import key_text
from wayside.core.messages import Open, OpenTerms, Reject, RejectTerms, decode, padded
from wayside.core.opening import SIGNATURE_CONTEXT
from wayside.core.rule import Cid
from wayside.lab import adversary, nat, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, within
from wayside.lab.probe import Watch
from wayside.lab.scenario import Trial
from wayside.lab.stage import SERVICES, Stage, serve_all
from wayside.lab.world import Node
from wayside.runtime.names import service_of

ECHO_FROM = 40_001

POLICY = f"""
default = "reject"

[[rule]]
name = "web-by-the-cache"
to = ["server.lab"]
service = ["http"]
action = "redirect"
via = "cache"

[[rule]]
name = "by-the-proxy"
service = ["iperf3", "{traffic.ECHO_PORT}"]
action = "redirect"
via = "proxy"

[[rule]]
name = "vault-by-the-proxy"
to = ["vault.lab"]
service = ["http"]
action = "redirect"
via = "proxy"

[[rule]]
name = "lab-may"
from = ["*.lab"]
action = "allow"

[[test]]
from = "client.lab"
to = "server.lab"
service = "iperf3"
direction = "out"
expect = "redirect"
"""

WHOEVER_IS_APPROVED = 'default = "allow"\n'

NOT_APPROVED = "nobody whom this relay trusts has approved it"
NOT_SERVED = "this relay does not go to"
"""What the proxy says to a connection that has no approval of its own, and about the vault."""

PROCESSOR_S_MAX = 0.5
"""What the proxy's daemon may take while gigabytes pass: it signals, its kernel carries them."""

ANSWER_S, SILENCE = 0.5, "silence"
"""What the stranger gets for the cid of a connection that lives: it is nobody else's."""

BORROWED = 2
"""Approvals that the stranger tries."""


@dataclass(frozen=True, slots=True)
class _Redirected:
    """The stage, and who else is there. `read`: what the box on the path has written down."""

    stage: Stage
    gate: Daemon
    proxy: Daemon
    cache: Daemon
    vault: Daemon
    stranger: Node
    read: Path

    @property
    def family(self) -> int:
        return self.stage.trial.family


def play(trial: Trial) -> None:
    """By way of the proxy only; not to the vault, nor for others; and the web by the cache."""
    world = _set_up(trial)
    stage = world.stage
    direct = stage.wire(Transport.UDP, ECHO_FROM, traffic.ECHO_PORT)
    nat.check_shut(stage, Watch(world.gate.node), [direct])
    crossing = nat.check_flow(stage, ECHO_FROM, lambda flow: _strays(flow, direct), False)
    if crossing is not None:
        _check_by_way_of(world, crossing)
    _check_kernel_carries(world)
    _check_vault(world)
    _check_stolen_approval(world)
    _check_handed_over(world)


def _set_up(trial: Trial) -> _Redirected:
    world, daemons, family = trial.world, trial.daemons, trial.family
    nodes = world.chain("client", "gate", "router", "server")
    client, box, router, server = nodes
    beside: dict[str, Node] = {}
    for name in ("proxy", "cache", "vault", "stranger"):
        beside[name], net = world.beside(name, router)
        for node, neighbour in ((client, box), (box, router), (server, router)):
            world.route(node, net, neighbour)
    beside["proxy"].run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    serve_all(server)
    traffic.serve_http(beside["vault"])
    traffic.serve_ssh(beside["vault"])
    services = {service_of(traffic.HTTP_PORT): traffic.SQUID_PORT}
    cache = daemons.host(beside["cache"], services)
    gate = daemons.gate(
        box,
        inside=client,
        outside=router,
        policy=POLICY,
        relays={"proxy": beside["proxy"], "cache": cache},
    )
    networks = [f"{server.address(4)}/32", f"{server.address(6)}/128"]
    proxy = daemons.relay(
        beside["proxy"], approvers=[gate], policy=WHOEVER_IS_APPROVED, targets=networks
    )
    host = daemons.host(client, redirectors=[gate])
    peer = daemons.host(server, SERVICES)
    vault = daemons.host(beside["vault"], SERVICES)
    daemons.start()
    read = router.state / "read"
    read.touch()
    router.spawn_python("wayside.lab.adversary", "listen", str(read), "to-gate", ready="ready")
    stage = Stage(trial, host, peer, nodes, host.address(peer.name, family), Watch(server))
    return _Redirected(stage, gate, proxy, cache, vault, beside["stranger"], read)


def _strays(crossing: nat.Crossing, direct: Flow) -> tuple[list[Flow], list[Flow]]:
    out, back = nat.all_relations(crossing)
    return [*out, direct], [*back, direct.reversed()]


def _check_by_way_of(world: _Redirected, crossing: nat.Crossing) -> None:
    trial = world.stage.trial
    there = world.proxy.node.address(world.family)
    both = crossing.near.destination.ip == crossing.far.source.ip == there
    trial.check("data goes by way of the proxy", both, str(there))
    newest = world.stage.client.held()[-1]
    roles = [hop["role"] for hop in newest["via"]]
    keys = [hop["key"] for hop in newest["via"]]
    ours = [key_text(daemon.public) for daemon in (world.gate, world.proxy)]
    trial.check(
        "`status` names gate and relay", (roles, keys) == (["gate", "relay"], ours), str(roles)
    )
    by = newest["redirected_by"] == [key_text(world.gate.public)]
    trial.check("and who redirected", by, ", ".join(newest["redirected_by"])[:12])


def _check_kernel_carries(world: _Redirected) -> None:
    """iperf3 through the proxy, whose daemon has nothing to do with it."""
    stage = world.stage
    trial, node = stage.trial, stage.client.node
    before = _processor_s(world.proxy)
    bulk = traffic.iperf(node, stage.to, trial.bulk_s)
    took = _processor_s(world.proxy) - before
    said = bulk.error or bulk.gbit_s
    trial.check("iperf3 over TCP by way of the proxy", bulk.gbit_s > 0, said, "Gbit/s")
    trial.check(
        "its kernel carries it, not its daemon", took < PROCESSOR_S_MAX, took, "s of processor"
    )
    plain = traffic.iperf(world.stranger, stage.server.node.address(world.family), 1.0)
    trial.check("plain routing from beside it (control)", plain.gbit_s > 0, plain.gbit_s, "Gbit/s")
    datagrams = traffic.iperf(node, stage.to, 1.0, udp=True)
    fine = not datagrams.error and datagrams.lost_percent < nat.LOST_PERCENT_MAX
    trial.check("iperf3 over UDP", fine, datagrams.error or datagrams.lost_percent, "% lost")
    said = traffic.ssh_says(node, stage.server.node, stage.to)
    roles = [
        hop["role"] for one in stage.client.held() if one["service"] == "ssh" for hop in one["via"]
    ]
    trial.check(
        "ssh, which is allowed, goes straight (control)",
        said == "hello" and "relay" not in roles,
        said,
    )


def _processor_s(daemon: Daemon) -> float:
    """Processor time of a daemon so far, seconds."""
    words = Path(f"/proc/{daemon.status()['pid']}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _check_vault(world: _Redirected) -> None:
    """A relay that served every private address would be a way round every firewall near it."""
    trial, client = world.stage.trial, world.stage.client
    to = client.address(world.vault.name, world.family)
    fetched = traffic.curl(client.node, to)
    trial.check("the proxy does not serve the vault's network", fetched.exit_code, fetched.cause)
    why = client.why()[0]
    said = f"{why['by']}: {why['reason']}"
    told = NOT_SERVED in said and world.proxy.name in said
    trial.check("and says so", told, said)
    hello = traffic.ssh_says(client.node, world.vault.node, to)
    trial.check(
        "ssh, which does not go by it, reaches the vault (control)", hello == "hello", hello
    )


def _check_stolen_approval(world: _Redirected) -> None:
    """Whoever reads an approval has nothing of it: for a cid of its own, and for that one."""
    trial = world.stage.trial
    words = (str(world.read), str(world.proxy.node.address(world.family)))
    done = world.stranger.run(sys.executable, "-P", "-m", __name__, *words)
    answers = json.loads(done.stdout)
    name = "a second host that shows the client's approval is refused"
    refused = answers[::2] == [NOT_APPROVED] * BORROWED
    trial.check(name, refused, "; ".join(answers[::2]))
    silent = set(answers[1::2]) <= {NOT_APPROVED, SILENCE} and len(answers) == 2 * BORROWED
    trial.check("with the cid that it was given for, too", silent, "; ".join(answers[1::2]))


def _check_handed_over(world: _Redirected) -> None:
    """The cache's own program answers, and writes down what was asked."""
    stage = world.stage
    origin = world.cache.address(stage.server.name, world.family)
    traffic.serve_squid(world.cache.node, origin)
    trial, node = stage.trial, stage.client.node
    fetched = traffic.curl(node, stage.to)
    whole = fetched.bytes == traffic.FILE_BYTES
    trial.check("the web comes by the cache's squid", whole, fetched.error or fetched.seconds, "s")
    line = within(SEEN_LIMIT_S, lambda: traffic.squid_log(world.cache.node))
    said = line.strip().partition("GET ")[2]
    trial.check("which has written down what was asked", "/file" in said, said)
    peers = _web_peers(stage.client)
    known = peers == {key_text(world.cache.public)}
    trial.check("the client knows whose key answered", known, ", ".join(peers)[:12])
    peers = _web_peers(stage.server)
    known = peers == {world.cache.name}
    trial.check("the server heard of the web from the cache only", known, ", ".join(peers))


def _web_peers(host: Daemon) -> set[str]:
    """With whom a host has opened connections for the web."""
    opened = [r for r in host.events() if r.event == "connection.opened"]
    return {r.peer for r in opened if r.service == service_of(traffic.HTTP_PORT)}


def _borrowed(file: str, relay: Address, own: Address) -> Iterator[bytes]:
    """OPENs of our own with approvals of others: under a new cid, and under theirs."""
    key = SigningKey(os.urandom(32))
    tried = 0
    for seen in adversary.read(file):
        header, message = decode(seen.data)
        if not isinstance(message, Open):
            continue
        asked = decode_body(OpenTerms, message.signed)
        if not asked.approval or seen.flow.destination != relay or tried == BORROWED:
            continue
        tried += 1
        terms = replace(
            asked,
            from_key=key.public,
            from_certificate=b"",
            source=own.with_port(ECHO_FROM),
            ephemeral=ephemeral_public(os.urandom(32)),
            time_s=int(time.time()),
            sealed=b"",
        )
        for cid in (Cid(os.urandom(16)), header.cid):
            about = Header(Open.TYPE, header.seq, cid)
            signed = encode_body(terms)
            signature = key.sign(SIGNATURE_CONTEXT, about.signing + signed)
            yield padded(about, Open(signed, signature))


def main() -> None:
    """The stranger: show the relay at an address the approvals in a file; print its answers."""
    file, host = sys.argv[1:]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    answers: list[str] = []
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind(("", SIGNALING_PORT))
        sock.settimeout(ANSWER_S)
        sock.connect((host, SIGNALING_PORT))
        own, relay = (
            Address.parse(_spelt(name)) for name in (sock.getsockname(), sock.getpeername())
        )
        for datagram in _borrowed(file, relay, own):
            sock.send(datagram)
            answers.append(_answer(sock))
    print(json.dumps(answers))


def _answer(sock: socket.socket) -> str:
    try:
        _, message = decode(sock.recv(2048))
    except TimeoutError:
        return SILENCE
    if isinstance(message, Reject):
        return decode_body(RejectTerms, message.signed).reason
    return type(message).__name__


def _spelt(name: tuple[str, int]) -> str:
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


if __name__ == "__main__":
    main()
