"""Any header, any message, any terms: hypothesis strategies for the codec's tests.

They draw from everything that the tables in messages.py allow, sizes at their limits included, and
nothing else, so that a property that holds here holds for every message there can be.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

from hypothesis import strategies as st

from wayside.core import constants as c
from wayside.core import messages as m
from wayside.core.address import Address, Transport
from wayside.core.codec import Header
from wayside.core.identity import Certificate, CertificateTerms
from wayside.core.rule import Cid
from wayside.runtime.enrolment import Answer, Invitation

SIGNED_BYTES_MAX = 700
"""More would leave no room for the rest of a datagram."""

PROOFS = st.lists(st.binary(min_size=32, max_size=32), max_size=c.PROOFS_MAX).map(tuple)


def _exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def _up_to(most: int, least: int = 0) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=least, max_size=most) | _exactly(most)


def _text(most: int) -> st.SearchStrategy[str]:
    plain = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
    return st.text(plain, max_size=most // 4) | st.text("ab -.~", max_size=most)


_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
WORDS = st.text(_VISIBLE, min_size=1, max_size=c.SERVICE_BYTES_MAX)


_IPV6 = st.integers(0, 2**128 - 1).map(IPv6Address).filter(lambda ip: ip.ipv4_mapped is None)
ADDRESSES = st.builds(
    Address, st.integers(0, 2**32 - 1).map(IPv4Address) | _IPV6, st.integers(0, 0xFFFF)
)
ALTERNATIVES = st.lists(ADDRESSES, max_size=c.ALTERNATIVES_MAX).map(tuple)
TRANSPORTS = st.sampled_from(Transport)
SECONDS = st.integers(0, m.SECONDS_MAX) | st.sampled_from([0, 23, 24, 255, 256, m.SECONDS_MAX])
KEYS = _exactly(32)
TOKENS = _up_to(c.TOKEN_BYTES_MAX)
INTENTS = st.dictionaries(WORDS, WORDS, max_size=8).map(lambda items: tuple(sorted(items.items())))
SEALED = _up_to(c.DATA_BYTES_MAX + 64)

HEADERS = st.builds(
    Header, st.integers(1, 8), st.integers(0, 2**64 - 1), _exactly(16).map(Cid), PROOFS
)
HOP = st.builds(
    m.Hop,
    key=KEYS,
    role=st.integers(0, 15),
    lifetime_s=SECONDS,
    token=TOKENS,
    source=st.none() | ADDRESSES,
    destination=st.none() | ADDRESSES,
)
HOPS = st.lists(HOP, max_size=2).map(tuple)
LOCATOR = st.builds(
    m.Locator,
    ADDRESSES,
    st.lists(TOKENS, max_size=c.HOPS_MAX)
    .filter(lambda tokens: sum(map(len, tokens)) < c.DATAGRAM_BYTES_MAX - 100)
    .map(tuple),
)

OPEN_TERMS = st.builds(
    m.OpenTerms,
    from_key=KEYS,
    to_key=KEYS,
    service=WORDS,
    transport=TRANSPORTS,
    source=ADDRESSES,
    destination=ADDRESSES,
    ephemeral=KEYS,
    time_s=SECONDS,
    lifetime_s=SECONDS,
    from_certificate=_up_to(256),
    to_certificate=_up_to(256),
    alternatives=ALTERNATIVES,
    intent=INTENTS,
    sealed=SEALED,
    approval=TOKENS,
)
ACCEPT_TERMS = st.builds(
    m.AcceptTerms,
    from_key=KEYS,
    open_hash=KEYS,
    hops_hash=KEYS,
    check=st.binary(min_size=c.CHECK_BYTES, max_size=c.CHECK_BYTES),
    destination=ADDRESSES,
    ephemeral=KEYS,
    lifetime_s=SECONDS,
    alternatives=ALTERNATIVES,
    sealed=SEALED,
)
REJECT_TERMS = st.builds(
    m.RejectTerms,
    from_key=KEYS,
    open_hash=KEYS,
    code=st.integers(0, 255),
    reason=_text(c.REASON_BYTES_MAX),
    rule=st.just("") | WORDS,
    by=_text(c.NAME_BYTES_MAX),
    observed=st.none() | ADDRESSES,
)
REDIRECT_TERMS = st.builds(
    m.RedirectTerms,
    from_key=KEYS,
    open_hash=KEYS,
    locator=LOCATOR,
    approval=TOKENS,
    until_s=SECONDS,
    relay=st.integers(0, 1),
    key=st.just(b"") | KEYS,
)
STOP_TERMS = st.builds(
    m.StopTerms,
    from_key=KEYS,
    open_hash=KEYS,
    hops_hash=KEYS,
    lifetime_s=SECONDS,
    time_s=SECONDS,
)
CERTIFICATE_TERMS = st.builds(
    CertificateTerms, name=_text(c.NAME_BYTES_MAX), key=KEYS, not_after_s=SECONDS
)
CERTIFICATE = st.builds(Certificate, signed=_up_to(160), signature=_exactly(64))
ANSWER = st.builds(
    Answer,
    outcome=st.integers(0, 255),
    certificate=st.binary(max_size=256),
    domain_key=st.just(b"") | KEYS,
)
INVITATION = st.builds(
    Invitation,
    addresses=st.lists(ADDRESSES, min_size=1, max_size=4).map(tuple),
    key=KEYS,
    secret=_exactly(16),
    name=_text(c.NAME_BYTES_MAX),
)

_SIGNED = st.binary(max_size=SIGNED_BYTES_MAX)
_SIGNATURE = _exactly(64)
_MAC = _exactly(16)

OPEN = st.builds(
    m.Open, _SIGNED, _SIGNATURE, HOPS, mac=st.just(b"") | _MAC, pad=st.binary(max_size=64)
)
ACCEPT = st.builds(m.Accept, _SIGNED, _SIGNATURE, HOPS, st.lists(ADDRESSES, max_size=8).map(tuple))
CONFIRM = st.builds(m.Confirm, KEYS, _MAC, _MAC, HOPS)
CHALLENGE = st.builds(m.Challenge, KEYS, HOPS)
REJECT = st.builds(m.Reject, _SIGNED, _SIGNATURE, HOPS)
REDIRECT = st.builds(m.Redirect, _SIGNED, _SIGNATURE, HOPS)
CLOSE = st.builds(m.Close, _MAC, _text(c.REASON_BYTES_MAX), HOPS)
STOP = st.builds(m.Stop, _SIGNED, _SIGNATURE, HOPS)

MESSAGES: dict[type[m.Message], st.SearchStrategy[m.Message]] = {
    m.Open: OPEN,
    m.Accept: ACCEPT,
    m.Confirm: CONFIRM,
    m.Challenge: CHALLENGE,
    m.Reject: REJECT,
    m.Redirect: REDIRECT,
    m.Close: CLOSE,
    m.Stop: STOP,
}
TERMS: dict[type[m.Message], st.SearchStrategy[Any]] = {
    m.Open: OPEN_TERMS,
    m.Accept: ACCEPT_TERMS,
    m.Reject: REJECT_TERMS,
    m.Redirect: REDIRECT_TERMS,
    m.Stop: STOP_TERMS,
}
