"""The gate's daemon: signaling in transit comes in, the machine decides, the helper makes rules.

It starts its helper, gives up every privilege, and only then opens its eyes to the network. What
it holds is in the kernel; killed and started again it reads it back and goes on. SIGHUP reads the
policy again, and keeps the old one when the new one is not good.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import structlog

from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.crypto import SigningKey
from wayside.core.effects import Effect, ReportClosed, ReportOpened, ReportRefused
from wayside.core.events import CloseRequested, DatagramReceived
from wayside.core.forwarding import GateContext
from wayside.core.gate import Gate
from wayside.core.identity import Names, key_text
from wayside.core.policy import Policy
from wayside.core.route import TokenBox
from wayside.core.rule import Cid, Rule
from wayside.kernel.plan import InstalledRule

from .config import GateConfig
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
from .driver import Driver
from .errors import ConfigError, WaysideError
from .eventlog import EventLog
from .helper_client import GateSetup, Helper
from .keyfile import read_key
from .local_addresses import LocalAddresses
from .policy_file import load_policy
from .privilege import check_enough, drop_all
from .refusals import Refusals, code_of
from .secret import boot_secret
from .service import until_told
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

_log = structlog.get_logger()


class GateDaemon:
    """A gate, its helper, its control socket."""

    def __init__(
        self,
        config: GateConfig,
        key: SigningKey,
        secret: bytes,
        helper: Helper,
        sides: dict[int, str],
    ) -> None:
        self.config = config
        self.started = time.monotonic()
        self.refusals = Refusals()
        self._helper = helper
        self._sides = sides
        self._local = LocalAddresses()
        self._log = EventLog(config.paths.log, config.name, "gate")
        box = TokenBox(key.public, secret, os.urandom)
        policy = self._policy()
        names = Names(config.domains)
        context = GateContext(key, config.name, names, policy, os.urandom, config.lifetime_s)
        quota = Quota(CONNECTIONS_MAX, CONNECTIONS_PER_NETWORK_MAX)
        self.gate = Gate(context, FrontDoor(box, Budget()), box, quota)
        self._driver: Driver | None = None

    async def start(self) -> None:
        """Set up the kernel's part, read back what it held before, and listen."""
        config = self.config
        setup = GateSetup(config.inside, config.outside, config.lifetime_s, config.listen)
        await self._helper.setup_gate(setup)
        sockets = await self._helper.open_sockets("gate", config.listen)
        found = self.gate.restore(_left(await self._helper.rules()), time.monotonic())
        if found:
            self._log.write("daemon.recovered", connections=found)
            _log.info("recovered from the kernel", connections=found)
        by_family = {4: sockets.signaling_v4, 6: sockets.signaling_v6}
        self._driver = Driver(self.gate, self._helper, by_family, self._log, self._perform)
        self._driver.start(self._on_received)
        self._log.write("daemon.ready")

    async def stop(self) -> None:
        """Stop listening; the kernel keeps its rules."""
        if self._driver is not None:
            await self._driver.settled()
            self._driver.stop()
        self._helper.close()
        self._log.close()

    def reload(self) -> None:
        """Read the policy again. Raises ConfigError, and the old policy stays."""
        self.gate.context.policy = self._policy()
        _log.info("policy loaded", rules=len(self.gate.context.policy.rules))

    async def answer(self, request: Request) -> Reply:
        """Answer a request on the control socket."""
        match request:
            case StatusRequest():
                return await self._status(request.limit)
            case WhyRequest():
                return self.refusals.answer(request)
            case ReloadRequest():
                self.reload()
                return Reply()
            case CloseRequest():
                cid = Cid(bytes.fromhex(request.cid))
                if cid not in self.gate.passages or self._driver is None:
                    raise WaysideError("no such connection", hint="wayside status", code="WS-2001")
                self._driver.deliver(CloseRequested(cid, "closed by the operator of a gate"))
                return Reply()
            case _:
                raise WaysideError(
                    "this is a gate; only a host's agent can do that", code="WS-2001"
                )

    def _policy(self) -> Policy:
        path = self.config.paths.policy
        return load_policy(path) if path else Policy()

    def _on_received(self, received: Received) -> None:
        assert self._driver is not None
        self._driver.deliver(
            DatagramReceived(
                received.data,
                received.source,
                received.destination,
                received.destination.ip not in self._local,
                self._sides.get(received.interface, ""),
            )
        )

    def _perform(self, effect: Effect) -> None:
        match effect:
            case ReportOpened():
                self._log.write(
                    "connection.opened",
                    cid=effect.cid.hex(),
                    peer=effect.peer,
                    service=effect.service,
                    flow=str(effect.wire),
                    lifetime_s=effect.lifetime_s,
                )
            case ReportRefused():
                self.refusals.add(effect)
                self._log.write(
                    "connection.refused",
                    cid=effect.cid.hex(),
                    peer=effect.peer,
                    service=effect.service,
                    why=effect.reason,
                    code=code_of(effect),
                    by=effect.by,
                )
            case ReportClosed():
                self._log.write(
                    "connection.closed",
                    cid=effect.cid.hex(),
                    peer=effect.peer,
                    service=effect.service,
                    why=effect.reason,
                )
            case _:
                _log.warning("a gate has nothing to do with this", effect=type(effect).__name__)

    async def _status(self, limit: int) -> StatusReply:
        assert self._driver is not None
        config = self.config
        rules = await self._helper.rules()
        return StatusReply(
            role="gate",
            name=config.name,
            key=key_text(self.gate.context.key.public),
            pid=os.getpid(),
            uptime_s=time.monotonic() - self.started,
            connections_total=len({installed.rule.owner for installed in rules}),
            connections=self._records(rules)[:limit],
            dropped=dict(self._driver.dropped),
            refused_total=self.refusals.total,
        )

    def _records(self, rules: list[InstalledRule]) -> list[ConnectionRecord]:
        """One record a connection, from what the kernel holds."""
        records: dict[Cid, ConnectionRecord] = {}
        for installed in rules:
            rule = installed.rule
            passage = self.gate.passages.get(rule.owner)
            earlier = records.get(rule.owner)
            if not rule.note and earlier is None:
                records[rule.owner] = _record(installed, "", "")
            elif rule.note:
                state = passage.stage.name.lower() if passage else "kept by packets"
                words = rule.note.split(" ")
                records[rule.owner] = _record(installed, words[3] if len(words) > 3 else "", state)
        return list(records.values())


def _record(installed: InstalledRule, service: str, state: str) -> ConnectionRecord:
    rule = installed.rule
    flow = str(rule.match).partition(" ")[2]
    return ConnectionRecord(
        cid=rule.owner.hex(),
        peer=str(rule.match.source.ip),
        service=service,
        transport=rule.match.transport.name.lower(),
        state=state,
        flow=flow,
        wire=flow,
        expires_s=installed.expires_s,
        packets=installed.packets,
        bytes=installed.bytes,
    )


def _left(rules: list[InstalledRule]) -> list[tuple[Rule, float]]:
    return [(installed.rule, installed.expires_s or 0.0) for installed in rules]


def sides_of(config: GateConfig) -> dict[int, str]:
    """The side of each interface by its index. Raises ConfigError for one that is not there."""
    sides: dict[int, str] = {}
    for side, interfaces in (("inside", config.inside), ("outside", config.outside)):
        for interface in interfaces:
            try:
                sides[socket.if_nametoindex(interface)] = side
            except OSError as error:
                there = ", ".join(name for _, name in socket.if_nameindex())
                raise ConfigError(
                    f"`{side}` names {interface!r}, and there is no such interface",
                    why=f"there are {there}",
                    hint="`ip -br link` lists them",
                ) from error
    return sides


def warn_if_not_routing() -> None:
    """A gate lets packets through; forwarding them is the kernel's part, and off by default."""
    for path in ROUTING:
        if path.exists() and path.read_text().strip() == "0":
            name = ".".join(path.parts[3:])
            _log.warning("this machine does not forward packets", hint=f"sysctl -w {name}=1")


async def run_gate(config: GateConfig) -> int:
    """Run a gate until SIGTERM or SIGINT. Raises WaysideError when it cannot start."""
    check_enough()
    key = read_key(config.paths.key)
    sides = sides_of(config)
    config.paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    secret = boot_secret(config.paths.state / "gate.secret")
    helper = Helper.start()
    drop_all()
    check_crypto()
    daemon = GateDaemon(config, key, secret, helper, sides)
    await daemon.start()
    control = ControlServer(config.paths.socket, daemon.answer)
    await control.start()
    warn_if_not_routing()
    _log.info("ready", name=config.name, inside=config.inside, outside=config.outside)
    await until_told(daemon.reload)
    await control.stop()
    await daemon.stop()
    return 0
