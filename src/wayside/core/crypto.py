"""Signatures, keys and seals; every primitive is a library's, every context string is here.

Nothing in this file draws randomness: what must be fresh comes in as an argument.
Spec: R-4.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl import bindings
from nacl.exceptions import CryptoError

from .constants import CHECK_BYTES

NONCE_BYTES = 12
ZERO_NONCE = bytes(NONCE_BYTES)
"""For keys that seal exactly one message."""


class BadSignature(Exception):
    """A signature, MAC or seal does not hold. Never leaves `handle`."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key pair from its seed, 32 bytes. RFC 8032."""

    seed: bytes

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._pair[0]

    @property
    def _pair(self) -> tuple[bytes, bytes]:
        pair = _PAIRS.get(self.seed)
        if pair is None:
            if len(_PAIRS) >= _PAIRS_MAX:
                _PAIRS.clear()
            pair = _PAIRS[self.seed] = bindings.crypto_sign_seed_keypair(self.seed)
        return pair

    def sign(self, context: bytes, message: bytes) -> bytes:
        """Sign context and message; 64 bytes. Spec: R-4.2."""
        return bindings.crypto_sign(context + message, self._pair[1])[:64]

    def agree(self, public: bytes) -> bytes:
        """X25519 between this key, taken over to Curve25519, and an ephemeral one. Spec: R-4.4."""
        secret = bindings.crypto_sign_ed25519_sk_to_curve25519(self._pair[1])
        return agree(secret, public)


_PAIRS: dict[bytes, tuple[bytes, bytes]] = {}
_PAIRS_MAX = 64


def verify(key: bytes, signature: bytes, context: bytes, message: bytes) -> None:
    """Raise BadSignature unless this Ed25519 signature holds. Spec: R-4.2."""
    try:
        bindings.crypto_sign_open(signature + context + message, key)
    except (CryptoError, ValueError) as error:
        raise BadSignature("signature") from error


def static_x25519(key: bytes) -> bytes:
    """The X25519 form of an Ed25519 public key. Raises BadSignature when there is none. R-4.4."""
    try:
        return bindings.crypto_sign_ed25519_pk_to_curve25519(key)
    except (CryptoError, RuntimeError) as error:
        raise BadSignature("not a key") from error


def ephemeral_public(secret: bytes) -> bytes:
    """The X25519 public key of 32 random bytes."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, public: bytes) -> bytes:
    """X25519, 32 bytes. Raises BadSignature for a point of small order. RFC 7748 section 6.1."""
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError as error:
        raise BadSignature("key agreement") from error


def check_of(proof: bytes) -> bytes:
    """What a proof is known by, 8 bytes. Spec: R-5.3.4."""
    return hashlib.sha256(proof).digest()[:CHECK_BYTES]


def derive(secret: bytes, salt: bytes, label: bytes) -> bytes:
    """HKDF-SHA256 to 32 bytes. RFC 5869. Spec: R-4.3."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=label).derive(secret)


def digest(*parts: bytes) -> bytes:
    """SHA-256 over the parts, each behind its length (4 bytes). Spec: R-4.1."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(4, "big"))
        state.update(part)
    return state.digest()


def mac(key: bytes, *parts: bytes) -> bytes:
    """The first 16 bytes of HMAC-SHA256 over the digest of the parts. Spec: R-4.3."""
    return hmac.digest(key, digest(*parts), "sha256")[:16]


def check_mac(key: bytes, given: bytes, *parts: bytes) -> None:
    """Raise BadSignature unless `given` is the MAC of these parts; in constant time."""
    if not hmac.compare_digest(mac(key, *parts), given):
        raise BadSignature("mac")


def holds(key: bytes, given: bytes, *parts: bytes) -> bool:
    """Whether `given` is the MAC of these parts."""
    try:
        check_mac(key, given, *parts)
    except BadSignature:
        return False
    return True


def seal(key: bytes, nonce: bytes, plain: bytes, bound: bytes) -> bytes:
    """ChaCha20-Poly1305; 16 bytes longer than `plain`. RFC 8439. Spec: R-4.5."""
    return ChaCha20Poly1305(key).encrypt(nonce, plain, bound)


def unseal(key: bytes, nonce: bytes, sealed: bytes, bound: bytes) -> bytes:
    """Open a seal. Raises BadSignature."""
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, bound)
    except (InvalidTag, ValueError) as error:
        raise BadSignature("seal") from error
