"""`wayside join`: from an invitation to a host that has a name and knows where it registers.

Makes the host's key if there is none, asks the rendezvous for the certificate of the name in the
invitation, and writes that and a host.toml beside it. It needs no agent and no privilege: one
question, from a socket of its own. Nothing that is there is overwritten without being told to, and
a key is never. The order makes it safe to try again: a key that was made is the one that the
invitation is bound to.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import HostContext
from wayside.core.constants import SIGNALING_PORT
from wayside.core.crypto import SigningKey
from wayside.core.effects import DeliverData, Effect, ReportOpened, ReportRefused
from wayside.core.events import CloseRequested, DatagramReceived, OpenRequested
from wayside.core.host import Answering, Host
from wayside.core.identity import Names, PeerIdentity, domain_of, key_text
from wayside.core.policy import Policy
from wayside.core.route import TokenBox
from wayside.core.rule import Cid

from .asking import Asking
from .driver import Driver
from .enrolment import JOIN, Answer, Invitation, Outcome
from .errors import IdentityError, NameUnknown, Refused, WaysideError
from .eventlog import EventLog
from .in_process import NoRules
from .keyfile import certificate_line, new_key, read_key
from .locations import LocationStoreUnavailable
from .udp import Received, open_signaling, source_towards

TRIES = 5
"""An answer that comes too late for its ACCEPT is lost; the next time the store is warm."""

PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of a host go: a directory, and the name of its configuration in it."""

    directory: Path
    config: Path

    @classmethod
    def of(cls, path: Path) -> Place:
        """From `--config`: a directory, or a file with another name than host.toml."""
        if path.suffix == ".toml":
            return cls(path.parent, path)
        return cls(path, path / "host.toml")

    @property
    def key(self) -> Path:
        """The host's key."""
        return self.directory / "host.key"

    @property
    def certificate(self) -> Path:
        """The certificate of its name."""
        return self.directory / "host.certificate"


async def join(invitation: Invitation, place: Place, force: bool = False) -> list[Path]:
    """Join a domain; the files that were written.

    `force`: overwrite a certificate and a configuration that are there. Raises Refused (WS-3101)
    when the invitation is not accepted, NoAnswer, IdentityError and other WaysideErrors.
    """
    if not force:
        _check_free(place)
    written: list[Path] = []
    if place.key.exists():
        key = read_key(place.key)
    else:
        _make_directory(place.directory)
        key = new_key(place.key)
        written.append(place.key)
    answer = await ask(invitation, key)
    _check_answer(invitation, answer, key)
    texts = {
        place.certificate: certificate_line(answer.certificate),
        place.config: _host_toml(invitation, answer.domain_key),
    }
    for path, text in texts.items():
        _write(path, text)
    return [*written, *texts]


async def ask(invitation: Invitation, key: SigningKey) -> Answer:
    """Ask the rendezvous to be let in. Raises WaysideError."""
    peer = PeerIdentity(invitation.key)
    for _ in range(TRIES):
        raw = await _asked_once(key, peer, invitation.addresses, JOIN, invitation.secret)
        if raw:
            return Answer.decode(raw)
        await asyncio.sleep(PAUSE_S)
    raise LocationStoreUnavailable(
        "the rendezvous let us in, and never answered",
        why="its store is slow, or this host's clock is more than a minute off",
        hint="try again; is the clock right?",
    )


async def _asked_once(
    key: SigningKey, peer: PeerIdentity, at: Sequence[Address], service: str, question: bytes
) -> bytes:
    """Open a connection without packets, with a question; the answer, empty if none came along."""
    signaling, source = _way(at)
    wire = Flow(Transport.NONE, source.with_port(0), signaling.with_port(0))
    box = TokenBox(key.public, os.urandom(32), os.urandom)
    answering = Answering(Names({}), Policy())
    context = HostContext(key, os.urandom)
    host = Host(context, answering, FrontDoor(box, Budget()), Quota(1, 1))
    asking, answers = Asking(), list[bytes]()

    def perform(effect: Effect) -> None:
        if isinstance(effect, DeliverData):
            answers.append(effect.data)
        elif isinstance(effect, ReportOpened):
            asking.opened(effect)
        elif isinstance(effect, ReportRefused):
            asking.refused(effect, "none")

    driver = Driver(host, NoRules(), open_signaling(0), EventLog(None, "", "host"), perform)

    def receive(received: Received) -> None:
        driver.deliver(DatagramReceived(received.data, received.source, received.destination))

    driver.start(receive)
    cid = Cid(os.urandom(16))
    outcome = asking.expect(cid)
    try:
        driver.deliver(OpenRequested(cid, peer, service, wire, wire, signaling, question))
        await outcome
        driver.deliver(CloseRequested(cid))
    finally:
        await driver.settled()
        driver.stop()
    return answers[0] if answers else b""


def _way(addresses: Sequence[Address]) -> tuple[Address, Address]:
    """The first address that there is a way to, and our own on that way. Raises NameUnknown."""
    for address in addresses:
        source = source_towards(address)
        if source is not None:
            return address, source
    told = ", ".join(str(address.ip) for address in addresses)
    raise NameUnknown(
        "the rendezvous cannot be reached",
        why=f"this host has no route to {told}",
        hint=f"ip route get {addresses[0].ip}",
    )


def _check_answer(invitation: Invitation, answer: Answer, key: SigningKey) -> None:
    """Raise unless we were let in, under the name that we were invited as."""
    if answer.outcome == Outcome.STORE_AWAY:
        raise LocationStoreUnavailable(
            "the rendezvous cannot look at its invitations",
            why="its store is away",
            hint="try again later with the same invitation",
        )
    if answer.outcome != Outcome.GIVEN:
        raise Refused(
            "the invitation is not accepted",
            gate=f"the rendezvous {key_text(invitation.key)[:13]}...",
            reason="another key has used it, it has expired, or it was never given out",
            hint=f"ask for another there: wayside invite {invitation.name}",
            code="WS-3101",
        )
    names = Names({domain_of(invitation.name): answer.domain_key})
    if names.name_of(key.public, answer.certificate, 0.0) != invitation.name:
        raise IdentityError(
            "the rendezvous gave a certificate that does not hold",
            why=f"it is not {invitation.name}'s, or not for this host's key",
        )


def _host_toml(invitation: Invitation, domain_key: bytes) -> str:
    addresses = json.dumps([_spelt(address) for address in invitation.addresses])
    key, domain = key_text(invitation.key), domain_of(invitation.name)
    return f"""# Written by `wayside join`.
name = "{invitation.name}"
key = "host.key"
certificate = "host.certificate"

[[rendezvous]]
key = "{key}"
address = {addresses}

[domains."{domain}"]
key = "{key_text(domain_key)}"
rendezvous = {addresses}
rendezvous_key = "{key}"
"""


def _spelt(address: Address) -> str:
    return str(address.ip) if address.port == SIGNALING_PORT else str(address)


def _check_free(place: Place) -> None:
    for path in (place.certificate, place.config):
        if path.exists():
            raise WaysideError(
                f"{path} is there already",
                why="this host may have a name",
                hint="--force overwrites it (the key stays); --config chooses another place",
                code="WS-1006",
            )


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritten(path, error) from error


def _write(path: Path, text: str) -> None:
    """Put a file in the place of another, whole or not at all."""
    partial = path.with_name(f".{path.name}.new")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> WaysideError:
    return WaysideError(
        f"{path} cannot be written",
        why=error.strerror or str(error),
        hint="--config chooses another place",
        code="WS-1006",
    )
