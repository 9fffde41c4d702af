"""Hosts behind NATs that say nothing: TCP and UDP go from NAT to NAT, or by the rendezvous.

    client ── nat-a ──┐
    server ── nat-b ──┤
    cloud ─── nat-c ──┼── router ── meet: the rendezvous
    office ── nat-d ──┘

The NATs masquerade and know no signaling: kernels, without a daemon. They let nothing in that does
not answer something, and forget what was silent for some seconds. Each host registers by what its
NAT left open. The rendezvous hides the server, and relays for it; it lets the client be found, and
calls it, so that its NAT lets in who asks. Whoever agrees punches first, so that its NAT lets in
what comes; for TCP the other end has told its SYN. The cloud's NAT lets in whatever comes, and its
user says so. The office's lets hosts talk to the rendezvous alone, which relays for them, then.
"""

from __future__ import annotations

from dataclasses import dataclass

from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.constants import LOCATION_SERVICE
from wayside.core.messages import Accept
from wayside.lab import parcel, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, WAYSIDE, Daemon, within
from wayside.lab.gaps import told
from wayside.lab.legacy import MASQUERADE
from wayside.lab.mobile import connected, goes_to
from wayside.lab.probe import Watch, seen_after
from wayside.lab.scenario import Trial
from wayside.lab.stage import HIDES, SERVICES, kept, serve_all
from wayside.lab.world import Node, World
from wayside.runtime.names import service_of
from wayside.runtime.portrait import BEHIND_NAT

LETS_IN = """
table inet lab_one_to_one {
    chain entering {
        type nat hook prerouting priority dstnat; policy accept;
        iifname "to-router" meta nfproto ipv4 meta l4proto { tcp, udp } dnat ip to V4
        iifname "to-router" meta nfproto ipv6 meta l4proto { tcp, udp } dnat ip6 to V6
    }
}
"""

COUNTS = """
table inet lab_punches {
    counter seen {}
    counter taken {}
    counter echoes {}
    chain arriving {
        type filter hook prerouting priority -500; policy accept;
        udp length 40 @th,64,64 0x4353500100000000 counter name seen
        tcp urgptr 0x4353 counter name seen
        udp sport ECHO counter name echoes
    }
    chain entering {
        type filter hook input priority 500; policy accept;
        udp length 40 @th,64,64 0x4353500100000000 udp dport != 4747 counter name taken
        tcp urgptr 0x4353 counter name taken
    }
}
"""
"""Punches that come to a node, and those that any program there could read; and an echo's asks."""

BOXES = {"client": "nat-a", "server": "nat-b", "cloud": "nat-c", "office": "nat-d"}
"""Hosts, and the NAT before each."""

SHUT = """
table inet lab_router {
    chain entering {
        type filter hook input priority filter; policy accept;
        iifname "to-router" meta l4proto { tcp, udp } ct state != { established, related } drop
    }
}
"""
"""As households' NATs come: what nobody inside has asked for is dropped, and not answered."""

KEPT_IN = """
table inet lab_office {
    chain passing {
        type filter hook forward priority filter; policy accept;
        iifname "to-office" meta l4proto { tcp, udp } ip daddr != V4 drop
        iifname "to-office" meta l4proto { tcp, udp } ip6 daddr != V6 drop
    }
}
"""
"""A network whose hosts may talk to the rendezvous only."""

CLIENT_IS_TOLD_OF = """
default = "reject"

[[rule]]
name = "found-where-it-is"
from = ["*.lab"]
to = ["client.lab"]
action = "allow"
"""

LIFETIME_S = 9
"""Of all connections, so that they are refreshed every 3 s."""

FORGETS_S = 5
"""A NAT forgets what was silent for so long."""

SILENCE_S = 8.0
PARCEL_PORT = 7100
PARCEL_S, PARCEL_LIMIT_S = 0.3, 10.0
HANDSHAKE_PUNCHES = 2
ECHOES, EVERY_S, WAIT_S = 20, 0.05, 4.0
ECHO_FROM, STRAY_FROM, OPENED_FROM = 40_001, 40_002, 40_003


@dataclass(frozen=True, slots=True)
class _World:
    """Who is there. `nats`: by the name of the host behind it."""

    trial: Trial
    meet: Daemon
    client: Daemon
    server: Daemon
    cloud: Daemon
    office: Daemon
    nats: dict[str, Node]


def play(trial: Trial) -> None:
    """Nothing gets in unasked; UDP and TCP hidden, found and relayed; nobody reads a punch."""
    world = _set_up(trial)
    _check_shut(world)
    _check_hidden(world)
    _check_called(world)
    _check_silence(world)
    _check_tcp(world)
    _check_relayed(world)
    _check_punched(world)
    _check_lets_in(world)


def _set_up(trial: Trial) -> _World:
    world, daemons, family = trial.world, trial.daemons, trial.family
    router = world.node("router")
    meet, _ = world.beside("meet", router)
    meet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    policy = CLIENT_IS_TOLD_OF + HIDES.replace('default = "reject"\n', "")
    there = daemons.rendezvous_at(meet, policy=policy, lifetime_s=LIFETIME_S)
    hosts: dict[str, Daemon] = {}
    nats: dict[str, Node] = {}
    for name, box in BOXES.items():
        nats[name] = _nat(world, box, router)
        node, _ = world.beside(name, nats[name])
        serve_all(node)
        hosts[name] = daemons.host(
            *(node, SERVICES | {service_of(PARCEL_PORT): PARCEL_PORT}, LIFETIME_S),
            rendezvous=there,
            families=[family],
            mptcp=True,
        )
    for counted in (meet, hosts["client"].node, hosts["server"].node):
        counted.run("nft", "-f", "-", stdin=COUNTS.replace("ECHO", str(ECHO_FROM)))
    kept_in = KEPT_IN.replace("V4", str(meet.address(4))).replace("V6", str(meet.address(6)))
    nats["office"].run("nft", "-f", "-", stdin=kept_in)
    cloud = hosts["cloud"].node
    lets_in = LETS_IN.replace("V4", str(cloud.address(4))).replace("V6", str(cloud.address(6)))
    nats["cloud"].run("nft", "-f", "-", stdin=lets_in)
    path = cloud.state / "host.toml"
    path.write_text("nat_lets_in = true\n" + path.read_text())
    daemons.start(introduce=False)
    within(SEEN_LIMIT_S, lambda: len(kept(there)) >= len(hosts))
    trial.check("all are registered, each by its NAT", len(kept(there)) >= len(hosts))
    _check_join(trial, there, hosts["client"].node)
    return _World(trial, there, **hosts, nats=nats)


def _check_join(trial: Trial, there: Daemon, behind: Node) -> None:
    """Whoever is invited gets its name by way of such a NAT, too."""
    line = there.command("invite", "guest.lab", "--socket", str(there.control)).strip()
    file = behind.state / "guest" / "host.toml"
    done = behind.run(*WAYSIDE, "join", line, "--config", str(file), check=False)
    joined = not done.returncode and "guest.lab" in file.read_text()
    said = "" if joined else done.stderr.strip()
    trial.check("a host behind a NAT joins by invitation", joined, said or None)


def _nat(world: World, name: str, router: Node) -> Node:
    """Nobody beyond has a route to what is behind it."""
    node, _ = world.beside(name, router)
    node.run("nft", "-f", "-", stdin=MASQUERADE.replace("HOW", "") + SHUT)
    for key in ("udp_timeout", "udp_timeout_stream"):
        node.run("sysctl", "-qw", f"net.netfilter.nf_conntrack_{key}={FORGETS_S}")
    return node


def _check_shut(world: _World) -> None:
    """What is not signaled does not get through a NAT from outside, nor from the rendezvous."""
    trial, family = world.trial, world.trial.family
    watch, there = Watch(world.server.node), Watch(world.meet.node)
    unasked = [_stray(world, Transport.UDP, traffic.ECHO_PORT, STRAY_FROM)]
    unasked.append(_stray(world, Transport.TCP, traffic.HTTP_PORT, STRAY_FROM))
    arrived = seen_after(world.meet.node, watch, unasked)
    name = "what the rendezvous' node sends unasked is dropped by the server's NAT (control)"
    trial.check(name, not arrived, len(arrived))
    wanted = _stray(world, Transport.UDP, traffic.ECHO_PORT, OPENED_FROM)
    own = Address(world.server.node.address(family), traffic.ECHO_PORT)
    out = seen_after(world.server.node, there, [Flow(Transport.UDP, own, wanted.source)])
    arrived = seen_after(world.meet.node, watch, [wanted])
    opened, said = wanted.reversed() in out and arrived, ", ".join(map(str, arrived))
    trial.check("but not behind a packet of the server's own to there (control)", opened, said)


def _stray(world: _World, transport: Transport, port: int, source: int) -> Flow:
    """From the rendezvous' node to the server's NAT."""
    family = world.trial.family
    outside = world.nats["server"].address(family, "router")
    here = Address(world.meet.node.address(family), source)
    return Flow(transport, here, Address(outside, port))


def _check_hidden(world: _World) -> None:
    """Whoever is hidden is talked to by way of the rendezvous."""
    trial, meet = world.trial, str(world.meet.node.address(world.trial.family))
    ends = (world.client, world.server)
    _check_udp(world, *ends, "hidden")
    for end, other in (ends, ends[::-1]):
        held = connected(end, other)
        by = {goes_to(one) for one in held}
        trial.check(f"hidden: {end.name}'s packets go to the rendezvous", by == {meet}, str(by))
        stands = {str(one["stands"]) for one in held}
        said = stands == {BEHIND_NAT} and all(one["hidden"] for one in held)
        trial.check(f"hidden: {end.name}'s status says how it stands", said, ", ".join(stands))


def _check_called(world: _World) -> None:
    """Whoever is not is called by it; then both talk past it, from NAT to NAT."""
    trial, meet = world.trial, world.meet.node
    ends = (world.server, world.client)
    before = meet.counted("lab_punches", "echoes")
    trial.check("hidden: the rendezvous' node gets the packets (control)", before, before)
    _check_udp(world, *ends, "found")
    after = meet.counted("lab_punches", "echoes")
    trial.check("found: the rendezvous' node gets none of the packets", after == before, after)
    for end, other in (ends, ends[::-1]):
        nat = str(world.nats[other.node.name].address(trial.family, "router"))
        held = [one for one in connected(end, other) if not one["hidden"]]
        by = {goes_to(one) for one in held}
        trial.check(f"found: {end.name}'s packets go to {other.name}'s NAT", by == {nat}, str(by))
        stands = {str(one["stands"]) for one in held}
        said = stands == {BEHIND_NAT}
        trial.check(f"found: {end.name}'s status says how it stands", said, ", ".join(stands))


def _check_udp(world: _World, asks: Daemon, answers: Daemon, what: str) -> None:
    """Every datagram is answered, the first one too."""
    trial = world.trial
    to = asks.address(answers.name, trial.family)
    asked = traffic.start_echo(
        *(asks.node, to), count=ECHOES, interval_s=EVERY_S, from_port=ECHO_FROM, limit_s=WAIT_S
    )
    done = traffic.echo_result(asked)
    name = f"{what}: every datagram of the UDP echo is answered"
    trial.check(name, done.answered == ECHOES, done.answered, f"of {ECHOES}")
    trial.check(f"{what}: and nothing is said to be closed", not done.errors, len(done.errors))


def _check_punched(world: _World) -> None:
    """Before each ACCEPT there is a punch; the rendezvous and hosts drop them, no program gets any.

    Those of refreshes, too, which meet rules that are in force.
    """
    trial = world.trial
    for end in (world.client, world.server):
        records = end.events()
        punches = {one.cid: one.time for one in reversed(records) if one.event == "packet.punched"}
        accepts = {
            one.cid: one.time
            for one in reversed(records)
            if (one.event, one.type) == ("datagram.sent", Accept.__name__.upper())
        }
        before = punches and all(punches.get(cid, at + 1) < at for cid, at in accepts.items())
        trial.check(f"{end.name} sends a punch before it says ACCEPT", before, len(punches))
        sent = sum(one.event == "packet.punched" for one in records)
        trial.check(f"and again with each refresh: {end.name}", sent > 2 * HANDSHAKE_PUNCHES, sent)
    for end in (world.meet, world.server):
        seen = end.node.counted("lab_punches", "seen")
        trial.check(f"punches come to {end.node.name}'s node (control)", seen, seen)
    for end in (world.meet, world.server, world.client):
        taken = end.node.counted("lab_punches", "taken")
        trial.check(f"no program could read any at {end.node.name}", taken == 0, taken)


def _check_silence(world: _World) -> None:
    """The refreshes keep a NAT awake that forgets in less time than the programs are silent."""
    trial, client = world.trial, world.client
    to = client.address(world.server.name, trial.family)
    asked = traffic.start_echo(client.node, to, count=2, interval_s=SILENCE_S)
    answered = traffic.echo_result(asked).answered
    trial.check(f"a datagram after {SILENCE_S:g} s of silence is answered", answered == 2, answered)


def _check_tcp(world: _World) -> None:
    """The SYN rides on the OPEN; so the punch has the number of what will answer it."""
    trial = world.trial
    ways = (("hidden", world.client, world.server), ("found", world.server, world.client))
    for what, asks, answers in ways:
        fetched = traffic.curl(asks.node, asks.address(answers.name, trial.family))
        whole = fetched.bytes == traffic.FILE_BYTES
        trial.check(f"{what}: curl has the whole file", whole, fetched.error or fetched.seconds)
        _check_mptcp(world, what, asks, answers)


def _check_mptcp(world: _World, what: str, asks: Daemon, answers: Daemon) -> None:
    """MPTCP's first subflow is a TCP connection like any other."""
    served = answers.node.spawn_python(parcel.__name__, "serve", str(PARCEL_PORT), ready="ready")
    to = str(asks.address(answers.name, world.trial.family))
    words = ("send", to, str(PARCEL_PORT), str(PARCEL_S))
    sent = asks.node.spawn_python(parcel.__name__, *words)
    sent.wait(PARCEL_LIMIT_S)
    said = told(sent)
    came = within(PARCEL_LIMIT_S, lambda: [one for one in told(served) if "ended" in one])
    whole = said and came and came[-1]["digest"] == said[-1]["digest"]
    is_mptcp = said and not any(one.get("fallback") for one in said)
    about = f"{came[-1]['bytes']} bytes" if came else sent.text()
    world.trial.check(f"{what}: a parcel by MPTCP is whole", whole and is_mptcp, about)


def _check_relayed(world: _World) -> None:
    """Whoever does not get to who was called, is carried by the rendezvous."""
    trial, office, client = world.trial, world.office, world.client
    to = office.address(client.name, trial.family)
    fetched = traffic.curl(office.node, to)
    whole = fetched.bytes == traffic.FILE_BYTES
    trial.check("relayed: curl has the whole file", whole, fetched.error or fetched.seconds)
    _check_udp(world, office, client, "relayed")
    by = {goes_to(one) for one in connected(office, client)}
    meet = str(world.meet.node.address(trial.family))
    trial.check("relayed: the packets go to the rendezvous", by == {meet}, str(by))


def _check_lets_in(world: _World) -> None:
    """Through a NAT that lets all in, TCP works as UDP does; nobody punches there."""
    trial, client = world.trial, world.client
    to: IP = client.address(world.cloud.name, trial.family)
    fetched = traffic.curl(client.node, to)
    whole = fetched.bytes == traffic.FILE_BYTES
    trial.check("where the NAT lets all in, curl has the whole file", whole, fetched.error)
    asked = traffic.start_echo(client.node, to, count=ECHOES, interval_s=EVERY_S)
    answered = traffic.echo_result(asked).answered
    trial.check("and every datagram is answered", answered == ECHOES, answered, f"of {ECHOES}")
    punched = [one for one in world.cloud.events() if one.event == "packet.punched"]
    trial.check("without a punch", not punched, len(punched))
    held = [one for one in world.cloud.held() if one["service"] == LOCATION_SERVICE]
    stands = {str(one["stands"]) for one in held}
    trial.check("its registration stands behind a NAT", stands == {BEHIND_NAT}, ", ".join(stands))
