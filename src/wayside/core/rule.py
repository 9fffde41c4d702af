"""The one kind of rule: what a box's kernel does with the packets of a flow.

A pinhole, a NAT binding, a proxy's splice, a host's rebinding after a move and a filter against a
flood are the same thing: match a 5-tuple, then accept it, drop it, or rewrite it to another. The
machines of `core` ask for rules, `kernel` puts them into nftables, the simulator obeys them.
Spec: R-6.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType

from .address import Flow

Cid = NewType("Cid", bytes)
"""A connection's id: 16 random bytes."""

NOTE_CHARACTERS_MAX = 96
"""A rule's note lives in the comment of an nftables element: 128 bytes, the cid among them."""


class Action(Enum):
    """What happens to a packet that fits."""

    ACCEPT = "accept"
    DROP = "drop"
    REWRITE = "rewrite"


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets of exactly this 5-tuple, in this one direction, get this treatment. Spec: R-6.1.

    `rewrite`: the 5-tuple that packets leave with (REWRITE only, same family and transport).
    `lifetime_s`: the rule goes by itself after so long; None: it stays until it is removed.
    `renewed_by_packets`: each packet that fits sets the lifetime back to the table's full one.
    `note`: what a restarted daemon wants to know of it again; printable ASCII without quotes.
    """

    owner: Cid
    match: Flow
    action: Action
    rewrite: Flow | None = None
    lifetime_s: float | None = None
    renewed_by_packets: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.owner) != 16:
            raise ValueError("a rule's owner is a cid of 16 bytes")
        if (self.action is Action.REWRITE) != (self.rewrite is not None):
            raise ValueError("a rewriting rule, and no other, says what to rewrite to")
        if self.rewrite and (self.rewrite.family, self.rewrite.transport) != (
            self.match.family,
            self.match.transport,
        ):
            raise ValueError("a rewrite keeps family and transport")
        if self.lifetime_s is not None and self.lifetime_s <= 0:
            raise ValueError("a lifetime is positive")
        if len(self.note) > NOTE_CHARACTERS_MAX or not _is_plain(self.note):
            raise ValueError(f"not a note: {self.note!r}")


def note_of(*words: str) -> str:
    """A note of these words, whatever strangers wrote into them: `_` for what a note cannot hold.

    The words stay apart: `note.split(" ")` gives as many as went in, while they fit.
    """
    return " ".join(map(_plain, words))[:NOTE_CHARACTERS_MAX]


def _plain(word: str) -> str:
    if _is_plain(word) and " " not in word:
        return word or "-"
    return "".join(one if _is_plain(one) and one != " " else "_" for one in word)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
