"""What is said on the control socket: one Struct for each request and each reply.

A request's `op` names its Struct; a reply has the shape that its request asks for. Both carry
`"v": 1`: a change that an older program would misread takes a new number.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Port = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
SourcePort = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
Text = Annotated[str, msgspec.Meta(max_length=256)]
Transport = Literal["tcp", "udp", "mptcp"]
Family = Literal[4, 6]


class Base(msgspec.Struct, kw_only=True, frozen=True, tag_field="op", forbid_unknown_fields=True):
    """A request."""

    v: Literal[1] = 1


class StatusRequest(Base, tag="status", frozen=True):
    """Who are you and what do you hold? `limit`: connections listed at most."""

    limit: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 1000


class WhyRequest(Base, tag="why", frozen=True):
    """The last refusals, newest first; `target`: only those about this name or address."""

    target: Text = ""


class AddressRequest(Base, tag="address", frozen=True):
    """The virtual address of a name, for any program to use."""

    name: Text
    family: Family = 4


class OpenRequest(Base, tag="open", frozen=True):
    """Signal a connection before its first packet; answered when it is allowed or refused.

    `source_port`: 0 lets the agent choose.
    """

    name: Text
    service: Text
    transport: Transport = "tcp"
    source_port: SourcePort = 0
    family: Family = 4


class CloseRequest(Base, tag="close", frozen=True):
    """End a connection; `cid` in hex."""

    cid: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class StopRequest(Base, tag="stop", frozen=True):
    """Have packets dropped on the way here: of a connection, or of all that a peer has opened."""

    target: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    lifetime_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 60.0


class ExposeRequest(Base, tag="expose", frozen=True):
    """Offer a local port as a service; `allow`: patterns of names and keys, empty for anyone."""

    service: Text
    port: Port
    allow: Annotated[list[Text], msgspec.Meta(max_length=64)] = []


class UnexposeRequest(Base, tag="unexpose", frozen=True):
    """No longer offer a service."""

    service: Text


class ReloadRequest(Base, tag="reload", frozen=True):
    """Read the policy again; the old one stays when the new one does not pass."""


class InviteRequest(Base, tag="invite", frozen=True):
    """Give out an invitation to join under a name; `lifetime_s`: how long it may be used."""

    name: Text
    lifetime_s: Annotated[float, msgspec.Meta(ge=1, le=31_536_000)] = 86_400.0


Request = (
    StatusRequest
    | WhyRequest
    | AddressRequest
    | OpenRequest
    | CloseRequest
    | StopRequest
    | ExposeRequest
    | UnexposeRequest
    | ReloadRequest
    | InviteRequest
)


class Reply(msgspec.Struct, kw_only=True, frozen=True):
    """An answer; as it stands, simply yes."""

    v: Literal[1] = 1
    ok: bool = True


class HopRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A box that a connection goes by: its key, and what it does: gate, nat, relay or hiding.

    What else it may say of itself is `role` and a number.
    """

    key: str
    role: str


class SubflowRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A further subflow of an MPTCP connection, a path of its own: `wire` as it leaves here.

    `state`: asked, allowed, up, refused or gone; `cid`: of the connection that was signaled for it;
    `why`, `by`, `rule`: why there is none, and who says so.
    """

    wire: str
    state: str
    cid: str = ""
    why: str = ""
    by: str = ""
    rule: str = ""


class ConnectionRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A connection as `status` shows it.

    `flow` as the application has it, `wire` as it leaves here (equal where nothing is rewritten),
    `there` as it arrives at the other end (equal to `wire` where no box rewrites it; empty, or an
    address `?`: it is not known here). `expires_s`: until the first of its rules goes by itself,
    None: none does. `via`: the boxes on the way, from here; `redirected_by`: keys of who sent it
    another way; `hidden`: one end does not know where the other is. `moves`: how often its way
    has changed; `gap_ms`: of our own last move, from the news of the new address to the rules.
    `stands`: how it is, if it is not simply agreed between its two ends;
    `alternatives`: where else the peer says that it is; `subflows`: MPTCP's further ones.
    """

    cid: str
    peer: str
    service: str
    transport: str
    state: str
    flow: str
    wire: str
    expires_s: float | None = None
    packets: int = 0
    bytes: int = 0
    there: str = ""
    via: list[HopRecord] = []
    redirected_by: list[str] = []
    hidden: bool = False
    moves: int = 0
    gap_ms: float | None = None
    stands: str = ""
    alternatives: list[str] = []
    subflows: list[SubflowRecord] = []


class RegistrationRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A host's registration with a rendezvous; `since_s`: how long it is up, None: it is not.

    `why`: what went wrong last.
    """

    rendezvous: str
    address: str
    since_s: float | None = None
    why: str = ""


class FilterRecord(msgspec.Struct, kw_only=True, frozen=True):
    """What a gate drops because its receiver said STOP; `packets`, `bytes`: so far."""

    cid: str
    flow: str
    expires_s: float | None
    packets: int
    bytes: int


class StopRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A connection that was stopped: its packets to us, on the wire.

    `by`: the key of the box that filters, of those that answered the one nearest to the source;
    empty: none has. `boxes`: how many are on the path. `closed`: the other end has closed it.
    """

    cid: str
    peer: str
    service: str
    flow: str
    lifetime_s: float
    by: str
    boxes: int
    closed: bool = False


class ServiceRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A service that a host offers."""

    service: str
    port: int
    allow: list[str] = []


class DaemonReply(Reply, kw_only=True, frozen=True):
    """Who answers, and for how long it has been there."""

    role: Literal["host", "gate", "rendezvous"]
    name: str
    key: str
    pid: int
    uptime_s: float


class StatusReply(DaemonReply, kw_only=True, frozen=True):
    """What a daemon is and holds. `dropped`: datagrams by named reason since the start.

    `addresses`: a host's own virtual addresses; `registrations`: with whom it registers.
    `tickets`: boxes that a host has one of; at a box, OPENs that were let in by one.
    """

    connections_total: int
    connections: list[ConnectionRecord]
    addresses: list[str] = []
    services: list[ServiceRecord] = []
    dropped: dict[str, int] = {}
    refused_total: int = 0
    registrations: list[RegistrationRecord] = []
    tickets: int = 0
    filters: list[FilterRecord] = []


class StopReply(Reply, kw_only=True, frozen=True):
    """What was stopped, and who filters."""

    stopped: list[StopRecord]


class RefusalRecord(msgspec.Struct, kw_only=True, frozen=True):
    """Somebody said no: how long ago, to what, who, by which rule, and why."""

    age_s: float
    target: str
    service: str
    transport: str
    by: str
    rule: str
    reason: str
    code: str
    hint: str = ""


class WhyReply(Reply, kw_only=True, frozen=True):
    """The last refusals, newest first."""

    refusals: list[RefusalRecord]


class AddressReply(Reply, kw_only=True, frozen=True):
    """A virtual address."""

    address: str


class OpenReply(Reply, kw_only=True, frozen=True):
    """A connection that was allowed: connect to `address` and `port` from `source_port`."""

    cid: str
    address: str
    port: int
    source_port: int


class InviteReply(Reply, kw_only=True, frozen=True):
    """An invitation: one line of text, for one host."""

    invitation: str


class ErrorRecord(msgspec.Struct, frozen=True):
    """An error in four parts; `gate`, `rule`, `reason` only for a refusal."""

    what: str
    why: str
    hint: str
    code: str
    exit_code: int
    gate: str = ""
    rule: str = ""
    reason: str = ""


class ErrorReply(msgspec.Struct, frozen=True):
    """No, and why."""

    error: ErrorRecord
    ok: bool = False
    v: Literal[1] = 1
