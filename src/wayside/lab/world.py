"""Hosts, gates and routers as network namespaces, and links between them.

A node is a network namespace with programs in it; a link is a veth pair. `World.chain` lays nodes
out in a row, which is all that the scenarios of connection set-up need:

    client ──net 1── gate ──net 2── router ──net 3── server
       10.1.0.2  10.1.0.1  10.2.0.2  10.2.0.1  10.3.0.2  10.3.0.1      (and fd00:1::/64 alike)

On every net the left node is .2 and the right one is .1; an interface is named after the
neighbour it leads to (`to-gate`). The nodes in the middle forward. A net may have a delay (by way
of a relay process, see wire.py) and an MTU.

A world is made inside an enclosure only; that is what cleans up after it.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from wayside.core.address import IP
from wayside.lab.enclosure import PYTHON

STATE = Path("/run/lab")
"""Sockets, keys and state of the nodes: on the private /run of the enclosure, gone with it."""

RUN_LIMIT_S = 20.0
"""No program of a scenario takes longer unless the scenario says so."""

READY_LIMIT_S = 10.0
POLL_S = 0.01

LOGIN_UID = 1000
"""The account that sshd lets in: not 0, so that sshd asks for nothing a single mapped uid lacks."""

PRIVATE_FILES = {
    "/etc/passwd": f"root:x:0:0:root:{STATE}:/bin/sh\n"
    f"lab:x:{LOGIN_UID}:{LOGIN_UID}:lab:{STATE}:/bin/sh\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/resolv.conf": "# nobody to ask in a lab: look-ups fail at once\nnameserver 127.0.0.1\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


class ProgramFailed(Exception):
    """A program that a scenario needs ended badly, or did not get ready in time."""


@dataclass(frozen=True, slots=True)
class Process:
    """A program running in a node; `output` collects what it prints."""

    popen: subprocess.Popen[bytes]
    output: Path

    @property
    def ended(self) -> bool:
        """Whether it has ended, by itself or otherwise."""
        return self.popen.poll() is not None

    def wait(self, limit_s: float) -> int:
        """Its exit code once it ends by itself. Raises ProgramFailed when it does not."""
        try:
            return self.popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self.output.name} still runs after {limit_s} s") from None

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def wait_for(self, text: str, limit_s: float = READY_LIMIT_S) -> None:
        """Return once it has printed this. Raises ProgramFailed after so many seconds."""
        deadline = time.monotonic() + limit_s
        while text not in self.text():
            if self.ended or time.monotonic() > deadline:
                raise ProgramFailed(f"{self.output.name} did not print {text!r}: {self.text()!r}")
            time.sleep(POLL_S)


@dataclass(slots=True)
class Node:
    """One network namespace. `addresses`: by neighbour, the IPv4 and the IPv6 address there."""

    name: str
    out: Path
    addresses: dict[str, tuple[IPv4Address, IPv6Address]] = field(
        default_factory=dict[str, tuple[IPv4Address, IPv6Address]]
    )
    _outputs: int = 0

    @property
    def state(self) -> Path:
        """A folder for sockets, keys and state."""
        folder = STATE / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def address(self, family: int, neighbour: str = "") -> IP:
        """The node's address towards a neighbour; the first there is when none is named."""
        pair = self.addresses[neighbour or next(iter(self.addresses))]
        return pair[0] if family == 4 else pair[1]

    def command(self, argv: Sequence[str]) -> list[str]:
        """What to execute so that these words run in the node."""
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *argv]

    def run(
        self,
        *argv: str,
        limit_s: float = RUN_LIMIT_S,
        stdin: str = "",
        check: bool = True,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. Raises ProgramFailed when it fails (`check`) or is too slow."""
        try:
            done = subprocess.run(
                self.command(argv),
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit_s,
                check=False,
                env={**os.environ, **(environment or {})},
            )
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self.name}: {argv[0]} took longer than {limit_s} s") from None
        self._output(argv).write_text(f"$ {' '.join(argv)}\n{done.stdout}{done.stderr}")
        if check and done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise ProgramFailed(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {said}")
        return done

    def spawn(
        self, *argv: str, ready: str = "", environment: dict[str, str] | None = None
    ) -> Process:
        """Start a program and leave it running; return once it has printed `ready`."""
        output = self._output(argv)
        with output.open("wb") as sink:
            popen = subprocess.Popen(
                self.command(argv),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                start_new_session=True,
            )
        process = Process(popen, output)
        if ready:
            process.wait_for(ready)
        return process

    def spawn_python(self, module: str, *arguments: str, ready: str = "") -> Process:
        """Start a module of ours with this interpreter."""
        return self.spawn(*PYTHON, "-m", module, *arguments, ready=ready)

    def counted(self, table: str, name: str, what: str = "packets") -> int:
        """What a counter of an `inet` table has seen so far: its `packets` or `bytes`."""
        text = self.run("nft", "-j", "list", "counter", "inet", table, name).stdout
        items: list[dict[str, Any]] = json.loads(text)["nftables"]
        return sum(item.get("counter", {}).get(what, 0) for item in items)

    def _output(self, argv: Sequence[str]) -> Path:
        self._outputs += 1
        return self.out / f"{self.name}-{self._outputs:02}-{_label(argv)}.txt"


def _label(argv: Sequence[str]) -> str:
    """The name of a program: of a Python module the last part, of `wayside` the command."""
    words = [Path(word).name for word in argv if not word.startswith("-")]
    if argv[0] != PYTHON[0] or len(words) < 2:
        return words[0]
    if words[1] == "wayside.cli.main" and len(words) > 2:
        return f"wayside-{words[2]}"
    return words[1].rpartition(".")[2] if " " not in words[1] else "python"


class World:
    """All nodes and links of one scenario. `out`: where the output of programs is kept."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._nets = 0
        _make_private()

    def node(self, name: str) -> Node:
        """A new node with nothing but its loopback. Names have at most 12 characters.

        Link-local addresses are good at once, without RFC 4862's check of duplicates, which takes a
        second or two: until then a node cannot ask for a neighbour in the name of anybody else.
        """
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        node = Node(name, self.out)
        at_once = "net.ipv6.conf.default.accept_dad=0"
        node.run("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0", at_once)
        return node

    def chain(
        self,
        *names: str,
        delay_ms: dict[int, float] | None = None,
        mtu: dict[int, int] | None = None,
        nats: Mapping[str, str] | None = None,
    ) -> list[Node]:
        """Nodes in a row, every one reaching every other; those between the ends forward.

        `delay_ms`: by number of the net (from 1), added in each direction; `mtu`: in bytes; `nats`:
        boxes, and their neighbour inside: nobody beyond has a route to what is on that side.
        """
        walls = [(names.index(nat), names.index(inside)) for nat, inside in (nats or {}).items()]
        nodes = [self.node(name) for name in names]
        for net, (left, right) in enumerate(itertools.pairwise(nodes), start=1):
            self.link(
                left, right, delay_ms=(delay_ms or {}).get(net, 0), mtu=(mtu or {}).get(net, 1500)
            )
        for node in nodes[1:-1]:
            node.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for position, node in enumerate(nodes):
            for net in range(1, len(nodes)):
                if any(_is_behind(net, position, *wall) for wall in walls):
                    continue
                if net < position:
                    self.route(node, net, nodes[position - 1])
                elif net > position + 1:
                    self.route(node, net, nodes[position + 1])
        return nodes

    def beside(self, name: str, neighbour: Node) -> tuple[Node, int]:
        """A new node whose only way anywhere is a neighbour; and the number of their net.

        Who else is to reach it needs a `route` to that net.
        """
        node = self.node(name)
        net = self.link(node, neighbour)
        four, six = neighbour.addresses[name]
        _ip("-n", name, "route", "add", "default", "via", str(four))
        _ip("-n", name, "-6", "route", "add", "default", "via", str(six))
        neighbour.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        return node, net

    def link(self, left: Node, right: Node, *, delay_ms: float = 0, mtu: int = 1500) -> int:
        """Join two nodes by a net of its own; its number. The left one is .2, the right one .1."""
        self._nets += 1
        net = self._nets
        if delay_ms:
            self._slow_pair(net, left, right, delay_ms)
        else:
            _pair(left.name, f"to-{right.name}", right.name, f"to-{left.name}")
        for node, other, number in ((left, right, 2), (right, left, 1)):
            device = f"to-{other.name}"
            four, six = IPv4Address(f"10.{net}.0.{number}"), IPv6Address(f"fd00:{net}::{number}")
            node.addresses[other.name] = (four, six)
            _ip("-n", node.name, "address", "add", f"{four}/24", "dev", device)
            _ip("-n", node.name, "address", "add", f"{six}/64", "dev", device, "nodad")
            _ip("-n", node.name, "link", "set", device, "mtu", str(mtu), "up")
        return net

    def route(self, node: Node, net: int, neighbour: Node) -> None:
        """Let a node reach a net by way of a neighbour."""
        four, six = neighbour.addresses[node.name]
        _ip("-n", node.name, "route", "add", f"10.{net}.0.0/24", "via", str(four))
        _ip("-n", node.name, "-6", "route", "add", f"fd00:{net}::/64", "via", str(six))

    def _slow_pair(self, net: int, left: Node, right: Node, delay_ms: float) -> None:
        wire = self.node(f"wire{net}")
        wire.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        _pair(left.name, f"to-{right.name}", wire.name, "left")
        _pair(wire.name, "right", right.name, f"to-{left.name}")
        for device in ("left", "right"):
            _ip("-n", wire.name, "link", "set", device, "up")
        wire.spawn_python("wayside.lab.wire", "left", "right", str(delay_ms), ready="ready")


def _is_behind(net: int, position: int, nat: int, inside: int) -> bool:
    """Whether a NAT stands between a place in a chain and a net, which is on its inside."""
    if inside < nat:
        return net <= nat < position
    return position < nat < net


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise ProgramFailed(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _pair(left: str, left_device: str, right: str, right_device: str) -> None:
    _ip(
        *("link", "add", left_device, "netns", left, "type", "veth"),
        *("peer", "name", right_device, "netns", right),
    )


def _make_private() -> None:
    """A /run of our own, and the few files of /etc that programs ask who and where they are."""
    subprocess.run(["mount", "-t", "tmpfs", "lab", "/run"], check=True, timeout=10)
    STATE.mkdir(mode=0o755)
    for number, (path, text) in enumerate(PRIVATE_FILES.items()):
        source = STATE / f"etc{number}"
        source.write_text(text)
        if Path(path).exists():
            subprocess.run(["mount", "--bind", source, path], check=True, timeout=10)
