"""Machines that are broken on purpose, and say nothing: see broken.py."""

from __future__ import annotations

from typing import Any

import pytest

from wayside.core.effects import Effect
from wayside.core.ends import Responder
from wayside.core.forwarding import Forwarding

from .broken import nothing


def gate_that_says_no_for_one(patch: pytest.MonkeyPatch) -> None:
    """R-5.6: whoever asks for another host than the first that it refused hears nothing."""
    real: Any = Forwarding.refuse
    refused: dict[Forwarding, bytes] = {}

    def refuse(self: Forwarding, event: Any, opened: Any, refusal: Any) -> list[Effect]:
        first = refused.setdefault(self, opened.terms.to_key)
        return real(self, event, opened, refusal) if first == opened.terms.to_key else []

    patch.setattr(Forwarding, "refuse", refuse)


def host_that_never_answers(patch: pytest.MonkeyPatch) -> None:
    """R-5.2: keeps what it has agreed to for itself."""
    patch.setattr(Responder, "_accept", nothing)
