"""Tokens and cookies: state in other people's pockets."""

from __future__ import annotations

import pytest

from pair import Entropy
from wayside.core.address import Address, Transport
from wayside.core.constants import TOKEN_BYTES_MAX
from wayside.core.messages import Hop
from wayside.core.route import TokenBox, TokenState, hops_hash
from wayside.core.rule import Cid

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
CID = Cid(b"cid of sixteen b")
V6 = Address.parse("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535")
V4 = Address.parse("192.0.2.1:4747")
STATE = TokenState(1, V4, 4747, b"b" * 12, b"p" * 6, 120, Transport.TCP)
BIGGEST = TokenState(
    2**32 - 1, V6, 65535, b"b" * 12, b"p" * 6, 65535, Transport.UDP, "r" * 32, "s" * 32, V6, V6, V6
)


def box(key: bytes = KEY, secret: bytes = b"s" * 32) -> TokenBox:
    return TokenBox(key, secret, Entropy("box"))


def hop(token: bytes, key: bytes = KEY) -> Hop:
    return Hop(key, 1, 120, token)


@pytest.mark.parametrize("state", [STATE, BIGGEST])
def test_a_token_brings_back_what_was_sealed_among_any_hops(state: TokenState) -> None:
    """R-8.2: and the largest fits a record."""
    token = box().create_token(CID, 7, state)
    assert len(token) <= TOKEN_BYTES_MAX
    hops = (hop(b"", OTHER_KEY), hop(token), hop(b"x", b"z" * 32))
    assert box().consume_token(CID, 7, hops) == state


def test_a_token_is_opaque_and_never_twice_the_same() -> None:
    """R-8.2."""
    ours = box()
    first, second = (ours.create_token(CID, 7, STATE) for _ in range(2))
    assert first != second
    assert STATE.previous.pack() not in first


@pytest.mark.parametrize(
    ("cid", "seq", "opener"),
    [
        (Cid(bytes(16)), 7, box()),
        (CID, 8, box()),
        (CID, 7, box(secret=b"t" * 32)),
        (CID, 7, box(key=OTHER_KEY)),
    ],
)
def test_a_token_opens_for_its_connection_seq_and_issuer_only(
    cid: Cid, seq: int, opener: TokenBox
) -> None:
    """R-8.2."""
    token = box().create_token(CID, 7, STATE)
    assert opener.consume_token(cid, seq, (hop(token),)) is None


def test_no_spoilt_token_opens() -> None:
    """R-8.2, R-4.5: every byte, every length."""
    token = box().create_token(CID, 7, STATE)
    for at in range(len(token)):
        spoilt = bytearray(token)
        spoilt[at] ^= 0x80
        assert box().consume_token(CID, 7, (hop(bytes(spoilt)),)) is None
        assert box().consume_token(CID, 7, (hop(token[:at]),)) is None
    assert box().consume_token(CID, 7, ()) is None


def test_a_route_is_its_hops_in_their_order() -> None:
    """R-8.4."""
    one, two = hop(b"1"), hop(b"2")
    assert len({hops_hash(route) for route in ((), (one,), (two,), (one, two), (two, one))}) == 5
