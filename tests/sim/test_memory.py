"""Remembering changes how long a world takes, and nothing that comes out of it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from nacl import bindings

from wayside.core import codec, crypto, gate, opening
from wayside.core.crypto import BadSignature, SigningKey, agree, ephemeral_public, verify
from wayside.sim.memory import Memory, remembering
from wayside.sim.world import World

ONE, OTHER = SigningKey(bytes(32)), SigningKey(b"\x01" * 32)


@pytest.mark.parametrize(("world", "seed"), [("firewall-both", 11), ("chaos", 14), ("lossy", 13)])
def test_a_world_without_memory_has_the_same_trace(
    world: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = World(world, seed).run()
    monkeypatch.setattr("wayside.sim.world.remembering", nullcontext)
    assert World(world, seed).run() == remembered


def test_a_signature_that_does_not_hold_never_does() -> None:
    with remembering():
        signature = ONE.sign(b"context ", b"said")
        for _ in range(2):
            verify(ONE.public, signature, b"context ", b"said")
            for key, text in ((OTHER.public, b"said"), (ONE.public, b"sait")):
                with pytest.raises(BadSignature):
                    verify(key, signature, b"context ", text)


def test_two_ends_agree_on_what_they_agree_on_without_memory() -> None:
    a, b = b"\x11" * 32, b"\x22" * 32
    plain = agree(a, ephemeral_public(b))
    with remembering():
        assert agree(a, ephemeral_public(b)) == agree(b, ephemeral_public(a)) == plain
        assert ONE.agree(ephemeral_public(a)) == agree(a, crypto.static_x25519(ONE.public))
        with pytest.raises(BadSignature):
            agree(a, bytes(32))


def test_the_core_is_as_it_was_afterwards() -> None:
    before = (crypto.bindings, codec.decode_body, gate.decode_body)
    with remembering():
        assert crypto.bindings is not bindings
        assert gate.decode_body is not before[2]
    assert (crypto.bindings, codec.decode_body, gate.decode_body) == before


def test_a_function_that_is_broken_on_purpose_stays_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(opening, "decode_body", broken)
    with remembering():
        assert opening.decode_body is broken
    assert opening.decode_body is broken


def test_a_memory_keeps_what_is_asked_for_and_has_an_end() -> None:
    asked: list[int] = []

    def square(number: int) -> int:
        asked.append(number)
        return number * number

    memory: Memory[int, int] = Memory(2)
    assert [memory.find(number, square) for number in (1, 2, 1, 3, 1, 4, 1)] == [
        1,
        4,
        1,
        9,
        1,
        16,
        1,
    ]
    assert asked == [1, 2, 3, 4]
    assert memory.find(2, square) == 4
    assert asked[-1] == 2
