"""The checker of bytes: nobody sends to strangers more than came from them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from wayside.core import constants as c
from wayside.core.address import IP, Address
from wayside.core.codec import DecodeError, decode_body
from wayside.core.effects import Punch
from wayside.core.events import DatagramReceived, LocationFound, OpenRequested
from wayside.core.messages import (
    Accept,
    Challenge,
    Confirm,
    Message,
    Open,
    Redirect,
    RedirectTerms,
    decode,
)

from .said import Said, sent_by
from .watch import Step, Watcher

RECORD_BYTES_MAX = 350
"""What a box adds to an OPEN: its own record, with a full token, and up to 3 bytes of pad."""

RETURNED_BYTES_MAX = 24
"""What a box that rewrites the destination adds to an ACCEPT: an address, and CBOR around it."""

_ADDED = {Open.TYPE: RECORD_BYTES_MAX, Accept.TYPE: RETURNED_BYTES_MAX}

_Account = tuple[str, int, int]
"""A box, and the address and port of whom it hears of or sends to."""


def _account(name: str, address: Address) -> _Account:
    return name, int(address.ip), address.port


class AmplificationCheck(Watcher):
    """No end and no gate sends an unproved source more than it received.

    What one sends to an address is paid for by what came from there, or, when a message is passed
    on, by that message. Free are addresses that one's own user chose, the destination of what is
    in transit, and those that have proved themselves: by a cookie that was sent there, by a
    CONFIRM that the box at this address made or passed on, or by the key of an ACCEPT that came
    there.
    """

    name = "amplification"

    def __init__(self, said: Said, name_of: Callable[[IP], str]) -> None:
        self._said = said
        self._name_of = name_of
        self._credit: dict[_Account, int] = {}
        self._free: set[_Account] = set()
        self._cookies: set[tuple[_Account, bytes]] = set()

    def on_step(self, step: Step) -> None:
        """Keep the books."""
        name, event = step.site.name, step.event
        relayed, towards, event_source = 0, None, None
        if isinstance(event, LocationFound):
            event_source, relayed = event.asked.source, len(event.asked.data)
        if isinstance(event, OpenRequested):
            self._free.add(_account(name, event.signaling))
        if isinstance(event, DatagramReceived):
            source = _account(name, event.source)
            self._credit[source] = self._credit.get(source, 0) + len(event.data)
            self._look_for_proof(source, event)
            self._look_for_redirect(name, event)
            event_source, relayed = event.source, len(event.data)
            towards = event.destination if event.transit else None
        for punch in (one for one in step.effects if isinstance(one, Punch)):
            to = self._asked_from(step, punch)
            account = _account(name, to)
            if account not in self._free:
                self._pay(account, to, len(punch.data))
        for datagram in sent_by(step.effects):
            to, size = datagram.destination, len(datagram.data)
            account = _account(name, to)
            if account in self._free or to == towards:
                continue
            room = relayed + _ADDED.get(datagram.data[4], 0)
            if relayed and event_source != to and size <= room:
                relayed = max(0, relayed - size)
                continue
            self._pay(account, to, size)
            if datagram.data[4] == Challenge.TYPE:
                message = _decoded(datagram.data)
                if isinstance(message, Challenge):
                    self._cookies.add((account, message.proof))

    def _look_for_redirect(self, name: str, event: DatagramReceived) -> None:
        """Where somebody honest has sent us is as good as where our user has."""
        if event.data[4:5] != bytes([Redirect.TYPE]):
            return
        message = _decoded(event.data)
        if isinstance(message, Redirect) and message.signed in self._said.signed:
            with suppress(DecodeError):  # a liar's
                terms = decode_body(RedirectTerms, message.signed)
                self._free.add(_account(name, terms.locator.address))

    def _asked_from(self, step: Step, punch: Punch) -> Address:
        """Where the OPEN came from that pays for a punch, which goes to the same host. R-12.6."""
        there = punch.flow.destination
        told = [one.destination for one in sent_by(step.effects)]
        told += [step.event.source] if isinstance(step.event, DatagramReceived) else []
        asked = (one for one in told if one.ip == there.ip)
        return next(asked, there.with_port(c.SIGNALING_PORT))

    def _pay(self, account: _Account, to: Address, size: int) -> None:
        left = self._credit.get(account, 0) - size
        self._credit[account] = left
        if left < 0:
            self.fail(f"{account[0]} sends {to}, which has proved nothing, {-left} bytes too many")

    def _look_for_proof(self, account: _Account, event: DatagramReceived) -> None:
        data = event.data
        for at in range(data[6] if len(data) > c.HEADER_BYTES else 0):
            start = c.HEADER_BYTES + at * c.PROOF_BYTES
            if (account, data[start : start + c.PROOF_BYTES]) in self._cookies:
                self._free.add(account)
        if data[4:5] == bytes([Open.TYPE]):
            message = _decoded(data)
            shown = self._said.shown.place(message) if isinstance(message, Open) else None
            if shown is not None and shown.ip == event.source.ip:
                self._free.add(account)
        confirms = data[4:5] == bytes([Confirm.TYPE])
        if confirms and (self._name_of(event.source.ip), data) in self._said.passed_on:
            self._free.add(account)


def _decoded(data: bytes) -> Message | None:
    try:
        return decode(data)[1]
    except DecodeError:
        return None
