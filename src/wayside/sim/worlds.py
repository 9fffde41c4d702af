"""The worlds by name: what is in each, and what goes wrong there.

The wild ones are drawn from the others. How a world is built is in topology.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random


@dataclass(frozen=True, slots=True)
class More:
    """Who steers, and what is special. `rendezvous`: servers are asked for there.

    `hides`: and are known to nobody else; `consent`: servers want its approval. `redirects`: by way
    of a relay only. `servers`: the most of them. `own_ports`: no two clients have a source port in
    common. `stops`: three gates in a row, and servers that say STOP. `legacy`: servers know no
    signaling, and the gate before them answers. `apart`: which known fault of the machines keeps
    it out of the turn, or what else does. `paths`: hosts have two links, and links die without a
    sign; `subflows`: and applications use both, by MPTCP. `flooded`: a spoofer and a flooder all
    the time, and little room for bare OPENs.
    """

    rendezvous: bool = False
    hides: bool = False
    consent: bool = False
    redirects: bool = False
    servers: int = 2
    own_ports: bool = False
    stops: bool = False
    legacy: bool = False
    flooded: bool = False
    apart: str = ""
    paths: bool = False
    subflows: bool = False


@dataclass(frozen=True, slots=True)
class Spec:
    """What a named world has. `faults`: the most in a schedule; `loss`: of all links, always.

    `client_nats`, `server_nats`: NATs that take part, between these hosts and the core; `mobile`:
    who moves, `c` and `s`.
    """

    about: str
    near_clients: bool = False
    near_servers: bool = False
    nat: bool = False
    rejects: bool = False
    faults: int = 6
    loss: float = 0.0
    wild: bool = False
    client_nats: int = 0
    server_nats: int = 0
    mobile: str = ""
    more: More = field(default_factory=More)

    @property
    def nats(self) -> bool:
        """Whether each host is behind a NAT of its own that knows no signaling."""
        return self.nat and self.more.rendezvous


BACK = "seeds 48, 288, 325: a socket stands still after a move"


HIDDEN = "seed 39: a TCP socket breaks by a move"
STUCK = "until a long run has shown that it is well"
LATER = "a world more in the turn would change which world each seed means"

WORLDS: dict[str, Spec] = {
    "simple": Spec("two hosts and the network between them"),
    "firewall-out": Spec("a firewall near the initiator", near_clients=True),
    "firewall-in": Spec("a firewall near the responder", near_servers=True),
    "firewall-both": Spec("a firewall near each", near_clients=True, near_servers=True),
    "reject": Spec("a firewall and hosts that say no", near_clients=True, rejects=True),
    "legacy-nat": Spec("a NAT on the path that knows no signaling", near_servers=True, nat=True),
    "legacy": Spec(
        "servers that know no signaling, behind a firewall that answers for them",
        near_servers=True,
        more=More(legacy=True),
    ),
    "lossy": Spec(
        "links that lose, delay and reorder all the time",
        near_clients=True,
        near_servers=True,
        faults=2,
        loss=0.15,
    ),
    "nat-out": Spec(
        "a NAT before the initiators, and a firewall", near_servers=True, client_nats=1
    ),
    "nat-in": Spec(
        "a server behind a NAT, found at a rendezvous",
        server_nats=1,
        more=More(rendezvous=True, servers=1),
    ),
    "nat-nested": Spec(
        "two NATs of different owners, in a row or one at each end",
        client_nats=2,
        more=More(rendezvous=True),
    ),
    "mobile-server": Spec(
        "servers that move, behind a firewall or not",
        mobile="s",
        near_servers=True,
        more=More(rendezvous=True),
    ),
    "both-move": Spec("clients and servers that move", mobile="cs", more=More(rendezvous=True)),
    "hidden-mobile-server": Spec(
        "servers that move behind a rendezvous that hides them",
        mobile="s",
        more=More(rendezvous=True, hides=True, own_ports=True, apart=HIDDEN),
    ),
    "offpath-firewall": Spec(
        "servers whose home decides who may come, or lets all come through it",
        rejects=True,
        more=More(rendezvous=True, consent=True, own_ports=True),
    ),
    "firewall-redirect": Spec(
        "a firewall that lets out by way of a relay only",
        near_clients=True,
        more=More(redirects=True),
    ),
    "multihoming": Spec(
        "hosts with two links, a firewall before most, and links that die without a sign",
        near_clients=True,
        near_servers=True,
        more=More(paths=True, apart=STUCK),
    ),
    "multihoming-mptcp": Spec(
        "MPTCP by two links, a firewall before each, some of which refuse, and links that die",
        near_clients=True,
        near_servers=True,
        more=More(paths=True, subflows=True, apart=LATER),
    ),
    "flooded": Spec(
        "OPENs in others' names all the time, and those with tickets among them",
        near_clients=True,
        near_servers=True,
        more=More(flooded=True),
    ),
    "legacy-nats": Spec(
        "all hosts behind NATs that know no signaling, and a rendezvous that hides the servers",
        nat=True,
        more=More(rendezvous=True, hides=True, own_ports=True, apart=LATER),
    ),
    "called": Spec(
        "the same, and a rendezvous that hides nobody: it has servers open their NATs",
        nat=True,
        more=More(rendezvous=True, own_ports=True, apart=LATER),
    ),
    "chaos": Spec("any of the first six, and much going wrong", faults=16, wild=True),
    "turmoil": Spec(
        "NATs, moves and a rendezvous, and much going wrong",
        faults=16,
        wild=True,
        more=More(apart=BACK),
    ),
    "dos-stop": Spec(
        "three firewalls, servers that say STOP, and others who would like to",
        near_clients=True,
        near_servers=True,
        more=More(stops=True),
    ),
}

IN_TURN = tuple(name for name, spec in WORLDS.items() if not spec.more.apart)
"""Those that seeds without a world are for."""

_STEERED = ("nat-out", "nat-in", "nat-nested", "mobile-server", "both-move", "firewall-redirect")


def drawn(name: str, chance: Random) -> Spec:
    """The world as it is this time."""
    spec = WORLDS[name]
    if name == "turmoil":
        found = _varied(WORLDS[chance.choice(_STEERED)], chance)
        return replace(found, faults=spec.faults, loss=chance.choice((0.0, 0.0, 0.1)))
    return _tamed(spec, chance) if spec.wild else _varied(spec, chance)


def _varied(spec: Spec, chance: Random) -> Spec:
    if spec.client_nats == 2 and chance.random() < 0.5:
        more = replace(spec.more, servers=1)
        return replace(spec, client_nats=1, server_nats=1, more=more)
    if spec.client_nats == 2:
        return replace(spec, more=replace(spec.more, rendezvous=chance.random() < 0.5))
    if spec.client_nats or (spec.mobile and spec.near_servers):
        return replace(spec, near_servers=chance.random() < 0.5)
    if spec.nats and not spec.more.hides:  # a gate between a NAT and the core
        near = (chance.random() < 0.25, chance.random() < 0.25)
        return replace(spec, near_clients=near[0], near_servers=near[1])
    if spec.more.consent:
        steers = chance.random() < 0.4
        return replace(spec, more=replace(spec.more, hides=steers, consent=not steers))
    return spec


def _tamed(spec: Spec, chance: Random) -> Spec:
    """The wild world is one of the others, with more that goes wrong."""
    rejects = chance.random() < 0.2
    return replace(
        spec,
        near_clients=rejects or chance.random() < 0.6,
        near_servers=chance.random() < 0.6,
        rejects=rejects,
        loss=chance.choice((0.0, 0.0, 0.1)),
    )
