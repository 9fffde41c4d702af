"""What the daemons of boxes have in common: of a gate, and of a rendezvous.

Each starts its helper, gives up every privilege, and only then opens its eyes to the network. What
it holds is in the kernel; killed and started again it reads it back and goes on. SIGHUP reads the
policy again, and keeps the old one when the new one is not good. What differs is the machine, and
what is done with those of its effects that are its own business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

import structlog

from wayside.core.crypto import SigningKey
from wayside.core.effects import Effect, ReportClosed, ReportOpened, ReportRefused
from wayside.core.events import CloseRequested, DatagramReceived
from wayside.core.forwarding import GateContext
from wayside.core.gate import Gate
from wayside.core.identity import Names, key_text
from wayside.core.passage import Passage
from wayside.core.policy import Policy
from wayside.core.rule import Action, Cid, Rule
from wayside.core.way import Box
from wayside.kernel.plan import InstalledRule

from .config import Paths
from .control import ControlServer
from .control_types import (
    CloseRequest,
    ConnectionRecord,
    ReloadRequest,
    Reply,
    Request,
    StatusReply,
    StatusRequest,
    WhyRequest,
)
from .driver import Driver, Machine
from .errors import WaysideError, not_done_by
from .eventlog import EventLog
from .helper_client import GateSetup, Helper
from .keyfile import read_key
from .local_addresses import LocalAddresses
from .privilege import check_enough, drop_all
from .refusals import Refusals
from .relays import Relays
from .reports import log_report
from .secret import boot_secret
from .service import until_told
from .stops import filter_records
from .udp import Received
from .warm_up import check_crypto

CONNECTIONS_MAX = 262_144
"""Passages in memory: 600 bytes each, 150 MB; the kernel's sets hold two elements for each."""

CONNECTIONS_PER_NETWORK_MAX = 131_072
"""One /24 or /64 gets half of the table at the most."""

ROUTING = (
    Path("/proc/sys/net/ipv4/ip_forward"),
    Path("/proc/sys/net/ipv6/conf/all/forwarding"),
)

NOWHERE = (("none-inside",), ("none-outside",))
"""A box that stands between nothing: interfaces that no machine has."""

_log = structlog.get_logger()


class BoxConfig(Protocol):
    """What every box's configuration has."""

    @property
    def name(self) -> str:
        """What it calls itself."""
        ...

    @property
    def paths(self) -> Paths:
        """Its files."""
        ...

    @property
    def listen(self) -> int:
        """UDP port for signaling."""
        ...

    @property
    def lifetime_s(self) -> float:
        """The longest lifetime that it grants, seconds."""
        ...

    @property
    def domains(self) -> Mapping[str, bytes]:
        """Public keys (32 bytes) of domains that it believes, by name."""
        ...


class BoxDaemon:
    """A box, its helper, its control socket. Roles fill in the machine and `perform`."""

    role: Literal["gate", "rendezvous"]

    def __init__(
        self, config: BoxConfig, gate: Gate, helper: Helper, sides: Mapping[int, str]
    ) -> None:
        self.config = config
        self.gate = gate
        self.started = time.monotonic()
        self.refusals = Refusals()
        self.log = EventLog(config.paths.log, config.name, self.role)
        self.driver: Driver | None = None
        self._helper = helper
        self._sides = sides
        self._local = LocalAddresses()

    @property
    def machine(self) -> Machine:
        """What decides."""
        return self.gate

    def load_policy(self) -> Policy:
        """The policy, from its file. Raises ConfigError."""
        raise NotImplementedError

    async def start(self, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
        """Set up the kernel's part, read back what it held before, and listen."""
        config, box = self.config, self.gate.context.box
        sides = (inside or NOWHERE[0], outside or NOWHERE[1])
        rewrites = box.nat is not None or box.relay is not None
        hides = self.role == "rendezvous"
        setup = GateSetup(*sides, config.lifetime_s, config.listen, rewrites, hides)
        # First the port: where another daemon has it, the kernel's table is that one's.
        sockets = await self._helper.open_sockets("gate", config.listen)
        await self._helper.setup_gate(setup)
        found = self.gate.restore(_left(await self._helper.rules()), time.monotonic())
        if found:
            self.log.write("daemon.recovered", connections=found)
            _log.info("recovered from the kernel", connections=found)
        by_family = {4: sockets.signaling_v4, 6: sockets.signaling_v6}
        self.driver = Driver(self.machine, self._helper, by_family, self.log, self.perform)
        asides = {4: sockets.aside_v4, 6: sockets.aside_v6}
        self.driver.start(self._on_received, sockets.lanes, asides)
        self.log.write("daemon.ready")

    async def stop(self) -> None:
        """Stop listening; the kernel keeps its rules."""
        if self.driver is not None:
            await self.driver.settled()
            self.driver.stop()
        self._helper.close()
        self.log.close()

    def reload(self) -> None:
        """Read the policy again. Raises ConfigError, and the old policy stays."""
        self.gate.context.policy = self.load_policy()
        _log.info("policy loaded", rules=len(self.gate.context.policy.rules))

    async def answer(self, request: Request) -> Reply:
        """Answer a request on the control socket."""
        match request:
            case StatusRequest():
                return await self.status(request.limit)
            case WhyRequest():
                return self.refusals.answer(request)
            case ReloadRequest():
                self.reload()
                return Reply()
            case CloseRequest():
                cid = Cid(bytes.fromhex(request.cid))
                if not self.has(cid) or self.driver is None:
                    raise WaysideError("no such connection", hint="wayside status", code="WS-2001")
                self.driver.deliver(CloseRequested(cid, f"closed by the operator of a {self.role}"))
                return Reply()
            case _:
                raise not_done_by(self.role)

    def has(self, cid: Cid) -> bool:
        """Whether the machine knows this connection."""
        return cid in self.gate.passages

    def perform(self, effect: Effect) -> None:
        """Perform what is not the driver's business."""
        match effect:
            case ReportRefused():
                self.refusals.add(effect)
                log_report(self.log, effect)
            case ReportOpened() | ReportClosed():
                log_report(self.log, effect)
            case _:
                _log.warning("a box has nothing to do with this", effect=type(effect).__name__)

    def records(self, rules: list[InstalledRule]) -> list[ConnectionRecord]:
        """One record a connection, from what the kernel holds."""
        records: dict[Cid, ConnectionRecord] = {}
        for installed in rules:
            owner = installed.rule.owner
            if installed.rule.action is Action.DROP:
                continue
            if installed.rule.note or owner not in records:
                records[owner] = record_of(installed, self.gate.passages.get(owner))
        return list(records.values())

    def _on_received(self, received: Received) -> None:
        assert self.driver is not None
        self.driver.deliver(
            DatagramReceived(
                received.data,
                received.source,
                received.destination,
                received.destination.ip not in self._local,
                self._sides.get(received.interface, ""),
                received.crowded,
            )
        )

    async def status(self, limit: int) -> StatusReply:
        """What it is and holds; `limit`: connections that are listed."""
        assert self.driver is not None
        config = self.config
        rules = await self._helper.rules()
        records = self.records(rules)
        return StatusReply(
            role=self.role,
            name=config.name,
            key=key_text(self.gate.context.key.public),
            pid=os.getpid(),
            uptime_s=time.monotonic() - self.started,
            connections_total=len(records),
            connections=records[:limit],
            dropped=dict(self.driver.dropped),
            refused_total=self.refusals.total,
            filters=filter_records(rules)[:limit],
            tickets=self.gate.ticketed,
        )


def record_of(installed: InstalledRule, passage: Passage | None) -> ConnectionRecord:
    """A rule as `status` shows its connection.

    `flow` is what packets of who asked look like when they come to this box, `wire` when they
    leave it. A rule without a note is the other direction's: then `passage` is not of it.
    """
    rule = installed.rule
    near, far = rule.match, rule.rewrite or rule.match
    words = rule.note.split(" ")
    state = passage.stage.name.lower() if passage else "kept by packets"
    return ConnectionRecord(
        cid=rule.owner.hex(),
        peer=str(near.source.ip),
        service=words[5] if len(words) > 5 else "",
        transport=near.transport.name.lower(),
        state=state if rule.note else "",
        flow=str(near).partition(" ")[2],
        wire=str(far).partition(" ")[2],
        expires_s=installed.expires_s,
        packets=installed.packets,
        bytes=installed.bytes,
    )


def _left(rules: list[InstalledRule]) -> list[tuple[Rule, float]]:
    return [(installed.rule, installed.expires_s or 0.0) for installed in rules]


def context_of(
    config: BoxConfig,
    key: SigningKey,
    policy: Policy,
    box: Box,
    relays: Relays,
) -> GateContext:
    """Who a box is and what it allows."""
    names = Names(config.domains)
    return GateContext(
        key,
        config.name,
        names,
        policy,
        os.urandom,
        config.lifetime_s,
        box=box,
        relays=relays.addresses,
        instead=relays.instead,
    )


def warn_if_not_routing() -> None:
    """A box lets packets through; forwarding them is the kernel's part, and off by default."""
    for path in ROUTING:
        if path.exists() and path.read_text().strip() == "0":
            name = ".".join(path.parts[3:])
            _log.warning("this machine does not forward packets", hint=f"sysctl -w {name}=1")


Make = Callable[[SigningKey, bytes, Helper], BoxDaemon]


async def run_box(
    role: str,
    config: BoxConfig,
    make: Make,
    inside: tuple[str, ...] = (),
    outside: tuple[str, ...] = (),
) -> int:
    """Run a box until SIGTERM or SIGINT. Raises WaysideError when it cannot start.

    `make`: the daemon, from its key, the secret of its tokens (bytes, 32) and its helper.
    """
    check_enough()
    key = read_key(config.paths.key)
    config.paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    secret = boot_secret(config.paths.state / f"{role}.secret")
    helper = Helper.start()
    drop_all()
    check_crypto()
    daemon = make(key, secret, helper)
    await daemon.start(inside, outside)
    control = ControlServer(config.paths.socket, daemon.answer)
    await control.start()
    warn_if_not_routing()
    _log.info("ready", name=config.name, role=role)
    await until_told(daemon.reload)
    await control.stop()
    await daemon.stop()
    return 0
