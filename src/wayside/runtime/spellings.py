"""How a person spells keys and addresses in a configuration file."""

from __future__ import annotations

from wayside.core.address import Address
from wayside.core.constants import SIGNALING_PORT
from wayside.core.identity import key_from_text


def public_key(text: str) -> bytes:
    """A raw key, 32 bytes. Raises ValueError."""
    key = key_from_text(text)
    if key is None:
        raise ValueError(f"{text!r} is not a public key; `wayside key show FILE` prints one")
    return key


def signaling_address(text: str) -> Address:
    """Where somebody's signaling is reached. Raises ValueError."""
    return Address.parse(text, SIGNALING_PORT)
