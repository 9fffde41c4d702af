"""The checker of calls: hosts open their NATs for whom their rendezvous has sent, and for a flow.

It goes by the messages themselves, and by what was said (said.py). Spec: R-12.6 to R-12.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from wayside.core import constants as c
from wayside.core.approval import Approval
from wayside.core.codec import DecodeError, Header, decode_body
from wayside.core.effects import Dropped, Punch, SendDatagram
from wayside.core.events import DatagramReceived, LocationFound, MessageReceived
from wayside.core.messages import Accept, Challenge, Hop, Open, OpenTerms, decode
from wayside.core.rule import Cid
from wayside.core.way import Role

from .said import Said, sent_by
from .watch import Step, Watcher, speaks
from .wire import five_tuple

OPENER = 0
"""The type of what opens a NAT, and is no message."""

TCP_HEADER_BYTES = (20, 60)


class CallCheck(Watcher):
    """Who is called sends 32 bytes to who asks, if its own rendezvous says so, and nothing else.

    The rendezvous shows the OPEN as it came, with where it came from, to where the host that is
    asked for has said that it is, and only with its own approval; a gate on the way lets it by as
    it is. No ACCEPT has such a record. A punch is of a flow that its sender agrees to, and says
    nothing but that.
    `found_at`: the key, 32 bytes, of the rendezvous where a host registers; None: nowhere; `lies`:
    whether a fault makes a gate lie at the moment.
    """

    name = "calls"

    def __init__(
        self,
        said: Said,
        found_at: Callable[[str], bytes | None],
        is_honest: Callable[[bytes], bool],
        lies: Callable[[str], bool],
    ) -> None:
        self._said = said
        self._found_at = found_at
        self._is_honest = is_honest
        self._lies = lies

    def on_step(self, step: Step) -> None:
        """Look at what goes out, and at what came in with a record of a call."""
        if not step.effects or not step.site.honest or self._lies(step.site.name):
            return
        asked = _open_in(step) if _may_call(step) else None
        called = asked if asked is not None and _calls(asked[1].hops[-1:]) else None
        for datagram in sent_by(step.effects):
            kind = datagram.data[4]
            if kind == OPENER:
                self._opened(step, datagram, called)
            elif kind == Accept.TYPE and called_in(datagram.data):
                self.fail(f"{step.site.name} answers with the record of a call")
            elif kind == Open.TYPE and called_in(datagram.data):
                self._shown(step, datagram, asked)
        if called is not None and speaks(step.machine, called[0].cid) is not None:
            self._alone(step)
        for effect in step.effects:
            if isinstance(effect, Punch):
                self._punched(step, effect)

    # --- who is called ---

    def _opened(
        self, step: Step, datagram: SendDatagram, called: tuple[Header, Open] | None
    ) -> None:
        name, to = step.site.name, datagram.destination
        where = f"{name} opens its NAT for {to}"
        if called is None:
            self.fail(f"{where}, and nobody has called it")
        header, message = called
        terms, hop = decode_body(OpenTerms, message.signed), message.hops[-1]
        if hop.key != self._found_at(name):
            self.fail(f"{where}, as somebody says who is not its rendezvous")
        self._check_approved(where, header.cid, terms, hop)
        if terms.to_key != step.site.key:
            self.fail(f"{where}, for an OPEN to somebody else")
        if self._is_honest(terms.from_key) and message.signed not in self._said.signed:
            self.fail(f"{where}, for an OPEN that the owner of its key never said")
        told = (hop.source or terms.source).with_port(c.SIGNALING_PORT)
        wanted = Header(OPENER, 0, header.cid).signing
        if (datagram.data, to) != (wanted, told):
            self.fail(f"{where}, and not with {len(wanted)} bytes for {told}")

    def _check_approved(self, where: str, cid: Cid, terms: OpenTerms, hop: Hop) -> None:
        about = (cid, terms.from_key, terms.to_key, terms.service)
        if self._said.approvals.get(terms.approval) != about:
            self.fail(f"{where}, which nobody has approved")
        if decode_body(Approval, terms.approval).key != hop.key:
            self.fail(f"{where}, which somebody else has approved")

    def _alone(self, step: Step) -> None:
        """What is shown is not answered, and makes no state."""
        (effect, *more) = step.effects
        harmless = isinstance(effect, Dropped) or (
            isinstance(effect, SendDatagram) and effect.data[4] in (OPENER, Challenge.TYPE)
        )
        if more or not harmless:
            self.fail(f"{step.site.name} takes for an OPEN what only calls it")

    # --- who calls ---

    def _shown(self, step: Step, datagram: SendDatagram, asked: tuple[Header, Open] | None) -> None:
        header, message = decode(datagram.data)
        assert isinstance(message, Open)
        where = f"{step.site.name} calls {datagram.destination}"
        *before, hop = message.hops
        if isinstance(step.event, DatagramReceived) and step.event.transit:
            came = (step.event.data, step.event.destination, step.event.source)
            if came != (datagram.data, datagram.destination, datagram.source):
                self.fail(f"{where}, and should let by what comes as it is")
            return
        if asked is None or not _calls((hop,)) or hop.key != step.site.key:
            self.fail(f"{where} with an OPEN that was shown to it")
        same = (asked[0].signing, asked[1].signed, asked[1].signature, asked[1].mac)
        if (header.signing, message.signed, message.signature, message.mac) != same:
            self.fail(f"{where}, and has changed what it shows")
        if tuple(before) != asked[1].hops or hop.token or hop.destination or hop.lifetime_s:
            self.fail(f"{where}, and says more than where the OPEN is from")
        terms = decode_body(OpenTerms, message.signed)
        if datagram.destination not in self._said.places.get(terms.to_key, {}):
            self.fail(f"{where}, where the host that is asked for never was")
        self._check_approved(where, header.cid, terms, hop)
        comes = step.event.asked.source if isinstance(step.event, LocationFound) else None
        if comes is None or hop.source is None or hop.source.ip != comes.ip:
            self.fail(f"{where}, and says that it comes from {hop.source}")

    # --- who punches ---

    def _punched(self, step: Step, punch: Punch) -> None:
        where = f"{step.site.name} punches {punch.flow}"
        if self._found_at(step.site.name) is None:
            self.fail(f"{where}, and is registered nowhere")
        agreed = self._said.flows.accepts.get((step.site.name, five_tuple(punch.flow)), {})
        if punch.cid not in agreed:
            self.fail(f"{where}, to which it has not agreed")
        low, high = TCP_HEADER_BYTES
        good = not punch.data or low <= len(punch.data) <= high
        if not punch.flow.transport.is_tcp:
            good = punch.data == Header(OPENER, 0, punch.cid).signing
        if not good:
            self.fail(f"{where} with {len(punch.data)} bytes that are no punch")

    def fail(self, text: str) -> NoReturn:
        """Raise Violation in this checker's name."""
        super().fail(text)
        raise AssertionError(text)


def _calls(hops: tuple[Hop, ...]) -> bool:
    return any(hop.role == Role.CALLING for hop in hops)


def called_in(data: bytes) -> bool:
    """Whether an OPEN or ACCEPT has the record of a call."""
    try:
        _, message = decode(data)
    except DecodeError:  # a liar's
        return False
    return isinstance(message, Open | Accept) and _calls(message.hops)


def _may_call(step: Step) -> bool:
    event = step.event
    if isinstance(event, LocationFound):
        return True
    return isinstance(event, DatagramReceived) and event.data[4:5] == bytes([Open.TYPE])


def _open_in(step: Step) -> tuple[Header, Open] | None:
    event = step.event.asked if isinstance(step.event, LocationFound) else step.event
    if not isinstance(event, DatagramReceived | MessageReceived):
        return None
    try:
        header, message = decode(event.data)
    except DecodeError:
        return None
    return (header, message) if isinstance(message, Open) else None
