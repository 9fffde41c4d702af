"""Machines that are broken on purpose, and believe whom they must not: see broken.py."""

from __future__ import annotations

from typing import Any

import pytest

from wayside.core.codec import decode_body
from wayside.core.effects import Effect
from wayside.core.ends import Initiator
from wayside.core.messages import Redirect, RedirectTerms


def initiator_that_follows_anybody(patch: pytest.MonkeyPatch) -> None:
    """R-5.7.1: goes wherever it is sent, whoever says so."""
    real: Any = Initiator._on_redirect

    def trusting(self: Initiator, event: Any, message: Redirect, now: float) -> list[Effect]:
        key = decode_body(RedirectTerms, message.signed).from_key
        self.host.redirectors = (*self.host.redirectors, key)
        return real(self, event, message, now)

    patch.setattr(Initiator, "_on_redirect", trusting)
