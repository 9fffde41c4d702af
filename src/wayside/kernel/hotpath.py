"""The few rules that every packet of a connection meets, as kernel expressions.

nft's language cannot say them, so they are handed to the kernel as netlink expressions (pyroute2
encodes), once, at setup. What they save, measured for 64-byte UDP through two rewriting hosts and
a gate, against plain routing on one core: docs/decisions.md has the figures.

- A host's rewriting is one map look-up whose data is the new addresses, and *one* write over
  both of them (8 or 32 bytes), with one correction of the checksums. nft's language writes one
  address at a time, from a chain per peer that a verdict map goes to.
- A gate's key is loaded once, for the look-up and for the renewal behind it.
- An ICMP error is matched by the 5-tuple that it quotes: nft 1.0.6 refuses to compare raw
  payload with a set that has types.

Renewal comes behind a look-up that has hit: `update` alone would add what is not there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from pyroute2.netlink.nfnetlink.nftsocket import NFPROTO_INET
from pyroute2.nftables.main import NFTables

from .names import MARK, TABLE

Expression = dict[str, Any]

HotRule = tuple[str, list[Expression]]
"""A chain and the expressions of a rule in it."""

_NETWORK, _TRANSPORT = 1, 2
_META_MARK, _META_NFPROTO = 3, 15
_FIRST = 8
"""The first of sixteen 4-byte registers (NFT_REG32_00)."""

_ACCEPT = 1
_CHECKSUM = {"tcp": (6, 16), "udp": (17, 6)}
"""Protocol number, and where its checksum is in the segment."""

_KEYS = {
    4: ((_NETWORK, 9, 1), (_NETWORK, 12, 4), (_TRANSPORT, 0, 2), (_NETWORK, 16, 4)),
    6: ((_NETWORK, 6, 1), (_NETWORK, 8, 16), (_TRANSPORT, 0, 2), (_NETWORK, 24, 16)),
}
"""Header, offset, bytes of protocol, source, source port, destination; then the last field below.

Only packets without IPv4 options or IPv6 extension headers have their protocol there: others fit
no rule, and a later fragment has no transport header to load from.
"""

_QUOTED = {
    4: ((17, 1), (20, 4), (28, 2), (24, 4), (30, 2)),
    6: ((14, 1), (16, 16), (48, 2), (32, 16), (50, 2)),
}
"""The same fields of the packet that an ICMP error quotes, from the ICMP header on."""


def host_rules() -> list[HotRule]:
    """The hot rules of a host's chains, in their order: (chain, expressions)."""
    rules: list[HotRule] = []
    for chain in ("out", "in"):
        for family in (4, 6):
            rules.append((chain, _rewrite(chain, family)))
            rules.append((chain, _rewrite_ports(chain, family, "tcp")))
            if family == 4:
                rules.append((chain, _rewrite_ports(chain, family, "udp", summed=False)))
            rules.append((chain, _rewrite_ports(chain, family, "udp")))
    return rules


def gate_rules() -> list[HotRule]:
    """The hot rules of a gate's chains, in their order: (chain, expressions)."""
    return [
        *(
            ("admit", _admit(f"{name}{family}", family))
            for family in (4, 6)
            for name in ("renewed", "timed")
        ),
        *(
            (f"errors{family}", _admit_error(f"{name}{family}", family))
            for family in (4, 6)
            for name in ("renewed", "timed")
        ),
    ]


def install(rules: Sequence[HotRule]) -> None:
    """Append rules to chains of our table. Raises what pyroute2 raises."""
    with NFTables(nfgen_family=NFPROTO_INET) as socket:
        for chain, expressions in rules:
            socket.rule(
                "add", table=TABLE, chain=chain, expressions=tuple([part] for part in expressions)
            )


def _rewrite(chain: str, family: int) -> list[Expression]:
    return [
        *_is_family(family),
        *_load_key(family),
        _look_up(f"{chain}{family}", data=True),
        _write_addresses(family),
        *_signaled(),
    ]


def _rewrite_ports(chain: str, family: int, protocol: str, summed: bool = True) -> list[Expression]:
    """`summed` False: only UDP datagrams without a checksum, which have to stay without one."""
    number, at = _CHECKSUM[protocol]
    ports = _FIRST + (2 if family == 4 else 8)
    unsummed = [_load(_FIRST, _TRANSPORT, at, 2), _compare(_FIRST, b"\0\0")]
    return [
        *_is_family(family),
        _load(_FIRST, *_KEYS[family][0]),
        _compare(_FIRST, bytes([number])),
        *([] if summed else unsummed),
        *_load_key(family),
        _look_up(f"{chain}{family}p", data=True),
        _write_addresses(family),
        _write(ports, 0, at if summed else None),
        _write(ports + 1, 2, at if summed else None),
        *_signaled(),
    ]


def _admit(set_name: str, family: int) -> list[Expression]:
    renew: list[Expression] = []
    if set_name.startswith("renewed"):
        renew = [_expression("dynset", set_name=set_name, op=1, sreg_key=_FIRST)]
    return [*_is_family(family), *_load_key(family), _look_up(set_name), *renew, *_signaled()]


def _admit_error(set_name: str, family: int) -> list[Expression]:
    """An error passes that quotes a packet of an admitted flow, and goes to its sender."""
    fields = _QUOTED[family]
    quoted = _load_fields(tuple((_TRANSPORT, offset, size) for offset, size in fields))
    addressee = (_NETWORK, 16, 4) if family == 4 else (_NETWORK, 24, 16)
    # A quoted IPv4 header with options would move what is behind it.
    plain = [_load(_FIRST, _TRANSPORT, 8, 1), _compare(_FIRST, b"\x45")] if family == 4 else []
    return [
        *plain,
        *quoted,
        _look_up(set_name),
        _load(_FIRST + 1, *addressee),
        _look_up(set_name),
        *_signaled(),
    ]


def _is_family(family: int) -> list[Expression]:
    """IPv4 without options (one byte says both), or IPv6."""
    if family == 4:
        return [_load(_FIRST, _NETWORK, 0, 1), _compare(_FIRST, b"\x45")]
    nfproto = _expression("meta", dreg=_FIRST, key=_META_NFPROTO)
    return [nfproto, _compare(_FIRST, b"\x0a")]


def _load_key(family: int) -> list[Expression]:
    return _load_fields((*_KEYS[family], (_TRANSPORT, 2, 2)))


def _load_fields(fields: Sequence[tuple[int, int, int]]) -> list[Expression]:
    loads: list[Expression] = []
    register = _FIRST
    for base, offset, size in fields:
        loads.append(_load(register, base, offset, size))
        register += (size + 3) // 4
    return loads


def _signaled() -> list[Expression]:
    """Out of connection tracking's sight, marked, accepted."""
    mark = _expression("immediate", dreg=_FIRST, data=_value(struct.pack("=I", MARK)))
    verdict = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", _ACCEPT)]})]}
    return [
        {"attrs": [("NFTA_EXPR_NAME", "notrack")]},
        mark,
        _expression("meta", sreg=_FIRST, key=_META_MARK),
        _expression("immediate", dreg=0, data=verdict),
    ]


def _load(register: int, base: int, offset: int, size: int) -> Expression:
    return _expression("payload", dreg=register, base=base, offset=offset, len=size)


def _compare(register: int, value: bytes) -> Expression:
    return _expression("cmp", sreg=register, op=0, data=_value(value))


def _look_up(set_name: str, data: bool = False) -> Expression:
    found = {"dreg": _FIRST} if data else {}
    return _expression("lookup", set=set_name, sreg=_FIRST, **found)


def _write_addresses(family: int) -> Expression:
    offset, size = (12, 8) if family == 4 else (8, 32)
    return _expression(
        "payload",
        sreg=_FIRST,
        base=_NETWORK,
        offset=offset,
        len=size,
        csum_type=1 if family == 4 else 0,
        csum_offset=10 if family == 4 else 0,
        csum_flags={"NFT_PAYLOAD_L4CSUM_PSEUDOHDR"},
    )


def _write(register: int, offset: int, checksum_at: int | None) -> Expression:
    """Two bytes into the transport header, which has a checksum to correct there, or none."""
    summed = {} if checksum_at is None else {"csum_type": 1, "csum_offset": checksum_at}
    return _expression("payload", sreg=register, base=_TRANSPORT, offset=offset, len=2, **summed)


def _value(value: bytes) -> Expression:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _expression(name: str, **attributes: Any) -> Expression:
    data = [(f"NFTA_{name}_{key}".upper(), value) for key, value in attributes.items()]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": data})]}
