"""Approvals: a box says, for one connection and one minute, that it may be.

Who redirects gives one along; whoever is asked next (a proxy, a host whose home decides for it)
can check it without having heard of the connection before. It names the connection's id, both
keys, service and transport, so it is worth nothing for any other. Spec: R-5.7.3.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from .codec import DecodeError, Field, decode_body, encode_body, fixed, uint
from .crypto import BadSignature, SigningKey, digest, verify
from .messages import OpenTerms
from .rule import Cid

APPROVAL_CONTEXT = b"wayside-approval-1"
APPROVAL_VALID_S = 60
"""As far as the clocks of OPENs may be apart: the next OPEN follows at once."""


@dataclass(frozen=True, slots=True)
class Approval:
    """Who approves until when (unix seconds), and the signature over that and what is approved."""

    FIELDS: ClassVar = (
        Field(1, "key", fixed(32)),
        Field(2, "until_s", uint(2**40)),
        Field(3, "signature", fixed(64)),
    )
    key: bytes
    until_s: int
    signature: bytes


def create_approval(key: SigningKey, cid: Cid, terms: OpenTerms, unix_s: float) -> bytes:
    """Approve the connection that this OPEN asks for. Spec: R-5.7.3."""
    until_s = int(unix_s) + APPROVAL_VALID_S
    signature = key.sign(APPROVAL_CONTEXT, _covered(cid, terms, until_s))
    return encode_body(Approval(key.public, until_s, signature))


def check_approval(cid: Cid, terms: OpenTerms, approvers: Collection[bytes], unix_s: float) -> bool:
    """Whether one of these keys (32 bytes each) has approved what this OPEN asks for. R-5.7.3."""
    try:
        approval = decode_body(Approval, terms.approval)
        if approval.key not in approvers or unix_s > approval.until_s:
            return False
        covered = _covered(cid, terms, approval.until_s)
        verify(approval.key, approval.signature, APPROVAL_CONTEXT, covered)
    except (DecodeError, BadSignature):
        return False
    return True


def _covered(cid: Cid, terms: OpenTerms, until_s: int) -> bytes:
    return digest(
        cid,
        terms.from_key,
        terms.to_key,
        terms.service.encode(),
        bytes([terms.transport]),
        until_s.to_bytes(8, "big"),
    )
