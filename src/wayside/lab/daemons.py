"""The daemons of a scenario: keys, certificates, configuration files, and `wayside` itself.

Everything goes through what a user has: configuration files written here, the command `wayside`
in a process of its own, its exit codes and what it prints. Every host is `NODE.lab`, vouched for
by a certificate of the lab's own domain key; every host knows every other one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from msgspec import to_builtins

from wayside.core.address import IP
from wayside.core.crypto import SigningKey
from wayside.core.identity import key_text, sign_certificate
from wayside.lab.enclosure import PYTHON
from wayside.lab.world import STATE, Node, Process, ProgramFailed
from wayside.runtime import eventlog
from wayside.runtime.control import ask
from wayside.runtime.control_types import StatusReply, StatusRequest
from wayside.runtime.keyfile import new_key, read_key, write_certificate

T = TypeVar("T")

DOMAIN = "lab"
CERTIFICATE_S = 3600
"""A lab does not live as long."""

FAMILIES = (4, 6)
LAB_NETWORKS = ("10.0.0.0/8", "fd00::/8")
"""None of them is global, so a relay has to be told that it may go there."""

OVER = ("closing", "ended")
"""States of connections whose rules are gone."""

READY_LIMIT_S = 10.0
SEEN_LIMIT_S = 5.0
"""What a daemon does because of a packet or a timer, it has done by then."""

POLL_S = 0.02
WAYSIDE = (*PYTHON, "-m", "wayside.cli.main")


@dataclass(slots=True)
class Daemon:
    """`wayside host`, `wayside gate` or `wayside rendezvous` in a node. `log`: its event log.

    `behind`: the NAT and its neighbour outside where others ask for this host; None: they ask it.
    """

    role: str
    node: Node
    public: bytes
    log: Path
    behind: tuple[Node, Node] | None = None
    process: Process | None = None
    _notified: socket.socket = field(init=False, repr=False)

    @property
    def name(self) -> str:
        """As certificates, policies and records have it."""
        return f"{self.node.name}.{DOMAIN}" if self.role == "host" else self.node.name

    @property
    def control(self) -> Path:
        """Its control socket."""
        return self.node.state / f"{self.role}.sock"

    def launch(self) -> None:
        """Start it, without waiting until it is ready."""
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.node.state / "notify"
        path.unlink(missing_ok=True)
        self._notified.bind(str(path))
        self._notified.settimeout(POLL_S)
        argv = (*WAYSIDE, self.role, "--config", str(self.node.state / f"{self.role}.toml"))
        self.process = self.node.spawn(*argv, environment={"NOTIFY_SOCKET": str(path)})

    def wait_ready(self) -> None:
        """Return when it notifies that it is ready, as systemd would wait. Raises ProgramFailed."""
        process = self._running()
        with self._notified as notified:
            said = within(READY_LIMIT_S, lambda: process.ended or _says_ready(notified))
        if process.ended or not said:
            raise ProgramFailed(f"{self.name} does not get ready: {process.text()}")

    def kill(self) -> None:
        """SIGKILL; its helper has to find out and leave by itself."""
        process = self._running()
        process.popen.kill()
        process.wait(READY_LIMIT_S)

    def command(self, *words: str) -> str:
        """Run `wayside WORDS` against this daemon; what it prints. Raises ProgramFailed."""
        environment = {"WAYSIDE_SOCKET": str(self.control)}
        return self.node.run(*WAYSIDE, *words, environment=environment).stdout

    def status(self) -> dict[str, Any]:
        """What `wayside status --json` says."""
        return json.loads(self.command("status", "--json"))

    def held(self) -> list[dict[str, Any]]:
        """Its connections as `status` lists them, without those that it only remembers.

        Asked without starting a program for it: scenarios look again and again.
        """
        reply = ask(self.control, StatusRequest(), StatusReply)
        listed: list[dict[str, Any]] = to_builtins(reply.connections)
        return [c for c in listed if c["state"] not in OVER]

    def why(self) -> list[dict[str, Any]]:
        """The refusals of `wayside why --json`, newest first."""
        return json.loads(self.command("why", "--json"))["refusals"]

    def address(self, name: str, family: int) -> IP:
        """The virtual address of a name on this host."""
        return ip_address(self.command("address", name, f"-{family}").strip())

    def events(self) -> list[eventlog.Record]:
        """Its event log so far."""
        return eventlog.read([self.log])

    def _running(self) -> Process:
        if self.process is None:
            raise ProgramFailed(f"{self.name} was never started")
        return self.process


@dataclass(slots=True)
class Daemons:
    """All daemons of one scenario."""

    out: Path
    hosts: list[Daemon] = field(default_factory=list[Daemon])
    gates: list[Daemon] = field(default_factory=list[Daemon])
    rendezvous: list[Daemon] = field(default_factory=list[Daemon])

    @property
    def all(self) -> list[Daemon]:
        """Gates and hosts, and those whom hosts register with."""
        return self.rendezvous + self.gates + self.hosts

    def host(
        self,
        node: Node,
        services: Mapping[str, int] | None = None,
        lifetime_s: float = 120,
        *,
        rendezvous: Daemon | None = None,
        registers: bool = True,
        families: Sequence[int] = FAMILIES,
        redirectors: Sequence[Daemon] = (),
        approvers: Sequence[Daemon] = (),
        mptcp: bool = False,
    ) -> Daemon:
        """A host with services (name: port); its peers are filled in by `start`.

        `rendezvous`: where it asks for names and, if it `registers`, says where it is, over these
        `families`; `redirectors`: who else may redirect it; `approvers`: without approval by one
        of them nobody gets in, but is sent to the first, over the first of the `families`.
        `mptcp`: it makes further subflows.
        """
        daemon = self._daemon("host", node)
        certificate = sign_certificate(
            self._domain, daemon.name, daemon.public, int(time.time()) + CERTIFICATE_S
        )
        write_certificate(self._certificate(node), certificate)
        lines = [
            *self._common(daemon, lifetime_s),
            f'certificate = "{self._certificate(node)}"',
            f"redirectors = {_keys(redirectors)}",
            f"approvers = {_keys(approvers)}",
            *(["mptcp = true"] if mptcp else []),
            *(f'home = "{one.node.address(families[0])}"' for one in approvers[:1]),
            "[services]",
            *(f'"{name}" = {port}' for name, port in (services or {}).items()),
            *(self._meets(rendezvous, registers, families) if rendezvous else self._domains()),
        ]
        (node.state / "host.toml").write_text("\n".join(lines) + "\n")
        self.hosts.append(daemon)
        return daemon

    def gate(
        self,
        node: Node,
        *,
        inside: Node | Sequence[Node],
        outside: Node,
        policy: str,
        lifetime_s: float = 120,
        nat: bool = False,
        ports: str = "1024-65535",
        hosts: Mapping[bytes, IP] | None = None,
        relays: Mapping[str, Node | Daemon] | None = None,
    ) -> Daemon:
        """A gate between neighbours; `policy`: the text of its policy.toml.

        `nat`: give packets of the inside its own address outside, and a port of `ports` where
        theirs is taken; `hosts`: keys (32 bytes) that a NAT knows without a registration, and
        where they are; `relays`: where its policy may redirect to, by the names of `via`: a relay,
        or a host that answers in the place of who was asked.
        """
        daemon = self._daemon("gate", node)
        (node.state / "policy.toml").write_text(policy)
        sides = [inside] if isinstance(inside, Node) else inside
        lines = [
            *self._common(daemon, lifetime_s),
            f"inside = {json.dumps([f'to-{one.name}' for one in sides])}",
            f'outside = ["to-{outside.name}"]',
            f'policy = "{node.state}/policy.toml"',
            *self._domains(),
        ]
        if nat:
            lines += ["[nat]", f"outside = {_addresses(node, outside.name)}", f'ports = "{ports}"']
            lines += ["[nat.hosts]"]
            lines += [f'{key_text(key)} = "{there}"' for key, there in (hosts or {}).items()]
        if relays:
            lines += ["[relays]"]
            lines += [f"{name} = {_relay(there)}" for name, there in relays.items()]
        (node.state / "gate.toml").write_text("\n".join(lines) + "\n")
        self.gates.append(daemon)
        return daemon

    def relay(
        self,
        node: Node,
        *,
        approvers: Sequence[Daemon],
        policy: str,
        targets: Sequence[str] = LAB_NETWORKS,
        lifetime_s: float = 120,
    ) -> Daemon:
        """A box that stands nowhere between, and passes on what these have approved.

        `targets`: the networks that it goes to.
        """
        daemon = self._daemon("gate", node)
        (node.state / "policy.toml").write_text(policy)
        lines = [
            *self._common(daemon, lifetime_s),
            f'policy = "{node.state}/policy.toml"',
            *self._domains(),
            "[relay]",
            f"approvers = {_keys(approvers)}",
            f"targets = {json.dumps(list(targets))}",
        ]
        (node.state / "gate.toml").write_text("\n".join(lines) + "\n")
        self.gates.append(daemon)
        return daemon

    def rendezvous_at(
        self, node: Node, *, policy: str = "", store: str = "sqlite", lifetime_s: float = 120
    ) -> Daemon:
        """A rendezvous for the lab's domain, which hosts can join; `policy`: who finds whom."""
        daemon = self._daemon("rendezvous", node)
        lines = [
            *self._common(daemon, lifetime_s),
            f"addresses = {_addresses(node)}",
            f'domain_key = "{self._domain_file}"',
            f'store = "{store}"',
        ]
        if policy:
            (node.state / "finding.toml").write_text(policy)
            lines.append(f'policy = "{node.state}/finding.toml"')
        lines += self._domains()
        (node.state / "rendezvous.toml").write_text("\n".join(lines) + "\n")
        self.rendezvous.append(daemon)
        return daemon

    def start(self, introduce: bool = True) -> None:
        """Introduce hosts to each other (or leave that to a rendezvous), and start everything."""
        for host in self.hosts if introduce else ():
            for peer in self.hosts:
                if peer is not host:
                    self.introduce(host, peer)
        launch(self.all)

    def introduce(self, host: Daemon, peer: Daemon, rendezvous: Daemon | None = None) -> None:
        """Write into a host's file who a peer is and where it, or its rendezvous, is asked."""
        with (host.node.state / "host.toml").open("a") as file:
            file.write("\n".join(self._introduction(peer, rendezvous)) + "\n")

    def _domains(self) -> Sequence[str]:
        return ("[domains]", f'{DOMAIN} = "{key_text(self._domain.public)}"')

    def _meets(self, rendezvous: Daemon, registers: bool, families: Sequence[int]) -> Sequence[str]:
        key = key_text(rendezvous.public)
        addresses = _addresses(rendezvous.node, families=families)
        here = ("[[rendezvous]]", f'key = "{key}"', f"address = {addresses}")
        return (
            *(here if registers else ()),
            f"[domains.{DOMAIN}]",
            f'key = "{key_text(self._domain.public)}"',
            f"rendezvous = {addresses}",
            f'rendezvous_key = "{key}"',
        )

    @property
    def _domain(self) -> SigningKey:
        """The key of the lab's own domain."""
        path = self._domain_file
        return read_key(path) if path.exists() else new_key(path)

    @property
    def _domain_file(self) -> Path:
        return STATE / f"{DOMAIN}.key"

    def _daemon(self, role: str, node: Node) -> Daemon:
        key = new_key(node.state / f"{role}.key")
        return Daemon(role, node, key.public, self.out / f"{node.name}.events")

    def _common(self, daemon: Daemon, lifetime_s: float) -> list[str]:
        return [
            f'name = "{daemon.name}"',
            f'key = "{daemon.node.state}/{daemon.role}.key"',
            f'state = "{daemon.node.state}"',
            f'socket = "{daemon.control}"',
            f'log = "{daemon.log}"',
            f"lifetime_s = {lifetime_s}",
        ]

    def _introduction(self, peer: Daemon, rendezvous: Daemon | None) -> Sequence[str]:
        asked = f"addresses = {_asked_at(peer)}"
        return (
            f'[peers."{peer.name}"]',
            f'key = "{key_text(peer.public)}"',
            f"rendezvous = {_addresses(rendezvous.node)}" if rendezvous else asked,
            f'certificate = "{self._certificate(peer.node)}"',
        )

    def _certificate(self, node: Node) -> Path:
        return STATE / f"{node.name}.certificate"


def _addresses(node: Node, neighbour: str = "", families: Sequence[int] = FAMILIES) -> str:
    """A node's addresses, one of each family, as TOML."""
    return json.dumps([str(node.address(family, neighbour)) for family in families])


def _relay(there: Node | Daemon) -> str:
    if isinstance(there, Node):
        return _addresses(there)
    return f'{{ address = {_addresses(there.node)}, key = "{key_text(there.public)}" }}'


def _asked_at(host: Daemon) -> str:
    """All addresses that lead to a host, the preferred ones first, as TOML."""
    if host.behind is not None:
        nat, outside = host.behind
        return _addresses(nat, outside.name)
    pairs = host.node.addresses.values()
    return json.dumps([str(one) for pair in pairs for one in pair])


def _keys(daemons: Sequence[Daemon]) -> str:
    return json.dumps([key_text(daemon.public) for daemon in daemons])


def launch(daemons: Sequence[Daemon]) -> None:
    """Start daemons at once, and return when all are ready. Raises ProgramFailed."""
    for daemon in daemons:
        daemon.launch()
    for daemon in daemons:
        daemon.wait_ready()


def _says_ready(notified: socket.socket) -> bool:
    with contextlib.suppress(TimeoutError):
        return b"READY=1" in notified.recv(4096)
    return False


def within(limit_s: float, look: Callable[[], T]) -> T:
    """Look again until there is something (truthy) or the time is over; what was seen last."""
    deadline = time.monotonic() + limit_s
    while True:
        seen = look()
        if seen or time.monotonic() > deadline:
            return seen
        time.sleep(POLL_S)
