"""Every primitive against a published value, and what must be refused."""

from __future__ import annotations

import pytest

from wayside.core import crypto
from wayside.core.crypto import (
    ZERO_NONCE,
    BadSignature,
    SigningKey,
    agree,
    check_mac,
    derive,
    digest,
    ephemeral_public,
    holds,
    mac,
    seal,
    static_x25519,
    unseal,
    verify,
)

KEY = SigningKey(b"k" * 32)


def test_signatures_are_those_of_rfc_8032() -> None:
    """R-4.2: section 7.1, test 2; the context is simply in front."""
    key = SigningKey(
        bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    )
    assert key.public.hex() == ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    assert key.sign(b"", b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert key.sign(b"\x72", b"") == key.sign(b"", b"\x72")


def test_a_signature_holds_for_its_key_context_and_message_only() -> None:
    """R-4.2."""
    signature = KEY.sign(b"context ", b"message")
    verify(KEY.public, signature, b"context ", b"message")
    for key, given, context, message in (
        (SigningKey(b"x" * 32).public, signature, b"context ", b"message"),
        (KEY.public, signature, b"Context ", b"message"),
        (KEY.public, signature, b"context ", b"massage"),
        (KEY.public, bytes(64), b"context ", b"message"),
        (bytes(32), signature, b"context ", b"message"),
        (b"\xff" * 32, signature, b"context ", b"message"),
        (bytes([1]) + bytes(31), bytes([1]) + bytes(63), b"", b"small order"),
    ):
        with pytest.raises(BadSignature):
            verify(key, given, context, message)


def test_key_agreement_is_that_of_rfc_7748() -> None:
    """R-4.4: section 6.1."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    bobs = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    assert ephemeral_public(bob) == bobs
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert agree(alice, bobs).hex() == agree(bob, ephemeral_public(alice)).hex() == shared


SMALL_ORDER = [
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order_agree_on_nothing(point: bytes) -> None:
    """R-4.4."""
    with pytest.raises(BadSignature):
        agree(b"s" * 32, point)


def test_the_static_key_is_the_same_key_on_the_other_curve() -> None:
    """R-4.4: what is sealed to the Ed25519 key's X25519 form, its owner opens."""
    assert KEY.agree(ephemeral_public(b"e" * 32)) == agree(b"e" * 32, static_x25519(KEY.public))
    for no_key in (b"\xff" * 32, bytes(32)):
        with pytest.raises(BadSignature):
            static_x25519(no_key)


def test_derived_keys_are_those_of_rfc_5869() -> None:
    """R-4.3: appendix A, test 1, cut to 32 bytes."""
    made = derive(b"\x0b" * 22, bytes(range(13)), bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"))
    assert made.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_a_digest_knows_where_its_parts_end() -> None:
    """R-4.1."""
    assert len({digest(b"ab", b"c"), digest(b"a", b"bc"), digest(b"abc"), digest(b"abc", b"")}) == 4
    assert digest(b"").hex() == ("df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119")


def test_a_mac_holds_for_its_key_and_parts() -> None:
    """R-4.3: 16 bytes."""
    made = mac(b"key", b"a", b"b")
    assert len(made) == 16
    check_mac(b"key", made, b"a", b"b")
    assert holds(b"key", made, b"a", b"b")
    for key, given, parts in (
        (b"Key", made, (b"a", b"b")),
        (b"key", made, (b"ab", b"")),
        (b"key", made[:-1] + b"x", (b"a", b"b")),
        (b"key", b"", (b"a", b"b")),
    ):
        assert not holds(key, given, *parts)
        with pytest.raises(BadSignature):
            check_mac(key, given, *parts)


def test_a_seal_opens_with_its_key_nonce_and_bound_bytes_only() -> None:
    """R-4.5."""
    key = bytes(32)
    sealed = seal(key, ZERO_NONCE, b"plain", b"bound")
    assert len(sealed) == len(b"plain") + 16
    assert unseal(key, ZERO_NONCE, sealed, b"bound") == b"plain"
    for other in (
        (b"k" * 32, ZERO_NONCE, sealed, b"bound"),
        (key, b"n" * 12, sealed, b"bound"),
        (key, ZERO_NONCE, sealed, b""),
        (key, ZERO_NONCE, sealed[:-1], b"bound"),
        (key, ZERO_NONCE, b"", b"bound"),
        (key, b"", sealed, b"bound"),
    ):
        with pytest.raises(BadSignature):
            unseal(*other)


def test_only_so_many_key_pairs_are_remembered() -> None:
    """R-7.4."""
    for number in range(200):
        assert len(SigningKey(number.to_bytes(32, "big")).public) == 32
    assert len(crypto._PAIRS) <= crypto._PAIRS_MAX
