"""The rendezvous' daemon: hosts say where they are, others ask, and the store remembers.

It is a box like a gate (box_daemon.py), with a helper for the hosts that it hides, whose packets go
through its kernel. Beside the machine stand the store (whereabouts.py) and, where it has the key of
a domain, the desk at which hosts join it (enrolment.py). Questions to the services `join` and
`name` ride on an OPEN, and are answered on its ACCEPT. A store may take longer than the machine
waits: then the answer is kept for a moment, because the host asks again.

Registrations are not kept over a restart: the store has the locations, and the next refresh of each
host makes a new registration of it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Coroutine

import structlog

from wayside.core import constants as c
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import Connection, HostContext, State
from wayside.core.crypto import SigningKey
from wayside.core.effects import (
    DeliverData,
    Effect,
    FindLocation,
    ForgetConnection,
    KeepLocation,
    SaveConnection,
)
from wayside.core.errors import DropReason
from wayside.core.events import DataAnswered
from wayside.core.gate import Gate
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import PeerIdentity
from wayside.core.policy import Policy, PolicyAction
from wayside.core.rendezvous import Rendezvous
from wayside.core.route import TokenBox
from wayside.core.rule import Cid
from wayside.core.way import Box, Relaying
from wayside.kernel.plan import InstalledRule

from .box_daemon import (
    CONNECTIONS_MAX,
    CONNECTIONS_PER_NETWORK_MAX,
    BoxDaemon,
    context_of,
    run_box,
)
from .control_types import ConnectionRecord, InviteReply, InviteRequest, Reply, Request, StatusReply
from .driver import Machine
from .enrolment import JOIN, NAME, Answer, Enrolment, Invitation, Outcome, domain_of_key
from .errors import ConfigError
from .helper_client import Helper
from .keyfile import read_certificate, read_key
from .locations import LocationStore, LocationStoreUnavailable
from .locations_sqlite import SqliteLocations
from .policy_file import load_policy
from .rendezvous_config import RendezvousConfig
from .secret import shared_secret
from .whereabouts import Whereabouts, may_find

QUESTIONS_MAX = 4096
"""Under way at one time; one more is answered with nothing, and asked again."""

LATE_S = 10.0
"""An answer that came too late is good for so long: a host asks again within a second."""

FIND_ALL = Policy(default=PolicyAction.ALLOW)

Question = tuple[bytes, str, bytes]
"""Who asks (a key), which service, what."""

_log = structlog.get_logger()


class RendezvousDaemon(BoxDaemon):
    """A rendezvous, its store, its helper, its control socket."""

    role = "rendezvous"

    def __init__(
        self,
        config: RendezvousConfig,
        key: SigningKey,
        secret: bytes,
        helper: Helper,
        store: LocationStore,
    ) -> None:
        self._settings = config
        self._questions: set[asyncio.Task[None]] = set()
        self._late: OrderedDict[Question, tuple[float, Answer]] = OrderedDict()
        context = context_of(config, key, self.load_policy(), Box(relay=Relaying()), config.relays)
        shared = shared_secret(config.paths.state)
        tokens = TokenBox(key.public, secret, os.urandom, shared)
        door = FrontDoor(tokens, Budget())
        quota = Quota(CONNECTIONS_MAX, CONNECTIONS_PER_NETWORK_MAX)
        gate = Gate(context, door, tokens, quota)
        super().__init__(config, gate, helper, {})
        self._desk = _desk(config, store)
        self._rendezvous = Rendezvous(_host(config, key, gate, door, self._desk), gate, door)
        self.whereabouts = Whereabouts(store, context.names, self.log)

    @property
    def machine(self) -> Machine:
        """What decides."""
        return self._rendezvous

    def load_policy(self) -> Policy:
        """Who finds whom, from the policy's file. Raises ConfigError."""
        path = self._settings.paths.policy
        relays = self._settings.relays.addresses
        return load_policy(path, relays, steers=True) if path else FIND_ALL

    async def stop(self) -> None:
        """Stop listening; the kernel keeps its rules, the store its locations."""
        await super().stop()
        await asyncio.gather(*self._questions, return_exceptions=True)
        await self.whereabouts.close()

    async def answer(self, request: Request) -> Reply:
        """Answer a request on the control socket."""
        match request:
            case InviteRequest():
                return await self._invite(request)
            case _:
                return await super().answer(request)

    def has(self, cid: Cid) -> bool:
        """Whether the machine knows this connection."""
        return super().has(cid) or cid in self._rendezvous.host.connections

    def perform(self, effect: Effect) -> None:
        """Perform what is not the driver's business."""
        match effect:
            case KeepLocation():
                self.whereabouts.keep(effect)
            case FindLocation():
                assert self.driver is not None
                self.whereabouts.find(effect, self.driver.deliver)
            case DeliverData():
                self._take_question(effect)
            case SaveConnection() | ForgetConnection():
                pass  # see above: hosts register again
            case _:
                super().perform(effect)

    def records(self, rules: list[InstalledRule]) -> list[ConnectionRecord]:
        """Those who register, and the connections that go through here."""
        known = self._rendezvous.host.connections.values()
        return [*map(_record, known), *super().records(rules)]

    async def status(self, limit: int) -> StatusReply:
        """What it is and holds; what was too much for the store counts as dropped."""
        assert self.driver is not None
        if self.whereabouts.overrun:
            self.driver.dropped[DropReason.FULL.value] += self.whereabouts.overrun
            self.whereabouts.overrun = 0
        return await super().status(limit)

    # --- questions: they came with an OPEN, and its ACCEPT waits a moment for the answer ---

    def _take_question(self, effect: DeliverData) -> None:
        connection = self._rendezvous.host.connections.get(effect.cid)
        if connection is None or len(self._questions) >= QUESTIONS_MAX:
            return
        about = connection.agreement
        question = (about.peer.key, about.service, effect.data)
        until, late = self._late.pop(question, (0.0, None))
        if late is not None and time.monotonic() < until:
            self._start(effect.cid, question, _at_once(late))
        elif about.service == JOIN and self._desk is not None:
            self._start(effect.cid, question, self._desk.join(effect.data, about.peer.key))
        elif about.service == NAME:
            self._start(effect.cid, question, self._find_name(effect.data, about.peer))

    def _start(self, cid: Cid, question: Question, work: Coroutine[None, None, Answer]) -> None:
        async def answer() -> None:
            said = await work
            connection = self._rendezvous.host.connections.get(cid)
            waits = connection is not None and connection.state is State.ANSWERING
            if not waits and said.outcome != Outcome.STORE_AWAY:
                self._keep_late(question, said)
            assert self.driver is not None
            self.driver.deliver(DataAnswered(cid, said.encode()))

        task = asyncio.ensure_future(answer())
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    def _keep_late(self, question: Question, said: Answer) -> None:
        while len(self._late) >= QUESTIONS_MAX:
            self._late.popitem(last=False)
        self._late[question] = (time.monotonic() + LATE_S, said)

    async def _find_name(self, question: bytes, asker: PeerIdentity) -> Answer:
        """A host's certificate, if it is there and to be found by who asks."""
        name = question.decode("ascii", errors="replace")
        try:
            known = await self.whereabouts.known(name)
        except LocationStoreUnavailable as error:
            _log.warning("a name is not looked for", what=error.what, why=error.why)
            return Answer(Outcome.STORE_AWAY)
        policy = self.gate.context.policy
        if known is None or not may_find(policy, (asker.key, asker.name or None), known, name):
            return Answer(Outcome.NOT_GIVEN)
        return Answer(Outcome.GIVEN, known.certificate)

    async def _invite(self, request: InviteRequest) -> InviteReply:
        config = self._settings
        if self._desk is None:
            raise ConfigError(
                "this rendezvous cannot invite: it has no key of a domain",
                hint='domain_key = "lab.key" in rendezvous.toml',
                code="WS-2104",
            )
        if not config.addresses:
            raise ConfigError(
                "this rendezvous cannot say where it is reached",
                hint='addresses = ["203.0.113.9"] in rendezvous.toml',
                code="WS-2104",
            )
        secret = await self._desk.invite(request.name, request.lifetime_s)
        public = self.gate.context.key.public
        invitation = Invitation(config.addresses, public, secret, request.name)
        return InviteReply(invitation=str(invitation))


async def _at_once(answer: Answer) -> Answer:
    return answer


def _desk(config: RendezvousConfig, store: LocationStore) -> Enrolment | None:
    """Where hosts join, if there is the key of a domain. Raises ConfigError and WaysideError."""
    if config.domain_key is None:
        return None
    key = read_key(config.domain_key)
    return Enrolment(store, key, domain_of_key(key.public, config.domains), os.urandom)


def _host(
    config: RendezvousConfig, key: SigningKey, gate: Gate, door: FrontDoor, desk: Enrolment | None
) -> Host:
    """The host that others register with; who may is said by service, and by nothing else."""
    path = config.paths.certificate
    certificate = read_certificate(path) if path else b""
    context = HostContext(key, os.urandom, config.name, certificate, config.lifetime_s)
    services = {c.LOCATION_SERVICE: Offered(0, config.register), NAME: Offered(0)}
    if desk is not None:
        services[JOIN] = Offered(0)
    quota = Quota(CONNECTIONS_MAX, CONNECTIONS_PER_NETWORK_MAX)
    return Host(context, Answering(gate.context.names, FIND_ALL, services), door, quota)


def open_store(config: RendezvousConfig) -> LocationStore:
    """The store that a configuration names. Raises WaysideError."""
    if config.cluster:
        from .locations_redis import RedisLocations  # takes 100 ms to load

        try:
            return RedisLocations(config.cluster)
        except ValueError as error:
            raise ConfigError(f"`store`: {error}") from error
    return SqliteLocations(config.paths.state / "locations.sqlite")


def _record(connection: Connection) -> ConnectionRecord:
    about = connection.agreement
    wire = str(about.wire).partition(" ")[2]
    return ConnectionRecord(
        cid=about.cid.hex(),
        peer=str(about.peer),
        service=about.service,
        transport=about.wire.transport.name.lower(),
        state=connection.state.name.lower(),
        flow=wire,
        wire=wire,
    )


async def run_rendezvous(config: RendezvousConfig) -> int:
    """Run a rendezvous until SIGTERM or SIGINT. Raises WaysideError when it cannot start."""

    def make(key: SigningKey, secret: bytes, helper: Helper) -> RendezvousDaemon:
        return RendezvousDaemon(config, key, secret, helper, open_store(config))

    return await run_box("rendezvous", config, make)
