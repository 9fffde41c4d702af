"""Machines that are broken on purpose, and believe whom they must not: see broken.py."""

from __future__ import annotations

from typing import Any

import pytest

from wayside.core import approval, host
from wayside.core.approval import Approval
from wayside.core.codec import decode_body
from wayside.core.effects import ChangeRules, Effect
from wayside.core.ends import Initiator
from wayside.core.gate import Gate
from wayside.core.messages import Redirect, RedirectTerms
from wayside.core.passage import Stage


def initiator_that_follows_anybody(patch: pytest.MonkeyPatch) -> None:
    """R-5.7.1: goes wherever it is sent, whoever says so."""
    real: Any = Initiator._on_redirect

    def trusting(self: Initiator, event: Any, message: Redirect, now: float) -> list[Effect]:
        key = decode_body(RedirectTerms, message.signed).from_key
        self.host.redirectors = (*self.host.redirectors, key)
        return real(self, event, message, now)

    patch.setattr(Initiator, "_on_redirect", trusting)


def gate_that_takes_one_confirm_for_all(patch: pytest.MonkeyPatch) -> None:
    """What one initiator has shown makes the rules of all others last, too."""
    real: Any = Gate._on_confirm

    def for_all(self: Gate, event: Any, message: Any, now: float) -> list[Effect]:
        effects: list[Effect] = real(self, event, message, now)
        if not any(isinstance(effect, ChangeRules) for effect in effects):
            return effects
        pending = [one for one in self.passages.values() if one.stage is Stage.PENDING]
        for one in pending:
            one.enter(Stage.LIVE)
            effects.append(ChangeRules(one.cid, one.rules(self.context.lifetime_s)))
        return effects

    patch.setattr(Gate, "_on_confirm", for_all)


def host_that_approves_itself(patch: pytest.MonkeyPatch) -> None:
    """R-5.7.4: gives out the approvals itself that it wants of its home."""
    check, redirect = host.check_approval, host.redirect

    def anybodys(cid: Any, terms: Any, approvers: Any, unix_s: float) -> bool:
        by = (decode_body(Approval, terms.approval).key,) if terms.approval else ()
        return check(cid, terms, by, unix_s)

    def back_here(key: Any, event: Any, opened: Any, there: Any, *more: Any) -> Any:
        return redirect(key, event, opened, event.destination, *more)

    patch.setattr(host, "check_approval", anybodys)
    patch.setattr(host, "redirect", back_here)


def host_that_takes_old_approvals(patch: pytest.MonkeyPatch) -> None:
    """R-5.7.3: does not look until when they are; and its home's clock is an hour late there."""
    check = host.check_approval

    def once(cid: Any, terms: Any, approvers: Any, unix_s: float) -> bool:
        return check(cid, terms, approvers, 0.0)

    patch.setattr(host, "check_approval", once)
    patch.setattr(approval, "APPROVAL_VALID_S", -3600)
