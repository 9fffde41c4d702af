"""Machines that are broken on purpose where an end has several paths: see broken.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from wayside.core.address import Flow
from wayside.core.answerer import Answerer
from wayside.core.connection import Connection
from wayside.core.crypto import holds
from wayside.core.effects import ChangeRules
from wayside.core.messages import Open
from wayside.core.opening import CheckedOpen
from wayside.kernel import paths
from wayside.sim.silence import Silence

from .broken import silent


def host_that_takes_new_rules_for_silence(patch: pytest.MonkeyPatch) -> None:
    """R-5.9.1: rules are made anew all the time, and who counts packets does not know of it."""
    switch = Connection._switch

    def anew(self: Connection, wire: Flow, then: Any = (), offered: Any = ()) -> ChangeRules:
        changes = switch(self, wire, then, offered)
        return replace(changes, put=self.agreement.outbound + self.agreement.inbound)

    patch.setattr(Connection, "_switch", anew)
    patch.setattr(Silence, "opened", silent)


def end_that_takes_a_question_for_a_move(patch: pytest.MonkeyPatch) -> None:
    """R-5.4.6: who asked whether its path works stays on it, whatever the other end asks since."""

    def late(self: Answerer, opened: CheckedOpen, message: Open) -> bool:
        key = self.keys.by_seq.get(self.keys.seq)
        if key is None or self.keys.seq % 2 != self.PARITY:
            return False
        return not holds(key, message.mac, opened.header.signing, message.signed)

    patch.setattr(Answerer, "_is_late", late)


def host_that_asks_for_one_connection_only(patch: pytest.MonkeyPatch) -> None:
    """R-5.4.8: round after round it tries paths for one, which the other end may have closed."""

    def same(_: Any, state: Any, before: Connection, known: Any) -> Connection:
        return before

    patch.setattr(paths.Paths, "_next", same)
