"""What a world computes twice is remembered: signatures, key agreements, messages read.

A message is read at every gate, at the other end and by the checkers, its signature is checked as
often, and two ends agree on one secret. All that depends on nothing but its arguments, so results
are kept by them, in this process, from run to run. The core's own crypto runs as it is; only the
libraries below it are asked once instead of thrice. While `remembering` lasts, these stand in
their places; what somebody else has replaced, a broken machine of the tests, stays as it is.
tests/sim/test_memory.py shows that nothing comes out otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from nacl import bindings

from wayside.core import codec, crypto, identity

REMEMBERED = 8192
"""Results of one kind: those of a few worlds, which have some hundred messages each."""

K = TypeVar("K")
V = TypeVar("V")


class Memory(Generic[K, V]):
    """Results by what they depend on, at least the last `most` of them.

    The new ones and those before them are kept; what is found among the old is new again.
    """

    def __init__(self, most: int = REMEMBERED) -> None:
        self.new: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._most = most

    def find(self, key: K, result: Callable[[K], V]) -> V:
        """What is remembered, or the `result`, which is remembered from now on."""
        if key in self.new:
            return self.new[key]
        return self.keep(key, self._old[key] if key in self._old else result(key))

    def keep(self, key: K, value: V) -> V:
        """Remember a result."""
        if len(self.new) >= self._most:
            self._old, self.new = self.new, {}
        self.new[key] = value
        return value


class _Ed25519:
    """libsodium's signatures. What it has signed it also opens, which it need not prove again."""

    def __init__(self) -> None:
        self._opened: Memory[tuple[bytes, bytes], bytes] = Memory()
        self.crypto_sign_seed_keypair = lru_cache(REMEMBERED)(bindings.crypto_sign_seed_keypair)
        self.crypto_sign_ed25519_pk_to_curve25519 = lru_cache(REMEMBERED)(
            bindings.crypto_sign_ed25519_pk_to_curve25519
        )
        self.crypto_sign_ed25519_sk_to_curve25519 = lru_cache(REMEMBERED)(
            bindings.crypto_sign_ed25519_sk_to_curve25519
        )

    def crypto_sign(self, message: bytes, secret_key: bytes) -> bytes:
        """Signature and message; a secret key of libsodium ends in its public key, 32 bytes."""
        signed = bindings.crypto_sign(message, secret_key)
        self._opened.keep((secret_key[32:], signed), message)
        return signed

    def crypto_sign_open(self, signed: bytes, key: bytes) -> bytes:
        """The message; raises what libsodium raises when the signature does not hold."""
        return self._opened.find((key, signed), _open)


def _open(signed: tuple[bytes, bytes]) -> bytes:
    return bindings.crypto_sign_open(signed[1], signed[0])


class _X25519:
    """A private key, built once; a secret that both ends derive is derived once."""

    _agreed: Memory[tuple[bytes, bytes], bytes] = Memory()

    def __init__(self, secret: bytes) -> None:
        self._real = X25519PrivateKey.from_private_bytes(secret)
        self._public = self._real.public_key()
        self._raw = self._public.public_bytes_raw()

    def public_key(self) -> X25519PublicKey:
        """The public key."""
        return self._public

    def exchange(self, public: X25519PublicKey) -> bytes:
        """The shared secret; it is the same for these two keys from either side."""
        theirs = public.public_bytes_raw()
        pair = (self._raw, theirs) if self._raw < theirs else (theirs, self._raw)
        return self._agreed.find(pair, lambda _: self._real.exchange(public))


class _X25519Keys:
    """Stands where the library's class of private keys stands."""

    from_private_bytes = staticmethod(lru_cache(REMEMBERED)(_X25519))


_Place = tuple[object, str, Any, Any]
"""Where, under which name, what stands there, and what stands there while we remember."""


@contextmanager
def remembering() -> Generator[None]:
    """Remember results, as long as this lasts."""
    replaced: list[_Place] = []
    for place in _places():
        where, name, real, memory = place
        if getattr(where, name) is real:
            replaced.append(place)
            setattr(where, name, memory)
    try:
        yield
    finally:
        for where, name, real, _ in replaced:
            setattr(where, name, real)


@lru_cache(1)
def _places() -> tuple[_Place, ...]:
    """The libraries below core/crypto.py; and wherever a module names a function of the core."""
    found: list[_Place] = [
        (crypto, "bindings", bindings, _Ed25519()),
        (crypto, "X25519PrivateKey", X25519PrivateKey, _X25519Keys),
    ]
    pure: tuple[Callable[..., Any], ...] = (crypto.derive, codec.decode_body, identity.key_text)
    for real in pure:
        memory = lru_cache(REMEMBERED)(real)
        for name, module in sorted(sys.modules.items()):
            if name.startswith("wayside.") and getattr(module, real.__name__, None) is real:
                found.append((module, real.__name__, real, memory))
    return tuple(found)
