"""Why a datagram was dropped, and the exceptions of a caller's misuse.

    Exception
    ├── DecodeError     (codec.py)   these bytes are no message
    ├── BadSignature    (crypto.py)  a signature, MAC or seal does not hold
    └── IllegalMove     a machine was asked for what its state does not allow: our own bug

The first two never leave `handle`: they become a `Dropped` with one of the reasons below.
"""

from __future__ import annotations

from enum import Enum


class IllegalMove(Exception):
    """A machine has no such transition; nothing was changed."""


class DropReason(Enum):
    """Named reasons, counted by every daemon and shown in `status`. Spec: R-7.2."""

    HEADER = "header"
    """Not CSP, another version, or a size or flags that are not allowed."""
    BUDGET = "budget"
    """The source's network has used up what it may send."""
    MALFORMED = "malformed"
    """The body is not the canonical encoding of its message."""
    SHORT = "short"
    """An OPEN without pad: an answer could be larger than it."""
    UNEXPECTED = "unexpected"
    """A message that this role, or this state, does not take."""
    UNKNOWN = "unknown"
    """No such connection here."""
    STALE = "stale"
    """A seq that is over, or a replay."""
    ADDRESS = "address"
    """The message speaks of an address that it did not come from."""
    TIME = "time"
    """Too old or too far in the future, and without a proof."""
    SIGNATURE = "signature"
    """A signature or MAC does not hold."""
    TOKEN = "token"  # noqa: S105 a name, not a password
    """No token of ours, or too old."""
    FULL = "full"
    """A table or a quota is full."""
