"""What the agent answers on its control socket."""

from __future__ import annotations

import os
import socket
import time

import msgspec

from wayside.core.address import Address, Flow, Transport
from wayside.core.host import Offered
from wayside.core.identity import key_text
from wayside.core.policy import Pattern, checked_service
from wayside.core.rule import Cid

from .agent import Agent
from .config import Peer
from .control_types import (
    AddressReply,
    AddressRequest,
    CloseRequest,
    ConnectionRecord,
    ExposeRequest,
    OpenReply,
    OpenRequest,
    Reply,
    Request,
    ServiceRecord,
    StatusReply,
    StatusRequest,
    StopReply,
    StopRequest,
    SubflowRecord,
    UnexposeRequest,
    WhyReply,
    WhyRequest,
)
from .errors import ConfigError, NameUnknown, WaysideError, not_done_by
from .names import port_of
from .portrait import record_of, registration_of
from .stops import say_stop, stopped_key

NOT_FOLLOWED = "whom this host does not let redirect it"
"""The machine's own words (core/asker.py)."""


class HostControl:
    """Turns requests into replies."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._started = time.monotonic()

    async def answer(self, request: Request) -> Reply:
        """Answer one request. Raises WaysideError."""
        match request:
            case StatusRequest():
                return await self._status(request.limit)
            case WhyRequest():
                return self._why(request)
            case AddressRequest():
                return await self._address(request)
            case OpenRequest():
                return await self._open(request)
            case CloseRequest():
                return self._close(request)
            case StopRequest(target=target, lifetime_s=lifetime_s):
                agent = self._agent
                target = stopped_key(target)
                return StopReply(
                    stopped=await say_stop(agent.host, agent.stop_packets, target, lifetime_s)
                )
            case ExposeRequest():
                return self._expose(request)
            case UnexposeRequest():
                return self._unexpose(request)
            case _:
                raise not_done_by("host")

    async def _peer(self, name: str, family: int) -> Peer:
        peer = await self._agent.directory.find(name)
        if all(address.family != family for address in peer.addresses):
            raise NameUnknown(
                f"{name} has no IPv{family} address",
                hint=f"ask for its other address with -{10 - family}",
            )
        return peer

    async def _address(self, request: AddressRequest) -> AddressReply:
        peer = await self._peer(request.name, request.family)
        virtual = self._agent.virtual_address(peer.identity.key, request.family)
        return AddressReply(address=str(virtual.ip))

    async def _open(self, request: OpenRequest) -> OpenReply:
        """Signal before the first packet: the caller's socket has its source port already."""
        agent = self._agent
        peer = await self._peer(request.name, request.family)
        _checked(request.service)
        virtual = agent.virtual_address(peer.identity.key, request.family)
        source_port = request.source_port or _free_port(request.family)
        port = port_of(request.service) or source_port
        local = Flow(
            Transport[request.transport.upper()],
            Address(agent.virtual.own(request.family), source_port),
            virtual.with_port(port),
        )
        if agent.host.by_local(local) is not None:
            raise WaysideError("this source port is in use", hint="take another", code="WS-1005")
        cid = Cid(os.urandom(16))
        outcome = agent.asking.expect(cid)
        if not agent.ask(cid, peer, request.service, local):
            outcome.cancel()
            raise NameUnknown(
                f"{request.name} cannot be reached over IPv{request.family}",
                why="this host has no route there",
                hint="ip route get",
            )
        opened = await outcome
        return OpenReply(
            cid=opened.cid.hex(), address=str(virtual.ip), port=port, source_port=source_port
        )

    def _close(self, request: CloseRequest) -> Reply:
        cid = Cid(bytes.fromhex(request.cid))
        if cid not in self._agent.host.connections:
            raise WaysideError("no such connection", hint="wayside status", code="WS-2001")
        self._agent.close(cid, "closed by a person")
        return Reply()

    def _expose(self, request: ExposeRequest) -> Reply:
        try:
            allow = tuple(Pattern.parse(pattern) for pattern in request.allow)
        except ValueError as error:
            raise ConfigError(str(error), hint="*.lab, files.lab, k..., or *") from error
        services = self._agent.host.answering.services
        services[_checked(request.service)] = Offered(request.port, allow)
        return Reply()

    def _unexpose(self, request: UnexposeRequest) -> Reply:
        if self._agent.host.answering.services.pop(request.service, None) is None:
            raise ConfigError(f"{request.service} was not offered", hint="wayside status")
        return Reply()

    async def _status(self, limit: int) -> StatusReply:
        agent = self._agent
        host, now = agent.host, time.monotonic()
        counters = {found.rule.match: found for found in await agent.helper.rules()}
        records = [
            _with_paths(
                record_of(connection, counters, agent.moves.journey(cid)),
                agent.subflows.records(cid),
                agent.subflows.stands(cid),
            )
            for cid, connection in host.connections.items()
        ]
        return StatusReply(
            role="host",
            name=agent.config.name,
            key=key_text(host.context.key.public),
            pid=os.getpid(),
            uptime_s=now - self._started,
            connections_total=len(records),
            connections=records[:limit],
            services=[
                ServiceRecord(
                    service=name,
                    port=offered.port,
                    allow=[pattern.text for pattern in offered.allow],
                )
                for name, offered in sorted(host.answering.services.items())
            ],
            dropped=dict(agent.dropped),
            refused_total=agent.asking.refusals.total,
            addresses=[str(agent.virtual.own(4)), str(agent.virtual.own(6))],
            registrations=[registration_of(one, now) for one in agent.registrations.all],
            tickets=host.context.tickets.count,
        )

    def _why(self, request: WhyRequest) -> WhyReply:
        """The refusals; one for a redirect that was not followed says what would let it."""
        reply = self._agent.asking.refusals.answer(request)
        return WhyReply(
            refusals=[
                msgspec.structs.replace(
                    one, hint=f'redirectors = ["{one.by}"] in host.toml, if you trust it'
                )
                if NOT_FOLLOWED in one.reason
                else one
                for one in reply.refusals
            ]
        )


def _with_paths(
    record: ConnectionRecord, subflows: list[SubflowRecord], stands: str
) -> ConnectionRecord:
    """A record with what is known of its further paths, and why it has none."""
    told = "; ".join(filter(None, (record.stands, stands)))
    return msgspec.structs.replace(record, subflows=subflows, stands=told)


def _checked(service: str) -> str:
    try:
        return checked_service(service)
    except ValueError as error:
        raise ConfigError(str(error), hint="https, ssh, or a port number") from error


def _free_port(family: int) -> int:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
