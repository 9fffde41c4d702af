"""Datagrams, spoilt: a fast and deterministic source of bad input.

Half of what it does knows nothing of the format: bits, bytes, lengths, pieces of two datagrams. The
other half knows CBOR: a value of another type, a number spelt the long way, tags, nesting, endless
strings, a key twice, a length of 2**63, the same inside of what is signed. One `random.Random`, so
that a seed gives the same datagrams in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

ODD_ITEMS = [
    bytes.fromhex(item)
    for item in (
        *("00", "17", "1800", "190000", "1a00000000", "1b0000000000000000", "1bffffffffffffffff"),
        *("20", "3bffffffffffffffff", "40", "5800", "5bffffffffffffffff", "5b7fffffffffffffff"),
        *("60", "7bffffffffffffffff", "61ff", "62c328", "6100", "610a", "80", "81818181818181"),
        *("9bffffffffffffffff", "9f", "9fff", "bf", "bfff", "5f", "5f4100ff", "7f6161ff", "a0"),
        *("bbffffffffffffffff", "a10101", "a2010101ff", "c000", "c11a00000000", "c249ff00000000"),
        *("c24901ff00000000000000", "c482182001", "d81c80", "d81d00", "d8238161", "d9010280"),
        *("d9d9f700", "d825500000", "f4", "f5", "f6", "f7", "f8ff", "f90000", "f97e00", "ff"),
        *("fa00000000", "fb7ff0000000000000", "fc", "1c", "1f", "3f", "5c", "dbffffffffffffffff00"),
    )
] + [b"\x81" * 40 + b"\x00", b"\xa1\x01" * 40 + b"\x00", b"\x81" * 900, b"\xc1" * 500]
"""Whole and broken items: numbers, strings, lists, maps, tags, floats, endings, at their limits."""

HEADER_BYTES = 32


@dataclass(frozen=True)
class Original:
    """A good datagram, and where the keys and values of its body are: `(key, value, end)`."""

    data: bytes
    items: tuple[tuple[int, int, int], ...]


def take_apart(data: bytes) -> Original:
    """Find the items of a canonical body (a map of small keys), and those of its `signed`."""
    start = HEADER_BYTES + 32 * data[6]
    items = _items(data, start)
    first, value, end = items[0]
    inner = value + (1 if data[value] & 0x1F < 24 else data[value] % 0x20 - 22)
    if data[first] == 1 and data[value] >> 5 == 2 and end - value > 66 and data[inner] >> 5 == 5:
        items += _items(data, inner)
    return Original(data, tuple(items))


def _items(data: bytes, start: int) -> list[tuple[int, int, int]]:
    at = start + 1
    items: list[tuple[int, int, int]] = []
    for _ in range(data[start] & 0x1F):
        key, value = at, at + 1
        at = _end(data, value)
        items.append((key, value, at))
    return items


def _end(data: bytes, at: int) -> int:
    major, low = data[at] >> 5, data[at] & 0x1F
    at += 1
    number = low
    if low >= 24:
        size = 1 << low - 24
        number = int.from_bytes(data[at : at + size], "big")
        at += size
    if major in (2, 3):
        return at + number
    for _ in range(number if major == 4 else 2 * number if major == 5 else 0):
        at = _end(data, at)
    return at


class Mutator:
    """Spoils datagrams out of a stock of good ones."""

    def __init__(self, seed: int, stock: list[Original]) -> None:
        self._random = Random(seed)
        self._stock = stock
        self._ways = (
            *(self._flip, self._flip, self._set, self._cut, self._grow, self._remove, self._insert),
            *(self._splice, self._header, self._proofs, self._noise),
            *(self._replace, self._replace, self._replace, self._twice, self._reorder, self._head),
            *(self._endless, self._tag, self._behind),
        )

    def next(self) -> tuple[int, bytes]:
        """Which good datagram it was, and what became of it."""
        draw = self._random.random
        number = int(draw() * len(self._stock))
        way = self._ways[int(draw() * len(self._ways))]
        return number, way(self._stock[number])

    def _at(self, good: Original) -> int:
        """A place, more often one that matters: the pad is long and of no interest."""
        size = len(good.data)
        if size > 700 and self._random.random() < 0.995:
            size = 400
        return int(self._random.random() * size)

    def _flip(self, good: Original) -> bytes:
        data = bytearray(good.data)
        for _ in range(1 + int(self._random.random() * 3)):
            data[self._at(good)] ^= 1 << int(self._random.random() * 8)
        return bytes(data)

    def _set(self, good: Original) -> bytes:
        data = bytearray(good.data)
        data[self._at(good)] = (0, 1, 0x7F, 0x80, 0xFF)[int(self._random.random() * 5)]
        return bytes(data)

    def _cut(self, good: Original) -> bytes:
        return good.data[: self._at(good)]

    def _grow(self, good: Original) -> bytes:
        return good.data + self._random.randbytes(int(self._random.random() * 200))

    def _remove(self, good: Original) -> bytes:
        at = self._at(good)
        return good.data[:at] + good.data[at + 1 + int(self._random.random() * 8) :]

    def _insert(self, good: Original) -> bytes:
        at = self._at(good)
        new = self._random.randbytes(1 + int(self._random.random() * 8))
        return good.data[:at] + new + good.data[at:]

    def _splice(self, good: Original) -> bytes:
        other = self._stock[int(self._random.random() * len(self._stock))]
        at = self._at(good)
        return good.data[:at] + other.data[at:]

    def _header(self, good: Original) -> bytes:
        data = bytearray(good.data)
        at = int(self._random.random() * 16)
        data[at] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255)[int(self._random.random() * 11)]
        return bytes(data)

    def _proofs(self, good: Original) -> bytes:
        count = int(self._random.random() * 6)
        head = good.data[:5] + bytes((1 if count else 0, count)) + good.data[7:32]
        return head + self._random.randbytes(32 * count) + good.data[32:]

    def _noise(self, good: Original) -> bytes:
        size = int(self._random.random() * 1400)
        return good.data[: int(self._random.random() * 40)] + self._random.randbytes(size)

    # --- ways that know CBOR ---

    def _item(self, good: Original) -> tuple[int, int, int]:
        return good.items[int(self._random.random() * len(good.items))]

    def _odd(self) -> bytes:
        return ODD_ITEMS[int(self._random.random() * len(ODD_ITEMS))]

    def _replace(self, good: Original) -> bytes:
        key, value, end = self._item(good)
        if self._random.random() < 0.2:
            return good.data[:key] + self._odd() + good.data[value:]
        return good.data[:value] + self._odd() + good.data[end:]

    def _twice(self, good: Original) -> bytes:
        start = HEADER_BYTES + 32 * good.data[6]
        key, _, end = self._item(good)
        again = good.data[key:end]
        count = bytes((good.data[start] + 1,))
        return good.data[:start] + count + good.data[start + 1 : end] + again + good.data[end:]

    def _reorder(self, good: Original) -> bytes:
        first, second = sorted((self._item(good), self._item(good)))
        if first[2] > second[0]:
            return good.data[:-1]
        one, two = good.data[first[0] : first[2]], good.data[second[0] : second[2]]
        between = good.data[first[2] : second[0]]
        return good.data[: first[0]] + two + between + one + good.data[second[2] :]

    def _head(self, good: Original) -> bytes:
        """The long spelling of a head that has a short one; of a value or of the map."""
        _, at, _ = self._item(good)
        if self._random.random() < 0.2:
            at = HEADER_BYTES + 32 * good.data[6]
        major, low = good.data[at] & 0xE0, good.data[at] & 0x1F
        if low >= 24:
            longer = bytes((major | low + 1,)) + bytes(1 << low - 24)
        else:
            longer = bytes((major | 24, low))
        return good.data[:at] + longer + good.data[at + 1 :]

    def _endless(self, good: Original) -> bytes:
        _, value, end = self._item(good)
        major = good.data[value] & 0xE0
        inside = good.data[value:end] if major in (0x40, 0x60) else good.data[value + 1 : end]
        return good.data[:value] + bytes((major | 31,)) + inside + b"\xff" + good.data[end:]

    def _tag(self, good: Original) -> bytes:
        _, value, _ = self._item(good)
        tag = (b"\xc0", b"\xc2", b"\xd8\x1c", b"\xd8\x23", b"\xd9\xd9\xf7", b"\xd9\x01\x02")
        return good.data[:value] + tag[int(self._random.random() * 6)] + good.data[value:]

    def _behind(self, good: Original) -> bytes:
        return good.data + self._odd()
