"""Keeps this host registered with its rendezvous: says where it is, and says it again.

A registration is a connection like any other (R-10.1): the machine refreshes it and moves it. What
is left to do here is to ask for it in the first place, and again when it was refused, not answered
or ended, later each time; at once when the network has changed, for that may be what was wrong.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from wayside.core import constants as c
from wayside.core.address import Address
from wayside.core.effects import ReportClosed, ReportOpened, ReportRefused
from wayside.core.identity import PeerIdentity
from wayside.core.rule import Cid

from .steering import Rendezvous

RETRY_FIRST_S = 1.0
RETRY_LAST_S = 60.0
"""A rendezvous that restarts is found again within a minute, by a thousand hosts a second at most
if it has 60,000 of them."""

_log = structlog.get_logger()

Ask = Callable[[Cid, PeerIdentity, str, Address, bytes], bool]
"""Ask for a connection without packets: cid, whom, service, where, what; False: no way there."""


@dataclass(slots=True)
class Registration:
    """One registration: with whom, over which address. `why`: what went wrong last."""

    key: bytes
    address: Address
    cid: Cid | None = None
    up_since: float | None = None
    why: str = ""
    failures: int = 0
    timer: asyncio.TimerHandle | None = None


class Registrations:
    """All registrations of a host: one with each rendezvous in each family."""

    def __init__(self, rendezvous: tuple[Rendezvous, ...], ask: Ask) -> None:
        self.all = [Registration(one.key, at) for one in rendezvous for at in one.addresses]
        self._ask = ask

    def start(self) -> None:
        """Register."""
        for one in self.all:
            self._register(one)

    def stop(self) -> None:
        """Ask no more; what is up stays up."""
        for one in self.all:
            if one.timer is not None:
                one.timer.cancel()

    def try_now(self) -> None:
        """The network has changed, or who was in the way is gone: do not wait any longer."""
        for one in self.all:
            if one.timer is not None and one.cid is None:
                one.timer.cancel()
                self._register(one)

    def opened(self, report: ReportOpened) -> None:
        """Perhaps one of ours is up."""
        one = self._of(report.cid)
        if one is not None and one.up_since is None:
            one.up_since, one.why, one.failures = time.monotonic(), "", 0
            _log.info("registered", rendezvous=str(one.address))

    def ended(self, report: ReportRefused | ReportClosed) -> None:
        """Perhaps one of ours was refused, or is over."""
        one = self._of(report.cid)
        if one is not None:
            by = f"{report.by}: " if isinstance(report, ReportRefused) and report.by else ""
            self._again(one, by + report.reason)

    def _of(self, cid: Cid) -> Registration | None:
        return next((one for one in self.all if one.cid == cid), None)

    def _register(self, one: Registration) -> None:
        one.timer, one.cid = None, Cid(os.urandom(16))
        if not self._ask(one.cid, PeerIdentity(one.key), c.LOCATION_SERVICE, one.address, b""):
            self._again(one, "this host has no route there")

    def _again(self, one: Registration, why: str) -> None:
        if why != one.why:
            _log.warning("not registered", rendezvous=str(one.address), why=why)
        one.cid, one.up_since, one.why = None, None, why
        wait_s = min(RETRY_FIRST_S * 2**one.failures, RETRY_LAST_S)
        one.failures = min(one.failures + 1, 16)
        one.timer = asyncio.get_running_loop().call_later(wait_s, self._register, one)
